package hub

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/authz"
)

// listenFor opens a subscriptions/listen with these wishes and returns the stream and what was acknowledged.
func listenFor(t *testing.T, h http.Handler, who, wishes string) (*stream, string) {
	t.Helper()
	s := openStream(t, h, who, "POST", "/mcp", listenBody(wishes), "MCP-Protocol-Version", "2026-07-28", "Mcp-Method", "subscriptions/listen")
	return s, s.next()
}

func listenBody(wishes string) string {
	return `{"jsonrpc":"2.0","id":"m","method":"subscriptions/listen","params":{` + modernMeta + `,"notifications":` + wishes + `}}`
}

// told is a notification on that stream. members are those of params beside _meta.
func told(method, members string) string {
	if members != "" {
		members = "," + members
	}
	return `{"jsonrpc":"2.0","method":"` + method + `","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":"m"}` + members + `}}`
}

func ack(granted string) string {
	return told("notifications/subscriptions/acknowledged", `"notifications":`+granted)
}

const (
	toolsChanged   = "notifications/tools/list_changed"
	promptsChanged = "notifications/prompts/list_changed"
	allWishes      = `{"toolsListChanged":true,"promptsListChanged":true,"resourcesListChanged":true}`
)

// listening is a modern upstream with two resources.
func listening() *live {
	up := liveModern(`{"tools":{"listChanged":true},"resources":{"subscribe":true}}`)
	up.answer("resources/list", `{"resources":[{"uri":"x:1"},{"uri":"x:2"},{"uri":"x:secret"}]}`)
	return up
}

// What is granted of the wishes: what somebody offers, and this caller may see.
func TestListenGrants(t *testing.T) {
	legacy := liveLegacy("legacy", `{"tools":{},"resources":{"subscribe":true}}`)
	legacy.answer("resources/list", `{"resources":[{"uri":"l:1"}]}`)
	silent := lister(`{"resources":{}}`, map[string]string{"resources/list": `{"resources":[{"uri":"s:1"}]}`})
	gate := apps("up", "legacy", "silent")
	gate.hidden = func(subject, name string) bool { return subject == "bob" && name == "x:1" || name == "x:secret" }
	gate.token = "t"
	up := listening()
	h := newHub(t, gate, egress{"app/up": up, "app/legacy": legacy, "app/silent": silent})
	ready(t, h)
	for _, test := range []struct{ who, wishes, want string }{
		{"alice", `{}`, `{}`},
		{"alice", allWishes, `{"resourcesListChanged":true,"toolsListChanged":true}`}, // nobody has prompts
		{"alice", `{"toolsListChanged":false,"resourcesListChanged":1,"other":true}`, `{}`},
		{"alice", `{"resourceSubscriptions":[]}`, `{}`},
		{"alice", `{"resourceSubscriptions":["x:2","x:secret","l:1","s:1","x:1","x:2","nobody:1"]}`, `{"resourceSubscriptions":["x:2","x:1"]}`},
		{"bob", `{"resourceSubscriptions":["x:1","x:2"],"toolsListChanged":true}`, `{"resourceSubscriptions":["x:2"],"toolsListChanged":true}`},
	} {
		_, got := listenFor(t, h, test.who, test.wishes)
		if diff := cmp.Diff(ack(test.want), got); diff != "" {
			t.Errorf("%s %s: %s", test.who, test.wishes, diff)
		}
	}
	up.say(t, `{"resourceSubscriptions":["x:2","x:1"]}`, ": still there\n\n")
	for _, o := range up.openings(`{"resourceSubscriptions":["x:2","x:1"]}`) {
		if got := o.header.Get("Authorization"); got != "Bearer t" {
			t.Errorf("listens with %q", got)
		}
	}
}

func TestListenRefuses(t *testing.T) {
	up := listening()
	h := newHub(t, apps("up"), egress{"app/up": up})
	ready(t, h)
	many := func(n int) string {
		return `{"resourceSubscriptions":["x:1"` + strings.Repeat(`,"x:1"`, n-1) + `]}`
	}
	for name, wishes := range map[string]string{"none": `null`, "no object": `["toolsListChanged"]`, "a text": `"all"`, "no list": `{"resourceSubscriptions":"x:1"}`,
		"no URIs": `{"resourceSubscriptions":[1]}`, "too many": many(maxListenURIs + 1)} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		r := httptest.NewRequest("POST", "http://gateway.example/mcp", strings.NewReader(listenBody(wishes))).WithContext(ctx)
		r.Header = http.Header{"Content-Type": {"application/json"}, "Authorization": {"Bearer alice"}, "Mcp-Protocol-Version": {"2026-07-28"}}
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, r)
		cancel()
		if rec.Code != 400 || !strings.Contains(rec.Body.String(), `"id":"m","error":{"code":-32602`) {
			t.Errorf("%s: %d %s", name, rec.Code, rec.Body)
		}
	}
	s, got := listenFor(t, h, "alice", many(maxListenURIs))
	if got != ack(`{"resourceSubscriptions":["x:1"]}`) {
		t.Errorf("as many as may be: %s", got)
	}
	s.close()
	body := strings.Replace(listenBody(`{}`), "2026-07-28", "2027-01-01", 1)
	if rec := ask(h, "alice", "POST", body, "MCP-Protocol-Version", "2026-07-28"); rec.Code != 400 || !strings.Contains(rec.Body.String(), `"code":-32020`) {
		t.Errorf("headers and body differ: %d %s", rec.Code, rec.Body)
	}
}

// A change is told to those who asked for it, and see it.
func TestListenTellsOfChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := liveModern(`{"tools":{"listChanged":true},"prompts":{},"resources":{}}`)
		gate := apps("up")
		gate.hidden = func(subject, name string) bool { return subject == "bob" && strings.HasPrefix(name, "secret") }
		h := newHub(t, gate, egress{"app/up": up})
		ready(t, h)
		alice, _ := listenFor(t, h, "alice", allWishes)
		bob, _ := listenFor(t, h, "bob", allWishes)
		prompts, _ := listenFor(t, h, "alice", `{"promptsListChanged":true}`)
		legacy := enter(t, h, "alice", `{}`).listen()
		synctest.Wait()
		change := func() {
			t.Helper()
			up.message(t, `{"promptsListChanged":true,"resourcesListChanged":true,"toolsListChanged":true}`, `{"jsonrpc":"2.0","method":"`+toolsChanged+`"}`)
			time.Sleep(3 * time.Second)
		}
		change() // to what it was
		for _, s := range []*stream{alice, bob, prompts, legacy} {
			s.quiet(time.Second)
		}
		up.answer("tools/list", toolList("t", "secret"))
		change()
		for s, want := range map[*stream]string{alice: told(toolsChanged, ""), legacy: `{"jsonrpc":"2.0","method":"` + toolsChanged + `"}`} {
			if diff := cmp.Diff(want, s.next()); diff != "" {
				t.Error(diff)
			}
		}
		for _, s := range []*stream{bob, prompts} {
			s.quiet(time.Second)
		}
		up.answer("prompts/list", `{"prompts":[{"name":"p"}]}`)
		up.answer("resources/list", `{"resources":[{"uri":"x:1"}]}`)
		up.answer("resources/templates/list", `{"resourceTemplates":[{"uriTemplate":"x:{n}"}]}`)
		change() // of whatever list
		for _, s := range []*stream{alice, bob} {
			got := []string{s.next(), s.next()}
			want := []string{told(promptsChanged, ""), told("notifications/resources/list_changed", "")} // once for both of its lists
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		}
		if got := prompts.next(); got != told(promptsChanged, "") {
			t.Error(got)
		}
		up.answer("resources/templates/list", `{"resourceTemplates":[]}`)
		change()
		if got := alice.next(); got != told("notifications/resources/list_changed", "") {
			t.Error(got)
		}
		for _, s := range []*stream{alice, prompts} {
			s.quiet(time.Second)
		}
	})
}

// Other policies are other lists.
func TestListenTellsOfPolicies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := liveModern(`{"tools":{},"prompts":{}}`)
		up.answer("tools/list", toolList("open", "secret"))
		g := newGateway(t, egress{"app/up": up}, []*authz.App{app("up")})
		ready(t, g.Hub)
		alice, _ := listenFor(t, g, "alice", allWishes)
		legacy := enter(t, g, "bob", `{}`).listen()
		synctest.Wait()
		reload := func(rego string) {
			t.Helper()
			a := app("up")
			a.Policy = compile(t, rego)
			g.setGate(g.Hub, []*authz.App{a})
			time.Sleep(2 * tick)
		}
		reload(allowAll) // says the same
		alice.quiet(time.Second)
		reload("package orchestrator\nresult[\"allowed\"] := true if input.request.mcp.tool.params.name == \"open\"\n")
		if got := alice.next(); got != told(toolsChanged, "") {
			t.Error(got)
		}
		if got := legacy.next(); got != `{"jsonrpc":"2.0","method":"`+toolsChanged+`"}` {
			t.Error(got)
		}
		reload("package orchestrator\nresult[\"allowed\"] := true if input.request.mcp.tool.params.name == \"open\"\nresult[\"allowed\"] := true if input.identity.subject == \"bob\"\n")
		alice.quiet(time.Second)
		if got := legacy.next(); got != `{"jsonrpc":"2.0","method":"`+toolsChanged+`"}` {
			t.Error(got)
		}
	})
}

// News of a resource is told to those who subscribed to it and may read it now; nothing else that comes with it is.
func TestListenTellsOfResources(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := listening()
		g := newGateway(t, egress{"app/up": up}, []*authz.App{protected("up")})
		ready(t, g.Hub)
		alice, got := listenFor(t, g, "alice", `{"resourceSubscriptions":["x:1"]}`)
		if got != ack(`{"resourceSubscriptions":["x:1"]}`) {
			t.Fatal(got)
		}
		const key = `{"resourceSubscriptions":["x:1"]}`
		const updated = "notifications/resources/updated"
		say := func(method, params string) {
			t.Helper()
			up.message(t, key, `{"jsonrpc":"2.0","method":"`+method+`","params":`+params+`}`)
		}
		say(updated, `{"uri":"x:1","title":"to be left out","_meta":{"io.modelcontextprotocol/subscriptionId":"sallyport-9"}}`)
		if diff := cmp.Diff(told(updated, `"uri":"x:1"`), alice.next()); diff != "" {
			t.Error(diff)
		}
		if got := up.openings(key)[0].header.Get("Authorization"); got != "Bearer alice:up:session" {
			t.Errorf("with %q", got)
		}
		say(updated, `{"uri":"x:2"}`) // not subscribed to
		say(updated, `{}`)
		say(updated, `{"uri":["x:1"]}`)
		say(toolsChanged, `{"uri":"x:1"}`)
		say("notifications/message", `{"level":"info","data":"x"}`)
		say("notifications/other", `{"uri":"x:1"}`)
		alice.quiet(2 * time.Second)
		a := protected("up")
		a.Policy = compile(t, "package orchestrator\nresult[\"allowed\"] := true if input.request.mcp.resource.params.uri == \"x:2\"\n")
		g.setGate(g.Hub, []*authz.App{a})
		say(updated, `{"uri":"x:1"}`)
		alice.quiet(2 * time.Second)
		g.setGate(g.Hub, []*authz.App{protected("up")})
		up.say(t, key, "data: hello\n\n") // a lie: it is opened again
		synctest.Wait()
		say(updated, `{"uri":"x:1"}`)
		if got := alice.next(); got != told(updated, `"uri":"x:1"`) {
			t.Error(got)
		}
	})
}

// The last word is the result; an agent that left needs none.
func TestListenEnds(t *testing.T) {
	const result = `{"jsonrpc":"2.0","id":"m","result":{"_meta":{"io.modelcontextprotocol/subscriptionId":"m"},"resultType":"complete"}}`
	for name, end := range map[string]func(h *Hub){
		"the token expires":  func(*Hub) { time.Sleep(time.Hour) },
		"the gateway drains": func(h *Hub) { h.Drain() },
	} {
		synctest.Test(t, func(t *testing.T) {
			gate := apps("up")
			gate.expires = time.Now().Add(time.Hour)
			up := listening()
			h := newHub(t, gate, egress{"app/up": up})
			ready(t, h)
			s, _ := listenFor(t, h, "alice", `{"resourceSubscriptions":["x:1"]}`)
			s.quiet(30 * time.Minute)
			end(h)
			if got := s.next(); got != result {
				t.Errorf("%s: %s", name, got)
			}
			s.end()
			synctest.Wait()
			if open := fmt.Sprint(up.open()); strings.Contains(open, "x:1") {
				t.Errorf("%s: still listening for %s", name, open)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		up := listening()
		h := newHub(t, apps("up"), egress{"app/up": up})
		ready(t, h)
		s, _ := listenFor(t, h, "alice", `{"resourceSubscriptions":["x:1"]}`)
		up.say(t, `{"resourceSubscriptions":["x:1"]}`, ": there\n\n")
		s.close()
		synctest.Wait()
		if open := fmt.Sprint(up.open()); strings.Contains(open, "x:1") {
			t.Errorf("still listening for %s", open)
		}
	})
}
