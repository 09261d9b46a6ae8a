package hub

import (
	"net/http"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/authz/session"
	"github.com/sallyport/sallyport/mcpparse"
)

// A call whose session the upstream lost is sent again in a new one, of the same owner and of no other.
func TestResend(t *testing.T) {
	up := legacyScript(toolList())
	up.results["tools/call"] = `{"content":[]}`
	h := newHub(t, apps("up"), egress{"app/up": up})
	first := mustLeg(t, h, app("up"), "a", mcpparse.EraLegacy)
	others := mustLeg(t, h, app("up"), "b", mcpparse.EraLegacy)
	const body = `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"t"}}`
	reply, err := h.Resend(t.Context(), app("up"), peer("a", mcpparse.EraLegacy), first, authz.Resent{ID: []byte("7"), Body: []byte(body), Token: "secret", Limit: 1 << 20})
	if err != nil || reply.Status != 200 || string(reply.Body) != `{"jsonrpc":"2.0","id":7,"result":{"content":[]}}` {
		t.Fatalf("%+v, %v", reply, err)
	}
	again := mustLeg(t, h, app("up"), "a", mcpparse.EraLegacy)
	if again.SessionID == first.SessionID || again.SessionID == "" {
		t.Errorf("%q after %q", again.SessionID, first.SessionID)
	}
	if sent := up.last("tools/call"); sent.session != again.SessionID || sent.authorization != "Bearer secret" {
		t.Errorf("sent in %q with %q", sent.session, sent.authorization)
	}
	if still := mustLeg(t, h, app("up"), "b", mcpparse.EraLegacy); still != others {
		t.Errorf("another owner's session changed: %+v", still)
	}
}

// What comes of a call that is sent again: an answer to it, whole, or nothing.
func TestResentAnswers(t *testing.T) {
	const response = `{"jsonrpc":"2.0","id":7,"result":{"x":1.50}}`
	const progress = `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1}}`
	json := func(status int, body string) func(w http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		}
	}
	stream := func(text string) func(w http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = w.Write([]byte(text))
		}
	}
	for _, test := range []struct {
		name   string
		answer func(w http.ResponseWriter)
		want   string // "" for an error
	}{
		{"JSON", json(200, response), response},
		{"an error", json(200, `{"jsonrpc":"2.0","id":7,"error":{"code":-1,"message":"m"}}`), `{"jsonrpc":"2.0","id":7,"error":{"code":-1,"message":"m"}}`},
		{"a stream", stream("data: " + response + "\n\n"), "data: " + response + "\n\n"},
		{"a stream with news", stream(": a\n\nid: 5\ndata: " + progress + "\n\ndata: " + response + "\n\ndata: " + progress + "\n\n"), ":\n\nid: EVENT\ndata: " + progress + "\n\ndata: " + response + "\n\n"},
		{"a stream with what is withheld", stream("data: " + `{"jsonrpc":"2.0","id":1,"method":"roots/list"}` + "\n\ndata: " + response + "\n\n"), "data: " + response + "\n\n"},
		{"a question", stream("data: " + `{"jsonrpc":"2.0","id":1,"method":"sampling/createMessage","params":{}}` + "\n\ndata: " + response + "\n\n"), ""},
		{"a stream without an answer", stream("data: " + progress + "\n\n"), ""},
		{"a stream of lies", stream("data: hello\n\ndata: " + response + "\n\n"), ""},
		{"a stream without an end", stream("data: " + strings.Repeat(" ", 1<<20) + response + "\n\n"), ""},
		{"another's answer", json(200, `{"jsonrpc":"2.0","id":8,"result":{}}`), ""},
		{"a request", json(200, `{"jsonrpc":"2.0","id":7,"method":"ping"}`), ""},
		{"no JSON", json(200, "hello"), ""},
		{"more than fits", json(200, strings.Repeat(" ", 1<<20)+response), ""},
		{"lost again", json(404, response), ""},
		{"guarded", json(401, response), ""},
		{"nothing", func(w http.ResponseWriter) { w.WriteHeader(202) }, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			up := legacyScript(toolList())
			up.first(func(w http.ResponseWriter, m rpc) bool {
				if m.Method == "tools/call" {
					test.answer(w)
				}
				return m.Method == "tools/call"
			})
			h := newHub(t, apps("up"), egress{"app/up": up})
			p := peer("a", mcpparse.EraLegacy)
			p.Session = session.Session{ID: "a", Capabilities: session.Sampling}
			lost := mustLeg(t, h, app("up"), "a", mcpparse.EraLegacy)
			reply, err := h.Resend(t.Context(), app("up"), p, lost, authz.Resent{ID: []byte("7"), Body: []byte(toolCall("t")), Limit: 1 << 20})
			if test.want == "" {
				if err == nil {
					t.Errorf("answered %s", reply.Body)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			again := mustLeg(t, h, app("up"), "a", mcpparse.EraLegacy).SessionID
			got := regexp.MustCompile("id: .*").ReplaceAllStringFunc(string(reply.Body), func(id string) string {
				name, err := sealer(t).OpenName("a", session.CallEvent, strings.TrimPrefix(id, "id: "))
				if err != nil || name.App != session.TagOf("up") || name.Leg != session.TagOf(again) || string(name.Raw) != "5" {
					t.Errorf("%+v, %v", name, err)
				}
				return "id: EVENT"
			})
			if diff := cmp.Diff(test.want, got); diff != "" || reply.Status != 200 {
				t.Errorf("%d %s", reply.Status, diff)
			}
		})
	}
}

// Several calls that find out at once that a session is lost open one new one.
func TestResendOpensOneSession(t *testing.T) {
	up := legacyScript(toolList())
	up.results["tools/call"] = `{}`
	h := newHub(t, apps("up"), egress{"app/up": up})
	lost := mustLeg(t, h, app("up"), "a", mcpparse.EraLegacy)
	before := up.count("initialize")
	for range 3 {
		if _, err := h.Resend(t.Context(), app("up"), peer("a", mcpparse.EraLegacy), lost, authz.Resent{ID: []byte(`"call"`), Body: []byte(toolCall("t")), Limit: 1 << 20}); err != nil {
			t.Fatal(err)
		}
	}
	if n := up.count("initialize") - before; n != 1 {
		t.Errorf("%d sessions opened", n)
	}
}

// Envoy waits for the answer, but not for ever.
func TestResendInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := legacyScript(toolList())
		up.first(func(_ http.ResponseWriter, m rpc) bool {
			if m.Method == "tools/call" {
				<-m.ctx.Done()
			}
			return m.Method == "tools/call"
		})
		h := newHub(t, apps("up"), egress{"app/up": up})
		lost := mustLeg(t, h, app("up"), "a", mcpparse.EraLegacy)
		begun := time.Now()
		_, err := h.Resend(t.Context(), app("up"), peer("a", mcpparse.EraLegacy), lost, authz.Resent{ID: []byte(`"call"`), Body: []byte(toolCall("t")), Limit: 1 << 20})
		if took := time.Since(begun); err == nil || took > resendDeadline {
			t.Errorf("%v after %v", err, took)
		}
	})
}
