package hub

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/authz"
)

// bank issues tokens, "gateway-1" and so on or "alice-1", that live for life, and knows which are good.
type bank struct {
	life time.Duration

	mu     sync.Mutex
	issued int
	good   map[string]time.Time
	fails  bool
}

func (b *bank) get(_ *authz.App, who *authz.Caller) (*authz.IssuedToken, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.issued++
	if b.fails {
		return nil, errors.New("no token today")
	}
	name := "gateway"
	if who != nil {
		name = who.Identity.Subject
	}
	t := &authz.IssuedToken{Value: fmt.Sprint(name, "-", b.issued), Expiry: time.Now().Add(b.life)}
	if b.good == nil {
		b.good = map[string]time.Time{}
	}
	b.good[t.Value] = t.Expiry
	return t, nil
}

func (b *bank) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.issued
}

// revoke makes every token worthless that there is.
func (b *bank) revoke() {
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.good)
}

func (b *bank) fail(fails bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fails = fails
}

// guard has s answer 401 to whoever brings no good token.
func (b *bank) guard(s *script) *script {
	s.first(func(w http.ResponseWriter, m rpc) bool {
		b.mu.Lock()
		until, good := b.good[strings.TrimPrefix(m.header.Get("Authorization"), "Bearer ")]
		b.mu.Unlock()
		if good && time.Now().Before(until) {
			return false
		}
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	return s
}

// discovering is an app whose lists are read with tokens of b's.
func discovering(kind authz.DiscoveryType, b *bank) *testGate {
	g := apps("up")
	g.apps[0].Exchange = &authz.ExchangeRule{Discovery: authz.Discovery{Type: kind}}
	g.discovery = b.get
	return g
}

// eachEra runs a test with a modern and with a legacy upstream.
func eachEra(t *testing.T, test func(t *testing.T, up *script)) {
	for era, up := range map[string]func() *script{
		"modern": func() *script { return modernScript(toolList("t")) },
		"legacy": func() *script {
			s := legacyScript(toolList("t"))
			s.results["initialize"] = strings.Replace(legacyInit, `{"tools":{}}`, `{"tools":{"listChanged":true}}`, 1)
			s.before = func(w http.ResponseWriter, m rpc) bool {
				if m.verb == http.MethodGet {
					w.WriteHeader(http.StatusMethodNotAllowed)
				}
				return m.verb == http.MethodGet
			}
			return s
		},
	} {
		t.Run(era, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { test(t, up()) }) })
	}
}

// The token is asked for when the upstream demands one, or from the start, and shown until shortly before it expires.
func TestOwnTokenIsReused(t *testing.T) {
	for name, kind := range map[string]authz.DiscoveryType{"bare": authz.DiscoverBare, "as the gateway": authz.DiscoverAsGateway} {
		t.Run(name, func(t *testing.T) {
			eachEra(t, func(t *testing.T, up *script) {
				b := &bank{life: 2 * time.Minute}
				h := newHub(t, discovering(kind, b), egress{"app/up": b.guard(up)})
				ready(t, h)
				for range 40 { // ten minutes
					for _, who := range []string{"alice", "bob"} {
						if l := listTools(t, h, who); len(l.names(t)) != 1 || l.unavailable(t) != nil {
							t.Fatalf("%v: %v, unavailable %v", time.Now(), l.names(t), l.unavailable(t))
						}
					}
					time.Sleep(15 * time.Second)
				}
				if n := b.count(); n < 5 || n > 7 {
					t.Errorf("%d tokens in ten minutes, of two minutes each", n)
				}
				up.mu.Lock()
				defer up.mu.Unlock()
				bare := 0
				for _, r := range up.seen {
					if r.authorization == "" {
						bare++
					}
				}
				if most := map[authz.DiscoveryType]int{authz.DiscoverBare: 2, authz.DiscoverAsGateway: 0}[kind]; bare > most || most > 0 && bare == 0 {
					t.Errorf("%d requests without a token", bare)
				}
			})
		})
	}
}

// A token that is turned down before its time is not shown again, and the lists that were read stay.
func TestOwnTokenIsRevoked(t *testing.T) {
	eachEra(t, func(t *testing.T, up *script) {
		b := &bank{life: time.Hour}
		h := newHub(t, discovering(authz.DiscoverAsGateway, b), egress{"app/up": b.guard(up)})
		ready(t, h)
		b.revoke()
		for range 70 {
			if l := listTools(t, h, "alice"); len(l.names(t)) != 1 {
				t.Fatal("the lists are gone")
			}
			time.Sleep(time.Second)
		}
		if l := listTools(t, h, "alice"); l.unavailable(t) != nil || b.count() > 3 {
			t.Errorf("unavailable %v after %d tokens", l.unavailable(t), b.count())
		}
	})
}

// What refuses everybody is listed as soon as there is a token that it takes.
func TestOwnTokenComesLater(t *testing.T) {
	for name, kind := range map[string]authz.DiscoveryType{"bare": authz.DiscoverBare, "as the gateway": authz.DiscoverAsGateway} {
		t.Run(name, func(t *testing.T) {
			eachEra(t, func(t *testing.T, up *script) {
				b := &bank{life: time.Hour, fails: true}
				h := newHub(t, discovering(kind, b), egress{"app/up": b.guard(up)})
				time.Sleep(5 * time.Minute)
				if l := listTools(t, h, "alice"); len(l.names(t)) != 0 || len(l.unavailable(t)) != 1 {
					t.Errorf("%v, unavailable %v", l.names(t), l.unavailable(t))
				}
				if n := b.count(); n > 20 {
					t.Errorf("%d requests for tokens in five minutes", n)
				}
				b.fail(false)
				time.Sleep(40 * time.Second)
				if l := listTools(t, h, "alice"); len(l.names(t)) != 1 {
					t.Errorf("%v, unavailable %v", l.names(t), l.unavailable(t))
				}
			})
		})
	}
}

// Lists that are each caller's are read with that caller's token when it asks, and shown to it alone and in time.
func TestListsOfEachCaller(t *testing.T) {
	eachEra(t, func(t *testing.T, up *script) {
		b := &bank{life: 20 * time.Second}
		h := newHub(t, discovering(authz.DiscoverAsAgent, b), egress{"app/up": b.guard(up)})
		up.first(func(w http.ResponseWriter, m rpc) bool {
			who, _, _ := strings.Cut(strings.TrimPrefix(m.header.Get("Authorization"), "Bearer "), "-")
			if m.Method != "tools/list" || who == "" {
				return false
			}
			w.Header().Set("Content-Type", "application/json")
			_, _ = fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":%s}`, m.ID, toolList("of-"+who))
			return true
		})
		time.Sleep(5 * time.Minute)
		if n := len(up.seen); n != 0 || b.count() != 0 || !h.Ready() {
			t.Errorf("%d requests and %d tokens for nobody", n, b.count())
		}
		for range 20 {
			for _, who := range []string{"alice", "bob"} {
				l := listTools(t, h, who)
				if diff := cmp.Diff([]string{"up_of-" + who}, l.names(t)); diff != "" {
					t.Fatal(diff)
				}
			}
			time.Sleep(time.Second)
		}
		if n := b.count(); n < 2 || n > 4 {
			t.Errorf("%d tokens for two callers in twenty seconds", n)
		}
		b.fail(true)
		time.Sleep(21 * time.Second)
		for range 3 {
			if l := listTools(t, h, "alice"); len(l.names(t)) != 0 || !slices.Equal(l.unavailable(t), []string{"up"}) {
				t.Errorf("beyond the token: %v, unavailable %v", l.names(t), l.unavailable(t))
			}
		}
		b.fail(false)
		time.Sleep(31 * time.Second)
		if l := listTools(t, h, "alice"); len(l.names(t)) != 1 {
			t.Errorf("again: unavailable %v", l.unavailable(t))
		}
	})
}

// known counts the callers that have lists of their own.
func known(h *Hub) int {
	h.callers.mu.Lock()
	defer h.callers.mu.Unlock()
	return h.callers.known.order.Len()
}

// Callers are remembered in bounded number and size, and not for ever; who is forgotten is read anew.
func TestCallersAreBounded(t *testing.T) {
	t.Run("number", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := &bank{life: time.Hour}
			up := legacyScript(toolList("t"))
			h := newHub(t, discovering(authz.DiscoverAsAgent, b), egress{"app/up": b.guard(up)})
			for n := range maxCallers + 50 {
				listTools(t, h, fmt.Sprint("caller", n))
			}
			if n := known(h); n != maxCallers {
				t.Errorf("%d callers are known", n)
			}
			if l := listTools(t, h, "caller0"); len(l.names(t)) != 1 {
				t.Error("a forgotten caller is shown nothing")
			}
			synctest.Wait()
			if n := up.count("DELETE"); n != 51 { // in the caller's name: the guard would not have it otherwise
				t.Errorf("%d sessions of forgotten callers closed", n)
			}
			if r := up.last(""); r.verb != "DELETE" || r.authorization == "" {
				t.Errorf("%+v", r)
			}
			time.Sleep(2 * time.Hour)
			if n := known(h); n != 0 {
				t.Errorf("%d callers are known who have long gone", n)
			}
		})
	})
	t.Run("size", func(t *testing.T) {
		b := &bank{life: time.Hour}
		up := modernScript(`{"tools":[{"name":"t","description":"` + strings.Repeat("x", 7<<20) + `"}]}`)
		h := newHub(t, discovering(authz.DiscoverAsAgent, b), egress{"app/up": b.guard(up)})
		for n := range 12 {
			if l := listTools(t, h, fmt.Sprint("caller", n)); len(l.names(t)) != 1 {
				t.Fatal("nothing shown")
			}
		}
		if n := known(h); n != 9 {
			t.Errorf("lists of 7 MiB each of %d callers are kept", n)
		}
	})
}

// An agent that says hello while lists have never been read is told what they are of, if that does not take long.
func TestHelloWaitsForTheFirstLists(t *testing.T) {
	greetings := map[string]func(h *Hub) *httptest.ResponseRecorder{
		"initialize": func(h *Hub) *httptest.ResponseRecorder {
			return ask(h, "alice", "POST", initializeBody("2025-11-25"))
		},
		"server/discover": func(h *Hub) *httptest.ResponseRecorder { return askModern(h, "alice", "server/discover", "") },
	}
	for name, test := range map[string]struct {
		takes time.Duration
		want  bool
	}{"a while": {500 * time.Millisecond, true}, "for ever": {time.Hour, false}} {
		for method, greet := range greetings {
			t.Run(method+" "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					up := lister(everyList, nil)
					up.first(func(_ http.ResponseWriter, m rpc) bool {
						select {
						case <-time.After(test.takes):
						case <-m.ctx.Done():
						}
						return false
					})
					h := newHub(t, apps("up"), egress{"app/up": up})
					begun := time.Now()
					rec := greet(h)
					if got := strings.Contains(rec.Body.String(), `"prompts"`); got != test.want || rec.Code != 200 {
						t.Errorf("%d %s", rec.Code, rec.Body)
					}
					if took := time.Since(begun); took > firstPatience {
						t.Errorf("took %v", took)
					}
				})
			})
		}
	}
}

// itself issues tokens of the gateway's own, in the manner of issuing.
type itself struct{}

func (itself) ClientCredentials(_ context.Context, x *authz.ExchangeRule, _ authz.TokenRule) (*authz.IssuedToken, error) {
	return &authz.IssuedToken{Value: "gateway:" + x.Audience, Expiry: time.Now().Add(time.Hour)}, nil
}

// binding lets nobody in without a token for up, and nobody into a session but whose token opened it.
type binding struct {
	http.Handler
	t *testing.T

	mu     sync.Mutex
	open   bool              // for now: it lets everybody in
	owners map[string]string // by session
	listen []string          // who listens in a session
	ended  []string          // whose sessions
}

// was waits until something has happened for alice and for bob.
func (b *binding) was(what *[]string) {
	b.t.Helper()
	for begun := time.Now(); time.Since(begun) < patience; time.Sleep(time.Millisecond) {
		b.mu.Lock()
		got := slices.Sorted(slices.Values(*what))
		b.mu.Unlock()
		if slices.Equal(got, []string{"alice", "bob"}) {
			return
		}
	}
	b.t.Fatalf("only for %v", *what)
}

func (b *binding) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), ":")
	b.mu.Lock()
	open := b.open
	b.mu.Unlock()
	if open {
		b.Handler.ServeHTTP(w, r)
		return
	}
	if len(parts) < 2 || parts[1] != "up" {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	session := r.Header.Get("Mcp-Session-Id") + r.URL.Query().Get("c")
	b.mu.Lock()
	owner, known := b.owners[session]
	if !known && session != "" {
		b.owners[session] = parts[0]
	}
	switch {
	case r.Method == http.MethodDelete:
		b.ended = append(b.ended, parts[0])
	case r.Method == http.MethodGet && session != "" && parts[0] != "gateway":
		b.listen = append(b.listen, parts[0])
	}
	b.mu.Unlock()
	if known && owner != parts[0] {
		b.t.Errorf("%s %s in a session of %s", parts[0], r.Method, owner)
		w.WriteHeader(http.StatusForbidden)
		return
	}
	b.Handler.ServeHTTP(w, r)
}

// An agent's session is opened, used, listened to and ended with tokens of the agent's, over either transport, although
// nothing but the server's refusal says that it needs any.
func TestSessionsBelongToWhoseTokenOpenedThem(t *testing.T) {
	for name, test := range map[string]func(b *binding) (egress, *authz.App){
		"streamable": func(b *binding) (egress, *authz.App) {
			b.Handler = liveLegacy("up", `{"tools":{}}`)
			return egress{"app/up": b}, protected("up")
		},
		"2024-11-05": func(b *binding) (egress, *authz.App) {
			b.Handler = newOldServer(`{"tools":{}}`)
			a := protected("up")
			a.OldTransport = &url.URL{Scheme: "http", Host: "up.example", Path: "/sse"}
			return egress{"app/up": b, authz.EndpointRoute("up"): b}, a
		},
	} {
		for when, later := range map[string]bool{"from the start": false, "later": true} {
			t.Run(name+", "+when, func(t *testing.T) {
				b := &binding{t: t, open: later, owners: map[string]string{}}
				via, a := test(b)
				a.Exchange.Session, a.Exchange.Discovery.Tokens = nil, itself{}
				g := newGateway(t, via, []*authz.App{a})
				ready(t, g.Hub)
				b.mu.Lock()
				b.open = false
				b.mu.Unlock()
				var agents []agent
				for _, who := range []string{"alice", "bob"} {
					agent := enter(t, g, who, "{}")
					agents = append(agents, agent)
					agent.must(200, `"up_t"`, `{"jsonrpc":"2.0","id":2,"method":"tools/list"}`)
					agent.listen()
					for range 2 {
						agent.must(200, `"content"`, `{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"up_t","arguments":{}}}`)
					}
					agent.must(202, "", `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":9}}`)
				}
				if name == "streamable" {
					b.was(&b.listen)
				}
				for _, agent := range agents {
					if rec := ask(g, agent.who, "DELETE", "", "Mcp-Session-Id", agent.session); rec.Code != 204 {
						t.Errorf("DELETE: %d", rec.Code)
					}
				}
				if name == "streamable" {
					b.was(&b.ended)
				}
			})
		}
	}
}

// A reload that makes lists each caller's leaves nothing of everybody's, and the other way round.
func TestReloadChangesWhoseListsTheyAre(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bank{life: time.Minute}
		up := b.guard(modernScript(toolList("t")))
		everybody, each := discovering(authz.DiscoverAsGateway, b), discovering(authz.DiscoverAsAgent, b)
		var now atomic.Pointer[testGate]
		now.Store(everybody)
		h := newHub(t, nil, egress{"app/up": up}, func(c *Config) { c.Gate = func() Gate { return now.Load() } })
		for _, gate := range []*testGate{everybody, each, everybody} {
			now.Store(gate)
			time.Sleep(2 * tick)
			for _, who := range []string{"alice", "bob"} {
				if l := listTools(t, h, who); len(l.names(t)) != 1 {
					t.Errorf("%s: %v", who, l.unavailable(t))
				}
			}
			shown, callers := strings.TrimPrefix(up.last("tools/list").authorization, "Bearer "), known(h)
			if gate == each && (callers != 2 || !strings.HasPrefix(shown, "bob-")) || gate == everybody && (callers != 0 || !strings.HasPrefix(shown, "gateway-")) {
				t.Errorf("%d callers, last asked with %s", callers, shown)
			}
		}
	})
}
