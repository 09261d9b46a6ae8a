package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// What costs an attacker little and could cost the gateway much: senders that dawdle, and streams that are opened only
// to be reset.

// dawdle sends first, then a byte of rest every second. It returns the answer's status line, "" for a connection that was
// closed without one, and how long that took.
func dawdle(c net.Conn, first, rest string) (string, time.Duration) {
	begun := time.Now()
	go func() {
		_, err := io.WriteString(c, first)
		for i := 0; err == nil; i++ {
			time.Sleep(time.Second)
			_, err = io.WriteString(c, rest[i%len(rest):i%len(rest)+1])
		}
	}()
	line, _ := bufio.NewReader(c).ReadString('\n')
	_ = c.Close()
	return strings.TrimSpace(line), time.Since(begun)
}

func TestSlowSenders(t *testing.T) {
	t.Parallel() // it waits for what takes too long
	const each, size = 100, 1 << 20
	w := start(t)
	memory := w.envoy()
	idle := memory("server.memory_allocated")
	head := "POST /mcp HTTP/1.1\r\nHost: " + w.address + "\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\nAuthorization: Bearer " + w.token + "\r\n"
	body := head + "Content-Length: " + strconv.Itoa(size) + "\r\n\r\n" + strings.Repeat(" ", size/2)
	var senders sync.WaitGroup
	for i := range 2 * each {
		first, rest, allowed := head+"X-Slow: ", "a", 10*time.Second
		if i%2 == 1 {
			first, rest, allowed = body, " ", 30*time.Second
		}
		c := w.dial()
		must(t, c.SetDeadline(time.Now().Add(time.Minute)))
		senders.Go(func() {
			line, took := dawdle(c, first, rest)
			if took > allowed+15*time.Second || line != "HTTP/1.1 408 Request Timeout" {
				t.Errorf("a sender that may take %s: %q after %s", allowed, line, took)
			}
		})
	}
	done := make(chan struct{})
	go func() { senders.Wait(); close(done) }()
	honest, most := 0, 0
	for waiting := true; waiting; honest++ {
		if a := w.send(modern("open_echo", `{}`)); a.RPC.Result == nil {
			t.Errorf("somebody else's call: %s", a)
		}
		most = max(most, memory("server.memory_allocated"))
		select {
		case <-done:
			waiting = false
		case <-time.After(time.Second):
		}
	}
	if grown := most - idle; grown > each*size*3/2 { // what they have sent, and something for each connection
		t.Errorf("%d MiB for %d senders of half a MiB", grown>>20, each)
	}
	judged := map[any]int{}
	for _, p := range w.reconcile() {
		judged[p[0]["outcome"]]++
	}
	if judged["allowed"] != honest || judged["error"] != each || len(judged) != 2 || len(w.open.calls()) != honest {
		t.Errorf("%v for %d calls and %d bodies that never came; %d arrived", judged, honest, each, len(w.open.calls()))
	}
}

// opened sends calls on one connection and resets each at once, until the other side ends the connection or n are sent.
// It returns whether it was ended.
func opened(c net.Conn, head fields, n int) (bool, error) {
	fr, err := newFrames(c)
	if err != nil {
		return false, err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			frame, err := fr.ReadFrame()
			if _, away := frame.(*http2.GoAwayFrame); away || err != nil {
				return
			}
		}
	}()
	for i := range n {
		if fr.headers(uint32(2*i+1), head, false) != nil || fr.WriteRSTStream(uint32(2*i+1), http2.ErrCodeCancel) != nil {
			break // Envoy has closed it
		}
	}
	select {
	case <-ended:
		return true, nil
	case <-time.After(2 * time.Second):
		return false, nil
	}
}

// Rapid reset (CVE-2023-44487): Envoy ends the connection.
func TestRapidReset(t *testing.T) {
	const connections, each = 10, 5000
	w := start(t)
	stat := w.envoy()
	head := fields{{":method", "POST"}, {":scheme", "http"}, {":path", "/mcp"}, {":authority", w.address},
		{"authorization", "Bearer " + w.token}, {"content-type", "application/json"}, {"accept", "application/json, text/event-stream"}}
	for range connections {
		if ended, err := opened(w.dial(), head, each); err != nil || !ended {
			t.Errorf("a connection with %d resets goes on: %v", each, err)
		}
	}
	if n := stat("http.ingress.downstream_rq_too_many_premature_resets"); n != connections {
		t.Errorf("%d connections ended for it", n)
	}
	if n := stat("http.ingress.downstream_rq_total"); n > connections*each/2 {
		t.Errorf("Envoy took %d streams", n)
	}
	if a := w.send(modern("open_echo", `{}`)); a.RPC.Result == nil {
		t.Errorf("afterwards: %s", a)
	}
	if n := len(w.open.calls()); n != 1 {
		t.Errorf("%d calls arrived", n)
	}
	w.reconcile() // what was begun to be judged has ended
}

// metric reads a gauge of the service.
func (w *world) metric(name string) float64 {
	w.t.Helper()
	m := regexp.MustCompile(`(?m)^` + name + ` (\S+)$`).FindStringSubmatch(w.metrics())
	if m == nil {
		w.t.Fatalf("no metric %s", name)
	}
	v, err := strconv.ParseFloat(m[1], 64)
	must(w.t, err)
	return v
}

// dialService opens a connection to the service's own socket.
func (a *apart) dialService() net.Conn {
	a.t.Helper()
	c, err := net.Dial("unix", filepath.Join(a.sockets, "service.sock"))
	must(a.t, err)
	a.t.Cleanup(func() { _ = c.Close() })
	must(a.t, c.SetDeadline(time.Now().Add(time.Minute)))
	return c
}

func grpcHead(path string, more ...[2]string) fields {
	return append(fields{{":method", "POST"}, {":scheme", "http"}, {":path", path}, {":authority", "service"},
		{"content-type", "application/grpc"}, {"te", "trailers"}}, more...)
}

const processMethod = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"

// Streams to the service that are opened to be reset cost it nothing that lasts, and nobody else their call.
func TestServiceRapidReset(t *testing.T) {
	a := splitWorld(t, true, nil)
	if r := a.send(modern("open_echo", `{}`)); r.RPC.Result == nil {
		t.Fatal(r)
	}
	routines, memory := a.metric("go_goroutines"), a.metric("process_resident_memory_bytes")
	if _, err := opened(a.dialService(), grpcHead(processMethod), 50_000); err != nil {
		t.Error(err)
	}
	if r := a.send(modern("open_echo", `{}`)); r.RPC.Result == nil {
		t.Errorf("afterwards: %s", r)
	}
	await(t, "the streams to end", func() bool { return a.metric("go_goroutines") < routines+50 })
	if grown := a.metric("process_resident_memory_bytes") - memory; grown > 200<<20 {
		t.Errorf("%.0f MiB more", grown/(1<<20))
	}
}

// What gRPC libraries never send: the service knows no such method, or takes no such field.
func TestServiceHostileHeads(t *testing.T) {
	a := splitWorld(t, true, nil)
	for name, c := range map[string]struct {
		head fields
		want string
	}{
		"honest":                  {grpcHead("/grpc.health.v1.Health/Check"), "0"},
		"no leading slash":        {grpcHead(strings.TrimPrefix(processMethod, "/")), "12"}, // CVE-2026-33186
		"two leading slashes":     {grpcHead("/" + processMethod), "12"},
		"another case":            {grpcHead(strings.ToLower(processMethod)), "12"},
		"no method":               {grpcHead("/envoy.service.ext_proc.v3.ExternalProcessor/"), "12"},
		"a field in another case": {grpcHead("/grpc.health.v1.Health/Check", [2]string{"X-Role", "admin"}), ""},
		"a connection's field":    {grpcHead("/grpc.health.v1.Health/Check", [2]string{"connection", "close"}), ""},
	} {
		conn := a.dialService()
		fr, err := newFrames(conn)
		must(t, err)
		must(t, fr.headers(1, c.head, false))
		must(t, fr.WriteData(1, true, make([]byte, 5))) // an empty message
		if got := readStream(fr.Framer).Header.Get("grpc-status"); got != c.want {
			t.Errorf("%s: grpc-status %q, want %q", name, got, c.want)
		}
		_ = conn.Close()
	}
	fr, err := newFrames(a.dialService())
	must(t, err)
	frame, err := fr.ReadFrame()
	must(t, err)
	if n, bounded := frame.(*http2.SettingsFrame).Value(http2.SettingMaxConcurrentStreams); !bounded || n == 0 || n > 20_000 {
		t.Errorf("%d streams at a time: %t", n, bounded)
	}
}

// early answers calls before it has read their bodies, and hangs up.
func early(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Mcp-Method") != "tools/call" {
			next.ServeHTTP(w, r)
			return
		}
		if c, _, err := http.NewResponseController(w).Hijack(); err == nil {
			text := `{"jsonrpc":"2.0","id":7,"result":{"resultType":"complete","content":[]}}`
			_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(text), text)
			_ = c.Close()
		}
	})
}

// An answer that comes while the body is still under way ends nothing that was not decided, and where bodies keep Envoy's
// connection to the service busy no completion is dropped.
func TestEarlyAnswers(t *testing.T) {
	for _, filter := range []string{"extProc", "extProcDuplex"} {
		t.Run(filter, func(t *testing.T) {
			w := newWorld(t)
			front := &http.Server{Handler: early(w.open)}
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			must(t, err)
			go func() { _ = front.Serve(ln) }()
			t.Cleanup(func() { _ = front.Close() })
			w.edit("sallyport.yaml", w.open.addr(), ln.Addr().String())
			w.write("sallyport.yaml", contents(t, w.path("sallyport.yaml"))+"service:\n  filter: "+filter+"\n")
			w.run()
			const n, workers = 200, 40
			var group sync.WaitGroup
			for worker := range workers {
				group.Go(func() {
					for i := worker; i < n; i += workers {
						amount := []string{"1", "500"}[i%2]
						r := modern("open_spend", `{"amount":`+amount+`,"x":"`+strings.Repeat("x", 800<<10)+`"}`)
						a, err := w.try(r)
						if _, refused := a.isError(); err == nil && amount == "500" && a.Status == http.StatusOK && !refused {
							t.Errorf("denied: %s", a)
						}
					}
				})
			}
			group.Wait()
			outcomes := map[any]int{}
			for _, p := range w.reconcile() {
				outcomes[p[0]["outcome"]]++
				if p[0]["outcome"] != "allowed" && p[1]["outcome"] != "refused" {
					t.Errorf("%v ended as %v", p[0], p[1])
				}
			}
			// On a busy machine a policy may be late, and denies then.
			if outcomes["allowed"] > n/2 || outcomes["allowed"] < n/4 || len(w.audit()) != 2*n {
				t.Errorf("%v, %d records of %d messages", outcomes, len(w.audit()), n)
			}
		})
	}
}
