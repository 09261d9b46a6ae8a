package e2e

import (
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// Several replicas that share what they know of sessions in a Redis or Valkey server.

// redisServer starts a store of the test's own.
func redisServer(t *testing.T) string {
	t.Helper()
	program := os.Getenv("REDIS_SERVER")
	for _, name := range []string{"redis-server", "valkey-server"} {
		if path, err := exec.LookPath(name); program == "" && err == nil {
			program = path
		}
	}
	if program == "" {
		t.Fatal("no redis-server: `make test` fetches one; otherwise set REDIS_SERVER")
	}
	address := freePort(t)
	_, port, err := net.SplitHostPort(address)
	must(t, err)
	spawn(t, nil, nil, program, "--bind", "127.0.0.1", "--port", port, "--save", "", "--appendonly", "no", "--dir", t.TempDir())
	await(t, "the store", func() bool { c, err := net.Dial("tcp", address); return err == nil && c.Close() == nil })
	return address
}

// startReplicas is two gateways with one configuration, and one address that leads to them by turns.
func startReplicas(t *testing.T) (w *world, second *process, address string) {
	store := redisServer(t)
	w, _, _ = startSessions(t, func(w *world) {
		w.edit("sallyport.yaml", "session:\n", "session:\n  store: redis://"+store+"\n")
	})
	config := contents(t, w.path("sallyport.yaml"))
	other := freePort(t)
	w.write("second.yaml", strings.NewReplacer("address: "+w.address, "address: "+other, "address: "+w.admin, "address: "+freePort(t),
		"audit.jsonl", "second.jsonl").Replace(config))
	lines := make(chan string, 16)
	second = spawn(t, w.env(), lines, sallyport, "run", "-config", w.path("second.yaml"), "-envoy", envoyBinary)
	if line := <-lines; line != "ready: http://"+other+"/mcp" {
		t.Fatal(line)
	}
	var turn atomic.Int64
	front := serve(t, &httputil.ReverseProxy{FlushInterval: -1, Rewrite: func(r *httputil.ProxyRequest) {
		to := []string{w.address, other}[turn.Add(1)%2]
		r.SetURL(&url.URL{Scheme: "http", Host: to})
		r.Out.Host = to
	}})
	return w, second, front
}

// TestReplicasShareSessions: each request of an agent may come to another replica, the answers to servers' questions too.
func TestReplicasShareSessions(t *testing.T) {
	w, second, front := startReplicas(t)
	w.address = strings.TrimSuffix(strings.TrimPrefix(front, "http://"), "/mcp")
	w.url = front
	agents := map[string]string{"coyote": w.token, "runner": w.provider.loginAs(t, "", otherUser)}
	var work sync.WaitGroup
	for name, token := range agents {
		agent := w.agentAs(name, token, legacyVersion)
		defer func() { _ = agent.Close() }()
		for range 6 {
			work.Go(func() {
				got, err := callText(t.Context(), agent, "test_elicitation", map[string]any{"message": "who are you?"})
				if err != nil || !strings.Contains(got, name+"@example.com") {
					t.Errorf("%s: %s, %v", name, got, err)
				}
			})
		}
	}
	work.Wait()
	session := w.initialize()
	for range 4 {
		if a := w.send(legacyCall(session, "test_simple_text", `{}`)); a.Status != http.StatusOK {
			t.Errorf("by turns: %s", a)
		}
	}
	if a := w.send(request{method: http.MethodDelete, header: map[string]string{"Mcp-Session-Id": session}}); a.Status != http.StatusNoContent {
		t.Errorf("DELETE: %s", a)
	}
	for range 2 {
		if a := w.send(legacyCall(session, "test_simple_text", `{}`)); a.Status != http.StatusNotFound {
			t.Errorf("ended at one, and here: %s", a)
		}
	}
	second.stop()
	for _, file := range []string{"audit.jsonl", "second.jsonl"} {
		if out, ok := outputOf(t, sallyport, "audit", "verify", "-file", w.path(file)); !ok {
			t.Errorf("%s: %s", file, out)
		}
	}
}

// TestStoreGone: without the store nobody knows which sessions have ended, so nothing is said in any; the modern era goes on.
func TestStoreGone(t *testing.T) {
	store := redisServer(t)
	link := newLink(t, store)
	w, _, _ := startSessions(t, func(w *world) {
		w.edit("sallyport.yaml", "session:\n", "session:\n  store: redis://"+link.address+"\n")
	})
	session := w.initialize()
	call := legacyCall(session, "test_simple_text", `{}`)
	if a := w.send(call); a.Status != http.StatusOK {
		t.Fatal(a)
	}
	link.cut()
	if a := w.send(call); a.Status != http.StatusServiceUnavailable || a.RPC.Error == nil || a.RPC.Error.Code != -32603 {
		t.Errorf("without the store: %s", a)
	}
	if a := w.send(modern("test_simple_text", `{}`)); a.Status != http.StatusOK {
		t.Errorf("the era without sessions: %s", a)
	}
	link.mend()
	await(t, "the session to be there again", func() bool { return w.send(call).Status == http.StatusOK })
}

// link is a way to a server that can be cut.
type link struct {
	address string
	down    atomic.Bool
	mu      sync.Mutex
	open    []net.Conn
}

func newLink(t *testing.T, to string) *link {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	out := &link{address: l.Addr().String()}
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", to)
			if err != nil || out.down.Load() {
				_ = near.Close()
				continue
			}
			out.mu.Lock()
			out.open = append(out.open, near, far)
			out.mu.Unlock()
			go func() { _, _ = copyAll(near, far) }()
			go func() { _, _ = copyAll(far, near) }()
		}
	}()
	return out
}

func (l *link) cut() {
	l.down.Store(true)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.open {
		_ = c.Close()
	}
}

func (l *link) mend() { l.down.Store(false) }
