package authz_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/authz/audit"
	"github.com/sallyport/sallyport/authz/session"
)

// oldPost is a message of the 2024-11-05 transport, in ann's session.
func (w *world) oldPost(body string, pairs ...string) (authz.Request, string) {
	r := post(pairs...)
	r.Path, r.RawQuery = "/mcp/message", "sessionId="+w.oldSession("ann")
	return r, body
}

// oldSession is a session that a GET of the event stream has opened. It knows of no version yet.
func (w *world) oldSession(subject string) string {
	w.tb.Helper()
	owner := ownerOf
	owner.Subject, owner.Route = subject, "/mcp/sse"
	id, err := w.cfg.Sessions.Seal(owner, session.Session{ID: sessionID})
	if err != nil {
		w.tb.Fatal(err)
	}
	return id
}

// The stream has the answers, so the hub, which has the stream, answers every request; what the client's HTTP has to see
// is answered at once.
func TestOldTransport(t *testing.T) {
	call := func(tool string) string {
		return `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"` + tool + `","arguments":{}}}`
	}
	for _, test := range []struct {
		name, body string
		change     func(w *world, r *authz.Request)
		want       string
		ticket     string // the answer in it, or "call" for a call that goes on; "" for no ticket
		app        string // on record
	}{
		{name: "initialize", body: `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2024-11-05"}}`, want: listed},
		{name: "a list", body: `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`, want: listed},
		{name: "a notification", body: `{"jsonrpc":"2.0","method":"notifications/initialized"}`, want: listed},
		{name: "a call", body: call("my_server_listItems"), want: listed, ticket: "call", app: "items"},
		{name: "a hidden tool", body: call("my_server_createItem"), want: listed, ticket: "200 -32602 Unknown tool: my_server_createItem", app: "items"},
		{name: "a denied call", body: call("my_server_mondayItem"), want: listed, ticket: "200 isError only on Mondays", app: "items"},
		{name: "an unknown method", body: `{"jsonrpc":"2.0","id":7,"method":"tools/lost"}`, want: listed, ticket: "200 -32601 method not found"},
		{name: "an upstream that is away", body: call("open_echo"), change: func(w *world, _ *authz.Request) { w.upstreams.err = errors.New("away") },
			want: listed, ticket: "502 -32603 the upstream is not reachable", app: "open"},
		{name: "more scope", body: call("my_server_purgeItem"), want: "403 -32600 purging needs more", app: "items"},
		{name: "an unknown notification", body: `{"jsonrpc":"2.0","method":"notifications/other"}`, want: "400 -32601 method not found"},
		{name: "no JSON", body: `{`, want: "400 -32700 parse error: unexpected end"},
		{name: "an answer that nobody asked for", body: `{"jsonrpc":"2.0","id":7,"result":{}}`, want: "400 -32600 no request of ours is waiting for this response"},
		{name: "no token", body: call("open_echo"), change: func(_ *world, r *authz.Request) { *r = with(*r, "authorization", "-") }, want: "401 -32600 a bearer token is required"},
		{name: "another's session", body: call("open_echo"), change: func(_ *world, r *authz.Request) { *r = with(*r, "authorization", "Bearer "+bobsToken) }, want: sessionUnknown},
		{name: "no session", body: call("open_echo"), change: func(_ *world, r *authz.Request) { r.RawQuery = "" }, want: sessionUnknown},
		{name: "the session under another name", body: call("open_echo"), change: func(_ *world, r *authz.Request) {
			r.RawQuery = strings.Replace(r.RawQuery, "sessionId", "session_id", 1)
		}, want: sessionUnknown},
		{name: "two sessions", body: call("open_echo"), change: func(_ *world, r *authz.Request) { r.RawQuery += "&sessionId=x" }, want: sessionUnknown},
		{name: "a session of the other endpoint", body: call("open_echo"), change: func(w *world, r *authz.Request) { r.RawQuery = "sessionId=" + w.session(ownerOf) }, want: sessionUnknown},
		{name: "ended", body: call("open_echo"), change: func(w *world, _ *authz.Request) { w.upstreams.ended[sessionID] = true }, want: sessionUnknown},
		{name: "a modern header means nothing", body: `{"jsonrpc":"2.0","id":1,"method":"ping"}`, change: func(_ *world, r *authz.Request) { *r = with(*r, "mcp-protocol-version", "2026-07-28") }, want: listed},
		{name: "a modern method", body: `{"jsonrpc":"2.0","id":7,"method":"server/discover"}`, want: listed, ticket: "200 -32601 method not found"},
		{name: "a session header means nothing", body: `{"jsonrpc":"2.0","id":1,"method":"ping"}`, change: func(_ *world, r *authz.Request) { *r = with(*r, "mcp-session-id", "x") }, want: listed},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			r, body := w.oldPost(test.body)
			if test.change != nil {
				test.change(w, &r)
			}
			v := w.judge(r, body)
			diff(t, "verdict", test.want, outcome(v))
			rec := w.only()
			if rec.App != test.app {
				t.Errorf("record %+v", rec)
			}
			if v.Reply != nil {
				return
			}
			diff(t, "session", strings.TrimPrefix(r.RawQuery, "sessionId="), set(v, "x-sallyport-session"))
			diff(t, "the query goes no further", "/mcp/message", set(v, ":path"))
			if sealed := set(v, authz.TicketHeader); sealed == "" || test.ticket == "" {
				if sealed != test.ticket {
					t.Errorf("ticket %q", sealed)
				}
				return
			}
			ticket := w.ticket(r, v, session.Session{ID: sessionID}, body)
			got, outcomeOnRecord := "call", audit.Allowed
			if ticket.Reply != nil {
				got, outcomeOnRecord = outcome(authz.Verdict{Reply: ticket.Reply}), audit.Denied
			}
			if strings.HasPrefix(test.ticket, "502") {
				outcomeOnRecord = audit.Error
			}
			if got != test.ticket || rec.Outcome != outcomeOnRecord {
				t.Errorf("ticket %s, record %s", got, rec.Outcome)
			}
			if ticket.Reply != nil && !strings.Contains(string(ticket.Reply.Body), `"id":7`) {
				t.Errorf("not the caller's id: %s", ticket.Reply.Body)
			}
		})
	}
}

// The GET that opens a session needs none, and tells the hub nothing of one.
func TestOldTransportOpens(t *testing.T) {
	w := newWorld(t)
	r := post("content-type", "-", "mcp-session-id", "x")
	r.Method, r.Path, r.EndOfStream = "GET", "/mcp/sse", true
	v := w.judge(r, "")
	diff(t, "verdict", listed, outcome(v))
	diff(t, "set", [][2]string{{"x-sallyport-route", "hub"}, {"x-sallyport-source", "192.0.2.7"}}, v.Set)
	if rec := w.only(); rec.Session != "" || rec.Method != "http/get" {
		t.Errorf("record %+v", rec)
	}
}
