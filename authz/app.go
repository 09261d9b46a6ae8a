package authz

import (
	"context"
	"strings"
	"time"

	"github.com/sallyport/sallyport/authz/policy"
)

// Private headers between the service and its Envoy. A client's copies are removed before anything reads them.
const (
	RouteHeader  = "x-sallyport-route"  // which route Envoy takes
	SourceHeader = "x-sallyport-source" // the caller's address, for the hub
	HubRoute     = "hub"
)

// App is one upstream MCP server and the rules for reaching it.
type App struct {
	Name   string
	Prefix string // prepended to the names of its tools, e.g. "my_server_"; "" leaves them bare
	Route  string // value of RouteHeader that leads to it

	Policy          *policy.Policy
	Exchange        *ExchangeRule // nil: the upstream is unprotected and gets no Authorization at all
	AllowBigNumbers bool          // forward integers that JavaScript and Go upstreams would read differently
	ListAll         bool          // list tools whatever the policy says
}

// ExchangeRule says which token an upstream gets (RFC 8693).
type ExchangeRule struct {
	Exchanger   Exchanger
	Audience    string
	Delegation  bool // keep the agent visible in `act`
	ActorToken  bool // send an actor_token of our own
	RequireAct  bool // refuse a delegated token without `act`
	AllowOpaque bool // accept a token that is not a JWT
	Tools       map[string]ToolRule
	AllowOthers bool // tools that Tools does not name get a token without scopes; otherwise they are denied
}

// ToolRule is what one tool's token may do, and for how long.
type ToolRule struct {
	Scopes   []string
	Lifetime time.Duration
}

// Exchanger gets one token for one call.
type Exchanger interface {
	Exchange(ctx context.Context, r TokenRequest) (*IssuedToken, error)
}

// TokenRequest asks for a token in the name of the agent's verified token.
type TokenRequest struct {
	SubjectToken string // the agent's token
	Subject      string // its verified sub, which the new token must keep
	Rule         *ExchangeRule
	ToolRule
}

// IssuedToken is a token whose audience, scopes, subject and lifetime have been checked.
type IssuedToken struct {
	Value     string
	JTI       string
	Audience  []string
	Scopes    []string
	Actors    []string
	ExpiresIn time.Duration
}

// ExchangeError is why there is no token.
type ExchangeError struct {
	Refused    bool          // the authorization server said no (an OAuth error); otherwise it failed
	RetryAfter time.Duration // when it may be asked again; 0 when unknown
	Err        error         // for the audit, never for the agent
}

func (e *ExchangeError) Error() string { return e.Err.Error() }
func (e *ExchangeError) Unwrap() error { return e.Err }

// rule returns how tool's token is shaped, and whether the app knows the tool at all.
func (a *App) rule(tool string) (ToolRule, bool) {
	if a.Exchange == nil {
		return ToolRule{}, true
	}
	r, ok := a.Exchange.Tools[tool]
	return r, ok || a.Exchange.AllowOthers
}

// resolve finds the app that owns a name as agents see it, and the name as its upstream knows it. A prefix decides;
// prefixes are checked at load to be no prefixes of each other. A bare name belongs to the app without a prefix, or,
// where there are several, to the only one that lists it: a name that two claim is nobody's.
func (g *Gate) resolve(name string) (*App, string, bool) {
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
		if !g.cfg.Upstreams.Lists(a, name) {
			continue
		}
		if owner != nil {
			return nil, "", false
		}
		owner = a
	}
	return owner, name, owner != nil
}
