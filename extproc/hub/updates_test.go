package hub

import (
	"testing"
	"testing/synctest"

	"github.com/sallyport/sallyport/authz"
)

// News of a resource reach an agent only while the policy lets it read that resource, whoever they come from.
func TestUpdatesAreJudged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := liveLegacy("up", `{"tools":{"listChanged":true},"resources":{"subscribe":true}}`)
		a := app("up")
		a.Policy = compile(t, "package orchestrator\nresult[\"allowed\"] := true if not input.request.mcp.resource.params.uri == \"x:2\"\n")
		g := newGateway(t, egress{"app/up": up}, []*authz.App{a})
		ready(t, g.Hub)
		alice := enter(t, g, "alice", `{}`)
		alice.must(200, "", toolCall("up_t"))
		events := alice.listen()
		const updated = `{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"x:`
		up.message(t, "up-2", updated+`2"}}`)
		up.message(t, "up-2", updated+`1"}}`)
		if got := events.next(); got != updated+`1"}}` {
			t.Errorf("got %s", got)
		}
	})
}

// A server that asks whether the hub's own stream is alive is told so.
func TestPingOnOurOwnStreamIsAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := liveLegacy("up", `{"tools":{"listChanged":true},"resources":{"subscribe":true}}`)
		g := newGateway(t, egress{"app/up": up}, []*authz.App{app("up")})
		ready(t, g.Hub)
		synctest.Wait() // until it listens
		up.message(t, "up-1", `{"jsonrpc":"2.0","id":7,"method":"ping"}`)
		synctest.Wait()
		up.script.mu.Lock()
		defer up.script.mu.Unlock()
		for _, m := range up.seen {
			if string(m.body) == `{"jsonrpc":"2.0","id":7,"result":{}}` {
				return
			}
		}
		t.Error("no answer")
	})
}
