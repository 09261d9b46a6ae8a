package authz_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/authz/audit"
	"github.com/sallyport/sallyport/authz/token"
)

func TestNewRefusesWhatCannotWork(t *testing.T) {
	for name, breakIt := range map[string]func(c *authz.Config){
		"no upstreams":       func(c *authz.Config) { c.Upstreams = nil },
		"no audit":           func(c *authz.Config) { c.Audit = nil },
		"no metrics":         func(c *authz.Config) { c.Metrics = nil },
		"no log":             func(c *authz.Config) { c.Log = nil },
		"sessions, no key":   func(c *authz.Config) { c.Sessions = nil },
		"no bound":           func(c *authz.Config) { c.MaxRequestBytes = 0 },
		"app without policy": func(c *authz.Config) { c.Apps = []*authz.App{{Name: "bare"}} },
	} {
		cfg := newWorld(t).cfg
		breakIt(&cfg)
		if g, err := authz.New(cfg); err == nil || g != nil {
			t.Errorf("%s: accepted", name)
		}
	}
	w := newWorld(t)
	if got := w.gate.Apps(); len(got) != 2 || got[0] != w.items || got[1] != w.open {
		t.Errorf("Apps() = %v", got)
	}
}

const (
	hostRefused = "403 -32600 this host is not served here"
	listed      = "forward hub"
)

func modernList(pairs ...string) (authz.Request, string) {
	r := post("mcp-protocol-version", "2026-07-28", "mcp-method", "tools/list")
	return with(r, pairs...), `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{` + modernMeta + `}}`
}

func TestHosts(t *testing.T) {
	for _, test := range []struct {
		listen  string
		allowed []string
		refused []string
	}{
		{"127.0.0.1:8080",
			[]string{"127.0.0.1:8080", "127.0.0.1", "localhost:8080", "LocalHost", "[::1]:8080", "[::1]", "gateway.example", "GATEWAY.example:443", "extra.example", "extra.example:1"},
			[]string{"", ":8080", "evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "127.0.0.2:8080", "10.0.0.1", "localhost:80:80", "[::2]:8080", "0.0.0.0:8080", "gateway.example."}},
		{"localhost:8080", []string{"localhost:8080", "127.0.0.1:8080", "[::1]:8080"}, []string{"192.0.2.1:8080", "evil.example"}},
		{"[::1]:8080", []string{"[::1]:8080", "localhost:8080", "127.0.0.1:8080"}, []string{"[::2]:8080", "evil.example"}},
		{"192.0.2.1:8080", []string{"192.0.2.1:8080", "gateway.example"}, []string{"localhost:8080", "127.0.0.1:8080", "192.0.2.2:8080"}},
		{"gw.internal:8080", []string{"gw.internal", "GW.internal:8080"}, []string{"localhost", "internal"}},
		{"0.0.0.0:8080", []string{"192.0.2.9:8080", "127.0.0.1", "[2001:db8::1]:8080", "gateway.example"}, []string{"evil.example:8080", "localhost:8080", "", "1.2.3", "0x7f.1"}},
		{"[::]:8080", []string{"192.0.2.9:8080", "[::1]:8080"}, []string{"evil.example"}},
		{":8080", []string{"192.0.2.9:8080", "[::1]:8080"}, []string{"evil.example", ""}},
	} {
		w := newWorld(t, func(w *world) {
			w.cfg.Listen, w.cfg.AllowedHosts = test.listen, []string{"Extra.example:8443"}
		})
		for _, want := range []struct {
			hosts []string
			text  string
		}{{test.allowed, listed}, {test.refused, hostRefused}} {
			for _, host := range want.hosts {
				r, body := modernList()
				r.Host = host
				if got := outcome(w.judge(r, body)); got != want.text {
					t.Errorf("listen %s, host %q: %s, want %s", test.listen, host, got, want.text)
				}
			}
		}
	}
}

// A port that is none would reach the challenge and the metadata, quotes and all.
func TestHostPortIsAPort(t *testing.T) {
	for _, host := range []string{`127.0.0.1:80" x="`, "127.0.0.1:80/evil", "]localhost["} {
		w := newWorld(t)
		r, body := modernList("authorization", "-")
		r.Host = host
		if got := outcome(w.judge(r, body)); got != hostRefused {
			t.Errorf("host %q: %s", host, got)
		}
	}
}

func TestOrigins(t *testing.T) {
	const refused = "403 -32600 origin not allowed"
	for _, test := range []struct{ listen, origin, want string }{
		{host, "-", listed},
		{host, "http://localhost:6274", listed},
		{host, "https://gateway.example", listed},
		{host, "https://inspector.example", listed},
		{host, "HTTPS://Inspector.example", listed},
		{host, "http://inspector.example", refused}, // the scheme is a part of an origin
		{host, "https://inspector.example:444", refused},
		{host, "vscode-webview://panel", listed}, // allowed in so many words
		{host, "https://evil.example", refused},
		{host, "http://localhost.evil.example", refused},
		{host, "null", refused},
		{host, "", refused},
		{host, "localhost", refused},
		{host, "file:///etc", refused},
		{host, "ftp://localhost", refused},
		{host, "http://[::1", refused},
		{host, "http://localhost|http://localhost", refused},
		{"0.0.0.0:8080", "https://gateway.example", listed},
		{":8080", "https://evil.example:99999", refused}, // names no host at all, and neither does the listener
		{":8080", "https://evil.example:x", refused},
		{":8080", "https://gateway.example", listed},
		{"0.0.0.0:8080", "http://203.0.113.66", refused}, // any IP is a Host of ours, but not a page of ours
	} {
		w := newWorld(t, func(w *world) {
			w.cfg.Listen, w.cfg.AllowedOrigins = test.listen, []string{"https://inspector.example/", "vscode-webview://panel"}
		})
		r, body := modernList("origin", test.origin)
		if got := outcome(w.judge(r, body)); got != test.want {
			t.Errorf("listen %s, origin %q: %s, want %s", test.listen, test.origin, got, test.want)
		}
	}
}

func TestMethodsAndPaths(t *testing.T) {
	session := newWorld(t).session(ownerOf)
	for _, test := range []struct {
		name   string
		change func(w *world)
		method string
		path   string
		pairs  []string
		body   bool // a body follows
		want   string
		allow  string
	}{
		{name: "get without session", method: "GET", path: "/mcp", want: "405 -32600 method not allowed", allow: "GET, POST, DELETE"},
		{name: "get, no sessions", method: "GET", path: "/mcp", pairs: []string{"mcp-session-id", session}, want: "405 -32600 method not allowed", allow: "POST",
			change: func(w *world) { w.cfg.SessionHeader = "" }},
		{name: "get", method: "GET", path: "/mcp", pairs: []string{"mcp-session-id", session}, want: "forward hub"},
		{name: "get, clients may not end", method: "GET", path: "/mcp", pairs: []string{"mcp-session-id", session}, want: "forward hub",
			change: func(w *world) { w.cfg.ClientMayEnd = false }},
		{name: "get resumes", method: "GET", path: "/mcp", pairs: []string{"mcp-session-id", session, "last-event-id", "x"}, want: "forward hub"},
		{name: "get with body", method: "GET", path: "/mcp", pairs: []string{"mcp-session-id", session}, body: true, want: "400 -32600 GET has no body"},
		{name: "get unknown", method: "GET", path: "/mcp", pairs: []string{"mcp-session-id", "forged"}, want: "404 -32600 session not found; send initialize again"},
		{name: "get ended", method: "GET", path: "/mcp", pairs: []string{"mcp-session-id", session}, want: "404 -32600 session not found; send initialize again",
			change: func(w *world) { w.upstreams.ended[sessionID] = true }},
		{name: "modern get", method: "GET", path: "/mcp", pairs: []string{"mcp-session-id", session, "mcp-protocol-version", "2026-07-28"}, want: "405 -32600 method not allowed", allow: "GET, POST, DELETE"},
		{name: "get accepts JSON only", method: "GET", path: "/mcp", pairs: []string{"mcp-session-id", session, "accept", "application/json"}, want: "406 -32600 the answer is text/event-stream; accept it", allow: "GET, POST, DELETE"},
		{name: "get accepts nothing", method: "GET", path: "/mcp", pairs: []string{"mcp-session-id", session, "accept", "-"}, want: "406 -32600 the answer is text/event-stream; accept it", allow: "GET, POST, DELETE"},
		{name: "get accepts anything", method: "GET", path: "/mcp", pairs: []string{"mcp-session-id", session, "accept", "*/*;q=0.1"}, want: "forward hub"},
		{name: "get accepts text", method: "GET", path: "/mcp", pairs: []string{"mcp-session-id", session, "accept", "application/json|TEXT/*"}, want: "forward hub"},
		{name: "sessions are in doubt", method: "GET", path: "/mcp", pairs: []string{"mcp-session-id", session}, want: "503 -32603 sessions cannot be looked up at the moment",
			change: func(w *world) { w.upstreams.touchErr = errors.New("store: timeout") }},
		{name: "put", method: "PUT", path: "/mcp", want: "405 -32600 method not allowed", allow: "GET, POST, DELETE"},
		{name: "options", method: "OPTIONS", path: "/mcp", want: "405 -32600 method not allowed", allow: "GET, POST, DELETE"},
		{name: "lower case", method: "post", path: "/mcp", want: "405 -32600 method not allowed", allow: "GET, POST, DELETE"},
		{name: "empty method", method: "", path: "/mcp", want: "405 -32600 method not allowed", allow: "GET, POST, DELETE"},
		{name: "no sessions", method: "DELETE", path: "/mcp", pairs: []string{"mcp-session-id", session}, want: "405 -32600 method not allowed", allow: "POST",
			change: func(w *world) { w.cfg.SessionHeader = "" }},
		{name: "clients may not end", method: "DELETE", path: "/mcp", pairs: []string{"mcp-session-id", session}, want: "405 -32600 method not allowed", allow: "GET, POST",
			change: func(w *world) { w.cfg.ClientMayEnd = false }},
		{name: "other path", method: "POST", path: "/other", want: "404 -32600 no MCP endpoint at this path"},
		{name: "path below", method: "POST", path: "/mcp/", want: "404 -32600 no MCP endpoint at this path"},
		{name: "path case", method: "POST", path: "/MCP", want: "404 -32600 no MCP endpoint at this path"},
		{name: "double slash", method: "POST", path: "//mcp", want: "404 -32600 no MCP endpoint at this path"},
		{name: "empty path", method: "POST", path: "", want: "404 -32600 no MCP endpoint at this path"},
		{name: "sse get", method: "GET", path: "/mcp/sse", want: "forward hub"},
		{name: "sse get accepts JSON only", method: "GET", path: "/mcp/sse", pairs: []string{"accept", "application/json"}, want: "406 -32600 the answer is text/event-stream; accept it", allow: "GET"},
		{name: "sse get with body", method: "GET", path: "/mcp/sse", body: true, want: "400 -32600 GET has no body"},
		{name: "sse post to the stream", method: "POST", path: "/mcp/sse", body: true, want: "405 -32600 method not allowed", allow: "GET"},
		{name: "sse get of messages", method: "GET", path: "/mcp/message", pairs: []string{"mcp-session-id", session}, want: "405 -32600 method not allowed", allow: "POST"},
		{name: "sse delete of messages", method: "DELETE", path: "/mcp/message", pairs: []string{"mcp-session-id", session}, want: "405 -32600 method not allowed", allow: "POST"},
		{name: "sse get, not served", method: "GET", path: "/mcp/sse", want: "404 -32600 no MCP endpoint at this path",
			change: func(w *world) { w.cfg.Paths.SSE, w.cfg.Paths.Message = "", "" }},
		{name: "sse post, not served", method: "POST", path: "/mcp/message", body: true, want: "404 -32600 no MCP endpoint at this path",
			change: func(w *world) { w.cfg.Paths.SSE, w.cfg.Paths.Message = "", "" }},
		{name: "delete without session", method: "DELETE", path: "/mcp", want: "405 -32600 method not allowed", allow: "GET, POST, DELETE"},
		{name: "delete elsewhere", method: "DELETE", path: "/mcp/sse", pairs: []string{"mcp-session-id", session}, want: "405 -32600 method not allowed", allow: "GET"},
		{name: "modern delete", method: "DELETE", path: "/mcp", pairs: []string{"mcp-session-id", session, "mcp-protocol-version", "2026-07-28"}, want: "405 -32600 method not allowed", allow: "GET, POST, DELETE"},
		{name: "delete with body", method: "DELETE", path: "/mcp", pairs: []string{"mcp-session-id", session}, body: true, want: "400 -32600 DELETE has no body"},
		{name: "delete unknown", method: "DELETE", path: "/mcp", pairs: []string{"mcp-session-id", "forged"}, want: "404 -32600 session not found; send initialize again"},
		{name: "delete ended", method: "DELETE", path: "/mcp", pairs: []string{"mcp-session-id", session}, want: "404 -32600 session not found; send initialize again",
			change: func(w *world) { w.upstreams.ended[sessionID] = true }},
		{name: "delete", method: "DELETE", path: "/mcp", pairs: []string{"mcp-session-id", session}, want: "forward hub"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			if test.change != nil {
				w = newWorld(t, test.change)
			}
			r := with(post(test.pairs...), "content-type", "application/json")
			r.Method, r.Path, r.EndOfStream = test.method, test.path, !test.body
			call, v := w.gate.Begin(t.Context(), r)
			if call != nil {
				t.Fatal("the decision was put off until a body that need not come")
			}
			if got := outcome(v); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
			if v.Reply != nil {
				diff(t, "allow", test.allow, header(t, v.Reply, "allow"))
			}
			rec := w.only()
			want := audit.Denied
			if v.Forwards() {
				want = audit.Allowed
			} else if v.Reply.Status >= 500 {
				want = audit.Error
			}
			if rec.Outcome != want || rec.Method != "http/"+strings.ToLower(test.method) || rec.ID == "" || rec.ID != v.ID {
				t.Errorf("record %+v", rec)
			}
		})
	}
}

func TestDeleteKeepsItsSessionForTheHub(t *testing.T) {
	w := newWorld(t)
	r := post("mcp-session-id", w.session(ownerOf), "content-type", "-")
	r.Method, r.EndOfStream = "DELETE", true
	v := w.judge(r, "")
	if v.Route != authz.HubRoute || slices.Contains(v.Remove, "mcp-session-id") {
		t.Errorf("verdict %+v", v)
	}
	rec := w.only()
	if rec.Session != sessionID || rec.ProtocolVersion != "2025-06-18" {
		t.Errorf("record %+v", rec)
	}
}

// Every security-relevant field counts once; the second value is what the other reader would take.
func TestRepeatedHeaders(t *testing.T) {
	for _, test := range []struct {
		name, value string
		code        int
	}{
		{"content-type", "application/json|application/json", -32600},
		{"content-length", "2|3", -32600},
		{"content-encoding", "identity|gzip", -32600},
		{"host", "a|b", -32600},
		{"last-event-id", "1|2", -32600},
		{"mcp-protocol-version", "2026-07-28|2025-11-25", -32020},
		{"mcp-method", "tools/list|tools/call", -32020},
		{"mcp-name", "open_echo|open_secret", -32020},
		{"mcp-session-id", "a|b", -32020},
	} {
		for _, oauth := range []bool{true, false} {
			for _, twoTokens := range []bool{false, true} {
				if oauth && twoTokens {
					continue // refused for the tokens; see TestBearer
				}
				w := newWorld(t, func(w *world) {
					if !oauth {
						w.cfg.Tokens = nil
					}
				})
				r, body := modernCall("open_echo", `{}`)
				r = with(r, test.name, test.value)
				if twoTokens {
					r = with(r, "authorization", "Bearer a|Bearer b")
				}
				want := fmt.Sprintf("400 %d header %s is repeated", test.code, test.name)
				if got := outcome(w.judge(r, body)); got != want {
					t.Errorf("oauth %v, two tokens %v: %s, want %s", oauth, twoTokens, got, want)
				}
			}
		}
	}
}

func TestBearer(t *testing.T) {
	const invalid = "401 -32600 the Authorization header is not one bearer token"
	for _, test := range []struct{ value, want string }{
		{"-", "401 -32600 a bearer token is required"},
		{"Bearer " + agentToken, listed},
		{"bearer " + agentToken, listed},
		{"BEARER " + agentToken, listed},
		{"", invalid},
		{"Bearer", invalid},
		{"Bearer ", invalid},
		{agentToken, invalid},
		{"Basic YTpi", invalid},
		{"Bearer  " + agentToken, invalid},
		{"Bearer\t" + agentToken, invalid},
		{" Bearer " + agentToken, invalid},
		{"Bearer " + agentToken + " ", invalid},
		{"Bearer " + agentToken + ",x", invalid},
		{"Bearer " + agentToken + ", Bearer x", invalid},
		{"Bearer " + agentToken + "|Bearer " + agentToken, invalid},
		{"Bearer unknown", "401 -32600 the token is not valid"},
		{"Bearer expired", "401 -32600 the token has expired"},
		{"Bearer audience", "401 -32600 the token is not meant for this server"},
		{"Bearer issuer", "401 -32600 the token's issuer is not trusted here"},
		{"Bearer key", "401 -32600 the token is not valid"},
	} {
		w := newWorld(t, func(w *world) {
			for name, err := range map[string]error{"expired": token.ErrExpired, "audience": token.ErrAudience, "issuer": token.ErrIssuer, "key": token.ErrKey} {
				w.tokens.err[name] = fmt.Errorf("%w: details for the audit", err)
			}
		})
		r, body := modernList("authorization", test.value)
		v := w.judge(r, body)
		if got := outcome(v); got != test.want {
			t.Errorf("%q: %s, want %s", test.value, got, test.want)
		}
		if rec := w.only(); v.Reply != nil && (rec.Outcome != audit.Denied || rec.Subject != "" || rec.Method != "http/post") {
			t.Errorf("%q: record %+v", test.value, rec)
		}
		if v.Reply != nil && strings.Contains(string(v.Reply.Body)+fmt.Sprint(v.Reply.Header), "details for the audit") {
			t.Errorf("%q: the reason leaked: %s", test.value, v.Reply.Body)
		}
	}
}

func TestVerifierOutageIsOurFailure(t *testing.T) {
	w := newWorld(t, func(w *world) { w.tokens.err[agentToken] = errors.Join(token.ErrUnavailable, errors.New("no keys")) })
	r, body := modernList()
	v := w.judge(r, body)
	diff(t, "answer", "503 -32603 tokens cannot be verified at the moment", outcome(v))
	diff(t, "retry-after", "5", header(t, v.Reply, "retry-after"))
	diff(t, "challenge", "", header(t, v.Reply, "www-authenticate"))
	if rec := w.only(); rec.Outcome != audit.Error || !strings.Contains(rec.Message, "no keys") {
		t.Errorf("record %+v", rec)
	}
}

func TestTokenInTheQuery(t *testing.T) {
	for _, test := range []struct{ query, authorization, want string }{
		{"access_token=x", "Bearer " + agentToken, "400 -32600 a token in the query is not accepted"},
		{"a=b&access_token=x", "Bearer " + agentToken, "400 -32600 a token in the query is not accepted"},
		{"access_token=" + agentToken, "-", "401 -32600 a bearer token is required"},
		{"a=b", "Bearer " + agentToken, listed},
	} {
		w := newWorld(t)
		r, body := modernList("authorization", test.authorization)
		r.RawQuery = test.query
		if got := outcome(w.judge(r, body)); got != test.want {
			t.Errorf("%s: %s, want %s", test.query, got, test.want)
		}
	}
}

func TestWhatABodyMustBe(t *testing.T) {
	const (
		notJSON   = "415 -32600 content-type must be application/json"
		encoded   = "415 -32600 content-encoding is not accepted"
		oversized = "413 -32600 request body too large"
	)
	for _, test := range []struct{ name, value, want string }{
		{"content-type", "-", notJSON},
		{"content-type", "", notJSON},
		{"content-type", "text/plain", notJSON},
		{"content-type", "application/json-rpc", notJSON},
		{"content-type", "application/x-www-form-urlencoded", notJSON},
		{"content-type", "application/json, text/plain", notJSON},
		{"content-type", "application/json; charset=utf-16", notJSON},
		{"content-type", "application/json; charset=utf-8; charset=utf-16", notJSON},
		{"content-type", "application/json; charset=utf-8; x=y", notJSON},
		{"content-type", "application/json; version=1", notJSON},
		{"content-type", "application/json; charset", notJSON},
		{"content-type", "Application/JSON; Charset=\"UTF-8\"", listed},
		{"content-type", "application/json;charset=utf-8", listed},
		{"content-encoding", "gzip", encoded},
		{"content-encoding", "", encoded},
		{"content-encoding", "identity, gzip", encoded},
		{"content-encoding", "Identity", listed},
		{"content-length", "65536", listed},
		{"content-length", "65537", oversized},
		{"content-length", "99999999999999999999", oversized},
		{"content-length", "abc", oversized},
	} {
		w := newWorld(t)
		r, body := modernList(test.name, test.value)
		if got := outcome(w.judge(r, body)); got != test.want {
			t.Errorf("%s %q: %s, want %s", test.name, test.value, got, test.want)
		}
		w.only()
	}
	w := newWorld(t)
	r, _ := modernList()
	r.EndOfStream = true
	call, v := w.gate.Begin(t.Context(), r)
	if got := outcome(v); call != nil || got != "400 -32700 the request has no body" {
		t.Errorf("no body: %s", got)
	}
	r, body := modernList() // no content-length: the host's own bound did not stop it
	diff(t, "too large", oversized, outcome(w.judge(r, body+strings.Repeat(" ", 1<<16))))
}

// Without OAuth there is nobody to ask, and policies see the empty identity.
func TestOAuthOff(t *testing.T) {
	w := newWorld(t, func(w *world) { w.cfg.Tokens = nil })
	r, body := modernCall("open_echo", `{}`)
	for _, authorization := range []string{"-", "Bearer whatever"} {
		v := w.judge(with(r, "authorization", authorization), body)
		diff(t, "answer", "forward app-open", outcome(v))
	}
	if rec := w.audit.records[0]; rec.Subject != "" || rec.Issuer != "" || rec.Outcome != audit.Allowed {
		t.Errorf("record %+v", rec)
	}
}

func TestDecisionsAreTimedByTheGivenClock(t *testing.T) {
	at := time.Date(2026, 11, 23, 1, 2, 3, 0, time.UTC)
	w := newWorld(t, func(w *world) { w.cfg.Now = func() time.Time { return at } })
	r, body := modernList()
	w.judge(r, body)
	diff(t, "time", at, w.only().Time)
}
