package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// sallyport is the built program, envoy the real Envoy.
var sallyport, envoyBinary string

func TestMain(m *testing.M) {
	sallyport, envoyBinary = binary("SALLYPORT", "sallyport"), binary("ENVOY", "envoy")
	os.Exit(m.Run())
}

func binary(env, name string) string {
	path := os.Getenv(env)
	if path == "" {
		path = filepath.Join("..", "bin", name)
	}
	abs, err := filepath.Abs(path)
	if err == nil {
		_, err = os.Stat(abs)
	}
	if err != nil {
		_, _ = fmt.Fprintf(os.Stderr, "e2e: %v; run `make build` first\n", err)
		os.Exit(1)
	}
	return abs
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// process is a child whose output is kept, and shown when the test fails.
type process struct {
	t   *testing.T
	cmd *exec.Cmd
	mu  sync.Mutex
	out bytes.Buffer
	end chan struct{}
}

func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Write(b)
}

func (p *process) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

// spawn starts a program that ends with the test. Its lines on standard output also go to lines, if not nil.
func spawn(t *testing.T, env []string, lines chan<- string, name string, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command(name, args...), end: make(chan struct{})}
	p.adopt()
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stderr = p
	stdout, err := p.cmd.StdoutPipe()
	must(t, err)
	must(t, p.cmd.Start())
	go func() {
		defer close(p.end)
		for s := bufio.NewScanner(stdout); s.Scan(); {
			_, _ = fmt.Fprintln(p, s.Text())
			if lines != nil {
				lines <- s.Text()
			}
		}
		_ = p.cmd.Wait()
	}()
	t.Cleanup(func() {
		p.stop()
		if t.Failed() {
			t.Logf("%s %s:\n%s", filepath.Base(name), strings.Join(args, " "), p.output())
		}
	})
	return p
}

func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGCONT)
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.end:
	case <-time.After(20 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.end
	}
}

// world is one gateway with its peers.
type world struct {
	*leaks
	t        *testing.T
	dir      string
	address  string // host:port of the gateway
	admin    string
	url      string // of the MCP endpoint
	provider *provider
	items    *recorder // protected, namespace my_server_
	open     *recorder // unprotected, namespace open_
	gateway  *process
	token    string // an agent's
}

const seedRego = `package orchestrator

default result["allowed"] := false

result["allowed"] := true {
  input.request.mcp.tool.params.name == "listItems"
}

result["allowed"] := true {
  input.request.mcp.tool.params.name == "getItem"
}
`

const openRego = `package orchestrator

default result["allowed"] := false

result["allowed"] := true if input.request.mcp.tool.params.name == "echo"
result["allowed"] := true if {
	input.request.mcp.tool.params.name == "spend"
	input.request.mcp.tool.params.arguments.amount <= 100
}
result["external_message"] := "too much money" if {
	input.request.mcp.tool.params.name == "spend"
	input.request.mcp.tool.params.arguments.amount > 100
}
result["external_message"] := "ask for more scope" if input.request.mcp.tool.params.name == "admin"
result["required_scopes"] := ["admin:all"] if input.request.mcp.tool.params.name == "admin"
`

// wiring is how Envoy and the service are joined, as the members of `service`; nil for the default.
var wiring func(t *testing.T) string

// wired is wiring as a section of the file.
func wired(t *testing.T) string {
	if wiring == nil {
		return ""
	}
	return "service:\n" + wiring(t)
}

// host runs the service behind an Envoy that is somebody else's; nil for one of our own.
var host func(w *world)

// newWorld prepares peers and files, and starts nothing of ours yet.
func newWorld(t *testing.T) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "e2e") // short, since socket paths are bounded
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	w := &world{t: t, dir: dir, address: freePort(t), admin: freePort(t)}
	w.url = "http://" + w.address + "/mcp"
	w.provider = newProvider(t, w.url, "https://items.example/", "https://other.example/")
	w.items = newRecorder(t, "listItems", "getItem", "createItem", "updateItem")
	w.open = newRecorder(t, "echo", "spend", "admin", "secretTool")
	w.watchLeaks()
	w.write("seed.rego", seedRego)
	w.write("open.rego", openRego)
	w.write("secrets.yaml", "secrets:\n  gateway.clientSecret: "+gatewaySecret+"\n  sallyport.sessionKey: "+sessionKey+"\n")
	w.write("sallyport.yaml", w.config()+wired(t))
	w.token = w.provider.login(t, w.url)
	return w
}

// start runs the gateway and waits until it is ready.
func start(t *testing.T, change ...func(w *world)) *world {
	t.Helper()
	w := newWorld(t)
	for _, f := range change {
		f(w)
	}
	w.run()
	return w
}

func (w *world) run(args ...string) {
	w.t.Helper()
	if host != nil {
		host(w)
		return
	}
	lines := make(chan string, 16)
	args = append([]string{"run", "-config", w.path("sallyport.yaml"), "-envoy", envoyBinary}, args...)
	w.gateway = spawn(w.t, w.env(), lines, sallyport, args...)
	w.t.Cleanup(w.hearMetrics)
	select {
	case line := <-lines:
		if line != "ready: "+w.url {
			w.t.Fatalf("first line %q", line)
		}
	case <-w.gateway.end:
		w.t.Fatal("the gateway ended")
	case <-time.After(20 * time.Second):
		w.t.Fatal("the gateway did not become ready")
	}
}

func (w *world) env() []string {
	return []string{"SALLYPORT_SECRET_PROVIDER=secretfile://" + w.path("secrets.yaml"), "XDG_RUNTIME_DIR=" + w.dir}
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

func (w *world) write(name, content string) {
	must(w.t, os.WriteFile(w.path(name), []byte(content), 0o600))
}

func (w *world) edit(name, old, changed string) {
	w.t.Helper()
	content, err := os.ReadFile(w.path(name))
	must(w.t, err)
	if !strings.Contains(string(content), old) {
		w.t.Fatalf("%s does not contain %q", name, old)
	}
	w.write(name, strings.Replace(string(content), old, changed, 1))
}

// configHead is how the file of every gateway begins.
const configHead = `
http:
  address: @ADDRESS
admin:
  address: @ADMIN
audit:
  file: audit.jsonl
session:
  key: <sallyport.sessionKey>
`

// config is the seed page's file with the tests' addresses, and a second, unprotected app.
func (w *world) config() string {
	return strings.NewReplacer("@ADDRESS", w.address, "@ADMIN", w.admin, "@PROVIDER", w.provider.URL,
		"@ITEMS", w.items.addr(), "@OPEN", w.open.addr()).Replace(configHead + `connectors:
  - name: auth-provider
    type: oidc
    oidcWellKnownURL: @PROVIDER/.well-known/openid-configuration
    oauthClientID: ai-identity-gateway
    oauthClientSecret: <gateway.clientSecret>
mcpProvider:
  enabled: true
  transports:
    sse:
      enabled: true
      path: "/mcp/sse"
      messagePath: "/mcp/message"
    stream:
      enabled: true
      path: "/mcp"
      session:
        enabled: true
        timeout: 1h
  authorization:
    oauth:
      enabled: true
      servers:
        - wellKnownEndpoint: @PROVIDER/.well-known/oauth-authorization-server
          refreshInterval: 24h
          tokenValidation:
            expectedAudiences:
              - http://@ADDRESS/mcp
            method: jwt
            jwt:
              clockSkew: 2s
apps:
  - name: my-mcp-server-proxy
    type: mcpProxy
    toolNamespace:
      name: my_server_
    upstream:
      transport: stream
      stream:
        url: http://@ITEMS/upstream/mcp
    authorization:
      inbound:
        opa:
          name: items-authz
          file: seed.rego
      outbound:
        type: tokenExchange
        tokenExchange:
          type: delegation
          idp: auth-provider
          audience: https://items.example/
          timeout: 2s
          tools:
            - name: listItems
              ttl: 5s
              scopes:
                - name: item:List
            - name: getItem
              ttl: 5s
              scopes:
                - name: item:Get
  - name: open
    type: mcpProxy
    toolNamespace:
      name: open_
    upstream:
      transport: stream
      stream:
        url: http://@OPEN/mcp
    authorization:
      inbound:
        opa:
          name: open-authz
          file: open.rego
      outbound:
        type: unprotected
`)
}

// answer is an HTTP answer, read.
type answer struct {
	Status int
	Header http.Header
	Body   []byte
	RPC    struct {
		ID     json.RawMessage `json:"id"`
		Result json.RawMessage `json:"result"`
		Error  *struct {
			Code    int             `json:"code"`
			Message string          `json:"message"`
			Data    json.RawMessage `json:"data"`
		} `json:"error"`
	}
}

// isError reports whether the answer is a tool result that says isError, and its text.
func (a answer) isError() (string, bool) {
	var r struct {
		IsError bool `json:"isError"`
		Content []struct {
			Text string `json:"text"`
		} `json:"content"`
	}
	_ = json.Unmarshal(a.RPC.Result, &r)
	if !r.IsError || len(r.Content) == 0 {
		return "", false
	}
	return r.Content[0].Text, true
}

func (a answer) String() string { return fmt.Sprintf("%d %s", a.Status, a.Body) }

// request is an HTTP request to the gateway; the zero value is an authorized POST of JSON.
type request struct {
	method string
	path   string
	token  string // "none" sends no Authorization
	body   string
	header map[string]string
}

var client = &http.Client{
	Transport:     eavesdropper{http.DefaultTransport},
	Timeout:       30 * time.Second,
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

func (w *world) send(r request) answer {
	w.t.Helper()
	a, err := w.try(r)
	must(w.t, err)
	return a
}

func (w *world) try(r request) (answer, error) {
	if r.method == "" {
		r.method = http.MethodPost
	}
	if r.path == "" {
		r.path = "/mcp"
	}
	if r.token == "" {
		r.token = w.token
	}
	req, err := http.NewRequestWithContext(context.Background(), r.method, "http://"+w.address+r.path, strings.NewReader(r.body))
	if err != nil {
		return answer{}, err
	}
	if r.method == http.MethodPost {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Accept", "application/json, text/event-stream")
	if r.token != "none" {
		req.Header.Set("Authorization", "Bearer "+r.token)
	}
	for name, value := range r.header {
		if name == "Host" {
			req.Host = value
		}
		req.Header.Set(name, value)
	}
	resp, err := client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	out := answer{Status: resp.StatusCode, Header: resp.Header}
	if out.Body, err = io.ReadAll(resp.Body); err != nil {
		return out, err
	}
	_ = json.Unmarshal(out.Body, &out.RPC)
	return out, nil
}

const modernMeta = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}`

// modern is a tools/call in the stateless protocol.
func modern(tool, arguments string) request {
	return request{
		body:   `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"` + tool + `","arguments":` + arguments + `,` + modernMeta + `}}`,
		header: map[string]string{"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": tool},
	}
}

// modernMethod is any other request of the stateless protocol.
func modernMethod(method string) request {
	return request{
		body:   `{"jsonrpc":"2.0","id":7,"method":"` + method + `","params":{` + modernMeta + `}}`,
		header: map[string]string{"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": method},
	}
}

// initialize opens a session of the stateful protocol.
func (w *world) initialize() string {
	w.t.Helper()
	a := w.send(request{body: `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"e2e","version":"1"}}}`})
	id := a.Header.Get("Mcp-Session-Id")
	if a.Status != http.StatusOK || id == "" {
		w.t.Fatalf("initialize: %s", a)
	}
	return id
}

// legacy is a message in a session of the stateful protocol.
func legacy(session, body string) request {
	return request{body: body, header: map[string]string{"Mcp-Session-Id": session, "MCP-Protocol-Version": "2025-11-25"}}
}

func legacyCall(session, tool, arguments string) request {
	return legacy(session, `{"jsonrpc":"2.0","id":"c-1","method":"tools/call","params":{"name":"`+tool+`","arguments":`+arguments+`}}`)
}

// record is an audit line, decision or completion.
type record map[string]any

func (w *world) audit() []record {
	w.t.Helper()
	content, err := os.ReadFile(w.path("audit.jsonl"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	must(w.t, err)
	var out []record
	for line := range strings.Lines(string(content)) {
		if !strings.HasSuffix(line, "\n") {
			break // still being written
		}
		r := record{}
		must(w.t, json.Unmarshal([]byte(line), &r))
		out = append(out, r)
	}
	return out
}

// reconcile waits until every decision has its completion, and returns them paired in order of the decisions.
func (w *world) reconcile() [][2]record {
	w.t.Helper()
	var pairs [][2]record
	await(w.t, "a completion for each decision", func() bool {
		pairs = nil
		completions := map[any]record{}
		decisions := 0
		for _, r := range w.audit() {
			switch r["kind"] {
			case "completion":
				if completions[r["id"]] != nil {
					w.t.Fatalf("two completions for %v", r["id"])
				}
				completions[r["id"]] = r
			case "decision":
				decisions++
			}
		}
		for _, r := range w.audit() {
			if r["kind"] == "decision" && completions[r["id"]] != nil {
				pairs = append(pairs, [2]record{r, completions[r["id"]]})
			}
		}
		return decisions == len(pairs)
	})
	return pairs
}

// verifyAudit runs the program's own check of the hash chain.
func (w *world) verifyAudit() {
	w.t.Helper()
	out, err := exec.Command(sallyport, "audit", "verify", "-file", w.path("audit.jsonl")).CombinedOutput()
	if err != nil {
		w.t.Fatalf("audit verify: %v\n%s", err, out)
	}
}

func mkdir(dir string) error { return os.MkdirAll(dir, 0o700) }

func copyBounded(dst io.Writer, src io.Reader) (int64, error) {
	return io.Copy(dst, io.LimitReader(src, 1<<20))
}

func readCloser(s string) io.ReadCloser { return io.NopCloser(strings.NewReader(s)) }

// dial opens a raw connection to the gateway, for what no HTTP client would send.
func (w *world) dial() net.Conn {
	w.t.Helper()
	c, err := net.Dial("tcp", w.address)
	must(w.t, err)
	w.t.Cleanup(func() { _ = c.Close() })
	must(w.t, c.SetDeadline(time.Now().Add(10*time.Second)))
	return c
}

func copyAll(dst io.WriteCloser, src io.Reader) (int64, error) {
	defer func() { _ = dst.Close() }()
	return io.Copy(dst, src)
}
