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

// Verifier turns a bearer token into an identity.
type Verifier interface {
	Verify(ctx context.Context, raw string) (*token.Identity, error)
	Issuers() []string
}

// Recorder writes the audit. An error means the record is not safe, and the message is refused.
type Recorder interface {
	Decision(audit.Decision) error
}

// Upstreams is what the gate has to know of the other side; the hub keeps it.
type Upstreams interface {
	// Leg says how to speak to app on behalf of owner, opening a session there when the upstream wants one.
	Leg(ctx context.Context, app *App, owner string, era mcpparse.Era) (Leg, error)
	// Forget drops what is known of owner's session at app: the upstream no longer knows it.
	Forget(app *App, owner string)
	// Lists reports whether app's last good list has tool. Only un-namespaced apps need it.
	Lists(app *App, tool string) bool
	// Touch marks an agent's session as used. It reports false when the session has ended.
	Touch(s session.Session) bool
}

// Leg is how one upstream is spoken to.
type Leg struct {
	Era       mcpparse.Era
	Version   string // MCP-Protocol-Version to send
	SessionID string // Mcp-Session-Id to send, "" for none
}

// Config is what a Gate is made of.
type Config struct {
	Tokens    Verifier // nil: OAuth is off, and every caller is the empty identity
	Sessions  *session.Sealer
	Upstreams Upstreams
	Audit     Recorder
	Metrics   *Metrics
	Log       *slog.Logger
	Now       func() time.Time // nil: time.Now

	Apps []*App

	Paths           Paths
	SessionHeader   string   // lower-case name of the session header; "" when sessions are off
	ClientMayEnd    bool     // DELETE ends a session
	Audiences       []string // expected audiences: they name this server
	Resource        string   // overrides the protected resource's identifier
	Listen          string   // host:port that the listener is bound to
	AllowedHosts    []string
	AllowedOrigins  []string
	MaxRequestBytes int64
}

// Paths are the paths of this server, each beginning with "/".
type Paths struct {
	MCP      string   // the Streamable HTTP endpoint
	SSE      []string // the 2024-11-05 transport's endpoints: guarded, not served
	Metadata string   // RFC 9728 protected resource metadata
	Health   string
}

// New returns a gate for cfg, or an error that says what is missing.
func New(cfg Config) (*Gate, error) {
	switch {
	case cfg.Upstreams == nil || cfg.Audit == nil || cfg.Metrics == nil || cfg.Log == nil:
		return nil, errors.New("authz: Upstreams, Audit, Metrics and Log are required")
	case cfg.SessionHeader != "" && cfg.Sessions == nil:
		return nil, errors.New("authz: sessions need a Sealer")
	case cfg.MaxRequestBytes <= 0:
		return nil, errors.New("authz: MaxRequestBytes must be positive")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
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
