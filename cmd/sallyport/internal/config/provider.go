package config

import "time"

// MCPProvider is the endpoint that agents speak MCP to, in front of all apps.
type MCPProvider struct {
	// Enabled must be true, which is the default: there is nothing else to run.
	Enabled bool `yaml:"enabled"`

	// Transports are the ways agents may connect. At least one is enabled.
	Transports Transports `yaml:"transports"`

	// Authorization is whose tokens are accepted.
	Authorization ProviderAuthorization `yaml:"authorization"`
}

// Transports are the MCP transports towards agents.
type Transports struct {
	// SSE is the HTTP+SSE transport of protocol 2024-11-05.
	SSE SSE `yaml:"sse"`

	// Stream is Streamable HTTP, the transport of all later protocols.
	Stream Stream `yaml:"stream"`
}

// SSE is the transport of protocol 2024-11-05: a GET that stays open, and POSTs
// beside it.
type SSE struct {
	// Enabled serves it, with the same demand for a token. Default false.
	Enabled bool `yaml:"enabled"`

	// Path is where the GET event stream is. Default /mcp/sse.
	Path string `yaml:"path"`

	// MessagePath is where messages are posted, which the event stream tells its
	// client first. Default /mcp/message.
	MessagePath string `yaml:"messagePath"`

	// KeepAlive is a comment on an idle stream, so that middleboxes do not cut
	// it.
	KeepAlive KeepAlive `yaml:"keepAlive"`

	// BaseURL and BasePath have no effect.
	BaseURL  ignored `yaml:"baseURL" note:"addresses are built from the host that the agent used"`
	BasePath ignored `yaml:"basePath" note:"use path and messagePath"`
}

// KeepAlive is a periodic sign of life on an event stream.
type KeepAlive struct {
	// Enabled sends it. Default true.
	Enabled bool `yaml:"enabled"`

	// Interval is the time between two, from 1s to 1h. Default 30s.
	Interval time.Duration `yaml:"interval"`
}

// Stream is the Streamable HTTP transport.
type Stream struct {
	// Enabled serves it. Default true.
	Enabled bool `yaml:"enabled"`

	// Path is the MCP endpoint. Default /mcp. `endpointPath` is its older name.
	Path string `yaml:"path" alias:"endpointPath"`

	// Session is the session of protocols up to 2025-11-25; later ones have none.
	Session StreamSession `yaml:"session"`
}

// StreamSession is the session that `initialize` opens in a legacy protocol.
type StreamSession struct {
	// Enabled issues session ids. Default true.
	Enabled bool `yaml:"enabled"`

	// HeaderName is the header that carries the id. Default Mcp-Session-Id, the
	// only name that standard clients know.
	HeaderName string `yaml:"headerName"`

	// AllowClientTermination answers a DELETE by ending the session; otherwise
	// a DELETE is answered 405. Default true.
	AllowClientTermination bool `yaml:"allowClientTermination"`

	// Timeout ends a session that was not used for so long. Default 1h.
	Timeout time.Duration `yaml:"timeout"`
}

// ProviderAuthorization is how agents prove who they are.
type ProviderAuthorization struct {
	// OAuth makes the gateway an OAuth 2.0 protected resource (RFC 6750,
	// RFC 9728).
	OAuth OAuth `yaml:"oauth"`
}

// OAuth is the gateway in the role of a protected resource.
type OAuth struct {
	// Enabled demands a valid bearer token for every message. Default true.
	// When false everybody who reaches the listener is an agent without an
	// identity; policies still decide, and token exchange is impossible.
	Enabled bool `yaml:"enabled"`

	// MetadataPath is where the protected resource metadata (RFC 9728) is
	// served, without a token. Default /.well-known/oauth-protected-resource.
	MetadataPath string `yaml:"metadataPath"`

	// Resource is the `resource` of that metadata, an absolute URL without a
	// fragment. Default: the expected audience that equals the MCP URL, else the
	// one of the same origin, else the first.
	Resource string `yaml:"resource"`

	// ScopesSupported are the scopes that agents ask for at their first login: the
	// `scopes_supported` of that metadata (RFC 9728 §2), and the `scope` of a 401.
	// List what nearly every agent needs and no more: a call that needs others says
	// so (`requires`, or a policy's `required_scopes`), and the agent asks then.
	// Default: neither says anything, and the authorization server's default is
	// asked for.
	ScopesSupported []string `yaml:"scopesSupported"`

	// Servers are the authorization servers whose tokens are accepted. At least
	// one when Enabled. A token is accepted by the server that is its issuer,
	// under that server's rules only.
	Servers []AuthorizationServer `yaml:"servers"`

	// DPoP is how proofs of possession (RFC 9449) are judged, where the `binding`
	// of a server lets them count.
	DPoP DPoP `yaml:"dpop"`
}

// DPoP is how strict the gateway is about proofs of possession. A proof is good
// for one request: for its method, and for the scheme, host and path under which
// Envoy was reached. TLS must therefore end at Envoy, not in front of it. Replicas
// refuse each other's replays if they share a `session.store` that evicts nothing;
// without the store DPoP is then answered 503.
type DPoP struct {
	// ProofAge is how far the time of a proof may be from the gateway's, before and
	// after. From 1s to 10m, default 60s.
	ProofAge time.Duration `yaml:"proofAge"`

	// RequireNonce demands a nonce of the gateway's in every proof, so that nobody
	// can make proofs ahead of their time. An agent's first request is then refused
	// with 401 `use_dpop_nonce`, and every answer brings the next nonce. Replicas
	// need the same `session.key`. Default false.
	RequireNonce bool `yaml:"requireNonce"`

	// NonceLifetime is how long a nonce is good. From 1s to 1h, default 5m.
	NonceLifetime time.Duration `yaml:"nonceLifetime"`
}

// AuthorizationServer is an issuer of agents' tokens.
type AuthorizationServer struct {
	// WellKnownEndpoint is the address of its metadata, RFC 8414 or OpenID
	// Connect Discovery. Required, unique. Plain http only on loopback, unless
	// AllowPlainHTTP: who can alter this document can forge every identity.
	WellKnownEndpoint string `yaml:"wellKnownEndpoint"`

	// RefreshInterval is how often metadata and keys are fetched again. Default
	// 24h. An unknown key id fetches the keys sooner.
	RefreshInterval time.Duration `yaml:"refreshInterval"`

	// AllowPlainHTTP permits http:// beyond loopback for this server. Default
	// false. Anybody on the path can then impersonate every user.
	AllowPlainHTTP bool `yaml:"allowPlainHTTP"`

	// TokenValidation is what else a token must satisfy.
	TokenValidation TokenValidation `yaml:"tokenValidation"`
}

// TokenValidation are the rules for the tokens of one authorization server.
type TokenValidation struct {
	// ExpectedAudiences are the values of `aud` that are accepted: one of them
	// must be in the token, compared byte by byte. Required: without it, a
	// token for any other service of the same issuer would open this one. There
	// is no wildcard.
	ExpectedAudiences []string `yaml:"expectedAudiences"`

	// Method is jwt, the default: tokens are verified locally with the server's
	// published keys. Or it is introspection: the server is also asked about tokens
	// (RFC 7662), which makes revocation count, and opaque tokens possible.
	Method string `yaml:"method"`

	// JWT are the details of local verification.
	JWT JWT `yaml:"jwt"`

	// Introspection are the details of asking the server. Required with method
	// introspection, and not allowed without.
	Introspection Introspection `yaml:"introspection"`

	// Clients are the agents' clients whose tokens are accepted: values of
	// `client_id`, else `azp`; both if a token has both. Default: any, also none.
	Clients []string `yaml:"clients"`

	// MaxLifetime refuses tokens that were issued for longer, by their `exp` and
	// `iat`, and those without `iat`. At least 1s. Default: no limit.
	MaxLifetime time.Duration `yaml:"maxLifetime"`

	// Binding is what is made of tokens that are bound to a key of the agent's by
	// `cnf`: with `jkt` to that of DPoP proofs (RFC 9449), with `x5t#S256` to a TLS
	// client certificate (RFC 8705), for which the profile of `http.tls` has to ask.
	// none, the default, refuses them. optional accepts them with their proof, and
	// plain bearer tokens too. required accepts them with their proof and nothing
	// else, so that a stolen token is of no use.
	Binding string `yaml:"binding" enum:"none,optional,required"`
}

// JWT are the details of local token verification.
type JWT struct {
	// ClockSkew is how far the server's clock may be off: added to `exp` and
	// subtracted from `nbf`, also in what the server says of a token. From 0s to
	// 5m, default 15s. A stolen token lives that much longer.
	ClockSkew time.Duration `yaml:"clockSkew"`
}

// Introspection is how an authorization server is asked about tokens (RFC 7662).
// Of an opaque token its answer has to say everything that a JWT would: without
// `active: true`, `sub` and an expected `aud` the message is refused with 401. Of a
// JWT it has to say `active: true`, and to contradict nothing. When the server
// cannot answer, it is 503.
type Introspection struct {
	// Endpoint is where to ask. Default: the `introspection_endpoint` of the
	// server's metadata, if it has the scheme, host and port of
	// `wellKnownEndpoint`. Plain http only on loopback, unless `allowPlainHTTP`.
	Endpoint string `yaml:"endpoint"`

	// ClientID is the gateway's client id there. Required. Some servers, Keycloak
	// among them, call a token active only to clients that are in its `aud`.
	ClientID string `yaml:"clientID"`

	// ClientSecret authenticates the gateway, best as a reference:
	// <gateway.introspectionSecret>. Required.
	ClientSecret Secret `yaml:"clientSecret"`

	// AuthMethod is how the secret is sent. Default client_secret_basic.
	AuthMethod string `yaml:"authMethod" enum:"client_secret_basic,client_secret_post"`

	// Tokens are those that the server is asked about: opaque, the default, which
	// are all that are no JWTs, and JWTs too if the server publishes no keys; jwt,
	// which are JWTs that have been verified locally; or all. Opaque tokens do not
	// name their issuer, so only one server can have them.
	Tokens string `yaml:"tokens" enum:"opaque,jwt,all"`

	// CacheTTL is how long an answer is used again, never beyond the token's life.
	// That long a revoked token still works. From 0s, the default, with which every
	// message asks, some of them twice, to 30s.
	CacheTTL time.Duration `yaml:"cacheTTL"`

	// Timeout is for one question. More than zero and at most 10s, default 2s.
	Timeout time.Duration `yaml:"timeout"`
}

func (p *MCPProvider) setDefaults() { p.Enabled = true }

func (s *SSE) setDefaults() {
	s.Path = "/mcp/sse"
	s.MessagePath = "/mcp/message"
}

func (k *KeepAlive) setDefaults() {
	k.Enabled = true
	k.Interval = 30 * time.Second
}

func (s *Stream) setDefaults() {
	s.Enabled = true
	s.Path = "/mcp"
}

func (s *StreamSession) setDefaults() {
	s.Enabled = true
	s.HeaderName = "Mcp-Session-Id"
	s.AllowClientTermination = true
	s.Timeout = time.Hour
}

func (o *OAuth) setDefaults() {
	o.Enabled = true
	o.MetadataPath = "/.well-known/oauth-protected-resource"
}

func (s *AuthorizationServer) setDefaults() { s.RefreshInterval = 24 * time.Hour }
func (t *TokenValidation) setDefaults()     { t.Method, t.Binding = "jwt", "none" }
func (j *JWT) setDefaults()                 { j.ClockSkew = 15 * time.Second }

func (d *DPoP) setDefaults() {
	d.ProofAge = time.Minute
	d.NonceLifetime = 5 * time.Minute
}

func (i *Introspection) setDefaults() {
	i.AuthMethod, i.Tokens = "client_secret_basic", "opaque"
	i.Timeout = 2 * time.Second
}
