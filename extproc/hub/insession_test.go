package hub

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/tidwall/gjson"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/mcpparse"
)

func toolCall(tool string) string {
	return `{"jsonrpc":"2.0","id":"call","method":"tools/call","params":{"name":"` + tool + `","arguments":{}}}`
}

// two is a gateway before two live upstreams, "a" with log levels and "b" without, and alice in a session, known to both
// as a-2 and b-2: their first sessions are the hub's.
func two(t *testing.T, capabilities string) (g *gateway, a, b *live, alice agent) {
	t.Helper()
	a, b = liveLegacy("a", `{"tools":{},"logging":{},"resources":{"subscribe":true}}`), liveLegacy("b", `{"tools":{}}`)
	g = newGateway(t, egress{"app/a": a, "app/b": b}, []*authz.App{protected("a"), protected("b")})
	ready(t, g.Hub)
	alice = enter(t, g, "alice", capabilities)
	alice.must(200, `"result"`, toolCall("a_t"))
	alice.must(200, `"result"`, toolCall("b_t"))
	return g, a, b, alice
}

func TestSetLevel(t *testing.T) {
	g, a, b, alice := two(t, `{}`)
	bob := enter(t, g, "bob", `{}`)
	bob.must(200, `"result"`, toolCall("a_t"))
	level := func(l string) string {
		return `{"jsonrpc":"2.0","id":7,"method":"logging/setLevel","params":{"level":` + l + `}}`
	}
	alice.must(200, `{"jsonrpc":"2.0","id":7,"result":{}}`, level(`"warning"`))
	check := func(when string, up *live, session string, want ...string) {
		t.Helper()
		var got []string
		for _, body := range up.sent(session, "logging/setLevel") {
			got = append(got, gjson.Get(body, "params").Raw)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", when, diff)
		}
	}
	const warning, debug = `{"level":"warning"}`, `{"level":"debug"}`
	check("with levels", a, "a-2", warning)
	check("without", b, "b-2")
	check("another agent's", a, "a-3")
	check("the hub's own", a, "a-1")
	if sent := a.last("logging/setLevel"); sent.authorization != "Bearer alice:a:session" {
		t.Errorf("with %q", sent.authorization)
	}
	a.forget("a-2") // the call opens a new session, which learns of it first
	alice.must(200, `"result"`, toolCall("a_t"))
	check("a new session", a, "a-4", warning)
	b.forget("b-2")
	alice.must(200, `"result"`, toolCall("b_t"))
	check("a new one without levels", b, "b-3")
	alice.must(200, `"result":{}`, level(`"debug"`))
	check("both", a, "a-4", warning, debug)
	check("the lost one", a, "a-2", warning)
	for _, none := range []string{`"verbose"`, `"Debug"`, `""`, `1`, `null`} {
		alice.must(200, `"code":-32602`, level(none))
	}
	alice.must(200, `"code":-32602`, `{"jsonrpc":"2.0","id":7,"method":"logging/setLevel"}`)
	check("what is no level", a, "a-4", warning, debug)
}

func TestSetLevelWithoutSessions(t *testing.T) {
	up := liveLegacy("up", `{"tools":{},"logging":{}}`)
	h := newHub(t, apps("up"), egress{"app/up": up}, func(c *Config) { c.SessionHeader = "" })
	ready(t, h)
	rec := ask(h, "alice", "POST", `{"jsonrpc":"2.0","id":7,"method":"logging/setLevel","params":{"level":"info"}}`)
	if rec.Body.String() != `{"jsonrpc":"2.0","id":7,"result":{}}` || up.count("logging/setLevel") != 0 {
		t.Errorf("%s, told %d times", rec.Body, up.count("logging/setLevel"))
	}
}

// An answer goes to the upstream session whose request it answers, once, and only from whom was asked.
func TestAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, a, b, alice := two(t, ableBody)
		events := alice.listen()
		answer := func(id, member string) string { return `{"jsonrpc":"2.0","id":` + id + `,` + member + `}` }
		const roots = `"result":{"roots":[ ]}`
		asked := func() string {
			t.Helper()
			a.message(t, "a-2", `{"jsonrpc":"2.0","id":3,"method":"roots/list"}`)
			m := events.message()
			if m.Method != "roots/list" || string(m.ID) == "3" {
				t.Fatalf("asked %s", m.Raw())
			}
			return string(m.ID)
		}
		id := asked()
		another := enter(t, g, "alice", ableBody)
		bob := enter(t, g, "bob", ableBody)
		for _, who := range []agent{another, bob} {
			who.must(400, "no request of ours is waiting", answer(id, roots))
		}
		alice.must(202, "", answer(id, roots))
		if diff := cmp.Diff([]string{`{"jsonrpc":"2.0","id":3,` + roots + `}`}, a.sent("a-2", "response")); diff != "" {
			t.Error(diff)
		}
		if got := a.sentWith("a-2", "response"); got != "Bearer alice:a:session" {
			t.Errorf("with %q", got)
		}
		if len(b.sent("b-2", "response"))+len(a.sent("a-1", "response")) > 0 {
			t.Error("it went elsewhere, too")
		}
		alice.must(400, "no request of ours is waiting", answer(id, roots))
		alice.must(400, "no request of ours is waiting", answer("3", roots))

		const failure = `"error":{"code":-1,"message":"no"}`
		a.message(t, "a-2", `{"jsonrpc":"2.0","id":"x\"y","method":"sampling/createMessage","params":{}}`)
		alice.must(202, "", answer(string(events.message().ID), failure))
		if got := a.sent("a-2", "response"); len(got) != 2 || got[1] != `{"jsonrpc":"2.0","id":"x\"y",`+failure+`}` {
			t.Errorf("%v", got)
		}

		id = asked()
		a.forget("a-2")
		alice.must(200, `"result"`, toolCall("a_t")) // which finds it out
		alice.must(400, "no request of ours is waiting", answer(id, roots))
		if got := a.sent("a-3", "response"); len(got) > 0 {
			t.Errorf("the answer went to another session: %v", got)
		}
		if n := len(a.sent("a-2", "response")); n != 2 {
			t.Errorf("%d answers in the lost session", n)
		}
	})
}

func TestAnswerThatCannotBeBrought(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, _, alice := two(t, ableBody)
		events := alice.listen()
		a.message(t, "a-2", `{"jsonrpc":"2.0","id":3,"method":"ping"}`)
		id := string(events.message().ID)
		a.forget("a-2")
		alice.must(502, `"code":-32603`, `{"jsonrpc":"2.0","id":`+id+`,"result":{}}`)
	})
}

// Progress of what an upstream asked goes to that upstream, in its own words.
func TestProgressOfTheAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, a, b, alice := two(t, ableBody)
		events := alice.listen()
		progress := func(token string) string {
			return `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":` + token + `,"progress":1.50}}`
		}
		a.message(t, "a-2", `{"jsonrpc":"2.0","id":3,"method":"sampling/createMessage","params":{"_meta":{"progressToken":"p"}}}`)
		token := string(events.message().ProgressToken)
		alice.must(202, "", progress(token))
		alice.must(202, "", progress(token)) // more than once
		want := []string{progress(`"p"`), progress(`"p"`)}
		if diff := cmp.Diff(want, a.sent("a-2", "notifications/progress")); diff != "" {
			t.Error(diff)
		}
		bob := enter(t, g, "bob", ableBody)
		bob.must(200, `"result"`, toolCall("a_t"))
		bob.must(202, "", progress(token))
		for _, none := range []string{`"p"`, `3`, `"AAAA"`} {
			alice.must(202, "", progress(none))
		}
		if n := a.count("notifications/progress"); n != 2 || b.count("notifications/progress") != 0 {
			t.Errorf("%d at a, %d at b", n, b.count("notifications/progress"))
		}
	})
}

// What the agent says of itself and of its calls goes to each of its upstream sessions, and to no others.
func TestNotificationsOfTheAgent(t *testing.T) {
	const cancelled = `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"call","reason":"r"}}`
	const roots = `{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}`
	for capabilities, rootsWanted := range map[string][]string{ableBody: {roots}, `{"roots":{}}`: nil, `{}`: nil} {
		g, a, b, alice := two(t, capabilities)
		bob := enter(t, g, "bob", ableBody)
		bob.must(200, `"result"`, toolCall("a_t"))
		for _, body := range []string{cancelled, roots, `{"jsonrpc":"2.0","method":"notifications/initialized"}`,
			`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{}}`} {
			alice.must(202, "", body)
		}
		for _, at := range []struct {
			up      *live
			session string
		}{{a, "a-2"}, {b, "b-2"}} {
			if diff := cmp.Diff([]string{cancelled}, at.up.sent(at.session, "notifications/cancelled")); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(rootsWanted, at.up.sent(at.session, "notifications/roots/list_changed")); diff != "" {
				t.Errorf("%s: %s", capabilities, diff)
			}
			if n := len(at.up.sent(at.session, "notifications/initialized")); n != 1 {
				t.Errorf("initialized %d times", n)
			}
		}
		for _, session := range []string{"a-1", "a-3"} {
			if got := a.sent(session, "notifications/cancelled"); len(got) > 0 {
				t.Errorf("%s was told: %v", session, got)
			}
		}
	}
}

// An upstream that does not answer holds up no agent for long.
func TestTellingASlowUpstream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, _, alice := two(t, ableBody)
		a.first(func(_ http.ResponseWriter, m rpc) bool {
			if m.Method == "notifications/cancelled" {
				<-m.ctx.Done()
			}
			return m.Method == "notifications/cancelled"
		})
		begun := time.Now()
		alice.must(202, "", `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}`)
		if took := time.Since(begun); took > passDeadline {
			t.Errorf("took %v", took)
		}
	})
}

// Ending a session at the gateway ends its streams, and its answers find nobody.
func TestEndOfASession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, _, alice := two(t, ableBody)
		events := alice.listen()
		a.message(t, "a-2", `{"jsonrpc":"2.0","id":3,"method":"ping"}`)
		id := string(events.message().ID)
		if rec := ask(alice.h, "alice", "DELETE", "", "Mcp-Session-Id", alice.session); rec.Code != 204 {
			t.Fatalf("%d %s", rec.Code, rec.Body)
		}
		events.end()
		rec := alice.post(`{"jsonrpc":"2.0","id":` + id + `,"result":{}}`)
		if rec.Code != 404 || !strings.Contains(rec.Body.String(), "initialize again") {
			t.Errorf("%d %s", rec.Code, rec.Body)
		}
		if n := len(a.sent("a-2", "response")); n > 0 {
			t.Errorf("%d answers", n)
		}
	})
}

// A session that an upstream lost is opened again in place: the call that finds it out is sent again, and is the only one.
func TestLostSessionInPlace(t *testing.T) {
	_, a, _, alice := two(t, ableBody)
	a.forget("a-2")
	alice.must(200, `{"jsonrpc":"2.0","id":"call","result":{"content":[]}}`, toolCall("a_t"))
	var sessions []string
	a.script.mu.Lock()
	for _, r := range a.seen {
		if r.method == "tools/call" {
			sessions = append(sessions, r.session+" "+r.authorization)
		}
	}
	a.script.mu.Unlock()
	want := []string{"a-2 Bearer alice:a", "a-2 Bearer alice:a", "a-3 Bearer alice:a"}
	if diff := cmp.Diff(want, sessions); diff != "" {
		t.Error(diff)
	}
	if l := mcpparse.LatestLegacy; a.last("tools/call").rpc.version != l {
		t.Errorf("in version %s", a.last("tools/call").rpc.version)
	}
}
