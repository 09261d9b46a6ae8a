package authz_test

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/mcpparse"
)

// everything is a set of headers that a hostile or chatty client sends beside the ones that MCP wants.
var everything = []string{"cookie", "a=b", "proxy-authorization", "Basic x", "x-sallyport-route", "app-items", "x-sallyport-source", "6.6.6.6",
	"x-forwarded-user", "root", "x-user", "root", "mcp-param-region", "eu", "last-event-id", "9", "x-api-key", "k", "accept-encoding", "gzip",
	"user-agent", "agent/1", "traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "x-envoy-original-path", "/", "x-request-id", "r", "content-length", "999", "origin", "http://localhost"}

var alwaysRemoved = []string{"accept-encoding", "authorization", "cookie", "last-event-id"}

var (
	legacyLeg = authz.Leg{Era: mcpparse.EraLegacy, Version: "2025-06-18", SessionID: "upstream-1"}
	modernLeg = authz.Leg{Era: mcpparse.EraModern, Version: "2026-07-28"}
)

// The exact lists of what is removed and set, where agent and upstream are of one era: see TestCarrying for the others.
func TestForwarding(t *testing.T) {
	statelessLeg := authz.Leg{Era: mcpparse.EraLegacy}
	params := func(extra string) string { return `"name":"listItems","arguments":{"n": 1.50}` + extra }
	for _, test := range []struct {
		name    string
		era     string // of the agent
		tool    string
		leg     authz.Leg
		query   string
		removed []string // beside what is always removed
		set     [][2]string
		params  string // in the body; "" for a body that stays
		watch   bool
	}{
		{name: "modern to modern", era: "modern", tool: "my_server_listItems", leg: modernLeg,
			removed: []string{"mcp-method", "mcp-name", "mcp-protocol-version"},
			set: [][2]string{{"x-sallyport-route", "app-items"}, {"authorization", "Bearer " + issuedToken}, {"mcp-protocol-version", "2026-07-28"},
				{"mcp-method", "tools/call"}, {"mcp-name", "listItems"}},
			params: params("," + modernMeta)},
		{name: "legacy to legacy", era: "legacy", tool: "my_server_listItems", leg: legacyLeg,
			removed: []string{"mcp-param-region", "mcp-protocol-version", "mcp-session-id"},
			set:     [][2]string{{"x-sallyport-route", "app-items"}, {"authorization", "Bearer " + issuedToken}, {"mcp-protocol-version", "2025-06-18"}, {"mcp-session-id", "upstream-1"}},
			params:  params(""), watch: true},
		{name: "legacy to an upstream without sessions", era: "legacy", tool: "my_server_listItems", leg: statelessLeg,
			removed: []string{"mcp-param-region", "mcp-protocol-version", "mcp-session-id"},
			set:     [][2]string{{"x-sallyport-route", "app-items"}, {"authorization", "Bearer " + issuedToken}},
			params:  params(""), watch: true},
		{name: "unprotected", era: "modern", tool: "open_echo", leg: modernLeg,
			removed: []string{"mcp-method", "mcp-name", "mcp-protocol-version"},
			set:     [][2]string{{"x-sallyport-route", "app-open"}, {"mcp-protocol-version", "2026-07-28"}, {"mcp-method", "tools/call"}, {"mcp-name", "echo"}},
			params:  `"name":"echo","arguments":{"n": 1.50},` + modernMeta},
		{name: "query", era: "modern", tool: "open_echo", leg: modernLeg, query: "a=b",
			removed: []string{"mcp-method", "mcp-name", "mcp-protocol-version"},
			set:     [][2]string{{":path", "/mcp"}, {"x-sallyport-route", "app-open"}, {"mcp-protocol-version", "2026-07-28"}, {"mcp-method", "tools/call"}, {"mcp-name", "echo"}},
			params:  `"name":"echo","arguments":{"n": 1.50},` + modernMeta},
		{name: "bare name: the body stays", era: "modern", tool: "echo", leg: modernLeg,
			removed: []string{"mcp-method", "mcp-name", "mcp-protocol-version"},
			set:     [][2]string{{"x-sallyport-route", "app-open"}, {"mcp-protocol-version", "2026-07-28"}, {"mcp-method", "tools/call"}, {"mcp-name", "echo"}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, func(w *world) {
				w.upstreams.leg = test.leg
				if test.tool == "echo" {
					w.open.Prefix = ""
				}
			})
			r, body := modernCall(test.tool, `{"n": 1.50}`)
			if test.era == "legacy" {
				r, body = legacyCall(w.session(ownerOf), test.tool, `{"n": 1.50}`)
			}
			r = with(r, everything...)
			r.RawQuery = test.query
			v := w.judge(r, body)
			if !v.Forwards() {
				t.Fatal(outcome(v))
			}
			removed := map[string]bool{}
			for _, name := range append(append([]string{"origin", "proxy-authorization", "x-api-key", "x-forwarded-user", "x-sallyport-route", "x-sallyport-source", "x-user"},
				alwaysRemoved...), test.removed...) {
				removed[name] = true
			}
			got := map[string]bool{}
			for _, name := range v.Remove {
				got[name] = true
			}
			diff(t, "removed", removed, got)
			want := test.set
			if test.params != "" {
				head, _, _ := strings.Cut(body, `"params"`)
				wantBody := head + `"params":{` + test.params + `}}`
				diff(t, "body", wantBody, string(v.Body))
				want = append(slices.Clip(want), [2]string{"content-length", strconv.Itoa(len(wantBody))})
			} else if v.Body != nil {
				t.Errorf("the body was replaced: %s", v.Body)
			}
			diff(t, "set", want, v.Set)
			diff(t, "watch", test.watch, v.Watch)
			w.checkForwarded(v, body)
		})
	}
}

// checkForwarded asserts what holds for every verdict that leads to an upstream.
func (w *world) checkForwarded(v authz.Verdict, body string) {
	w.tb.Helper()
	forwarded := []byte(body)
	if v.Body != nil {
		forwarded = v.Body
	}
	authorizations := 0
	for _, set := range v.Set {
		if set[0] == "authorization" {
			authorizations++
			diff(w.tb, "authorization", "Bearer "+issuedToken, set[1])
		}
		if set[0] == "content-length" {
			diff(w.tb, "content-length", strconv.Itoa(len(forwarded)), set[1])
		}
		if strings.Contains(set[1], agentToken) {
			w.tb.Errorf("the agent's token is set in %s", set[0])
		}
	}
	if want := map[string]int{"app-items": 1, "app-open": 0}[v.Route]; authorizations != want {
		w.tb.Errorf("%d authorizations, want %d", authorizations, want)
	}
	if !json.Valid(forwarded) || strings.Contains(string(forwarded), agentToken) {
		w.tb.Errorf("forwarded %s", forwarded)
	}
}

func TestForwardingToTheHub(t *testing.T) {
	for _, query := range []string{"", "a=b"} {
		w := newWorld(t)
		r, body := modernList("x-sallyport-route", "app-items", "x-sallyport-source", "6.6.6.6")
		r.RawQuery = query
		v := w.judge(r, body)
		want := [][2]string{{"x-sallyport-route", "hub"}, {"x-sallyport-source", "192.0.2.7"}}
		if query != "" {
			want = append([][2]string{{":path", "/mcp"}}, want...)
		}
		diff(t, "set", want, v.Set)
		if v.Route != authz.HubRoute || v.Body != nil || v.Watch || v.Reply != nil {
			t.Errorf("verdict %+v", v)
		}
	}
}

// A trace context goes on when it is one (W3C Trace Context), and not as a carrier for anything else.
func TestTraceContext(t *testing.T) {
	const good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for _, test := range []struct {
		name    string
		headers []string
		removed bool
	}{
		{"parent and state", []string{"traceparent", good, "tracestate", "vendor=1"}, false},
		{"no parent", []string{"traceparent", "x; DROP TABLE", "tracestate", "vendor=1"}, true},
		{"endless state", []string{"traceparent", good, "tracestate", strings.Repeat("v=1,", 200)}, true},
	} {
		r, body := modernCall("my_server_listItems", "{}")
		v := newWorld(t).judge(with(r, test.headers...), body)
		if got := slices.Contains(v.Remove, "traceparent"); !v.Forwards() || got != test.removed {
			t.Errorf("%s: removed %v, want %v", test.name, got, test.removed)
		}
	}
}

// The host is told how long a call may take: as the app says, and no longer than the caller's token is good for.
func TestTimeoutOfACall(t *testing.T) {
	now := time.Date(2026, 11, 23, 1, 2, 3, 0, time.UTC)
	limits := authz.Timeouts{Default: time.Minute, Tools: durations(t, map[string]time.Duration{"slow*": time.Hour, "quick": 1500 * time.Millisecond})}
	for _, test := range []struct {
		name    string
		tool    string
		limits  authz.Timeouts
		expires time.Duration // of the caller's token; 0 for never
		want    string
	}{
		{"no limit", "echo", authz.Timeouts{}, 0, ""},
		{"the app's", "echo", limits, 0, "60000"},
		{"the tool's", "slow1", limits, 0, "3600000"},
		{"a part of a second", "quick", limits, 0, "1500"},
		{"the token's", "slow1", limits, 90 * time.Second, "90000"},
		{"the token's alone", "echo", authz.Timeouts{}, 90 * time.Second, "90000"},
		{"the token lives longer", "echo", limits, time.Hour, "60000"},
		{"the token is at its end", "echo", limits, time.Nanosecond, "1000"},
		{"the token has just expired", "echo", limits, -time.Second, "1000"},
	} {
		w := newWorld(t, func(w *world) {
			w.open.Timeouts, w.open.Policy = test.limits, compile(t, "all", "package orchestrator\nresult[\"allowed\"] := true\n")
			w.cfg.Now = func() time.Time { return now }
			if test.expires != 0 {
				w.tokens.known[agentToken].Expiry = now.Add(test.expires)
			}
		})
		r, body := modernCall("open_"+test.tool, "{}")
		v := w.judge(r, body)
		if !v.Forwards() {
			t.Fatal(outcome(v))
		}
		diff(t, test.name, test.want, set(v, "x-envoy-upstream-rq-timeout-ms"))
	}
	w := newWorld(t, withTargets, func(w *world) { w.items.Timeouts = limits })
	r, body := w.targeted("modern", "prompts/get", "my_server_greet", "")
	diff(t, "a prompt", "60000", set(w.judge(r, body), "x-envoy-upstream-rq-timeout-ms"))
}

// What asks for a task goes no further.
func TestTasksAreDropped(t *testing.T) {
	const tasks = `,"extensions":{"io.modelcontextprotocol/tasks":{}}`
	for _, name := range []string{"echo", "open_echo"} {
		w := newWorld(t, func(w *world) { w.open.Prefix = strings.TrimSuffix(name, "echo") })
		r, body := modernCall(name, "{}")
		body = strings.Replace(body, `clientCapabilities":{}`, `clientCapabilities":{"roots":{}`+tasks+`}`, 1)
		body = strings.Replace(body, `"arguments":{}`, `"arguments":{},"task":{"ttl":60}`, 1)
		v := w.judge(r, body)
		_, want := modernCall(name, "{}")
		want = strings.Replace(want, `clientCapabilities":{}`, `clientCapabilities":{"roots":{},"extensions":{}}`, 1)
		want = strings.Replace(want, `"name":"`+name, `"name":"echo`, 1)
		diff(t, name, want, string(v.Body))
		w.checkForwarded(v, body)
	}
}
