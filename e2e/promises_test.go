package e2e

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/exchange/sts"
)

// What the published documentation of the file's keys promises, as upstreams see it: the sentences that no other test of this
// package looks at.

// An agent's token opens the door if it is good, and its upstream call is made; otherwise nothing is heard of it behind.
func TestWhichTokensOpen(t *testing.T) {
	var second *provider
	w := start(t, func(w *world) {
		second = newProvider(t, w.url, "https://items.example/")
		w.edit("sallyport.yaml", "      servers:\n", "      servers:\n        - wellKnownEndpoint: "+second.URL+
			"/.well-known/oauth-authorization-server\n          tokenValidation:\n            expectedAudiences: ["+w.url+"]\n")
	})
	stranger := newProvider(t, w.url, "https://items.example/")
	now := time.Now().Unix()
	of := func(p *provider, change func(c jwt.MapClaims)) string {
		return p.forge(t, func(_ map[string]any, c jwt.MapClaims) {
			c["aud"] = w.url
			change(c)
		})
	}
	as := func(jwt.MapClaims) {}
	good := of(w.provider, as)
	for _, test := range []struct {
		name, token string
		opens       bool
	}{
		{"expired less than the skew ago", of(w.provider, func(c jwt.MapClaims) { c["exp"] = time.Now().Unix() }), true},
		{"good", good, true},
		{"of the other server", of(second, as), true},
		{"expired longer ago", of(w.provider, func(c jwt.MapClaims) { c["exp"] = now - 30 }), false},
		{"for another server", of(w.provider, func(c jwt.MapClaims) { c["aud"] = "https://items.example/" }), false},
		{"of a stranger", of(stranger, as), false},
		{"of a stranger, in the name of a server", of(stranger, func(c jwt.MapClaims) { c["iss"] = w.provider.URL }), false},
		{"tampered with", good[:len(good)-8] + "AAAAAAAA", false},
	} {
		before := len(w.open.calls())
		r := modern("open_echo", `{}`)
		r.token = test.token
		a := w.send(r)
		if opened := a.RPC.Result != nil; opened != test.opens || !opened && a.Status != http.StatusUnauthorized {
			t.Errorf("%s: %s", test.name, a)
		}
		if n := len(w.open.calls()) - before; (n == 1) != test.opens {
			t.Errorf("%s: the upstream saw %d calls", test.name, n)
		}
	}
	var doc struct {
		Servers []string `json:"authorization_servers"`
	}
	must(t, json.Unmarshal(w.send(request{method: http.MethodGet, token: "none", path: "/.well-known/oauth-protected-resource"}).Body, &doc))
	slices.Sort(doc.Servers)
	want := []string{second.URL, w.provider.URL}
	slices.Sort(want)
	if !slices.Equal(doc.Servers, want) {
		t.Errorf("authorization servers %v", doc.Servers)
	}
}

// An issuer that changes its key is followed at the first token that is signed with the new one.
func TestUnknownKeyIsFetched(t *testing.T) {
	w := start(t)
	if a := w.send(modern("my_server_listItems", `{}`)); a.RPC.Result == nil {
		t.Fatal(a)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	w.provider.key = key
	w.provider.change(t, func(c *sts.Config) { c.Key = key })
	r := modern("my_server_listItems", `{}`)
	r.token = w.provider.login(t, w.url)
	await(t, "the new key", func() bool { return w.send(r).Status == http.StatusOK })
	for _, got := range w.items.calls() {
		checkUpstreamToken(t, w, got, "item:List")
	}
}

// Two upstreams with a tool of one name do not collide, each is called by the name that it knows, and a namespace can be
// renamed without a word to the policy.
func TestNamespaces(t *testing.T) {
	w := newWorld(t)
	w.open.behave(func(b *behaviour) { b.tools = []string{"listItems"} })
	w.write("open.rego", seedRego)
	w.edit("sallyport.yaml", "name: open_", "name: renamed.")
	w.run()
	if got := toolNames(t, w.send(modernMethod("tools/list"))); !slices.Equal(got, []string{"my_server_listItems", "my_server_getItem", "renamed.listItems"}) {
		t.Errorf("listed %v", got)
	}
	session := w.initialize()
	for i, r := range []request{modern("my_server_listItems", `{"at":"items"}`), legacyCall(session, "my_server_listItems", `{"at":"items"}`)} {
		if a := w.send(r); a.RPC.Result == nil || len(w.items.calls()) != i+1 || len(w.open.calls()) != 0 {
			t.Errorf("items: %s", a)
		}
	}
	for i, r := range []request{modern("renamed.listItems", `{"at":"open"}`), legacyCall(session, "renamed.listItems", `{"at":"open"}`)} {
		if a := w.send(r); a.RPC.Result == nil || len(w.open.calls()) != i+1 || len(w.items.calls()) != 2 {
			t.Errorf("open: %s", a)
		}
	}
	for app, calls := range map[string][]received{"items": w.items.calls(), "open": w.open.calls()} {
		for _, got := range calls {
			if got.RPC.Params.Name != "listItems" || string(got.RPC.Params.Arguments) != `{"at":"`+app+`"}` {
				t.Errorf("%s got %s %s", app, got.RPC.Params.Name, got.RPC.Params.Arguments)
			}
		}
	}
	if a := w.send(modern("open_listItems", `{}`)); !unknownTool(a) {
		t.Errorf("the old namespace: %s", a)
	}
}

// A policy decides on claims of the token, which it decodes from the header as published policies do, and on the address;
// and one that does not come to a plain yes lets nothing through.
func TestWhatPoliciesDecideOn(t *testing.T) {
	const decodes = `jwt_payload := payload if {
  startswith(input.request.http.headers.Authorization, "Bearer ")
  [_, payload, _] := io.jwt.decode(substring(input.request.http.headers.Authorization, 7, -1))
}
`
	w := newWorld(t)
	w.write("seed.rego", "package orchestrator\n")
	w.run()
	for _, test := range []struct {
		name, rego string
		allows     bool
	}{
		{"a claim that is there", decodes + `result["allowed"] := true if "buyers" in jwt_payload.groups`, true},
		{"a claim that is not", decodes + `result["allowed"] := true if "sellers" in jwt_payload.groups`, false},
		{"the address", `result["allowed"] := input.source.ip == "127.0.0.1"`, true},
		{"another address", `result["allowed"] := input.source.ip == "192.0.2.1"`, false},
		{"no rule", `unrelated := true`, false},
		{"undefined", `result["allowed"] := true if input.request.nothing`, false},
		{"a conflict", "result[\"allowed\"] := true\nresult[\"allowed\"] := false if input.request.http", false},
		{"an error", `result["allowed"] := true if to_number(input.request.mcp.tool.params.name) != 1`, false},
		{"the text true", `result["allowed"] := "true"`, false},
		{"no object", `result := true`, false},
	} {
		w.reload("seed.rego", "package orchestrator\n# "+test.name+"\n"+test.rego+"\n")
		before, exchanged := len(w.items.calls()), len(w.provider.exchanges())
		a := w.send(modern("my_server_listItems", `{}`))
		arrived := len(w.items.calls()) - before
		if _, refused := a.isError(); test.allows != (arrived == 1 && a.RPC.Result != nil && !refused) || !test.allows && arrived != 0 {
			t.Errorf("%s: %s, %d calls arrived", test.name, a, arrived)
		}
		if n := len(w.provider.exchanges()) - exchanged; n != arrived {
			t.Errorf("%s: %d exchanges", test.name, n)
		}
	}
}

// reload writes a policy and waits until it is in force, which the log says.
func (w *world) reload(name, content string) {
	w.t.Helper()
	before := strings.Count(w.gateway.output(), "configuration reloaded")
	w.write(name, content)
	await(w.t, "a reload", func() bool { return strings.Count(w.gateway.output(), "configuration reloaded") > before })
}

// Impersonation leaves no trace of who acts; delegation keeps who acted before.
func TestWhoActs(t *testing.T) {
	sent := func(t *testing.T, w *world, act any) jwt.MapClaims {
		t.Helper()
		r := modern("my_server_listItems", `{}`)
		r.token = w.provider.forge(t, func(_ map[string]any, c jwt.MapClaims) {
			c["aud"] = w.url
			if act != nil {
				c["act"] = act
			}
		})
		if a := w.send(r); a.RPC.Result == nil || len(w.items.calls()) != 1 {
			t.Fatal(a)
		}
		return claims(t, bearerOf(w.items.calls()[0]))
	}
	t.Run("delegation", func(t *testing.T) {
		got := sent(t, start(t), map[string]any{"sub": "assistant", "act": map[string]any{"sub": "scheduler"}})
		want := map[string]any{"sub": gatewayClient, "act": map[string]any{"sub": "assistant", "act": map[string]any{"sub": "scheduler"}}}
		if d := cmp.Diff(want, got["act"]); d != "" || got["sub"] != user {
			t.Errorf("sub %v, act (-want +got):\n%s", got["sub"], d)
		}
	})
	t.Run("impersonation", func(t *testing.T) {
		w := with(t, "          type: delegation\n", "          type: impersonation\n")
		w.provider.setOverride(func(rw http.ResponseWriter, _ *http.Request) bool {
			inJSON(rw, http.StatusOK, w.made(claim("act", nil), nil)) // the embedded server always delegates
			return true
		})
		got := sent(t, w, nil)
		if _, ok := got["act"]; ok || got["sub"] != user {
			t.Errorf("sub %v, act %v", got["sub"], got["act"])
		}
		if form := w.provider.exchanges()[0]; form.Has("actor_token") {
			t.Error("an actor was named")
		}
	})
}

// What an upstream answers reaches the agent byte by byte, as JSON and as an event stream.
func TestAnswersAreNotTouched(t *testing.T) {
	const result = `{"jsonrpc" : "2.0","id":7, "result":{"content":[{"type":"text","text":"\u00e4\/"}],"n":1.50,"big":1e2,"resultType":"complete"}}`
	for media, body := range map[string]string{
		"application/json": result + "\n",
		"text/event-stream": ": hello\n\nevent: message\nid: 1\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{\"level\":\"info\",\"data\": \"x\"}}\n\n" +
			"data: " + result + "\n\n",
	} {
		w := start(t)
		w.items.behave(func(b *behaviour) {
			b.answer = func(rw http.ResponseWriter, _ *http.Request, _ received) bool {
				raw(rw, http.StatusOK, media, body)
				return true
			}
		})
		a := w.send(modern("my_server_listItems", `{}`))
		if string(a.Body) != body || a.Header.Get("Content-Type") != media {
			t.Errorf("%s (-want +got):\n%s", a.Header.Get("Content-Type"), cmp.Diff(body, string(a.Body)))
		}
	}
}

// Sessions are as the file says: under its header, and ended by the client only where it may.
func TestSessionSettings(t *testing.T) {
	w := with(t, "        timeout: 1h\n", "        timeout: 1h\n        headerName: X-Our-Session\n        allowClientTermination: false\n")
	a := w.send(request{body: `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"e2e","version":"1"}}}`})
	id := a.Header.Get("X-Our-Session")
	if id == "" || a.Header.Get("Mcp-Session-Id") != "" {
		t.Fatalf("%s %v", a, a.Header)
	}
	in := func(r request) request {
		r.header = map[string]string{"X-Our-Session": id, "MCP-Protocol-Version": "2025-11-25"}
		return r
	}
	if a := w.send(in(request{method: http.MethodDelete})); a.Status != http.StatusMethodNotAllowed {
		t.Errorf("DELETE: %s", a)
	}
	if a := w.send(in(legacyCall("", "my_server_listItems", `{}`))); a.RPC.Result == nil || len(w.items.calls()) != 1 {
		t.Errorf("afterwards: %s", a)
	}
	if got := w.items.calls(); len(got) == 1 && (got[0].Header.Get("X-Our-Session") != "" || got[0].Header.Get("Mcp-Session-Id") == id) {
		t.Error("the agent's session reached the upstream")
	}
}

// The old transport: a stream that says where to post, is kept alive, and brings the answer of a call.
func TestOldTransportStream(t *testing.T) {
	w := with(t, `      messagePath: "/mcp/message"`, "      messagePath: \"/mcp/message\"\n      keepAlive:\n        enabled: true\n        interval: 1s")
	req, err := http.NewRequest(http.MethodGet, "http://"+w.address+"/mcp/sse", nil)
	must(t, err)
	req.Header.Set("Authorization", "Bearer "+w.token)
	req.Header.Set("Accept", "text/event-stream")
	resp, err := client.Do(req)
	must(t, err)
	defer func() { _ = resp.Body.Close() }()
	lines := make(chan string, 100)
	go func() {
		for s := bufio.NewScanner(resp.Body); s.Scan(); {
			lines <- s.Text()
		}
		close(lines)
	}()
	until := func(what, prefix string) string {
		t.Helper()
		for deadline := time.After(10 * time.Second); ; {
			select {
			case line, ok := <-lines:
				if !ok {
					t.Fatalf("the stream ended before %s", what)
				}
				if rest, found := strings.CutPrefix(line, prefix); found {
					return rest
				}
			case <-deadline:
				t.Fatalf("no %s", what)
			}
		}
	}
	endpoint := until("endpoint", "data: ")
	if !strings.HasPrefix(endpoint, "/mcp/message") {
		t.Fatalf("endpoint %s", endpoint)
	}
	post := func(body string) {
		t.Helper()
		if a := w.send(request{path: endpoint, body: body}); a.Status != http.StatusAccepted {
			t.Fatalf("%s", a)
		}
	}
	post(`{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2024-11-05","capabilities":{},"clientInfo":{"name":"e2e","version":"1"}}}`)
	until("an answer to initialize", `data: {"jsonrpc":"2.0","id":1,"result"`)
	post(`{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"my_server_listItems","arguments":{}}}`)
	until("an answer to the call", `data: {"jsonrpc":"2.0","id":2,"result"`)
	until("a sign of life", ":")
	if got := w.items.calls(); len(got) != 1 {
		t.Errorf("%d calls", len(got))
	} else {
		checkUpstreamToken(t, w, got[0], "item:List")
	}
}

// A file that names what is not there does not start, and says which.
func TestFilesThatDoNotStart(t *testing.T) {
	for _, test := range []struct{ name, old, changed, says string }{
		{"idp", "idp: auth-provider", "idp: nobody", `"nobody"`},
		{"tls", "    oauthClientID: ai", "    tls: nothing\n    oauthClientID: ai", `"nothing"`},
		{"secret", "<gateway.clientSecret>", "<gateway.other>", "gateway.other"},
		{"package", "          file: seed.rego", "          rego: |\n            package other\n            result := {}", "package"},
		{"both", "          file: seed.rego", "          file: seed.rego\n          rego: package orchestrator", "both"},
		{"neither", "          file: seed.rego\n", "", "neither"},
	} {
		w := newWorld(t)
		w.edit("sallyport.yaml", test.old, test.changed)
		p := spawn(t, w.env(), nil, sallyport, "run", "-config", w.path("sallyport.yaml"), "-envoy", envoyBinary)
		select {
		case <-p.end:
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: it runs", test.name)
		}
		if code := p.cmd.ProcessState.ExitCode(); code == 0 || !strings.Contains(p.output(), test.says) {
			t.Errorf("%s: exit code %d, %s", test.name, code, p.output())
		}
		if _, err := os.Stat(w.path("audit.jsonl")); err == nil {
			t.Errorf("%s: it began to work", test.name)
		}
	}
}

// An upstream that takes no connections costs a caller dialTimeout, and other upstreams nothing.
func TestDialTimeout(t *testing.T) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	must(t, err)
	t.Cleanup(func() { _ = syscall.Close(fd) })
	must(t, syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	must(t, syscall.Listen(fd, 0))
	name, err := syscall.Getsockname(fd)
	must(t, err)
	address := "127.0.0.1:" + strconv.Itoa(name.(*syscall.SockaddrInet4).Port)
	for full := false; !full; { // whoever comes now waits to be let in
		c, err := net.DialTimeout("tcp", address, 300*time.Millisecond)
		if full = err != nil; !full {
			t.Cleanup(func() { _ = c.Close() })
		}
	}
	w := start(t, func(w *world) {
		w.edit("sallyport.yaml", "      stream:\n        url: http://"+w.items.addr()+"/upstream/mcp",
			"      era: modern\n      stream:\n        url: http://"+address+"/mcp\n        connection:\n          dialTimeout: 1s")
	})
	begun := time.Now()
	a := w.send(modern("my_server_listItems", `{}`))
	if took := time.Since(begun); a.Status != http.StatusBadGateway && a.Status != http.StatusServiceUnavailable || a.RPC.Error == nil || took > 6*time.Second {
		t.Errorf("%s after %v", a, took)
	}
	if a := w.send(modern("open_echo", `{}`)); a.RPC.Result == nil {
		t.Errorf("the other app must not suffer: %s", a)
	}
}
