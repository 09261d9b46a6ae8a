package authz_test

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/mcpparse"
)

// everything is a set of headers that a hostile or chatty client sends beside the ones that MCP wants.
var everything = []string{"cookie", "a=b", "proxy-authorization", "Basic x", "x-sallyport-route", "app-items", "x-sallyport-source", "6.6.6.6",
	"x-forwarded-user", "root", "x-user", "root", "mcp-param-region", "eu", "last-event-id", "9", "x-api-key", "k", "accept-encoding", "gzip",
	"user-agent", "agent/1", "traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "x-envoy-original-path", "/", "x-request-id", "r", "content-length", "999", "origin", "http://localhost"}

var alwaysRemoved = []string{"accept-encoding", "authorization", "cookie", "last-event-id"}

// The exact lists of what is removed and set, for each combination of eras.
func TestForwarding(t *testing.T) {
	legacyLeg := authz.Leg{Era: mcpparse.EraLegacy, Version: "2025-06-18", SessionID: "upstream-1"}
	statelessLeg := authz.Leg{Era: mcpparse.EraLegacy}
	modernLeg := authz.Leg{Era: mcpparse.EraModern, Version: "2026-07-28"}
	const accept = "application/json, text/event-stream"
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
			params:  params("")},
		{name: "modern to legacy", era: "modern", tool: "my_server_listItems", leg: legacyLeg,
			removed: []string{"mcp-method", "mcp-name", "mcp-param-region", "mcp-protocol-version"},
			set: [][2]string{{"x-sallyport-route", "app-items"}, {"authorization", "Bearer " + issuedToken}, {"mcp-protocol-version", "2025-06-18"},
				{"mcp-session-id", "upstream-1"}, {"accept", accept}},
			params: params(`,"_meta":{}`), watch: true},
		{name: "legacy to modern", era: "legacy", tool: "my_server_listItems", leg: modernLeg,
			// What a legacy agent calls a mirror mirrors nothing, and nobody has compared it with the body.
			removed: []string{"mcp-param-region", "mcp-protocol-version", "mcp-session-id"},
			set: [][2]string{{"x-sallyport-route", "app-items"}, {"authorization", "Bearer " + issuedToken}, {"mcp-protocol-version", "2026-07-28"},
				{"mcp-method", "tools/call"}, {"mcp-name", "listItems"}, {"accept", accept}},
			params: `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}},` + params("")},
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
				content := [2]string{"content-length", strconv.Itoa(len(wantBody))}
				at := len(want)
				if want[at-1][0] == "accept" {
					at--
				}
				want = append(append(append([][2]string{}, want[:at]...), content), want[at:]...)
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
