package authz

import (
	"context"
	"net/url"
	"strings"
	"time"

	"github.com/sallyport/sallyport/authz/policy"
	"github.com/sallyport/sallyport/authz/session"
	"github.com/sallyport/sallyport/mcpparse"
)

// Private headers between the service and its Envoy. A client's copies are removed before anything reads them.
const (
	RouteHeader   = "x-sallyport-route"   // which route Envoy takes
	SourceHeader  = "x-sallyport-source"  // the caller's address, for the hub
	CertHeader    = "x-sallyport-cert"    // Request.Certificate, likewise
	TicketHeader  = "x-sallyport-ticket"  // what the gate has to tell the hub of a call: see Ticket
	SessionHeader = "x-sallyport-session" // the session of a message of the 2024-11-05 transport
	HubRoute      = "hub"
)

// EndpointRoute is the value of RouteHeader under which the hub posts to an upstream that speaks the 2024-11-05 transport,
// at the address that the upstream named. route is the app's own.
func EndpointRoute(route string) string { return "endpoint/" + strings.TrimPrefix(route, "app/") }

// App is one upstream MCP server and the rules for reaching it.
type App struct {
	Name   string
	Prefix string // prepended to the names of its tools, e.g. "my_server_"; "" leaves them bare
	Route  string // value of RouteHeader that leads to it; another one when what it leads to becomes another

	Policy          *policy.Policy
	Exchange        *ExchangeRule // nil: the upstream is unprotected and gets no Authorization at all
	AllowBigNumbers bool          // forward integers that JavaScript and Go upstreams would read differently
	Metered         bool          // the host counts its calls, by caller and tool
	ListAll         bool          // list tools whatever the policy says
	Timeouts        Timeouts      // how long a call may take
	Era             mcpparse.Era  // the only era in which the upstream is spoken to; EraUnknown: found out by asking
	OldTransport    *url.URL      // the event stream of an upstream that speaks the HTTP+SSE transport of 2024-11-05; else nil
}

// ExchangeRule says which token an upstream gets (RFC 8693).
type ExchangeRule struct {
	Exchanger     Exchanger
	Audience      string // where the token is good, by its logical name
	Resource      string // and by its address (RFC 8707); one of the two may be empty
	SubjectClaim  string // the claim of both tokens that names the subject; "" for sub
	Delegation    bool   // keep the agent visible in `act`
	ActorToken    bool   // send an actor_token of our own
	RequireAct    bool   // refuse a delegated token without `act`
	AllowOpaque   bool   // accept a token that is not a JWT
	AllowLonger   bool   // accept a token that lives longer than asked for
	AllowNarrower bool   // accept a token with some of the scopes only
	SubjectScopes bool   // ask for no scope that the agent's own token lacks
	Tools         Rules
	Prompts       Rules
	Resources     Rules
	Session       *TokenRule // what belongs to no single call: sessions, streams, answers; nil: see TokenSource
	Discovery     Discovery
	AllowOthers   bool // what the rules do not name gets a token without scopes; otherwise it is denied
}

// TokenRule is what one token may do, and for how long.
type TokenRule struct {
	Scopes   []string
	Lifetime time.Duration
	Requires []string // scopes that the agent's own token must have for there to be one
}

// Exchanger gets one token for one call.
type Exchanger interface {
	Exchange(ctx context.Context, r TokenRequest) (*IssuedToken, error)
}

// TokenRequest asks for a token in the name of the agent's verified token.
type TokenRequest struct {
	SubjectToken string // the agent's token
	Subject      string // its verified sub, or the Rule's SubjectClaim, which the new token must keep
	Agent        string // the client that it was issued to
	Act          []byte // its `act`, as JSON: who acted before; nil for nobody
	Expiry       time.Time
	JTI          string
	Binding      string // the key that its presenter has proven to hold; "" for a bearer token
	Rule         *ExchangeRule
	TokenRule
}

// IssuedToken is a token whose audience, scopes, subject and lifetime have been checked.
type IssuedToken struct {
	Value     string
	JTI       string
	Audience  []string
	Scopes    []string
	Actors    []string
	ExpiresIn time.Duration
	Expiry    time.Time // zero when it is not known

	Longer   bool // it lives longer than asked for
	Narrower bool // it lacks some of the scopes asked for
	Reused   bool // it was made for an earlier call
}

// ExchangeError is why there is no token.
type ExchangeError struct {
	Refused    bool          // the authorization server said no (an OAuth error); otherwise it failed
	RetryAfter time.Duration // when it may be asked again; 0 when unknown
	Reason     string        // the cause in one word, for the audit; "" when there is none
	Err        error         // for the audit, never for the agent
}

func (e *ExchangeError) Error() string {
	if e.Reason == "" {
		return e.Err.Error()
	}
	return e.Reason + ": " + e.Err.Error()
}

func (e *ExchangeError) Unwrap() error { return e.Err }

// rule returns how the token for a tool, a prompt or a resource is shaped, and whether the app knows it at all.
func (a *App) rule(kind mcpparse.Target, name string) (TokenRule, bool) {
	x := a.Exchange
	if x == nil {
		return TokenRule{}, true
	}
	r, ok := x.rules(kind).Find(name)
	return r, ok || x.AllowOthers
}

func (x *ExchangeRule) rules(kind mcpparse.Target) Rules {
	switch kind {
	case mcpparse.Tool:
		return x.Tools
	case mcpparse.Prompt:
		return x.Prompts
	case mcpparse.Resource:
		return x.Resources
	}
	return Rules{}
}

// resolve finds the app that owns a name as agents see it, and the name as its upstream knows it. A prefix decides;
// prefixes are checked at load to be no prefixes of each other. A bare name belongs to the app without a prefix, or,
// where there are several, to the only one that lists it: a name that two claim is nobody's. An app whose lists are each
// caller's has a prefix; its resources are looked for in the lists of who asks.
func (g *Gate) resolve(kind mcpparse.Target, name string, who *Caller) (*App, string, bool) {
	if kind == mcpparse.Resource {
		owner := g.app(g.cfg.Upstreams.Resource(name, who))
		return owner, name, owner != nil
	}
	for _, a := range g.cfg.Apps {
		if bare, ok := strings.CutPrefix(name, a.Prefix); ok && a.Prefix != "" {
			return a, bare, bare != ""
		}
	}
	if len(g.bare) == 1 {
		return g.bare[0], name, true
	}
	var owner *App
	for _, a := range g.bare {
		if !g.cfg.Upstreams.Lists(a, kind, name) {
			continue
		}
		if owner != nil {
			return nil, "", false
		}
		owner = a
	}
	return owner, name, owner != nil
}

// app returns the app of this name; nil when there is none.
func (g *Gate) app(name string) *App {
	for _, a := range g.cfg.Apps {
		if a.Name == name {
			return a
		}
	}
	return nil
}

// tagged returns the app behind a tag in a sealed name.
func (g *Gate) tagged(t session.Tag) *App {
	for _, a := range g.cfg.Apps {
		if session.TagOf(a.Name) == t {
			return a
		}
	}
	return nil
}
