package service

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/authz/glob"
	"github.com/sallyport/sallyport/authz/policy"
	"github.com/sallyport/sallyport/authz/session"
	"github.com/sallyport/sallyport/authz/token"
	"github.com/sallyport/sallyport/authz/token/dpop"
	"github.com/sallyport/sallyport/cmd/sallyport/internal/config"
	"github.com/sallyport/sallyport/envoy"
	"github.com/sallyport/sallyport/exchange"
	"github.com/sallyport/sallyport/exchange/sts"
	"github.com/sallyport/sallyport/extproc/hub"
	"github.com/sallyport/sallyport/mcpparse"
)

// Translations from the configuration file to what each package wants. Nothing here decides anything.

// Gateway describes cfg's gateway to the Envoy generator.
func Gateway(cfg *config.Config, s Sockets) envoy.Gateway {
	servicePath, _ := strings.CutPrefix(s.Service, "unix:")
	g := envoy.Gateway{
		Listen: cfg.HTTP.Address, Paths: endpoints(cfg),
		ServiceSocket: servicePath, HubSocket: s.Hub, EgressSocket: s.Egress, AdminSocket: s.Admin,
		MaxRequestBytes: uint32(cfg.HTTP.MaxRequestBytes),
		MessageTimeout:  messageTimeout(cfg),
		MaxConnections:  uint32(cfg.HTTP.MaxConnections), //nolint:gosec // config has bounded it
		RequestLimit:    rate(cfg.HTTP.RequestLimit),
	}
	if cfg.Service.Upstreams == "direct" {
		g.EgressSocket = ""
	}
	for _, r := range cfg.Service.Replicas {
		where, isSocket := strings.CutPrefix(r.Address, "unix:")
		hub := r.Hub
		if isSocket {
			hub = filepath.Join(filepath.Dir(where), hubSocket)
		}
		g.Replicas = append(g.Replicas, envoy.Replica{Service: where, Hub: hub})
	}
	switch cfg.Service.Filter {
	case "extAuthz":
		g.Filter = envoy.FilterExtAuthz
	case "extProcDuplex":
		g.Filter = envoy.FilterExtProcDuplex
	}
	if t := cfg.TLS[cfg.Service.EnvoyTLS]; t != nil {
		g.ServiceTLS = upstreamTLS(t)
	}
	if t := cfg.TLS[cfg.HTTP.TLS]; t != nil {
		g.TLS = &envoy.ListenerTLS{CertFile: t.CertFile, KeyFile: t.KeyFile, MinVersion: t.MinVersion}
		if len(t.ClientCAFiles) > 0 && t.ClientAuth != "NoClientCert" {
			g.TLS.ClientCAFile, g.TLS.ClientCAs = clientAuthorities(t)
			g.TLS.ClientCRLFile, g.TLS.ClientSPIFFEIDs = t.CRLFile, t.SPIFFEIDs
			g.TLS.ClientCertOptional = t.ClientAuth == "VerifyClientCertIfGiven"
		}
	}
	for _, a := range cfg.Apps {
		up := a.Upstream.Endpoint()
		app := envoy.App{Name: a.Name, URL: up.URL, EndpointEvents: a.Upstream.Transport == "sse", DialTimeout: up.Connection.DialTimeout, KeepAlive: up.Connection.KeepAlive.Interval,
			MaxRequests: uint32(up.Connection.MaxRequests), CallLimit: rate(a.CallLimit)} //nolint:gosec // config has bounded it
		if t := cfg.TLS[up.TLS]; t != nil {
			app.TLS = upstreamTLS(t)
		}
		g.Apps = append(g.Apps, app)
	}
	return g
}

func rate(r *config.Rate) envoy.Rate {
	if r == nil {
		return envoy.Rate{}
	}
	return envoy.Rate{Calls: uint32(r.Calls), Per: r.Per} //nolint:gosec // config has bounded it
}

// messageTimeout is how long Envoy waits for an answer: longer than everything that the service may wait for.
func messageTimeout(cfg *config.Config) time.Duration {
	longest, _ := longestWait(cfg)
	return longest + waitMargin
}

const (
	shortestWait = 5 * time.Second // however little may be waited for
	waitMargin   = 5 * time.Second // for a policy, and a session to open at the upstream
)

// longestWait is how long the service may wait for somebody else before it answers, and the key that says so.
func longestWait(cfg *config.Config) (longest time.Duration, key string) {
	longest = shortestWait
	for _, a := range cfg.Apps {
		if x := a.Authorization.Outbound.TokenExchange; x != nil && x.Timeout > longest {
			longest, key = x.Timeout, "apps."+a.Name+".authorization.outbound.tokenExchange.timeout"
		}
	}
	for _, s := range cfg.MCPProvider.Authorization.OAuth.Servers {
		if v := s.TokenValidation; v.Method == "introspection" && v.Introspection.Timeout > longest {
			longest, key = v.Introspection.Timeout, "mcpProvider.authorization.oauth.servers.tokenValidation.introspection.timeout"
		}
	}
	return longest, key
}

// endpoints are the paths at which agents speak MCP, the stream's first.
func endpoints(cfg *config.Config) []string {
	t := cfg.MCPProvider.Transports
	var paths []string
	if t.Stream.Enabled {
		paths = append(paths, t.Stream.Path)
	}
	if t.SSE.Enabled {
		paths = append(paths, t.SSE.Path, t.SSE.MessagePath)
	}
	return paths
}

// sessionHeader is the lower-case name of the session header, "" when sessions are off.
func sessionHeader(cfg *config.Config) string {
	s := cfg.MCPProvider.Transports.Stream.Session
	if !s.Enabled {
		return ""
	}
	return strings.ToLower(s.HeaderName)
}

// MCPURL is the address that agents are given.
func MCPURL(cfg *config.Config) string {
	return origin(cfg) + endpoints(cfg)[0]
}

func origin(cfg *config.Config) string {
	scheme := "http"
	if cfg.HTTP.TLS != "" {
		scheme = "https"
	}
	host := cfg.HTTP.Address
	if at, err := netip.ParseAddrPort(host); err == nil && at.Addr().IsUnspecified() || strings.HasPrefix(host, ":") {
		host = "127.0.0.1" + host[strings.LastIndexByte(host, ':'):]
	}
	return scheme + "://" + host
}

// newVerifier makes what verifies agents' tokens. Used proofs are remembered in proofs, nil for this process's memory.
func newVerifier(cfg *config.Config, proofs dpop.Replays, log *slog.Logger, revoked func(*token.Identity) bool) (*token.Verifier, error) {
	oauth := cfg.MCPProvider.Authorization.OAuth
	if !oauth.Enabled {
		return nil, nil
	}
	c := token.Config{Log: log, DPoP: dpopConfig(cfg, proofs), Revoked: revoked}
	for i := range oauth.Servers {
		c.Issuers = append(c.Issuers, issuerConfig(&oauth.Servers[i]))
	}
	return token.New(c)
}

// newExchange makes the OAuth client of one app: apps may ask one connector in different ways.
func newExchange(cfg *config.Config, x *config.TokenExchange, log *slog.Logger) (*exchange.Client, error) {
	for _, c := range cfg.Connectors {
		if c.Name != x.IDP {
			continue
		}
		trust, err := ClientTLS(cfg.TLS[c.TLS])
		if err != nil {
			return nil, err
		}
		var networks []netip.Prefix
		for _, n := range c.AllowNetworks {
			networks = append(networks, netip.MustParsePrefix(n)) // config has parsed them
		}
		parameter := x.TTLParameter
		if parameter == "" {
			parameter = "-"
		}
		key, err := clientKey(&c)
		if err != nil {
			return nil, err
		}
		return exchange.New(exchange.Config{WellKnown: c.OIDCWellKnownURL, ClientID: c.OAuthClientID,
			ClientSecret: c.OAuthClientSecret.Reveal(), Key: key, AuthMethod: c.TokenEndpointAuthMethod, TTLParameter: parameter,
			AdditionalParameters: c.Parameters(), OnBehalfOf: c.Grant == "onBehalfOf", TokenIssuer: c.TokenIssuer,
			Breaker:       exchange.Breaker{Failures: c.Breaker.Failures, BackOff: c.Breaker.BackOff, MaxBackOff: c.Breaker.MaxBackOff},
			MaxConcurrent: c.MaxConcurrent, Reuse: x.Reuse,
			Timeout: x.Timeout, TLS: trust, AllowPlainHTTP: c.AllowPlainHTTP, AllowNetworks: networks, Log: log})
	}
	return nil, fmt.Errorf("connector %q does not exist", x.IDP)
}

// clientKey is what connector c signs its assertions with; nil for nothing.
func clientKey(c *config.Connector) (*exchange.ClientKey, error) {
	pem := []byte(c.PrivateKey.Reveal())
	if c.PrivateKeyFile != "" {
		var err error
		if pem, err = os.ReadFile(c.PrivateKeyFile); err != nil {
			return nil, err
		}
	}
	if len(pem) == 0 {
		return nil, nil
	}
	key, err := exchange.ParseClientKey(pem)
	if err != nil {
		return nil, err
	}
	key.ID, key.Audience = c.KeyID, exchange.AssertionToIssuer
	if c.AssertionAudience == "tokenEndpoint" {
		key.Audience = exchange.AssertionToTokenEndpoint
	}
	return key, nil
}

// newApp compiles an app's policy and rules; sources says by app name where tokens come from.
func newApp(a *config.App, sources map[string]tokenSource) (*authz.App, error) {
	opa := a.Authorization.Inbound.OPA
	if opa == nil {
		return nil, fmt.Errorf("app %q has no inbound policy", a.Name)
	}
	p, err := policy.Compile(opa.Name, opa.File, opa.Source)
	if err != nil {
		return nil, err
	}
	app := &authz.App{Name: a.Name, Prefix: a.ToolNamespace.Name, Route: envoy.AppRoute(a.Name), Policy: p,
		AllowBigNumbers: a.AllowBigNumbers, ListAll: a.ToolList == "all", Metered: a.CallLimit != nil,
		Era: map[string]mcpparse.Era{"legacy": mcpparse.EraLegacy, "modern": mcpparse.EraModern}[a.Upstream.Era]}
	if app.Timeouts, err = timeouts(a); err != nil {
		return nil, err
	}
	if a.ToolNamespace.Disabled {
		app.Prefix = ""
	}
	if a.Upstream.Transport == "sse" {
		if app.OldTransport, err = url.Parse(a.Upstream.SSE.URL); err != nil {
			return nil, err
		}
	}
	x := a.Authorization.Outbound.TokenExchange
	if a.Authorization.Outbound.Type != "tokenExchange" || x == nil {
		return app, nil
	}
	source := exchanger{sources[a.Name]}
	app.Exchange = &authz.ExchangeRule{Exchanger: source, Audience: x.Audience, Resource: x.Resource, Discovery: authz.Discovery{Tokens: source},
		SubjectClaim: x.SubjectClaim, SubjectScopes: x.RequireSubjectScopes,
		AllowLonger: x.LongerLifetimes == "accept", AllowNarrower: x.NarrowerScopes == "accept",
		Delegation: x.Type == "delegation", ActorToken: x.ActorToken != "", RequireAct: x.RequireAct,
		AllowOpaque: x.OpaqueTokens, AllowOthers: x.UnlistedTools == "allow"}
	return app, addRules(app.Exchange, x)
}

// addRules says what each token may do.
func addRules(rule *authz.ExchangeRule, x *config.TokenExchange) (err error) {
	tools, prompts, resources := map[string]authz.TokenRule{}, map[string]authz.TokenRule{}, map[string]authz.TokenRule{}
	for _, t := range x.Tools {
		tools[t.Name] = tokenRule(t.TTL, t.Scopes, t.Requires)
	}
	for _, p := range x.Prompts {
		prompts[p.Name] = tokenRule(p.TTL, p.Scopes, p.Requires)
	}
	for _, r := range x.Resources {
		resources[r.URI] = tokenRule(r.TTL, r.Scopes, r.Requires)
	}
	if x.Session != nil {
		session := tokenRule(x.Session.TTL, x.Session.Scopes, nil)
		rule.Session = &session
	}
	rule.Discovery.Type = discoveryTypes[x.Discovery.Type]
	rule.Discovery.TokenRule = tokenRule(x.Discovery.TTL, x.Discovery.Scopes, nil)
	for _, l := range []struct {
		rules    *authz.Rules
		patterns map[string]authz.TokenRule
	}{{&rule.Tools, tools}, {&rule.Prompts, prompts}, {&rule.Resources, resources}} {
		if *l.rules, err = authz.NewRules(l.patterns); err != nil {
			return err
		}
	}
	return nil
}

var discoveryTypes = map[string]authz.DiscoveryType{"none": authz.DiscoverBare, "clientCredentials": authz.DiscoverAsGateway, "tokenExchange": authz.DiscoverAsAgent}

func tokenRule(ttl time.Duration, scopes, requires []config.Scope) authz.TokenRule {
	return authz.TokenRule{Lifetime: ttl, Scopes: scopeNames(scopes), Requires: scopeNames(requires)}
}

func scopeNames(scopes []config.Scope) []string {
	var names []string
	for _, s := range scopes {
		names = append(names, s.Name)
	}
	return names
}

func timeouts(a *config.App) (authz.Timeouts, error) {
	tools := map[string]time.Duration{}
	for _, t := range a.ToolTimeouts {
		tools[t.Name] = t.Timeout
	}
	table, err := glob.NewTable(tools)
	return authz.Timeouts{Default: a.Timeout, Tools: table}, err
}

// newSealer seals session ids with the configured key, or with one that lives as long as the process.
func newSealer(cfg *config.Config) (*session.Sealer, error) {
	return session.NewSealer(sessionKey(cfg))
}

func sessionKey(cfg *config.Config) []byte {
	key := []byte(cfg.Session.Key.Reveal())
	if len(key) == 0 {
		key = make([]byte, session.MinKeyBytes)
		rand.Read(key)
	}
	return key
}

// storeDeadline bounds the first word with the session store. One that is away at the start is an error of the
// configuration; one that goes away later refuses legacy messages until it is back.
const storeDeadline = 5 * time.Second

// newStore opens what replicas share about sessions, or keeps it in memory.
func newStore(cfg *config.Config, log *slog.Logger) (hub.Store, error) {
	timeout := cfg.MCPProvider.Transports.Stream.Session.Timeout
	address, ok := cfg.Session.Redis()
	if !ok {
		return hub.NewMemory(timeout, time.Now), nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), storeDeadline)
	defer cancel()
	return hub.NewRedis(ctx, address, timeout, time.Now, log)
}

func audiences(cfg *config.Config) []string {
	var out []string
	for _, s := range cfg.MCPProvider.Authorization.OAuth.Servers {
		out = append(out, s.TokenValidation.ExpectedAudiences...)
	}
	return out
}

// newSTS makes the embedded authorization server, or nil when the file has none.
func newSTS(cfg *config.Config, log *slog.Logger) (*sts.Server, error) {
	p := cfg.AuthProvider
	if p == nil || !p.Enabled {
		return nil, nil
	}
	c := sts.Config{Issuer: p.Issuer, DefaultAudience: p.DefaultAudience, Resources: p.Resources, Scopes: p.Scopes,
		AccessTokenLifetime: p.AccessTokenLifetime, AllowWiderScopes: p.AllowWiderScopes, Log: log}
	if p.KeyFile != "" {
		pem, err := os.ReadFile(p.KeyFile)
		if err != nil {
			return nil, err
		}
		if c.Key, err = sts.ParseKey(pem); err != nil {
			return nil, fmt.Errorf("%s: %w", p.KeyFile, err)
		}
	}
	for _, u := range p.Users {
		c.Users = append(c.Users, sts.User{Subject: u.Subject, Claims: u.Claims, Scopes: u.Scopes})
	}
	for _, cl := range p.Clients {
		c.Clients = append(c.Clients, sts.Client{ID: cl.ID, Secret: cl.Secret.Reveal(), Public: cl.Public,
			Redirects: cl.RedirectURIs, Grants: cl.Grants, Scopes: cl.Scopes, Exchange: sts.Exchange(cl.Exchange)})
	}
	return sts.New(c)
}

// paths are where the gate answers what.
func paths(cfg *config.Config) authz.Paths {
	t := cfg.MCPProvider.Transports
	p := authz.Paths{Metadata: cfg.MCPProvider.Authorization.OAuth.MetadataPath, Health: cfg.Health.Location}
	if t.Stream.Enabled {
		p.MCP = t.Stream.Path
	}
	if t.SSE.Enabled {
		p.SSE, p.Message = t.SSE.Path, t.SSE.MessagePath
	}
	return p
}
