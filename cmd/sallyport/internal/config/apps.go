package config

import "time"

// App is one MCP server behind the gateway.
type App struct {
	// Name identifies the app in policies, routes, audit and metrics: 1 to 64
	// characters of A-Z a-z 0-9 . _ -. Required, unique.
	Name string `yaml:"name"`

	// Type must be mcpProxy.
	Type string `yaml:"type"`

	// ToolNamespace is the prefix that keeps this app's tools and prompts apart.
	ToolNamespace ToolNamespace `yaml:"toolNamespace"`

	// Upstream is where the MCP server is.
	Upstream Upstream `yaml:"upstream"`

	// Authorization is who may call which tool, and with which token the MCP
	// server is called. Both parts are required.
	Authorization AppAuthorization `yaml:"authorization"`

	// AllowBigNumbers forwards integers beyond ±(2^53−1) as they are. Default
	// false: they are refused, because servers written in different languages
	// read different numbers, so what the policy saw may not be what runs.
	AllowBigNumbers bool `yaml:"allowBigNumbers"`

	// ToolList is policy (the default: agents are shown the tools that the
	// policy could allow them) or all (every tool). It changes what is shown,
	// never what may be called.
	ToolList string `yaml:"toolList" enum:"policy,all"`

	// CallLimit bounds how often one caller (issuer, subject and client) may call
	// one tool; prompts count together, and so do resources. Counted is what the
	// policy has allowed, in each Envoy by itself. More is answered 429, with the
	// decision on record as allowed and its completion as refused. Default none.
	CallLimit *Rate `yaml:"callLimit"`

	// Timeout is the longest that one call may take, the stream of its answer
	// included. From 1s to 24h, default 10m.
	Timeout time.Duration `yaml:"timeout"`

	// ToolTimeouts are those of single tools, in place of Timeout. They may be
	// longer as well as shorter.
	ToolTimeouts []ToolTimeout `yaml:"toolTimeouts"`
}

// ToolNamespace is the prefix of an app's tool and prompt names.
type ToolNamespace struct {
	// Disabled shows the tools and prompts under their own names. A name that
	// begins with another app's namespace belongs to that app; a name that two
	// apps without a namespace list belongs to neither, and is neither listed
	// nor callable.
	Disabled bool `yaml:"disabled"`

	// Name is put in front of every tool and prompt name as it stands, so it
	// carries its own separator: my_server_ + listItems = my_server_listItems.
	// Required unless Disabled; characters A-Z a-z 0-9 _ . - only. No namespace
	// may be the beginning of another, or a call could mean two apps. Policies,
	// `tools`, `prompts` and `toolTimeouts` use names without it.
	Name string `yaml:"name"`
}

// ToolTimeout is the longest that a call of one tool may take.
type ToolTimeout struct {
	// Name is the tool's name on the MCP server, without the namespace; `*` is read
	// as in `tokenExchange.tools`. Required, unique in the list.
	Name string `yaml:"name"`

	// Timeout is the longest that one call may take, the stream of its answer
	// included. From 1s to 24h. Required.
	Timeout time.Duration `yaml:"timeout"`
}

// Upstream is the address of an MCP server, and how it is spoken to.
type Upstream struct {
	// Era is the protocol era that the MCP server is spoken to in: legacy (up to
	// 2025-11-25), modern (2026-07-28) or auto, the default, which finds out by
	// probing. Over transport sse it is legacy.
	Era string `yaml:"era" enum:"auto,legacy,modern"`

	// Transport is stream (the default: Streamable HTTP) or sse (HTTP+SSE, the
	// transport of protocol 2024-11-05, for an old MCP server). The block of its
	// name is required, and the other one is an error.
	Transport string `yaml:"transport" enum:"stream,sse"`

	// Stream is the Streamable HTTP endpoint.
	Stream UpstreamStream `yaml:"stream"`

	// SSE is the event stream (GET) of the HTTP+SSE transport. Where messages are
	// posted comes from the MCP server's `endpoint` event, and must be of the same
	// origin.
	SSE UpstreamStream `yaml:"sse"`
}

// Endpoint returns the block of the chosen transport.
func (u *Upstream) Endpoint() *UpstreamStream {
	if u.Transport == "sse" {
		return &u.SSE
	}
	return &u.Stream
}

// UpstreamStream is the endpoint of an MCP server.
type UpstreamStream struct {
	// URL is the absolute http or https address of the endpoint, without query,
	// fragment or user name. Required. Over http:// the exchanged token can be
	// read on the path; the MCP server must be reachable from the gateway only,
	// or agents walk around it.
	URL string `yaml:"url"`

	// TLS is the name of a profile: its caFile is trusted, its certFile and
	// keyFile are shown. Default: the system's trust. Only with https.
	TLS string `yaml:"tls"`

	// Connection is how connections are made and kept.
	Connection Connection `yaml:"connection"`
}

// Connection is how Envoy makes and keeps connections to an MCP server.
type Connection struct {
	// DialTimeout bounds the making of a TCP connection. Default 10s.
	DialTimeout time.Duration `yaml:"dialTimeout"`

	// KeepAlive is TCP keep-alive.
	KeepAlive ConnectionKeepAlive `yaml:"keepAlive"`

	// MaxRequests bounds the requests that are open at a time, event streams
	// included, from 1 to 1000000. Default 100000. More are answered 503, so that
	// a slow MCP server does not take the whole gateway with it.
	MaxRequests int `yaml:"maxRequests"`

	// Pool has no effect: Envoy keeps a pool of its own, shared by all agents.
	Pool Pool `yaml:"pool"`
}

// ConnectionKeepAlive is TCP keep-alive towards an MCP server.
type ConnectionKeepAlive struct {
	// Interval is the time between two probes. Default 15s.
	Interval time.Duration `yaml:"interval"`
}

// Pool bounds the idle connections to an MCP server.
type Pool struct {
	// MaxIdleConns is the bound for all hosts of the app. Default 100.
	MaxIdleConns int `yaml:"maxIdleConns"`

	// MaxIdleConnsPerHost is the bound for each host. Default 100.
	MaxIdleConnsPerHost int `yaml:"maxIdleConnsPerHost"`
}

// AppAuthorization are the two doors of an app.
type AppAuthorization struct {
	// Inbound decides about the agent's call.
	Inbound Inbound `yaml:"inbound"`

	// Outbound is the credential that the MCP server gets.
	Outbound Outbound `yaml:"outbound"`
}

// Inbound is the decision about a call.
type Inbound struct {
	// OPA is the Rego policy that decides. Required.
	OPA *OPA `yaml:"opa"`
}

// OPA is a Rego policy in package orchestrator, inline or in a file. A call is
// allowed when data.orchestrator.result.allowed is exactly true; everything
// else, errors included, is a denial.
type OPA struct {
	// Name is the policy's name in the audit. Default: the app's name.
	Name string `yaml:"name"`

	// Rego is the policy itself. Exactly one of Rego and File. References to
	// secrets and variables are replaced here too; in a file they are not.
	Rego string `yaml:"rego" as:"policy"`

	// File is the path of the policy. Exactly one of Rego and File.
	File string `yaml:"file" as:"path"`

	// Source is the policy's text, from Rego or from File.
	Source []byte `yaml:"-"`
}

// Outbound is how the MCP server is called.
type Outbound struct {
	// Type is tokenExchange or unprotected. Required. The agent's own token is
	// never passed on: unprotected calls the server without any credential.
	Type string `yaml:"type"`

	// TokenExchange are the details of that type.
	TokenExchange *TokenExchange `yaml:"tokenExchange"`
}

// TokenExchange gets a fresh token for each call (RFC 8693).
type TokenExchange struct {
	// Type is delegation (the default: the token says who acts for the user, in
	// `act`) or impersonation (the token is the user's own; no trace of the
	// agent is left).
	Type string `yaml:"type" enum:"delegation,impersonation"`

	// IDP is the name of the connector to exchange with. Required.
	IDP string `yaml:"idp"`

	// Audience is the `aud` to ask for: the MCP server. Required unless there is a
	// Resource. A token for anything else is refused.
	Audience string `yaml:"audience"`

	// Resource is the MCP server's address as `resource` (RFC 8707): an absolute URI
	// without a fragment. With an Audience too, both are sent and either may be the
	// `aud`.
	Resource string `yaml:"resource"`

	// Tools says, for each tool, what its token may do.
	Tools []Tool `yaml:"tools"`

	// Prompts says, for each prompt, what its token may do.
	Prompts []Prompt `yaml:"prompts"`

	// Resources says, for each resource, what its token may do.
	Resources []Resource `yaml:"resources"`

	// UnlistedTools is what happens to a tool that Tools lacks, to a prompt that
	// Prompts lacks and to a resource that Resources lacks: deny (the default) or
	// allow. Allowed, its token is asked for without a scope, and may carry none;
	// its lifetime is the authorization server's choice.
	UnlistedTools string `yaml:"unlistedTools" enum:"deny,allow"`

	// Session is the token with which sessions, streams and answers to the MCP
	// server's own requests are sent. Absent: these go without a token, or, to a
	// server that demands one even for that, with one that is exchanged for the
	// agent as Discovery says.
	Session *SessionToken `yaml:"session"`

	// Discovery is the token with which the gateway finds out what the MCP server
	// speaks, and reads its lists.
	Discovery Discovery `yaml:"discovery"`

	// Timeout bounds one exchange. Default 5s.
	Timeout time.Duration `yaml:"timeout"`

	// TTLParameter is the request parameter that carries a ttl in whole seconds.
	// Default requested_expires_in; an empty value ("") sends none, and then a
	// token that lives longer than the ttl is refused.
	TTLParameter string `yaml:"ttlParameter"`

	// ActorToken is how the acting party is proved: clientCredentials sends an
	// actor_token that the gateway got for itself. Default: none is sent, the
	// server takes the authenticated client.
	ActorToken string `yaml:"actorToken" enum:"clientCredentials"`

	// RequireAct refuses a delegated token without `act`. Default false: it is
	// recorded and warned about, since some servers do not write `act`.
	RequireAct bool `yaml:"requireAct"`

	// OpaqueTokens accepts an answer that is not a JWT. Default false. Only what
	// the server says beside such a token (scope, expires_in) can be checked.
	OpaqueTokens bool `yaml:"opaqueTokens"`

	// LongerLifetimes is reject (the default) or accept: a token that lives longer
	// than its ttl is used all the same and noted in the audit. For servers that
	// cannot be asked for a lifetime; the MCP server, or who takes the token from
	// it, can use it that long.
	LongerLifetimes string `yaml:"longerLifetimes" enum:"reject,accept"`

	// NarrowerScopes is reject (the default) or accept: a token with some of the
	// scopes only, not none, is used all the same and noted in the audit.
	NarrowerScopes string `yaml:"narrowerScopes" enum:"reject,accept"`

	// SubjectClaim is the claim that must be the same in the agent's token and in
	// the new one, for servers that give a person another `sub` at each client, such
	// as oid for Microsoft Entra ID. Default sub.
	SubjectClaim string `yaml:"subjectClaim"`

	// RequireSubjectScopes asks for no scope that the agent's own token lacks: such
	// a call is denied with 403 insufficient_scope, naming the scopes that it needs.
	// Default false: the policy and the authorization server decide alone.
	RequireSubjectScopes bool `yaml:"requireSubjectScopes"`

	// Reuse is how long a token may be used again, at most 5m, by calls that need
	// the very same one in the name of the same token of the agent. It saves
	// requests to the authorization server; the MCP server, which then sees one
	// token more than once, can no longer tell the calls apart by it. Default 0s:
	// every call has a token of its own.
	Reuse time.Duration `yaml:"reuse"`
}

// Tool is what the token for one tool may do.
type Tool struct {
	// Name is the tool's name on the MCP server, without the namespace. `*` stands
	// for any run of characters, the empty one included, and everything else for
	// itself. A name that is written out wins; of two patterns that match, the one
	// with more before its first `*`, and patterns between which that leaves a
	// choice, such as get* and get*Item, are an error. Required, unique in the list.
	Name string `yaml:"name"`

	// TTL is how long the token lives, in whole seconds from 1s to 1h. Required.
	// A token that lives longer is refused.
	TTL time.Duration `yaml:"ttl"`

	// Scopes are asked for, exactly these, whatever the arguments of the call. A
	// wider or narrower token is refused, so without any the token must have none,
	// which is warned about.
	Scopes []Scope `yaml:"scopes"`

	// Requires are scopes that the agent's own token must have. A call that the
	// policy allows is denied without them: with 403 insufficient_scope, naming all
	// that it needs, so that the agent can log in again for more. The tool stays
	// listed. They have nothing to do with the Scopes of the new token. Default:
	// none.
	Requires []Scope `yaml:"requires"`
}

// Prompt is what the token for one prompt may do.
type Prompt struct {
	// Name is the prompt's name on the MCP server, without the namespace; `*` is
	// read as in `tools`. Required, unique in the list.
	Name string `yaml:"name"`

	// TTL is how long the token lives, in whole seconds from 1s to 1h. Required.
	// A token that lives longer is refused.
	TTL time.Duration `yaml:"ttl"`

	// Scopes are asked for, exactly these, as in `tools`.
	Scopes []Scope `yaml:"scopes"`

	// Requires are scopes that the agent's own token must have, as in `tools`.
	Requires []Scope `yaml:"requires"`
}

// Resource is what the token for one resource may do.
type Resource struct {
	// URI is the resource's uri on the MCP server; `*` is read as in `tools`, and
	// stands for slashes too. Required, unique in the list.
	URI string `yaml:"uri"`

	// TTL is how long the token lives, in whole seconds from 1s to 1h. Required.
	// A token that lives longer is refused.
	TTL time.Duration `yaml:"ttl"`

	// Scopes are asked for, exactly these, as in `tools`.
	Scopes []Scope `yaml:"scopes"`

	// Requires are scopes that the agent's own token must have, as in `tools`.
	Requires []Scope `yaml:"requires"`
}

// SessionToken is what the token may do with which sessions, streams and answers
// to the MCP server's own requests are sent.
type SessionToken struct {
	// TTL is how long the token lives, in whole seconds from 1s to 1h. Required.
	// A token that lives longer is refused.
	TTL time.Duration `yaml:"ttl"`

	// Scopes are asked for, exactly these, as in `tools`.
	Scopes []Scope `yaml:"scopes"`
}

// Discovery is the token for MCP servers that demand one even to say what they
// are and have.
type Discovery struct {
	// Type is whose token the gateway shows. With clientCredentials it is one of its
	// own (RFC 6749 §4.4), got from the connector and used until shortly before it
	// expires: the lists are the same for all callers, before policies. With none,
	// the default, nothing is shown until the server answers 401 or 403; then the
	// same is done. With tokenExchange the lists are read with a token that is
	// exchanged for the agent that asks: each caller has lists of its own, which
	// nobody else is shown and which are read when it asks. That needs a
	// toolNamespace.
	Type string `yaml:"type" enum:"none,clientCredentials,tokenExchange"`

	// TTL is how long the token lives, in whole seconds from 1s to 1h. Default 1m for
	// one that is exchanged for an agent, and for the gateway's own what the
	// authorization server likes. A token that lives longer is refused. An agent's
	// lists are read again after this time at the latest.
	TTL time.Duration `yaml:"ttl"`

	// Scopes are asked for, exactly these, as in `tools`. Default none, and then the
	// token may carry none.
	Scopes []Scope `yaml:"scopes"`
}

// Scope is one OAuth scope, written as a map with a name or as the name alone.
type Scope struct {
	// Name is the scope-token of RFC 6749 §3.3: no spaces.
	Name string `yaml:"name"`
}

func (s *Scope) shortForm() *string { return &s.Name }

func (a *App) setDefaults() {
	a.ToolList = "policy"
	a.Timeout = 10 * time.Minute
}

func (u *Upstream) setDefaults() {
	u.Era = "auto"
	u.Transport = "stream"
}

func (c *Connection) setDefaults() {
	c.DialTimeout = 10 * time.Second
	c.KeepAlive.Interval = 15 * time.Second
	c.MaxRequests = 100_000
	c.Pool = Pool{MaxIdleConns: 100, MaxIdleConnsPerHost: 100}
}

func (t *TokenExchange) setDefaults() {
	t.Type = "delegation"
	t.UnlistedTools = "deny"
	t.Timeout = 5 * time.Second
	t.TTLParameter = "requested_expires_in"
	t.LongerLifetimes = "reject"
	t.NarrowerScopes = "reject"
	t.Discovery.Type = "none"
}
