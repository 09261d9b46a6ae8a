package e2e

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// received is one request as an upstream saw it.
type received struct {
	Method string // HTTP
	Path   string
	Host   string
	Header http.Header
	Body   []byte
	RPC    struct { // what a lenient reader makes of the body: the last of two equal names wins
		ID     json.RawMessage `json:"id"`
		Method string          `json:"method"`
		Params struct {
			Name      string          `json:"name"`
			Arguments json.RawMessage `json:"arguments"`
			Meta      map[string]any  `json:"_meta"`
		} `json:"params"`
	}
}

// recorder is an MCP server that remembers everything it was sent. It is lenient on purpose: what gets past the
// gateway, it would run.
type recorder struct {
	*httptest.Server
	leaks   *leaks // what becomes of its sessions; nil for nobody's business
	place   string // of what it was sent, in leaks
	mu      sync.Mutex
	seen    []received
	lost    map[string]bool // sessions that were deleted or forgotten
	session int
	as      behaviour
}

// behaviour is what a recorder does with a message.
type behaviour struct {
	tools  []string
	modern bool                                                            // speaks 2026-07-28
	legacy bool                                                            // speaks 2025-11-25, with sessions
	answer func(w http.ResponseWriter, r *http.Request, got received) bool // overrides a tools/call's answer
}

// behave changes the recorder's behaviour.
func (u *recorder) behave(change func(b *behaviour)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	change(&u.as)
}

// forget loses a session.
func (u *recorder) forget(session string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.lost[session] = true
}

func newRecorder(t *testing.T, tools ...string) *recorder {
	t.Helper()
	u := &recorder{lost: map[string]bool{}, as: behaviour{tools: tools, modern: true, legacy: true}}
	u.Server = httptest.NewServer(u)
	t.Cleanup(func() {
		u.CloseClientConnections()
		u.Close()
	})
	return u
}

// addr is the host:port of the recorder.
func (u *recorder) addr() string { return u.Listener.Addr().(*net.TCPAddr).String() }

// calls are the tools/call requests that arrived.
func (u *recorder) calls() []received { return u.of("tools/call") }

// clear drops what has arrived: looking through it takes as long as there is.
func (u *recorder) clear() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.seen = nil
}

// of are the requests of one JSON-RPC method that arrived.
func (u *recorder) of(method string) []received {
	u.mu.Lock()
	defer u.mu.Unlock()
	var out []received
	for _, r := range u.seen {
		if r.RPC.Method == method {
			out = append(out, r)
		}
	}
	return out
}

func (u *recorder) all() []received {
	u.mu.Lock()
	defer u.mu.Unlock()
	return append([]received(nil), u.seen...)
}

func (u *recorder) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	got := received{Method: r.Method, Path: r.URL.RequestURI(), Host: r.Host, Header: r.Header.Clone(), Body: body}
	_ = json.Unmarshal(body, &got.RPC)
	u.mu.Lock()
	u.seen = append(u.seen, got)
	as := u.as
	u.mu.Unlock()
	switch {
	case r.Method == http.MethodDelete:
		u.forget(r.Header.Get("Mcp-Session-Id"))
		w.WriteHeader(http.StatusNoContent)
	case got.RPC.Method == "tools/call" && as.answer != nil && as.answer(w, r, got):
	default:
		u.reply(w, r, got, as)
	}
}

func (u *recorder) reply(w http.ResponseWriter, r *http.Request, got received, as behaviour) {
	isModern := r.Header.Get("MCP-Protocol-Version") >= "2026"
	switch {
	case isModern && !as.modern:
		rpcError(w, http.StatusBadRequest, got.RPC.ID, -32022, "unsupported protocol version")
	case !isModern && !as.legacy:
		rpcError(w, http.StatusNotFound, got.RPC.ID, -32601, "method not found")
	case strings.HasPrefix(got.RPC.Method, "notifications/"):
		w.WriteHeader(http.StatusAccepted)
	case got.RPC.Method == "initialize":
		u.mu.Lock()
		u.session++
		id := fmt.Sprintf("upstream-session-%d-%s", u.session, rand.Text())
		if u.leaks != nil {
			u.leaks.hide("a session of an upstream", id, u.place)
		}
		u.mu.Unlock()
		w.Header().Set("Mcp-Session-Id", id)
		rpcResult(w, got.RPC.ID, `{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"recorder","version":"1"}}`)
	case !isModern && u.sessionLost(r.Header.Get("Mcp-Session-Id")):
		rpcError(w, http.StatusNotFound, got.RPC.ID, -32600, "session not found")
	case got.RPC.Method == "server/discover":
		versions := `"2026-07-28"`
		if as.legacy {
			versions += `,"2025-11-25"`
		}
		rpcResult(w, got.RPC.ID, `{"resultType":"complete","supportedVersions":[`+versions+`],"capabilities":{"tools":{}},"ttlMs":0,"cacheScope":"public"}`)
	case got.RPC.Method == "tools/list":
		rpcResult(w, got.RPC.ID, toolList(as.tools))
	case got.RPC.Method == "tools/call":
		rpcResult(w, got.RPC.ID, `{"resultType":"complete","content":[{"type":"text","text":"done: `+got.RPC.Params.Name+`"}]}`)
	default:
		rpcError(w, http.StatusNotFound, got.RPC.ID, -32601, "method not found")
	}
}

func (u *recorder) sessionLost(id string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return id == "" || u.lost[id]
}

func toolList(tools []string) string {
	items := make([]string, len(tools))
	for i, name := range tools {
		items[i] = `{"name":"` + name + `","description":"the tool ` + name + `","inputSchema":{"type":"object"}}`
	}
	return `{"resultType":"complete","ttlMs":0,"cacheScope":"public","tools":[` + strings.Join(items, ",") + `]}`
}

func rpcResult(w http.ResponseWriter, id json.RawMessage, result string) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":%s}`, id, result)
}

func rpcError(w http.ResponseWriter, status int, id json.RawMessage, code int, message string) {
	if id == nil {
		id = json.RawMessage("null")
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"error":{"code":%d,"message":%q}}`, id, code, message)
}

// await polls until ok, and fails the test when it never is.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("gave up waiting for %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
