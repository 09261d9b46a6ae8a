package authz_test

import (
	"testing"

	"github.com/sallyport/sallyport/authz"
)

const page = "https://inspector.example"

func inspected(w *world) { w.cfg.AllowedOrigins = []string{page} }

// A browser asks before it sends what a page wants sent, and has no token then.
func TestPreflight(t *testing.T) {
	const headers = "access-control-request-headers"
	for _, test := range []struct {
		name    string
		path    string
		pairs   []string
		change  func(w *world)
		status  int
		methods string
		headers string
	}{
		{name: "the endpoint", path: "/mcp", status: 204, methods: "GET, POST, DELETE"},
		{name: "what a page sends", path: "/mcp", pairs: []string{headers, "Authorization, DPoP, content-type,MCP-Session-Id,mcp-param-Region, x-custom, cookie"}, status: 204,
			methods: "GET, POST, DELETE", headers: "authorization, dpop, content-type, mcp-session-id, mcp-param-region"},
		{name: "nothing that is granted", path: "/mcp", pairs: []string{headers, "x-custom"}, status: 204, methods: "GET, POST, DELETE"},
		{name: "no sessions", path: "/mcp", change: func(w *world) { w.cfg.SessionHeader = "" }, status: 204, methods: "POST"},
		{name: "the old stream", path: "/mcp/sse", status: 204, methods: "GET"},
		{name: "the old messages", path: "/mcp/message", status: 204, methods: "POST"},
		{name: "another page", path: "/mcp", pairs: []string{"origin", "https://evil.example"}, status: 403},
		{name: "no page", path: "/mcp", pairs: []string{"origin", "-"}, status: 405},
		{name: "two pages", path: "/mcp", pairs: []string{"origin", page + "|" + page}, status: 403},
		{name: "not asked", path: "/mcp", pairs: []string{"access-control-request-method", "-"}, status: 405},
		{name: "no endpoint", path: "/other", status: 404},
		{name: "another host", path: "/mcp", change: func(w *world) { w.cfg.Listen, w.cfg.Audiences = "gw.internal:1", nil }, status: 403},
	} {
		w := newWorld(t, inspected)
		if test.change != nil {
			w = newWorld(t, inspected, test.change)
		}
		r := authz.Request{Method: "OPTIONS", Path: test.path, Scheme: "http", Host: host, EndOfStream: true,
			Header: authz.Header{"origin": {page}, "access-control-request-method": {"POST"}}}
		call, v := w.gate.Begin(t.Context(), with(r, test.pairs...))
		if call != nil || v.Reply == nil || v.Reply.Status != test.status {
			t.Errorf("%s: %+v", test.name, v)
			continue
		}
		diff(t, test.name+": methods", test.methods, header(t, v.Reply, "access-control-allow-methods"))
		diff(t, test.name+": headers", test.headers, header(t, v.Reply, "access-control-allow-headers"))
		if test.status == 204 && (header(t, v.Reply, "access-control-allow-origin") != page || len(w.audit.records) != 0 || v.Forwards()) {
			t.Errorf("%s: %+v, %d records", test.name, v.Reply, len(w.audit.records))
		}
		if header(t, v.Reply, "access-control-allow-credentials") != "" {
			t.Errorf("%s: cookies are none of ours", test.name)
		}
	}
}

// A page may read what is said to it, refusals too, when its origin is allowed; the host is told for what others answer.
func TestReadable(t *testing.T) {
	for _, test := range []struct {
		name, origin, authorization string
		want                        string
		readable                    bool
	}{
		{"a call", page, "Bearer " + agentToken, "forward app-open", true},
		{"no token", page, "-", "401 -32600 a bearer token is required", true},
		{"no page", "-", "Bearer " + agentToken, "forward app-open", false},
		{"no page, no token", "-", "-", "401 -32600 a bearer token is required", false},
		{"another page", "https://evil.example", "Bearer " + agentToken, "403 -32600 origin not allowed", false},
	} {
		w := newWorld(t, inspected)
		r, body := modernCall("open_echo", "{}")
		v := w.judge(with(r, "origin", test.origin, "authorization", test.authorization), body)
		diff(t, test.name, test.want, outcome(v))
		want := map[bool]string{true: page}[test.readable]
		diff(t, test.name+": for the host", want, v.Origin)
		if v.Reply != nil {
			diff(t, test.name+": in the reply", want, header(t, v.Reply, "access-control-allow-origin"))
			diff(t, test.name+": for caches", map[bool]string{true: "Origin"}[test.readable], header(t, v.Reply, "vary"))
		}
	}
}
