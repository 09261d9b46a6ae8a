package service

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/authz/token"
	"github.com/sallyport/sallyport/cmd/sallyport/internal/config"
	"github.com/sallyport/sallyport/envoy"
)

// restartError names the keys whose change takes effect on a restart only.
type restartError []string

func (e restartError) Error() string {
	return strings.Join(e, ", ") + ": a change takes effect on a restart only"
}

// restart returns the keys, if any, that are other than at the start and that a reload cannot put in force: what listens, who
// shares what, and what a listener of Envoy's is made of, since to change that one ends every open stream.
func (s *Service) restart(cfg *config.Config) error {
	was, is := s.lasting, s.lastingOf(cfg)
	var changed restartError
	keys := maps.Clone(was)
	maps.Copy(keys, is)
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		if was[key] != is[key] {
			changed = append(changed, key)
		}
	}
	if longest, key := longestWait(cfg); longest > s.messageTimeout-waitMargin {
		changed = append(changed, key)
	}
	if clockSkew(cfg) > s.skew {
		changed = append(changed, "mcpProvider.authorization.oauth.servers.tokenValidation.jwt.clockSkew")
	}
	if changed == nil {
		return nil
	}
	return changed
}

// lastingOf sums up, by key, what a reload cannot change.
func (s *Service) lastingOf(cfg *config.Config) map[string]string {
	t, oauth := cfg.MCPProvider.Transports, cfg.MCPProvider.Authorization.OAuth
	out := map[string]string{
		"http.address":           sum(cfg.HTTP.Address),
		"http.maxRequestBytes":   sum(cfg.HTTP.MaxRequestBytes),
		"http.maxConnections":    sum(cfg.HTTP.MaxConnections),
		"http.requestLimit":      sum(cfg.HTTP.RequestLimit),
		"http.tls":               sum(s.listenerTLS(cfg)),
		"health.location":        sum(cfg.Health.Location),
		"admin.address":          sum(cfg.Admin.Address),
		"service":                sum(cfg.Service),
		"session.key":            sum(cfg.Session.Key.Reveal()),
		"session.store":          sum(cfg.Session.Store.Reveal()),
		"revocation.file":        sum(cfg.Revocation.File),
		"audit.file":             sum(cfg.Audit.File),
		"logger.level":           sum(cfg.Logger.Level),
		"authProvider":           authProviderSum(cfg.AuthProvider),
		"mcpProvider.transports": sum(t),
		"mcpProvider.authorization.oauth.enabled":      sum(oauth.Enabled),
		"mcpProvider.authorization.oauth.metadataPath": sum(oauth.MetadataPath),
		"mcpProvider.authorization.oauth.dpop":         sum(oauth.DPoP),
		"connectors.address":                           sum(publishedAt(cfg)),
	}
	if !s.Dynamic {
		g := Gateway(cfg, s.Sockets)
		for _, a := range g.Apps {
			key := "apps." + a.Name + ".upstream"
			out[key] = sum(a) // what the files hold Envoy follows by itself (envoy.SecretFiles)
		}
	}
	return out
}

// listenerTLS is what an Envoy's listener has of its profile: with static configuration the names of files, too.
func (s *Service) listenerTLS(cfg *config.Config) any {
	t := Gateway(cfg, s.Sockets).TLS
	switch {
	case t == nil:
		return nil
	case !s.Dynamic:
		return t
	}
	return []any{t.MinVersion, t.ClientCertOptional, t.Verifies()}
}

func authProviderSum(p *config.AuthProvider) string {
	if p == nil {
		return ""
	}
	values := []any{p, contents(p.KeyFile)}
	for _, c := range p.Clients {
		values = append(values, c.Secret.Reveal())
	}
	return sum(values...)
}

// publishedAt are the addresses on which connectors publish something.
func publishedAt(cfg *config.Config) (out []string) {
	for _, c := range cfg.Connectors {
		if c.Type == "sts" && c.Address != "" && !slices.Contains(out, c.Address) {
			out = append(out, c.Address)
		}
	}
	slices.Sort(out)
	return out
}

// clockSkew is how long after its expiry some token is still accepted.
func clockSkew(cfg *config.Config) (longest time.Duration) {
	for _, server := range cfg.MCPProvider.Authorization.OAuth.Servers {
		skew := server.TokenValidation.JWT.ClockSkew
		if skew == 0 { // as the verifier has it
			skew = token.DefaultClockSkew
		}
		longest = max(longest, skew)
	}
	return longest
}

// gatewayOf describes cfg's gateway to the Envoy generator as this service's Envoy is to have it.
func (s *Service) gatewayOf(cfg *config.Config) envoy.Gateway {
	g := Gateway(cfg, s.Sockets)
	g.MessageTimeout = s.messageTimeout // a listener keeps it
	if s.Dynamic {
		g = dynamic(g)
	}
	return g
}

func dynamic(g envoy.Gateway) envoy.Gateway {
	g.Dynamic = true
	for i := range g.Apps {
		g.Apps[i].Route = envoy.VersionedRoute(g.Apps[i])
	}
	return g
}

// Bootstrap is the file that an Envoy of cfg's gateway starts with: static, or to ask the service for everything.
//
// With a secretsDir, where Envoy will find the files that are returned beside it, Envoy follows the replacement of certificates
// that it does not get from the service.
func Bootstrap(cfg *config.Config, s Sockets, ads bool, secretsDir string) (bootstrap []byte, secrets map[string][]byte, err error) {
	if cfg.Service.TLS != "" && cfg.Service.EnvoyTLS == "" {
		return nil, nil, errors.New("service.envoyTLS is missing: Envoy has to show a certificate to the service")
	}
	g := Gateway(cfg, s)
	g.SecretsDir = secretsDir
	if ads {
		g = dynamic(g)
	}
	if bootstrap, err = envoy.Bootstrap(g); err != nil {
		return nil, nil, err
	}
	secrets, err = envoy.SecretFiles(g)
	return bootstrap, secrets, err
}
