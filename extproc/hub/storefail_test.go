package hub

import (
	"context"
	"errors"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/authz"
)

// failing is a store that can be made not to answer.
type failing struct {
	Store
	down atomic.Bool
}

var errDown = errors.New("store: down at 10.0.0.1")

func (f *failing) err() error {
	if f.down.Load() {
		return errDown
	}
	return nil
}

func (f *failing) Begin(ctx context.Context, owner, principal string) (bool, error) {
	if err := f.err(); err != nil {
		return false, err
	}
	return f.Store.Begin(ctx, owner, principal)
}

func (f *failing) Touch(ctx context.Context, owner string) (bool, error) {
	if err := f.err(); err != nil {
		return false, err
	}
	return f.Store.Touch(ctx, owner)
}

func (f *failing) Upstream(ctx context.Context, owner, app string) (UpstreamSession, bool, error) {
	if err := f.err(); err != nil {
		return UpstreamSession{}, false, err
	}
	return f.Store.Upstream(ctx, owner, app)
}

func (f *failing) Expire(ctx context.Context) ([]UpstreamSession, error) {
	if err := f.err(); err != nil {
		return nil, err
	}
	return f.Store.Expire(ctx)
}

// Where sessions cannot be looked up nobody is let in, and nobody is told to initialize again: the session may be alive.
func TestStoreThatDoesNotAnswer(t *testing.T) {
	store := &failing{Store: NewMemory(time.Hour, time.Now)}
	up := liveLegacy("up", `{"tools":{}}`)
	g := newGateway(t, egress{"app/up": up}, []*authz.App{app("up")}, func(c *Config) { c.Store = store })
	ready(t, g.Hub)
	alice := enter(t, g, "alice", `{}`)
	store.down.Store(true)
	withSession := func(verb, body string) func() *httptest.ResponseRecorder {
		return func() *httptest.ResponseRecorder {
			return ask(g.Hub, "alice", verb, body, "Mcp-Session-Id", alice.session, "Accept", "text/event-stream")
		}
	}
	for name, do := range map[string]func() *httptest.ResponseRecorder{
		"initialize":     func() *httptest.ResponseRecorder { return ask(g.Hub, "alice", "POST", initializeBody("2025-11-25")) },
		"a message":      withSession("POST", pingBody),
		"a notification": withSession("POST", `{"jsonrpc":"2.0","method":"notifications/initialized"}`),
		"the end":        withSession("DELETE", ""),
		"the stream":     withSession("GET", ""),
		"through the gate": func() *httptest.ResponseRecorder {
			return ask(g, "alice", "POST", toolCall("up_t"), "Mcp-Session-Id", alice.session)
		},
		"the old stream": func() *httptest.ResponseRecorder {
			r := httptest.NewRequest("GET", "http://gateway.example"+paths.SSE, nil)
			r.Header.Set("Authorization", "Bearer alice")
			rec := httptest.NewRecorder()
			g.Hub.ServeHTTP(rec, r)
			return rec
		},
	} {
		rec := do()
		if rec.Code != 503 || rec.Header().Get("Retry-After") == "" || !strings.Contains(rec.Body.String(), `"code":-32603`) || strings.Contains(rec.Body.String(), "10.0.0.1") {
			t.Errorf("%s: %d %s", name, rec.Code, rec.Body)
		}
	}
	store.down.Store(false)
	alice.must(200, `"result":{}`, pingBody)
	alice.must(200, `"result"`, toolCall("up_t"))
}

// A call in the era without sessions does without the store, but where the upstream wants a session.
func TestModernCallsWithoutAStore(t *testing.T) {
	store := &failing{Store: NewMemory(time.Hour, time.Now)}
	modern := liveModern(`{"tools":{}}`)
	modern.answer("tools/call", `{"content":[]}`)
	g := newGateway(t, egress{"app/old": liveLegacy("old", `{"tools":{}}`), "app/new": modern}, []*authz.App{app("old"), app("new")}, func(c *Config) { c.Store = store })
	ready(t, g.Hub)
	store.down.Store(true)
	for tool, want := range map[string]int{"new_t": 200, "old_t": 502} {
		rec := ask(g, "alice", "POST", modernRequest("tools/call", `{}`, "", `"name":"`+tool+`"`), modernHeaders("tools/call", tool)...)
		if rec.Code != want {
			t.Errorf("%s: %d %s", tool, rec.Code, rec.Body)
		}
	}
}
