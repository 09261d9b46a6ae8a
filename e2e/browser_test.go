package e2e

import (
	"net/http"
	"strings"
	"testing"
)

// TestAgentsInBrowsers: pages of allowed origins may ask first, and read what they get, from the gateway, its hub and the
// servers alike; other pages may not.
func TestAgentsInBrowsers(t *testing.T) {
	const page = "https://inspector.example.com"
	w := start(t, func(w *world) {
		w.edit("sallyport.yaml", "http:\n", "http:\n  allowedOrigins: ["+page+"]\n")
		w.open.behave(func(b *behaviour) {
			b.answer = func(rw http.ResponseWriter, _ *http.Request, got received) bool {
				rw.Header().Set("Access-Control-Allow-Origin", "*")
				rw.Header().Set("Access-Control-Allow-Credentials", "true")
				rpcResult(rw, got.RPC.ID, `{"resultType":"complete","content":[]}`)
				return true
			}
		})
	})
	ask := func(origin string) answer {
		return w.send(request{method: http.MethodOptions, token: "none", header: map[string]string{"Origin": origin,
			"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,mcp-param-x,x-evil"}})
	}
	a := ask(page)
	if granted := a.Header.Get("Access-Control-Allow-Headers"); a.Status != http.StatusNoContent || a.Header.Get("Access-Control-Allow-Origin") != page ||
		granted != "authorization, mcp-param-x" || !strings.Contains(a.Header.Get("Access-Control-Allow-Methods"), "DELETE") {
		t.Errorf("preflight: %d %v", a.Status, a.Header)
	}
	if a := ask("https://evil.example.com"); a.Status != http.StatusForbidden || a.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("somebody else's page asks first: %d %v", a.Status, a.Header)
	}
	for name, r := range map[string]request{
		"a server's answer": modern("open_echo", `{}`), "the hub's": modernMethod("tools/list"), "the gate's": modern("open_spend", `{"amount":1000}`),
		"a refusal": {token: "none", body: `{}`},
	} {
		if r.header == nil {
			r.header = map[string]string{}
		}
		for _, origin := range []string{page, "", "https://evil.example.com"} {
			delete(r.header, "Origin")
			if origin != "" {
				r.header["Origin"] = origin
			}
			want := ""
			if origin == page {
				want = page
			}
			a := w.send(r)
			if got := a.Header.Values("Access-Control-Allow-Origin"); strings.Join(got, " ") != want || a.Header.Get("Access-Control-Allow-Credentials") != "" {
				t.Errorf("%s, from %q: %d %v", name, origin, a.Status, a.Header)
			}
		}
	}
}
