package hub

import (
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
	"github.com/sallyport/sallyport/mcpparse"
)

// oldAgent is one who speaks the 2024-11-05 transport.
type oldAgent struct {
	*stream
	h                      http.Handler
	who, session, endpoint string
}

// dial opens the stream and learns where to post.
func dial(t *testing.T, h http.Handler, who string) oldAgent {
	t.Helper()
	s := openStream(t, h, who, "GET", paths.SSE, "")
	ev := s.block()
	if ev.Type != "endpoint" || ev.HasID || !strings.HasPrefix(string(ev.Data), "/mcp/message?sessionId=") {
		t.Fatalf("first event %+v", ev)
	}
	return oldAgent{s, h, who, strings.TrimPrefix(string(ev.Data), "/mcp/message?sessionId="), string(ev.Data)}
}

// post posts a message.
func (a oldAgent) post(body string) *httptest.ResponseRecorder { return a.postAs(a.who, body) }

func (a oldAgent) postAs(who, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("POST", "http://gateway.example"+a.endpoint, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+who)
	rec := httptest.NewRecorder()
	a.h.ServeHTTP(rec, r)
	return rec
}

// says posts a message, which is accepted, and returns what comes on the stream.
func (a oldAgent) says(body string) string {
	a.t.Helper()
	if rec := a.post(body); rec.Code != 202 || rec.Body.Len() > 0 {
		a.t.Fatalf("%s: %d %s", body, rec.Code, rec.Body)
	}
	ev := a.block()
	if ev.Type != "message" || ev.HasID || ev.HasRetry {
		a.t.Fatalf("%s: %+v", body, ev)
	}
	return string(ev.Data)
}

func oldInitialize(capabilities string) string {
	return `{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2024-11-05","capabilities":` + capabilities + `,"clientInfo":{"name":"old","version":"1"}}}`
}

// A whole session by the old transport, before upstreams of both eras.
func TestOldAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		legacy := liveLegacy("legacy", `{"tools":{},"logging":{}}`)
		modern := liveModern(`{"tools":{},"resources":{"subscribe":true}}`)
		modern.answer("resources/list", `{"resources":[{"uri":"x:1"}]}`)
		modern.answer("tools/call", `{"resultType":"complete","content":[1.50]}`)
		a := protected("legacy")
		a.Policy = compile(t, "package orchestrator\nresult[\"allowed\"] := true if input.request.mcp.tool.params.name == \"t\"\nresult[\"external_message\"] := \"no\" if input.request.mcp.tool.params.name == \"told\"\n")
		g := newGateway(t, egress{"app/legacy": legacy, "app/modern": modern}, []*authz.App{a, protected("modern")})
		ready(t, g.Hub)
		alice := dial(t, g, "alice")
		want := `{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2024-11-05","capabilities":{"tools":{"listChanged":true},"resources":{"listChanged":true,"subscribe":true},"logging":{}},"serverInfo":{"name":"sallyport","version":"1.2.3"}}}`
		if diff := cmp.Diff(want, alice.says(oldInitialize(ableBody))); diff != "" {
			t.Error(diff)
		}
		for body, want := range map[string]string{
			pingBody: `{"jsonrpc":"2.0","id":"p","result":{}}`,
			`{"jsonrpc":"2.0","id":2,"method":"tools/list"}`:                                       `"name":"legacy_t"`,
			`{"jsonrpc":"2.0","id":2,"method":"resources/list","params":{"cursor":"x"}}`:           `"id":2,"error":{"code":-32602`,
			`{"jsonrpc":"2.0","id":2,"method":"prompts/list"}`:                                     `"id":2,"error":{"code":-32601`,
			`{"jsonrpc":"2.0","id":2,"method":"server/discover"}`:                                  `"id":2,"error":{"code":-32601`,
			`{"jsonrpc":"2.0","id":2,"method":"logging/setLevel","params":{"level":"info"}}`:       `"id":2,"result":{}`,
			`{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"legacy_told"}}`:       `"id":2,"result":{"content":[{"type":"text","text":"no"}],"isError":true}`,
			`{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"legacy_hidden"}}`:     `"id":2,"error":{"code":-32602,"message":"Unknown tool: legacy_hidden"}`,
			`{"jsonrpc":"2.0","id":2,"method":"resources/read","params":{"uri":"nobody:1"}}`:       `"id":2,"error":`,
			`{"jsonrpc":"2.0","id":"m","method":"tools/call","params":{"name":"modern_t"}}`:        `{"jsonrpc":"2.0","id":"m","result":{"content":[1.50]}}`,
			`{"jsonrpc":"2.0","id":"l","method":"tools/call","params":{"name":"legacy_t","x":""}}`: `{"jsonrpc":"2.0","id":"l","result":{"content":[]}}`,
			subscribing("subscribe", "x:1"):                                                        subscribed,
		} {
			if got := alice.says(body); !strings.Contains(got, want) {
				t.Errorf("%s: %s, want %s", body, got, want)
			}
		}
		for body, status := range map[string]int{
			`{"jsonrpc":"2.0","method":"notifications/initialized"}`: 202,
			`{"jsonrpc":"2.0","id":7,"result":{}}`:                   400,
			`{`:                                                      400,
			`{"jsonrpc":"2.0","method":"notifications/other"}`: 400,
		} {
			if rec := alice.post(body); rec.Code != status {
				t.Errorf("%s: %d %s", body, rec.Code, rec.Body)
			}
		}
		alice.quiet(time.Second)
		hello := gjson.Get(legacy.last("initialize").body, "params")
		if hello.Get("clientInfo").Raw != `{"name":"old","version":"1"}` || !hello.Get("capabilities.sampling").Exists() {
			t.Errorf("the upstream learnt of %s", hello.Raw)
		}
		if sent := legacy.last("tools/call"); sent.session != "legacy-2" || sent.authorization != "Bearer alice:legacy" {
			t.Errorf("%+v", sent)
		}
		modern.message(t, `{"resourceSubscriptions":["x:1"]}`, `{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"x:1"}}`)
		if got := alice.next(); got != `{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"x:1"}}` {
			t.Error(got)
		}
		legacy.say(t, "legacy-2", "id: 7\nretry: 5\ndata: {\"jsonrpc\":\"2.0\",\"id\":3,\"method\":\"roots/list\"}\n\n")
		ev := alice.block()
		if ev.Type != "message" || ev.HasID || ev.HasRetry || strings.Contains(string(ev.Data), `"id":3`) {
			t.Errorf("%+v", ev)
		}
		id := gjson.GetBytes(ev.Data, "id").Raw
		if rec := alice.post(`{"jsonrpc":"2.0","id":` + id + `,"result":{"roots":[]}}`); rec.Code != 202 {
			t.Errorf("%d %s", rec.Code, rec.Body)
		}
		if got := legacy.sent("legacy-2", "response"); len(got) != 1 || got[0] != `{"jsonrpc":"2.0","id":3,"result":{"roots":[]}}` {
			t.Errorf("answered %v", got)
		}
	})
}

// The stream is the session: nobody else posts to it, and both end together.
func TestOldSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := liveLegacy("up", `{"tools":{}}`)
		g := newGateway(t, egress{"app/up": up}, []*authz.App{app("up")})
		ready(t, g.Hub)
		alice, other := dial(t, g, "alice"), dial(t, g, "alice")
		alice.says(oldInitialize(`{}`))
		alice.says(toolCall("up_t"))
		if rec := alice.postAs("bob", pingBody); rec.Code != 404 {
			t.Errorf("bob: %d %s", rec.Code, rec.Body)
		}
		stray := alice
		for name, endpoint := range map[string]string{"none": "/mcp/message", "made up": "/mcp/message?sessionId=AAAA", "of a GET stream": "/mcp/message?sessionId=" + enter(t, g, "alice", `{}`).session} {
			stray.endpoint = endpoint
			if rec := stray.post(pingBody); rec.Code != 404 {
				t.Errorf("%s: %d %s", name, rec.Code, rec.Body)
			}
		}
		if rec := ask(g, "alice", "POST", pingBody, "Mcp-Session-Id", alice.session); rec.Code != 404 {
			t.Errorf("at the other endpoint: %d %s", rec.Code, rec.Body)
		}
		other.quiet(time.Second)
		alice.close()
		synctest.Wait()
		if rec := alice.post(pingBody); rec.Code != 404 {
			t.Errorf("after its end: %d %s", rec.Code, rec.Body)
		}
		if got := other.says(pingBody); !strings.Contains(got, `"result":{}`) {
			t.Errorf("the other one: %s", got)
		}
		if n := up.count("DELETE"); n != 1 {
			t.Errorf("%d upstream sessions closed", n)
		}
	})
}

// Where there is no such transport, there are no such endpoints.
func TestOldTransportOff(t *testing.T) {
	h := newHub(t, apps(), egress{}, func(c *Config) { c.Paths.SSE, c.Paths.Message = "", "" })
	for _, verb := range []string{"GET", "POST"} {
		r := httptest.NewRequest(verb, "http://gateway.example/mcp/sse", strings.NewReader(pingBody))
		r.Header.Set("Authorization", "Bearer alice")
		r.Header.Set("Content-Type", "application/json")
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, r)
		if rec.Code < 400 {
			t.Errorf("%s: %d %s", verb, rec.Code, rec.Body)
		}
	}
}

// A carried call that is cancelled has no answer, and one that fails has.
func TestOldAgentCancels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var fail atomic.Bool
		up := liveModern(`{"tools":{}}`)
		up.first(func(w http.ResponseWriter, m rpc) bool {
			if m.Method != "tools/call" {
				return false
			}
			if fail.Load() {
				w.WriteHeader(500)
				return true
			}
			events(w, `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1}}`)
			<-m.ctx.Done()
			return true
		})
		g := newGateway(t, egress{"app/up": up}, []*authz.App{app("up")})
		ready(t, g.Hub)
		alice := dial(t, g, "alice")
		alice.says(oldInitialize(`{}`))
		if got := alice.says(toolCall("up_t")); !strings.Contains(got, `"progressToken":1`) {
			t.Error(got)
		}
		if rec := alice.post(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"call"}}`); rec.Code != 202 {
			t.Errorf("%d %s", rec.Code, rec.Body)
		}
		alice.quiet(time.Minute)
		fail.Store(true)
		if got := alice.says(toolCall("up_t")); got != `{"jsonrpc":"2.0","id":"call","error":{"code":-32603,"message":"the upstream gave no usable answer"}}` {
			t.Error(got)
		}
	})
}

// Rounds of questions work on the stream as well.
func TestOldAgentAnswersQuestions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := liveModern(`{"tools":{}}`)
		var rounds atomic.Int32
		up.first(func(w http.ResponseWriter, m rpc) bool {
			if m.Method != "tools/call" {
				return false
			}
			if rounds.Add(1) == 1 {
				answerJSON(w, m, inputRequired(`"k":`+askForm, `"s"`))
			} else {
				answerJSON(w, m, `"result":{"content":[]}`)
			}
			return true
		})
		g := newGateway(t, egress{"app/up": up}, []*authz.App{app("up")})
		ready(t, g.Hub)
		alice := dial(t, g, "alice")
		alice.says(oldInitialize(ableBody))
		asked := alice.says(toolCall("up_t"))
		m, err := mcpparse.ParseUpstream([]byte(asked))
		if err != nil || m.Method != "elicitation/create" {
			t.Fatalf("%s: %v", asked, err)
		}
		if got := alice.says(`{"jsonrpc":"2.0","id":` + string(m.ID) + `,"result":{"action":"decline"}}`); got != `{"jsonrpc":"2.0","id":"call","result":{"content":[]}}` {
			t.Error(got)
		}
		if got := gjson.Get(up.last("tools/call").body, "params.inputResponses").Raw; got != `{"k":{"action":"decline"}}` {
			t.Errorf("answered %s", got)
		}
	})
}
