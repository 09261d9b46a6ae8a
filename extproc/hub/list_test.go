package hub

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/mcpparse"
)

func TestMergeKeepsOrderAndBytes(t *testing.T) {
	up := modernScript(`{"tools":[{ "title":"Ünï","name":"z" , "inputSchema":{"b":1e2,"a":12345678901234567890}},{"name":"a","execution":{"taskSupport":"optional"}}],"ttlMs":30000}`)
	h := newHub(t, apps("second", "first"), egress{"app/first": legacyScript(toolList("t")), "app/second": up})
	l := listTools(t, h, "alice")
	got := fmt.Sprintf("%s", l.Result.Tools)
	want := `[{ "title":"Ünï","name":"second_z" , "inputSchema":{"b":1e2,"a":12345678901234567890}} {"name":"second_a"} {"name":"first_t","inputSchema":{"type":"object"}}]`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if l.Result.ResultType != "complete" || l.Result.CacheScope != "private" || l.Result.NextCursor != nil {
		t.Errorf("%+v", l.Result)
	}
	if _, ok := l.Result.Meta["io.modelcontextprotocol/serverInfo"]; !ok {
		t.Error("no serverInfo")
	}
	if got := l.unavailable(t); got != nil {
		t.Errorf("unavailable %v", got)
	}
}

func TestListIsFilteredPerCaller(t *testing.T) {
	gate := apps("up")
	gate.hidden = func(subject, tool string) bool { return subject == "bob" && tool != "open" }
	h := newHub(t, gate, egress{"app/up": modernScript(toolList("open", "secret"))})
	if diff := cmp.Diff([]string{"up_open", "up_secret"}, listTools(t, h, "alice").names(t)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"up_open"}, listTools(t, h, "bob").names(t)); diff != "" {
		t.Error(diff)
	}
}

func TestCursorIsRefused(t *testing.T) {
	h := newHub(t, apps(), egress{})
	for params, want := range map[string]string{
		`"cursor":"abc"`: `"code":-32602`,
		`"cursor":""`:    `"code":-32602`,
		`"cursor":1`:     `"code":-32602`,
		`"cursor":null`:  `"tools":[]`,
	} {
		rec := askModern(h, "alice", "tools/list", params)
		if rec.Code != 200 || !strings.Contains(rec.Body.String(), want) {
			t.Errorf("%s: %d %s", params, rec.Code, rec.Body)
		}
	}
}

// paged answers tools/list with the page for each cursor, nil for the first.
func paged(page func(cursor *string) string) *script {
	s := modernScript("")
	s.before = func(w http.ResponseWriter, m rpc) bool {
		if m.Method != "tools/list" {
			return false
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(mcpparse.ResultBody(m.ID, []byte(page(m.Params.Cursor))))
		return true
	}
	return s
}

func TestAllPagesAreDrained(t *testing.T) {
	up := paged(func(cursor *string) string {
		switch {
		case cursor == nil:
			return `{"tools":[{"name":"a"}],"nextCursor":""}`
		case *cursor == "": // a cursor like any other
			return `{"tools":[{"name":"b"}],"nextCursor":"x\"y"}`
		case *cursor == `x"y`:
			return `{"tools":[{"name":"c"}]}`
		}
		return `{"tools":[{"name":"wrong"}]}`
	})
	h := newHub(t, apps("up"), egress{"app/up": up})
	if diff := cmp.Diff([]string{"up_a", "up_b", "up_c"}, listTools(t, h, "alice").names(t)); diff != "" {
		t.Error(diff)
	}
}

func TestBadItemsAreDropped(t *testing.T) {
	long := strings.Repeat("n", 128)
	up := modernScript(toolList("good", "bad name", "ünï", "good", long, long[:125]))
	h := newHub(t, apps("up"), egress{"app/up": up})
	if diff := cmp.Diff([]string{"up_good", "up_" + long[:125]}, listTools(t, h, "alice").names(t)); diff != "" {
		t.Error(diff)
	}
	if c, _ := h.upstream(app("up")).list(); c.dropped != "bad name, ünï, good, "+long {
		t.Errorf("dropped %q", c.dropped)
	}
	if !h.Lists(app("up"), mcpparse.Tool, "good") || h.Lists(app("up"), mcpparse.Tool, "bad name") || h.Lists(app("up"), mcpparse.Tool, "up_good") {
		t.Error("Lists disagrees with the list")
	}
}

// An upstream whose handshake is of no revision is asked all the same, in each agent's own era.
func TestVagueUpstreams(t *testing.T) {
	for name, vague := range map[string]*script{
		"foreign version": {results: map[string]string{"initialize": strings.Replace(legacyInit, "2025-06-18", "1999", 1), "tools/list": toolList("a")}},
		"bad session id":  {results: map[string]string{"initialize": legacyInit, "tools/list": toolList("a")}, sessionID: func() string { return "a b" }},
		"no handshake":    {results: map[string]string{"tools/list": toolList("a")}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHub(t, apps("up"), egress{"app/up": vague})
			if diff := cmp.Diff([]string{"up_a"}, listTools(t, h, "alice").names(t)); diff != "" {
				t.Error(diff)
			}
			modern, err := h.Leg(t.Context(), app("up"), peer("o", mcpparse.EraModern))
			if want := (authz.Leg{Era: mcpparse.EraModern, Version: mcpparse.LatestModern}); err != nil || modern != want {
				t.Errorf("modern agent: %+v, %v", modern, err)
			}
			if legacy, err := h.Leg(t.Context(), app("up"), peer("o", mcpparse.EraLegacy)); err != nil || legacy.SessionID != "" {
				t.Errorf("legacy agent: %+v, %v", legacy, err)
			}
		})
	}
}

// One bad upstream makes one app unavailable.
func TestBadUpstreams(t *testing.T) {
	write := func(contentType, body string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", contentType)
			_, _ = w.Write([]byte(body))
		})
	}
	many := func(n int) string {
		names := make([]string, n)
		for i := range names {
			names[i] = "t" + strconv.Itoa(i)
		}
		return toolList(names...)
	}
	for name, bad := range map[string]http.Handler{
		"dead":             nil,
		"HTML":             write("text/html", "<html>hello</html>"),
		"HTML as JSON":     write("application/json", "<html>hello</html>"),
		"500":              http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }),
		"redirect":         http.RedirectHandler("http://evil.example/", http.StatusTemporaryRedirect),
		"other id":         write("application/json", `{"jsonrpc":"2.0","id":"other","result":`+dualDiscover+`}`),
		"empty stream":     write("text/event-stream", ": nothing\n\n"),
		"duplicate keys":   modernScript(`{"tools":[{"name":"a","name":"b"}]}`),
		"twice tools":      modernScript(`{"tools":[],"tools":[{"name":"a"}]}`),
		"bad UTF-8":        modernScript("{\"tools\":[{\"name\":\"a\",\"title\":\"\xff\"}]}"),
		"no tools":         modernScript(`{}`),
		"tools no array":   modernScript(`{"tools":{}}`),
		"too many":         modernScript(many(maxItems + 1)),
		"too big":          modernScript(`{"tools":[{"name":"a","title":"` + strings.Repeat("x", maxListBytes) + `"}]}`),
		"far too big":      modernScript(`{"tools":[{"name":"a","title":"` + strings.Repeat("x", maxAnswerBytes) + `"}]}`),
		"endless pages":    paged(func(*string) string { return `{"tools":[],"nextCursor":"again"}` }),
		"wants a token":    http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) }),
		"compressed":       compressed(),
		"error for a list": modernScript(""),
	} {
		t.Run(name, func(t *testing.T) {
			via := egress{"app/good": modernScript(toolList("t"))}
			if bad != nil {
				via["app/bad"] = bad
			}
			h := newHub(t, apps("bad", "good"), via)
			l := listTools(t, h, "alice")
			if diff := cmp.Diff([]string{"good_t"}, l.names(t)); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff([]string{"bad"}, l.unavailable(t)); diff != "" {
				t.Error(diff)
			}
			if *l.Result.TTLMs != 0 {
				t.Errorf("ttlMs %d with an app missing", *l.Result.TTLMs)
			}
		})
	}
}

func compressed() http.Handler {
	s := modernScript(toolList("a"))
	s.before = func(w http.ResponseWriter, _ rpc) bool {
		w.Header().Set("Content-Encoding", "gzip")
		return false
	}
	return s
}

func TestListAtTheBounds(t *testing.T) {
	names := make([]string, maxItems)
	for i := range names {
		names[i] = "t" + strconv.Itoa(i)
	}
	h := newHub(t, apps("up"), egress{"app/up": modernScript(toolList(names...))})
	if got := len(listTools(t, h, "alice").Result.Tools); got != maxItems {
		t.Errorf("%d tools", got)
	}
}

func hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// A hanging upstream delays the first list by no more than the deadline, and later ones not at all.
func TestSlowUpstream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, apps("slow", "good"), egress{"app/slow": http.HandlerFunc(hang), "app/good": modernScript(toolList("t"))})
		for _, limit := range []time.Duration{listDeadline, 0} {
			begun := time.Now()
			l := listTools(t, h, "alice")
			if took := time.Since(begun); took > limit {
				t.Errorf("took %v, want at most %v", took, limit)
			}
			if diff := cmp.Diff([]string{"good_t"}, l.names(t)); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff([]string{"slow"}, l.unavailable(t)); diff != "" {
				t.Error(diff)
			}
		}
	})
}

// A list that is known is answered at once, refreshed behind the answer, and kept when its upstream goes down.
func TestLastGoodListIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := &switchable{}
		up.set(modernScript(`{"tools":[{"name":"a"}],"ttlMs":120000}`))
		h := newHub(t, apps("up"), egress{"app/up": up})
		check := func(when string, wantNames, wantDown []string) {
			t.Helper()
			begun := time.Now()
			l := listTools(t, h, "alice")
			if took := time.Since(begun); took != 0 {
				t.Errorf("%s: took %v", when, took)
			}
			if diff := cmp.Diff(wantNames, l.names(t)); diff != "" {
				t.Errorf("%s: %s", when, diff)
			}
			if diff := cmp.Diff(wantDown, l.unavailable(t)); diff != "" {
				t.Errorf("%s: %s", when, diff)
			}
		}
		check("first", []string{"up_a"}, nil)
		if ttl := *listTools(t, h, "alice").Result.TTLMs; ttl != 120_000 {
			t.Errorf("ttlMs %d", ttl)
		}

		up.set(modernScript(toolList("b")))
		time.Sleep(119 * time.Second)
		check("within the ttl", []string{"up_a"}, nil)
		if ttl := *listTools(t, h, "alice").Result.TTLMs; ttl != 1000 {
			t.Errorf("ttlMs %d at the end of the ttl", ttl)
		}
		time.Sleep(3 * time.Second)
		check("after the ttl", []string{"up_b"}, nil)

		up.set(http.HandlerFunc(hang))
		time.Sleep(2 * time.Minute)
		check("down", []string{"up_b"}, []string{"up"})

		up.set(modernScript(toolList("c")))
		time.Sleep(time.Minute)
		check("up again", []string{"up_c"}, nil)
	})
}

func TestListTTL(t *testing.T) {
	for hint, want := range map[string]time.Duration{
		``:                   time.Minute,
		`,"ttlMs":0`:         5 * time.Second,
		`,"ttlMs":1`:         5 * time.Second,
		`,"ttlMs":30000`:     30 * time.Second,
		`,"ttlMs":1e300`:     5 * time.Minute,
		`,"ttlMs":-1`:        time.Minute,
		`,"ttlMs":"3600000"`: time.Minute,
	} {
		now := time.Unix(0, 0)
		c := catalogue{expires: now.Add(defaultListTTL)}
		c.hint([]byte(`{"tools":[]`+hint+`}`), now)
		if got := c.expires.Sub(now); got != want {
			t.Errorf("%s: %v, want %v", hint, got, want)
		}
	}
}

func TestReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, apps("up", "slow"), egress{"app/up": modernScript(toolList()), "app/slow": http.HandlerFunc(hang)})
		synctest.Wait()
		if h.Ready() {
			t.Error("ready before the slow one was tried")
		}
		time.Sleep(drainDeadline)
		if !h.Ready() {
			t.Error("not ready after all were tried")
		}
	})
}

// A thousand callers at once cost an upstream one list.
func TestListIsFetchedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := modernScript(toolList("a"))
		up.before = func(http.ResponseWriter, rpc) bool {
			time.Sleep(time.Second)
			return false
		}
		h := newHub(t, apps("up"), egress{"app/up": up})
		var good atomic.Int32
		for range 1000 {
			go func() {
				if len(listTools(t, h, "alice").Result.Tools) == 1 {
					good.Add(1)
				}
			}()
		}
		time.Sleep(listDeadline)
		if good.Load() != 1000 || up.count("tools/list") != 1 || up.count("server/discover") != 1 {
			t.Errorf("%d good answers, %d lists, %d probes", good.Load(), up.count("tools/list"), up.count("server/discover"))
		}
	})
}

// A reload adds, removes and renames apps.
func TestReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := apps("a", "b")
		var current atomic.Pointer[testGate]
		current.Store(gate)
		via := egress{"app/a": modernScript(toolList("t")), "app/b": modernScript(toolList("t")), "app/c": modernScript(toolList("t"))}
		h := newHub(t, gate, via, func(c *Config) { c.Gate = func() Gate { return current.Load() } })
		if diff := cmp.Diff([]string{"a_t", "b_t"}, listTools(t, h, "alice").names(t)); diff != "" {
			t.Error(diff)
		}
		current.Store(&testGate{apps: []*authz.App{app("c"), {Name: "b", Prefix: "other_", Route: "app/b"}}})
		if diff := cmp.Diff([]string{"c_t", "other_t"}, listTools(t, h, "alice").names(t)); diff != "" {
			t.Error(diff)
		}
		time.Sleep(2 * tick)
		h.mu.RLock()
		defer h.mu.RUnlock()
		if len(h.upstreams) != 2 {
			t.Errorf("%d upstreams remembered", len(h.upstreams))
		}
	})
}

// Names are unique in a list even when two apps have no prefix: what both claim is nobody's, as it is when it is called.
func TestNamesAreUnique(t *testing.T) {
	gate := &testGate{apps: []*authz.App{{Name: "a", Route: "app/a"}, {Name: "b", Route: "app/b"}}}
	h := newHub(t, gate, egress{"app/a": modernScript(`{"tools":[{"name":"t","from":"a"}]}`), "app/b": modernScript(`{"tools":[{"name":"t","from":"b"},{"name":"u"}]}`)})
	if diff := cmp.Diff(`[{"name":"u"}]`, fmt.Sprintf("%s", listTools(t, h, "alice").Result.Tools)); diff != "" {
		t.Error(diff)
	}
}

// What a caller may see nothing of is not named to it either.
func TestUnavailableNamesNoHiddenApp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := apps("up")
		gate.hidden = func(subject, _ string) bool { return subject == "bob" }
		up := &switchable{}
		up.set(modernScript(toolList("a")))
		h := newHub(t, gate, egress{"app/up": up})
		listTools(t, h, "alice")
		up.set(http.NotFoundHandler())
		time.Sleep(2 * time.Minute)
		if diff := cmp.Diff([]string{"up"}, listTools(t, h, "alice").unavailable(t)); diff != "" {
			t.Error(diff)
		}
		if got := listTools(t, h, "bob").unavailable(t); got != nil {
			t.Errorf("bob learnt of %v", got)
		}
	})
}

func BenchmarkList(b *testing.B) {
	var names []string
	for i := range 20 {
		names = append(names, fmt.Sprintf("tool_number_%d", i))
	}
	gate, via := &testGate{}, egress{}
	for i := range 10 {
		a := app("app" + strconv.Itoa(i))
		gate.apps = append(gate.apps, a)
		via[a.Route] = modernScript(toolList(names...))
	}
	h, err := New(Config{Gate: func() Gate { return gate }, Sessions: sealer(b), Upstream: via, Log: discard})
	if err != nil {
		b.Fatal(err)
	}
	defer h.stop()
	b.ReportAllocs()
	for b.Loop() {
		if rec := askModern(h, "alice", "tools/list", ""); rec.Code != 200 {
			b.Fatal(rec.Code)
		}
	}
}
