package e2e

import (
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// appLimit adds a line to the app without protection.
func (w *world) appLimit(line string) {
	w.edit("sallyport.yaml", "  - name: open\n    type: mcpProxy\n", "  - name: open\n    type: mcpProxy\n"+line)
}

// One caller's calls of one tool are counted by themselves, and only those that the policy has allowed.
func TestCallLimit(t *testing.T) {
	w := start(t, func(w *world) { w.appLimit("    callLimit:\n      calls: 3\n      per: 1h\n") })
	other := w.provider.loginAs(t, w.url, otherUser)
	session := w.initialize()
	for range 5 { // refused: not counted
		w.send(modern("open_spend", `{"amount":500}`))
	}
	spend := func(token string) answer {
		r := modern("open_spend", `{"amount":1}`)
		r.token = token
		return w.send(r)
	}
	for range 2 {
		if a := spend(w.token); a.RPC.Result == nil {
			t.Fatal(a)
		}
	}
	if a := w.send(legacyCall(session, "open_spend", `{"amount":1}`)); a.RPC.Result == nil {
		t.Fatal(a)
	}
	for era, r := range map[string]request{"modern": modern("open_spend", `{"amount":1}`), "legacy": legacyCall(session, "open_spend", `{"amount":1}`)} {
		a := w.send(r)
		if a.Status != http.StatusTooManyRequests || a.RPC.Error == nil || string(a.RPC.ID) != map[string]string{"modern": "7", "legacy": `"c-1"`}[era] || a.Header.Get("Retry-After") != "3600" {
			t.Errorf("%s: %s %v", era, a, a.Header)
		}
	}
	if a := w.send(modern("open_echo", `{}`)); a.RPC.Result == nil {
		t.Errorf("another tool: %s", a)
	}
	if a := spend(other); a.RPC.Result == nil {
		t.Errorf("another caller: %s", a)
	}
	if a := w.send(modern("my_server_listItems", `{}`)); a.RPC.Result == nil {
		t.Errorf("another app: %s", a)
	}
	calls := 0
	for _, c := range w.open.calls() {
		if c.RPC.Params.Name == "spend" {
			calls++
		}
	}
	if calls != 4 {
		t.Errorf("%d calls arrived", calls)
	}
	limited := 0
	for _, p := range w.reconcile() {
		if p[1]["status"] == float64(http.StatusTooManyRequests) {
			limited++
			if p[0]["outcome"] != "allowed" || p[1]["outcome"] != "refused" {
				t.Errorf("%v, %v", p[0], p[1])
			}
		}
	}
	if limited != 2 {
		t.Errorf("%d records of calls that came too fast", limited)
	}
}

// What comes too fast in all is turned away before anybody looks at it.
func TestRequestLimit(t *testing.T) {
	w := start(t, func(w *world) {
		w.edit("sallyport.yaml", "http:\n", "http:\n  requestLimit:\n    calls: 5\n    per: 1h\n")
		w.write("sallyport.yaml", contents(t, w.path("sallyport.yaml"))+"service:\n  canary: off\n") // it would be counted
	})
	statuses := map[int]int{}
	for range 8 {
		a := w.send(modern("open_echo", `{}`))
		statuses[a.Status]++
		if a.Status != http.StatusOK && (a.RPC.Error == nil || a.Header.Get("Retry-After") == "") {
			t.Errorf("%s %v", a, a.Header)
		}
	}
	if statuses[http.StatusOK] != 5 || statuses[http.StatusTooManyRequests] != 3 || len(w.open.calls()) != 5 {
		t.Errorf("%v, %d calls arrived", statuses, len(w.open.calls()))
	}
	if n := len(w.reconcile()); n != 5 {
		t.Errorf("%d decisions", n)
	}
}

// An MCP server that is slow holds as many calls as it may, and no other app's.
func TestMaxRequests(t *testing.T) {
	arrived, release := make(chan struct{}, 8), make(chan struct{})
	w := start(t, func(w *world) {
		w.edit("sallyport.yaml", "        url: http://"+w.open.addr()+"/mcp\n", "        url: http://"+w.open.addr()+"/mcp\n        connection:\n          maxRequests: 2\n")
	})
	w.open.behave(func(b *behaviour) {
		b.answer = func(http.ResponseWriter, *http.Request, received) bool {
			arrived <- struct{}{}
			<-release
			return false
		}
	})
	done := make(chan answer, 2)
	for range 2 {
		go func() { a, _ := w.try(modern("open_echo", `{}`)); done <- a }()
	}
	for range 2 {
		<-arrived
	}
	if a := w.send(modern("open_echo", `{}`)); a.RPC.Error == nil || a.Status != http.StatusBadGateway {
		t.Errorf("one too many: %s", a)
	}
	if a := w.send(modern("my_server_listItems", `{}`)); a.RPC.Result == nil {
		t.Errorf("another app: %s", a)
	}
	close(release)
	for range 2 {
		if a := <-done; a.RPC.Result == nil {
			t.Error(a)
		}
	}
}

// Connections beyond the bound are closed; those that are there stay.
func TestMaxConnections(t *testing.T) {
	w := start(t, func(w *world) {
		w.edit("sallyport.yaml", "http:\n", "http:\n  maxConnections: 3\n")
	})
	client.CloseIdleConnections()
	var open []net.Conn
	refused := 0
	for range 8 {
		c, err := net.Dial("tcp", w.address)
		must(t, err)
		defer func() { _ = c.Close() }()
		must(t, c.SetDeadline(time.Now().Add(5*time.Second)))
		_, err = c.Write([]byte("GET /status HTTP/1.1\r\nHost: " + w.address + "\r\n\r\n"))
		answer := make([]byte, 12)
		if err == nil {
			_, err = c.Read(answer)
		}
		if err == nil && strings.HasPrefix(string(answer), "HTTP/1.1 200") {
			open = append(open, c)
		} else {
			refused++
		}
	}
	if len(open) > 3 || len(open) == 0 || refused < 5 {
		t.Errorf("%d connections open, %d refused", len(open), refused)
	}
}
