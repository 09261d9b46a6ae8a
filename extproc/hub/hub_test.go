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
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/authz/session"
	"github.com/sallyport/sallyport/authz/token"
	"github.com/sallyport/sallyport/mcpparse"
)

var discard = slog.New(slog.DiscardHandler)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testGate knows callers by name: "Bearer alice" is alice.
type testGate struct {
	apps   []*authz.App
	hidden func(subject, tool string) bool
}

func (g *testGate) Identify(_ context.Context, r authz.Request) (*token.Identity, *authz.Reply) {
	auth, _ := r.Header.Get("authorization")
	name, ok := strings.CutPrefix(auth, "Bearer ")
	if !ok {
		return nil, &authz.Reply{Status: 401, Header: [][2]string{{"www-authenticate", "Bearer"}}, Body: []byte(`{"refused":true}`)}
	}
	return &token.Identity{Issuer: "https://as.example", Subject: name, ClientID: "agent"}, nil
}

func (g *testGate) Apps() []*authz.App { return g.apps }

func (g *testGate) Visible(_ context.Context, _ *authz.App, tool string, _ authz.Request, id *token.Identity, _ string) bool {
	return g.hidden == nil || !g.hidden(id.Subject, tool)
}

// egress leads to handlers by route, as Envoy's egress listener would.
type egress map[string]http.Handler

func (e egress) RoundTrip(r *http.Request) (*http.Response, error) {
	route := r.Header.Get(authz.RouteHeader)
	handler, ok := e[route]
	if !ok {
		return nil, errors.New("connection refused")
	}
	in := r.Clone(r.Context())
	in.Header.Del(authz.RouteHeader)
	rec := httptest.NewRecorder()
	handler.ServeHTTP(rec, in)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return rec.Result(), nil
}

// behind puts handlers behind real HTTP servers.
func behind(t *testing.T, handlers egress) egress {
	out := egress{}
	for route, handler := range handlers {
		srv := httptest.NewServer(handler)
		t.Cleanup(srv.Close)
		out[route] = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.URL.Host, r.Host = strings.TrimPrefix(srv.URL, "http://"), ""
			resp, err := srv.Client().Transport.RoundTrip(r)
			if err != nil {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			defer resp.Body.Close()
			for name, values := range resp.Header {
				w.Header()[name] = values
			}
			w.WriteHeader(resp.StatusCode)
			copyBody(w, resp.Body)
		})
	}
	return out
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
func newHub(t *testing.T, gate *testGate, via http.RoundTripper, change ...func(*Config)) *Hub {
	t.Helper()
	cfg := Config{
		Gate:          func() Gate { return gate },
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

// sdkServer is a server of the Go SDK with tools of these names.
func sdkServer(t *testing.T, tools ...string) *mcp.Server {
	s := mcp.NewServer(&mcp.Implementation{Name: "fixture", Version: "1"}, nil)
	for _, name := range tools {
		mcp.AddTool(s, &mcp.Tool{Name: name, Description: name},
			func(context.Context, *mcp.CallToolRequest, struct{}) (*mcp.CallToolResult, any, error) {
				return &mcp.CallToolResult{}, nil, nil
			})
	}
	t.Cleanup(func() {
		for s := range s.Sessions() {
			s.Close()
		}
	})
	return s
}

func stateful(s *mcp.Server) http.Handler {
	return mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return s }, nil)
}

func stateless(s *mcp.Server) http.Handler {
	return mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return s }, &mcp.StreamableHTTPOptions{Stateless: true})
}

// script is an upstream that answers each method with a JSON-RPC response made from a result. It keeps what it was
// sent.
type script struct {
	results   map[string]string // by method; "" or missing: JSON-RPC error -32601
	sessionID func() string     // Mcp-Session-Id for initialize
	before    func(w http.ResponseWriter, m rpc) (answered bool)

	mu   sync.Mutex
	seen []seenRequest
}

// rpc is a message as an upstream reads it.
type rpc struct {
	ID     json.RawMessage
	Method string
	Params struct{ Cursor *string }

	version string // of the header
}

func read(r *http.Request) (m rpc) {
	_ = json.NewDecoder(r.Body).Decode(&m) // a DELETE has no body
	m.version = r.Header.Get("MCP-Protocol-Version")
	return m
}

type seenRequest struct {
	verb, method, session, authorization string
}

func (s *script) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m := read(r)
	s.mu.Lock()
	s.seen = append(s.seen, seenRequest{r.Method, m.Method, r.Header.Get("Mcp-Session-Id"), r.Header.Get("Authorization")})
	s.mu.Unlock()
	if s.before != nil && s.before(w, m) {
		return
	}
	if m.ID == nil {
		w.WriteHeader(http.StatusAccepted)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if m.Method == "initialize" && s.sessionID != nil {
		w.Header().Set("Mcp-Session-Id", s.sessionID())
	}
	if result := s.results[m.Method]; result != "" {
		_, _ = w.Write(mcpparse.ResultBody(m.ID, []byte(result)))
		return
	}
	_, _ = w.Write(mcpparse.ErrorBody(m.ID, mcpparse.CodeMethodNotFound, "no", nil))
}

// switchable is an upstream that can be replaced.
type switchable struct{ current atomic.Pointer[http.Handler] }

func (s *switchable) set(h http.Handler) { s.current.Store(&h) }

func (s *switchable) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	(*s.current.Load()).ServeHTTP(w, r)
}

// count returns how many requests of method were seen ("DELETE" counts that verb).
func (s *script) count(method string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, r := range s.seen {
		if r.method == method || r.verb == method {
			n++
		}
	}
	return n
}

const (
	modernDiscover = `{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},"ttlMs":0,"cacheScope":"public"}`
	dualDiscover   = `{"resultType":"complete","supportedVersions":["2026-07-28","2025-11-25"],"capabilities":{"tools":{}},"ttlMs":0,"cacheScope":"public"}`
	legacyInit     = `{"protocolVersion":"2025-06-18","capabilities":{"tools":{}},"serverInfo":{"name":"s","version":"1"}}`
)

func modernScript(list string) *script {
	return &script{
		results: map[string]string{"server/discover": modernDiscover, "tools/list": list},
		before: func(w http.ResponseWriter, m rpc) bool {
			if m.version == "2026-07-28" {
				return false
			}
			w.WriteHeader(http.StatusBadRequest)
			return true
		},
	}
}

func legacyScript(list string) *script {
	var n atomic.Int32
	return &script{
		results:   map[string]string{"initialize": legacyInit, "tools/list": list},
		sessionID: func() string { return fmt.Sprint("upstream-session-", n.Add(1)) },
	}
}

// tools is a list result with tools of these names.
func tools(names ...string) string {
	var items []string
	for _, n := range names {
		items = append(items, fmt.Sprintf(`{"name":%q,"inputSchema":{"type":"object"}}`, n))
	}
	return `{"tools":[` + strings.Join(items, ",") + `]}`
}

func TestNewRefuses(t *testing.T) {
	good := Config{Gate: func() Gate { return nil }, Upstream: egress{}, Log: discard}
	for name, change := range map[string]func(*Config){
		"no gate":          func(c *Config) { c.Gate = nil },
		"no upstream":      func(c *Config) { c.Upstream = nil },
		"no log":           func(c *Config) { c.Log = nil },
		"no sealer":        func(c *Config) { c.SessionHeader = "mcp-session-id" },
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
