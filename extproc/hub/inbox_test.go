package hub

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/authz/session"
	"github.com/sallyport/sallyport/mcpparse"
)

const logged = `{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":`

// streaming runs a test with alice's event stream open before two live upstreams.
func streaming(t *testing.T, test func(t *testing.T, g *gateway, a, b *live, alice agent, events *stream)) {
	synctest.Test(t, func(t *testing.T) {
		g, a, b, alice := two(t, ableBody)
		events := alice.listen()
		synctest.Wait() // until it listens to both
		test(t, g, a, b, alice, events)
	})
}

// What all of an agent's upstream sessions have to say comes on one stream, each event under a name of its own.
func TestStreamsAreMerged(t *testing.T) {
	streaming(t, func(t *testing.T, _ *gateway, a, b *live, alice agent, events *stream) {
		seen := map[string]bool{}
		for _, from := range []struct {
			up           *live
			app, session string
		}{{a, "a", "a-2"}, {b, "b", "b-2"}} {
			from.up.say(t, from.session, "id: 7\nretry: 1000\ndata: "+logged+"1.50}}\n\n")
			ev := events.block()
			if string(ev.Data) != logged+"1.50}}" || ev.Retry != time.Second || seen[ev.ID] {
				t.Errorf("%s: %+v", from.app, ev)
			}
			seen[ev.ID] = true
			name, err := sealer(t).OpenName(alice.id(), session.StreamEvent, ev.ID)
			want := session.Name{Kind: session.StreamEvent, App: session.TagOf(from.app), Leg: session.TagOf(from.session), Raw: []byte("7")}
			if diff := cmp.Diff(want, name); err != nil || diff != "" {
				t.Errorf("%v %s", err, diff)
			}
			if got := from.up.openings(from.session); len(got) != 1 || got[0].header.Get("Authorization") != "Bearer alice:"+from.app+":session" || got[0].last != "" {
				t.Errorf("%s: opened by %+v", from.app, got)
			}
		}
		a.message(t, "a-2", `{"jsonrpc":"2.0","id":1,"method":"ping"}`)
		first := events.message()
		b.message(t, "b-2", `{"jsonrpc":"2.0","id":1,"method":"ping"}`)
		if second := events.message(); string(first.ID) == string(second.ID) {
			t.Errorf("two requests have the id %s", first.ID)
		}
	})
}

// What an agent must not see is withheld, and counted.
func TestStreamsWithhold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := prometheus.NewRegistry()
		up := liveLegacy("up", `{"tools":{}}`)
		g := newGateway(t, egress{"app/up": up}, []*authz.App{app("up")}, func(c *Config) { c.Metrics = NewMetrics(registry) })
		ready(t, g.Hub)
		alice := enter(t, g, "alice", `{}`)
		alice.must(200, "", toolCall("up_t"))
		events := alice.listen()
		for _, what := range []string{
			`{"jsonrpc":"2.0","id":1,"result":{}}`, `{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":"m"}}`,
			`{"jsonrpc":"2.0","id":1,"method":"roots/list"}`, `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t"}}`,
			`{"jsonrpc":"2.0","method":"notifications/tasks/status"}`,
		} {
			up.message(t, "up-2", what)
		}
		up.say(t, "up-2", "event: endpoint\ndata: https://evil.example/\n\n")
		up.message(t, "up-2", logged+`"end"}}`)
		if got := events.next(); got != logged+`"end"}}` {
			t.Errorf("got %s", got)
		}
		if got := counted(t, registry, "sallyport_upstream_messages_withheld_total"); got != 6 {
			t.Errorf("%v counted", got)
		}
		if got := counted(t, registry, "sallyport_streams_open"); got != 1 {
			t.Errorf("%v open", got)
		}
	})
}

func counted(t *testing.T, r *prometheus.Registry, name string) (sum float64) {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// A stream that broke off goes on at the upstream that gave the id, and nowhere else.
func TestStreamGoesOn(t *testing.T) {
	streaming(t, func(t *testing.T, _ *gateway, a, b *live, alice agent, events *stream) {
		b.say(t, "b-2", "id: b\"7\ndata: "+logged+"1}}\n\n")
		last := events.block().ID
		events.close()
		synctest.Wait()
		events = alice.listen("Last-Event-ID", last)
		b.message(t, "b-2", logged+"2}}")
		if got := events.next(); got != logged+"2}}" {
			t.Errorf("%s", got)
		}
		a.message(t, "a-2", logged+"3}}")
		if got := events.next(); got != logged+"3}}" {
			t.Errorf("%s", got)
		}
		for up, want := range map[*live][]string{a: {"", ""}, b: {"", `b"7`}} {
			var got []string
			for _, o := range append(up.openings("a-2"), up.openings("b-2")...) {
				got = append(got, o.last)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		}
		// The hub itself goes on, too, when the upstream ends its stream.
		b.say(t, "b-2", "id: 9\ndata: "+logged+"4}}\n\n")
		events.next()
		b.say(t, "b-2", "")
		b.message(t, "b-2", logged+"5}}")
		events.next()
		if o := b.openings("b-2"); o[len(o)-1].last != "9" {
			t.Errorf("it went on at %q", o[len(o)-1].last)
		}
	})
}

// A call whose answer broke off can be had by its last event, and by nobody else.
func TestCallGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, a, _, alice := two(t, ableBody)
		undo := a.first(func(w http.ResponseWriter, m rpc) bool {
			switch {
			case m.Method == "tools/call":
				w.Header().Set("Content-Type", "text/event-stream")
				_, _ = w.Write([]byte("id: 41\ndata:\n\nid: 42\ndata: " + logged + "1}}\n\n"))
			case m.verb == "GET" && m.last == "gone":
				w.WriteHeader(http.StatusMethodNotAllowed)
			default:
				return false
			}
			return true
		})
		call := alice.begin(toolCall("a_t"))
		first, second := call.block(), call.block()
		call.end()
		if string(second.Data) != logged+"1}}" || first.ID == second.ID {
			t.Fatalf("%+v %+v", first, second)
		}
		rest := alice.listen("Last-Event-ID", second.ID)
		a.message(t, "a-2", `{"jsonrpc":"2.0","id":"another","result":{}}`) // not of this call
		a.say(t, "a-2", "id: 43\ndata: "+`{"jsonrpc":"2.0","id":"call","result":{}}`+"\n\n")
		answer := rest.block()
		if string(answer.Data) != `{"jsonrpc":"2.0","id":"call","result":{}}` || answer.ID == "" || answer.ID == "43" {
			t.Errorf("%+v", answer)
		}
		if o := a.openings("a-2"); len(o) != 1 || o[0].last != "42" {
			t.Errorf("opened %+v", o)
		}
		a.say(t, "a-2", "") // the upstream ends it, and so it ends
		rest.end()

		get := func(who agent, id string) string {
			rec := ask(who.h, who.who, "GET", "", "Mcp-Session-Id", who.session, "Accept", "text/event-stream", "Last-Event-ID", id)
			return rec.Body.String()
		}
		const refused = `"message":"this stream cannot be resumed"`
		another, bob := enter(t, g, "alice", ableBody), enter(t, g, "bob", ableBody)
		gone := sealer(t).SealName(alice.id(), session.Name{Kind: session.CallEvent, App: session.TagOf("a"), Leg: session.TagOf("a-2"), Raw: []byte("gone")})
		request := sealer(t).SealName(alice.id(), session.Name{Kind: session.RequestID, App: session.TagOf("a"), Leg: session.TagOf("a-2"), Raw: []byte("1")})
		for name, got := range map[string]string{
			"another session's": get(another, second.ID), "another caller's": get(bob, second.ID), "made up": get(alice, "42"),
			"of a request": get(alice, request), "at an upstream that has it no more": get(alice, gone),
		} {
			if !strings.Contains(got, refused) {
				t.Errorf("%s: %s", name, got)
			}
		}
		undo()
		a.forget("a-2")
		alice.must(200, "", toolCall("a_t"))
		if got := get(alice, second.ID); !strings.Contains(got, refused) {
			t.Errorf("of a session that is gone: %s", got)
		}
	})
}

// Of several streams the newest gets the messages; when it ends, the one before it does.
func TestNewestStreamGetsMessages(t *testing.T) {
	streaming(t, func(t *testing.T, _ *gateway, a, _ *live, alice agent, first *stream) {
		say := func(text string) { a.message(t, "a-2", logged+text+"}}") }
		say("1")
		if got := first.next(); got != logged+"1}}" {
			t.Error(got)
		}
		second := alice.listen()
		synctest.Wait()
		say("2")
		if got := second.next(); got != logged+"2}}" {
			t.Error(got)
		}
		third := alice.listen()
		synctest.Wait()
		second.close() // what is not the newest may go unnoticed
		synctest.Wait()
		say("3")
		if got := third.next(); got != logged+"3}}" {
			t.Error(got)
		}
		third.close()
		synctest.Wait()
		say("4")
		if got := first.next(); got != logged+"4}}" {
			t.Error(got)
		}
		if open := a.open(); len(open) != 1 {
			t.Errorf("the upstream has streams of %v", open)
		}
	})
}

// A session that is opened while the stream is there is listened to before its first call is sent.
func TestStreamTakesInNewSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := liveLegacy("up", `{"tools":{}}`)
		g := newGateway(t, egress{"app/up": up}, []*authz.App{app("up")})
		ready(t, g.Hub)
		alice := enter(t, g, "alice", ableBody)
		events := alice.listen()
		var listened atomic.Bool
		up.first(func(_ http.ResponseWriter, m rpc) bool {
			if m.Method == "tools/call" && len(up.openings("up-2")) == 1 {
				listened.Store(true)
			}
			return false
		})
		alice.must(200, "", toolCall("up_t"))
		if !listened.Load() {
			t.Error("the call came before the stream")
		}
		up.message(t, "up-2", logged+"1}}")
		if got := events.next(); got != logged+"1}}" {
			t.Error(got)
		}
		up.forget("up-2")
		alice.must(200, "", toolCall("up_t"))
		up.message(t, "up-3", logged+"2}}")
		if got := events.next(); got != logged+"2}}" {
			t.Error(got)
		}
	})
}

// Lists that are slow to come do not keep the stream from what else there is to hear.
func TestStreamDoesNotWaitForLists(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up, slow := liveLegacy("up", `{"tools":{}}`), liveLegacy("slow", `{"tools":{}}`)
		slow.first(func(_ http.ResponseWriter, m rpc) bool {
			if m.Method == "tools/list" {
				time.Sleep(listDeadline)
			}
			return false
		})
		g := newGateway(t, egress{"app/up": up, "app/slow": slow}, []*authz.App{app("up"), app("slow")})
		alice := enter(t, g, "alice", ableBody)
		events := alice.listen()
		var listened atomic.Bool
		up.first(func(_ http.ResponseWriter, m rpc) bool {
			if m.Method == "tools/call" && len(up.openings(m.session)) == 1 {
				listened.Store(true)
			}
			return false
		})
		alice.must(200, "", toolCall("up_t"))
		if !listened.Load() {
			t.Error("the call came before the stream")
		}
		events.close()
		time.Sleep(2 * listDeadline) // until nobody waits
	})
}

// An upstream that has no stream is not asked again; one that is away is, with patience; one that lies is not.
func TestUpstreamStreamsThatFail(t *testing.T) {
	for name, test := range map[string]struct {
		answer    func(w http.ResponseWriter)
		low, high int32 // how often it is asked in ten minutes
	}{
		"no stream":    {func(w http.ResponseWriter) { w.WriteHeader(405) }, 1, 1},
		"no session":   {func(w http.ResponseWriter) { w.WriteHeader(404) }, 1, 1},
		"not a stream": {func(w http.ResponseWriter) { w.Header().Set("Content-Type", "text/html") }, 1, 1},
		"away":         {func(w http.ResponseWriter) { w.WriteHeader(503) }, 20, 30},
		"ends at once": {func(w http.ResponseWriter) { w.Header().Set("Content-Type", "text/event-stream") }, 20, 30},
		"lies": {func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = w.Write([]byte("data: hello\n\n"))
		}, 1, 1},
		"an event over 4 MiB": {func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = w.Write([]byte("data: " + strings.Repeat("x", session.MaxEventBytes+1)))
		}, 20, 30},
	} {
		t.Run(name, func(t *testing.T) {
			streaming(t, func(t *testing.T, _ *gateway, a, b *live, alice agent, events *stream) {
				var asked atomic.Int32
				a.first(func(w http.ResponseWriter, m rpc) bool {
					if m.verb != http.MethodGet || m.session == "a-1" {
						return false
					}
					asked.Add(1)
					test.answer(w)
					return true
				})
				events.close()
				synctest.Wait()
				events = alice.listen()
				time.Sleep(10 * time.Minute)
				b.message(t, "b-2", logged+"1}}") // the others are none the wiser
				if got := events.next(); got != logged+"1}}" {
					t.Error(got)
				}
				if n := asked.Load(); n < test.low || n > test.high {
					t.Errorf("asked %d times", n)
				}
			})
		})
	}
}

// A stream ends with the caller's token, and when the gateway is to end.
func TestStreamsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, &testGate{expires: time.Now().Add(time.Hour)}, egress{})
		alice := enter(t, h, "alice", `{}`)
		events := alice.listen()
		events.quiet(59 * time.Minute)
		time.Sleep(time.Minute)
		events.end()
	})
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, apps(), egress{})
		alice := enter(t, h, "alice", `{}`)
		events := alice.listen()
		h.Drain()
		events.end()
		if rec := alice.post(pingBody); rec.Code != 200 {
			t.Errorf("calls do not go on: %d", rec.Code)
		}
	})
}

// An idle stream carries a comment, so that nobody in between cuts it.
func TestKeepAlive(t *testing.T) {
	streaming(t, func(t *testing.T, _ *gateway, a, _ *live, _ agent, events *stream) {
		time.Sleep(19 * time.Second)
		a.message(t, "a-2", logged+"1}}")
		events.next()
		time.Sleep(19 * time.Second)
		if n := len(events.events); n > 0 {
			t.Errorf("%d blocks on a stream that is not idle", n)
		}
		time.Sleep(time.Minute)
		for range len(events.events) {
			if ev := <-events.events; !cmp.Equal(ev, mcpparse.Event{ID: ev.ID}) {
				t.Errorf("not a comment: %+v", ev)
			}
		}
	})
}

// What an agent's own upstream session says of lists is news to the hub; the agent is told of what changes for it, and the
// event keeps its place in the stream.
func TestListChangesOnASessionsStream(t *testing.T) {
	streaming(t, func(t *testing.T, _ *gateway, a, _ *live, alice agent, events *stream) {
		a.answer("tools/list", toolList("t", "new"))
		a.say(t, "a-2", "id: 7\ndata: "+`{"jsonrpc":"2.0","method":"`+toolsChanged+`"}`+"\n\n")
		place := events.block()
		name, err := sealer(t).OpenName(alice.id(), session.StreamEvent, place.ID)
		if err != nil || string(name.Raw) != "7" || place.HasData {
			t.Errorf("%+v, %v", place, err)
		}
		if got := events.next(); got != `{"jsonrpc":"2.0","method":"`+toolsChanged+`"}` {
			t.Error(got)
		}
		a.message(t, "a-2", `{"jsonrpc":"2.0","method":"`+toolsChanged+`"}`) // nothing has changed
		events.quiet(5 * time.Second)
	})
}
