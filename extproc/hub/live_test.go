package hub

import (
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidwall/gjson"
)

// live is an upstream whose event streams stay open: what is said on them, a test says.
type live struct {
	*script

	mu      sync.Mutex
	streams map[string]chan string // by session, or by what is listened for
	opened  []rpc                  // the requests that opened them
	lost    map[string]bool        // sessions that it no longer knows
}

// liveLegacy is one with sessions, "name-1" and so on, which offers what capabilities say.
func liveLegacy(name, capabilities string) *live {
	var n atomic.Int32
	l := &live{streams: map[string]chan string{}, lost: map[string]bool{}}
	l.script = &script{
		results: map[string]string{
			"initialize": `{"protocolVersion":"2025-11-25","capabilities":` + capabilities + `,"serverInfo":{"name":"s","version":"1"}}`,
			"tools/list": toolList("t"), "prompts/list": `{"prompts":[]}`, "resources/list": `{"resources":[]}`,
			"resources/templates/list": `{"resourceTemplates":[]}`, "logging/setLevel": `{}`, "resources/subscribe": `{}`, "resources/unsubscribe": `{}`,
			"tools/call": `{"content":[]}`},
		sessionID: func() string { return fmt.Sprint(name, "-", n.Add(1)) },
	}
	l.before = func(w http.ResponseWriter, m rpc) bool {
		l.mu.Lock()
		lost := l.lost[m.session]
		l.mu.Unlock()
		switch {
		case m.Method == "server/discover":
			w.WriteHeader(http.StatusBadRequest)
		case lost:
			w.WriteHeader(http.StatusNotFound)
		case m.verb == http.MethodGet:
			l.stream(w, m, m.session)
		default:
			return false
		}
		return true
	}
	return l
}

// liveModern is one without, which answers subscriptions/listen. The key of a stream is its filter.
func liveModern(capabilities string) *live {
	l := &live{streams: map[string]chan string{}}
	l.script = &script{results: map[string]string{
		"server/discover": `{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":` + capabilities + `}`,
		"tools/list":      toolList("t"), "prompts/list": `{"prompts":[]}`, "resources/list": `{"resources":[]}`,
		"resources/templates/list": `{"resourceTemplates":[]}`}}
	l.before = func(w http.ResponseWriter, m rpc) bool {
		switch {
		case m.version != "2026-07-28":
			w.WriteHeader(http.StatusBadRequest)
		case m.Method == "subscriptions/listen":
			l.stream(w, m, gjson.Get(m.body, "params.notifications").Raw)
		default:
			return false
		}
		return true
	}
	return l
}

const acknowledged = `data: {"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"notifications":{}}}` + "\n\n"

func (l *live) stream(w http.ResponseWriter, m rpc, key string) {
	said := make(chan string)
	l.mu.Lock()
	l.streams[key] = said
	l.opened = append(l.opened, m)
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.streams[key] == said {
			delete(l.streams, key)
		}
	}()
	w.Header().Set("Content-Type", "text/event-stream")
	w.WriteHeader(http.StatusOK)
	if m.verb == http.MethodPost {
		_, _ = w.Write([]byte(acknowledged))
	}
	flush := http.NewResponseController(w)
	for {
		_ = flush.Flush()
		select {
		case <-m.ctx.Done():
			return
		case text := <-said:
			if _, err := w.Write([]byte(text)); text == "" || err != nil {
				return
			}
		}
	}
}

// say says text on the stream of key once that is open; "" ends it.
func (l *live) say(t *testing.T, key, text string) {
	t.Helper()
	for begun := time.Now(); time.Since(begun) < patience; time.Sleep(10 * time.Millisecond) {
		l.mu.Lock()
		said := l.streams[key]
		l.mu.Unlock()
		if said == nil {
			continue
		}
		select {
		case said <- text:
			return
		case <-time.After(time.Second):
		}
	}
	t.Fatalf("no stream of %q, but %v", key, l.open())
}

// message says a message on the stream of key.
func (l *live) message(t *testing.T, key, message string) {
	t.Helper()
	l.say(t, key, "data: "+message+"\n\n")
}

// open are the keys of the streams that are open.
func (l *live) open() (keys []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for key := range l.streams {
		keys = append(keys, key)
	}
	return keys
}

// openings are the requests that opened streams of key.
func (l *live) openings(key string) (out []rpc) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range l.opened {
		if m.session == key || key != "" && gjson.Get(m.body, "params.notifications").Raw == key {
			out = append(out, m)
		}
	}
	return out
}

// forget loses a session.
func (l *live) forget(session string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lost[session] = true
}

// sent are the bodies of the messages with this method that were sent in a session; "response" are responses.
func (s *script) sent(session, method string) (bodies []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.seen {
		if r.session == session && (r.method == method || method == "response" && r.method == "" && r.body != "") {
			bodies = append(bodies, r.body)
		}
	}
	return bodies
}

// sentWith is the Authorization of the last of those messages.
func (s *script) sentWith(session, method string) (authorization string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.seen {
		if r.session == session && (r.method == method || method == "response" && r.method == "" && r.body != "") {
			authorization = r.authorization
		}
	}
	return authorization
}
