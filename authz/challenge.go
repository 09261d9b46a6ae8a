package authz

import (
	"encoding/json"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport/authz/token"
	"github.com/sallyport/sallyport/authz/token/dpop"
	"github.com/sallyport/sallyport/mcpparse"
)

// challenge is a 401 that tells the client where to log in (RFC 9728 §5.1), and by which schemes to present what it gets
// there. What is wrong is said with the scheme that was used. With errorCode "" no credentials were sent, and RFC 6750
// §3.1 wants no error then. All is in one field, as many clients read one only.
func (g *Gate) challenge(r Request, used, errorCode, public, reason string) *rejection {
	schemes := g.cfg.Bound.schemes()
	if !slices.Contains(schemes, used) {
		used = schemes[0]
	}
	var challenges []string
	for _, scheme := range schemes {
		params := []string{g.metadataParam(r)}
		if len(g.cfg.Scopes) > 0 {
			params = append(params, scopeParam(g.cfg.Scopes))
		}
		if scheme == used && errorCode != "" {
			params = append(params, `error="`+errorCode+`"`, `error_description="`+public+`"`)
		}
		challenges = append(challenges, challengeOf(scheme, params...))
	}
	return denied(401, mcpparse.CodeInvalidRequest, public, reason).with("www-authenticate", strings.Join(challenges, ", "))
}

// challengeOf is one challenge (RFC 9110 §11.6.1). One for DPoP says which algorithms proofs may have (RFC 9449 §7.1).
func challengeOf(scheme string, params ...string) string {
	if scheme == token.SchemeDPoP {
		params = append(params, `algs="`+strings.Join(dpop.Algorithms(), " ")+`"`)
	}
	return scheme + " " + strings.Join(params, ", ")
}

func scopeParam(scopes []string) string { return `scope="` + strings.Join(scopes, " ") + `"` }

func (g *Gate) metadataParam(r Request) string {
	return `resource_metadata="` + g.metadataURL(r) + `"`
}

// origin is the scheme and host under which the agent reached us. The host has passed the allow-list.
func (r Request) origin() string { return r.Scheme + "://" + r.Host }

// metadataURL is where r's endpoint is described (RFC 9728 §3.1: the endpoint's path is inserted).
func (g *Gate) metadataURL(r Request) string {
	path := g.cfg.Paths.MCP
	if g.isEndpoint(r.Path) {
		path = r.Path
	}
	return r.origin() + g.cfg.Paths.Metadata + path
}

// local answers what is public and no message: protected resource metadata, health, and what minted tokens are verified
// with.
func (g *Gate) local(r Request) (Reply, bool) {
	if reply, ok := g.preflight(r); ok {
		return reply, true
	}
	if reply, ok := g.canary(r); ok {
		return reply, true
	}
	endpoint, isMetadata := g.described(r.Path)
	isHealth := r.Path == g.cfg.Paths.Health
	document := g.cfg.Documents[r.Path]
	switch {
	case !isMetadata && !isHealth && document == nil, !g.hosts.allows(r.Host) && !isHealth:
		return Reply{}, false
	case r.Method != "GET" && r.Method != "HEAD":
		return Reply{Status: 405, Header: [][2]string{{"allow", "GET, HEAD"}}}, true
	case isHealth:
		return Reply{Status: 200, Header: jsonHeader("no-store"), Body: []byte(`{"status":"up"}`)}, true
	case document != nil:
		body, age := document()
		header := append(jsonHeader("max-age="+strconv.Itoa(int(age/time.Second))), [2]string{"access-control-allow-origin", "*"})
		return Reply{Status: 200, Header: header, Body: body}, true
	case g.cfg.Tokens == nil:
		return Reply{Status: 404, Header: jsonHeader("no-store"), Body: []byte(`{"error":"authorization is off"}`)}, true
	}
	issuers := g.cfg.Tokens.Issuers()
	if len(issuers) == 0 {
		return Reply{Status: 503, Header: append(jsonHeader("no-store"), [2]string{"retry-after", "5"}), Body: []byte(`{"error":"no issuer is known yet"}`)}, true
	}
	body, err := json.Marshal(metadata{
		Resource:               g.resource(r.origin(), endpoint),
		AuthorizationServers:   issuers,
		ScopesSupported:        g.cfg.Scopes,
		BearerMethodsSupported: []string{"header"},
		boundMetadata:          g.cfg.Bound.metadata(),
	})
	if err != nil {
		return Reply{Status: 500}, true
	}
	return Reply{Status: 200, Header: append(jsonHeader("max-age=300"), [2]string{"access-control-allow-origin", "*"}), Body: body}, true
}

func jsonHeader(cacheControl string) [][2]string {
	return [][2]string{{"content-type", "application/json"}, {"cache-control", cacheControl}}
}

// metadata is the protected resource metadata document (RFC 9728 §2).
type metadata struct {
	Resource               string   `json:"resource"`
	AuthorizationServers   []string `json:"authorization_servers"`
	ScopesSupported        []string `json:"scopes_supported,omitempty"`
	BearerMethodsSupported []string `json:"bearer_methods_supported"`
	boundMetadata
}

// described returns the endpoint that a metadata path describes: the plain path describes the MCP endpoint, and
// each endpoint has its own by insertion.
func (g *Gate) described(path string) (string, bool) {
	rest, ok := strings.CutPrefix(path, g.cfg.Paths.Metadata)
	switch {
	case !ok:
		return "", false
	case rest == "":
		return g.cfg.Paths.MCP, true
	}
	return rest, g.isEndpoint(rest)
}

// resource is this server's identifier (RFC 8707): what clients ask tokens for must be an audience we expect, so
// it is the expected audience that is this address, else one of the same origin, else the first.
func (g *Gate) resource(origin, endpoint string) string {
	if g.cfg.Resource != "" {
		return g.cfg.Resource
	}
	sameOrigin := ""
	for _, aud := range g.cfg.Audiences {
		if aud == origin+endpoint {
			return aud
		}
		if u, err := url.Parse(aud); err == nil && sameOrigin == "" && u.Scheme+"://"+u.Host == origin {
			sameOrigin = aud
		}
	}
	switch {
	case sameOrigin != "":
		return sameOrigin
	case len(g.cfg.Audiences) > 0:
		return g.cfg.Audiences[0]
	}
	return origin + endpoint
}
