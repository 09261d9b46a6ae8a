package hub

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/authz/token"
	"github.com/sallyport/sallyport/mcpparse"
)

// countingGate counts how often it is asked what a caller may see.
type countingGate struct {
	Gate
	asked atomic.Int32
}

func (g *countingGate) Visible(ctx context.Context, a *authz.App, target mcpparse.Target, name string, r authz.Request, id *token.Identity, version string) bool {
	g.asked.Add(1)
	return g.Gate.Visible(ctx, a, target, name, r, id, version)
}

// What a caller may see is remembered as long as nothing can change it.
func TestVisibilityIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const bySource = "package orchestrator\nresult[\"allowed\"] := true if input.source.ip == \"192.0.2.1\"\n"
		up, watched := liveModern(`{"tools":{"listChanged":true}}`), liveModern(`{"tools":{}}`)
		up.answer("tools/list", toolList("one", "two"))
		watched.answer("tools/list", toolList("three"))
		apps := func() []*authz.App {
			all := []*authz.App{app("up"), app("watched")}
			all[1].Policy = compile(t, bySource)
			return all
		}
		g := newGateway(t, egress{"app/up": up, "app/watched": watched}, apps())
		var gate *countingGate
		counting := func() {
			gate = &countingGate{Gate: g.current()}
			g.mu.Lock()
			defer g.mu.Unlock()
			g.seenAs = gate
		}
		counting()
		ready(t, g.Hub)
		list := func(who, source string) string {
			t.Helper()
			before := gate.asked.Load()
			rec := ask(g.Hub, who, "POST", modernRequest("tools/list", `{}`, "", `"x":1`), "MCP-Protocol-Version", "2026-07-28", authz.SourceHeader, source)
			return strings.Repeat("asked ", int(gate.asked.Load()-before)) + strings.Repeat("listed ", strings.Count(rec.Body.String(), `"name":"up_`)+strings.Count(rec.Body.String(), `"name":"watched_`))
		}
		for _, step := range []struct {
			name, who, source string
			do                func()
			want              string
		}{
			{"the first time", "alice", "192.0.2.1", nil, "asked asked asked listed listed listed "},
			{"again: one depends on where it comes from", "alice", "192.0.2.1", nil, "asked listed listed listed "},
			{"from elsewhere", "alice", "192.0.2.2", nil, "asked listed listed "},
			{"another caller", "bob", "192.0.2.1", nil, "asked asked asked listed listed listed "},
			{"the list has changed", "alice", "192.0.2.1", func() {
				up.answer("tools/list", toolList("one", "two", "more"))
				up.message(t, `{"toolsListChanged":true}`, `{"jsonrpc":"2.0","method":"`+toolsChanged+`"}`)
				time.Sleep(3 * time.Second)
			}, "asked asked asked asked listed listed listed listed "},
			{"a reload", "alice", "192.0.2.1", func() {
				g.setGate(g.Hub, apps())
				counting()
			}, "asked asked asked asked listed listed listed listed "},
		} {
			if step.do != nil {
				step.do()
			}
			if diff := cmp.Diff(step.want, list(step.who, step.source)); diff != "" {
				t.Errorf("%s: %s", step.name, diff)
			}
		}
	})
}
