package e2e

import (
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"
	"github.com/modelcontextprotocol/go-sdk/auth"
	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// MCP servers that demand a token even to say what they are.

// fortress is a server of the SDK's that lets nobody do anything without a token of the right audience. It binds its
// sessions to whose token opened them.
type fortress struct {
	*httptest.Server
	mu   sync.Mutex
	seen []sighting
}

// sighting is one request.
type sighting struct {
	Verb, Method, Session string
	Sub, Scope            string // of the token; "" for none
	Status                int
}

const fortressAudience = "https://items.example/"

// newFortress starts one that shows each user the server that serverFor returns.
func newFortress(t *testing.T, p *provider, stateless bool, serverFor func(subject string) *mcp.Server) *fortress {
	t.Helper()
	f := &fortress{}
	handler := mcp.NewStreamableHTTPHandler(func(r *http.Request) *mcp.Server {
		return serverFor(auth.TokenInfoFromContext(r.Context()).UserID)
	}, &mcp.StreamableHTTPOptions{Stateless: stateless})
	guarded := auth.RequireBearerToken(p.tokenVerifier(t, fortressAudience), nil)(handler)
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := sighting{Verb: r.Method, Method: peek(r).Method, Session: r.Header.Get("Mcp-Session-Id")}
		if bearer := r.Header.Get("Authorization"); bearer != "" {
			c := claims(t, bearer)
			s.Sub, _ = c["sub"].(string)
			s.Scope, _ = c["scope"].(string)
		}
		out := &statusOf{ResponseWriter: w, status: http.StatusOK}
		defer func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			s.Status = out.status
			f.seen = append(f.seen, s)
		}()
		guarded.ServeHTTP(out, r)
	}))
	t.Cleanup(func() {
		f.CloseClientConnections()
		f.Close()
	})
	return f
}

// statusOf remembers the status of an answer.
type statusOf struct {
	http.ResponseWriter
	status int
}

func (s *statusOf) WriteHeader(status int) {
	s.status = status
	s.ResponseWriter.WriteHeader(status)
}

func (s *statusOf) Unwrap() http.ResponseWriter { return s.ResponseWriter }
func (s *statusOf) Flush()                      { _ = http.NewResponseController(s.ResponseWriter).Flush() }

// sightings are the requests that have ended, those that match.
func (f *fortress) sightings(match func(sighting) bool) (out []sighting) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.seen {
		if match(s) {
			out = append(out, s)
		}
	}
	return out
}

// startFortress runs a gateway whose first app is a fortress, with this written under tokenExchange.
func startFortress(t *testing.T, stateless bool, serverFor func(string) *mcp.Server, written string) (*sdkWorld, *fortress) {
	t.Helper()
	var f *fortress
	s := &sdkWorld{}
	s.world = start(t, func(w *world) {
		f = newFortress(t, w.provider, stateless, serverFor)
		w.edit("sallyport.yaml", w.items.addr(), f.Listener.Addr().String())
		w.edit("sallyport.yaml", "          timeout: 2s\n", "          timeout: 2s\n"+written)
	})
	return s, f
}

func (s *sdkWorld) toolNames(ctx context.Context, cs *mcp.ClientSession) (names []string, err error) {
	list, err := cs.ListTools(ctx, nil)
	if err != nil {
		return nil, err
	}
	for _, tool := range list.Tools {
		if strings.HasPrefix(tool.Name, "my_server_") {
			names = append(names, strings.TrimPrefix(tool.Name, "my_server_"))
		}
	}
	slices.Sort(names)
	return names, nil
}

// listed waits until an agent is shown these tools of the fortress.
func (s *sdkWorld) listed(t *testing.T, cs *mcp.ClientSession, want ...string) {
	t.Helper()
	var got []string
	await(t, "the lists", func() bool {
		var err error
		got, err = s.toolNames(t.Context(), cs)
		must(t, err)
		return slices.Equal(got, want)
	})
}

const lookScope = "other:Run"

// A server that demands a token for everything is listed and called, in both eras, whichever way the gateway finds out
// what it has. The gateway's own token never goes out with an agent's message, nor one agent's with another's.
func TestDiscovery(t *testing.T) {
	one := guardedTools()
	for name, kind := range map[string]string{
		"none":              "",
		"clientCredentials": "          discovery:\n            type: clientCredentials\n            scopes: [" + lookScope + "]\n",
		"tokenExchange":     "          discovery:\n            type: tokenExchange\n            ttl: 30s\n            scopes: [" + lookScope + "]\n",
	} {
		for how, stateless := range map[string]bool{"stateful": false, "stateless": true} {
			t.Run(name+", "+how, func(t *testing.T) {
				s, f := startFortress(t, stateless, func(string) *mcp.Server { return one }, kind)
				ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
				defer cancel()
				for _, version := range []string{legacyVersion, modernVersion} {
					for _, subject := range []string{user, otherUser} {
						cs, err := s.agent(ctx, subject, version)
						must(t, err)
						s.listed(t, cs, "getItem", "listItems")
						for range 2 {
							got, err := ask(ctx, cs, "my_server_getItem", number{1})
							if diff := cmp.Diff(caller{Sub: subject, Scopes: []string{"item:Get"}, N: 1}, got); diff != "" || err != nil {
								t.Errorf("%s, %s: %v\n%s", version, subject, err, diff)
							}
						}
						must(t, cs.Close())
					}
				}
				checkDiscovery(t, s, f, name, stateless)
			})
		}
	}
}

// checkDiscovery goes through all that a fortress has seen.
func checkDiscovery(t *testing.T, s *sdkWorld, f *fortress, kind string, stateless bool) {
	t.Helper()
	if !stateless {
		await(t, "the end of the agents' sessions", func() bool {
			return len(f.sightings(func(s sighting) bool { return s.Verb == http.MethodDelete && s.Status < 300 })) >= 2
		})
	}
	owners := map[string]string{}
	bare := 0
	for _, x := range f.sightings(func(sighting) bool { return true }) {
		own := x.Sub == gatewayClient
		switch {
		case x.Sub == "":
			bare++
		case x.Method == "tools/call" && (own || x.Scope != "item:Get"):
			t.Errorf("a call came with %+v", x)
		case own && (x.Verb == http.MethodDelete || kind == "tokenExchange"):
			t.Errorf("the gateway's own token: %+v", x)
		case x.Status >= 400 && x.Method != "server/discover" && x.Method != "initialize" && x.Verb != http.MethodGet:
			t.Errorf("turned down: %+v", x)
		}
		if x.Session == "" || x.Sub == "" {
			continue
		}
		if owner, known := owners[x.Session]; known && owner != x.Sub {
			t.Errorf("a session of %s, used by %+v", owner, x)
		}
		owners[x.Session] = x.Sub
	}
	if kind != "none" && bare > 0 {
		t.Errorf("%d requests without a token", bare)
	}
	want := 1 // for all readings and all agents: the tokens live ten minutes
	if kind == "tokenExchange" {
		want = 0
	}
	if n := len(s.provider.ownTokens()); n != want {
		t.Errorf("%d tokens of the gateway's own, want %d", n, want)
	}
	for _, form := range s.provider.ownTokens() {
		if form.Get("audience") != fortressAudience || (form.Get("scope") == lookScope) != (kind == "clientCredentials") {
			t.Errorf("own token asked for with %v", form)
		}
	}
	looks := 0
	for _, form := range s.provider.exchanges() {
		if form.Get("scope") == lookScope {
			looks++
		}
	}
	// Each agent registered anew, and is a caller of its own. The two that speak the older revision are greeted.
	if most := map[string]int{"none": 0, "clientCredentials": 2, "tokenExchange": 6}[kind]; stateless && looks != most {
		t.Errorf("%d tokens in the names of agents for what is no call, want %d", looks, most)
	}
}

// A server that turns down whatever it is shown is not listed, and its tools cannot be called. Nobody else suffers, and
// the log says so once.
func TestDiscoveryTurnedDown(t *testing.T) {
	for name, test := range map[string]struct {
		written string
		noOwn   bool
		tokens  bool // are asked for
		reason  string
	}{
		"none":                        {"", false, true, "wants a token: status 401"},
		"none, without such a grant":  {"", true, true, "wants a token: status 401, and there is no token to show: refused: token exchange refused (unauthorized_client)"},
		"clientCredentials":           {"          discovery:\n            type: clientCredentials\n", false, true, "wants a token: status 401"},
		"clientCredentials, no grant": {"          discovery:\n            type: clientCredentials\n", true, true, "no token to show: refused: token exchange refused (unauthorized_client)"},
		"tokenExchange":               {"          discovery:\n            type: tokenExchange\n", false, false, "wants a token: status 401"},
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t, func(w *world) {
				closed := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
					rw.Header().Set("WWW-Authenticate", "Bearer")
					rw.WriteHeader(http.StatusUnauthorized)
				}))
				t.Cleanup(closed.Close)
				w.provider.noOwn = test.noOwn
				w.edit("sallyport.yaml", w.items.addr(), closed.Listener.Addr().String())
				w.edit("sallyport.yaml", "          timeout: 2s\n", "          timeout: 2s\n"+test.written)
			})
			time.Sleep(2500 * time.Millisecond) // some attempts
			for range 3 {
				a := w.send(modernMethod("tools/list"))
				if text := string(a.RPC.Result); a.Status != http.StatusOK || strings.Contains(text, "my_server_") || !strings.Contains(text, "open_echo") ||
					!strings.Contains(text, `"dev.sallyport/unavailable":["my-mcp-server-proxy"]`) {
					t.Errorf("list: %s", a)
				}
			}
			session := w.initialize()
			for _, call := range []request{modern("my_server_listItems", "{}"), legacyCall(session, "my_server_listItems", "{}")} {
				if a := w.send(call); a.Status != http.StatusBadGateway || a.RPC.Error == nil {
					t.Errorf("call: %s", a)
				}
			}
			if a := w.send(modern("open_echo", "{}")); a.RPC.Result == nil {
				t.Errorf("the other app: %s", a)
			}
			if (len(w.provider.ownTokens()) > 0) != test.tokens {
				t.Errorf("%d tokens of the gateway's own", len(w.provider.ownTokens()))
			}
			log := w.gateway.output()
			if n := strings.Count(log, `"msg":"lists not available`); n != 1 || !strings.Contains(log, test.reason) {
				t.Errorf("the log says it %d times, or not why", n)
			}
			metrics := w.metrics()
			for _, want := range []string{`sallyport_upstream_up{app="my-mcp-server-proxy"} 0`, `sallyport_upstream_unauthorized{app="my-mcp-server-proxy"} 1`,
				`sallyport_upstream_unauthorized{app="open"} 0`} {
				if !strings.Contains(metrics, want) {
					t.Errorf("missing: %s", want)
				}
			}
		})
	}
}

// Where lists are each caller's, nobody is shown another's.
func TestDiscoveryForEachCaller(t *testing.T) {
	servers := map[string]*mcp.Server{}
	for subject, tool := range map[string]string{user: "listItems", otherUser: "getItem"} {
		servers[subject] = mcp.NewServer(&mcp.Implementation{Name: "of " + subject, Version: "1"}, nil)
		mcp.AddTool(servers[subject], &mcp.Tool{Name: tool}, func(context.Context, *mcp.CallToolRequest, number) (*mcp.CallToolResult, any, error) {
			return says(caller{Sub: subject}), nil, nil
		})
	}
	for how, stateless := range map[string]bool{"stateful": false, "stateless": true} {
		t.Run(how, func(t *testing.T) {
			s, f := startFortress(t, stateless, func(subject string) *mcp.Server { return servers[subject] },
				"          discovery:\n            type: tokenExchange\n            ttl: 4s\n")
			ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
			defer cancel()
			if n := len(f.sightings(func(sighting) bool { return true })); n > 0 {
				t.Errorf("%d requests before anybody asked", n)
			}
			var group sync.WaitGroup
			for _, version := range []string{legacyVersion, modernVersion} {
				for subject, want := range map[string]string{user: "listItems", otherUser: "getItem"} {
					cs, err := s.agent(ctx, subject, version)
					must(t, err)
					group.Go(func() {
						for begun := time.Now(); time.Since(begun) < 6*time.Second; time.Sleep(100 * time.Millisecond) { // beyond the token
							got, err := s.toolNames(ctx, cs)
							if err != nil || !slices.Equal(got, []string{want}) {
								t.Errorf("%s, %s: %v %v", version, subject, got, err)
								return
							}
						}
						if got, err := ask(ctx, cs, "my_server_"+want, number{}); err != nil || got.Sub != subject {
							t.Errorf("%s, %s: %v %v", version, subject, got, err)
						}
					})
				}
			}
			group.Wait()
			// Four callers, each with a token of four seconds that is shown for two: some exchanges, and not one for each list.
			if n := len(s.provider.exchanges()); n < 8 || n > 30 {
				t.Errorf("%d exchanges", n)
			}
			if n := len(s.provider.ownTokens()); n > 0 {
				t.Errorf("%d tokens of the gateway's own", n)
			}
		})
	}
}

// The server that these tests stand on is one that refuses a session to whose token did not open it.
func TestFortressBindsSessions(t *testing.T) {
	one := guardedTools()
	s, f := startFortress(t, false, func(string) *mcp.Server { return one }, "")
	cs, err := s.agent(t.Context(), user, legacyVersion)
	must(t, err)
	defer func() { _ = cs.Close() }()
	s.listed(t, cs, "getItem", "listItems")
	_, err = ask(t.Context(), cs, "my_server_getItem", number{1})
	must(t, err)
	var calls []sighting
	await(t, "the server to have ended the call", func() bool { // which its answer is ahead of
		calls = f.sightings(func(x sighting) bool { return x.Method == "tools/call" })
		return len(calls) > 0
	})
	if len(calls) != 1 || calls[0].Session == "" || calls[0].Sub != user {
		t.Fatalf("%+v", calls)
	}
	for subject, want := range map[string]int{user: http.StatusOK, otherUser: http.StatusForbidden, gatewayClient: http.StatusForbidden} {
		req, err := http.NewRequest(http.MethodPost, f.URL, strings.NewReader(`{"jsonrpc":"2.0","id":"x","method":"ping"}`))
		must(t, err)
		for name, value := range map[string]string{"Content-Type": "application/json", "Accept": "application/json, text/event-stream",
			"Mcp-Session-Id": calls[0].Session, "MCP-Protocol-Version": legacyVersion,
			"Authorization": "Bearer " + s.provider.forge(t, func(_ map[string]any, c jwt.MapClaims) { c["sub"], c["aud"] = subject, fortressAudience })} {
			req.Header.Set(name, value)
		}
		resp, err := client.Do(req)
		must(t, err)
		_ = resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: %s, want %d", subject, resp.Status, want)
		}
	}
}
