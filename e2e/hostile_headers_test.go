package e2e

import (
	"crypto/tls"
	"net"
	"net/http"
	"strings"
	"testing"
)

// kept are fields of an answer that no browser and no proxy acts on, or only for this one answer.
var keptFields = []string{"X-Evil: evil", "Retry-After: 99", "Cache-Control: public, max-age=99", "Vary: evil", "Warning: 199 evil"}

// withheld would act on whoever asked, or on whoever is in between.
var withheldFields = []string{
	"Set-Cookie: evil=1", "Set-Cookie2: evil=1", "Mcp-Session-Id: evil", "Location: https://evil.example/", "Refresh: 0; url=https://evil.example/",
	`WWW-Authenticate: Bearer resource_metadata="https://evil.example/"`, "Proxy-Authenticate: Basic realm=evil", "Authentication-Info: evil", "Proxy-Authentication-Info: evil",
	`Alt-Svc: h3="evil.example:443"`, `Clear-Site-Data: "*"`, "Link: <https://evil.example/>; rel=preload", "Strict-Transport-Security: max-age=99", "Public-Key-Pins: evil",
	"Access-Control-Allow-Origin: *", "Access-Control-Allow-Credentials: true", "Access-Control-Allow-Headers: evil", "Access-Control-Allow-Methods: EVIL",
	"Access-Control-Expose-Headers: evil", "Access-Control-Max-Age: 99", "Access-Control-Allow-Private-Network: true",
	"Content-Security-Policy: default-src evil.example", "Content-Security-Policy-Report-Only: report-uri https://evil.example/",
	`NEL: {"evil":1}`, `Report-To: {"evil":1}`, `Reporting-Endpoints: a="https://evil.example/"`, "Timing-Allow-Origin: https://evil.example",
	"Service-Worker-Allowed: /evil", "SourceMap: https://evil.example/", "X-SourceMap: https://evil.example/", "Origin-Trial: evil", `Speculation-Rules: "https://evil.example/"`,
	"X-Accel-Redirect: /evil", "X-Sendfile: /evil", "Server: evil", "X-Powered-By: evil",
	"X-Sallyport-Route: evil", "X-Sallyport-Ticket: evil", "X-Envoy-Upstream-Service-Time: evil", "X-Envoy-Decorator-Operation: evil", "Keep-Alive: evil", "Proxy-Connection: evil",
}

func TestHostileFields(t *testing.T) {
	l := lie{name: "fields", header: append(keptFields, withheldFields...), json: fine, want: answered.but("legacy", same).on(fourWays...)}
	e := lie{name: "fields of events", header: l.header, events: event(fine), want: answered.on(fourWays...)}
	h := startLair(t, l, e)
	for _, l := range []lie{l, e} {
		for way := range l.want {
			r, _ := h.ask(l, way)
			a := h.send(r)
			if a.Status != http.StatusOK {
				t.Errorf("%s, %s: %s", l.name, way, a)
			}
			for _, field := range withheldFields {
				name, value, _ := strings.Cut(field, ": ")
				if got := strings.Join(a.Header.Values(name), " "); strings.Contains(got, value) {
					t.Errorf("%s, %s: %s: %s", l.name, way, name, got)
				}
			}
			if direct := way == "modern" || way == "legacy"; direct != (a.Header.Get("X-Evil") == evil) {
				t.Errorf("%s, %s: %v", l.name, way, a.Header)
			}
		}
	}
	h.wellAfterwards()
	h.account([]lie{l, e})
}

// TestHostileTrailers: over HTTP/2 on both sides there is a way for trailers, and nothing that would act comes that way.
func TestHostileTrailers(t *testing.T) {
	w := newWorld(t)
	ca, caKey := authority(t)
	w.write("ca.pem", certPEM(ca.Raw))
	cert, key := leaf(t, ca, caKey)
	pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	must(t, err)
	spoken := make(chan string, 10)
	l := newLiar(t, "both", nil)
	l.instead = map[string]func(turn){"tools/call": func(t turn) {
		spoken <- t.r.Proto
		text := event(strings.ReplaceAll(fine, "@ID", t.id))
		t.w.Header().Set("Content-Type", "text/event-stream")
		t.say(text)
		for _, field := range append(keptFields, withheldFields...) {
			name, value, _ := strings.Cut(field, ": ")
			t.w.Header().Add(http.TrailerPrefix+name, value)
		}
		t.w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
	}}
	front := &http.Server{Handler: l, TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}}}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	go func() { _ = front.ServeTLS(ln, "", "") }()
	t.Cleanup(func() { _ = front.Close() })
	w.edit("sallyport.yaml", "http://"+w.open.addr()+"/mcp", "https://"+ln.Addr().String()+"/mcp\n        tls: inside")
	w.edit("sallyport.yaml", "http:\n", "tls:\n  inside:\n    caFile: ca.pem\nhttp:\n")
	w.run()
	session := w.initialize()
	for era, r := range map[string]request{"modern": modern("open_echo", `{}`), "legacy": legacyCall(session, "open_echo", `{}`)} {
		head := fields{{":method", "POST"}, {":scheme", "http"}, {":path", "/mcp"}, {":authority", w.address}, {"authorization", "Bearer " + w.token},
			{"content-type", "application/json"}, {"accept", "application/json, text/event-stream"}}
		for name, value := range r.header {
			head = append(head, [2]string{strings.ToLower(name), value})
		}
		a := w.h2(head, []byte(r.body), nil)
		if proto := <-spoken; proto != "HTTP/2.0" || !strings.Contains(string(a.Body), `"result"`) {
			t.Errorf("%s over %s: %s", era, proto, a)
		}
		for _, field := range append(keptFields, withheldFields...) {
			name, value, _ := strings.Cut(field, ": ")
			if got := strings.Join(a.Header.Values(name), " "); strings.Contains(got, value) {
				t.Errorf("%s: %s: %s", era, name, got)
			}
		}
	}
}
