package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/mcpparse"
)

// Upstreams that stand in for real ones, and the way to them.

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
	return serveInProcess(handler, in)
}

// serveInProcess is a server without a socket, so that clocks can be faked around it: the response is there as soon as the
// handler has begun it, and the request ends when its body is closed. A handler that panics does so at its client.
func serveInProcess(handler http.Handler, r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(r.Context())
	out, in := io.Pipe()
	w := &pipedResponse{header: http.Header{}, begun: make(chan http.Header, 1), body: in}
	broken := make(chan any, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				broken <- p
			}
			w.WriteHeader(http.StatusOK)
			in.CloseWithError(ctx.Err())
		}()
		handler.ServeHTTP(w, r.WithContext(ctx))
	}()
	select {
	case <-ctx.Done():
		cancel()
		_ = out.CloseWithError(ctx.Err()) // nobody will read what the handler writes
		return nil, ctx.Err()
	case header := <-w.begun:
		select {
		case p := <-broken:
			cancel()
			panic(p)
		default:
		}
		stop := context.AfterFunc(ctx, func() { in.CloseWithError(ctx.Err()) })
		end := func() { stop(); cancel() }
		return &http.Response{StatusCode: w.status, Header: header, Body: &pipedBody{out, end}, ProtoMajor: 1, Request: r}, nil
	}
}

type pipedResponse struct {
	header http.Header
	status int
	begun  chan http.Header
	body   *io.PipeWriter
}

func (w *pipedResponse) Header() http.Header { return w.header }
func (w *pipedResponse) Flush()              { w.WriteHeader(http.StatusOK) }

func (w *pipedResponse) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
		w.begun <- w.header.Clone()
	}
}

func (w *pipedResponse) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(b)
}

type pipedBody struct {
	*io.PipeReader
	end func()
}

func (b *pipedBody) Close() error {
	defer b.end()
	return b.PipeReader.Close()
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
	Params struct {
		Cursor *string
		Meta   map[string]json.RawMessage `json:"_meta"`
	}
	Result, Error json.RawMessage

	verb, path string
	version    string // of the header
	session    string // likewise
	last       string // likewise, Last-Event-ID
	body       string
	header     http.Header
	ctx        context.Context
}

func read(r *http.Request) (m rpc) {
	body, _ := io.ReadAll(r.Body)
	_ = json.Unmarshal(body, &m) // a DELETE has no body
	m.version = r.Header.Get("MCP-Protocol-Version")
	m.session, m.last = r.Header.Get("Mcp-Session-Id"), r.Header.Get("Last-Event-ID")
	m.verb, m.path, m.body, m.header, m.ctx = r.Method, r.URL.Path, string(body), r.Header, r.Context()
	return m
}

type seenRequest struct {
	verb, method, session, authorization string

	body string
	rpc  rpc
}

func (s *script) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m := read(r)
	s.mu.Lock()
	s.seen = append(s.seen, seenRequest{r.Method, m.Method, m.session, r.Header.Get("Authorization"), m.body, m})
	before, result := s.before, s.results[m.Method]
	s.mu.Unlock()
	if before != nil && before(w, m) {
		return
	}
	if m.ID == nil || m.Method == "" {
		w.WriteHeader(http.StatusAccepted)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if m.Method == "initialize" && s.sessionID != nil {
		w.Header().Set("Mcp-Session-Id", s.sessionID())
	}
	if result != "" {
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

// answer has method answered with result from now on.
func (s *script) answer(method, result string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.results[method] = result
}

// first has requests looked at by handle from now on, and, when that does not answer, by who did before.
func (s *script) first(handle func(w http.ResponseWriter, m rpc) (answered bool)) (undo func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.before
	s.before = func(w http.ResponseWriter, m rpc) bool { return handle(w, m) || before != nil && before(w, m) }
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.before = before
	}
}

// last returns the last request of method.
func (s *script) last(method string) seenRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range slices.Backward(s.seen) {
		if r.method == method {
			return r
		}
	}
	return seenRequest{}
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

// toolList is a list result with tools of these names.
func toolList(names ...string) string {
	var items []string
	for _, n := range names {
		items = append(items, fmt.Sprintf(`{"name":%q,"inputSchema":{"type":"object"}}`, n))
	}
	return `{"tools":[` + strings.Join(items, ",") + `]}`
}
