package hub

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/authz/session"
	"github.com/sallyport/sallyport/mcpparse"
)

// peer is an agent of an era that upstreams know by owner, without a token for what belongs to no single call.
func peer(owner string, era mcpparse.Era) authz.Peer {
	return authz.Peer{Owner: owner, Era: era, Token: noTokenFor}
}

func noTokenFor(context.Context, *authz.App, bool) (string, error) { return "", nil }

func mustLeg(t *testing.T, h *Hub, a *authz.App, owner string, era mcpparse.Era) authz.Leg {
	t.Helper()
	l, err := h.Leg(t.Context(), a, peer(owner, era))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// The agent's own era is preferred; the other one is spoken when the upstream knows no better.
func TestLegChoosesTheEra(t *testing.T) {
	sessionless := legacyScript(toolList())
	sessionless.sessionID = nil
	dual := &script{results: map[string]string{"server/discover": dualDiscover, "initialize": legacyInit}}
	pretender := &script{results: map[string]string{"server/discover": dualDiscover}} // initialize is refused
	stranger := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) })
	guarded := legacyScript(toolList()) // shows its handshake to everybody, discover to nobody
	guarded.before = func(w http.ResponseWriter, m rpc) bool {
		if m.Method == "server/discover" {
			w.WriteHeader(401)
			return true
		}
		return false
	}
	modern := authz.Leg{Era: mcpparse.EraModern, Version: "2026-07-28"}
	legacy := authz.Leg{Era: mcpparse.EraLegacy, Version: "2025-06-18"}
	with := func(l authz.Leg, session string) authz.Leg { l.SessionID = session; return l }
	for _, tt := range []struct {
		name       string
		up         http.Handler
		fromModern authz.Leg
		fromLegacy authz.Leg
	}{
		{"modern", modernScript(toolList()), modern, modern},
		{"legacy", legacyScript(toolList()), with(legacy, "upstream-session-*"), with(legacy, "upstream-session-*")},
		{"legacy without sessions", sessionless, legacy, legacy},
		{"both", dual, modern, legacy},
		{"both, so it says", pretender, modern, modern},
		{"guarded", stranger, modern, authz.Leg{Era: mcpparse.EraLegacy, Version: "2025-11-25"}},
		{"half guarded", guarded, with(legacy, "upstream-session-*"), with(legacy, "upstream-session-*")},
		{"SDK stateless", stateless(sdkServer(t)), modern, authz.Leg{Era: mcpparse.EraLegacy, Version: "2025-11-25"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHub(t, apps("up"), behind(t, egress{"app/up": tt.up}))
			for range 2 { // found out, then remembered
				for era, want := range map[mcpparse.Era]authz.Leg{mcpparse.EraModern: tt.fromModern, mcpparse.EraLegacy: tt.fromLegacy} {
					got := mustLeg(t, h, app("up"), "owner", era)
					if strings.HasPrefix(got.SessionID, "upstream-session-") {
						got.SessionID = "upstream-session-*"
					}
					if diff := cmp.Diff(want, got); diff != "" {
						t.Errorf("%v agent: %s", era, diff)
					}
				}
			}
		})
	}
}

// A session that the hub opened at an SDK server is one in which tools can be called.
func TestLegOpensUsableSession(t *testing.T) {
	server := sdkServer(t, "a")
	via := behind(t, egress{"app/up": stateful(server)})
	h := newHub(t, apps("up"), via)
	l := mustLeg(t, h, app("up"), "owner", mcpparse.EraLegacy)
	if l.SessionID == "" || l.Version != "2025-11-25" {
		t.Fatalf("%+v", l)
	}
	_, err := h.client.call(t.Context(), leg{route: "app/up", era: l.Era, version: l.Version, session: l.SessionID}, "tools/call", []byte(`{"name":"a","arguments":{}}`))
	if err != nil {
		t.Error(err)
	}
}

// Two owners never share an upstream session, not even when both want their first at the same time; and one owner
// gets one.
func TestUpstreamSessionsAreNotShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := legacyScript(toolList())
		up.before = func(http.ResponseWriter, rpc) bool {
			time.Sleep(100 * time.Millisecond) // so that handshakes overlap
			return false
		}
		h := newHub(t, apps("up", "other"), egress{"app/up": up, "app/other": up})
		const owners, calls = 20, 10
		var mu sync.Mutex
		sessionsOf := map[string]map[string]bool{} // by owner and app
		ownersOf := map[string]map[string]bool{}
		var wait sync.WaitGroup
		for i := range 2 * owners * calls {
			owner, at := fmt.Sprint("owner", i%owners), []string{"up", "other"}[i%2]
			wait.Go(func() {
				l, err := h.Leg(t.Context(), app(at), peer(owner, mcpparse.EraLegacy))
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				mark(sessionsOf, owner+" at "+at, l.SessionID)
				mark(ownersOf, l.SessionID, owner+" at "+at)
			})
		}
		wait.Wait()
		for who, ids := range sessionsOf {
			if len(ids) != 1 {
				t.Errorf("%s has sessions %v", who, ids)
			}
		}
		for id, whose := range ownersOf {
			if len(whose) != 1 || id == "" {
				t.Errorf("session %q belongs to %v", id, whose)
			}
		}
		up.mu.Lock()
		defer up.mu.Unlock()
		if slices.ContainsFunc(up.seen, func(r seenRequest) bool { return r.authorization != "" }) {
			t.Error("the hub sent a credential")
		}
	})
}

func mark(m map[string]map[string]bool, k, v string) {
	if m[k] == nil {
		m[k] = map[string]bool{}
	}
	m[k][v] = true
}

// Ending an agent's session ends those that upstreams opened for it, and no others.
func TestDeleteFansOut(t *testing.T) {
	closed := make(chan string, 10)
	fixture := func() http.Handler {
		sdk := stateful(sdkServer(t))
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			rec := httptest.NewRecorder()
			if r.Method != http.MethodDelete {
				sdk.ServeHTTP(w, r)
				return
			}
			sdk.ServeHTTP(rec, r)
			closed <- fmt.Sprint(rec.Code, " ", r.Header.Get("Mcp-Session-Id"))
		})
	}
	h := newHub(t, apps("a", "b"), behind(t, egress{"app/a": fixture(), "app/b": fixture()}))
	id := begin(t, h, "alice")
	owner := session.Owner{Issuer: "https://as.example", Subject: "alice", ClientID: "agent", Route: "/mcp"}
	s, err := h.cfg.Sessions.Open(id, owner)
	if err != nil {
		t.Fatal(err)
	}
	var want, got []string
	for _, name := range []string{"a", "b"} {
		want = append(want, "204 "+mustLeg(t, h, app(name), s.ID, mcpparse.EraLegacy).SessionID)
		mustLeg(t, h, app(name), "bob's", mcpparse.EraLegacy)
	}
	if rec := ask(h, "alice", "DELETE", "", "Mcp-Session-Id", id); rec.Code != 204 {
		t.Fatalf("%d %s", rec.Code, rec.Body)
	}
	for range want {
		got = append(got, <-closed)
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if len(h.closing) > 0 || len(closed) > 0 {
		t.Error("other sessions were closed too")
	}
}

// Upstream sessions that nobody uses are closed.
func TestIdleUpstreamSessionsAreClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := legacyScript(toolList())
		h := newHub(t, apps("up"), egress{"app/up": up}, func(c *Config) { c.SessionTimeout = 10 * time.Minute })
		first := mustLeg(t, h, app("up"), "owner", mcpparse.EraLegacy)
		time.Sleep(9 * time.Minute)
		if l := mustLeg(t, h, app("up"), "owner", mcpparse.EraLegacy); l != first {
			t.Errorf("%+v, want %+v", l, first)
		}
		time.Sleep(11 * time.Minute)
		if n := up.count("DELETE"); n != 1 {
			t.Errorf("%d closed, want 1: the catalogue's own session is in use", n)
		}
		if l := mustLeg(t, h, app("up"), "owner", mcpparse.EraLegacy); l == first {
			t.Error("an idle session was used again")
		}
	})
}

// The catalogue opens a new session when the upstream lost its own.
func TestListSurvivesLostSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := legacyScript(toolList("a"))
		var lost atomic.Bool
		up.before = func(w http.ResponseWriter, m rpc) bool {
			if m.Method == "initialize" {
				lost.Store(false)
			}
			if lost.Load() {
				w.WriteHeader(http.StatusNotFound)
			}
			return lost.Load()
		}
		h := newHub(t, apps("up"), egress{"app/up": up})
		listTools(t, h, "alice")
		lost.Store(true)
		time.Sleep(2 * time.Minute)
		l := listTools(t, h, "alice")
		if diff := cmp.Diff([]string{"up_a"}, l.names(t)); diff != "" || l.unavailable(t) != nil {
			t.Error(l.unavailable(t), diff)
		}
	})
}

// An upstream that was replaced by one of the other era is found out.
func TestUpstreamChangesEra(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := &switchable{}
		up.set(stateless(sdkServer(t, "a")))
		h := newHub(t, apps("up"), egress{"app/up": up}, func(c *Config) { c.SessionTimeout = 24 * time.Hour })
		for _, next := range []struct {
			handler http.Handler
			era     mcpparse.Era // of what is there before
		}{
			{stateful(sdkServer(t, "b")), mcpparse.EraModern},
			{modernScript(toolList("c")), mcpparse.EraLegacy},
			{http.NotFoundHandler(), mcpparse.EraModern},
		} {
			if got := mustLeg(t, h, app("up"), "owner", mcpparse.EraModern).Era; got != next.era {
				t.Errorf("era %v, want %v", got, next.era)
			}
			up.set(next.handler)
			time.Sleep(2 * time.Minute)
		}
	})
}

// A legacy agent's call finds a replaced server out by itself: it fails, the next one is right.
func TestLegDoubtsTheEra(t *testing.T) {
	up := &switchable{}
	up.set(legacyScript(toolList()))
	h := newHub(t, apps("up"), egress{"app/up": up})
	mustLeg(t, h, app("up"), "owner", mcpparse.EraLegacy)
	up.set(modernScript(toolList()))
	if err := h.store.RemoveUpstream(t.Context(), "owner", "up", "upstream-session-2"); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Leg(t.Context(), app("up"), peer("owner", mcpparse.EraLegacy)); !errors.Is(err, ErrUnavailable) {
		t.Error(err)
	}
	if l := mustLeg(t, h, app("up"), "owner", mcpparse.EraLegacy); l.Era != mcpparse.EraModern {
		t.Errorf("%+v", l)
	}
}

// An upstream that turned the legacy handshake down is not asked for it again.
func TestRefusedHandshakeIsRemembered(t *testing.T) {
	up := &script{results: map[string]string{"server/discover": dualDiscover, "tools/list": toolList()}}
	h := newHub(t, apps("up"), egress{"app/up": up})
	for range 5 {
		mustLeg(t, h, app("up"), "owner", mcpparse.EraLegacy)
	}
	if n := up.count("initialize"); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

// An upstream that answers, but not with a list, is asked for it at most every 30 s.
func TestFailingListBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := modernScript(`{"tools":0}`)
		newHub(t, apps("up"), egress{"app/up": up})
		time.Sleep(10 * time.Minute)
		if n := up.count("tools/list"); n < 20 || n > 30 {
			t.Errorf("asked %d times in 10 minutes", n)
		}
	})
}

// While an upstream is down, calls fail at once, and it is asked at most every 30 s; when it is back, it is found.
func TestUnavailable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := &switchable{}
		down := &script{before: func(w http.ResponseWriter, _ rpc) bool { w.WriteHeader(503); return true }}
		up.set(down)
		h := newHub(t, apps("up"), egress{"app/up": up})
		for range 600 {
			_, err := h.Leg(t.Context(), app("up"), peer("owner", mcpparse.EraModern))
			if !errors.Is(err, ErrUnavailable) {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		if n := down.count("server/discover"); n < 20 || n > 30 {
			t.Errorf("asked %d times in 10 minutes", n)
		}
		up.set(modernScript(toolList()))
		time.Sleep(31 * time.Second)
		mustLeg(t, h, app("up"), "owner", mcpparse.EraModern)
	})
}

// A session that cannot be opened in time makes the upstream unavailable for everybody for a while.
func TestHangingHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := &switchable{}
		up.set(legacyScript(toolList()))
		h := newHub(t, apps("up"), egress{"app/up": up})
		mustLeg(t, h, app("up"), "a", mcpparse.EraLegacy)
		up.set(http.HandlerFunc(hang))
		begun := time.Now()
		for _, want := range []time.Duration{handshakeDeadline, handshakeDeadline} { // in all, the second fails at once
			_, err := h.Leg(t.Context(), app("up"), peer("b", mcpparse.EraLegacy))
			if took := time.Since(begun); !errors.Is(err, ErrUnavailable) || took != want {
				t.Errorf("%v after %v, want %v", err, took, want)
			}
		}
	})
}

func TestPanicIsAnError(t *testing.T) {
	via := egress{"app/bad": http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("boom") }), "app/good": modernScript(toolList("t"))}
	h := newHub(t, apps("bad", "good"), via)
	if _, err := h.Leg(t.Context(), app("bad"), peer("owner", mcpparse.EraModern)); !errors.Is(err, ErrUnavailable) {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"good_t"}, listTools(t, h, "alice").names(t)); diff != "" {
		t.Error(diff)
	}
}

func TestLegEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, apps("up"), egress{"app/up": http.HandlerFunc(hang)})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := h.Leg(ctx, app("up"), peer("owner", mcpparse.EraModern)); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}

// An answer may come as an event stream, behind other messages.
func TestStreamedAnswers(t *testing.T) {
	stream := func(events string) *script {
		s := modernScript("")
		s.before = func(w http.ResponseWriter, m rpc) bool {
			if m.Method != "tools/list" {
				return false
			}
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = w.Write([]byte(strings.ReplaceAll(events, "ID", string(m.ID))))
			return true
		}
		return s
	}
	const list = `data: {"jsonrpc":"2.0","id":ID,"result":{"tools":[{"name":"a"}]}}` + "\n\n"
	for name, tt := range map[string]struct {
		events string
		want   []string
	}{
		"plain":            {list, []string{"up_a"}},
		"typed":            {"event: message\n" + list, []string{"up_a"}},
		"CRLF":             {strings.ReplaceAll(list, "\n", "\r\n"), []string{"up_a"}},
		"notifications":    {": hello\n\nid: 1\ndata:\n\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\"}\n\n" + list, []string{"up_a"}},
		"a request":        {"data: {\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}\n\n" + list, []string{"up_a"}},
		"other event":      {"event: endpoint\ndata: https://evil.example/\n\n" + list, []string{"up_a"}},
		"only other event": {"event: endpoint\n" + list, []string{}},
		"other id":         {strings.ReplaceAll(list, "ID", `"x"`), []string{}},
		"cut off":          {strings.TrimSuffix(list, "\n"), []string{}},
		"not JSON":         {"data: hello\n\n" + list, []string{}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHub(t, apps("up"), egress{"app/up": stream(tt.events)})
			if diff := cmp.Diff(tt.want, listTools(t, h, "alice").names(t)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func BenchmarkLeg(b *testing.B) {
	h, err := New(Config{Gate: func() Gate { return apps("up") }, Sessions: sealer(b), Upstream: egress{"app/up": legacyScript(toolList())}, Log: discard})
	if err != nil {
		b.Fatal(err)
	}
	defer h.stop()
	a := app("up")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := h.Leg(b.Context(), a, peer("owner", mcpparse.EraLegacy)); err != nil {
			b.Fatal(err)
		}
	}
}
