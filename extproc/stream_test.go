package extproc

import (
	"context"
	"errors"
	"log/slog"
	"reflect"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/authz/audit"
	"github.com/sallyport/sallyport/authz/policy"
	"github.com/sallyport/sallyport/authz/session"
	"github.com/sallyport/sallyport/mcpparse"
)

// upstreams is an upstream side that is always there, with sessions.
type upstreams struct {
	modern bool
	resent int
}

func (u *upstreams) Leg(context.Context, *authz.App, authz.Peer) (authz.Leg, error) {
	if u.modern {
		return authz.Leg{Era: mcpparse.EraModern, Version: "2026-07-28"}, nil
	}
	return authz.Leg{Era: mcpparse.EraLegacy, Version: "2025-11-25", SessionID: "up-1"}, nil
}

func (u *upstreams) Resend(_ context.Context, _ *authz.App, _ authz.Peer, _ authz.Leg, call authz.Resent) (*authz.Reply, error) {
	u.resent++
	return &authz.Reply{Status: 200, Body: mcpparse.ResultBody(call.ID, []byte("{}"))}, nil
}
func (*upstreams) Lists(*authz.App, mcpparse.Target, string) bool       { return true }
func (*upstreams) Serves(string, mcpparse.Era, *authz.Caller) bool      { return true }
func (*upstreams) Resource(string, *authz.Caller) string                { return "a" }
func (*upstreams) Touch(context.Context, session.Session) (bool, error) { return true, nil }

// records counts decisions by outcome, and can be made to fail.
type records struct {
	outcomes map[audit.Outcome]int
	fail     bool
}

func (r *records) Decision(d audit.Decision) error {
	if r.fail {
		return errors.New("disk full")
	}
	r.outcomes[d.Outcome]++
	return nil
}

func newTestGate(t testing.TB) (*authz.Gate, *records, *upstreams) {
	t.Helper()
	return newGateFor(t, &upstreams{}, nil)
}

// newModernGate is a gate before an upstream without sessions, whose resources may be read.
func newModernGate(t testing.TB) (*authz.Gate, *records, *upstreams) {
	t.Helper()
	return newGateFor(t, &upstreams{modern: true}, nil)
}

func newGateFor(t testing.TB, up *upstreams, back authz.Revocations) (*authz.Gate, *records, *upstreams) {
	t.Helper()
	p, err := policy.Compile("p", "p.rego", []byte("package orchestrator\nresult[\"allowed\"] := true if input.request.mcp.tool.params.name == \"ok\"\n"+
		"result[\"allowed\"] := true if input.request.mcp.resource.params.uri == \"a:b\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := session.NewSealer([]byte("0123456789abcdef0123456789abcdef"))
	if err != nil {
		t.Fatal(err)
	}
	rec := &records{outcomes: map[audit.Outcome]int{}}
	g, err := authz.New(authz.Config{Upstreams: up, Revocations: back, Sessions: sealer, Audit: rec, Metrics: authz.NewMetrics(prometheus.NewRegistry()),
		Log: slog.New(slog.DiscardHandler), Listen: "127.0.0.1:1", MaxRequestBytes: 1 << 20,
		Apps:  []*authz.App{{Name: "a", Prefix: "a_", Route: "app/a", Policy: p.Within(time.Minute)}},
		Paths: authz.Paths{MCP: "/mcp", Metadata: "/.well-known/oauth-protected-resource", Health: "/status"}})
	if err != nil {
		t.Fatal(err)
	}
	return g, rec, up
}

func post(header authz.Header) headersEvent {
	h := authz.Header{"content-type": {"application/json"}}
	for k, v := range header {
		h[k] = v
	}
	return headersEvent{mode: modeBuffered, request: authz.Request{Method: "POST", Path: "/mcp", Scheme: "http", Host: "127.0.0.1:1", Header: h}}
}

func call(tool string) bodyEvent {
	return bodyEvent{body: []byte(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"` + tool + `"}}`)}
}

func answered(status int, contentType string) responseEvent {
	return responseEvent{status: status, header: authz.Header{"content-type": {contentType}}}
}

func TestMachine(t *testing.T) {
	get := post(nil)
	get.request.Method, get.request.EndOfStream = "GET", true
	unsafeMode, ignoredMode := post(nil), post(nil)
	unsafeMode.mode, ignoredMode.mode = modeUnsafe, modeIgnored
	for _, c := range []struct {
		name   string
		events []any
		want   string // of the last event: forward, reply, replace, pass or error
		last   bool
		record audit.Outcome
	}{
		{"allowed call", []any{post(nil), call("a_ok")}, "forward", false, audit.Allowed},
		{"allowed call, good answer", []any{post(nil), call("a_ok"), answered(200, "application/json")}, "pass", true, audit.Allowed},
		{"allowed call, streamed answer", []any{post(nil), call("a_ok"), answered(200, "text/event-stream")}, "relay", false, audit.Allowed},
		{"… and a part of it", []any{post(nil), call("a_ok"), answered(200, "text/event-stream"), chunkEvent{chunk: []byte(": a\n\n")}}, "chunk", false, audit.Allowed},
		{"… and its end", []any{post(nil), call("a_ok"), answered(200, "text/event-stream"), chunkEvent{end: true}}, "chunk", true, audit.Allowed},
		{"… and more after the end", []any{post(nil), call("a_ok"), answered(200, "text/event-stream"), chunkEvent{end: true}, chunkEvent{}}, "error", false, audit.Allowed},
		{"allowed call, a chunk of what is not read", []any{post(nil), call("a_ok"), answered(200, "application/json"), chunkEvent{}}, "error", false, audit.Allowed},
		{"a chunk before the headers", []any{post(nil), call("a_ok"), chunkEvent{}}, "error", false, audit.Allowed},
		{"allowed call, empty answer", []any{post(nil), call("a_ok"), responseEvent{200, authz.Header{"content-type": {"application/json"}}, true}}, "replace", true, audit.Allowed},
		{"allowed call, lost session", []any{post(nil), call("a_ok"), answered(404, "")}, "replace", true, audit.Allowed},
		{"allowed call, upstream 401", []any{post(nil), call("a_ok"), answered(401, "")}, "replace", true, audit.Allowed},
		{"denied call", []any{post(nil), call("a_no")}, "reply", true, audit.Denied},
		{"GET", []any{get}, "reply", true, audit.Denied},
		{"wrong content type", []any{post(authz.Header{"content-type": {"text/plain"}})}, "reply", true, audit.Denied},
		{"body before headers", []any{call("a_ok")}, "error", false, ""},
		{"headers twice", []any{post(nil), post(nil)}, "error", false, audit.Error},
		{"body twice", []any{post(nil), call("a_ok"), call("a_ok")}, "error", false, audit.Allowed},
		{"Envoy's own refusal of an upgrade", []any{answered(403, "")}, "pass", true, ""},
		{"Envoy's own 413", []any{post(nil), answered(413, "")}, "pass", true, audit.Denied},
		{"Envoy's own timeout", []any{post(nil), answered(408, "")}, "pass", true, audit.Error},
		{"unknown message", []any{post(nil), unknownEvent{}}, "error", false, audit.Error},
		{"unsafe filter", []any{unsafeMode}, "reply", true, ""},
		{"ignored verdicts", []any{ignoredMode}, "error", false, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			g, rec, _ := newTestGate(t)
			m := &machine{gate: g}
			got, last := "", false
			for _, ev := range c.events {
				a, err := m.step(t.Context(), ev)
				got, last = kind(a, err), a.last
			}
			if got != c.want || last != c.last {
				t.Errorf("got %s last=%v, want %s last=%v", got, last, c.want, c.last)
			}
			if n := total(rec); c.record == "" && n != 0 || c.record != "" && (n != 1 || rec.outcomes[c.record] != 1) {
				t.Errorf("records %v, want one %q", rec.outcomes, c.record)
			}
		})
	}
}

// A call whose session the upstream lost is answered by what came when it was sent again.
func TestLostSession(t *testing.T) {
	g, _, up := newTestGate(t)
	m := &machine{gate: g}
	var last action
	for _, ev := range []any{post(nil), call("a_ok"), answered(404, "")} {
		var err error
		if last, err = m.step(t.Context(), ev); err != nil {
			t.Fatal(err)
		}
	}
	if up.resent != 1 || !last.again || last.reply.Status != 200 {
		t.Errorf("sent again %d times: %+v", up.resent, last)
	}
}

func TestUnrecordedIsRefused(t *testing.T) {
	g, rec, _ := newTestGate(t)
	rec.fail = true
	m := &machine{gate: g}
	if _, err := m.step(t.Context(), post(nil)); err != nil {
		t.Fatal(err)
	}
	a, err := m.step(t.Context(), call("a_ok"))
	if err != nil || a.verdict.Forwards() || a.verdict.Reply.Status != 503 {
		t.Errorf("%+v, %v", a.verdict, err)
	}
}

func total(r *records) int {
	n := 0
	for _, v := range r.outcomes {
		n += v
	}
	return n
}

func kind(a action, err error) string {
	switch {
	case err != nil:
		return "error"
	case a.reply != nil:
		return "replace"
	case a.relay:
		return "relay"
	case a.chunk != nil:
		return "chunk"
	case a.pass:
		return "pass"
	case a.proceed:
		return "proceed"
	case a.verdict.Forwards():
		return "forward"
	}
	return "reply"
}

// FuzzMachine plays any order of messages. Whatever Envoy or somebody in its place says: a stream never ends well
// with an answer outstanding, nothing is forwarded before the whole body was judged, and nothing without a record.
func FuzzMachine(f *testing.F) {
	for _, seed := range []string{"\x00\x02", "\x00\x02\x04", "\x00\x02\x0a\x0b\x0c", "\x00\x02\x0a\x0c", "\x00\x03", "\x01", "\x00\x04", "\x00\x05", "\x06\x00\x02", "\x07", "\x00\x00", "\x0d\x0f\x10", "\x0d\x02\x0e", "\x0d\x0e"} {
		f.Add([]byte(seed))
	}
	get := post(nil)
	get.request.Method, get.request.EndOfStream = "DELETE", true
	unsafeMode, ignoredMode := post(nil), post(nil)
	unsafeMode.mode, ignoredMode.mode = modeUnsafe, modeIgnored
	alphabet := []any{post(nil), get, call("a_ok"), call("a_no"), answered(200, "application/json"),
		answered(503, ""), unsafeMode, ignoredMode, unknownEvent{}, bodyEvent{}, answered(200, "text/event-stream"), chunkEvent{chunk: []byte("data: {}\n\n")}, chunkEvent{end: true},
		duplexPost(), trailersEvent{}, bodyEvent{body: call("a_ok").body[:9]}, bodyEvent{body: call("a_ok").body[9:], end: true}}
	f.Fuzz(func(t *testing.T, order []byte) {
		if len(order) > 8 {
			order = order[:8]
		}
		g, rec, _ := newTestGate(t)
		m := &machine{gate: g}
		bodySeen, final := false, 0
		for _, b := range order {
			ev := alphabet[int(b)%len(alphabet)]
			a, err := m.step(t.Context(), ev)
			if err != nil {
				if !reflect.DeepEqual(a, action{}) {
					t.Fatal("an answer beside an error")
				}
				if _, err := m.step(t.Context(), ev); err == nil {
					t.Fatal("a broken stream goes on")
				}
				break
			}
			if _, ok := ev.(bodyEvent); ok {
				bodySeen = true
			}
			if a.verdict != nil && a.verdict.Forwards() && a.duplex && string(a.body) != string(call("a_ok").body) && a.verdict.Body == nil {
				t.Fatalf("another body goes on: %q", a.body)
			}
			if a.verdict != nil {
				final++
				if a.verdict.Forwards() && (!bodySeen || rec.outcomes[audit.Allowed] == 0) {
					t.Fatal("forwarded without a judged body and its record")
				}
			}
			if _, answered := ev.(responseEvent); a.last && final == 0 && !answered {
				t.Fatal("ended well without a verdict, on a request that Envoy has not answered itself")
			}
			if a.last {
				if _, err := m.step(t.Context(), ev); err == nil {
					t.Fatal("answered after the last answer")
				}
				break
			}
		}
		m.abort("end of test")
		if final > 1 || total(rec) > 1 {
			t.Fatalf("%d verdicts, %d records for one stream", final, total(rec))
		}
	})
}
