package authz_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/authz/audit"
)

func sha(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

func TestRecord(t *testing.T) {
	at := time.Date(2026, 11, 23, 1, 2, 3, 0, time.UTC)
	base := audit.Decision{Time: at, Subject: "ann", ClientID: "agent-1", Actors: []string{"agent-1"}, Issuer: "https://issuer.example",
		JTI: "jti-of-agent", SourceIP: "192.0.2.7"}
	for _, test := range []struct {
		name string
		call func(w *world) (authz.Request, string)
		want func(d *audit.Decision)
	}{
		{"allowed", func(*world) (authz.Request, string) { return modernCall("my_server_listItems", `{ "n" : 1.0 }`) }, func(d *audit.Decision) {
			d.Outcome, d.Method, d.ProtocolVersion = audit.Allowed, "tools/call", "2026-07-28"
			d.App, d.Tool, d.ArgumentsSHA256 = "items", "listItems", sha(`{ "n" : 1.0 }`)
			d.Policy, d.PolicyDigest, d.Message = "items-authz", sha(itemsRego), "the delegated token has no act"
			d.Exchanged = &audit.Exchanged{Audience: []string{"https://items.example/"}, Scopes: []string{"item:List"}, JTI: "jti-of-issued", ExpiresIn: 5 * time.Second}
		}},
		{"in a session, no arguments, denied", func(w *world) (authz.Request, string) {
			return post("mcp-session-id", w.session(ownerOf)), `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"open_other"}}`
		}, func(d *audit.Decision) {
			d.Outcome, d.Method, d.ProtocolVersion, d.Session = audit.Denied, "tools/call", "2025-06-18", sessionID
			d.App, d.Tool, d.ArgumentsSHA256 = "open", "other", sha(`{}`)
			d.Policy, d.PolicyDigest, d.Message = "open-authz", sha(openRego), "policy: denied"
		}},
		{"answered by the hub", func(*world) (authz.Request, string) { return modernList() }, func(d *audit.Decision) {
			d.Outcome, d.Method, d.ProtocolVersion = audit.Allowed, "tools/list", "2026-07-28"
		}},
		{"malformed", func(*world) (authz.Request, string) { return post(), `{"jsonrpc":"2.0","id":1` }, func(d *audit.Decision) {
			d.Outcome, d.Method = audit.Denied, "http/post"
		}},
	} {
		w := newWorld(t, func(w *world) { w.cfg.Now = func() time.Time { return at } })
		v := w.judge(test.call(w))
		got, want := w.only(), base
		test.want(&want)
		want.ID = v.ID
		if test.name == "malformed" {
			want.Message = got.Message // the parser's words
		}
		diff(t, test.name, want, got)
		if text := fmt.Sprintf("%+v", got); strings.Contains(text, agentToken) || strings.Contains(text, issuedToken) {
			t.Errorf("%s: a token is on record: %s", test.name, text)
		}
	}
}

// What cannot be recorded does not happen, and says nothing of what it would have been.
func TestUnrecordedIsRefused(t *testing.T) {
	const want = "503 -32603 the gateway cannot record this call"
	for name, call := range map[string]func() (authz.Request, string){
		"call":      func() (authz.Request, string) { return modernCall("my_server_listItems", `{}`) },
		"hub":       func() (authz.Request, string) { return modernList() },
		"denied":    func() (authz.Request, string) { return modernCall("my_server_mondayItem", `{}`) },
		"no token":  func() (authz.Request, string) { return post("authorization", "-"), "" },
		"malformed": func() (authz.Request, string) { return post(), "{" },
	} {
		w := newWorld(t, func(w *world) { w.audit.err = errors.New("disk full") })
		v := w.judge(call())
		if got := outcome(v); got != want || v.Route != "" || v.Set != nil || v.Remove != nil || v.Body != nil || v.ID == "" {
			t.Errorf("%s: %s %+v", name, got, v)
		}
		if !strings.Contains(w.log.String(), "disk full") {
			t.Errorf("%s: the operator is not told: %s", name, w.log)
		}
		if n := w.metric("sallyport_calls_total", "outcome", "allowed"); n != 0 {
			t.Errorf("%s: counted as allowed", name)
		}
		w.audit.err = nil // a later call goes on
		w.log.Reset()
		r, body := modernList()
		diff(t, name+": afterwards", listed, outcome(w.judge(r, body)))
	}
}

func TestAbort(t *testing.T) {
	w := newWorld(t)
	r, _ := modernList()
	call, v := w.gate.Begin(t.Context(), r)
	if len(w.audit.records) != 0 {
		t.Fatal("recorded before it was decided")
	}
	call.Abort("the client went away")
	if rec := w.only(); rec.Outcome != audit.Error || rec.Message != "the client went away" || rec.ID != v.ID || rec.Method != "http/post" || rec.Subject != "ann" {
		t.Errorf("record %+v", rec)
	}
}

func TestEveryCallHasItsOwnID(t *testing.T) {
	w := newWorld(t)
	r, body := modernList()
	if a, b := w.judge(r, body), w.judge(r, body); a.ID == "" || a.ID == b.ID {
		t.Errorf("%q, %q", a.ID, b.ID)
	}
}

// metric sums a counter's values over the series with this label.
func (w *world) metric(name, label, value string) (sum float64) {
	w.tb.Helper()
	for _, s := range w.series(name) {
		if s.labels[label] == value {
			sum += s.value
		}
	}
	return sum
}

type series struct {
	labels map[string]string
	value  float64 // of a counter, or a histogram's count
}

func (w *world) series(name string) []series {
	w.tb.Helper()
	families, err := w.registry.Gather()
	if err != nil {
		w.tb.Fatal(err)
	}
	var out []series
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			s := series{map[string]string{}, m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())}
			for _, l := range m.GetLabel() {
				s.labels[l.GetName()] = l.GetValue()
			}
			out = append(out, s)
		}
	}
	return out
}

// A client that makes up names cannot make series.
func TestMetricsAreBounded(t *testing.T) {
	w := newWorld(t)
	for i := range 50 {
		for _, prefix := range []string{"my_server_", "open_", "elsewhere_"} {
			r, body := modernCall(fmt.Sprint(prefix, "made_up_", i), `{}`)
			w.judge(r, body)
		}
		r := post("mcp-protocol-version", "2026-07-28", "mcp-method", fmt.Sprint("made/up", i))
		w.judge(r, meta(fmt.Sprint("made/up", i), metaVersion+`:"2026-07-28",`+metaCaps+`:{}`))
	}
	for _, tool := range []string{"my_server_listItems", "my_server_mondayItem", "open_echo"} {
		r, body := modernCall(tool, `{}`)
		w.judge(r, body)
	}
	w.exchanger.err = errors.New("down")
	r, body := modernCall("my_server_listItems", `{}`)
	w.judge(r, body)
	got := map[string]float64{}
	for _, s := range w.series("sallyport_calls_total") {
		got[s.labels["app"]+"/"+s.labels["tool"]+"/"+s.labels["outcome"]] = s.value
	}
	diff(t, "calls", map[string]float64{"//denied": 100, "items/other/denied": 50, "open/other/denied": 50, "items/listItems/allowed": 1,
		"items/listItems/error": 1, "items/mondayItem/denied": 1, "open/echo/allowed": 1}, got)
	exchanges := map[string]float64{}
	for _, s := range w.series("sallyport_exchange_duration_seconds") {
		exchanges[s.labels["app"]+"/"+s.labels["outcome"]] = s.value
	}
	diff(t, "exchanges", map[string]float64{"items/ok": 1, "items/failed": 1}, exchanges)
	diff(t, "policy", 2, len(w.series("sallyport_policy_duration_seconds")))
	if n := w.series("sallyport_decision_duration_seconds")[0].value; n != 204 {
		t.Errorf("%v decisions timed", n)
	}
}

func TestMetricsRegisterOnce(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a second registration went unnoticed")
		}
	}()
	r := prometheus.NewRegistry()
	authz.NewMetrics(r)
	authz.NewMetrics(r)
}
