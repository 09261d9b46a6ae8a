package hub

import (
	"net/http"
	"testing"

	"github.com/sallyport/sallyport/authz"
)

// A call that was decided before a reload sent its app elsewhere goes to the server that it was decided for, or nowhere; and
// what is known of the new one outlives the questions about the old.
func TestCallDecidedBeforeItsAppMoved(t *testing.T) {
	for _, known := range []bool{true, false} {
		from, to := liveLegacy("from", `{"tools":{}}`), liveLegacy("to", `{"tools":{}}`)
		before, after := protected("up"), protected("up")
		before.Route, after.Route = "app/up@1", "app/up@2"
		g := newGateway(t, egress{"app/up@1": from, "app/up@2": to}, []*authz.App{before}, func(c *Config) {
			c.Retired = func() []*authz.App {
				if known {
					return []*authz.App{before}
				}
				return nil
			}
		})
		ready(t, g.Hub)
		earlier := g.current()
		g.setGate(g.Hub, []*authz.App{after})
		g.Prime(t.Context())
		fresh := g.upstream(after)
		if !fresh.attempted() {
			t.Fatal("the lists of the new server have not been read")
		}
		g.mu.Lock()
		g.gate, g.seenAs = earlier, g.gate // the verdict is the old gate's
		g.mu.Unlock()
		body := modernRequest("tools/call", "{}", "", `"name":"up_t","arguments":{}`)
		rec := ask(g, "alice", "POST", body, modernHeaders("tools/call", "up_t")...)
		want, calls := http.StatusServiceUnavailable, 0
		if known {
			want, calls = http.StatusOK, 1
		}
		if rec.Code != want || from.count("tools/call") != calls || to.count("tools/call") != 0 {
			t.Errorf("known %v: %d %s; %d calls at the old server, %d at the new", known, rec.Code, rec.Body, from.count("tools/call"), to.count("tools/call"))
		}
		if g.upstream(after) != fresh {
			t.Error("what was known of the new server is forgotten")
		}
	}
}
