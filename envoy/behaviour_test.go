package envoy_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	alogv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/envoy"
)

// gateway is one Envoy between a scripted service, a hub and an upstream.
type gateway struct {
	url      string
	config   envoy.Gateway
	service  *service
	hub      *peer
	upstream *peer
	statuses chan string // that the script "watch" saw of the upstream
}

func newGateway(t *testing.T) *gateway {
	w := &gateway{config: sockets(t), hub: new(peer), upstream: new(peer), statuses: make(chan string, 10)}
	up := httptest.NewServer(w.upstream)
	t.Cleanup(up.Close)
	gone := httptest.NewServer(nil)
	gone.Close()
	servePeer(t, w.config.HubSocket, w.hub)
	w.service = serve(t, w.config, map[string]script{
		"app":                to("app/up"),
		"hub":                to("hub"),
		"gone":               to("app/gone"),
		"nowhere":            to("app/unknown"),
		"challenge":          immediate(401, "text/plain", "no token", "www-authenticate", `Bearer resource_metadata="x"`),
		"challenge-body":     afterBody(immediate(401, "text/html", "<b>", "www-authenticate", "Bearer", "x-own", "1")),
		"refused":            afterBody(immediate(200, "application/json", `{"jsonrpc":"2.0","id":7,"result":{}}`)),
		"unavailable":        immediate(503, "application/json", `{"own":503}`, "retry-after", "1"),
		"nil-at-headers":     func(*stream) error { return nil },
		"nil-at-body":        func(s *stream) error { return s.proceed() },
		"error":              func(*stream) error { return errors.New("secret detail") },
		"hang":               func(s *stream) error { <-s.Context().Done(); return nil },
		"undecided":          afterBody(func(s *stream) error { return s.release(nil, envoy.RouteHeader, "app/up") }),
		"unrouted":           afterBody(func(s *stream) error { return s.release(metadata(map[string]any{envoy.DecidedKey: true})) }),
		"other-namespace":    afterBody(otherNamespace),
		"mutates-host":       to("app/up", "host", "evil.example"),
		"drops-query":        to("app/up", ":path", "/mcp"),
		"mutates-path":       to("app/up", ":path", "/admin"),
		"mutates-connection": to("app/up", "connection", "authorization"),
		"watch":              w.watch,
		"limited":            to("app/up", "x-envoy-upstream-rq-timeout-ms", "300"),
		"rewritten":          rewritten,
		"page":               page,
		"private":            to("app/up", envoy.TicketHeader, "ticket", envoy.SessionHeader, "session", envoy.CertHeader, "cert"),
		"private to hub":     to("hub", envoy.TicketHeader, "ticket", envoy.SessionHeader, "session", envoy.CertHeader, "cert"),
		"endpoint":           to("endpoint/old"),
	})
	w.config.MessageTimeout = 2 * time.Second
	w.config.MaxRequestBytes = 64 << 10
	w.config.Apps = []envoy.App{
		{Name: "up", URL: up.URL + "/deep/mcp"},
		{Name: "gone", URL: gone.URL},
		{Name: "old", URL: up.URL + "/deep/sse", EndpointEvents: true},
	}
	w.url = "http://" + start(t, w.config)
	return w
}

// watch is "app" with a look at the response headers.
func (w *gateway) watch(s *stream) error {
	if err := to("app/up")(s); err != nil {
		return err
	}
	m, err := s.Recv()
	if err != nil {
		return err
	}
	for _, h := range m.GetResponseHeaders().GetHeaders().GetHeaders() {
		if h.GetKey() == ":status" {
			w.statuses <- string(h.GetRawValue())
		}
	}
	return s.pass()
}

// request is a message as an agent would send it. The pairs are further headers.
func (w *gateway) request(t *testing.T, script, path string, pairs ...string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.url+path, strings.NewReader(`{"q":1}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("content-type", "application/json")
	req.Header.Set("x-script", script)
	for i := 0; i < len(pairs); i += 2 {
		req.Header.Set(pairs[i], pairs[i+1])
	}
	return req
}

func (w *gateway) post(t *testing.T, script, path string, pairs ...string) answer {
	t.Helper()
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return do(t, client, w.request(t, script, path, pairs...))
}

func rpcError(id string, code int, message string) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"error":{"code":%d,"message":%q}}`, id, code, message)
}

const noUsableAnswer = "the upstream server gave no usable answer"

func TestBehaviour(t *testing.T) {
	w := newGateway(t)
	t.Run("Forwarding", w.testForwarding)
	t.Run("Locks", w.testLocks)
	t.Run("MutationRules", w.testMutationRules)
	t.Run("ServiceReplies", w.testServiceReplies)
	t.Run("RefusedAnswers", w.testRefusedAnswers)
	t.Run("PassedAnswers", w.testPassedAnswers)
	t.Run("LocalReplies", w.testLocalReplies)
	t.Run("Requests", w.testRequests)
	t.Run("Malformed", w.testMalformed)
	t.Run("Trailers", w.testTrailers)
	t.Run("Hub", w.testHub)
	t.Run("Egress", w.testEgress)
	t.Run("Endpoint", w.testEndpoint)
	t.Run("Limit", w.testLimit)
	t.Run("Rewriting", w.testRewriting)
	t.Run("Pages", w.testPages)
	t.Run("PrivateHeaders", w.testPrivateHeaders)
	t.Run("AccessLog", w.testAccessLog)
}

func (w *gateway) testForwarding(t *testing.T) {
	got := w.post(t, "app", "/mcp", "authorization", "Bearer agent", "x-sallyport-principal", "admin",
		"x-envoy-retry-on", "5xx", "x-envoy-original-dst-host", "evil", "x-answer", "content-type: application/json")
	if got.status != 200 || got.body != "from the upstream" {
		t.Fatalf("got %+v", got)
	}
	reached := w.upstream.take()
	if len(reached) != 1 {
		t.Fatalf("the upstream got %d requests", len(reached))
	}
	r := reached[0]
	want := seen{method: "POST", uri: "/deep/mcp", body: `{"q":1}`, proto: "HTTP/1.1"}
	if r.method != want.method || r.uri != want.uri || r.body != want.body || r.proto != want.proto {
		t.Errorf("the upstream got %+v", r)
	}
	if !strings.HasSuffix(w.config.Apps[0].URL, r.host+"/deep/mcp") {
		t.Errorf("Host is %q", r.host)
	}
	if diff := cmp.Diff([]string{"Bearer fresh"}, r.header["Authorization"]); diff != "" {
		t.Error(diff)
	}
	for name := range r.header {
		if strings.HasPrefix(name, "X-Sallyport-") || strings.HasPrefix(name, "X-Envoy-") {
			t.Errorf("the upstream got %s", name)
		}
	}
}

// Each lock must hold with the others open, and none may let a byte through.
func (w *gateway) testLocks(t *testing.T) {
	spoof := []string{envoy.RouteHeader, "app/up", "x-id", "1"}
	for _, c := range []struct {
		script string
		status int
	}{
		{"nil-at-headers", 403},
		{"nil-at-body", 403},
		{"undecided", 403},
		{"other-namespace", 403},
		{"unrouted", 503}, // also proves that the client's own header is gone
		{"nowhere", 503},
	} {
		got := w.post(t, c.script, "/mcp", spoof...)
		if got.status != c.status || !strings.HasPrefix(got.body, `{"jsonrpc":"2.0","id":`) {
			t.Errorf("%s: got %+v", c.script, got)
		}
	}
	if reached := w.upstream.take(); len(reached) != 0 {
		t.Errorf("the upstream got %+v", reached)
	}
}

func (w *gateway) testMutationRules(t *testing.T) {
	for _, script := range []string{"mutates-host", "mutates-path", "mutates-connection"} {
		if got := w.post(t, script, "/mcp"); got.status != 503 {
			t.Errorf("%s: got %+v", script, got)
		}
	}
	if reached := w.upstream.take(); len(reached) != 0 {
		t.Errorf("the upstream got %+v", reached)
	}
}

// What the service answers by itself reaches the agent as it was sent.
func (w *gateway) testServiceReplies(t *testing.T) {
	for _, c := range []struct {
		script      string
		status      int
		contentType string
		body        string
		header      map[string]string
	}{
		{"challenge", 401, "text/plain", "no token", map[string]string{"www-authenticate": `Bearer resource_metadata="x"`}},
		{"challenge-body", 401, "text/html", "<b>", map[string]string{"www-authenticate": "Bearer", "x-own": "1"}},
		{"refused", 200, "application/json", `{"jsonrpc":"2.0","id":7,"result":{}}`, nil},
		{"unavailable", 503, "application/json", `{"own":503}`, map[string]string{"retry-after": "1"}},
	} {
		got := w.post(t, c.script, "/mcp")
		if got.status != c.status || got.body != c.body || got.header.Get("content-type") != c.contentType {
			t.Errorf("%s: got %+v", c.script, got)
		}
		for name, value := range c.header {
			if got.header.Get(name) != value {
				t.Errorf("%s: %s is %q", c.script, name, got.header.Get(name))
			}
		}
	}
}

func (w *gateway) testRefusedAnswers(t *testing.T) {
	const secrets = "www-authenticate: Bearer upstream|set-cookie: a=b|location: http://evil/|x-powered-by: x|server: x|mcp-session-id: s|"
	for _, upstream := range []string{
		"x-status: 401|content-type: application/json",
		"x-status: 403|content-type: application/json",
		"x-status: 407|content-type: application/json",
		"x-status: 302|content-type: application/json",
		"x-status: 307",
		"content-type: text/html",
		"content-type: application/json-seq",
		"content-type: application/jsonx; application/json",
		"content-type: text/plain; x=application/json",
		"x-status: 404|content-type: text/plain",
		"x-status: 202|content-type: text/html",
		"x-status: 200", // no type at all
		"content-type: application/json|content-encoding: gzip",
		"content-type: text/event-stream|content-encoding: br",
		"content-type: application/json|content-encoding: identity, gzip",
	} {
		got := w.post(t, "app", "/mcp", "x-id", `"a"`, "x-answer", secrets+upstream)
		if got.status != 502 || got.body != rpcError(`"a"`, -32603, noUsableAnswer) ||
			got.header.Get("content-type") != "application/json" || got.header.Get("cache-control") != "no-store" {
			t.Errorf("%s: got %+v", upstream, got)
		}
		checkWithheld(t, upstream, got)
	}
	got := w.post(t, "watch", "/mcp", "x-id", "5", "x-answer", "x-status: 404|content-type: text/plain")
	if got.status != 502 || got.body != rpcError("5", -32603, noUsableAnswer) {
		t.Errorf("watched: got %+v", got)
	}
	select {
	case status := <-w.statuses:
		if status != "404" {
			t.Errorf("the service saw status %s, want the upstream's own", status)
		}
	default:
		t.Error("the service did not see the response")
	}
	w.upstream.take()
}

func checkWithheld(t *testing.T, what string, got answer) {
	t.Helper()
	for _, name := range []string{"www-authenticate", "set-cookie", "location", "x-powered-by", "server", "mcp-session-id"} {
		if v := got.header.Get(name); v != "" {
			t.Errorf("%s: the agent got %s: %s", what, name, v)
		}
	}
}

func (w *gateway) testPassedAnswers(t *testing.T) {
	const extra = "set-cookie: a=b|server: x|mcp-session-id: s|x-kept: 1|"
	for _, c := range []struct {
		upstream string
		status   int
		body     string
	}{
		{"content-type: application/json", 200, "from the upstream"},
		{"content-type: Application/JSON; charset=utf-8", 200, "from the upstream"},
		{"content-type: text/event-stream", 200, "from the upstream"},
		{"content-type: text/event-stream;charset=utf-8", 200, "from the upstream"},
		{"content-type: application/json|content-encoding: identity", 200, "from the upstream"},
		{"x-status: 404|content-type: application/json", 404, "from the upstream"},
		{"x-status: 500|content-type: application/json", 500, "from the upstream"},
		{"x-status: 202", 202, ""},
		{"x-status: 204", 204, ""},
	} {
		got := w.post(t, "app", "/mcp", "x-answer", extra+c.upstream)
		if got.status != c.status || got.body != c.body || got.header.Get("x-kept") != "1" {
			t.Errorf("%s: got %+v", c.upstream, got)
		}
		checkWithheld(t, c.upstream, got)
	}
	w.upstream.take()
}

// The ids are raw JSON tokens, quoted as they came and never expanded.
func (w *gateway) testLocalReplies(t *testing.T) {
	for _, id := range []string{`1`, `-0.5e10`, `"a\"b\\ \u00e9"`, `"%REQ(x-script)% %RESPONSE_CODE%"`, `12345678901234567890`} {
		got := w.post(t, "gone", "/mcp", "x-id", id)
		if got.status != 502 || got.body != rpcError(id, -32603, noUsableAnswer) || got.header.Get("content-type") != "application/json" {
			t.Errorf("unreachable, id %s: got %+v", id, got)
		}
	}
	for _, c := range []struct {
		script, body string
		status       int
	}{
		{"gone", rpcError("null", -32603, noUsableAnswer), 502},
		{"error", rpcError("null", -32603, "gateway error 503"), 503},
		{"hang", rpcError("null", -32603, "gateway error 504"), 504},
		{"unrouted", rpcError("null", -32603, "gateway error 503"), 503},
	} {
		if got := w.post(t, c.script, "/mcp"); got.status != c.status || got.body != c.body || got.header.Get("server") != "" {
			t.Errorf("%s: got %+v", c.script, got)
		}
	}
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, w.url+"/mcp", strings.NewReader(strings.Repeat(" ", 1<<20)))
	req.Header.Set("x-script", "app")
	if got := do(t, http.DefaultClient, req); got.status != 413 || got.body != rpcError("null", -32600, "request refused by the gateway: 413") {
		t.Errorf("too large: got %+v", got)
	}
}

// Requests that could be read in two ways do not reach the upstream.
func (w *gateway) testRequests(t *testing.T) {
	for _, c := range []struct {
		path   string
		status int
	}{
		{"//mcp", 503}, {"/mcp/", 503}, {"/mcp;x=y", 503}, {"/mcp/..;/admin", 503}, {"/x%2f..%2fmcp", 400}, {"/mcp%2f", 400}, {"/MCP", 503},
	} {
		if got := w.post(t, "app", c.path); got.status != c.status {
			t.Errorf("%s: got %+v", c.path, got)
		}
	}
	if reached := w.upstream.take(); len(reached) != 0 {
		t.Errorf("the upstream got %+v", reached)
	}
	// Dot segments are gone before anything is matched; the service takes the query off.
	if got := w.post(t, "drops-query", "/x/../mcp?access_token=t", "x-answer", "content-type: application/json"); got.status != 200 {
		t.Errorf("normal form: got %+v", got)
	}
	for _, r := range w.upstream.take() {
		if r.uri != "/deep/mcp" {
			t.Errorf("the upstream got %s", r.uri)
		}
	}
}

// A request that breaks the protocol is refused in words, not by a dead connection.
func (w *gateway) testMalformed(t *testing.T) {
	for _, c := range []struct {
		line   string
		status int
	}{
		{"x_sallyport_route: app/up", 400},
		{"Content-Length: 5, 5", 400},
		{"Content-Length: +5", 400},
		{"x-a : b", 400},
		{"Transfer-Encoding: xx", 501},
		{"Connection: Upgrade\r\nUpgrade: websocket", 403},
	} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(w.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = fmt.Fprintf(conn, "POST /mcp HTTP/1.1\r\nHost: a\r\nx-script: app\r\nConnection: close\r\n%s\r\n\r\nhello", c.line)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Errorf("%s: %v", c.line, err)
			continue
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		_ = conn.Close()
		if resp.StatusCode != c.status || !strings.HasPrefix(string(body), `{"jsonrpc":"2.0","id":null,`) {
			t.Errorf("%s: got %d %s", c.line, resp.StatusCode, body)
		}
	}
	if reached := w.upstream.take(); len(reached) != 0 {
		t.Errorf("the upstream got %+v", reached)
	}
}

func (w *gateway) testTrailers(t *testing.T) {
	h2 := &http.Transport{Protocols: new(http.Protocols)}
	h2.Protocols.SetUnencryptedHTTP2(true)
	defer h2.CloseIdleConnections()
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, w.url+"/mcp", struct{ *strings.Reader }{strings.NewReader(`{"q":1}`)})
	req.ContentLength = -1
	req.Header.Set("x-script", "hub") // the hub speaks HTTP/2, which carries trailers
	req.Trailer = http.Header{"Authorization": {"Bearer trailer"}, "Mcp-Name": {"evil"}}
	if got := do(t, &http.Client{Transport: h2}, req); got.status != 200 {
		t.Errorf("got %+v", got)
	}
	for _, r := range w.hub.take() {
		for name := range r.trailer { // announced by a header, hence the keys
			if v := r.trailer.Values(name); len(v) != 0 {
				t.Errorf("the hub got trailer %s: %v", name, v)
			}
		}
		if len(r.trailer) == 0 || r.body != `{"q":1}` {
			t.Errorf("the hub got announcement %v, body %q", r.trailer, r.body)
		}
	}
}

// The hub is the gateway itself: it gets the source, and its answers pass whole.
func (w *gateway) testHub(t *testing.T) {
	got := w.post(t, "hub", "/mcp", envoy.SourceHeader, "203.0.113.9", "x-answer",
		"x-status: 401|www-authenticate: Bearer hub|mcp-session-id: own|content-type: text/plain")
	if got.status != 401 || got.body != "from the upstream" || got.header.Get("www-authenticate") != "Bearer hub" || got.header.Get("mcp-session-id") != "own" {
		t.Errorf("got %+v", got)
	}
	for _, r := range w.hub.take() {
		if r.proto != "HTTP/2.0" || r.uri != "/mcp" {
			t.Errorf("the hub got %s %s", r.proto, r.uri)
		}
		if diff := cmp.Diff([]string{"192.0.2.1"}, r.header["X-Sallyport-Source"]); diff != "" {
			t.Error(diff)
		}
		if v := r.header.Values(envoy.RouteHeader); len(v) != 0 {
			t.Errorf("the hub got %s: %v", envoy.RouteHeader, v)
		}
	}
}

func (w *gateway) testEgress(t *testing.T) {
	for _, socket := range []string{w.config.EgressSocket, w.config.AdminSocket} {
		info, err := os.Stat(socket)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != fs.FileMode(0o600) {
			t.Errorf("%s has mode %v", socket, info.Mode())
		}
	}
	client := unixClient(w.config.EgressSocket, true)
	for _, c := range []struct {
		route  string
		status int
	}{{"app/up", 401}, {"app/gone", 502}, {"app/unknown", 404}, {"hub", 404}, {"", 404}} {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://egress/", strings.NewReader("x"))
		req.Header.Set("x-answer", "x-status: 401|www-authenticate: Bearer up|mcp-session-id: s|content-type: text/plain")
		req.Header.Set(envoy.SourceHeader, "192.0.2.1")
		if c.route != "" {
			req.Header.Set(envoy.RouteHeader, c.route)
		}
		got := do(t, client, req)
		if got.status != c.status {
			t.Errorf("%q: got %+v", c.route, got)
		}
		if c.route == "app/up" && (got.header.Get("mcp-session-id") != "s" || got.header.Get("www-authenticate") != "Bearer up") {
			t.Errorf("the hub must see the upstream's own headers: %+v", got)
		}
	}
	reached := w.upstream.take()
	if len(reached) != 1 || reached[0].uri != "/deep/mcp" || reached[0].header.Get(envoy.SourceHeader) != "" || reached[0].header.Get(envoy.RouteHeader) != "" {
		t.Errorf("the upstream got %+v", reached)
	}
}

// Every exchange ends in one entry that carries the verdict's metadata.
func (w *gateway) testAccessLog(t *testing.T) {
	w.post(t, "gone", "/mcp", "x-id", `"logged"`, "x-request-id", "mine")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for {
		select {
		case e := <-w.service.log:
			fields := e.GetCommonProperties().GetMetadata().GetFilterMetadata()[envoy.MetadataNamespace].GetFields()
			if fields[envoy.IDKey].GetStringValue() != `"logged"` {
				continue
			}
			if got := e.GetResponse().GetResponseCode().GetValue(); got != 502 {
				t.Errorf("status %d", got)
			}
			if e.GetCommonProperties().GetResponseFlags().GetUpstreamConnectionFailure() != true || e.GetRequest().GetRequestMethod() != corev3.RequestMethod_POST {
				t.Errorf("entry %v", e)
			}
			if e.GetProtocolVersion() != alogv3.HTTPAccessLogEntry_HTTP11 || e.GetRequest().GetRequestBodyBytes() != 7 {
				t.Errorf("entry %v", e)
			}
			return
		case <-ctx.Done():
			t.Fatal("no access log entry")
		}
	}
}
