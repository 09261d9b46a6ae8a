package authz

import (
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// Agents in browsers (Fetch standard, "CORS protocol"). Which origins may read answers is what admit checks anyway.

// browserHeaders are the request fields that a page may send, besides Mcp-Param-*.
var browserHeaders = []string{"accept", "authorization", "content-type", "dpop", "last-event-id",
	"mcp-method", "mcp-name", "mcp-protocol-version", "mcp-session-id"}

const exposedHeaders = "Mcp-Session-Id, MCP-Protocol-Version, WWW-Authenticate, Retry-After, DPoP-Nonce"

// origin returns the origin of a page that may read the answer; "" when there is none. A session header of another name is
// the operator's own client's matter.
func (g *Gate) origin(r Request) string {
	if origins := r.Header["origin"]; len(origins) > 0 && g.hosts.allowsOrigins(origins) {
		return origins[0]
	}
	return ""
}

// readable lets the page that asked read a reply of ours.
func (g *Gate) readable(r Request, reply *Reply) {
	if origin := g.origin(r); origin != "" {
		reply.Header = append(slices.Clip(reply.Header), [2]string{"access-control-allow-origin", origin},
			[2]string{"access-control-expose-headers", exposedHeaders}, [2]string{"vary", "Origin"})
	}
}

// preflight answers the question that a browser asks before it sends what a page wants sent. It carries no token.
func (g *Gate) preflight(r Request) (Reply, bool) {
	_, asks := r.Header.Get("access-control-request-method")
	if r.Method != "OPTIONS" || !asks || g.origin(r) == "" || !g.isEndpoint(r.Path) || !g.hosts.allows(r.Host) {
		return Reply{}, false
	}
	reply := Reply{Status: 204, Header: [][2]string{
		{"access-control-allow-methods", g.allow(r.Path)},
		{"access-control-max-age", "600"},
	}}
	wanted, _ := r.Header.Get("access-control-request-headers")
	var granted []string
	for name := range strings.SplitSeq(wanted, ",") {
		name = strings.ToLower(strings.TrimSpace(name))
		if slices.Contains(browserHeaders, name) || strings.HasPrefix(name, "mcp-param-") && httpguts.ValidHeaderFieldName(name) {
			granted = append(granted, name)
		}
	}
	if len(granted) > 0 {
		reply.Header = append(reply.Header, [2]string{"access-control-allow-headers", strings.Join(granted, ", ")})
	}
	g.readable(r, &reply)
	return reply, true
}
