package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// Lies that only the 2024-11-05 transport can tell: about where to post, and in answer to what is posted.

// oldLiar is a server of that transport with one flaw.
type oldLiar struct {
	stream func(t turn, self string)   // in place of its stream
	post   func(w http.ResponseWriter) // in place of accepting a message
}

func (o oldLiar) serve(t *testing.T) string {
	honest := newLiar(t, "sse", nil)
	return serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodGet && o.stream != nil:
			w.Header().Set("Content-Type", "text/event-stream")
			o.stream(turn{w: w, r: r, say: sayer(w)}, "http://"+r.Host)
		case r.Method == http.MethodPost && o.post != nil:
			o.post(w)
		default:
			honest.ServeHTTP(w, r)
		}
	}))
}

// endpointOf is a stream that names an address to post to.
func endpointOf(address string) oldLiar {
	return oldLiar{stream: func(t turn, self string) {
		t.say("event: endpoint\ndata: " + strings.NewReplacer("@SELF", self, "@SECURE", strings.Replace(self, "http:", "https:", 1)).Replace(address) + "\n\n")
	}}
}

// TestHostileEndpoints: messages are posted to the server that was configured and to no other, and one that cannot be
// talked to is not called.
func TestHostileEndpoints(t *testing.T) {
	t.Parallel() // it waits for one that says nothing
	var visits atomic.Int32
	elsewhere := serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { visits.Add(1) }))
	early := ""
	for n := range 200 {
		early += event(fmt.Sprintf(`{"jsonrpc":"2.0","id":"sallyport-%d","result":{"protocolVersion":"2025-11-25","capabilities":{}}}`, n))
	}
	all := map[string]oldLiar{
		"elsewhere":       endpointOf(elsewhere),
		"no-scheme":       endpointOf(strings.TrimPrefix(elsewhere, "http:")),
		"secure":          endpointOf("@SECURE/post"),
		"user":            endpointOf("http://evil@" + strings.TrimPrefix(elsewhere, "http://")),
		"own-user":        endpointOf("//evil@" + strings.TrimPrefix("@SELF", "http:")),
		"script":          endpointOf("javascript:evil"),
		"file":            endpointOf("file:///etc/passwd"),
		"long":            endpointOf("/" + strings.Repeat("x", 3<<10)),
		"escape":          endpointOf("/%zz"),
		"control":         endpointOf("/evil\x7f"),
		"empty":           endpointOf(""),
		"ends":            endpointOf("@SELF/post"),
		"answers-first":   {stream: func(t turn, _ string) { t.say(early + "event: endpoint\ndata: /nobody\n\n") }},
		"no-endpoint":     {stream: func(t turn, _ string) { t.say(event(note)); hang(t) }},
		"no-events":       {stream: func(t turn, _ string) { t.say("") }},
		"no-stream":       {stream: func(t turn, _ string) { t.w.Header().Set("Content-Type", "application/json"); t.say("{}") }},
		"redirected":      {stream: func(t turn, _ string) { http.Redirect(t.w, t.r, elsewhere, http.StatusTemporaryRedirect) }},
		"guarded":         {stream: func(t turn, _ string) { t.w.WriteHeader(http.StatusUnauthorized) }},
		"endless":         {stream: func(t turn, _ string) { flood(t, "event: endpoint\ndata: /", "x", giant) }},
		"post-redirected": {post: func(w http.ResponseWriter) { w.Header().Set("Location", elsewhere); w.WriteHeader(307) }},
		"post-refused":    {post: func(w http.ResponseWriter) { w.WriteHeader(500) }},
	}
	h := startAmong(t, func() (config string) {
		for name, o := range all {
			config += appConfig(name, "sse", o.serve(t))
		}
		return config
	})
	session := h.open(h.token, `{}`)
	var group sync.WaitGroup
	for name := range all {
		group.Go(func() {
			for era, r := range map[string]request{"legacy": legacyCall(session, name+"_call", `{}`), "modern": modern(name+"_call", `{}`)} {
				a, err := h.try(r)
				if err != nil || a.Status != http.StatusBadGateway || a.RPC.Error == nil || a.RPC.Error.Code != -32603 || len(a.RPC.ID) < 1 || strings.Contains(string(a.Body), evil) {
					t.Errorf("%s, %s: %s, %v", name, era, a, err)
				}
			}
		})
	}
	group.Wait()
	if n := visits.Load(); n != 0 {
		t.Errorf("somebody else was visited %d times", n)
	}
	h.wellAfterwards()
}

// TestHostileBurst: who says a thousand things in one breath is not heard in all of them; the answer arrives.
func TestHostileBurst(t *testing.T) {
	burst := lie{name: "a burst", events: strings.Repeat(event(note), 1000) + event(fine), slow: true}
	h := startLair(t, burst)
	for way, to := range ways {
		for range 3 {
			r, _ := h.ask(burst, way)
			if a := h.send(r); a.Status != http.StatusOK || !strings.Contains(string(a.Body), `"result"`) {
				t.Errorf("%s: %.300s", way, a)
			} else if n := strings.Count(string(a.Body), "notifications/message"); n != 1000 && to.app != "sse" && way != "down" {
				t.Errorf("%s: %d of 1,000 notifications", way, n)
			}
		}
	}
	h.wellAfterwards()
}
