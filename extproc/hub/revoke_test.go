package hub

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/authz/session"
	"github.com/sallyport/sallyport/authz/token"
)

// taken is what has been taken back: a subject's tokens and the sessions begun with them, or one session.
type taken struct{ subject, session atomic.Value }

func (r *taken) Revoked(id *token.Identity) bool { return r.subject.Load() == id.Subject }

func (r *taken) Ended(id *token.Identity, s session.Session) bool {
	return s.ID != "" && (r.subject.Load() == id.Subject || r.session.Load() == s.ID)
}

// Streams and sessions of a revoked subject end, at upstreams too, and nobody else's do.
func TestRevokeEndsStreamsAndSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, a, b, alice := two(t, `{}`)
		back := &taken{}
		g.cfg.Revocations = back
		bob := enter(t, g, "bob", `{}`)
		bob.must(200, `"result"`, toolCall("a_t"))
		old := dial(t, g, "alice")
		mine := []*stream{alice.listen(), openStream(t, g, "alice", "POST", "/mcp",
			modernRequest("subscriptions/listen", `{}`, "", `"notifications":{"toolsListChanged":true}`), modernHeaders("subscriptions/listen", "")...)}
		others := bob.listen()
		synctest.Wait()
		if streams, sessions, err := g.Revoke(t.Context()); streams != 0 || sessions != 0 || err != nil {
			t.Errorf("nothing is revoked: %d, %d, %v", streams, sessions, err)
		}
		back.subject.Store("alice")
		streams, sessions, err := g.Revoke(t.Context())
		if streams != 3 || sessions != 2 || err != nil { // the old stream is a session
			t.Errorf("%d streams and %d sessions ended, %v", streams, sessions, err)
		}
		for _, s := range append(mine, old.stream) {
			s.end()
		}
		synctest.Wait()
		for app, up := range map[string]*live{"a": a, "b": b} {
			if n := up.ended(app + "-2"); n != 1 {
				t.Errorf("the session at %s was closed %d times", app, n)
			}
		}
		others.quiet(time.Second)
		bob.must(200, `"result"`, toolCall("a_t"))
		if streams, sessions, _ := g.Revoke(t.Context()); streams != 0 || sessions != 0 {
			t.Errorf("ended again: %d streams, %d sessions", streams, sessions)
		}
	})
}

// ended counts how often a session was closed.
func (l *live) ended(session string) (n int) {
	l.script.mu.Lock()
	defer l.script.mu.Unlock()
	for _, m := range l.seen {
		if m.verb == http.MethodDelete && m.session == session {
			n++
		}
	}
	return n
}

func TestRevokedSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, a, _, alice := two(t, `{}`)
		back := &taken{}
		g.cfg.Revocations = back
		events := alice.listen()
		synctest.Wait()
		back.session.Store(alice.id())
		if err := g.EndSession(t.Context(), alice.id()); err != nil {
			t.Error(err)
		}
		if streams, _, err := g.Revoke(t.Context()); streams != 1 || err != nil {
			t.Errorf("%d streams, %v", streams, err)
		}
		events.end()
		synctest.Wait()
		if n := a.ended("a-2"); n != 1 {
			t.Errorf("the session at a was closed %d times", n)
		}
		for _, verb := range []string{"POST", "GET", "DELETE"} {
			rec := ask(g.Hub, "alice", verb, map[string]string{"POST": pingBody}[verb], "Mcp-Session-Id", alice.session, "Accept", "text/event-stream")
			if rec.Code != 404 {
				t.Errorf("%s: %d %s", verb, rec.Code, rec.Body)
			}
		}
		enter(t, g, "alice", `{}`).must(200, `"result"`, toolCall("a_t"))
	})
}

// A store that knows nothing of it, as after a restart, does not revive a revoked session.
func TestRevokedSessionInAnEmptyStore(t *testing.T) {
	h := newHub(t, apps(), egress{}, func(c *Config) {
		back := &taken{}
		back.subject.Store("alice")
		c.Revocations = back
	})
	id, err := sealer(t).Seal(session.Owner{Issuer: "https://as.example", Subject: "alice", ClientID: "agent", Route: "/mcp"}, session.Session{ID: session.NewID(), Version: "2025-11-25"})
	if err != nil {
		t.Fatal(err)
	}
	if rec := ask(h, "alice", "POST", pingBody, "Mcp-Session-Id", id); rec.Code != 404 {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
}

// A call that the hub carries ends at once, at the upstream too.
func TestRevokeEndsCarriedCalls(t *testing.T) {
	forever := func(_ http.ResponseWriter, m rpc) { <-m.ctx.Done() }
	const want = `"error":{"code":-32600,"message":"the token or the session has been revoked"}`
	synctest.Test(t, func(t *testing.T) {
		g, up := toLegacy(t, forever)
		back := &taken{}
		g.cfg.Revocations = back
		answers := make(chan *httptest.ResponseRecorder, 1)
		go func() {
			answers <- ask(g, "alice", "POST", modernRequest("tools/call", `{}`, "", `"name":"up_t"`), modernHeaders("tools/call", "up_t")...)
		}()
		synctest.Wait()
		begun := time.Now()
		back.subject.Store("alice")
		streams, sessions, err := g.Revoke(t.Context())
		var rec *httptest.ResponseRecorder
		select {
		case rec = <-answers:
		case <-time.After(patience):
			t.Fatal("the call does not end")
		}
		if streams != 1 || sessions != 1 || err != nil || rec.Code != 401 || !strings.Contains(rec.Body.String(), want) {
			t.Errorf("%d calls, %d sessions, %v: %d %s", streams, sessions, err, rec.Code, rec.Body)
		}
		synctest.Wait()
		if took := time.Since(begun); took != 0 {
			t.Errorf("after %v", took)
		}
		if n := up.ended("up-2"); n != 1 { // the caller's own, in an era without sessions
			t.Errorf("the session at the upstream was closed %d times", n)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		g, _, alice := toModern(t, `{}`, func(w http.ResponseWriter, m rpc) {
			events(w, `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1}}`)
			<-m.ctx.Done()
		})
		back := &taken{}
		g.cfg.Revocations = back
		s := alice.begin(toolCall("up_t"))
		s.next()
		back.subject.Store("alice")
		if streams, _, err := g.Revoke(t.Context()); streams != 1 || err != nil {
			t.Errorf("%d calls, %v", streams, err)
		}
		if got := s.next(); !strings.Contains(got, want) {
			t.Errorf("last event %s", got)
		}
		s.end()
	})
}

// What is revoked between the check of the token and the opening of a stream is not missed.
func TestRevokedWhileOpening(t *testing.T) {
	back := &taken{}
	h := newHub(t, apps(), egress{}, func(c *Config) { c.Revocations = back })
	back.subject.Store("alice")
	c := caller{who: &authz.Caller{Identity: &token.Identity{Subject: "alice"}}}
	ended := 0
	done := h.hold(c, session.Session{}, func() { ended++ })
	if ended != 1 {
		t.Errorf("ended %d times", ended)
	}
	done()
	if len(h.holdings.open) != 0 {
		t.Error("still held")
	}
}
