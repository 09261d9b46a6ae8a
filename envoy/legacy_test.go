package envoy_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	extprocfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"

	"github.com/sallyport/sallyport/envoy"
)

// rewritten is "app" with the response's body in capital letters, chunk by chunk.
func rewritten(s *stream) error {
	if err := to("app/up")(s); err != nil {
		return err
	}
	for {
		m, err := s.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case m.GetResponseHeaders() != nil:
			err = s.Send(&extprocv3.ProcessingResponse{
				Response: &extprocv3.ProcessingResponse_ResponseHeaders{ResponseHeaders: &extprocv3.HeadersResponse{
					Response: &extprocv3.CommonResponse{HeaderMutation: &extprocv3.HeaderMutation{RemoveHeaders: []string{"content-length"}}}}},
				ModeOverride: &extprocfilterv3.ProcessingMode{
					RequestHeaderMode: extprocfilterv3.ProcessingMode_SEND, RequestBodyMode: extprocfilterv3.ProcessingMode_BUFFERED, RequestTrailerMode: extprocfilterv3.ProcessingMode_SKIP,
					ResponseHeaderMode: extprocfilterv3.ProcessingMode_SEND, ResponseBodyMode: extprocfilterv3.ProcessingMode_STREAMED, ResponseTrailerMode: extprocfilterv3.ProcessingMode_SKIP,
				}})
		default:
			body := m.GetResponseBody()
			err = s.Send(&extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ResponseBody{ResponseBody: &extprocv3.BodyResponse{
				Response: &extprocv3.CommonResponse{BodyMutation: &extprocv3.BodyMutation{Mutation: &extprocv3.BodyMutation_Body{Body: bytes.ToUpper(body.GetBody())}}}}}})
			if err == nil && body.GetEndOfStream() {
				return nil
			}
		}
		if err != nil {
			return err
		}
	}
}

// page is "app" for a page in a browser, which may read the answer, and whose proofs need a nonce.
func page(s *stream) error {
	if err := s.proceed(); err != nil {
		return err
	}
	m := metadata(map[string]any{envoy.DecidedKey: true, envoy.OriginKey: "https://inspector.example",
		envoy.NonceKey: "next", envoy.ExposeKey: "DPoP-Nonce"})
	return s.release(m, envoy.RouteHeader, s.headers["x-to"])
}

// The event streams of the legacy era are rewritten on their way.
func (w *gateway) testRewriting(t *testing.T) {
	got := w.post(t, "rewritten", "/mcp", "x-answer", "content-type: text/event-stream|x-kept: 1")
	if got.status != 200 || got.body != "FROM THE UPSTREAM" || got.header.Get("x-kept") != "1" || got.header.Get("content-length") == "17" {
		t.Errorf("got %+v", got)
	}
	w.upstream.take()
}

// The service says how long a call may take; a client does not.
func (w *gateway) testLimit(t *testing.T) {
	for _, c := range []struct {
		script, wait, own string
		status            int
	}{
		{"limited", "5s", "60000", 502},
		{"limited", "1ms", "60000", 200},
		{"app", "600ms", "300", 200},
	} {
		begun := time.Now()
		got := w.post(t, c.script, "/mcp", "x-id", "7", "x-envoy-upstream-rq-timeout-ms", c.own, "x-answer", "content-type: application/json|x-wait: "+c.wait)
		if got.status != c.status || c.status == 502 && got.body != rpcError("7", -32603, noUsableAnswer) || time.Since(begun) > 4*time.Second {
			t.Errorf("%s, %s: got %+v after %v", c.script, c.wait, got, time.Since(begun))
		}
	}
	for _, r := range w.upstream.take() {
		for name := range r.header {
			if strings.HasPrefix(name, "X-Envoy-") {
				t.Errorf("the upstream got %s", name)
			}
		}
	}
}

// Which pages may read an answer is the service's word, whatever the upstream says.
func (w *gateway) testPages(t *testing.T) {
	const open = "content-type: application/json|access-control-allow-origin: *|access-control-allow-credentials: true|access-control-expose-headers: *|content-security-policy: x|link: <x>|dpop-nonce: the-upstreams|"
	for _, c := range []struct{ script, to, want, nonce, exposed string }{
		{"app", "", "", "", ""},
		{"page", "app/up", "https://inspector.example", "next", "DPoP-Nonce"},
		{"page", "hub", "https://inspector.example", "next", "Mcp-Session-Id, MCP-Protocol-Version, WWW-Authenticate, Retry-After, DPoP-Nonce"},
	} {
		got := w.post(t, c.script, "/mcp", "x-to", c.to, "x-answer", open)
		if got.status != 200 || strings.Join(got.header.Values("access-control-allow-origin"), ",") != c.want ||
			strings.Join(got.header.Values("dpop-nonce"), ",") != c.nonce || strings.Join(got.header.Values("access-control-expose-headers"), ",") != c.exposed {
			t.Errorf("%s: got %+v", c.script, got)
		}
		if c.to != "hub" && got.header.Get("access-control-allow-credentials")+got.header.Get("content-security-policy")+got.header.Get("link") != "" {
			t.Errorf("%s: got %+v", c.script, got)
		}
	}
	w.upstream.take()
	w.hub.take()
}

// What the service tells the hub, upstreams do not see and agents cannot say.
func (w *gateway) testPrivateHeaders(t *testing.T) {
	spoof := []string{envoy.TicketHeader, "forged", envoy.SessionHeader, "forged", envoy.CertHeader, "forged"}
	for script, want := range map[string]string{"private": "", "app": "", "private to hub": "ticket session cert", "hub": ""} {
		w.post(t, script, "/mcp", append(spoof, "x-answer", "content-type: application/json")...)
		for _, r := range append(w.upstream.take(), w.hub.take()...) {
			got := strings.TrimSpace(strings.Join(append(r.header.Values(envoy.TicketHeader), append(r.header.Values(envoy.SessionHeader), r.header.Values(envoy.CertHeader)...)...), " "))
			if got != want {
				t.Errorf("%s: got %q, want %q", script, got, want)
			}
		}
	}
}

// Where an upstream of the 2024-11-05 transport wants messages posted, the hub alone may choose.
func (w *gateway) testEndpoint(t *testing.T) {
	if got := w.post(t, "endpoint", "/mcp"); got.status != 503 {
		t.Errorf("an agent: got %+v", got)
	}
	client := unixClient(w.config.EgressSocket, true)
	for _, c := range []struct {
		route, path, want string
		status            int
	}{
		{"endpoint/old", "/messages?c=1", "/messages?c=1", 200},
		{"endpoint/old", "/deep/sse/x", "/deep/sse/x", 200},
		{"app/old", "/", "/deep/sse", 200},
		{"app/old", "/messages?c=1", "", 404},
		{"endpoint/up", "/messages", "", 404},
	} {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://egress"+c.path, strings.NewReader("x"))
		req.Header.Set(envoy.RouteHeader, c.route)
		got := do(t, client, req)
		reached := w.upstream.take()
		if got.status != c.status || len(reached) != map[bool]int{true: 1}[c.want != ""] {
			t.Errorf("%s %s: got %+v, reached %+v", c.route, c.path, got, reached)
			continue
		}
		if c.want != "" && (reached[0].uri != c.want || reached[0].header.Get(envoy.RouteHeader) != "") {
			t.Errorf("%s %s: reached %+v", c.route, c.path, reached)
		}
	}
}
