package hub

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/tidwall/gjson"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/authz/audit"
	"github.com/sallyport/sallyport/authz/glob"
	"github.com/sallyport/sallyport/mcpparse"
)

// ours are the ids that the hub makes.
var ours = regexp.MustCompile(`"sallyport-\d+"`)

func modernHeaders(method, name string) []string {
	return []string{"MCP-Protocol-Version", "2026-07-28", "Mcp-Method", method, "Mcp-Name", name}
}

// modernRequest is a request of a client with these capabilities. meta and params hold further members.
func modernRequest(method, capabilities, meta, params string) string {
	if meta != "" {
		meta = "," + meta
	}
	return `{"jsonrpc":"2.0","id":"c","method":"` + method + `","params":{` + params +
		`,"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":` + capabilities + meta + `}}}`
}

// toLegacy is a gateway before one legacy upstream, which answers calls with answer.
func toLegacy(t *testing.T, answer func(w http.ResponseWriter, m rpc), change ...func(*authz.App)) (*gateway, *live) {
	t.Helper()
	up := liveLegacy("up", `{"tools":{},"prompts":{},"resources":{},"completions":{}}`)
	up.answer("resources/list", `{"resources":[{"uri":"x:1"}]}`)
	if answer != nil {
		up.first(func(w http.ResponseWriter, m rpc) bool {
			_, known := up.results[m.Method]
			if m.ID == nil || m.Method == "" || m.Method == "server/discover" || known && m.Method != "tools/call" {
				return false
			}
			answer(w, m)
			return true
		})
	}
	a := protected("up")
	for _, f := range change {
		f(a)
	}
	g := newGateway(t, egress{"app/up": up}, []*authz.App{a})
	ready(t, g.Hub)
	return g, up
}

// events writes an event stream.
func events(w http.ResponseWriter, messages ...string) {
	w.Header().Set("Content-Type", "text/event-stream")
	for _, m := range messages {
		_, _ = w.Write([]byte("data: " + m + "\n\n"))
	}
}

// A stateless call in a session: what goes to the upstream, and what comes back.
func TestModernToLegacy(t *testing.T) {
	const result = `{"content":[ ],"x":1.50}`
	for _, test := range []struct {
		name, method, target, params string
		sent                         string // params, but for _meta
		result, want                 string // members of the response
	}{
		{"a call", "tools/call", "up_t", `"name":"up_t","arguments":{"n": 1.50}`, `"name":"t","arguments":{"n": 1.50}`,
			`"result":` + result, `"result":{"resultType":"complete","content":[ ],"x":1.50}`},
		{"a result of a type that the era does not have", "tools/call", "up_t", `"name":"up_t"`, `"name":"t"`,
			`"result":{"resultType":"input_required"}`, `"result":{"resultType":"complete"}`},
		{"what is of the modern era only", "tools/call", "up_t", `"requestState":"s","name":"up_t","task":{},"inputResponses":{}`, `"name":"t"`,
			`"result":{}`, `"result":{"resultType":"complete"}`},
		{"a prompt", "prompts/get", "up_p", `"name":"up_p"`, `"name":"p"`, `"result":{"messages":[]}`, `"result":{"resultType":"complete","messages":[]}`},
		{"a resource", "resources/read", "x:1", `"uri":"x:1"`, `"uri":"x:1"`,
			`"result":{"contents":[]}`, `"result":{"cacheScope":"private","ttlMs":0,"resultType":"complete","contents":[]}`},
		{"a resource that says who may keep it", "resources/read", "x:1", `"uri":"x:1"`, `"uri":"x:1"`,
			`"result":{"cacheScope":"public","ttlMs":9}`, `"result":{"resultType":"complete","cacheScope":"private","ttlMs":0}`},
		{"a completion", "completion/complete", "", `"ref":{"type":"ref/prompt","name":"up_p"},"argument":{"name":"a","value":"v"}`,
			`"ref":{"type":"ref/prompt","name":"p"},"argument":{"name":"a","value":"v"}`, `"result":{}`, `"result":{"resultType":"complete"}`},
		{"an error", "tools/call", "up_t", `"name":"up_t"`, `"name":"t"`, `"error":{"code":-1,"message":"m"}`, `"error":{"code":-1,"message":"m"}`},
		{"no such resource", "resources/read", "x:1", `"uri":"x:1"`, `"uri":"x:1"`,
			`"error":{"code":-32002,"message":"m","data":{"uri":"x:1"}}`, `"error":{"code":-32602,"message":"m","data":{"uri":"x:1"}}`},
	} {
		for _, streamed := range []bool{false, true} {
			t.Run(fmt.Sprint(test.name, "/streamed ", streamed), func(t *testing.T) {
				g, up := toLegacy(t, func(w http.ResponseWriter, m rpc) {
					answer := `{"jsonrpc":"2.0","id":` + string(m.ID) + `,` + test.result + `}`
					if streamed {
						events(w, answer)
						return
					}
					w.Header().Set("Content-Type", "application/json")
					_, _ = w.Write([]byte(answer))
				})
				headers := modernHeaders(test.method, test.target)
				if test.target == "" {
					headers = headers[:4]
				}
				const logLevel = `"io.modelcontextprotocol/logLevel":"info","io.modelcontextprotocol/clientInfo":{"name":"n","version":"1"},"kept":1`
				rec := ask(g, "alice", "POST", modernRequest(test.method, `{"roots":{},"extensions":{"io.modelcontextprotocol/tasks":{}}}`, logLevel, test.params), headers...)
				if want := `{"jsonrpc":"2.0","id":"c",` + test.want + `}`; rec.Code != 200 || rec.Body.String() != want || rec.Header().Get("Content-Type") != "application/json" {
					t.Errorf("%d %s, want %s", rec.Code, rec.Body, want)
				}
				sent := up.last(test.method)
				want := `{"jsonrpc":"2.0","id":OURS,"method":"` + test.method + `","params":{` + test.sent + `,"_meta":{"kept":1}}}`
				if diff := cmp.Diff(want, ours.ReplaceAllString(sent.body, "OURS")); diff != "" {
					t.Error(diff)
				}
				if sent.session != "up-2" || sent.rpc.version != "2025-11-25" || sent.authorization != "Bearer alice:up" || sent.rpc.header.Get("Mcp-Method")+sent.rpc.header.Get("Mcp-Name") != "" {
					t.Errorf("in %q, version %q, with %q", sent.session, sent.rpc.version, sent.authorization)
				}
			})
		}
	}
}

// The session at the upstream is the caller's, and says that nothing can be asked of the client.
func TestModernCallersHaveSessions(t *testing.T) {
	g, up := toLegacy(t, nil)
	call := func(who string) string {
		t.Helper()
		rec := ask(g, who, "POST", modernRequest("tools/call", ableBody, "", `"name":"up_t"`), modernHeaders("tools/call", "up_t")...)
		if rec.Code != 200 {
			t.Fatalf("%d %s", rec.Code, rec.Body)
		}
		return up.last("tools/call").session
	}
	if a, b, again := call("alice"), call("bob"), call("alice"); a == b || a != again || a == "up-1" {
		t.Errorf("alice is %s and %s, bob is %s", a, again, b)
	}
	if got := gjson.Get(up.last("initialize").body, "params"); got.Get("capabilities").Raw != `{}` || got.Get("clientInfo.name").Str != "sallyport" {
		t.Errorf("initialize %s", got.Raw)
	}
	up.forget("up-2") // opened again in place
	if s := call("alice"); s != "up-4" {
		t.Errorf("in %s", s)
	}
	if n := len(g.audited("tools/call")); n != 4 {
		t.Errorf("%d on record", n)
	}
}

// On a stream: progress under the agent's own token, log messages of the level that was asked for, nothing else.
func TestModernToLegacyStream(t *testing.T) {
	message := func(level string) string {
		return `{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"` + level + `","data":1.50}}`
	}
	for level, want := range map[string][]string{"": nil, "warning": {message("warning"), message("emergency")}, "debug": {message("info"), message("warning"), message("emergency")}, "loud": nil} {
		g, up := toLegacy(t, func(w http.ResponseWriter, m rpc) {
			token := gjson.Get(m.body, "params._meta.progressToken").Raw
			if token != string(m.ID) {
				t.Errorf("progress under %s of %s", token, m.ID)
			}
			progress := func(token string) string {
				return `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":` + token + `,"progress":1.50}}`
			}
			events(w, progress(token), progress("7"), progress(`"other"`), message("info"), message("warning"), message("emergency"), message("other"),
				`{"jsonrpc":"2.0","id":1,"method":"roots/list"}`, `{"jsonrpc":"2.0","id":2,"method":"ping"}`,
				`{"jsonrpc":"2.0","method":"`+toolsChanged+`"}`, `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}`,
				`{"jsonrpc":"2.0","id":"c","result":{"not":"ours"}}`, progress(token),
				`{"jsonrpc":"2.0","id":`+string(m.ID)+`,"result":{}}`, `{"jsonrpc":"2.0","id":`+string(m.ID)+`,"result":{"again":1}}`)
		})
		meta := `"progressToken":7`
		if level != "" {
			meta += `,"io.modelcontextprotocol/logLevel":"` + level + `"`
		}
		s := openStream(t, g, "alice", "POST", "/mcp", modernRequest("tools/call", ableBody, meta, `"name":"up_t"`), modernHeaders("tools/call", "up_t")...)
		const progress = `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":7,"progress":1.50}}`
		want = append([]string{progress}, append(slices.Clone(want), progress, `{"jsonrpc":"2.0","id":"c","result":{"resultType":"complete"}}`)...)
		var got []string
		for range want {
			got = append(got, s.next())
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q: %s", level, diff)
		}
		s.end()
		answers := up.sent("up-2", "response")
		if len(answers) != 2 || !strings.Contains(answers[0], `"id":1,"error":{"code":-32601`) || answers[1] != `{"jsonrpc":"2.0","id":2,"result":{}}` {
			t.Errorf("what it asked was answered by %v", answers)
		}
	}
}

// An error that wants an address opened becomes a question, for those who can open one.
func TestURLElicitation(t *testing.T) {
	const failure = `{"code":-32042,"message":"m","data":{"elicitations":[{"mode":"url","elicitationId":"e1","url":"https://up.example/?a=b","message":"log in"}]}}`
	for _, test := range []struct{ name, capabilities, failure, want string }{
		{"can", `{"elicitation":{"url":{}}}`, failure, `"result":{"inputRequests":{"e1":{"method":"elicitation/create","params":{"elicitationId":"e1","message":"log in","mode":"url","url":"https://up.example/?a=b"}}},"resultType":"input_required"}`},
		{"cannot", `{"elicitation":{"form":{}}}`, failure, `"error":{"code":-32603,"message":"this call needs an address to be opened`},
		{"can do nothing", `{}`, failure, `"error":{"code":-32603`},
		{"names none", ableBody, `{"code":-32042,"message":"m","data":{"elicitations":[]}}`, `"error":{"code":-32603`},
		{"says nothing", ableBody, `{"code":-32042,"message":"m"}`, `"error":{"code":-32603`},
		{"says what is none", ableBody, `{"code":-32042,"message":"m","data":{"elicitations":"x"}}`, `"error":{"code":-32603`},
	} {
		g, _ := toLegacy(t, func(w http.ResponseWriter, m rpc) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(mcpparse.FailureBody(m.ID, []byte(test.failure)))
		})
		rec := ask(g, "alice", "POST", modernRequest("tools/call", test.capabilities, "", `"name":"up_t"`), modernHeaders("tools/call", "up_t")...)
		if want := strings.ReplaceAll(test.want, "&", `\u0026`); rec.Code != 200 || !strings.Contains(rec.Body.String(), `"id":"c",`+want) || strings.Contains(rec.Body.String(), "-32042") {
			t.Errorf("%s: %d %s", test.name, rec.Code, rec.Body)
		}
	}
}

// Whatever goes wrong at the upstream, the agent has one answer, which says nothing of it.
func TestCarryingFails(t *testing.T) {
	const unusable = `"error":{"code":-32603,"message":"the upstream gave no usable answer"}`
	write := func(status int, contentType, body string) func(http.ResponseWriter, rpc) {
		return func(w http.ResponseWriter, m rpc) {
			w.Header().Set("Content-Type", contentType)
			w.WriteHeader(status)
			_, _ = w.Write([]byte(strings.ReplaceAll(body, "ID", string(m.ID))))
		}
	}
	const response = `{"jsonrpc":"2.0","id":ID,"result":{}}`
	for _, test := range []struct {
		name   string
		answer func(http.ResponseWriter, rpc)
		status int
		want   string
	}{
		{"guarded", write(401, "application/json", response), 502, unusable},
		{"redirects", write(302, "application/json", response), 502, unusable},
		{"is away", write(503, "application/json", response), 502, unusable},
		{"HTML", write(200, "text/html", response), 502, unusable},
		{"no JSON", write(200, "application/json", "hello"), 502, unusable},
		{"another's answer", write(200, "application/json", `{"jsonrpc":"2.0","id":"c","result":{}}`), 502, unusable},
		{"no answer", write(200, "text/event-stream", ""), 502, unusable},
		{"a stream of lies", write(200, "text/event-stream", "data: hello\n\ndata: "+response+"\n\n"), 502, unusable},
		{"an event over 4 MiB", write(200, "text/event-stream", "data: "+strings.Repeat(" ", 4<<20)+response+"\n\n"), 502, unusable},
		{"accepted", write(202, "", ""), 502, unusable},
		{"compressed", func(w http.ResponseWriter, m rpc) {
			w.Header().Set("Content-Encoding", "gzip")
			write(200, "application/json", response)(w, m)
		}, 502, unusable},
		{"an error with status 400", write(400, "application/json", `{"jsonrpc":"2.0","id":ID,"error":{"code":-1,"message":"m"}}`), 200, `"error":{"code":-1,"message":"m"}`},
	} {
		g, _ := toLegacy(t, test.answer)
		rec := ask(g, "alice", "POST", modernRequest("tools/call", `{}`, "", `"name":"up_t"`), modernHeaders("tools/call", "up_t")...)
		if rec.Code != test.status || rec.Body.String() != `{"jsonrpc":"2.0","id":"c",`+test.want+`}` {
			t.Errorf("%s: %d %s", test.name, rec.Code, rec.Body)
		}
		if rec := g.audited("tools/call"); len(rec) != 1 || rec[0].Outcome != audit.Allowed {
			t.Errorf("%s: record %+v", test.name, rec)
		}
	}
}

// A call has its time; who leaves has cancelled it, and the upstream is told.
func TestCarryingEnds(t *testing.T) {
	forever := func(_ http.ResponseWriter, m rpc) { <-m.ctx.Done() }
	synctest.Test(t, func(t *testing.T) {
		minute, err := glob.NewTable(map[string]time.Duration{"t": time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		g, up := toLegacy(t, forever, func(a *authz.App) {
			a.Timeouts = authz.Timeouts{Default: time.Hour, Tools: minute}
		})
		begun := time.Now()
		rec := ask(g, "alice", "POST", modernRequest("tools/call", `{}`, "", `"name":"up_t"`), modernHeaders("tools/call", "up_t")...)
		if took := time.Since(begun); took != time.Minute || rec.Code != 200 || !strings.Contains(rec.Body.String(), `"id":"c","error":{"code":-32603,"message":"the call took longer than it may"}`) {
			t.Errorf("after %v: %d %s", took, rec.Code, rec.Body)
		}
		cancelled(t, up)
	})
	synctest.Test(t, func(t *testing.T) {
		expires := time.Now().Add(90 * time.Second)
		g, _ := toLegacy(t, forever)
		g.tokens.expires = expires
		begun := time.Now()
		ask(g, "alice", "POST", modernRequest("tools/call", `{}`, "", `"name":"up_t"`), modernHeaders("tools/call", "up_t")...)
		if took := time.Since(begun); took > 91*time.Second {
			t.Errorf("%v beyond its token's life", took)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		g, up := toLegacy(t, func(w http.ResponseWriter, m rpc) {
			events(w, `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":`+gjson.Get(m.body, "params._meta.progressToken").Raw+`,"progress":1}}`)
			<-m.ctx.Done()
		})
		s := openStream(t, g, "alice", "POST", "/mcp", modernRequest("tools/call", `{}`, `"progressToken":1`, `"name":"up_t"`), modernHeaders("tools/call", "up_t")...)
		s.next()
		s.close()
		synctest.Wait()
		cancelled(t, up)
	})
}

// cancelled checks that the upstream was told that the call is not wanted any more.
func cancelled(t *testing.T, up *live) {
	t.Helper()
	call, got := up.last("tools/call"), up.sent("up-2", "notifications/cancelled")
	want := `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":` + string(call.rpc.ID) + `}}`
	if len(got) != 1 || got[0] != want {
		t.Errorf("told %v, want %s", got, want)
	}
}

// A legacy upstream may end the stream of a call and have the rest fetched, as long as it gets on.
func TestCarryingGoesOn(t *testing.T) {
	for _, test := range []struct {
		name  string
		parts int // before the answer
		fail  bool
	}{{"once", 1, false}, {"often", 20, false}, {"in vain", 1 << 20, true}} {
		synctest.Test(t, func(t *testing.T) {
			var parts atomic.Int32
			var call atomic.Value
			part := func(w http.ResponseWriter) {
				w.Header().Set("Content-Type", "text/event-stream")
				n := parts.Add(1)
				switch {
				case int(n) > test.parts:
					_, _ = fmt.Fprintf(w, "data: {\"jsonrpc\":\"2.0\",\"id\":%s,\"result\":{}}\n\n", call.Load())
				case !test.fail || n == 1:
					_, _ = fmt.Fprintf(w, "id: %d\nretry: 500\ndata:\n\n", n)
				}
			}
			g, up := toLegacy(t, func(w http.ResponseWriter, m rpc) { call.Store(string(m.ID)); part(w) })
			up.first(func(w http.ResponseWriter, m rpc) bool {
				if m.verb != http.MethodGet || m.session != "up-2" {
					return false
				}
				if want := fmt.Sprint(parts.Load()); m.last != want && !test.fail {
					t.Errorf("%s: goes on at %q, want %s", test.name, m.last, want)
				}
				part(w)
				return true
			})
			begun := time.Now()
			rec := ask(g, "alice", "POST", modernRequest("tools/call", `{}`, "", `"name":"up_t"`), modernHeaders("tools/call", "up_t")...)
			if (rec.Code == 502) != test.fail {
				t.Errorf("%s: %d %s", test.name, rec.Code, rec.Body)
			}
			if took := time.Since(begun); !test.fail && took != time.Duration(test.parts)*500*time.Millisecond || test.fail && parts.Load() != 1+maxTries {
				t.Errorf("%s: took %v, %d parts", test.name, took, parts.Load())
			}
			if n := up.count("tools/call"); n != 1 {
				t.Errorf("%s: called %d times", test.name, n)
			}
		})
	}
}
