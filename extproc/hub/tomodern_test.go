package hub

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/tidwall/gjson"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/authz/audit"
	"github.com/sallyport/sallyport/mcpparse"
)

// toModern is a gateway before one modern upstream, which answers calls with answer, and alice in a session.
func toModern(t *testing.T, capabilities string, answer func(w http.ResponseWriter, m rpc)) (*gateway, *live, agent) {
	t.Helper()
	up := liveModern(`{"tools":{},"prompts":{},"resources":{}}`)
	up.answer("resources/list", `{"resources":[{"uri":"x:1"}]}`)
	up.answer("tools/list", `{"tools":[{"name":"t","inputSchema":{"type":"object","properties":{"region":{"type":"string","x-mcp-header":"Region"},"n":{"type":"number"}}}}]}`)
	up.first(func(w http.ResponseWriter, m rpc) bool {
		call := m.Method == "tools/call" || m.Method == "prompts/get" || m.Method == "resources/read"
		if call {
			answer(w, m)
		}
		return call
	})
	a := protected("up")
	a.Timeouts.Default = time.Hour
	g := newGateway(t, egress{"app/up": up}, []*authz.App{a})
	ready(t, g.Hub)
	return g, up, enter(t, g, "alice", capabilities)
}

func answerJSON(w http.ResponseWriter, m rpc, members string) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,%s}`, m.ID, members)
}

// A session's call to a stateless upstream: what goes there, and what comes back.
func TestLegacyToModern(t *testing.T) {
	const meta = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"roots":{}}`
	for _, test := range []struct {
		name, method, params string
		sent                 string // params
		headers              map[string]string
		result, want         string // members of the response
	}{
		{"a call", "tools/call", `"name":"up_t","arguments":{"n": 1.50}`, meta + `},"name":"t","arguments":{"n": 1.50}`,
			map[string]string{"Mcp-Name": "t", "Mcp-Param-Region": ""},
			`"result":{"resultType":"complete","content":[ ],"x":1.50}`, `"result":{"content":[ ],"x":1.50}`},
		{"mirrored arguments", "tools/call", `"name":"up_t","arguments":{"region":"eü","n":1}`, meta + `},"name":"t","arguments":{"region":"eü","n":1}`,
			map[string]string{"Mcp-Name": "t", "Mcp-Param-Region": mcpparse.EncodeHeader("eü")},
			`"result":{"content":[]}`, `"result":{"content":[]}`},
		{"metadata stays", "tools/call", `"_meta":{"progressToken":7,"x":1},"name":"up_t"`, meta + `,"progressToken":7,"x":1},"name":"t"`,
			map[string]string{"Mcp-Name": "t"}, `"result":{}`, `"result":{}`},
		{"what the agent cannot say", "tools/call", `"name":"up_t","task":{},"inputResponses":{"a":{}},"requestState":"s"`, meta + `},"name":"t"`,
			map[string]string{"Mcp-Name": "t"}, `"result":{}`, `"result":{}`},
		{"a prompt", "prompts/get", `"name":"up_p p"`, meta + `},"name":"p p"`, map[string]string{"Mcp-Name": "p p"}, `"result":{"resultType":"complete","messages":[]}`, `"result":{"messages":[]}`},
		{"a resource", "resources/read", `"uri":"x:1"`, meta + `},"uri":"x:1"`, map[string]string{"Mcp-Name": "x:1"},
			`"result":{"contents":[],"ttlMs":5,"resultType":"complete","cacheScope":"public"}`, `"result":{"contents":[]}`},
		{"an error", "tools/call", `"name":"up_t"`, meta + `},"name":"t"`, nil, `"error":{"code":-1,"message":"m","data":{"resultType":1}}`, `"error":{"code":-1,"message":"m","data":{"resultType":1}}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, up, alice := toModern(t, `{"roots":{}}`, func(w http.ResponseWriter, m rpc) { answerJSON(w, m, test.result) })
			alice.must(200, `{"jsonrpc":"2.0","id":"c",`+test.want+`}`, `{"jsonrpc":"2.0","id":"c","method":"`+test.method+`","params":{`+test.params+`}}`)
			sent := up.last(test.method)
			if diff := cmp.Diff(`{"jsonrpc":"2.0","id":"c","method":"`+test.method+`","params":{`+test.sent+`}}`, sent.body); diff != "" {
				t.Error(diff)
			}
			if sent.session != "" || sent.rpc.version != "2026-07-28" || sent.authorization != "Bearer alice:up" || sent.rpc.header.Get("Mcp-Method") != test.method {
				t.Errorf("session %q, version %q, with %q, method %q", sent.session, sent.rpc.version, sent.authorization, sent.rpc.header.Get("Mcp-Method"))
			}
			for name, want := range test.headers {
				if got := sent.rpc.header.Get(name); got != want {
					t.Errorf("%s: %q, want %q", name, got, want)
				}
			}
		})
	}
}

const askForm = `{"method":"elicitation/create","params":{"mode":"form","message":"m","requestedSchema":{"type":"object"}}}`

func inputRequired(requests, state string) string {
	if state != "" {
		state = `,"requestState":` + state
	}
	return `"result":{"resultType":"input_required","inputRequests":{` + requests + `}` + state + `}`
}

// What the upstream wants to know is asked of the agent on the call's own stream, and the call is sent again with the
// answers: a call of its own for policy, token and record.
func TestRounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var rounds atomic.Int32
		g, up, alice := toModern(t, ableBody, func(w http.ResponseWriter, m rpc) {
			switch rounds.Add(1) {
			case 1:
				events(w, `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":7,"progress":1}}`,
					`{"jsonrpc":"2.0","id":`+string(m.ID)+`,`+inputRequired(`"k\"1":`+askForm+`,"k2":{"method":"roots/list"}`, `"state 1"`)+`}`)
			case 2:
				answerJSON(w, m, inputRequired("", `"state 2"`)) // wants only to be asked again
			case 3:
				answerJSON(w, m, inputRequired(`"k3":{"method":"sampling/createMessage","params":{"maxTokens":1}}`, ""))
			default:
				answerJSON(w, m, `"result":{"resultType":"complete","content":[]}`)
			}
		})
		events := alice.begin(toolCall("up_t"))
		if got := events.next(); !strings.Contains(got, `"progressToken":7`) {
			t.Errorf("first %s", got)
		}
		form, roots := events.message(), events.message()
		if form.Method != "elicitation/create" || string(form.Params()) != gjson.Get(askForm, "params").Raw || roots.Method != "roots/list" || string(form.ID) == string(roots.ID) {
			t.Fatalf("asked %s and %s", form.Raw(), roots.Raw())
		}
		answer := func(to mcpparse.Message, result string) string {
			return `{"jsonrpc":"2.0","id":` + string(to.ID) + `,"result":` + result + `}`
		}
		another := enter(t, g, "alice", ableBody)
		another.must(400, "no request of ours is waiting", answer(form, `{}`))
		alice.must(202, "", answer(roots, `{"roots":[]}`))
		alice.must(400, "no request of ours is waiting", answer(roots, `{"roots":[1]}`))
		events.quiet(time.Second)
		alice.must(202, "", answer(form, `{"action":"accept","content":{"n":1.50}}`))
		sampling := events.message()
		if sampling.Method != "sampling/createMessage" {
			t.Fatalf("asked %s", sampling.Raw())
		}
		alice.must(202, "", answer(sampling, `{"role":"assistant"}`))
		if got := events.next(); got != `{"jsonrpc":"2.0","id":"call","result":{"content":[]}}` {
			t.Errorf("answer %s", got)
		}
		events.end()

		calls := up.sent("", "tools/call")
		var params []string
		ids := map[string]bool{}
		for _, body := range calls {
			p := gjson.Get(body, "params")
			params = append(params, p.Get("inputResponses").Raw+" "+p.Get("requestState").Raw)
			ids[gjson.Get(body, "id").Raw] = true
		}
		want := []string{" ", `{"k\"1":{"action":"accept","content":{"n":1.50}},"k2":{"roots":[]}} "state 1"`, ` "state 2"`, `{"k3":{"role":"assistant"}} `}
		if diff := cmp.Diff(want, params); diff != "" || len(ids) != 4 {
			t.Errorf("%d ids %s", len(ids), diff)
		}
		records := g.audited("tools/call")
		g.mu.Lock()
		defer g.mu.Unlock()
		if len(records) != 4 || len(g.ends) != 3 {
			t.Fatalf("%d on record, %d ends", len(records), len(g.ends))
		}
		known := map[string]bool{}
		for _, r := range records[1:] {
			known[r.ID] = true
		}
		for _, end := range g.ends {
			if !known[end.ID] || end.Outcome != audit.OK {
				t.Errorf("end %+v", end)
			}
			delete(known, end.ID)
		}
	})
}

// What may not be asked is not asked, and a round that may not be made is not made.
func TestRoundsThatFail(t *testing.T) {
	const unusable = `"id":"call","error":{"code":-32603,"message":"the upstream gave no usable answer"}`
	many := func(n int) string {
		all := make([]string, n)
		for i := range all {
			all[i] = fmt.Sprintf(`"k%d":%s`, i, askForm)
		}
		return strings.Join(all, ",")
	}
	for _, test := range []struct {
		name, capabilities, requests string
		state                        string
		then                         func(g *gateway, alice agent, asked mcpparse.Message)
		want                         string
		outcomes                     []audit.Outcome
	}{
		{"not declared", `{"roots":{}}`, `"k":` + askForm, "", nil, unusable, []audit.Outcome{audit.Allowed}},
		{"one of two not declared", `{"elicitation":{}}`, `"k":` + askForm + `,"l":{"method":"roots/list"}`, "", nil, unusable, []audit.Outcome{audit.Allowed}},
		{"an address, not declared", `{"elicitation":{"form":{}}}`, `"k":{"method":"elicitation/create","params":{"mode":"url","url":"https://x.example"}}`, "", nil, unusable, []audit.Outcome{audit.Allowed}},
		{"ping", ableBody, `"k":{"method":"ping"}`, "", nil, unusable, []audit.Outcome{audit.Allowed}},
		{"no client's method", ableBody, `"k":{"method":"tools/call","params":{"name":"t"}}`, "", nil, unusable, []audit.Outcome{audit.Allowed}},
		{"no method", ableBody, `"k":{}`, "", nil, unusable, []audit.Outcome{audit.Allowed}},
		{"no request", ableBody, `"k":"roots/list"`, "", nil, unusable, []audit.Outcome{audit.Allowed}},
		{"too many", ableBody, many(maxQuestions + 1), "", nil, unusable, []audit.Outcome{audit.Allowed}},
		{"the agent fails", ableBody, `"k":` + askForm, "", func(_ *gateway, alice agent, asked mcpparse.Message) {
			alice.must(202, "", `{"jsonrpc":"2.0","id":`+string(asked.ID)+`,"error":{"code":-1,"message":"no"}}`)
		}, unusable, []audit.Outcome{audit.Allowed}},
		{"the policy has changed", ableBody, `"k":` + askForm, "", func(g *gateway, alice agent, asked mcpparse.Message) {
			// The call goes on under the gate that it began under; what that says of the caller's token may change.
			g.tokens.mu.Lock()
			g.tokens.refuse["alice"] = true
			g.tokens.mu.Unlock()
			g.tell(g.t.Context(), alice.id(), note{Waiter: waiterOf(g, alice, asked), Answer: []byte(`{"jsonrpc":"2.0","id":` + string(asked.ID) + `,"result":{}}`)})
		}, `"error":{"code":-32600,"message":"the token has expired"}`, []audit.Outcome{audit.Allowed, audit.Denied}},
		{"it wants nothing", ableBody, ``, "", nil, unusable, []audit.Outcome{audit.Allowed}},
		{"it asks and asks", ableBody, ``, `"s"`, nil, unusable, []audit.Outcome{audit.Allowed, audit.Allowed, audit.Allowed, audit.Allowed, audit.Allowed, audit.Allowed, audit.Allowed, audit.Allowed, audit.Allowed}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g, up, alice := toModern(t, test.capabilities, func(w http.ResponseWriter, m rpc) { answerJSON(w, m, inputRequired(test.requests, test.state)) })
				if test.then == nil {
					rec := alice.post(toolCall("up_t"))
					if !strings.Contains(rec.Body.String(), test.want) {
						t.Errorf("%d %s", rec.Code, rec.Body)
					}
				} else {
					events := alice.begin(toolCall("up_t"))
					test.then(g, alice, events.message())
					if got := events.next(); !strings.Contains(got, test.want) {
						t.Error(got)
					}
					events.end()
				}
				var outcomes []audit.Outcome
				for _, r := range g.audited("tools/call") {
					outcomes = append(outcomes, r.Outcome)
				}
				for _, r := range g.audited("http/post") {
					if r.Outcome == audit.Denied {
						outcomes = append(outcomes, r.Outcome)
					}
				}
				if diff := cmp.Diff(test.outcomes, outcomes); diff != "" {
					t.Error(diff)
				}
				if n := up.count("tools/call"); n > 1+maxRounds {
					t.Errorf("called %d times", n)
				}
			})
		})
	}
}

// waiterOf is who waits for the answer to a request of ours.
func waiterOf(g *gateway, alice agent, asked mcpparse.Message) string {
	g.t.Helper()
	text, _ := mcpparse.Text(asked.ID)
	name, err := sealer(g.t).OpenName(alice.id(), 'r', text)
	if err != nil {
		g.t.Fatal(err)
	}
	return string(name.Raw)
}

// The agent cancels by saying so; to leave is not to cancel.
func TestCancellingACarriedCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ended atomic.Int32
		_, up, alice := toModern(t, `{}`, func(w http.ResponseWriter, m rpc) {
			events(w, `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1}}`)
			<-m.ctx.Done()
			ended.Add(1)
		})
		stream := alice.begin(toolCall("up_t"))
		stream.next()
		cancel := func(id string) {
			alice.must(202, "", `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":`+id+`}}`)
			synctest.Wait()
		}
		cancel(`"another"`)
		cancel(`1`)
		if ended.Load() != 0 {
			t.Fatal("another call was cancelled")
		}
		cancel(`"call"`)
		stream.end()
		if ended.Load() != 1 {
			t.Error("the upstream still works on it")
		}
		stream = alice.begin(toolCall("up_t"))
		stream.next()
		stream.close()
		synctest.Wait()
		if ended.Load() != 1 {
			t.Error("to leave was to cancel")
		}
		cancel(`"call"`)
		if ended.Load() != 2 || up.count("tools/call") != 2 {
			t.Errorf("%d calls, %d ended", up.count("tools/call"), ended.Load())
		}
	})
}

// A ticket that is not for this message, or none, carries nothing.
func TestCarryingNeedsATicket(t *testing.T) {
	g, up, alice := toModern(t, `{}`, func(w http.ResponseWriter, m rpc) { answerJSON(w, m, `"result":{}`) })
	for name, ticket := range map[string]string{"made up": "AAAA", "a session": alice.session} {
		rec := ask(g.Hub, "alice", "POST", toolCall("up_t"), "Mcp-Session-Id", alice.session, authz.TicketHeader, ticket)
		if rec.Code != 503 || !strings.Contains(rec.Body.String(), `"id":"call"`) {
			t.Errorf("%s: %d %s", name, rec.Code, rec.Body)
		}
	}
	rec := ask(g.Hub, "alice", "POST", toolCall("up_t"), "Mcp-Session-Id", alice.session)
	if rec.Code != 200 || !strings.Contains(rec.Body.String(), `"code":-32601`) {
		t.Errorf("none: %d %s", rec.Code, rec.Body)
	}
	if n := up.count("tools/call"); n > 0 {
		t.Errorf("called %d times", n)
	}
}

// A cancelled call of which nothing has come ends without an answer: an empty stream.
func TestCancelledBeforeAnything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, _, alice := toModern(t, `{}`, func(_ http.ResponseWriter, m rpc) { <-m.ctx.Done() })
		done := make(chan *httptest.ResponseRecorder, 1)
		go func() { done <- alice.post(toolCall("up_t")) }()
		synctest.Wait()
		alice.must(202, "", `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"call"}}`)
		if rec := <-done; rec.Code != 200 || rec.Body.Len() > 0 || rec.Header().Get("Content-Type") != "text/event-stream" {
			t.Errorf("%d %s %s", rec.Code, rec.Header().Get("Content-Type"), rec.Body)
		}
	})
}
