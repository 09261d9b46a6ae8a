package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// Servers that claim what is not theirs.

// offering is a liar with resources and prompts: the JSON of the lists.
func offering(t *testing.T, speaks, resources, templates, prompts string) *liar {
	l := newLiar(t, speaks, nil)
	read := `{"resultType":"complete","ttlMs":9,"cacheScope":"public","contents":[{"uri":"x","text":"from ` + speaks + `"}]}`
	l.instead = map[string]func(turn){
		"server/discover":          resulting(`{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{},"prompts":{},"resources":{}},"ttlMs":0,"cacheScope":"public"}`),
		"initialize":               resulting(`{"protocolVersion":"2025-11-25","capabilities":{"tools":{},"prompts":{},"resources":{}},"serverInfo":{"name":"liar","version":"1"}}`),
		"resources/list":           resulting(`{"resources":[` + resources + `]}`),
		"resources/templates/list": resulting(`{"resourceTemplates":[` + templates + `]}`),
		"prompts/list":             resulting(`{"prompts":[` + prompts + `]}`),
		"resources/read":           resulting(read),
	}
	return l
}

// inEra asks for a list, or for a resource when uri is not "", in a session or, without one, in the era that has none.
func inEra(session, method, uri string) request {
	params := ""
	if uri != "" {
		params = `"uri":"` + uri + `"`
	}
	if session != "" {
		return legacy(session, `{"jsonrpc":"2.0","id":7,"method":"`+method+`","params":{`+params+`}}`)
	}
	r := modernMethod(method)
	if uri != "" {
		r.body = strings.Replace(r.body, `"params":{`, `"params":{`+params+`,`, 1)
		r.header["Mcp-Name"] = uri
	}
	return r
}

// TestHostileClaims: a URI that two servers list is nobody's; a template that makes every URI takes away none that is listed.
func TestHostileClaims(t *testing.T) {
	for _, speaks := range []string{"modern", "legacy"} {
		var honest, greedy *liar
		h := startAmong(t, func() string {
			honest = offering(t, speaks, `{"uri":"a://mine","name":"mine"},{"uri":"a://both","name":"both"}`, `{"uriTemplate":"b://{id}","name":"b"}`, `{"name":"p"}`)
			greedy = offering(t, speaks, `{"uri":"a://both","name":"both"},{"uri":"c://x\ny","name":"bad"},{"uri":"c://own","name":"own"},{"uri":"c://own","name":"bad"}`,
				`{"uriTemplate":"{+anything}","name":"all"},{"uriTemplate":"{+a}{+b}{+c}{+d}{+e}{+f}{+g}{+h}","name":"slow"},{"uriTemplate":"{","name":"bad"},{"uriTemplate":"`+strings.Repeat("{a}", 2000)+`","name":"long"}`,
				`{"name":"p"},{"name":"bad\nbad"},{"name":"p"}`)
			return appConfig("honest", "stream", honest.URL+"/mcp") + appConfig("greedy", "stream", greedy.URL+"/mcp")
		})
		for era, session := range map[string]string{"modern": "", "legacy": h.open(h.token, `{}`)} {
			era = "a " + speaks + " server and a " + era + " agent"
			list := string(h.send(inEra(session, "resources/list", "")).Body)
			if strings.Contains(list, "a://both") || strings.Contains(list, "bad") || !strings.Contains(list, `"a://mine"`) || strings.Count(list, `"c://own"`) != 1 {
				t.Errorf("%s: resources %s", era, list)
			}
			list = string(h.send(inEra(session, "prompts/list", "")).Body)
			if strings.Count(list, `"honest_p"`) != 1 || strings.Count(list, `"greedy_p"`) != 1 || strings.Contains(list, "bad") {
				t.Errorf("%s: prompts %s", era, list)
			}
			for uri, want := range map[string]string{"a://mine": "honest", "c://own": "greedy", "a://both": "", "b://1": "", "d://made": "greedy", strings.Repeat("x", 8000): ""} {
				before, begun := len(honest.arrived("resources/read"))-len(greedy.arrived("resources/read")), time.Now()
				a := h.send(inEra(session, "resources/read", uri))
				reached := map[int]string{0: "", 1: "honest", -1: "greedy"}[len(honest.arrived("resources/read"))-len(greedy.arrived("resources/read"))-before]
				if reached != want || (want == "") != (a.RPC.Error != nil) || a.Status != http.StatusOK || session == "" && strings.Contains(string(a.Body), "public") {
					t.Errorf("%s: %.50s was asked of %q, want %q: %s", era, uri, reached, want, a)
				}
				if took := time.Since(begun); took > 2*time.Second {
					t.Errorf("%s: %.50s took %v", era, uri, took)
				}
			}
		}
		h.wellAfterwards()
	}
}

// TestHostileListChanges: a server that says ten thousand times a second that its list has changed is asked about once a
// second, and agents are told no more often, whether or not it really changes.
func TestHostileListChanges(t *testing.T) {
	t.Parallel() // it takes some seconds by the clock
	var said, reads atomic.Int64
	changing := func(t turn) {
		n := reads.Add(1)
		t.result(listOf(item("a"), item(fmt.Sprint("t", n))))
	}
	news := func(t turn, prefix string) {
		if !t.say(prefix) {
			return
		}
		for tick := time.NewTicker(10 * time.Millisecond); ; {
			select {
			case <-t.r.Context().Done():
				return
			case <-tick.C:
				if !t.say(strings.Repeat(event(listChange), 100)) {
					return
				}
				said.Add(100)
			}
		}
	}
	for _, speaks := range []string{"modern", "legacy"} {
		t.Run(speaks, func(t *testing.T) {
			said.Store(0)
			reads.Store(0)
			l := newLiar(t, speaks, nil)
			l.streams(func(t turn) { news(t, ":\n\n") })
			l.instead = map[string]func(turn){
				"tools/list":      changing,
				"server/discover": resulting(`{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{"listChanged":true}},"ttlMs":0,"cacheScope":"public"}`),
				"initialize": func(t turn) {
					t.w.Header().Set("Mcp-Session-Id", "upstream-session-x")
					t.result(`{"protocolVersion":"2025-11-25","capabilities":{"tools":{"listChanged":true}},"serverInfo":{"name":"liar","version":"1"}}`)
				},
				"subscriptions/listen": func(t turn) {
					t.w.Header().Set("Content-Type", "text/event-stream")
					news(t, event(`{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"notifications":{"toolsListChanged":true}}}`))
				},
			}
			h := startAmong(t, func() string { return appConfig("flood", "stream", l.URL+"/mcp") })
			session := h.open(h.token, `{}`)
			h.send(legacyCall(session, "flood_call", `{}`))
			heard := h.listen(h.token, session)
			listen := modernMethod("subscriptions/listen")
			listen.body = `{"jsonrpc":"2.0","id":7,"method":"subscriptions/listen","params":{"notifications":{"toolsListChanged":true},` + modernMeta + `}}`
			listen.token = h.token
			listening := h.hear(listen)
			await(t, "the flood", func() bool { return said.Load() > 0 })
			before, begun := reads.Load(), time.Now()
			used := processor(t, h.gateway.cmd.Process.Pid)
			await(t, "thirty thousand changes", func() bool { return said.Load() > 30_000 })
			seconds := time.Since(begun).Seconds()
			if took := processor(t, h.gateway.cmd.Process.Pid) - used; took > time.Duration(seconds*float64(time.Second))/2 {
				t.Errorf("it took %v of %.1f s of a processor", took, seconds)
			}
			if n := float64(reads.Load() - before); n > seconds+2 || n < 1 {
				t.Errorf("%v readings in %.1f s", n, seconds)
			}
			for name, s := range map[string]*transcript{"GET": heard, "listen": listening} {
				text := s.stop()
				if n := strings.Count(text, "list_changed"); float64(n) > seconds+3 || n == 0 {
					t.Errorf("%s: told %d times in %.1f s", name, n, seconds)
				}
			}
			if a := h.send(modern("open_echo", `{}`)); a.RPC.Result == nil {
				t.Error(a)
			}
			h.wellAfterwards()
		})
	}
}

// processor is how much of a processor's time a process has used (proc(5), in hundredths of a second).
func processor(t *testing.T, pid int) time.Duration {
	t.Helper()
	var user, system int
	f := strings.Fields(contents(t, fmt.Sprintf("/proc/%d/stat", pid)))
	_, err := fmt.Sscan(f[13]+" "+f[14], &user, &system)
	must(t, err)
	return time.Duration(user+system) * 10 * time.Millisecond
}
