package policy

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/authz/token"
)

const benchPolicy = `package orchestrator
default result["allowed"] := false
result["allowed"] := true if {
	input.request.mcp.tool.params.name == "pay"
	"payments" in input.identity.scopes
	input.request.mcp.tool.params.arguments.amount < 100
}`

func benchInput(bytes int) Input {
	items := []map[string]any{}
	size := 0
	for size < bytes-60 {
		item := map[string]any{"id": len(items), "name": "item \"x\"", "tags": []string{"a", "b"}, "price": 1.25}
		raw, _ := json.Marshal(item)
		items, size = append(items, item), size+len(raw)
	}
	raw, _ := json.Marshal(map[string]any{"amount": 10, "note": strings.Repeat("n", 20), "items": items})
	in := call("pay", string(raw))
	in.Identity = &token.Identity{Subject: "ann", Scopes: []string{"payments"}, Claims: map[string]any{"sub": "ann"}}
	return in
}

func BenchmarkDecide(b *testing.B) {
	for _, bench := range []struct {
		name, src string
		bytes     int
	}{
		{"names", v0Policy, 250}, {"250B", benchPolicy, 250}, {"16KiB", benchPolicy, 16 << 10}, {"16KiB-unread", v0Policy, 16 << 10}, {"token", tokenPolicy, 250},
	} {
		b.Run(bench.name, func(b *testing.B) {
			p, in := mustCompile(b, bench.src), benchInput(bench.bytes)
			b.ReportAllocs()
			for b.Loop() {
				if d := p.Decide(b.Context(), in); d.Reason == Failed {
					b.Fatal(d.Explain())
				}
			}
		})
	}
}

func BenchmarkVisible(b *testing.B) {
	for _, bench := range []struct{ name, src, tool string }{
		{"names", v0Policy, "readPage"}, {"default-allow", argumentsDeny, "quote"}, {"partial", argumentsDecide, "pay"}, {"partial-hidden", argumentsDecide, "x"}, {"alias", aliasForm, "pay"},
	} {
		b.Run(bench.name, func(b *testing.B) {
			p, in := mustCompile(b, bench.src), call(bench.tool, "")
			b.ReportAllocs()
			for b.Loop() {
				p.Visible(b.Context(), in)
			}
		})
	}
}

// A decision about what the policy does not read costs the same whatever the arguments are.
func TestDecideAllocates(t *testing.T) {
	for _, c := range []struct {
		name, src string
		bytes     int
		most      float64
	}{{"names", v0Policy, 250, 120}, {"arguments that nothing reads", v0Policy, 16 << 10, 120}, {"an argument", benchPolicy, 16 << 10, 140}} {
		p, in := mustCompile(t, c.src), benchInput(c.bytes)
		if n := testing.AllocsPerRun(100, func() { p.Decide(t.Context(), in) }); n > c.most {
			t.Errorf("%s: %v allocations, at the most %v are expected", c.name, n, c.most)
		}
	}
}
