package authz

import (
	"context"
	"mime"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/sallyport/sallyport/authz/audit"
	"github.com/sallyport/sallyport/authz/token"
	"github.com/sallyport/sallyport/mcpparse"
)

// The first door: everything that the headers alone can refuse, before a byte of body is buffered.

// singular are the fields whose second value would let two readers see two different requests. Authorization has a
// check, and an answer, of its own.
var singular = []string{"content-type", "content-length", "content-encoding", "host", "origin",
	"mcp-protocol-version", "mcp-method", "mcp-name", "mcp-session-id", "last-event-id"}

// admit checks where the request comes from and where it is going.
func (g *Gate) admit(r Request) *rejection {
	if !g.hosts.allows(r.Host) {
		return denied(403, mcpparse.CodeInvalidRequest, "this host is not served here", "host not allowed")
	}
	if origins := r.Header["origin"]; len(origins) > 0 && !g.hosts.allowsOrigins(origins) {
		return denied(403, mcpparse.CodeInvalidRequest, "origin not allowed", "")
	}
	if !g.isEndpoint(r.Path) {
		return denied(404, mcpparse.CodeInvalidRequest, "no MCP endpoint at this path", "")
	}
	if !slices.Contains([]string{"POST", "GET", "DELETE"}, r.Method) {
		return g.notAllowed(r)
	}
	if name := r.Header.repeated(singular...); name != "" {
		code := mcpparse.CodeInvalidRequest
		if strings.HasPrefix(name, "mcp-") {
			code = mcpparse.CodeHeaderMismatch
		}
		return denied(400, code, "header "+name+" is repeated", "")
	}
	return nil
}

func (g *Gate) isEndpoint(path string) bool {
	p := g.cfg.Paths
	return path == p.MCP || path == p.SSE && path != "" || path == p.Message && path != ""
}

func (g *Gate) allow(path string) string {
	switch {
	case path == g.cfg.Paths.SSE:
		return "GET"
	case path == g.cfg.Paths.Message || g.cfg.SessionHeader == "":
		return "POST"
	case g.cfg.ClientMayEnd:
		return "GET, POST, DELETE"
	}
	return "GET, POST"
}

// verify checks the token (RFC 6750 §2.1: the Authorization field is the only place for it) and, of one that is bound to a
// key, that its sender holds the key.
func (g *Gate) verify(ctx context.Context, r Request, look token.Look) (*token.Identity, string, *rejection) {
	if g.cfg.Tokens == nil {
		return &token.Identity{}, "", nil
	}
	if len(r.Header["authorization"]) == 0 {
		return nil, "", g.challenge(r, "", "", "a bearer token is required", "no token")
	}
	if strings.Contains(r.RawQuery, "access_token=") {
		return nil, "", denied(400, mcpparse.CodeInvalidRequest, "a token in the query is not accepted", "")
	}
	p, ok := g.presented(r, look)
	if !ok {
		return nil, "", g.challenge(r, "", "invalid_token", "the Authorization header is not one bearer token", "")
	}
	id, err := g.cfg.Tokens.VerifyRequest(ctx, p)
	if err != nil {
		return nil, "", g.unverified(r, p.Scheme, err)
	}
	return id, p.Token, nil
}

func (g *Gate) notAllowed(r Request) *rejection {
	return denied(405, mcpparse.CodeInvalidRequest, "method not allowed", "").with("allow", g.allow(r.Path))
}

// bodiless judges GET and DELETE, which have no body to wait for: a session's event stream, and its end.
func (c *Call) bodiless(ctx context.Context) (Verdict, audit.Decision) {
	g, r := c.gate, c.req
	c.era = mcpparse.EraLegacy
	if rej := c.admitBodiless(ctx); rej != nil {
		return c.refuse(rej)
	}
	if !r.EndOfStream {
		return c.refuse(denied(400, mcpparse.CodeInvalidRequest, r.Method+" has no body", ""))
	}
	if accept := strings.Join(r.Header["accept"], ","); r.Method == "GET" && !acceptsEvents(accept) {
		return c.refuse(denied(406, mcpparse.CodeInvalidRequest, "the answer is text/event-stream; accept it", "").with("allow", g.allow(r.Path)))
	}
	c.version = c.session.Version
	return c.toHub()
}

// admitBodiless finds the session that is meant. A stream of the 2024-11-05 transport opens one.
func (c *Call) admitBodiless(ctx context.Context) *rejection {
	g, r := c.gate, c.req
	if r.Path == g.cfg.Paths.SSE && r.Method == "GET" {
		return nil
	}
	sessionID, _ := r.Header.Get(g.cfg.SessionHeader)
	version, _ := r.Header.Get("mcp-protocol-version")
	if r.Path != g.cfg.Paths.MCP || sessionID == "" || mcpparse.ClassifyVersion(version) == mcpparse.EraModern ||
		r.Method == "DELETE" && !g.cfg.ClientMayEnd {
		return g.notAllowed(r)
	}
	return c.openSession(ctx, sessionID)
}

// acceptsEvents reports whether an Accept field takes an event stream (RFC 9110 §12.5.1).
func acceptsEvents(accept string) bool {
	for part := range strings.SplitSeq(accept, ",") {
		switch mediaType, _, _ := strings.Cut(part, ";"); strings.ToLower(strings.TrimSpace(mediaType)) {
		case "text/event-stream", "text/*", "*/*":
			return true
		}
	}
	return false
}

// acceptsBody checks what the headers say of the body to come.
func (g *Gate) acceptsBody(r Request) *rejection {
	if r.Path == g.cfg.Paths.SSE {
		return g.notAllowed(r)
	}
	contentType, _ := r.Header.Get("content-type")
	if !isJSON(contentType) {
		return denied(415, mcpparse.CodeInvalidRequest, "content-type must be application/json", "")
	}
	if encoding := r.Header["content-encoding"]; len(encoding) > 0 && !strings.EqualFold(encoding[0], "identity") {
		return denied(415, mcpparse.CodeInvalidRequest, "content-encoding is not accepted", "")
	}
	if length, ok := r.Header.Get("content-length"); ok {
		n, err := strconv.ParseInt(length, 10, 64)
		if err != nil || n > g.cfg.MaxRequestBytes {
			return errTooLarge
		}
	}
	if r.EndOfStream {
		return denied(400, mcpparse.CodeParse, "the request has no body", "")
	}
	return nil
}

// isJSON accepts application/json with no charset or utf-8: any other label could be decoded otherwise upstream.
func isJSON(contentType string) bool {
	mediaType, params, err := mime.ParseMediaType(contentType)
	if err != nil || mediaType != "application/json" || len(params) > 1 {
		return false
	}
	charset, ok := params["charset"]
	return len(params) == 0 || ok && strings.EqualFold(charset, "utf-8")
}

func isMCPAnswer(contentType string) bool {
	mediaType, _, err := mime.ParseMediaType(contentType)
	return err == nil && mediaType == "application/json" || isEventStream(contentType)
}

func isEventStream(contentType string) bool {
	mediaType, _, err := mime.ParseMediaType(contentType)
	return err == nil && mediaType == "text/event-stream"
}

// hostRules says which Host and Origin values name this server: the defence against DNS rebinding.
type hostRules struct {
	names     map[string]bool // lower-case host names, without port
	anyIP     bool            // bound to every address: a rebinding attack needs a name, so any literal will do
	allOrigin map[string]bool // origins allowed in so many words
}

func newHostRules(cfg Config) hostRules {
	h := hostRules{names: map[string]bool{}, allOrigin: map[string]bool{}}
	listen := hostname(cfg.Listen)
	h.names[listen] = true
	if ip, err := netip.ParseAddr(listen); listen == "localhost" || err == nil && ip.IsLoopback() {
		h.names["localhost"], h.names["127.0.0.1"], h.names["::1"] = true, true, true
	} else if listen == "" || err == nil && ip.IsUnspecified() {
		h.anyIP = true
	}
	for _, aud := range cfg.Audiences {
		if u, err := url.Parse(aud); err == nil && u.Host != "" {
			h.names[strings.ToLower(u.Hostname())] = true
		}
	}
	for _, name := range cfg.AllowedHosts {
		h.names[hostname(name)] = true
	}
	for _, o := range cfg.AllowedOrigins {
		h.allOrigin[strings.ToLower(strings.TrimSuffix(o, "/"))] = true
	}
	delete(h.names, "") // what is no host has no name, and must not match a listener that has none either
	return h
}

func (h hostRules) allows(host string) bool {
	name := hostname(host)
	_, err := netip.ParseAddr(name)
	return h.names[name] || h.anyIP && err == nil
}

func (h hostRules) allowsOrigins(origins []string) bool {
	if len(origins) != 1 {
		return false
	}
	if h.allOrigin[strings.ToLower(origins[0])] {
		return true
	}
	u, err := url.Parse(origins[0])
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && h.names[hostname(u.Host)]
}

// hostname returns the lower-case host of host[:port], without brackets, or "" when it is not exactly that: whatever
// else is in the value, another reader might take for the host.
func hostname(hostport string) string {
	host, port, bracketed := strings.Cut(hostport, "]")
	if bracketed {
		host = strings.TrimPrefix(host, "[")
		if ip, err := netip.ParseAddr(host); err != nil || !ip.Is6() || len(host)+1 != strings.IndexByte(hostport, ']') {
			return ""
		}
	} else if at := strings.IndexByte(hostport, ':'); at >= 0 {
		host, port = hostport[:at], hostport[at:]
	}
	if number, ok := strings.CutPrefix(port, ":"); port != "" {
		if _, err := strconv.ParseUint(number, 10, 16); !ok || err != nil {
			return ""
		}
	}
	return strings.ToLower(host)
}
