package authz

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/sallyport/sallyport/authz/audit"
	"github.com/sallyport/sallyport/authz/session"
	"github.com/sallyport/sallyport/authz/token"
	"github.com/sallyport/sallyport/mcpparse"
)

// Verifier turns a token, and what its sender proves possession by, into an identity.
type Verifier interface {
	VerifyRequest(ctx context.Context, p token.Presented) (*token.Identity, error)
	Issuers() []string
	// Nonce returns a value for DPoP-Nonce, "" when proofs need none.
	Nonce() string
}

// Recorder writes the audit. An error means the record is not safe, and the message is refused.
type Recorder interface {
	Decision(audit.Decision) error
}

// Upstreams is what the gate has to know of the other side; the hub keeps it.
type Upstreams interface {
	// Leg says how to speak to app on behalf of p, opening a session there when the upstream wants one.
	Leg(ctx context.Context, app *App, p Peer) (Leg, error)
	// Resend sends a request again in a new session, because the upstream knew the one of leg no more and did nothing.
	Resend(ctx context.Context, app *App, p Peer, leg Leg, call Resent) (*Reply, error)
	// Lists reports whether app's last good list has a tool or prompt of this name.
	Lists(app *App, kind mcpparse.Target, name string) bool
	// Serves reports whether any upstream offers who what a method is for, in an era.
	Serves(method string, era mcpparse.Era, who *Caller) bool
	// Resource returns the name of the only app that has a resource for who; "" when none has it, or several claim it.
	Resource(uri string, who *Caller) string
	// Touch marks an agent's session as used. It reports false when the session has ended; an error means that this
	// cannot be found out.
	Touch(ctx context.Context, s session.Session) (bool, error)
}

// Peer is an agent as upstreams get to know it.
type Peer struct {
	Owner   string          // whose upstream sessions are used: nothing crosses from one owner to another
	Era     mcpparse.Era    // that the agent speaks
	Session session.Session // the agent's; zero when it has none
	Caller  *Caller
	Token   TokenSource // for what belongs to no single call
}

// TokenSource gets a token for what belongs to no single call, such as opening a session; "" where none is to be sent.
// demanded says that app's upstream is known to want one.
type TokenSource func(ctx context.Context, app *App, demanded bool) (string, error)

// Leg is how one upstream is spoken to.
type Leg struct {
	Era       mcpparse.Era `json:"era"`
	Version   string       `json:"version,omitempty"`  // MCP-Protocol-Version to send
	SessionID string       `json:"session,omitempty"`  // Mcp-Session-Id to send, "" for none
	Indirect  bool         `json:"indirect,omitempty"` // only the hub can speak to it: the 2024-11-05 transport
}

// Resent is a call as it went to the upstream.
type Resent struct {
	ID    []byte // raw JSON-RPC id
	Body  []byte
	Token string // "" for none
	Limit int64  // of the answer, in bytes
}

// Config is what a Gate is made of.
type Config struct {
	Tokens      Verifier        // nil: OAuth is off, and every caller is the empty identity
	Bound       Bound           // what Tokens takes besides bearer tokens
	Sessions    *session.Sealer // seals sessions, names and tickets
	Upstreams   Upstreams
	Revocations Revocations // nil: nothing is ever revoked
	Audit       Recorder
	Metrics     *Metrics
	Log         *slog.Logger
	Now         func() time.Time // nil: time.Now
	Canary      Canary           // nil: none is sent

	Apps []*App

	Documents       map[string]Document // what is served without a token beside MCP, by path
	Paths           Paths
	SessionHeader   string   // lower-case name of the session header; "" when sessions are off
	ClientMayEnd    bool     // DELETE ends a session
	Audiences       []string // expected audiences: they name this server
	Resource        string   // overrides the protected resource's identifier
	Scopes          []string // scope-tokens (RFC 6749 §3.3) to ask for at the first login; nil says nothing about it
	Listen          string   // host:port that the listener is bound to
	AllowedHosts    []string
	AllowedOrigins  []string
	MaxRequestBytes int64
}

// Document is public JSON: its text as it is now, and for how long it may be kept.
type Document func() (body []byte, age time.Duration)

// Paths are the paths of this server, each beginning with "/".
type Paths struct {
	MCP      string // the Streamable HTTP endpoint
	SSE      string // the 2024-11-05 transport's event stream; "" when it is off
	Message  string // and where its messages are posted
	Metadata string // RFC 9728 protected resource metadata
	Health   string
}

// New returns a gate for cfg, or an error that says what is missing.
func New(cfg Config) (*Gate, error) {
	switch {
	case cfg.Upstreams == nil || cfg.Audit == nil || cfg.Metrics == nil || cfg.Log == nil:
		return nil, errors.New("authz: Upstreams, Audit, Metrics and Log are required")
	case cfg.Sessions == nil:
		return nil, errors.New("authz: Sessions is required")
	case cfg.MaxRequestBytes <= 0:
		return nil, errors.New("authz: MaxRequestBytes must be positive")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Revocations == nil {
		cfg.Revocations = NothingRevoked{}
	}
	g := &Gate{cfg: cfg, hosts: newHostRules(cfg)}
	for _, a := range cfg.Apps {
		if a.Policy == nil {
			return nil, errors.New("authz: app " + a.Name + " has no policy")
		}
		if a.Prefix == "" {
			g.bare = append(g.bare, a)
		}
	}
	return g, nil
}
