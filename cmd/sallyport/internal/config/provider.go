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

	// Method must be jwt, the default: tokens are verified locally with the
	// server's published keys.
	Method string `yaml:"method"`

	// JWT are the details of that method.
	JWT JWT `yaml:"jwt"`
}

// JWT are the details of local token verification.
type JWT struct {
	// ClockSkew is how far the server's clock may be off: added to `exp` and
	// subtracted from `nbf`. From 0s to 5m, default 15s. A stolen token lives
	// that much longer.
	ClockSkew time.Duration `yaml:"clockSkew"`
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
func (t *TokenValidation) setDefaults()     { t.Method = "jwt" }
func (j *JWT) setDefaults()                 { j.ClockSkew = 15 * time.Second }
