package authz_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/authz/audit"
	"github.com/sallyport/sallyport/authz/token"
	"github.com/sallyport/sallyport/mcpparse"
)

// One row for each way in which a call can be answered.
func TestCalls(t *testing.T) {
	unknown := func(name string) string { return "200 -32602 Unknown tool: " + name }
	listAll := func(w *world) { w.items.ListAll = true }
	others := func(w *world) { w.items.Exchange.AllowOthers = true }
	for _, test := range []struct {
		name, tool, arguments string
		change                func(w *world)
		want                  string
		reason                string // in the audit, a part
		shown                 bool   // a list shows the tool
	}{
		{name: "allowed, exchanged", tool: "my_server_listItems", want: "forward app-items", shown: true},
		{name: "allowed, unprotected", tool: "open_echo", want: "forward app-open", shown: true},
		{name: "allowed by arguments", tool: "my_server_updateItem", arguments: `{"price":99}`, want: "forward app-items", shown: true},
		{name: "listed, denied by arguments", tool: "my_server_updateItem", arguments: `{"price":100}`, want: "200 isError denied by policy", reason: "policy: denied", shown: true},
		{name: "denied with a message", tool: "my_server_mondayItem", want: "200 isError only on Mondays", reason: "only on Mondays", shown: true},
		{name: "denied for scope", tool: "my_server_purgeItem", want: "403 -32600 purging needs more", reason: "insufficient scope", shown: true},
		{name: "denied, hidden", tool: "my_server_createItem", want: unknown("my_server_createItem"), reason: "policy: denied"},
		{name: "denied, list shows all", tool: "my_server_createItem", change: listAll, want: "200 isError denied by policy", reason: "policy: denied", shown: true},
		{name: "no such tool", tool: "my_server_nothing", want: unknown("my_server_nothing"), reason: "policy: denied"},
		{name: "allowed, not in tools", tool: "my_server_notInTools", want: unknown("my_server_notInTools"), reason: "not named in tokenExchange"},
		{name: "allowed, not in tools, list shows all", tool: "my_server_notInTools", change: listAll, want: "200 isError denied by policy", reason: "not named in tokenExchange", shown: true},
		{name: "allowed, not in tools, others are", tool: "my_server_notInTools", change: others, want: "forward app-items", shown: true},
		{name: "hidden tools say nothing", tool: "my_server_saysButNotInTools", want: unknown("my_server_saysButNotInTools")},
		{name: "not boolean", tool: "open_notBoolean", want: unknown("open_notBoolean"), reason: "policy: not boolean"},
		{name: "policy errs", tool: "open_broken", want: unknown("open_broken"), reason: "policy: error"},
		{name: "no app", tool: "elsewhere_echo", want: unknown("elsewhere_echo"), reason: "no app owns this name"},
		{name: "no bare name", tool: "open_", want: unknown("open_"), reason: "no app owns this name"},
		{name: "prefix's case", tool: "Open_echo", want: unknown("Open_echo"), reason: "no app owns this name"},
		{name: "bare name alone", tool: "echo", want: unknown("echo"), reason: "no app owns this name"},
		{name: "big number", tool: "open_echo", arguments: `{"a":[{"b":9007199254740993}]}`, want: "400 -32602 params.arguments.a[0].b: number out of the range that every JSON reader agrees on", shown: true},
		{name: "no finite number", tool: "open_echo", arguments: `{"a":1e400}`, want: "400 -32602 params.arguments.a: number out of the range that every JSON reader agrees on", shown: true},
		{name: "last exact number", tool: "open_echo", arguments: `{"a":9007199254740991}`, want: "forward app-open", shown: true},
		{name: "big number, welcome", tool: "open_echo", arguments: `{"a":9007199254740993}`, change: func(w *world) { w.open.AllowBigNumbers = true }, want: "forward app-open", shown: true},
		{name: "big number, unknown name", tool: "elsewhere_echo", arguments: `{"a":9007199254740993}`, want: unknown("elsewhere_echo")},
		{name: "upstream unreachable", tool: "open_echo", change: func(w *world) { w.upstreams.err = errors.New("dial: refused by 10.0.0.1") },
			want: "502 -32603 the upstream is not reachable", reason: "refused by 10.0.0.1", shown: true},
	} {
		for _, era := range []string{"modern", "legacy"} {
			t.Run(test.name+"/"+era, func(t *testing.T) {
				w := newWorld(t)
				if test.change != nil {
					w = newWorld(t, test.change)
				}
				arguments := test.arguments
				if arguments == "" {
					arguments = "{}"
				}
				r, body := modernCall(test.tool, arguments)
				id := "7"
				if era == "legacy" {
					r, body = legacyCall(w.session(ownerOf), test.tool, arguments)
					id = `"c-1"`
				}
				v := w.judge(r, body)
				diff(t, "verdict", test.want, outcome(v))
				diff(t, "id", id, string(v.RPCID))
				if v.Reply != nil && !strings.Contains(string(v.Reply.Body), `"id":`+id) {
					t.Errorf("not the caller's id: %s", v.Reply.Body)
				}
				if v.Reply != nil && strings.Contains(string(v.Reply.Body), "isError") && strings.Contains(string(v.Reply.Body), "resultType") != (era == "modern") {
					t.Errorf("not a result of its era: %s", v.Reply.Body)
				}
				rec := w.only()
				if !strings.Contains(rec.Message, test.reason) || rec.ID != v.ID || rec.Method != "tools/call" {
					t.Errorf("record %+v", rec)
				}
				if (rec.Outcome == audit.Allowed) != v.Forwards() {
					t.Errorf("outcome %s of %s", rec.Outcome, outcome(v))
				}
				if !v.Forwards() && len(w.exchanger.requests) != 0 {
					t.Error("a token was obtained for a call that was refused")
				}
				w.checkShown(r, test.tool, test.shown)
			})
		}
	}
}

// checkShown holds lists to the same rule as calls.
func (w *world) checkShown(r authz.Request, tool string, want bool) {
	w.tb.Helper()
	for _, app := range w.gate.Apps() {
		if bare, ok := strings.CutPrefix(tool, app.Prefix); ok && bare != "" {
			if got := w.gate.Visible(w.tb.Context(), app, mcpparse.Tool, bare, r, newAnn(), "2026-07-28"); got != want {
				w.tb.Errorf("visible: %v, want %v", got, want)
			}
		}
	}
}

func TestVisibleDependsOnWhoAsks(t *testing.T) {
	w := newWorld(t)
	bob := newAnn()
	bob.Subject = "bob"
	for id, want := range map[*token.Identity]bool{newAnn(): false, bob: true} {
		if got := w.gate.Visible(t.Context(), w.items, mcpparse.Tool, "createItem", post(), id, "2026-07-28"); got != want {
			t.Errorf("%s: %v", id.Subject, got)
		}
	}
}

// Names without a prefix belong to the only app without one, or to the only one that lists them.
func TestBareNames(t *testing.T) {
	const unknown = "200 -32602 Unknown tool: "
	bare := func(w *world) { w.open.Prefix = "" }
	bothBare := func(w *world) { w.open.Prefix, w.items.Prefix = "", "" }
	for _, test := range []struct {
		name, tool string
		change     func(w *world)
		want       string
	}{
		{"one bare app", "echo", bare, "forward app-open"},
		{"one bare app, any name", "other", bare, unknown + "other"},
		{"a prefix wins", "my_server_listItems", bare, "forward app-items"},
		{"a prefix alone is nobody's", "my_server_", bare, unknown + "my_server_"},
		{"the only one that lists it", "echo", func(w *world) { bothBare(w); w.upstreams.lists = map[string]bool{"open/echo": true} }, "forward app-open"},
		{"the other one lists it", "listItems", func(w *world) { bothBare(w); w.upstreams.lists = map[string]bool{"items/listItems": true} }, "forward app-items"},
		{"none lists it", "echo", func(w *world) { bothBare(w); w.upstreams.lists = nil }, unknown + "echo"},
		{"two list it", "echo", bothBare, unknown + "echo"},
	} {
		w := newWorld(t, test.change)
		r, body := modernCall(test.tool, `{}`)
		if got := outcome(w.judge(r, body)); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
}

func TestExchangeRequest(t *testing.T) {
	w := newWorld(t)
	w.tokens.known[agentToken].Claims["act"] = map[string]any{"sub": "agent-0"}
	w.tokens.known[agentToken].Binding = token.Binding{Method: token.MethodDPoP, Thumbprint: "thumbprint"}
	r, body := modernCall("my_server_getItem", `{}`)
	w.judge(r, body)
	want := []authz.TokenRequest{{SubjectToken: agentToken, Subject: "ann", Agent: "agent-1", JTI: "jti-of-agent",
		Act: []byte(`{"sub":"agent-0"}`), Binding: "dpop:thumbprint", Rule: w.items.Exchange,
		TokenRule: authz.TokenRule{Scopes: []string{"item:getItem"}, Lifetime: 5 * time.Second}}}
	if len(w.exchanger.requests) != 1 || w.exchanger.requests[0].Rule != w.items.Exchange {
		t.Fatalf("requests %+v", w.exchanger.requests)
	}
	w.exchanger.requests[0].Rule, want[0].Rule = nil, nil
	diff(t, "requests", want, w.exchanger.requests)
}

func TestOtherToolsGetATokenWithoutScopes(t *testing.T) {
	w := newWorld(t, func(w *world) { w.items.Exchange.AllowOthers = true })
	r, body := modernCall("my_server_notInTools", `{}`)
	w.judge(r, body)
	diff(t, "rule", authz.TokenRule{}, w.exchanger.requests[0].TokenRule)
}

func TestExchangeOutcomes(t *testing.T) {
	const (
		refused = "200 isError the authorization server refused a token for this tool"
		none    = "503 -32603 no token could be obtained for this call"
	)
	secret := errors.New("invalid_grant: detail for the audit only")
	for _, test := range []struct {
		name    string
		issued  *authz.IssuedToken
		err     error
		want    string
		retry   string
		outcome audit.Outcome
		reason  string
	}{
		{"refused", nil, &authz.ExchangeError{Refused: true, Err: secret}, refused, "", audit.Denied, "detail for the audit only"},
		{"failed", nil, &authz.ExchangeError{Reason: "timeout", Err: secret}, none, "1", audit.Error, "timeout: invalid_grant: detail for the audit only"},
		{"busy", nil, &authz.ExchangeError{RetryAfter: 30 * time.Second, Err: secret}, none, "30", audit.Error, "detail"},
		{"busy for a part of a second", nil, &authz.ExchangeError{RetryAfter: 1500 * time.Millisecond, Err: secret}, none, "2", audit.Error, "detail"},
		{"wrapped", nil, errors.Join(errors.New("context"), &authz.ExchangeError{Refused: true, Err: secret}), refused, "", audit.Denied, "detail"},
		{"other error", nil, context.DeadlineExceeded, none, "1", audit.Error, "deadline"},
		{"the agent's own token", &authz.IssuedToken{Value: agentToken}, nil, none, "", audit.Error, "no fresh token"},
		{"an empty token", &authz.IssuedToken{}, nil, none, "", audit.Error, "no fresh token"},
		{"a token and an error", &authz.IssuedToken{Value: issuedToken}, secret, none, "1", audit.Error, "detail"},
	} {
		w := newWorld(t, func(w *world) { w.exchanger.issued, w.exchanger.err = test.issued, test.err })
		r, body := modernCall("my_server_listItems", `{}`)
		v := w.judge(r, body)
		diff(t, test.name, test.want, outcome(v))
		if test.retry != "" {
			diff(t, test.name+": retry-after", test.retry, header(t, v.Reply, "retry-after"))
		}
		rec := w.only()
		if rec.Outcome != test.outcome || !strings.Contains(rec.Message, test.reason) || rec.Exchanged != nil {
			t.Errorf("%s: record %+v", test.name, rec)
		}
		if strings.Contains(string(v.Reply.Body), "detail") {
			t.Errorf("%s: told the agent: %s", test.name, v.Reply.Body)
		}
	}
}

// A delegated token that does not say who acts is on record; the operator is told once.
func TestDelegationWithoutActor(t *testing.T) {
	for _, test := range []struct {
		delegation bool
		actors     []string
		note       string
		warnings   int
	}{
		{true, nil, "the delegated token has no act", 1}, {true, []string{"gateway"}, "", 0}, {false, nil, "", 0},
	} {
		w := newWorld(t, func(w *world) { w.items.Exchange.Delegation, w.exchanger.issued.Actors = test.delegation, test.actors })
		r, body := modernCall("my_server_listItems", `{}`)
		w.judge(r, body)
		w.judge(r, body)
		for _, rec := range w.audit.records {
			if rec.Message != test.note || rec.Outcome != audit.Allowed {
				t.Errorf("%+v: record %+v", test, rec)
			}
		}
		if n := strings.Count(w.log.String(), "level=WARN"); n != test.warnings {
			t.Errorf("%+v: %d warnings:\n%s", test, n, w.log)
		}
	}
}

// Whose upstream session is used: the agent's own, or the principal's. Two principals never share one.
func TestOwnersOfUpstreamSessions(t *testing.T) {
	w := newWorld(t)
	call, body := modernCall("open_echo", `{}`)
	w.judge(call, body)
	w.judge(call, body)
	w.judge(with(call, "authorization", "Bearer "+bobsToken), body)
	legacy, body := legacyCall(w.session(ownerOf), "open_echo", `{}`)
	w.judge(legacy, body)
	o := w.upstreams.owners
	if len(o) != 4 || o[0] != o[1] || o[0] == o[2] || o[3] != sessionID || !strings.HasPrefix(o[0], "principal-") {
		t.Errorf("owners %v", o)
	}
	if strings.Contains(strings.Join(o, ""), "ann") {
		t.Errorf("an owner names the user: %v", o)
	}
}

func TestIdentify(t *testing.T) {
	w := newWorld(t)
	if who, reply := w.gate.Identify(t.Context(), post()); reply != nil || who.Identity.Subject != "ann" {
		t.Errorf("%v, %v", who, reply)
	}
	who, reply := w.gate.Identify(t.Context(), post("authorization", "-"))
	if who != nil || reply == nil || reply.Status != http.StatusUnauthorized || header(t, reply, "www-authenticate") == "" {
		t.Errorf("%v, %+v", who, reply)
	}
	if len(w.audit.records) != 0 {
		t.Error("the gate has recorded the message already")
	}
}

// exchangeFunc is an exchanger in one function.
type exchangeFunc func(r authz.TokenRequest) (*authz.IssuedToken, error)

func (f exchangeFunc) Exchange(_ context.Context, r authz.TokenRequest) (*authz.IssuedToken, error) {
	return f(r)
}

// Many calls of two principals at once: each gets its own token, and every one is on record.
func TestConcurrentCallsDoNotMeet(t *testing.T) {
	const workers, calls = 8, 40
	var out bytes.Buffer
	log, err := audit.Open(audit.Config{Writer: &out})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, func(w *world) {
		w.cfg.Audit = log
		w.cfg.Log = slog.New(slog.DiscardHandler)
		w.items.Exchange.Exchanger = exchangeFunc(func(r authz.TokenRequest) (*authz.IssuedToken, error) {
			return &authz.IssuedToken{Value: "issued-for-" + r.Subject}, nil
		})
	})
	var group sync.WaitGroup
	for i := range workers {
		who, raw := "ann", agentToken
		if i%2 == 1 {
			who, raw = "bob", bobsToken
		}
		r, body := modernCall("my_server_listItems", `{"n":`+strconv.Itoa(i)+`}`)
		r = with(r, "authorization", "Bearer "+raw)
		group.Go(func() {
			for range calls {
				call, _ := w.gate.Begin(context.Background(), r)
				v := call.Finish(context.Background(), []byte(body))
				if !slices.Contains(v.Set, [2]string{"authorization", "Bearer issued-for-" + who}) || !bytes.Contains(v.Body, []byte(`{"n":`+strconv.Itoa(i)+`}`)) {
					t.Errorf("%s: %s %v", who, outcome(v), v.Set)
				}
			}
		})
	}
	group.Wait()
	if n, err := audit.Verify(&out); n != workers*calls || err != nil {
		t.Errorf("%d records: %v", n, err)
	}
}

// A tool whose name, as agents would have to write it, leads to another app is not shown: calling it would not reach it.
func TestVisibleOnlyWhereACallLeads(t *testing.T) {
	const all = "package orchestrator\nresult[\"allowed\"] := true\n"
	w := newWorld(t, func(w *world) { w.open.Prefix, w.open.Policy = "", compile(t, "all", all) })
	for tool, want := range map[string]bool{"echo": true, "my_server_listItems": false} {
		if got := w.gate.Visible(t.Context(), w.open, mcpparse.Tool, tool, post(), newAnn(), "2026-07-28"); got != want {
			t.Errorf("%s: %v", tool, got)
		}
	}
}

// What a policy is told: published names and spellings, the tool without its prefix, the identity from the token.
func TestPolicyInput(t *testing.T) {
	const tell = `package orchestrator
result["allowed"] := false
result["external_message"] := json.marshal(input)
`
	w := newWorld(t, func(w *world) { w.open.Policy = compile(t, "tell", tell) })
	r, body := modernCall("open_echo", `{"a":[1.50,"x"]}`)
	r = with(r, "x-two", "a|b", "content-type", "application/json", "x-user", "root")
	v := w.judge(r, body)
	_, text, ok := strings.Cut(outcome(v), "200 isError ")
	if !ok {
		t.Fatal(outcome(v))
	}
	var got, want map[string]any
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatal(err)
	}
	err := json.Unmarshal([]byte(`{
		"request": {
			"mcp": {"method": "tools/call", "protocol_version": "2026-07-28", "tool": {"params": {"name": "echo", "arguments": {"a": [1.50, "x"]}}}},
			"http": {"method": "POST", "path": "/mcp", "host": "`+host+`", "headers": {
				"Authorization": "Bearer `+agentToken+`", "Content-Type": "application/json", "Accept": "application/json, text/event-stream",
				"Mcp-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": "open_echo", "X-Two": "a, b", "X-User": "root"}}},
		"source": {"ip": "192.0.2.7"}, "app": {"name": "open"},
		"identity": {"issuer": "https://issuer.example", "subject": "ann", "client_id": "agent-1", "client_only": false, "binding": "", "actors": ["agent-1"], "scopes": ["mcp"], "claims": {"sub": "ann"}}}`), &want)
	if err != nil {
		t.Fatal(err)
	}
	diff(t, "input", want, got)
}

// Where a person has another sub at each client, another claim of the agent's token says who it is.
func TestSubjectClaim(t *testing.T) {
	w := newWorld(t, func(w *world) { w.items.Exchange.SubjectClaim = "oid" })
	r, body := modernCall("my_server_getItem", `{}`)
	diff(t, "without the claim", "200 isError the authorization server refused a token for this tool", outcome(w.judge(r, body)))
	if rec := w.only(); len(w.exchanger.requests) != 0 || !strings.Contains(rec.Message, `no text as its claim "oid"`) {
		t.Errorf("record %+v", rec)
	}
	w.tokens.known[agentToken].Claims["oid"] = "object-of-ann"
	w.judge(r, body)
	diff(t, "subject", "object-of-ann", w.exchanger.requests[0].Subject)
}

// What is remarkable about a token that was accepted is on record.
func TestRemarks(t *testing.T) {
	w := newWorld(t, func(w *world) {
		w.exchanger.issued.Longer, w.exchanger.issued.Narrower, w.exchanger.issued.Reused = true, true, true
	})
	r, body := modernCall("my_server_getItem", `{}`)
	w.judge(r, body)
	diff(t, "message", "the delegated token has no act; the token lives longer than asked for; the token lacks scopes that were asked for; the token was made for an earlier call", w.only().Message)
}
