package authz_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/authz/audit"
	"github.com/sallyport/sallyport/authz/session"
	"github.com/sallyport/sallyport/mcpparse"
)

var ownSession = session.Session{ID: sessionID, Version: "2025-06-18", Issued: time.Unix(1, 0).UTC()}

// A call that Envoy cannot lead to its upstream by itself goes to the hub as it is, with a ticket that says what has been
// decided.
func TestCarrying(t *testing.T) {
	oldLeg := authz.Leg{Era: mcpparse.EraLegacy, Version: "2024-11-05", SessionID: "connection", Indirect: true}
	for _, test := range []struct {
		name     string
		era      string // of the agent
		method   string
		target   string
		leg      authz.Leg
		want     authz.Ticket // without the rest that is checked below
		tokenFor string
	}{
		{"modern to legacy", "modern", "tools/call", "my_server_listItems", legacyLeg, authz.Ticket{App: "items", Name: "listItems", Token: issuedToken}, "item:listItems"},
		{"legacy to modern", "legacy", "tools/call", "my_server_listItems", modernLeg, authz.Ticket{App: "items", Name: "listItems", Token: issuedToken}, "item:listItems"},
		{"legacy to the old transport", "legacy", "tools/call", "my_server_listItems", oldLeg, authz.Ticket{App: "items", Name: "listItems", Token: issuedToken}, "item:listItems"},
		{"modern to the old transport", "modern", "tools/call", "my_server_listItems", oldLeg, authz.Ticket{App: "items", Name: "listItems", Token: issuedToken}, "item:listItems"},
		{"unprotected", "modern", "tools/call", "open_echo", legacyLeg, authz.Ticket{App: "open", Name: "echo"}, ""},
		{"subscribing", "legacy", "resources/subscribe", "item://open/a", legacyLeg, authz.Ticket{App: "items", Name: "item://open/a", Token: issuedToken}, "item:Open"},
		{"unsubscribing at a modern upstream", "legacy", "resources/unsubscribe", "item://open/a", modernLeg, authz.Ticket{App: "items", Name: "item://open/a", Token: issuedToken}, "item:Open"},
	} {
		t.Run(test.name, func(t *testing.T) {
			at := time.Date(2026, 11, 23, 1, 2, 3, 0, time.UTC)
			w := newWorld(t, func(w *world) {
				w.upstreams.leg, w.cfg.Now = test.leg, func() time.Time { return at }
				if test.method != "tools/call" {
					withTargets(w)
				}
			})
			r, body := w.targeted(test.era, test.method, test.target, "")
			r.RawQuery = "a=b"
			v := w.judge(r, body)
			if v.Route != authz.HubRoute || v.Body != nil || v.Watch || len(v.Remove) > 0 || len(v.Set) != 4 {
				t.Fatalf("%s: %+v", outcome(v), v)
			}
			diff(t, "set", [][2]string{{":path", "/mcp"}, {"x-sallyport-route", "hub"}, {"x-sallyport-source", "192.0.2.7"}}, v.Set[:3])
			s := session.Session{}
			if test.era == "legacy" {
				s = ownSession
			}
			want := test.want
			want.Route, want.Call, want.Leg, want.Expires = "app-"+want.App, v.ID, test.leg, at.Add(30*time.Second)
			diff(t, "ticket", want, w.ticket(r, v, s, body))
			if rec := w.only(); rec.Outcome != audit.Allowed || rec.App != test.want.App || (rec.Exchanged != nil) != (test.want.Token != "") {
				t.Errorf("record %+v", rec)
			}
			if got := w.exchanger.requests; test.tokenFor != "" && (len(got) != 1 || len(got[0].Scopes) != 1 || got[0].Scopes[0] != test.tokenFor) {
				t.Errorf("tokens %+v", got)
			}
		})
	}
}

// A ticket is good for the very message, caller and session that it was made for, and for a short time.
func TestTicketsOfOthers(t *testing.T) {
	now := time.Date(2026, 11, 23, 1, 2, 3, 0, time.UTC)
	w := newWorld(t, func(w *world) { w.upstreams.leg, w.cfg.Now = modernLeg, func() time.Time { return now } })
	r, body := legacyCall(w.session(ownerOf), "my_server_listItems", `{}`)
	v := w.judge(r, body)
	sealed := set(v, authz.TicketHeader)
	ann, _ := w.gate.Identify(t.Context(), r)
	bob, _ := w.gate.Identify(t.Context(), with(r, "authorization", "Bearer "+bobsToken))
	other := ownSession
	other.ID = "ffffffffffffffffffffffffffffffff"
	elsewhere := newWorld(t, func(w *world) {
		w.upstreams.leg = modernLeg
		w.cfg.Sessions, _ = session.NewSealer([]byte("another key of thirty-two bytes!"))
	})
	foreign := set(elsewhere.judge(legacyCall(elsewhere.session(ownerOf), "my_server_listItems", `{}`)), authz.TicketHeader)
	for _, test := range []struct {
		name    string
		sealed  string
		caller  *authz.Caller
		session session.Session
		body    string
		after   time.Duration
		want    bool
	}{
		{"its own", sealed, ann, ownSession, body, 0, true},
		{"in time", sealed, ann, ownSession, body, 30 * time.Second, true},
		{"late", sealed, ann, ownSession, body, 30*time.Second + 1, false},
		{"another caller", sealed, bob, ownSession, body, 0, false},
		{"another session", sealed, ann, other, body, 0, false},
		{"no session", sealed, ann, session.Session{}, body, 0, false},
		{"another message", sealed, ann, ownSession, body + " ", 0, false},
		{"another key", foreign, ann, ownSession, body, 0, false},
		{"none", "", ann, ownSession, body, 0, false},
		{"a session id", w.session(ownerOf), ann, ownSession, body, 0, false},
		{"cut", sealed[:len(sealed)-4], ann, ownSession, body, 0, false},
	} {
		begun := now
		now = now.Add(test.after)
		got, err := w.gate.OpenTicket(test.sealed, test.caller, test.session, []byte(test.body))
		now = begun
		if (err == nil) != test.want || !test.want && !cmp.Equal(got, authz.Ticket{}) {
			t.Errorf("%s: %+v, %v", test.name, got, err)
		}
	}
}

// What is sealed, but is no ticket, is none.
func TestTicketThatIsNone(t *testing.T) {
	w := newWorld(t)
	ann, _ := w.gate.Identify(t.Context(), post())
	const emptySHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	for _, plain := range []string{"", "[]", "{", `{"expires":"never"}`, `{}`} { // the last one expired long ago
		sealed := w.cfg.Sessions.SealTicket([]byte(plain), ann.Identity.Principal(), "", emptySHA256)
		if got, err := w.gate.OpenTicket(sealed, ann, session.Session{}, nil); err == nil {
			t.Errorf("%s: %+v", plain, got)
		}
	}
}

// Another round of a call is judged, exchanged and recorded like a call of its own.
func TestAgain(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(w *world) // after the first round
		want   string         // of the refusal; "" for a ticket
		tokens int
	}{
		{"allowed", func(*world) {}, "", 1},
		{"the policy has changed", func(w *world) {
			w.items.Policy = compile(t, "none", "package orchestrator\nresult[\"allowed\"] := false\n")
		},
			"200 -32602 Unknown tool: my_server_listItems", 0},
		{"the token has expired", func(w *world) { w.tokens.err[agentToken] = errors.New("expired") }, "401 -32600 the token is not valid", 0},
		{"no token any more", func(w *world) { w.exchanger.err = &authz.ExchangeError{Refused: true, Err: errors.New("no")} },
			"200 isError the authorization server refused a token for this tool", 1},
		{"the upstream is away", func(w *world) { w.upstreams.err = errors.New("away") }, "502 -32603 the upstream is not reachable", 0},
		{"the audit is full", func(w *world) { w.audit.err = errors.New("full") }, "503 -32603 the gateway cannot record this call", 1},
	} {
		for _, path := range []string{"/mcp", "/mcp/message"} {
			w := newWorld(t, func(w *world) { w.upstreams.leg = modernLeg })
			r, body := legacyCall(w.session(ownerOf), "my_server_listItems", `{}`)
			r.Path = path
			test.change(w)
			ticket, refusal := w.gate.Again(t.Context(), r, ownSession, []byte(body))
			if test.want != "" && (refusal == nil || outcome(authz.Verdict{Reply: refusal}) != test.want) || test.want == "" && refusal != nil {
				t.Errorf("%s: %+v", test.name, refusal)
			}
			if len(w.exchanger.requests) != test.tokens {
				t.Errorf("%s: %d tokens", test.name, len(w.exchanger.requests))
			}
			if w.audit.err != nil {
				continue
			}
			rec := w.only()
			if (rec.Outcome == audit.Allowed) != (refusal == nil) || refusal == nil && (rec.ID != ticket.Call || rec.Session != sessionID || rec.ProtocolVersion != "2025-11-25" && path == "/mcp") {
				t.Errorf("%s: record %+v", test.name, rec)
			}
			want := authz.Ticket{App: "items", Route: "app-items", Name: "listItems", Token: issuedToken, Leg: modernLeg}
			if test.want == "" {
				diff(t, test.name, "", cmp.Diff(want, ticket, cmpopts.IgnoreFields(authz.Ticket{}, "Call")))
			}
		}
	}
}

// Tokens for sessions and streams are got by exchange, where a rule says which, and never the agent's own.
func TestTokenSource(t *testing.T) {
	rule := &authz.TokenRule{Scopes: []string{"item:Listen"}, Lifetime: time.Minute}
	look := &authz.TokenRule{Scopes: []string{"item:Look"}, Lifetime: 20 * time.Second}
	for _, test := range []struct {
		name     string
		app      string
		demanded bool
		change   func(w *world)
		want     string
		fails    bool
		asked    *authz.TokenRule
	}{
		{"no rule", "items", false, func(*world) {}, "", false, nil},
		{"unprotected", "open", true, func(*world) {}, "", false, nil},
		{"a rule", "items", false, func(w *world) { w.items.Exchange.Session = rule }, issuedToken, false, rule},
		{"refused", "items", false, func(w *world) { w.items.Exchange.Session, w.exchanger.err = rule, errors.New("no") }, "", true, rule},
		{"the agent's own", "items", false, func(w *world) { w.items.Exchange.Session, w.exchanger.issued.Value = rule, agentToken }, "", true, rule},
		{"none", "items", false, func(w *world) { w.items.Exchange.Session, w.exchanger.issued = rule, nil }, "", true, rule},
		{"demanded, and nothing said", "items", true, func(*world) {}, issuedToken, false, &authz.TokenRule{Lifetime: time.Minute}},
		{"demanded, and said for discovery", "items", true, func(w *world) { w.items.Exchange.Discovery.TokenRule = *look }, issuedToken, false, look},
		{"demanded, and said for both", "items", true, func(w *world) {
			w.items.Exchange.Session, w.items.Exchange.Discovery.TokenRule = rule, *look
		}, issuedToken, false, rule},
		{"known to demand it", "items", false, func(w *world) {
			w.items.Exchange.Discovery = authz.Discovery{Type: authz.DiscoverAsGateway, TokenRule: *look}
		}, issuedToken, false, look},
	} {
		w := newWorld(t, test.change)
		caller, _ := w.gate.Identify(t.Context(), post())
		app := map[string]*authz.App{"items": w.items, "open": w.open}[test.app]
		got, err := w.gate.TokenSource(caller)(t.Context(), app, test.demanded)
		if got != test.want || (err != nil) != test.fails {
			t.Errorf("%s: %q, %v", test.name, got, err)
		}
		var asked *authz.TokenRule
		if len(w.exchanger.requests) > 0 {
			asked = &w.exchanger.requests[0].TokenRule
			if w.exchanger.requests[0].SubjectToken != agentToken {
				t.Errorf("%s: %+v", test.name, w.exchanger.requests)
			}
		}
		diff(t, test.name, test.asked, asked)
	}
}

func TestPrincipals(t *testing.T) {
	ann, bob := newAnn(), newAnn()
	bob.Subject = "bob"
	if a, b := authz.PrincipalOwner(ann), authz.PrincipalOwner(bob); a == b || !authz.IsPrincipal(a) || !authz.IsPrincipal(b) {
		t.Errorf("%s and %s", a, b)
	}
	for _, owner := range []string{sessionID, session.NewID(), "", "hub at items"} {
		if authz.IsPrincipal(owner) {
			t.Errorf("%q is a principal", owner)
		}
	}
}
