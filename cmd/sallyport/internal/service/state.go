package service

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/authz/token"
	"github.com/sallyport/sallyport/cmd/sallyport/internal/config"
	"github.com/sallyport/sallyport/envoy"
	"github.com/sallyport/sallyport/exchange"
)

// state is a configuration at work: all that a reload makes anew, or takes over from the state before because what it was
// made from has not changed. It does not change itself.
type state struct {
	cfg        *config.Config
	envoy      envoy.Gateway               // what Envoy is to have, without what is leaving
	verifier   *token.Verifier             // nil when OAuth is off
	clients    map[string]*exchange.Client // by app
	mints      map[string]*mint            // by connector
	sources    map[string]tokenSource      // by app
	publish    map[string]http.Handler     // of the mints, by address
	documents  map[string]authz.Document   // likewise, by path at the gateway's own address
	direct     http.RoundTripper           // the hub's own way to the upstreams; nil: through Envoy
	directFrom string                      // sums up what that was made from
	own        *tls.Config                 // of the service's listeners that are not unix sockets; nil: plain text
	gate       *authz.Gate
	parts      map[string]*part // what works in the background
	leaving    []leaving        // what calls under way may still need of the states before
}

// part is something that works in the background.
type part struct {
	from  string                      // sums up what it was made from
	run   func(context.Context) error // until its context ends
	lacks func() []string             // what it waits for, so that it cannot be used yet; nil: nothing ever
	end   context.CancelFunc          // nil: it does not run yet
}

// leaving are apps and parts that are no longer in force.
type leaving struct {
	until time.Time
	apps  []leavingApp
	parts []*part
}

type leavingApp struct {
	app   *authz.App
	envoy envoy.App
}

// kept returns the part of a name, if it was made from the same.
func (s *state) kept(name, from string) *part {
	if s == nil || s.parts[name] == nil || s.parts[name].from != from {
		return nil
	}
	return s.parts[name]
}

// build makes the state of cfg, without a gate. Nothing of it works yet, and nothing of old is changed; old is nil at the start.
func (s *Service) build(cfg *config.Config, old *state) (*state, error) {
	n := &state{cfg: cfg, envoy: s.gatewayOf(cfg), parts: map[string]*part{}}
	if err := s.buildVerifier(n, old); err != nil {
		return nil, err
	}
	var err error
	if n.own, err = serverTLS(cfg.TLS[cfg.Service.TLS]); err != nil {
		return nil, err
	}
	if n.mints, err = newMints(n, old, s.Log); err != nil {
		return nil, err
	}
	if n.publish, n.documents, err = published(cfg, n.mints); err != nil {
		return nil, err
	}
	n.clients, n.sources = map[string]*exchange.Client{}, map[string]tokenSource{}
	for i := range cfg.Apps {
		if err := s.connect(n, old, &cfg.Apps[i]); err != nil {
			return nil, fmt.Errorf("app %s: %w", cfg.Apps[i].Name, err)
		}
	}
	n.leaving = old.left(n, time.Now(), s.grace())
	return n, s.buildDirect(n, old)
}

func (s *Service) buildVerifier(n, old *state) (err error) {
	const name = "verifier"
	from := verifierSum(n.cfg)
	if p := old.kept(name, from); p != nil {
		n.verifier, n.parts[name] = old.verifier, p
		return nil
	}
	if n.verifier, err = newVerifier(n.cfg, s.proofs, s.Log, s.revoked.Revoked); n.verifier != nil {
		n.parts[name] = &part{from: from, run: n.verifier.Run, lacks: n.verifier.Lacks}
	}
	return err
}

// connect makes what gets an app's tokens: a client, or a minter.
func (s *Service) connect(n, old *state, a *config.App) error {
	x := a.Authorization.Outbound.TokenExchange
	if x == nil || a.Authorization.Outbound.Type != "tokenExchange" {
		return nil
	}
	if m := n.mints[x.IDP]; m != nil {
		if old != nil && m.same(old.mints[x.IDP]) && old.sources[a.Name] != nil && old.clients[a.Name] == nil {
			n.sources[a.Name] = old.sources[a.Name] // and its counters
			return nil
		}
		minter, err := m.minter()
		n.sources[a.Name] = minter
		return err
	}
	name, from := "client of "+a.Name, clientSum(n.cfg, x)
	if p := old.kept(name, from); p != nil {
		n.parts[name], n.clients[a.Name], n.sources[a.Name] = p, old.clients[a.Name], old.clients[a.Name]
		return nil
	}
	client, err := newExchange(n.cfg, x, s.Log.With("app", a.Name))
	if err != nil {
		return err
	}
	n.clients[a.Name], n.sources[a.Name] = client, client
	n.parts[name] = &part{from: from, run: client.Run, lacks: func() []string {
		if client.Ready() {
			return nil
		}
		return []string{"the metadata of connector " + x.IDP + " for app " + a.Name}
	}}
	return nil
}

// left is what n leaves of s and of the states before it.
func (s *state) left(n *state, now time.Time, grace time.Duration) (out []leaving) {
	if s == nil {
		return nil
	}
	in := map[string]bool{}
	for _, a := range n.envoy.Apps {
		in[a.Route] = true
	}
	for _, l := range s.leaving {
		if now.After(l.until) {
			continue
		}
		l.apps = slices.DeleteFunc(slices.Clone(l.apps), func(a leavingApp) bool { return in[a.app.Route] }) // it is back
		out = append(out, l)
	}
	gone := leaving{until: now.Add(grace)}
	for i, a := range s.envoy.Apps {
		if !in[a.Route] {
			gone.apps = append(gone.apps, leavingApp{s.gate.Apps()[i], a})
		}
	}
	for name, p := range s.parts {
		if n.parts[name] != p {
			gone.parts = append(gone.parts, p)
		}
	}
	if len(gone.apps)+len(gone.parts) > 0 {
		out = append(out, gone)
	}
	return out
}

// everyApp is what Envoy has of s: the apps in force, and those that are leaving.
func (s *state) everyApp() []envoy.App {
	out := slices.Clone(s.envoy.Apps)
	for _, l := range s.leaving {
		for _, a := range l.apps {
			out = append(out, a.envoy)
		}
	}
	return out
}

// retired are the apps of which calls may be under way.
func (s *state) retired() (out []*authz.App) {
	for _, l := range s.leaving {
		for _, a := range l.apps {
			out = append(out, a.app)
		}
	}
	return out
}

// sum is a text that differs when any of the values does. Secrets are to be given by Reveal: they are redacted in JSON.
func sum(values ...any) string {
	h := sha256.New()
	for _, v := range values {
		if err := json.NewEncoder(h).Encode(v); err != nil {
			panic(err) // plain data
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}

// contents is what files hold; a file that cannot be read holds nothing.
func contents(files ...string) (out []string) {
	for _, f := range files {
		text := []byte(nil)
		if f != "" {
			text, _ = os.ReadFile(f)
		}
		out = append(out, string(text))
	}
	return out
}

// profile is all that a TLS profile is: names of files, what they hold, and the rest.
func profile(t *config.TLS) []any {
	if t == nil {
		return nil
	}
	return []any{t, contents(append([]string{t.CertFile, t.KeyFile, t.CAFile, t.CRLFile}, t.ClientCAFiles...)...)}
}

// verifierSum sums up what verifies tokens.
func verifierSum(cfg *config.Config) string {
	oauth := cfg.MCPProvider.Authorization.OAuth
	values := []any{oauth.Enabled, oauth.Servers, oauth.DPoP}
	for _, s := range oauth.Servers {
		values = append(values, s.TokenValidation.Introspection.ClientSecret.Reveal())
	}
	return sum(values...)
}

// clientSum sums up what gets the tokens of one app. A client secret may become another one (see rotate), but not come or go.
func clientSum(cfg *config.Config, x *config.TokenExchange) string {
	values := []any{x.TTLParameter, x.Reuse, x.Timeout}
	for _, c := range cfg.Connectors {
		if c.Name != x.IDP {
			continue
		}
		values = append(values, c, c.OAuthClientSecret != "", c.PrivateKey.Reveal(), contents(c.PrivateKeyFile), profile(cfg.TLS[c.TLS]))
		for _, name := range slices.Sorted(maps.Keys(c.AdditionalParameters)) {
			values = append(values, name, c.AdditionalParameters[name].Reveal())
		}
	}
	return sum(values...)
}
