package service

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/config"
)

// pollInterval is how often the files are looked at. Polling contents, not watching names, is what survives the
// symlink swaps of Kubernetes volumes and the rename dances of editors.
const pollInterval = 500 * time.Millisecond

// watch reloads when a file that the configuration was built from changes. A file that does not load keeps what
// runs, and says so.
func (s *Service) watch(ctx context.Context) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for last := s.Config; ; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if !last.Changed() {
			continue
		}
		var err error
		if last, err = s.reload(); err != nil {
			s.reloads.successful.Set(0)
			s.Log.Error("configuration not reloaded; the previous one stays in force", "error", err)
			continue
		}
		s.reloads.successful.Set(1)
		s.reloads.when.SetToCurrentTime()
		s.Log.Info("configuration reloaded")
	}
}

var errRestart = errors.New("the change reaches beyond policies, tools, limits and client secrets, and takes effect on a restart only")

// reload puts the files as they are now in force, all of them or nothing. It returns what it read in any case.
func (s *Service) reload() (*config.Config, error) {
	cfg, problems := s.Load()
	for _, p := range problems {
		if !p.Warning {
			return cfg, errors.New(p.String())
		}
	}
	if fixed(cfg) != s.fixed {
		return cfg, errRestart
	}
	g, err := s.newGate(cfg)
	if err != nil {
		return cfg, err
	}
	if err := s.rotate(cfg); err != nil {
		return cfg, err
	}
	if err := rekey(s.mints, cfg.Connectors); err != nil {
		return cfg, err
	}
	s.setGate(g)
	return cfg, nil
}

// rotate has the clients of authorization servers use the secrets of cfg.
func (s *Service) rotate(cfg *config.Config) error {
	for _, c := range cfg.Connectors {
		secret := c.OAuthClientSecret.Reveal()
		for _, a := range cfg.Apps {
			client, x := s.clients[a.Name], a.Authorization.Outbound.TokenExchange
			if client == nil || x.IDP != c.Name || secret == "" {
				continue
			}
			if err := client.SetSecret(secret); err != nil {
				return err
			}
		}
	}
	return nil
}

// secrets are those that a reload cannot change.
func secrets(cfg *config.Config) []config.Secret {
	out := []config.Secret{cfg.Session.Key, cfg.Session.Store}
	for _, c := range cfg.Connectors {
		out = append(out, c.PrivateKey)
		for _, name := range slices.Sorted(maps.Keys(c.AdditionalParameters)) {
			out = append(out, c.AdditionalParameters[name])
		}
	}
	for _, s := range cfg.MCPProvider.Authorization.OAuth.Servers {
		out = append(out, s.TokenValidation.Introspection.ClientSecret)
	}
	if cfg.AuthProvider != nil {
		for _, c := range cfg.AuthProvider.Clients {
			out = append(out, c.Secret)
		}
	}
	return out
}

// fixed sums up what a reload cannot change: listeners, keys, connectors, and where the upstreams are.
func fixed(cfg *config.Config) [sha256.Size]byte {
	c := *cfg
	c.Apps = nil
	for _, a := range cfg.Apps {
		a.Authorization.Inbound = config.Inbound{}
		a.AllowBigNumbers, a.ToolList, a.Timeout, a.ToolTimeouts = false, "", 0, nil
		if x := a.Authorization.Outbound.TokenExchange; x != nil {
			exchange := *x
			exchange.Tools, exchange.Prompts, exchange.Resources, exchange.Session = nil, nil, nil, nil
			exchange.Discovery = config.Discovery{}
			exchange.UnlistedTools, exchange.RequireAct, exchange.OpaqueTokens = "", false, false
			exchange.LongerLifetimes, exchange.NarrowerScopes, exchange.SubjectClaim, exchange.RequireSubjectScopes = "", "", "", false
			a.Authorization.Outbound.TokenExchange = &exchange
		}
		c.Apps = append(c.Apps, a)
	}
	c.MCPProvider.Authorization.OAuth.ScopesSupported = nil
	c.HTTP.AllowedHosts, c.HTTP.AllowedOrigins = nil, nil
	sum := sha256.New()
	if err := json.NewEncoder(sum).Encode(c); err != nil {
		panic(err) // a plain struct
	}
	for _, secret := range secrets(cfg) {
		_, _ = io.WriteString(sum, secret.Reveal()+"\x00") // redacted by the encoder
	}
	for _, c := range cfg.Connectors {
		// A client secret may change (see rotate), but not come or go; which keys there are may change, too: see rekey.
		_, _ = fmt.Fprintln(sum, c.OAuthClientSecret != "", c.Keys != "")
		if c.PrivateKeyFile != "" {
			content, _ := os.ReadFile(c.PrivateKeyFile)
			_, _ = sum.Write(content)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.TLS)) {
		t := cfg.TLS[name]
		for _, file := range append([]string{t.CertFile, t.KeyFile, t.CAFile}, t.ClientCAFiles...) {
			content, _ := os.ReadFile(file)
			_, _ = sum.Write(content)
		}
	}
	return [sha256.Size]byte(sum.Sum(nil))
}
