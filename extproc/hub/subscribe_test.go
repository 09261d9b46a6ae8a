package hub

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/tidwall/gjson"

	"github.com/sallyport/sallyport/authz"
)

func subscribing(verb, uri string) string {
	return `{"jsonrpc":"2.0","id":"sub","method":"resources/` + verb + `","params":{"uri":"` + uri + `"}}`
}

const subscribed = `{"jsonrpc":"2.0","id":"sub","result":{}}`

// uris are what was subscribed to in a session.
func (s *script) uris(session, verb string) (out []string) {
	for _, body := range s.sent(session, "resources/"+verb) {
		out = append(out, gjson.Get(body, "params.uri").Str)
	}
	return out
}

// A subscription is passed on, and made again in the session that takes the place of a lost one.
func TestSubscribe(t *testing.T) {
	g, a, _, alice := two(t, ableBody)
	alice.must(200, subscribed, subscribing("subscribe", "x:1"))
	alice.must(200, subscribed, subscribing("subscribe", "x:2"))
	alice.must(200, subscribed, subscribing("subscribe", "x:3"))
	alice.must(200, subscribed, subscribing("unsubscribe", "x:3"))
	if diff := cmp.Diff([]string{"x:1", "x:2", "x:3"}, a.uris("a-2", "subscribe")); diff != "" {
		t.Error(diff)
	}
	if got := a.sent("a-2", "resources/subscribe")[0]; got != subscribing("subscribe", "x:1") {
		t.Errorf("sent %s", got)
	}
	if got := a.sentWith("a-2", "resources/unsubscribe"); got != "Bearer alice:a" {
		t.Errorf("with %q", got)
	}
	bob := enter(t, g, "bob", ableBody)
	bob.must(200, `"result"`, toolCall("a_t"))
	a.forget("a-2")
	alice.must(200, `"result"`, toolCall("a_t"))
	got := a.uris("a-4", "subscribe")
	if len(got) != 2 || !strings.Contains("x:1 x:2 x:1", strings.Join(got, " ")) {
		t.Errorf("made again: %v", got)
	}
	if got := a.sentWith("a-4", "resources/subscribe"); got != "Bearer alice:a:session" {
		t.Errorf("with %q", got)
	}
	if got := a.uris("a-3", "subscribe"); len(got) > 0 {
		t.Errorf("another agent has %v", got)
	}
	a.forget("a-4") // the subscription itself finds it out
	alice.must(200, subscribed, subscribing("unsubscribe", "x:1"))
	if got := a.uris("a-5", "subscribe"); len(got) != 2 {
		t.Errorf("made again: %v", got)
	}
	if diff := cmp.Diff([]string{"x:1"}, a.uris("a-5", "unsubscribe")); diff != "" {
		t.Error(diff)
	}
	a.forget("a-5")
	alice.must(200, `"result"`, toolCall("a_t"))
	if diff := cmp.Diff([]string{"x:2"}, a.uris("a-6", "subscribe")); diff != "" {
		t.Error(diff)
	}
	if n := len(g.audited("resources/subscribe")); n != 3 {
		t.Errorf("%d on record", n)
	}
}

// What the upstream refused is not made again.
func TestSubscriptionThatIsRefused(t *testing.T) {
	_, a, _, alice := two(t, ableBody)
	a.answer("resources/subscribe", "")
	alice.must(200, `"id":"sub","error":{"code":-32601`, subscribing("subscribe", "x:1"))
	a.forget("a-2")
	alice.must(200, `"result"`, toolCall("a_t"))
	if got := a.uris("a-3", "subscribe"); len(got) > 0 {
		t.Errorf("made again: %v", got)
	}
}

// A modern upstream has no sessions to subscribe in: the agent's stream listens there.
func TestSubscribeAtAModernUpstream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := listening()
		g := newGateway(t, egress{"app/up": up}, []*authz.App{protected("up")})
		ready(t, g.Hub)
		alice, bob := enter(t, g, "alice", `{}`), enter(t, g, "bob", `{}`)
		alice.must(200, subscribed, subscribing("subscribe", "x:2"))
		if up.count("resources/subscribe")+up.count("subscriptions/listen") > 1 { // the hub's own
			t.Error("it was told before somebody listens")
		}
		events, bobs := alice.listen(), bob.listen()
		const updated = "notifications/resources/updated"
		say := func(key, uri string) {
			t.Helper()
			up.message(t, key, `{"jsonrpc":"2.0","method":"`+updated+`","params":{"uri":"`+uri+`","_meta":{"io.modelcontextprotocol/subscriptionId":1}}}`)
		}
		const one, both = `{"resourceSubscriptions":["x:2"]}`, `{"resourceSubscriptions":["x:1","x:2"]}`
		say(one, "x:2")
		want := `{"jsonrpc":"2.0","method":"` + updated + `","params":{"uri":"x:2"}}`
		if diff := cmp.Diff(want, events.next()); diff != "" {
			t.Error(diff)
		}
		if got := up.openings(one)[0].header.Get("Authorization"); got != "Bearer alice:up:session" {
			t.Errorf("listens with %q", got)
		}
		alice.must(200, subscribed, subscribing("subscribe", "x:1"))
		say(both, "x:1")
		if got := events.next(); !strings.Contains(got, `"uri":"x:1"`) {
			t.Error(got)
		}
		synctest.Wait()
		if open := strings.Join(up.open(), " "); strings.Contains(open, one) {
			t.Errorf("listens for both: %s", open)
		}
		say(both, "x:secret") // nobody subscribed to it
		alice.must(200, subscribed, subscribing("unsubscribe", "x:2"))
		alice.must(200, subscribed, subscribing("unsubscribe", "x:1"))
		synctest.Wait()
		if open := strings.Join(up.open(), " "); strings.Contains(open, "resourceSubscriptions") {
			t.Errorf("listens for nothing: %s", open)
		}
		events.quiet(time.Second)
		bobs.quiet(time.Second)
		alice.must(200, subscribed, subscribing("subscribe", "x:1"))
		a := protected("up")
		a.Policy = compile(t, "package orchestrator\nresult[\"allowed\"] := true if input.request.mcp.tool\n")
		say(`{"resourceSubscriptions":["x:1"]}`, "x:1")
		events.next()
		g.setGate(g.Hub, []*authz.App{a})
		say(`{"resourceSubscriptions":["x:1"]}`, "x:1") // which may not be read any more
		if got := events.next(); got != `{"jsonrpc":"2.0","method":"notifications/resources/list_changed"}` {
			t.Error(got)
		}
		events.quiet(time.Second)
	})
}

// What a legacy upstream says of a resource reaches the agent on the session's stream.
func TestUpdatesOfALegacyUpstream(t *testing.T) {
	streaming(t, func(t *testing.T, _ *gateway, a, _ *live, alice agent, events *stream) {
		alice.must(200, subscribed, subscribing("subscribe", "x:1"))
		const update = `{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"x:1"}}`
		a.message(t, "a-2", update)
		if got := events.next(); got != update {
			t.Error(got)
		}
	})
}

// A session that the upstream opens while it is asked something else learns what the agent had asked for, too.
func TestReplayIsOfTheAppsOwn(t *testing.T) {
	g, _, b, alice := two(t, ableBody)
	alice.must(200, subscribed, subscribing("subscribe", "x:1"))
	b.forget("b-2")
	alice.must(200, `"result"`, toolCall("b_t"))
	if got := b.uris("b-3", "subscribe"); len(got) > 0 {
		t.Errorf("b learnt of %v", got)
	}
	facts, err := g.store.Facts(t.Context(), alice.id())
	if diff := cmp.Diff(map[string]string{"sub:x:1": "a"}, facts); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
}
