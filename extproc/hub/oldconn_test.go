package hub

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/tidwall/gjson"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/authz/session"
)

// oldServer is an upstream that speaks the 2024-11-05 transport: each GET is a session, "1" and so on, to which messages
// are posted at /messages?c=1.
type oldServer struct {
	*script
	first string // said on a stream before anything else; "" for its endpoint

	mu      sync.Mutex
	count   int
	streams map[string]chan string
	ended   []string
}

func newOldServer(capabilities string) *oldServer {
	s := &oldServer{streams: map[string]chan string{}}
	s.script = &script{results: map[string]string{
		"initialize": `{"protocolVersion":"2024-11-05","capabilities":` + capabilities + `,"serverInfo":{"name":"s","version":"1"}}`,
		"tools/list": toolList("t"), "resources/list": `{"resources":[]}`, "resources/templates/list": `{"resourceTemplates":[]}`,
		"tools/call": `{"content":[]}`, "resources/subscribe": `{}`, "logging/setLevel": `{}`}}
	return s
}

func (s *oldServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet {
		s.stream(w, r)
		return
	}
	m := read(r)
	m.session = r.URL.Query().Get("c")
	s.script.mu.Lock()
	s.seen = append(s.seen, seenRequest{r.Method, m.Method, m.session, r.Header.Get("Authorization"), m.body, m})
	before, result := s.before, s.results[m.Method]
	s.script.mu.Unlock()
	if before != nil && before(w, m) {
		return
	}
	w.WriteHeader(http.StatusAccepted)
	if m.ID == nil || m.Method == "" {
		return
	}
	answer := `"result":` + result
	if result == "" {
		answer = `"error":{"code":-32601,"message":"no"}`
	}
	go s.say(m.session, `{"jsonrpc":"2.0","id":`+string(m.ID)+`,`+answer+`}`)
}

func (s *oldServer) stream(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.count++
	id, said := fmt.Sprint(s.count), make(chan string)
	s.streams[id] = said
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.streams, id)
		s.ended = append(s.ended, id)
	}()
	w.Header().Set("Content-Type", "text/event-stream")
	w.WriteHeader(http.StatusOK)
	first := s.first
	if first == "" {
		first = "event: endpoint\ndata: /messages?c=ID\n\n"
	}
	_, _ = w.Write([]byte(strings.ReplaceAll(first, "ID", id)))
	flush := http.NewResponseController(w)
	for {
		_ = flush.Flush()
		select {
		case <-r.Context().Done():
			return
		case text := <-said:
			if _, err := w.Write([]byte(text)); text == "" || err != nil {
				return
			}
		}
	}
}

// say says a message in a session; raw text that ends in a blank line as it is, "" ends it.
func (s *oldServer) say(session, text string) {
	s.mu.Lock()
	said := s.streams[session]
	s.mu.Unlock()
	if text != "" && !strings.HasSuffix(text, "\n\n") {
		text = "event: message\ndata: " + text + "\n\n"
	}
	select {
	case said <- text:
	case <-time.After(patience):
	}
}

func (s *oldServer) endedSessions() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.ended...)
}

// toOld is a gateway before such an upstream.
func toOld(t *testing.T, up *oldServer) *gateway {
	t.Helper()
	a := protected("up")
	a.OldTransport = &url.URL{Scheme: "http", Host: "up.example", Path: "/sse"}
	g := newGateway(t, egress{"app/up": up, authz.EndpointRoute("up"): up}, []*authz.App{a})
	ready(t, g.Hub)
	return g
}

// Each agent has a connection of its own, in its own name; each call its own token.
func TestOldUpstream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := newOldServer(`{"tools":{}}`)
		g := toOld(t, up)
		if diff := cmp.Diff([]string{"up_t"}, listTools(t, g.Hub, "alice").names(t)); diff != "" {
			t.Error(diff)
		}
		if sent := up.last("tools/list"); sent.session != "1" || sent.authorization != "" || sent.rpc.path != "/messages" {
			t.Errorf("the hub's own: %+v", sent)
		}
		alice, bob := enter(t, g, "alice", ableBody), enter(t, g, "bob", `{}`)
		const answer = `{"jsonrpc":"2.0","id":"call","result":{"content":[]}}`
		for range 2 {
			alice.must(200, answer, `{"jsonrpc":"2.0","id":"call","method":"tools/call","params":{"name":"up_t","task":{},"arguments":{"n": 1.50}}}`)
		}
		bob.must(200, answer, toolCall("up_t"))
		rec := ask(g, "alice", "POST", modernRequest("tools/call", ableBody, "", `"name":"up_t"`), modernHeaders("tools/call", "up_t")...)
		if rec.Body.String() != `{"jsonrpc":"2.0","id":"c","result":{"resultType":"complete","content":[]}}` {
			t.Errorf("modern: %d %s", rec.Code, rec.Body)
		}
		var got []string
		up.script.mu.Lock()
		for _, r := range up.seen {
			if r.method == "tools/call" || r.method == "initialize" {
				got = append(got, fmt.Sprint(r.session, " ", r.method, " ", strings.TrimPrefix(r.authorization, "Bearer ")))
			}
		}
		up.script.mu.Unlock()
		want := []string{"1 initialize ", "2 initialize alice:up:session", "2 tools/call alice:up", "2 tools/call alice:up",
			"3 initialize bob:up:session", "3 tools/call bob:up", "4 initialize alice:up:session", "4 tools/call alice:up"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		if got := up.sent("2", "tools/call")[0]; got != `{"jsonrpc":"2.0","id":"call","method":"tools/call","params":{"name":"t","arguments":{"n": 1.50}}}` {
			t.Errorf("sent %s", got)
		}
		if got := gjson.Get(up.sent("2", "initialize")[0], "params.clientInfo.name").Str; got != "inspector" {
			t.Errorf("in the name of %s", got)
		}
		if rec := ask(g, "bob", "DELETE", "", "Mcp-Session-Id", bob.session); rec.Code != 204 {
			t.Errorf("%d", rec.Code)
		}
		synctest.Wait()
		if diff := cmp.Diff([]string{"3"}, up.endedSessions()); diff != "" {
			t.Error(diff)
		}
	})
}

// What it says goes where it belongs: to the call that it answers, to the agent's stream, or to the hub.
func TestOldUpstreamSpeaks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := newOldServer(`{"tools":{"listChanged":true},"logging":{}}`)
		g := toOld(t, up)
		alice := enter(t, g, "alice", ableBody)
		alice.must(200, `"result"`, toolCall("up_t"))
		events := alice.listen()
		synctest.Wait()
		up.say("2", logged+`1}}`)
		if got := events.next(); got != logged+`1}}` {
			t.Error(got)
		}
		up.say("2", `{"jsonrpc":"2.0","id":9,"method":"ping"}`) // the hub answers for the agent
		synctest.Wait()
		up.say("2", `{"jsonrpc":"2.0","id":3,"method":"sampling/createMessage","params":{"_meta":{"progressToken":4}}}`)
		asked := events.message()
		if asked.Method != "sampling/createMessage" || string(asked.ID) == "3" {
			t.Fatalf("asked %s", asked.Raw())
		}
		progress := func(token string) string {
			return `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":` + token + `,"progress":1}}`
		}
		alice.must(202, "", progress(string(asked.ProgressToken)))
		if diff := cmp.Diff([]string{progress("4")}, up.sent("2", "notifications/progress")); diff != "" {
			t.Error(diff)
		}
		alice.must(202, "", `{"jsonrpc":"2.0","id":`+string(asked.ID)+`,"result":{"x":1.50}}`)
		want := []string{`{"jsonrpc":"2.0","id":9,"result":{}}`, `{"jsonrpc":"2.0","id":3,"result":{"x":1.50}}`}
		if diff := cmp.Diff(want, up.sent("2", "response")); diff != "" {
			t.Error(diff)
		}
		if got := up.last("notifications/progress").authorization; got != "Bearer alice:up:session" {
			t.Errorf("with %q", got)
		}
		alice.must(200, `"result":{}`, `{"jsonrpc":"2.0","id":5,"method":"logging/setLevel","params":{"level":"error"}}`)
		alice.must(202, "", `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":5}}`)
		if l, c := up.sent("2", "logging/setLevel"), up.sent("2", "notifications/cancelled"); len(l) != 1 || len(c) != 1 {
			t.Errorf("levels %v, cancelled %v", l, c)
		}
		up.say("2", `{"jsonrpc":"2.0","id":8,"method":"tools/call","params":{"name":"t"}}`) // no client's method
		up.say("2", `{"jsonrpc":"2.0","id":"call","result":{"late":1}}`)
		events.quiet(time.Second)
		up.answer("tools/list", toolList("new"))
		up.say("1", `{"jsonrpc":"2.0","method":"`+toolsChanged+`"}`)
		if got := events.next(); got != `{"jsonrpc":"2.0","method":"`+toolsChanged+`"}` {
			t.Error(got)
		}
		if diff := cmp.Diff([]string{"up_new"}, listTools(t, g.Hub, "alice").names(t)); diff != "" {
			t.Error(diff)
		}
	})
}

// During a call, what comes with it comes on its own stream, in the names that the agent knows.
func TestOldUpstreamDuringACall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := newOldServer(`{"tools":{}}`)
		up.script.first(func(w http.ResponseWriter, m rpc) bool {
			if m.Method != "tools/call" {
				return false
			}
			w.WriteHeader(http.StatusAccepted)
			go func() {
				up.say(m.session, `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":7,"progress":1}}`)
				up.say(m.session, `{"jsonrpc":"2.0","id":3,"method":"roots/list"}`)
			}()
			return true
		})
		g := toOld(t, up)
		alice := enter(t, g, "alice", ableBody)
		call := alice.begin(toolCall("up_t"))
		if got := call.next(); !strings.Contains(got, `"progressToken":7`) {
			t.Error(got)
		}
		asked := call.message()
		if asked.Method != "roots/list" {
			t.Fatalf("asked %s", asked.Raw())
		}
		alice.must(202, "", `{"jsonrpc":"2.0","id":`+string(asked.ID)+`,"result":{"roots":[]}}`)
		if got := up.sent("2", "response"); len(got) != 1 || got[0] != `{"jsonrpc":"2.0","id":3,"result":{"roots":[]}}` {
			t.Errorf("answered %v", got)
		}
		up.say("2", `{"jsonrpc":"2.0","id":"call","result":{}}`)
		if got := call.next(); got != `{"jsonrpc":"2.0","id":"call","result":{}}` {
			t.Error(got)
		}
		call.end()
	})
}

// A connection that breaks ends what is under way on it; the next call has another.
func TestOldUpstreamBreaks(t *testing.T) {
	for name, last := range map[string]string{
		"it ends":             "",
		"it lies":             "data: hello\n\n",
		"an event over 4 MiB": "data: " + strings.Repeat("x", session.MaxEventBytes+1) + "\n\n",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				up := newOldServer(`{"tools":{}}`)
				var silent atomic.Bool
				silent.Store(true)
				up.script.first(func(w http.ResponseWriter, m rpc) bool {
					if m.Method != "tools/call" || !silent.Load() {
						return false
					}
					w.WriteHeader(http.StatusAccepted)
					go up.say(m.session, last)
					return true
				})
				g := toOld(t, up)
				alice := enter(t, g, "alice", ableBody)
				alice.must(502, `"id":"call","error":{"code":-32603`, toolCall("up_t"))
				silent.Store(false)
				alice.must(200, `"result":{"content":[]}`, toolCall("up_t"))
				if sent := up.last("tools/call"); sent.session != "3" || len(up.sent("2", "tools/call")) != 1 {
					t.Errorf("sent to %s", sent.session)
				}
			})
		})
	}
}

// Where messages are posted is of the server's own origin, is said once, and is said in time.
func TestOldUpstreamEndpoints(t *testing.T) {
	const good = "event: endpoint\ndata: /messages?c=ID\n\n"
	for name, test := range map[string]struct {
		first string
		works bool
	}{
		"absolute":       {"event: endpoint\ndata: http://up.example/messages?c=ID\n\n", true},
		"beside":         {"event: endpoint\ndata: messages?c=ID\n\n", true},
		"after a word":   {": hello\n\n" + logged + "\n\n" + good, true},
		"twice":          {good + "event: endpoint\ndata: https://evil.example/?c=ID\n\n", true},
		"another origin": {"event: endpoint\ndata: https://evil.example/messages?c=ID\n\n", false},
		"another port":   {"event: endpoint\ndata: http://up.example:81/messages?c=ID\n\n", false},
		"another scheme": {"event: endpoint\ndata: https://up.example/messages?c=ID\n\n", false},
		"by another way": {"event: endpoint\ndata: //evil.example/messages?c=ID\n\n", false},
		"with a user":    {"event: endpoint\ndata: http://user@up.example/messages?c=ID\n\n", false},
		"no address":     {"event: endpoint\ndata: http://[::1\n\n", false},
		"too long":       {"event: endpoint\ndata: /" + strings.Repeat("x", maxEndpoint) + "\n\n", false},
		"never":          {": hello\n\n", false},
		"not the first":  {"data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n\n", false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				up := newOldServer(`{"tools":{}}`)
				up.first = test.first
				evil := func(r *http.Request) { t.Errorf("%s was asked", r.URL) }
				a := app("up")
				a.OldTransport = &url.URL{Scheme: "http", Host: "up.example", Path: "/sse"}
				h := newHub(t, &testGate{apps: []*authz.App{a}}, egress{"app/up": up, authz.EndpointRoute("up"): http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path != "/messages" || r.URL.Host != egressAuthority {
						evil(r)
					}
					up.ServeHTTP(w, r)
				})})
				begun := time.Now()
				ready(t, h)
				if took := time.Since(begun); took > drainDeadline {
					t.Errorf("took %v", took)
				}
				l := listTools(t, h, "alice")
				if got := len(l.names(t)) == 1; got != test.works || (l.unavailable(t) == nil) != test.works {
					t.Errorf("tools %v, unavailable %v", l.names(t), l.unavailable(t))
				}
			})
		})
	}
}

// A server that floods a call that nobody reads holds up nobody else.
func TestOldUpstreamFloods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := newOldServer(`{"tools":{}}`)
		g := toOld(t, up)
		alice, bob := enter(t, g, "alice", ableBody), enter(t, g, "bob", ableBody)
		alice.must(200, `"result"`, toolCall("up_t"))
		for range 1000 {
			up.say("2", logged+`1}}`) // no stream is open
		}
		bob.must(200, `"result"`, toolCall("up_t"))
		alice.must(200, `"result"`, toolCall("up_t"))
		if l := listTools(t, g.Hub, "alice"); len(l.names(t)) != 1 {
			t.Errorf("%v", l.names(t))
		}
	})
}

// A connection that ends while it is being opened is none: the next call opens another.
func TestOldUpstreamBreaksInTheHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := newOldServer(`{"tools":{}}`)
		g := toOld(t, up)
		undo := up.script.first(func(w http.ResponseWriter, m rpc) bool {
			if m.Method != "notifications/initialized" {
				return false
			}
			up.say(m.session, "")
			time.Sleep(time.Second)
			w.WriteHeader(http.StatusAccepted)
			return true
		})
		alice := enter(t, g, "alice", ableBody)
		alice.must(502, `"id":"call","error":{"code":-32603`, toolCall("up_t"))
		undo()
		time.Sleep(time.Minute)
		alice.must(200, `"result":{"content":[]}`, toolCall("up_t"))
	})
}

// An answer arrives however much comes before it that nobody takes.
func TestOldUpstreamAnswersAfterAFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := newOldServer(`{"tools":{}}`)
		up.script.first(func(w http.ResponseWriter, m rpc) bool {
			if m.Method != "tools/call" {
				return false
			}
			go func() {
				for range 500 {
					up.say(m.session, `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1}}`)
				}
				up.say(m.session, `{"jsonrpc":"2.0","id":`+string(m.ID)+`,"result":{}}`)
			}()
			synctest.Wait() // all of it is there before the POST is answered
			w.WriteHeader(http.StatusAccepted)
			return true
		})
		g := toOld(t, up)
		rec := ask(g, "alice", "POST", modernRequest("tools/call", `{}`, "", `"name":"up_t"`), modernHeaders("tools/call", "up_t")...)
		if rec.Code != 200 || !strings.Contains(rec.Body.String(), `"result":{"resultType":"complete"}`) {
			t.Errorf("%d %s", rec.Code, rec.Body)
		}
	})
}
