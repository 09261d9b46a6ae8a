package envoy_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/envoy"
)

// envoyBinary is the real thing: a test of generated configuration that does
// not run it proves nothing, so a missing binary fails the test.
func envoyBinary(t *testing.T) string {
	t.Helper()
	path := os.Getenv("ENVOY")
	if path == "" {
		path = "../bin/envoy"
	}
	path, err := exec.LookPath(path)
	if err != nil {
		t.Fatalf("no Envoy (make bin/envoy fetches one, ENVOY names another): %v", err)
	}
	return path
}

// sockets returns a gateway with its four sockets in a directory short enough
// for a socket path.
func sockets(t *testing.T) envoy.Gateway {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "sp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return envoy.Gateway{
		Listen:        "127.0.0.1:0",
		Paths:         []string{"/mcp"},
		ServiceSocket: filepath.Join(dir, "service.sock"),
		HubSocket:     filepath.Join(dir, "hub.sock"),
		EgressSocket:  filepath.Join(dir, "egress.sock"),
		AdminSocket:   filepath.Join(dir, "admin.sock"),
	}
}

// start runs Envoy with g until the test ends and returns the ingress address.
func start(t *testing.T, g envoy.Gateway) string {
	t.Helper()
	text, err := envoy.Bootstrap(g)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "envoy.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(envoyBinary(t), "-c", file, "--disable-hot-restart", "--concurrency", "1")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	started, ended := make(chan struct{}), make(chan string)
	go func() {
		var log strings.Builder
		lines := bufio.NewScanner(stderr)
		for lines.Scan() {
			log.WriteString(lines.Text() + "\n")
			if strings.Contains(lines.Text(), "all dependencies initialized. starting workers") {
				close(started)
			}
		}
		ended <- log.String()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		if log := <-ended; t.Failed() {
			t.Log(log)
		}
		_ = cmd.Wait()
	})
	select {
	case <-started:
	case log := <-ended:
		go func() { ended <- "" }()
		t.Fatalf("Envoy ended:\n%s", log)
	case <-time.After(30 * time.Second):
		t.Fatal("Envoy did not start")
	}
	return ingressAddress(t, g.AdminSocket)
}

func ingressAddress(t *testing.T, admin string) string {
	t.Helper()
	client := unixClient(admin, false)
	resp, err := client.Get("http://admin/listeners?format=json")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct {
		Statuses []struct {
			Name  string `json:"name"`
			Local struct {
				Socket struct {
					Address string `json:"address"`
					Port    int    `json:"port_value"`
				} `json:"socket_address"`
			} `json:"local_address"`
		} `json:"listener_statuses"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	for _, l := range answer.Statuses {
		if l.Name == "ingress" {
			return net.JoinHostPort(l.Local.Socket.Address, strconv.Itoa(l.Local.Socket.Port))
		}
	}
	t.Fatal("no ingress listener")
	return ""
}

// unixClient speaks HTTP/1.1 or, with h2, cleartext HTTP/2 to a unix socket.
func unixClient(path string, h2 bool) *http.Client {
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		},
		DisableKeepAlives: true,
	}
	if h2 {
		transport.Protocols = new(http.Protocols)
		transport.Protocols.SetUnencryptedHTTP2(true)
	}
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
}

// seen is one request as a peer of Envoy received it.
type seen struct {
	method, uri, host, proto, body string
	header, trailer                http.Header
}

// peer is an HTTP server behind Envoy, the hub or an upstream, that records
// what reaches it and answers as the header x-answer asks.
type peer struct {
	mu  sync.Mutex
	got []seen
}

func (p *peer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	p.mu.Lock()
	p.got = append(p.got, seen{r.Method, r.RequestURI, r.Host, r.Proto, string(body), r.Header.Clone(), r.Trailer.Clone()})
	p.mu.Unlock()
	for _, line := range strings.Split(r.Header.Get("x-answer"), "|") {
		if name, value, ok := strings.Cut(line, ": "); ok {
			w.Header().Set(name, value)
		}
	}
	if w.Header().Get("content-type") == "" {
		w.Header()["Content-Type"] = nil // no sniffing
	}
	if d, err := time.ParseDuration(w.Header().Get("x-wait")); err == nil {
		time.Sleep(d)
	}
	status := 200
	if s, err := strconv.Atoi(w.Header().Get("x-status")); err == nil {
		status = s
	}
	w.WriteHeader(status)
	if status != 204 && status != 202 {
		_, _ = io.WriteString(w, "from the upstream")
	}
}

// take returns what the peer got since the last call.
func (p *peer) take() []seen {
	p.mu.Lock()
	defer p.mu.Unlock()
	got := p.got
	p.got = nil
	return got
}

// servePeer runs p as an HTTP/2 server on a unix socket.
func servePeer(t *testing.T, path string, p *peer) {
	t.Helper()
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(p)
	_ = server.Listener.Close()
	server.Listener = listener
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	t.Cleanup(server.Close)
}

// answer is what the agent got.
type answer struct {
	status int
	header http.Header
	body   string
}

func do(t *testing.T, client *http.Client, req *http.Request) answer {
	t.Helper()
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(bytes.TrimSpace(body))}
}
