package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/authz/session"
	"github.com/sallyport/sallyport/authz/token"
	"github.com/sallyport/sallyport/mcpparse"
)

var discard = slog.New(slog.DiscardHandler)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var paths = authz.Paths{MCP: "/mcp", SSE: "/mcp/sse", Message: "/mcp/message", Metadata: "/.well-known/oauth-protected-resource", Health: "/status"}

// testGate knows callers by name: "Bearer alice" is alice.
type testGate struct {
	apps    []*authz.App
	hidden  func(subject, name string) bool
	expires time.Time // of every caller's token
	token   string    // for what belongs to no single call

	discovery func(app *authz.App, who *authz.Caller) (*authz.IssuedToken, error) // gets tokens for the hub itself
}

func (g *testGate) Identify(_ context.Context, r authz.Request) (*authz.Caller, *authz.Reply) {
	auth, _ := r.Header.Get("authorization")
	name, ok := strings.CutPrefix(auth, "Bearer ")
	if !ok {
		return nil, &authz.Reply{Status: 401, Header: [][2]string{{"www-authenticate", "Bearer"}}, Body: []byte(`{"refused":true}`)}
	}
	return &authz.Caller{Identity: &token.Identity{Issuer: "https://as.example", Subject: name, ClientID: "agent", Expiry: g.expires}}, nil
}

func (g *testGate) Apps() []*authz.App { return g.apps }

func (g *testGate) Visible(_ context.Context, _ *authz.App, _ mcpparse.Target, name string, _ authz.Request, id *token.Identity, _ string) bool {
	return g.hidden == nil || !g.hidden(id.Subject, name)
}

func (g *testGate) Owner(id *token.Identity, path string) session.Owner {
	if path == paths.Message {
		path = paths.SSE
	}
	return session.Owner{Issuer: id.Issuer, Subject: id.Subject, ClientID: id.ClientID, Route: path}
}

func (g *testGate) TokenSource(*authz.Caller) authz.TokenSource {
	return func(context.Context, *authz.App, bool) (string, error) { return g.token, nil }
}

func (g *testGate) DiscoveryToken(_ context.Context, app *authz.App, who *authz.Caller) (*authz.IssuedToken, error) {
	return g.discovery(app, who)
}

// OpenTicket and Again are for calls that the hub carries, whose tests have a real gate: see newGateway.
func (g *testGate) OpenTicket(string, *authz.Caller, session.Session, []byte) (authz.Ticket, error) {
	return authz.Ticket{}, errors.New("no ticket")
}

func (g *testGate) Again(context.Context, authz.Request, session.Session, []byte) (authz.Ticket, *authz.Reply) {
	return authz.Ticket{}, &authz.Reply{Status: 403}
}

func app(name string) *authz.App {
	return &authz.App{Name: name, Prefix: name + "_", Route: "app/" + name}
}

func apps(names ...string) *testGate {
	g := &testGate{}
	for _, n := range names {
		g.apps = append(g.apps, app(n))
	}
	return g
}

func sealer(t testing.TB) *session.Sealer {
	s, err := session.NewSealer([]byte(strings.Repeat("0123456789abcdef", 2)))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// newHub returns a hub that lives as long as the test.
func newHub(t *testing.T, gate Gate, via http.RoundTripper, change ...func(*Config)) *Hub {
	t.Helper()
	cfg := Config{
		Gate:          func() Gate { return gate },
		Paths:         paths,
		Sessions:      sealer(t),
		SessionHeader: "mcp-session-id",
		ClientMayEnd:  true,
		Upstream:      via,
		Version:       "1.2.3",
		Log:           discard,
	}
	for _, f := range change {
		f(&cfg)
	}
	h, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- h.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return h
}

// ask sends one message as who, with headers given as name, value pairs.
func ask(h http.Handler, who, verb, body string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(verb, "http://gateway.example/mcp", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	if who != "" {
		r.Header.Set("Authorization", "Bearer "+who)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, r)
	return rec
}

// begin opens a session for who and returns its id.
func begin(t *testing.T, h http.Handler, who string) string {
	t.Helper()
	rec := ask(h, who, "POST", initializeBody("2025-11-25"))
	id := rec.Header().Get("Mcp-Session-Id")
	if rec.Code != 200 || id == "" {
		t.Fatalf("initialize: %d %s", rec.Code, rec.Body)
	}
	return id
}

func initializeBody(version string) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":%q,"capabilities":{},"clientInfo":{"name":"t","version":"1"}}}`, version)
}

const modernMeta = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}`

// askModern sends a 2026-07-28 request. params holds further members, "" for none.
func askModern(h http.Handler, who, method, params string) *httptest.ResponseRecorder {
	if params != "" {
		params = "," + params
	}
	body := fmt.Sprintf(`{"jsonrpc":"2.0","id":"m","method":%q,"params":{%s%s}}`, method, modernMeta, params)
	return ask(h, who, "POST", body, "MCP-Protocol-Version", "2026-07-28", "Mcp-Method", method)
}

// listing is a tools/list answer as an agent reads it.
type listing struct {
	ID     json.RawMessage
	Error  *struct{ Code int }
	Result struct {
		ResultType string
		Tools      []json.RawMessage
		TTLMs      *int64
		CacheScope string
		NextCursor *string
		Meta       map[string]json.RawMessage `json:"_meta"`
	}
}

func (l listing) names(t *testing.T) []string {
	t.Helper()
	names := []string{}
	for _, raw := range l.Result.Tools {
		var tool struct{ Name string }
		if err := json.Unmarshal(raw, &tool); err != nil {
			t.Fatal(err)
		}
		names = append(names, tool.Name)
	}
	return names
}

func (l listing) unavailable(t *testing.T) []string {
	t.Helper()
	var out []string
	if raw, ok := l.Result.Meta["dev.sallyport/unavailable"]; ok {
		if err := json.Unmarshal(raw, &out); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func listTools(t *testing.T, h http.Handler, who string) listing {
	t.Helper()
	rec := askModern(h, who, "tools/list", "")
	var l listing
	if err := json.Unmarshal(rec.Body.Bytes(), &l); err != nil || rec.Code != 200 {
		t.Fatalf("tools/list: %d %v %s", rec.Code, err, rec.Body)
	}
	return l
}

func TestNewRefuses(t *testing.T) {
	good := Config{Gate: func() Gate { return nil }, Upstream: egress{}, Log: discard, Sessions: sealer(t)}
	for name, change := range map[string]func(*Config){
		"no gate":          func(c *Config) { c.Gate = nil },
		"no upstream":      func(c *Config) { c.Upstream = nil },
		"no log":           func(c *Config) { c.Log = nil },
		"no sealer":        func(c *Config) { c.Sessions = nil },
		"negative timeout": func(c *Config) { c.SessionTimeout = -time.Second },
		"negative limit":   func(c *Config) { c.MaxRequestBytes = -1 },
	} {
		cfg := good
		change(&cfg)
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := New(good); err != nil {
		t.Error(err)
	}
}
