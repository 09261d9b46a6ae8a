package e2e

import (
	"fmt"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
)

// What servers say outside of calls, on the stream of a session.

// mark is an honest notification by which the end of what is to be heard is seen.
func mark(n int) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"mark %d"}}`, n)
}

// TestHostileStreams: of what a server says on its own account, an agent hears what its client declared it could answer,
// and no responses at all, since none was asked for here.
func TestHostileStreams(t *testing.T) {
	h := startLair(t)
	unasked := []string{
		`{"jsonrpc":"2.0","id":"c-1","result":{"evil":1}}`,
		`{"jsonrpc":"2.0","id":1,"result":{"evil":1}}`,
		`{"jsonrpc":"2.0","id":"c-1","error":{"code":1,"message":"evil"}}`,
		`{"jsonrpc":"2.0","error":{"code":1,"message":"evil"}}`,
		`{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":"evil"}}`,
		`{"jsonrpc":"2.0","id":1,"method":"roots/list"}`,
		`{"jsonrpc":"2.0","id":2,"method":"sampling/createMessage","params":{` + sampling + `}}`,
		`{"jsonrpc":"2.0","id":3,"method":"elicitation/create","params":{` + formed + `}}`,
		`{"jsonrpc":"2.0","id":4,"method":"elicitation/create","params":{` + address + `}}`,
		`{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"evil"}}`,
		`{"jsonrpc":"2.0","id":"` + strings.Repeat("i", 200) + `","method":"ping"}`,
		`{"jsonrpc":"2.0","method":"notifications/tasks/status","params":{"evil":1}}`,
		`{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}`,
		`{"jsonrpc":"2.0","method":"notifications/resources/list_changed"}`,
	}
	said := event(mark(1))
	for _, m := range unasked {
		said += event(m)
	}
	said += "event: endpoint\ndata: https://evil.example/\n\n" + "event: evil\n" + event(mark(0)) + "id: " + strings.Repeat("i.", 5<<9) + "\nretry: 4000000000\n" + event(mark(2)) +
		"data: " + mark(3) + "\r\r"
	for _, speaks := range []string{"both", "legacy", "sse"} {
		h.liars[speaks].streams(func(t turn) { t.say(said); hang(t) })
		session := h.open(h.token, `{}`)
		heard := h.listen(h.token, session)
		if a := h.send(legacyCall(session, speaks+"_call", `{"mine":"a"}`)); a.RPC.Result == nil {
			t.Fatalf("%s: %s", speaks, a)
		}
		if speaks == "sse" {
			h.liars[speaks].last().push(said)
		}
		await(t, speaks+": the last mark", func() bool { return strings.Contains(heard.String(), "mark 3") })
		want := event(mark(1)) + "retry: 60000\n" + event(mark(2)) + event(mark(3))
		if got := strings.ReplaceAll(heard.stop(), ":\n\n", ""); got != want {
			t.Errorf("%s:\n\theard %q\n\twant  %q", speaks, got, want)
		}
	}
	h.wellAfterwards()
}

// TestHostileStreamThatBreaks: a server's stream that is no MCP ends, for good, and the agent's goes on with the others.
func TestHostileStreamThatBreaks(t *testing.T) {
	h := startLair(t)
	var opened atomic.Int32
	rest := event(mark(9))
	h.liars["both"].streams(func(t turn) { opened.Add(1); t.say(event(mark(1)) + event("evil") + rest); hang(t) })
	h.liars["legacy"].streams(func(t turn) { opened.Add(1); t.say(event(mark(2)) + event(`[`+mark(8)+`]`) + rest); hang(t) })
	session := h.open(h.token, `{}`)
	heard := h.listen(h.token, session)
	for _, app := range []string{"both", "legacy", "sse"} {
		if a := h.send(legacyCall(session, app+"_call", `{"mine":"a"}`)); a.RPC.Result == nil {
			t.Fatalf("%s: %s", app, a)
		}
	}
	await(t, "the marks of both", func() bool {
		return strings.Contains(heard.String(), "mark 1") && strings.Contains(heard.String(), "mark 2")
	})
	h.liars["sse"].last().push(event(mark(3)))
	await(t, "the mark of the third", func() bool { return strings.Contains(heard.String(), "mark 3") })
	if got := heard.stop(); strings.Contains(got, evil) || strings.Contains(got, "mark 8") || strings.Contains(got, "mark 9") || opened.Load() != 2 {
		t.Errorf("opened %d times, heard %q", opened.Load(), got)
	}
	h.wellAfterwards()
}

var requestID = regexp.MustCompile(`"id":"([A-Za-z0-9_-]{60,})","method"`)

// question asks the agent something on its way.
func question(way string) lie {
	return lie{name: "a question " + way, events: " ", client: everything, tell: func(t turn) {
		switch asked := !strings.Contains(string(t.got.Body), "inputResponses"); {
		case way != "up":
			t.say(event(`{"jsonrpc":"2.0","id":1,"method":"roots/list"}`))
		case asked:
			t.say(event(strings.ReplaceAll(asksFor("roots/list", ""), "@ID", t.id)))
		default:
			t.result(`{"resultType":"complete","content":[]}`)
		}
		if way == "legacy" {
			hang(t)
		}
	}}
}

// TestHostileAnswers: a question is answered once, by the agent that was asked, in the session in which it was asked.
func TestHostileAnswers(t *testing.T) {
	h := startLair(t, question("legacy"), question("up"), question("sse"))
	for _, way := range []string{"legacy", "up", "sse"} {
		r, _ := h.ask(question(way), way)
		session := r.header["Mcp-Session-Id"]
		heard := h.hear(r)
		await(t, "the question", func() bool { return requestID.MatchString(heard.String()) })
		id := requestID.FindStringSubmatch(heard.String())[1]
		quoted, second, others := `"`+id+`"`, h.open(r.token, everything), h.open(h.other, everything)
		before := h.answersArrived(way)
		for _, c := range []struct {
			what, token, session, id string
			status                   int
		}{
			{"another agent in its own session", h.other, others, quoted, 400},
			{"another agent in the agent's", h.other, session, quoted, 404},
			{"the agent in another session of its own", r.token, second, quoted, 400},
			{"the agent in the other's session", r.token, others, quoted, 404},
			{"the server's own id", r.token, session, "1", 400},
			{"an altered id", r.token, session, `"` + id[:len(id)-2] + `AA"`, 400},
			{"a shortened id", r.token, session, `"` + id[:len(id)-1] + `"`, 400},
			{"an id that nobody gave", r.token, session, `"evil"`, 400},
			{"the id of the call", r.token, session, `"c-1"`, 400},
			{"the answer", r.token, session, quoted, 202},
			{"the answer again", r.token, session, quoted, 400},
			{"and again", r.token, session, quoted, 400},
		} {
			reply := legacy(c.session, `{"jsonrpc":"2.0","id":`+c.id+`,"result":{"roots":[]}}`)
			reply.token = c.token
			if a := h.send(reply); a.Status != c.status || a.Status >= 400 && (a.RPC.Error == nil || a.RPC.Error.Code != -32600) {
				t.Errorf("%s, %s: %s, want %d", way, c.what, a, c.status)
			}
		}
		await(t, "the answer to arrive", func() bool { return h.answersArrived(way) > before })
		if n := h.answersArrived(way) - before; n != 1 {
			t.Errorf("%s: %d answers arrived", way, n)
		}
		heard.stop()
	}
	h.wellAfterwards()
}

// answersArrived counts the answers that came to a server: responses or, of a modern one, calls that bring them along.
func (h *lair) answersArrived(way string) (n int) {
	l := h.liars[ways[way].app]
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.seen {
		if strings.Contains(string(r.Body), `"roots":[]`) {
			n++
		}
	}
	return n
}
