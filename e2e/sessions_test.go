package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/sallyport/sallyport/e2e/fixture"
)

// Sessions of the legacy era: whose they are, what survives, and what is left behind.

// sessionServer is the fixture with its sessions counted.
type sessionServer struct {
	*httptest.Server
	mu     sync.Mutex
	opened map[string]bool
	ended  map[string]bool
}

func newSessionServer(t *testing.T) *sessionServer {
	s := &sessionServer{opened: map[string]bool{}, ended: map[string]bool{}}
	h := fixture.Everything(fixture.Options{})
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodDelete {
			s.mu.Lock()
			s.ended[r.Header.Get("Mcp-Session-Id")] = true
			s.mu.Unlock()
		}
		h.ServeHTTP(w, r)
		if id := w.Header().Get("Mcp-Session-Id"); id != "" && r.Header.Get("Mcp-Session-Id") == "" {
			s.mu.Lock()
			s.opened[id] = true
			s.mu.Unlock()
		}
	}))
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

func (s *sessionServer) counts() (opened, ended int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.opened), len(s.ended)
}

// startSessions is a gateway with authorization before two servers that keep sessions.
func startSessions(t *testing.T, change ...func(w *world)) (*world, *sessionServer, *sessionServer) {
	t.Helper()
	one, two := newSessionServer(t), newSessionServer(t)
	w := start(t, append([]func(w *world){func(w *world) {
		w.write("sallyport.yaml", strings.NewReplacer("@ADDRESS", w.address, "@ADMIN", w.admin,
			"@EVERYTHING", one.URL, "@SCHEMA", two.URL, "@DECOY", serve(t, fixture.Decoy(fixture.Options{})),
		).Replace(conformanceConfig)+wired(w.t))
		withAuthorization(w)
	}}, change...)...)
	return w, one, two
}

// withToken adds a bearer token to every request.
type withToken string

func (token withToken) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+string(token))
	return http.DefaultTransport.RoundTrip(r)
}

// agentAs connects the SDK's client with somebody's token. It answers forms with its name.
func (w *world) agentAs(name, token, version string) *mcp.ClientSession {
	w.t.Helper()
	options := &mcp.ClientOptions{ElicitationHandler: func(context.Context, *mcp.ElicitRequest) (*mcp.ElicitResult, error) {
		return &mcp.ElicitResult{Action: "accept", Content: map[string]any{"username": name, "email": name + "@example.com"}}, nil
	}}
	c := mcp.NewClient(&mcp.Implementation{Name: name, Version: "1"}, options)
	s, err := c.Connect(w.t.Context(), &mcp.StreamableClientTransport{Endpoint: w.url, HTTPClient: &http.Client{Transport: withToken(token)}},
		&mcp.ClientSessionOptions{ProtocolVersion: version})
	must(w.t, err)
	return s
}

func callText(ctx context.Context, s *mcp.ClientSession, tool string, arguments map[string]any) (string, error) {
	r, err := s.CallTool(ctx, &mcp.CallToolParams{Name: tool, Arguments: arguments})
	if err != nil {
		return "", err
	}
	text, _ := json.Marshal(r.Content)
	return string(text), nil
}

// TestAgentsAreAskedApart: the servers number their requests from 1 for everybody. Two agents who are asked at the same
// time, several times each, by two servers, get their own questions, and their answers arrive where they belong.
func TestAgentsAreAskedApart(t *testing.T) {
	w, _, _ := startSessions(t)
	other := w.provider.loginAs(t, w.url, otherUser)
	var work sync.WaitGroup
	for name, token := range map[string]string{"coyote": w.token, "runner": other} {
		agent := w.agentAs(name, token, legacyVersion)
		defer func() { _ = agent.Close() }()
		for _, tool := range []string{"test_elicitation", "json_elicitation"} {
			for range 5 {
				work.Go(func() {
					got, err := callText(t.Context(), agent, tool, map[string]any{"message": "who are you?"})
					if err != nil || !strings.Contains(got, name+"@example.com") {
						t.Errorf("%s asked by %s: %s, %v", name, tool, got, err)
					}
				})
			}
		}
	}
	work.Wait()
	w.verifyAudit()
}

// TestSessionSurvivesKill: the gateway is killed in mid-session; what comes back knows the agents' sessions by their ids.
func TestSessionSurvivesKill(t *testing.T) {
	w, one, _ := startSessions(t)
	session := w.initialize()
	call := legacyCall(session, "test_simple_text", `{}`)
	if a := w.send(call); a.Status != http.StatusOK {
		t.Fatal(a)
	}
	must(t, w.gateway.cmd.Process.Signal(syscall.SIGKILL))
	<-w.gateway.end
	await(t, "the port to be free", func() bool { _, err := w.try(request{method: http.MethodGet, path: "/status"}); return err != nil })
	w.run()
	if a := w.send(call); a.Status != http.StatusOK || !strings.Contains(string(a.Body), "text") {
		t.Errorf("after the restart: %s", a)
	}
	if a := w.send(legacyAs(w.provider.loginAs(t, w.url, otherUser), call)); a.Status != http.StatusNotFound {
		t.Errorf("somebody else with the session: %s", a)
	}
	if a := w.send(legacyAs(w.provider.loginAs(t, w.url, user), call)); a.Status != http.StatusOK {
		t.Errorf("a new token of the same user: %s", a)
	}
	if opened, _ := one.counts(); opened != 2 { // before and after
		t.Errorf("%d sessions opened", opened)
	}
}

func legacyAs(token string, r request) request {
	r.token = token
	return r
}

// TestSessionsAreClosedUpstream: what was opened for an agent is closed with its session, and nothing was opened that it
// did not need.
func TestSessionsAreClosedUpstream(t *testing.T) {
	w, one, two := startSessions(t)
	opened, _ := one.counts()
	openedTwo, _ := two.counts()
	agents := []string{w.initialize(), w.initialize(), w.initialize()}
	for _, session := range agents[:2] {
		for range 3 {
			if a := w.send(legacyCall(session, "test_simple_text", `{}`)); a.Status != http.StatusOK {
				t.Fatal(a)
			}
		}
	}
	if n, _ := one.counts(); n-opened != 2 {
		t.Errorf("%d sessions for two agents", n-opened)
	}
	if n, _ := two.counts(); n != openedTwo {
		t.Errorf("%d sessions at a server that nobody called", n-openedTwo)
	}
	for _, session := range agents {
		if a := w.send(request{method: http.MethodDelete, header: map[string]string{"Mcp-Session-Id": session}}); a.Status != http.StatusNoContent {
			t.Errorf("DELETE: %s", a)
		}
		if a := w.send(legacyCall(session, "test_simple_text", `{}`)); a.Status != http.StatusNotFound {
			t.Errorf("after its end: %s", a)
		}
	}
	await(t, "the two sessions to be closed", func() bool { _, ended := one.counts(); return ended == 2 })
}

// TestIdleSessionEnds, and what was opened for it.
func TestIdleSessionEnds(t *testing.T) {
	w, one, _ := startSessions(t, func(w *world) {
		w.edit("sallyport.yaml", "mcpProvider:\n", "mcpProvider:\n  transports:\n    stream:\n      session:\n        timeout: 1s\n")
	})
	session := w.initialize()
	if a := w.send(legacyCall(session, "test_simple_text", `{}`)); a.Status != http.StatusOK {
		t.Fatal(a)
	}
	await(t, "the session to be closed upstream", func() bool { _, ended := one.counts(); return ended > 0 })
	if a := w.send(legacyCall(session, "test_simple_text", `{}`)); a.Status != http.StatusNotFound {
		t.Errorf("after a second without use: %s", a)
	}
}

// TestCallsHaveAnEnd: a tool that takes too long is cut off, on Envoy's way and on the hub's.
func TestCallsHaveAnEnd(t *testing.T) {
	w := start(t, func(w *world) {
		w.edit("sallyport.yaml", "  - name: open\n", "  - name: open\n    timeout: 1m\n    toolTimeouts:\n      - name: ec*\n        timeout: 1s\n")
	})
	session := w.initialize()
	hang := func(_ http.ResponseWriter, r *http.Request, _ received) bool {
		<-r.Context().Done()
		return true
	}
	for name, as := range map[string]behaviour{
		"both eras": {modern: true, legacy: true}, "modern only": {modern: true}, "legacy only": {legacy: true},
	} {
		w.open.behave(func(b *behaviour) { b.modern, b.legacy, b.answer = as.modern, as.legacy, hang })
		for era, r := range map[string]request{"modern": modern("open_echo", `{}`), "legacy": legacyCall(session, "open_echo", `{}`)} {
			begun := time.Now()
			a := w.send(r)
			if a.RPC.Error == nil || a.RPC.Error.Code != -32603 || len(a.RPC.ID) < 1 || string(a.RPC.ID) == "null" || time.Since(begun) > 8*time.Second {
				t.Errorf("%s agent, %s upstream: %s after %v", era, name, a, time.Since(begun))
			}
		}
	}
}

// TestStreamsEndWithTheToken: neither GET nor subscriptions/listen outlives the token that opened it.
func TestStreamsEndWithTheToken(t *testing.T) {
	w, _, _ := startSessions(t)
	session := w.initialize()
	short := w.provider.forge(t, func(_ map[string]any, c jwt.MapClaims) {
		c["aud"], c["exp"] = w.url, time.Now().Add(2*time.Second).Unix()
	})
	listen := modernMethod("subscriptions/listen")
	listen.body = `{"jsonrpc":"2.0","id":7,"method":"subscriptions/listen","params":{"notifications":{"toolsListChanged":true},` + modernMeta + `}}`
	for name, r := range map[string]request{
		"listen": legacyAs(short, listen),
		"get":    {method: http.MethodGet, token: short, header: map[string]string{"Mcp-Session-Id": session}},
	} {
		begun := time.Now()
		a := w.send(r)
		if a.Status != http.StatusOK || time.Since(begun) > 6*time.Second {
			t.Errorf("%s: %s after %v", name, a, time.Since(begun))
		}
		if name == "listen" && !strings.Contains(string(a.Body), `"resultType":"complete"`) {
			t.Errorf("listen ended without a result: %s", a)
		}
	}
}

// TestListsChangeWithThePolicy: who may see another list is told so, in both eras, and who may not is not.
func TestListsChangeWithThePolicy(t *testing.T) {
	w := start(t)
	session := w.initialize()
	get := w.stream(request{method: http.MethodGet, header: map[string]string{"Mcp-Session-Id": session}})
	listen := modernMethod("subscriptions/listen")
	listen.body = `{"jsonrpc":"2.0","id":7,"method":"subscriptions/listen","params":{"notifications":{"toolsListChanged":true,"promptsListChanged":true},` + modernMeta + `}}`
	listening := w.stream(listen)
	line := func(r interface{ ReadString(byte) (string, error) }, want string) {
		t.Helper()
		for {
			got, err := r.ReadString('\n')
			if err != nil {
				t.Fatalf("waiting for %s: %v", want, err)
			}
			if strings.HasPrefix(got, "data:") {
				if !strings.Contains(got, want) {
					t.Errorf("got %s, want %s", got, want)
				}
				return
			}
		}
	}
	line(listening, "notifications/subscriptions/acknowledged")
	w.edit("open.rego", `"echo"`, `"echoes"`)
	line(get, "notifications/tools/list_changed")
	line(listening, `"io.modelcontextprotocol/subscriptionId":7`)
	var names struct {
		Tools []struct {
			Name string `json:"name"`
		} `json:"tools"`
	}
	must(t, json.Unmarshal(w.send(legacy(session, `{"jsonrpc":"2.0","id":2,"method":"tools/list"}`)).RPC.Result, &names))
	if got := fmt.Sprint(names); strings.Contains(got, "open_echo") || !strings.Contains(got, "open_spend") {
		t.Errorf("listed: %s", got)
	}
}
