package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"go.yaml.in/yaml/v4"
	"google.golang.org/grpc"
)

// apart runs the service and an Envoy of its own life, as compose and meshes do.
type apart struct {
	*world
	service *process
	sockets string
}

// splitWorld starts Envoy with the rendered bootstrap, changed by patch, and the service when serve is set.
func splitWorld(t *testing.T, serve bool, patch func(bootstrap map[string]any)) *apart {
	t.Helper()
	return splitWorldWith(t, "", serve, patch)
}

// splitWorldWith is splitWorld with further members of service.
func splitWorldWith(t *testing.T, members string, serve bool, patch func(bootstrap map[string]any)) *apart {
	t.Helper()
	w := newWorld(t)
	service := "service:\n" + members
	if !strings.Contains(members, "  address: ") {
		service += "  address: unix:" + w.path("s/service.sock") + "\n"
	}
	if wiring != nil {
		service += wiring(t)
	}
	w.write("sallyport.yaml", w.config()+service)
	a := &apart{world: w, sockets: w.path("s")}
	must(t, mkdir(a.sockets))
	render := exec.Command(sallyport, "render", "-config", w.path("sallyport.yaml"), "-for", "envoy")
	render.Env = append(render.Environ(), w.env()...)
	out, err := render.Output()
	must(t, err)
	var bootstrap map[string]any
	must(t, yaml.Unmarshal(out, &bootstrap))
	if patch != nil {
		patch(bootstrap)
	}
	patched, err := yaml.Marshal(bootstrap)
	must(t, err)
	w.write("envoy.yaml", string(patched))
	if serve {
		a.serve()
	}
	w.gateway = spawn(t, nil, nil, envoyBinary, "-c", w.path("envoy.yaml"), "--disable-hot-restart", "--concurrency", "1", "--log-level", "error")
	await(t, "envoy", func() bool { c, err := net.Dial("tcp", w.address); return err == nil && c.Close() == nil })
	if serve {
		await(t, "the service", func() bool {
			r, err := client.Get("http://" + w.admin + "/ready")
			return err == nil && r.Body.Close() == nil && r.StatusCode == 200
		})
	}
	return a
}

func (a *apart) serve() {
	a.service = spawn(a.t, a.env(), nil, sallyport, "serve", "-config", a.path("sallyport.yaml"))
}

// stat reads one of Envoy's counters or gauges.
func (a *apart) stat(name string) int {
	a.t.Helper()
	return envoyStat(a.t, filepath.Join(a.sockets, "envoy-admin.sock"), name)
}

func envoyStat(t *testing.T, socket, name string) int {
	t.Helper()
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	resp, err := c.Get("http://envoy/stats?filter=" + regexp.QuoteMeta(name) + "$")
	must(t, err)
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	must(t, err)
	_, value, _ := strings.Cut(strings.TrimSpace(string(body)), ": ")
	n, err := strconv.Atoi(value)
	if err != nil {
		t.Fatalf("stat %s: %q", name, body)
	}
	return n
}

// refusedByEnvoy asserts a JSON-RPC error with one of the statuses, and that no upstream saw anything of it.
func (w *world) refusedByEnvoy(what string, a answer, statuses ...int) {
	w.t.Helper()
	ok := false
	for _, s := range statuses {
		ok = ok || a.Status == s
	}
	if !ok || a.RPC.Error == nil || a.RPC.Error.Code != -32603 || !strings.HasPrefix(a.Header.Get("Content-Type"), "application/json") {
		w.t.Errorf("%s: %s (%s), want %v and a JSON-RPC error", what, a, a.Header.Get("Content-Type"), statuses)
	}
	if n := len(w.items.calls()) + len(w.open.calls()); n != 0 {
		w.t.Errorf("%s: upstreams saw %d calls", what, n)
	}
}

func TestServiceKilledStoppedAbsent(t *testing.T) {
	a := splitWorld(t, true, nil)
	if got := a.send(modern("open_echo", `{}`)); got.RPC.Result == nil {
		t.Fatal(got)
	}
	before := len(a.open.calls())
	must(t, a.service.cmd.Process.Signal(syscall.SIGSTOP))
	stopped := a.send(modern("open_echo", `{}`))
	late := http.StatusGatewayTimeout
	if strings.Contains(contents(t, a.path("sallyport.yaml")), "filter: ") {
		late = http.StatusServiceUnavailable // those tell late from never in nothing
	}
	if stopped.Status != late || stopped.RPC.Error == nil {
		t.Errorf("stopped: %s", stopped)
	}
	must(t, a.service.cmd.Process.Signal(syscall.SIGCONT))
	await(t, "the service to go on", func() bool { return a.send(modern("my_server_nothing", `{}`)).Status == http.StatusOK })
	must(t, a.service.cmd.Process.Kill())
	<-a.service.end
	for _, r := range []request{modern("open_echo", `{}`), {method: http.MethodGet}, {method: http.MethodGet, path: "/status"}, {body: "{}"}, {token: "none", body: "{}"}} {
		if got := a.send(r); got.Status != http.StatusServiceUnavailable || got.RPC.Error == nil {
			t.Errorf("killed: %s", got)
		}
	}
	if n := len(a.open.calls()) - before; n != 0 {
		t.Errorf("%d calls got through without a service", n)
	}
	a.serve()
	await(t, "a new service", func() bool { return a.send(modern("open_echo", `{}`)).RPC.Result != nil })
}

func TestSlowAuthorizationServer(t *testing.T) {
	w := start(t)
	release := make(chan struct{})
	defer close(release)
	w.provider.setOverride(func(_ http.ResponseWriter, r *http.Request) bool {
		select {
		case <-release:
		case <-r.Context().Done():
		}
		return true
	})
	begun := time.Now()
	a := w.send(modern("my_server_listItems", `{}`))
	w.refusedByEnvoy("slow authorization server", a, http.StatusServiceUnavailable)
	if took := time.Since(begun); took > 4*time.Second || a.Header.Get("Retry-After") == "" {
		t.Errorf("took %v, Retry-After %q", took, a.Header.Get("Retry-After"))
	}
	if a := w.send(modern("open_echo", `{}`)); a.RPC.Result == nil {
		t.Errorf("the other app must not suffer: %s", a)
	}
}

func TestTwoMessagesACallAndNoStreamHeld(t *testing.T) {
	a := splitWorld(t, true, nil)
	more, session := make(chan struct{}), a.initialize()
	a.open.behave(func(b *behaviour) {
		b.answer = func(w http.ResponseWriter, r *http.Request, got received) bool {
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = fmt.Fprintf(w, "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{}}\n\n")
			w.(http.Flusher).Flush()
			select {
			case <-more:
			case <-r.Context().Done():
			}
			_, _ = fmt.Fprintf(w, "data: {\"jsonrpc\":\"2.0\",\"id\":%s,\"result\":{\"content\":[]}}\n\n", got.RPC.ID)
			return true
		}
	})
	const sent, active = "http.ingress.ext_proc.stream_msgs_sent", "cluster.service.upstream_rq_active"
	a.send(request{method: http.MethodGet, path: "/status"})
	idle := a.stat(active) // the access log's own stream
	for era, r := range map[string]request{"modern": modern("open_echo", `{}`), "legacy": legacyCall(session, "open_echo", `{}`)} {
		before := a.stat(sent)
		body := a.stream(r)
		line, err := body.ReadString('\n')
		if err != nil || !strings.Contains(line, "progress") {
			t.Fatalf("%s: the first event: %q, %v", era, line, err)
		}
		// Names have to be rewritten in a legacy stream; nothing else holds a gRPC stream.
		held := map[string]int{"modern": 0, "legacy": 1}[era]
		await(t, era+": the gRPC streams that are held while the answer streams", func() bool { return a.stat(active) == idle+held })
		if n := a.stat(sent) - before; era == "modern" && n != 2 || era == "legacy" && n != 4 {
			t.Errorf("%s: %d messages", era, n)
		}
		more <- struct{}{}
		rest, err := io.ReadAll(body)
		if err != nil || !strings.Contains(string(rest), `"result"`) {
			t.Errorf("%s: the rest: %q, %v", era, rest, err)
		}
	}
}

// stream sends r and returns the answer's body as it comes.
func (w *world) stream(r request) *bufio.Reader {
	w.t.Helper()
	if r.method == "" {
		r.method = http.MethodPost
	}
	req, err := http.NewRequest(r.method, w.url, strings.NewReader(r.body))
	must(w.t, err)
	req.Header.Set("Authorization", "Bearer "+w.token)
	if r.method == http.MethodPost {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Accept", "application/json, text/event-stream")
	for k, v := range r.header {
		req.Header.Set(k, v)
	}
	resp, err := client.Do(req)
	must(w.t, err)
	w.t.Cleanup(func() { _ = resp.Body.Close() })
	return bufio.NewReader(resp.Body)
}

func TestUpstreamAnswersThatStayInside(t *testing.T) {
	w := start(t)
	session := w.initialize()
	for name, answer := range map[string]func(w http.ResponseWriter){
		"401": func(w http.ResponseWriter) {
			w.Header().Set("WWW-Authenticate", `Bearer resource_metadata="http://evil.example/"`)
			w.WriteHeader(http.StatusUnauthorized)
		},
		"403": func(w http.ResponseWriter) { w.WriteHeader(http.StatusForbidden) },
		"302": func(w http.ResponseWriter) {
			w.Header().Set("Location", "http://evil.example/")
			w.WriteHeader(http.StatusFound)
		},
		"html": func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "text/html")
			_, _ = io.WriteString(w, "<h1>proxy says evil</h1>")
		},
	} {
		w.open.behave(func(b *behaviour) {
			b.answer = func(rw http.ResponseWriter, _ *http.Request, _ received) bool {
				rw.Header().Set("Set-Cookie", "evil=1")
				answer(rw)
				return true
			}
		})
		for era, r := range map[string]request{"modern": modern("open_echo", `{}`), "legacy": legacyCall(session, "open_echo", `{}`)} {
			a := w.send(r)
			if a.Status != http.StatusBadGateway || a.RPC.Error == nil || a.RPC.Error.Code != -32603 || len(a.RPC.ID) == 0 || string(a.RPC.ID) == "null" {
				t.Errorf("%s, %s: %s", name, era, a)
			}
			if h := fmt.Sprint(a.Header); strings.Contains(h, "evil") || strings.Contains(string(a.Body), "evil") {
				t.Errorf("%s, %s: something of the upstream's got out: %v %s", name, era, h, a.Body)
			}
		}
	}
}

func TestLostUpstreamSessionIsReopened(t *testing.T) {
	w := start(t)
	session := w.initialize()
	w.send(legacyCall(session, "open_echo", `{}`))
	for _, r := range w.open.calls() {
		w.open.forget(r.Header.Get("Mcp-Session-Id"))
	}
	for _, which := range []string{"the call that finds out", "the next one"} {
		if a := w.send(legacyCall(session, "open_echo", `{}`)); a.Status != http.StatusOK || a.RPC.Result == nil || string(a.RPC.ID) != `"c-1"` {
			t.Errorf("%s: %s", which, a)
		}
	}
	arrived := map[string]int{}
	for _, r := range w.open.calls() {
		arrived[r.Header.Get("Mcp-Session-Id")]++
	}
	if len(arrived) != 2 || len(w.open.calls()) != 4 { // the one that was refused, and then again
		t.Errorf("calls by upstream session: %v", arrived)
	}
	var outcomes []any
	for _, p := range w.reconcile()[1:] {
		outcomes = append(outcomes, p[1]["outcome"])
	}
	if want := []any{"ok", "ok", "ok"}; !slices.Equal(outcomes, want) {
		t.Errorf("completions %v, want %v", outcomes, want)
	}
}

// The four locks. Envoy lets a request go on when its processor ends the stream early; this is that processor.
type leaver struct {
	extprocv3.UnimplementedExternalProcessorServer
}

func (leaver) Process(s extprocv3.ExternalProcessor_ProcessServer) error {
	_, _ = s.Recv()
	return nil
}

func TestLocks(t *testing.T) {
	for _, c := range []struct {
		name   string
		broken []func(map[string]any)
		forged bool
		passes bool
	}{
		{"all broken: the danger is real", []func(map[string]any){defaultRoute, keepPrivateHeaders, dropRBAC}, false, true},
		{"no default route, alone", []func(map[string]any){keepPrivateHeaders, dropRBAC}, false, false},
		{"private header kept from clients: a forged one without it", []func(map[string]any){keepPrivateHeaders, dropRBAC}, true, true},
		{"private header kept from clients, alone against a forged one", []func(map[string]any){dropRBAC}, true, false},
		{"RBAC, alone", []func(map[string]any){defaultRoute, keepPrivateHeaders}, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := splitWorld(t, false, func(b map[string]any) {
				for _, f := range c.broken {
					f(b)
				}
			})
			l, err := net.Listen("unix", filepath.Join(a.sockets, "service.sock"))
			must(t, err)
			server := grpc.NewServer()
			extprocv3.RegisterExternalProcessorServer(server, leaver{})
			go func() { _ = server.Serve(l) }()
			t.Cleanup(server.Stop)
			r := modern("open_echo", `{}`)
			if c.passes {
				a.tolerate("open", "every lock is broken")
			}
			if c.forged {
				r.header["x-sallyport-route"] = "app/open"
			}
			await(t, "the processor", func() bool { a.send(r); return a.stat("http.ingress.ext_proc.stream_msgs_sent") > 0 })
			reached := len(a.open.calls()) > 0
			if reached != c.passes {
				t.Errorf("reached the upstream: %v, want %v", reached, c.passes)
			}
		})
	}
}

// TestHandlerLock breaks the three locks in Envoy, so that only our handler's discipline is left.
func TestHandlerLock(t *testing.T) {
	a := splitWorld(t, true, func(b map[string]any) { defaultRoute(b); keepPrivateHeaders(b); dropRBAC(b) })
	denied := modern("open_spend", `{"amount":500}`)
	denied.header["x-sallyport-route"] = "app/open"
	const accessLog = 1 // the one gRPC stream that stays
	for _, r := range []request{denied, {token: "none", body: denied.body}, {body: `[` + denied.body + `]`}, {method: http.MethodGet}, {method: http.MethodPut, body: denied.body}} {
		a.send(r)
	}
	c := a.dial() // a request that breaks off in the middle of its body
	_, err := fmt.Fprintf(c, "POST /mcp HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{", a.address, a.token)
	must(t, err)
	await(t, "the service to hear of it", func() bool { return a.stat("cluster.service.upstream_rq_active") > accessLog })
	must(t, c.Close())
	for range 5 { // kill the service under requests that wait for their bodies
		c := a.dial()
		_, err := fmt.Fprintf(c, "POST /mcp HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
			a.address, a.token, len(denied.body)+1, denied.body)
		must(t, err)
		defer func() { _, _ = c.Write([]byte("\n")); _, _ = io.ReadAll(c) }()
	}
	a.reconcileAborted()
	must(t, a.service.cmd.Process.Kill())
	<-a.service.end
	if n := len(a.open.calls()) + len(a.items.calls()); n != 0 {
		t.Errorf("%d requests got past the handler", n)
	}
}

// reconcileAborted waits for the record of the request that broke off.
func (a *apart) reconcileAborted() {
	await(a.t, "the record of the broken-off request", func() bool {
		for _, r := range a.audit() {
			if r["outcome"] == "error" {
				return true
			}
		}
		return false
	})
}

// Patches of the rendered bootstrap.

// walk visits every map of a YAML tree.
func walk(v any, visit func(map[string]any)) {
	switch v := v.(type) {
	case map[string]any:
		visit(v)
		for _, child := range v {
			walk(child, visit)
		}
	case []any:
		for _, child := range v {
			walk(child, visit)
		}
	}
}

// ingress visits the connection manager of the agents' listener.
func ingress(b map[string]any, visit func(hcm map[string]any)) {
	walk(b, func(m map[string]any) {
		if m["stat_prefix"] == "ingress" && m["http_filters"] != nil {
			visit(m)
		}
	})
}

func defaultRoute(b map[string]any) {
	ingress(b, func(hcm map[string]any) {
		walk(hcm["route_config"], func(m map[string]any) {
			if m["direct_response"] != nil {
				delete(m, "direct_response")
				m["route"] = map[string]any{"cluster": "app/open"}
			}
		})
	})
}

func keepPrivateHeaders(b map[string]any) {
	ingress(b, func(hcm map[string]any) { delete(hcm, "early_header_mutation_extensions") })
}

func dropRBAC(b map[string]any) {
	ingress(b, func(hcm map[string]any) {
		var kept []any
		for _, f := range hcm["http_filters"].([]any) {
			if !strings.Contains(fmt.Sprint(f.(map[string]any)["name"]), "rbac") {
				kept = append(kept, f)
			}
		}
		hcm["http_filters"] = kept
	})
}
