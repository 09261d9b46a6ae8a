package authz_test

import (
	"encoding/json"
	"io"
	"log/slog"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/authz/audit"
)

// seedRego reads names only, as published policies do; amountRego reads an argument and the identity.
const (
	seedRego = `package orchestrator

default result["allowed"] := false

result["allowed"] := true {
  input.request.mcp.tool.params.name == "listItems"
}

result["allowed"] := true {
  input.request.mcp.tool.params.name == "getItem"
}
`
	amountRego = `package orchestrator
default result["allowed"] := false
result["allowed"] := true if {
	input.request.mcp.tool.params.name == "listItems"
	"mcp" in input.identity.scopes
	input.request.mcp.tool.params.arguments.amount < 100
}
`
)

// arguments is a JSON object of about size bytes.
func arguments(size int) string {
	items := []map[string]any{}
	for n := 0; n < size-80; {
		item := map[string]any{"id": len(items), "name": "item \"x\"", "tags": []string{"a", "b"}, "price": 1.25}
		raw, _ := json.Marshal(item)
		items, n = append(items, item), n+len(raw)+1
	}
	raw, _ := json.Marshal(map[string]any{"amount": 10, "items": items})
	return string(raw)
}

// BenchmarkDecision is one modern tools/call from headers to verdict: a cached token, a real policy, a real audit
// log. The budget at 250 B is 25 µs and 250 allocations.
func BenchmarkDecision(b *testing.B) {
	for _, bench := range []struct {
		name, rego string
		size       int
		exchange   bool
	}{
		{"seed/250B", seedRego, 250, false}, {"seed/16KiB", seedRego, 16 << 10, false},
		{"seed/250B/exchange", seedRego, 250, true}, {"seed/16KiB/exchange", seedRego, 16 << 10, true},
		{"arguments/250B/exchange", amountRego, 250, true}, {"arguments/16KiB/exchange", amountRego, 16 << 10, true},
	} {
		b.Run(bench.name, func(b *testing.B) {
			log, err := audit.Open(audit.Config{Writer: io.Discard})
			if err != nil {
				b.Fatal(err)
			}
			w := newWorld(b, func(w *world) {
				w.cfg.Audit, w.cfg.Log = log, slog.New(slog.DiscardHandler)
				w.items.Policy = compile(b, "items-authz", bench.rego)
				w.exchanger.issued.Actors = []string{"gateway"}
				if !bench.exchange {
					w.items.Exchange = nil
				}
			})
			w.upstreams.lists["listItems"] = true
			r, text := modernCall("my_server_listItems", arguments(bench.size))
			r = with(r, "user-agent", "agent/1.0", "x-request-id", "11111111-2222-3333-4444-555555555555", "x-forwarded-proto", "http",
				"accept-encoding", "gzip", "content-length", "400", "authorization", "Bearer "+strings.Repeat("t", 800))
			w.tokens.known[strings.Repeat("t", 800)] = newAnn()
			body := []byte(text)
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				w.exchanger.requests, w.upstreams.owners = w.exchanger.requests[:0], w.upstreams.owners[:0]
				call, _ := w.gate.Begin(b.Context(), r)
				if v := call.Finish(b.Context(), body); v.Route != "app-items" {
					b.Fatal(outcome(v))
				}
			}
		})
	}
}

// The decision of a call with an exchange stays within its budget of garbage: see BenchmarkDecision.
func TestDecisionAllocates(t *testing.T) {
	log, err := audit.Open(audit.Config{Writer: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, func(w *world) {
		w.cfg.Audit, w.cfg.Log = log, slog.New(slog.DiscardHandler)
		w.items.Policy = compile(t, "items-authz", amountRego)
		w.exchanger.issued.Actors = []string{"gateway"}
	})
	w.upstreams.lists["listItems"] = true
	r, text := modernCall("my_server_listItems", arguments(250))
	body := []byte(text)
	if n := testing.AllocsPerRun(100, func() {
		call, _ := w.gate.Begin(t.Context(), r)
		if v := call.Finish(t.Context(), body); v.Route != "app-items" {
			t.Fatal(outcome(v))
		}
	}); n > 230 { // 205 without the race detector
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkRefusal is a request without a token, the cheapest thing to send.
func BenchmarkRefusal(b *testing.B) {
	w := newWorld(b, func(w *world) { w.cfg.Log = slog.New(slog.DiscardHandler) })
	r := post("authorization", "-")
	b.ReportAllocs()
	for b.Loop() {
		w.audit.records = w.audit.records[:0]
		if call, v := w.gate.Begin(b.Context(), r); call != nil || v.Reply.Status != 401 {
			b.Fatal(outcome(v))
		}
	}
}
