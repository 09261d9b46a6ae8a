package authz_test

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/authz/audit"
	"github.com/sallyport/sallyport/authz/policy"
	"github.com/sallyport/sallyport/authz/session"
	"github.com/sallyport/sallyport/mcpparse"
)

// oneArgument allows one tool with one argument only, so that whoever reads other arguments out of the same bytes
// is found out.
const oneArgument = `package orchestrator
default result["allowed"] := false
result["allowed"] := true if {
	input.request.mcp.tool.params.name == "pay"
	input.request.mcp.tool.params.arguments.amount == 1
}
result["external_message"] := "too much" if input.request.mcp.tool.params.arguments.amount > 1
`

// FuzzGate feeds the gate arbitrary headers ("name: value" lines over those of a good call) and bodies. A verdict
// that leads to an upstream means: recorded as allowed, for those bytes, which the policy allows, however leniently
// they are read; with the issued token and no trace of the agent's.
func FuzzGate(f *testing.F) {
	modern, modernBody := modernCall("my_server_pay", `{"amount":1}`)
	_, legacyBody := legacyCall("", "my_server_pay", `{"amount":1}`)
	lines := func(r authz.Request) string {
		var b strings.Builder
		for name, values := range r.Header {
			b.WriteString(name + ": " + values[0] + "\n")
		}
		return b.String()
	}
	for leg := range byte(3) {
		f.Add(lines(modern), "/mcp", "", []byte(modernBody), leg)
		f.Add("mcp-session-id: own", "/mcp", "a=b", []byte(legacyBody), leg)
	}
	for _, body := range []string{
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"my_server_pay","arguments":{"amount":1,"amount":2}}}`,
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"my_server_pay","arguments":{"amount":1}},"params":{}}`,
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"my_server_pay","arguments":{"amount":1},"Arguments":{"amount":2}}}`,
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"my_server_p\u0061y","arguments":{"\u0061mount":1.0}}}`,
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"my_server_pay","arguments":{"amount":1,"x":9007199254740993}}}`,
		`[]`, `{}`, "", "\xff",
	} {
		f.Add("mcp-session-id: own\nauthorization: Bearer "+agentToken, "/mcp", "", []byte(body), byte(0))
	}
	f.Add("authorization: Bearer x\nauthorization: Bearer "+agentToken+"\norigin: null", "/mcp", "access_token=x", []byte(modernBody), byte(0))

	w := newWorld(f, func(w *world) {
		w.items.Policy = compile(f, "one-argument", oneArgument)
		w.items.Exchange.Tools = rules(f, map[string]authz.TokenRule{"pay": {}})
	})
	if v := w.judge(modern, modernBody); v.Route != "app-items" {
		f.Fatalf("the good call: %s", outcome(v)) // or nothing below would be reached
	}
	own := w.session(ownerOf)
	legs := []authz.Leg{{}, {Era: mcpparse.EraLegacy, Version: "2025-11-25", SessionID: "up"}, {Era: mcpparse.EraModern, Version: "2026-07-28"}}
	f.Fuzz(func(t *testing.T, headers, path, query string, body []byte, leg byte) {
		w.upstreams.leg = legs[int(leg)%len(legs)]
		w.audit.records, w.exchanger.requests, w.upstreams.owners = nil, nil, nil
		r := post()
		r.Path, r.RawQuery = path, query
		if path == "/status" || strings.HasPrefix(path, "/.well-known/") {
			return // public documents are no messages
		}
		for line := range strings.Lines(headers) {
			name, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
			if ok && value == "own" {
				value = own
			}
			if name = strings.ToLower(name); ok && name == "host" {
				r.Host = value
			} else if ok {
				r.Header[name] = append(r.Header[name], value)
			}
		}
		if len(r.Header["authorization"]) == 2 && r.Header["authorization"][0] == r.Header["authorization"][1] {
			r.Header["authorization"] = r.Header["authorization"][:1]
		}
		for _, name := range []string{"content-type", "accept"} {
			if len(r.Header[name]) == 2 {
				r.Header[name] = r.Header[name][1:]
			}
		}
		call, v := w.gate.Begin(t.Context(), r)
		if call != nil {
			v = call.Finish(t.Context(), body)
		}
		w.checkVerdict(t, r, v, body)
	})
}

func (w *world) checkVerdict(t *testing.T, r authz.Request, v authz.Verdict, body []byte) {
	if v.Forwards() == (v.Reply != nil) {
		t.Fatalf("neither or both: %+v", v)
	}
	if len(w.audit.records) != 1 || w.audit.records[0].ID != v.ID {
		t.Fatalf("%d records for %s", len(w.audit.records), outcome(v))
	}
	rec := w.audit.records[0]
	if (rec.Outcome == audit.Allowed) != v.Forwards() {
		t.Fatalf("%s is on record as %s", outcome(v), rec.Outcome)
	}
	checkFields(t, v)
	if v.Reply != nil && !json.Valid(v.Reply.Body) {
		t.Fatalf("reply %q", v.Reply.Body)
	}
	switch ticket := set(v, authz.TicketHeader); {
	case v.Forwards() && v.Route != authz.HubRoute:
		w.checkUpstreamBound(t, r, v, rec, body)
	case ticket != "":
		w.checkTicket(t, r, ticket, rec, body)
	case len(w.exchanger.requests) != 0:
		t.Fatal("a token was obtained for nothing")
	}
}

// checkTicket holds a call that the hub carries to what holds for one that goes to its upstream directly. The hub makes
// what it sends of the agent's bytes and of the ticket.
func (w *world) checkTicket(t *testing.T, r authz.Request, sealed string, rec audit.Decision, body []byte) {
	caller, _ := w.gate.Identify(t.Context(), r)
	id, _ := r.Header.Get("mcp-session-id")
	s, _ := w.cfg.Sessions.Open(id, w.gate.Owner(caller.Identity, r.Path))
	ticket, err := w.gate.OpenTicket(sealed, caller, s, body)
	if err != nil { // of the modern era, where a session is not looked at
		ticket, err = w.gate.OpenTicket(sealed, caller, session.Session{}, body)
	}
	if err != nil || ticket.App != "items" || ticket.Name != "pay" || ticket.Token != issuedToken || ticket.Reply != nil || ticket.Call != rec.ID {
		t.Fatalf("ticket %+v, %v", ticket, err)
	}
	w.checkArguments(t, rec, body, "my_server_pay")
}

func (w *world) checkUpstreamBound(t *testing.T, r authz.Request, v authz.Verdict, rec audit.Decision, body []byte) {
	authorizations, length := 0, ""
	for _, set := range v.Set {
		switch set[0] {
		case "authorization":
			authorizations++
			if set[1] != "Bearer "+issuedToken {
				t.Errorf("authorization %q", set[1])
			}
		case "content-length":
			length = set[1]
		}
		if strings.Contains(set[0]+set[1], agentToken) {
			t.Errorf("the agent's token in %q", set)
		}
	}
	if authorizations != 1 || !slices.Contains(v.Remove, "authorization") {
		t.Errorf("%d authorizations, removed %q", authorizations, v.Remove)
	}
	for name, values := range r.Header {
		if strings.Contains(strings.Join(values, ""), agentToken) && !slices.Contains(v.Remove, name) && !isKept(name) {
			t.Errorf("%s goes on with the agent's token", name)
		}
	}
	forwarded := body
	if v.Body != nil {
		forwarded = v.Body
		if length == "" {
			t.Error("a new body with the old length")
		}
	}
	w.checkArguments(t, rec, forwarded, "pay")
}

// checkArguments holds bytes that were let through to the record and to the policy, however leniently they are read.
func (w *world) checkArguments(t *testing.T, rec audit.Decision, forwarded []byte, name string) {
	var lenient struct { // the last of two equal names wins, whatever its case
		Params struct {
			Name      string          `json:"name"`
			Arguments json.RawMessage `json:"arguments"`
		} `json:"params"`
	}
	if err := json.Unmarshal(forwarded, &lenient); err != nil {
		t.Fatalf("forwarded %q: %v", forwarded, err)
	}
	if sha(string(lenient.Params.Arguments)) != rec.ArgumentsSHA256 || rec.Tool != "pay" || lenient.Params.Name != name {
		t.Errorf("forwarded %s, on record %+v", forwarded, rec)
	}
	var amount struct{ Amount float64 }
	if err := json.Unmarshal(lenient.Params.Arguments, &amount); err != nil || amount.Amount != 1 {
		t.Errorf("the policy does not allow what is forwarded: %s", forwarded)
	}
	in := policy.Input{Tool: &policy.Tool{Name: "pay", Arguments: lenient.Params.Arguments}, Identity: newAnn()}
	if d := w.items.Policy.Decide(context.Background(), in); !d.Allowed {
		t.Errorf("the policy denies what is forwarded: %s: %s", forwarded, d.Explain())
	}
}

// isKept names the fields of which only the client's words are its own business.
func isKept(name string) bool {
	return strings.HasPrefix(name, "x-envoy-") || strings.HasPrefix(name, "mcp-param-") || slices.Contains([]string{"accept", "accept-language",
		"content-type", "content-length", "host", "user-agent", "traceparent", "tracestate", "x-request-id", "x-forwarded-for", "x-forwarded-proto",
		"connection", "transfer-encoding", "te", "trailer", "upgrade", "keep-alive", "expect"}, name)
}
