package service

import (
	"context"
	"crypto/tls"
	"errors"
	"os"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/authz/glob"
	"github.com/sallyport/sallyport/authz/policy"
	"github.com/sallyport/sallyport/authz/session"
	"github.com/sallyport/sallyport/cmd/sallyport/internal/config"
	"github.com/sallyport/sallyport/envoy"
	"github.com/sallyport/sallyport/exchange"
	"github.com/sallyport/sallyport/mcpparse"
)

func readFile(path string) (string, error) {
	content, err := os.ReadFile(path)
	return string(content), err
}

func TestGatewayOfAConfiguration(t *testing.T) {
	f := newFiles(t)
	cfg := f.config()
	s := Sockets{Service: "unix:/s/service.sock", Hub: "/s/hub.sock", Egress: "/s/egress.sock", Admin: "/s/envoy-admin.sock"}
	want := envoy.Gateway{Listen: "127.0.0.1:8080", Paths: []string{"/mcp", "/mcp/sse", "/mcp/message"},
		ServiceSocket: "/s/service.sock", HubSocket: "/s/hub.sock", EgressSocket: "/s/egress.sock", AdminSocket: "/s/envoy-admin.sock",
		MaxRequestBytes: 1 << 20, MessageTimeout: 14 * time.Second, MaxConnections: 50_000, // the slowest exchange and 5 s
		Apps: []envoy.App{
			{Name: "items", URL: "https://items.example/mcp", DialTimeout: 3 * time.Second, KeepAlive: 7 * time.Second, MaxRequests: 100_000, TLS: &envoy.UpstreamTLS{CAFile: f.path("ca.pem"), MinVersion: "1.3"}},
			{Name: "open", URL: "http://open.internal/mcp", DialTimeout: 10 * time.Second, KeepAlive: 15 * time.Second, MaxRequests: 100_000},
		}}
	if d := cmp.Diff(want, Gateway(cfg, s)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	cfg.HTTP.TLS = "server"
	cfg.TLS["server"] = &config.TLS{CertFile: "/c", KeyFile: "/k", ClientAuth: "RequireAndVerifyClientCert", ClientCAFiles: []string{"/ca"}, MinVersion: "1.2"}
	cfg.MCPProvider.Transports.SSE.Enabled = false
	got := Gateway(cfg, s)
	if d := cmp.Diff(&envoy.ListenerTLS{CertFile: "/c", KeyFile: "/k", ClientCAFile: "/ca", MinVersion: "1.2"}, got.TLS); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"/mcp"}, got.Paths); d != "" {
		t.Error(d)
	}
	up := &cfg.Apps[1].Upstream
	up.Transport, up.SSE = "sse", config.UpstreamStream{URL: "http://open.internal/events", Connection: up.Stream.Connection}
	want.Apps[1] = envoy.App{Name: "open", URL: "http://open.internal/events", EndpointEvents: true, DialTimeout: 10 * time.Second, KeepAlive: 15 * time.Second, MaxRequests: 100_000}
	if d := cmp.Diff(want.Apps, Gateway(cfg, s).Apps); d != "" {
		t.Error(d)
	}
}

// Where agents speak MCP, by the transports that are on: to Envoy, to the gate and to those who are given the address.
func TestEndpoints(t *testing.T) {
	for _, test := range []struct {
		stream, sse bool
		want        authz.Paths
		all         []string
	}{
		{true, true, authz.Paths{MCP: "/mcp", SSE: "/mcp/sse", Message: "/mcp/message"}, []string{"/mcp", "/mcp/sse", "/mcp/message"}},
		{true, false, authz.Paths{MCP: "/mcp"}, []string{"/mcp"}},
		{false, true, authz.Paths{SSE: "/mcp/sse", Message: "/mcp/message"}, []string{"/mcp/sse", "/mcp/message"}},
	} {
		cfg := newFiles(t).config()
		cfg.MCPProvider.Transports.Stream.Enabled, cfg.MCPProvider.Transports.SSE.Enabled = test.stream, test.sse
		test.want.Metadata, test.want.Health = "/.well-known/oauth-protected-resource", cfg.Health.Location
		if d := cmp.Diff(test.want, paths(cfg)); d != "" {
			t.Error(d)
		}
		if d := cmp.Diff(test.all, endpoints(cfg)); d != "" {
			t.Error(d)
		}
		if got := MCPURL(cfg); got != "http://127.0.0.1:8080"+test.all[0] {
			t.Error(got)
		}
	}
}

func TestMessageTimeoutIsLongerThanAnyExchange(t *testing.T) {
	exchange := func(timeout time.Duration) config.App {
		return config.App{Authorization: config.AppAuthorization{Outbound: config.Outbound{TokenExchange: &config.TokenExchange{Timeout: timeout}}}}
	}
	for want, apps := range map[time.Duration][]config.App{
		10 * time.Second: {{}, exchange(time.Second)},
		35 * time.Second: {exchange(time.Second), exchange(30 * time.Second), exchange(2 * time.Second)},
	} {
		if got := messageTimeout(&config.Config{Apps: apps}); got != want {
			t.Errorf("%v, want %v", got, want)
		}
	}
}

func TestMCPURL(t *testing.T) {
	for _, test := range []struct{ address, tls, want string }{
		{"127.0.0.1:8080", "", "http://127.0.0.1:8080/mcp"},
		{"localhost:8080", "", "http://localhost:8080/mcp"},
		{"0.0.0.0:8080", "", "http://127.0.0.1:8080/mcp"},
		{"[::]:8080", "", "http://127.0.0.1:8080/mcp"},
		{":8080", "", "http://127.0.0.1:8080/mcp"},
		{"[::1]:8443", "server", "https://[::1]:8443/mcp"},
		{"gw.example:443", "server", "https://gw.example:443/mcp"},
	} {
		cfg := &config.Config{HTTP: config.HTTP{Address: test.address, TLS: test.tls}}
		cfg.MCPProvider.Transports.Stream.Path, cfg.MCPProvider.Transports.Stream.Enabled = "/mcp", true
		if got := MCPURL(cfg); got != test.want {
			t.Errorf("%s: %s, want %s", test.address, got, test.want)
		}
	}
}

func TestSessionHeader(t *testing.T) {
	cfg := newFiles(t).config()
	if got := sessionHeader(cfg); got != "x-session-id" {
		t.Errorf("%q", got)
	}
	cfg.MCPProvider.Transports.Stream.Session.Enabled = false
	if got := sessionHeader(cfg); got != "" {
		t.Errorf("off: %q", got)
	}
}

func TestNewApp(t *testing.T) {
	cfg := newFiles(t).config()
	protected := &cfg.Apps[0]
	x := protected.Authorization.Outbound.TokenExchange
	x.ActorToken, x.RequireAct, x.OpaqueTokens, x.UnlistedTools = "clientCredentials", true, true, "allow"
	x.Resource, x.SubjectClaim, x.RequireSubjectScopes, x.LongerLifetimes, x.NarrowerScopes = "https://items.example/mcp", "oid", true, "accept", "accept"
	x.Prompts = []config.Prompt{{Name: "ask", TTL: 6 * time.Second, Scopes: []config.Scope{{Name: "item:Ask"}}, Requires: []config.Scope{{Name: "items"}}}}
	x.Resources = []config.Resource{{URI: "items://*", TTL: 7 * time.Second, Requires: []config.Scope{{Name: "read"}}}}
	x.Tools[0].Requires = []config.Scope{{Name: "items"}, {Name: "get"}}
	x.Discovery = config.Discovery{Type: "clientCredentials", TTL: 9 * time.Second, Scopes: []config.Scope{{Name: "item:Look"}}}
	x.Session = &config.SessionToken{TTL: 8 * time.Second, Scopes: []config.Scope{{Name: "item:Listen"}}}
	protected.ToolList, protected.AllowBigNumbers = "all", true
	protected.ToolTimeouts = []config.ToolTimeout{{Name: "slow*", Timeout: time.Hour}}
	client := &exchange.Client{}
	got, err := newApp(protected, map[string]tokenSource{"items": client})
	must(t, err)
	slow, err := glob.NewTable(map[string]time.Duration{"slow*": time.Hour})
	must(t, err)
	want := &authz.App{Name: "items", Prefix: "items_", Route: envoy.AppRoute("items"), AllowBigNumbers: true, ListAll: true,
		Exchange: &authz.ExchangeRule{Audience: "https://items.example/", Delegation: true, ActorToken: true, RequireAct: true, AllowOpaque: true,
			AllowOthers: true, Resource: "https://items.example/mcp", SubjectClaim: "oid", SubjectScopes: true, AllowLonger: true, AllowNarrower: true,
			Tools:     tokenRules(t, map[string]authz.TokenRule{"get": {Scopes: []string{"item:Get"}, Lifetime: 5 * time.Second, Requires: []string{"items", "get"}}}),
			Prompts:   tokenRules(t, map[string]authz.TokenRule{"ask": {Scopes: []string{"item:Ask"}, Lifetime: 6 * time.Second, Requires: []string{"items"}}}),
			Resources: tokenRules(t, map[string]authz.TokenRule{"items://*": {Lifetime: 7 * time.Second, Requires: []string{"read"}}}),
			Session:   &authz.TokenRule{Scopes: []string{"item:Listen"}, Lifetime: 8 * time.Second},
			Discovery: authz.Discovery{Type: authz.DiscoverAsGateway, Tokens: exchanger{client}, TokenRule: authz.TokenRule{Scopes: []string{"item:Look"}, Lifetime: 9 * time.Second}}},
		Timeouts: authz.Timeouts{Default: 10 * time.Minute, Tools: slow}}
	sameRules := cmp.Comparer(func(a, b authz.Rules) bool { return reflect.DeepEqual(a, b) })
	sameTable := cmp.Comparer(func(a, b glob.Table[time.Duration]) bool { return reflect.DeepEqual(a, b) })
	if d := cmp.Diff(want, got, sameRules, sameTable, cmpopts.IgnoreFields(authz.ExchangeRule{}, "Exchanger"), cmpopts.EquateComparable(exchanger{}), cmpopts.IgnoreFields(authz.App{}, "Policy")); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if got.Exchange.Exchanger != (exchanger{client}) || got.Policy.Name() != "items-authz" {
		t.Errorf("%+v", got)
	}
	x.Type, x.UnlistedTools = "impersonation", "deny"
	got, err = newApp(protected, nil)
	must(t, err)
	if got.Exchange.Delegation || got.Exchange.AllowOthers {
		t.Errorf("impersonation: %+v", got.Exchange)
	}
	protected.Authorization.Outbound.Type = "unprotected" // with the exchange left in the file
	protected.ToolNamespace.Disabled = true
	got, err = newApp(protected, nil)
	must(t, err)
	if got.Exchange != nil || got.Prefix != "" || got.Era != mcpparse.EraUnknown || got.OldTransport != nil {
		t.Errorf("unprotected, without a namespace: %+v", got)
	}
	for era, want := range map[string]mcpparse.Era{"auto": mcpparse.EraUnknown, "legacy": mcpparse.EraLegacy, "modern": mcpparse.EraModern} {
		protected.Upstream.Era = era
		if got, err = newApp(protected, nil); err != nil || got.Era != want {
			t.Errorf("era %s: %v, %v", era, got, err)
		}
	}
	protected.Upstream.Transport, protected.Upstream.SSE.URL = "sse", "https://items.example/events"
	if got, err = newApp(protected, nil); err != nil || got.OldTransport.String() != "https://items.example/events" {
		t.Errorf("the old transport: %v, %v", got, err)
	}
	x.Tools, protected.Authorization.Outbound.Type = []config.Tool{{Name: "a*"}, {Name: "a*b"}}, "tokenExchange"
	if _, err = newApp(protected, nil); err == nil {
		t.Error("patterns that tie were accepted")
	}
	protected.Authorization.Inbound.OPA.Source = []byte("package other")
	var faulty policy.Errors
	if _, err := newApp(protected, nil); !errors.As(err, &faulty) {
		t.Errorf("a faulty policy: %v", err)
	}
}

func tokenRules(t *testing.T, patterns map[string]authz.TokenRule) authz.Rules {
	t.Helper()
	r, err := authz.NewRules(patterns)
	must(t, err)
	return r
}

func TestClientTLS(t *testing.T) {
	f := newFiles(t)
	if c, err := ClientTLS(nil); c != nil || err != nil {
		t.Errorf("no profile: %v, %v", c, err)
	}
	c, err := ClientTLS(&config.TLS{CAFile: f.path("ca.pem"), MinVersion: "1.3"})
	must(t, err)
	if c.MinVersion != tls.VersionTLS13 || c.RootCAs == nil || c.InsecureSkipVerify {
		t.Errorf("%+v", c)
	}
	c, err = ClientTLS(&config.TLS{MinVersion: "1.2"})
	must(t, err)
	if c.MinVersion != tls.VersionTLS12 || c.RootCAs != nil {
		t.Errorf("%+v", c)
	}
	for _, p := range []config.TLS{{CAFile: f.path("none")}, {CAFile: f.path("c.yaml")}, {CertFile: f.path("ca.pem"), KeyFile: f.path("ca.pem")}} {
		if _, err := ClientTLS(&p); err == nil {
			t.Errorf("%+v: accepted", p)
		}
	}
}

func TestSealers(t *testing.T) {
	seal := func(key config.Secret) string {
		s, err := newSealer(&config.Config{Session: config.Session{Key: key}})
		must(t, err)
		id, err := s.Seal(owner, sess)
		must(t, err)
		return id
	}
	open := func(key config.Secret, id string) error {
		s, err := newSealer(&config.Config{Session: config.Session{Key: key}})
		must(t, err)
		_, err = s.Open(id, owner)
		return err
	}
	const key = "0123456789abcdef0123456789abcdef"
	if err := open(key, seal(key)); err != nil {
		t.Errorf("a configured key: %v", err)
	}
	if err := open("", seal("")); err == nil {
		t.Error("two processes without a key share one")
	}
}

func TestAudiences(t *testing.T) {
	if d := cmp.Diff([]string{"https://gateway.example/", "https://gateway.example/mcp"}, audiences(newFiles(t).config())); d != "" {
		t.Error(d)
	}
}

func TestWithoutOAuth(t *testing.T) {
	cfg := newFiles(t).config()
	cfg.MCPProvider.Authorization.OAuth.Enabled = false
	v, err := newVerifier(cfg, nil, nil, nil)
	if v != nil || err != nil {
		t.Errorf("%v, %v", v, err)
	}
	r := prometheus.NewRegistry()
	s := &Service{}
	s.state.Store(&state{})
	r.MustRegister(keySets{s})
	if families, err := r.Gather(); err != nil || len(families) != 0 {
		t.Errorf("key sets of nobody: %v, %v", families, err)
	}
}

func TestKeySets(t *testing.T) {
	s := newFiles(t).service()
	r := prometheus.NewRegistry()
	r.MustRegister(keySets{s})
	families, err := r.Gather()
	if err != nil {
		t.Fatalf("two issuers that are not known yet: %v", err)
	}
	if len(families) != 6 || len(families[0].GetMetric()) != 2 {
		t.Errorf("%v", families)
	}
}

func TestNoEmbeddedServer(t *testing.T) {
	for _, p := range []*config.AuthProvider{nil, {Enabled: false}} {
		if s, err := newSTS(&config.Config{AuthProvider: p}, nil); s != nil || err != nil {
			t.Errorf("%v, %v", s, err)
		}
	}
	if _, err := newSTS(&config.Config{AuthProvider: &config.AuthProvider{Enabled: true, KeyFile: "/nonexistent"}}, nil); err == nil {
		t.Error("a key file that does not exist")
	}
}

// The adapter keeps the difference between "no" and "not now".
func TestExchangerErrors(t *testing.T) {
	client, err := exchange.New(exchange.Config{WellKnown: "https://idp.example/.well-known/openid-configuration", ClientID: "g", ClientSecret: "s", Timeout: time.Second})
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = exchanger{client}.Exchange(ctx, authz.TokenRequest{SubjectToken: "t", Subject: "ann", Rule: &authz.ExchangeRule{Audience: "https://items.example/"}})
	var why *authz.ExchangeError
	if !errors.As(err, &why) || why.Refused {
		t.Errorf("no metadata yet: %v", err)
	}
}

var (
	owner = session.Owner{Issuer: "i", Subject: "s", ClientID: "c", Route: "/mcp"}
	sess  = session.Session{ID: session.NewID(), Version: "2025-11-25", Issued: time.Unix(1, 0)}
)

// refuser is a token source that refuses with the words of its server.
type refuser struct{ exchange.Error }

func (r *refuser) Exchange(context.Context, exchange.Request) (*exchange.Token, error) {
	return nil, &r.Error
}

func (r *refuser) ClientCredentials(context.Context, exchange.Request) (*exchange.Token, error) {
	return nil, &r.Error
}

// What the server says of a refusal is for the audit.
func TestExchangerTellsWhy(t *testing.T) {
	_, err := exchanger{&refuser{exchange.Error{Kind: exchange.Refused, Code: "invalid_scope", Status: 400, Detail: "no item:List for you"}}}.
		Exchange(t.Context(), authz.TokenRequest{Rule: &authz.ExchangeRule{}})
	var why *authz.ExchangeError
	if !errors.As(err, &why) || !why.Refused || err.Error() != "refused: token exchange refused (invalid_scope), status 400; it says: no item:List for you" {
		t.Errorf("%v", err)
	}
}
