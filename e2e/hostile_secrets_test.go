package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// What a server does with what it was given for one call.

// TestHostileReflection: a server that repeats the token of a call tells it to the agent whose call it was, as it could tell
// it to anybody; answers are not searched for it. Nobody else learns of it: not another agent, nor the log, the audit or
// the metrics. The agent's own token is nothing that a server could repeat.
func TestHostileReflection(t *testing.T) {
	for _, speaks := range []string{"both", "modern", "legacy"} {
		t.Run(speaks, func(t *testing.T) {
			w := newWorld(t)
			w.tolerate("answers", "the server repeats the token of a call")
			w.items.behave(func(b *behaviour) {
				b.modern, b.legacy = speaks != "legacy", speaks != "modern"
				b.answer = func(w http.ResponseWriter, _ *http.Request, got received) bool {
					rpcError(w, http.StatusOK, got.RPC.ID, -32000, "bad token: "+got.Header.Get("Authorization"))
					return true
				}
			})
			w.run()
			h := &lair{world: w, other: w.provider.loginAs(t, w.url, otherUser)}
			session, others := h.open(h.token, `{}`), h.open(h.other, `{}`)
			heard := h.listen(h.other, others)
			for era, r := range map[string]request{"modern": modern("my_server_listItems", `{}`), "legacy": legacyCall(session, "my_server_listItems", `{}`)} {
				a := h.send(r)
				calls := h.items.calls()
				issued := strings.TrimPrefix(calls[len(calls)-1].Header.Get("Authorization"), "Bearer ")
				if a.RPC.Error == nil || a.RPC.Error.Code != -32000 || !strings.Contains(a.RPC.Error.Message, issued) || strings.Contains(string(a.Body), h.token) {
					t.Errorf("%s: %s", era, a)
				}
				if c := claims(t, issued); c["aud"] == nil || c["exp"].(float64)-c["iat"].(float64) > 5 {
					t.Errorf("%s: what was repeated is good for %v until %v", era, c["aud"], c["exp"])
				}
				// It is good for nothing here.
				if a := h.send(legacyAs(issued, modern("open_echo", `{}`))); a.Status != http.StatusUnauthorized {
					t.Errorf("%s: the server's token at the gateway: %s", era, a)
				}
			}
			if got := heard.stop(); strings.Contains(got, "bad token") {
				t.Errorf("another agent heard %s", got)
			}
			h.reconcile()
			for place, text := range map[string]string{"the log": h.gateway.output(), "the audit": contents(t, h.path("audit.jsonl")), "the metrics": h.metrics()} {
				for _, r := range h.items.calls() {
					if _, signature, _ := strings.Cut(r.Header.Get("Authorization"), "."); signature == "" || strings.Contains(text, signature[strings.IndexByte(signature, '.')+1:]) {
						t.Errorf("the token of a call is in %s", place)
					}
				}
			}
		})
	}
}

// TestHostileLog: what a server says and no agent hears fills no log.
func TestHostileLog(t *testing.T) {
	const many = 10_000
	h := startLair(t)
	h.liars["both"].streams(func(t turn) {
		for range many / 100 {
			t.say(strings.Repeat(event(`{"jsonrpc":"2.0","id":1,"method":"roots/list"}`), 100))
		}
		t.say(event(mark(1)))
		hang(t)
	})
	session := h.open(h.token, `{}`)
	heard := h.listen(h.token, session)
	h.send(legacyCall(session, "both_call", `{"mine":"a"}`))
	await(t, "the end of the flood", func() bool { return strings.Contains(heard.String(), "mark 1") })
	heard.stop()
	if lines := strings.Count(h.gateway.output(), "\n"); lines > 100 {
		t.Errorf("%d lines of log", lines)
	}
	if want := fmt.Sprintf(`sallyport_upstream_messages_withheld_total{app="both"} %d`, many); !strings.Contains(h.metrics(), want) {
		t.Errorf("the metrics do not count them: %s", h.metrics())
	}
	h.wellAfterwards()
}
