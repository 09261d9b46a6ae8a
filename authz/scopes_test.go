package authz_test

import (
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/authz/audit"
)

func TestInsufficientScope(t *testing.T) {
	w := newWorld(t)
	r, body := modernCall("my_server_purgeItem", `{}`)
	v := w.judge(r, body)
	diff(t, "answer", "403 -32600 purging needs more", outcome(v))
	diff(t, "challenge", `Bearer error="insufficient_scope", scope="item:Admin item:Purge", resource_metadata="http://`+host+
		`/.well-known/oauth-protected-resource/mcp"`, header(t, v.Reply, "www-authenticate"))
	if rec := w.only(); rec.Outcome != audit.Denied || rec.Message != "insufficient scope: item:Admin item:Purge" || rec.Tool != "purgeItem" {
		t.Errorf("record %+v", rec)
	}
	r, body = modernCall("my_server_wipeItem", `{}`)
	diff(t, "no message", "403 -32600 more scope is required", outcome(w.judge(r, body)))
}

// A policy may compute scopes from arguments: what is no scope-token must not get into the challenge.
func TestScopesCannotBreakOutOfTheChallenge(t *testing.T) {
	const rego = `package orchestrator
default result["allowed"] := false
result["required_scopes"] := [input.request.mcp.tool.params.arguments.scope]
`
	w := newWorld(t, func(w *world) { w.open.Policy = compile(t, "computed", rego) })
	for _, test := range []struct{ scope, challenged string }{
		{"fine", "fine"}, {`x\" , error=\"none`, ""}, {"a b", ""}, {`back\\slash`, ""}, {"line\\nend", ""}, {"", ""}, {"ü", ""},
	} {
		r, body := modernCall("open_any", `{"scope":"`+test.scope+`"}`)
		v := w.judge(r, body)
		if v.Reply == nil {
			t.Fatalf("%q: %s", test.scope, outcome(v))
		}
		challenge := header(t, v.Reply, "www-authenticate")
		if has := strings.Contains(challenge, `scope="`+test.challenged+`"`); has != (test.challenged != "") || strings.ContainsAny(challenge, "\r\n\\") || strings.Contains(challenge, "none") {
			t.Errorf("%q: %d %s", test.scope, v.Reply.Status, challenge)
		}
	}
}

// No scope is asked for that the agent's own token lacks, and the agent is told all that the call needs.
func TestSubjectScopes(t *testing.T) {
	w := newWorld(t, func(w *world) { w.items.Exchange.SubjectScopes = true })
	r, body := modernCall("my_server_getItem", `{}`)
	v := w.judge(r, body)
	if v.Reply == nil || v.Reply.Status != 403 || len(w.exchanger.requests) != 0 {
		t.Fatalf("verdict %+v", v)
	}
	if c := header(t, v.Reply, "www-authenticate"); !strings.Contains(c, `error="insufficient_scope", scope="item:getItem"`) {
		t.Error(c)
	}
	if rec := w.only(); rec.Outcome != audit.Denied || rec.Message != "insufficient scope: item:getItem" {
		t.Errorf("record %+v", rec)
	}
	w.tokens.known[agentToken].Scopes = []string{"item:getItem", "mcp"}
	diff(t, "with the scope", "forward app-items", outcome(w.judge(r, body)))
}

// needs gives the tools of the protected app scopes that the agent's own token must have.
func needs(w *world) {
	tools := map[string]authz.TokenRule{}
	for _, name := range []string{"getItem", "createItem", "purgeItem"} {
		tools[name] = authz.TokenRule{Scopes: []string{"item:" + name}, Lifetime: 5 * time.Second, Requires: []string{"items", "item:" + name + ":Own"}}
	}
	w.items.Exchange.Tools = rules(w.tb, tools)
}

func scopeOf(challenge string) string {
	_, rest, _ := strings.Cut(challenge, `scope="`)
	scope, _, _ := strings.Cut(rest, `"`)
	return scope
}

// A call names all the scopes that it needs at once, whoever asks for them; with these it succeeds, and who is not let
// through by the policy does not learn of them.
func TestRequires(t *testing.T) {
	const own, asked = "items item:getItem:Own", "item:Admin item:Purge items item:purgeItem:Own"
	for _, test := range []struct {
		name, tool, scopes string // of the agent's own token
		subject            bool   // requireSubjectScopes
		want, challenge    string
	}{
		{"none", "getItem", "mcp", false, "403 -32600 more scope is required", own},
		{"one of two", "getItem", "items mcp", false, "403 -32600 more scope is required", own},
		{"both", "getItem", "mcp items item:getItem:Own", false, "forward app-items", ""},
		{"those of the exchange too", "getItem", own, true, "403 -32600 more scope is required", own + " item:getItem"},
		{"all three", "getItem", own + " item:getItem", true, "forward app-items", ""},
		{"the policy asks for more", "purgeItem", "items", false, "403 -32600 purging needs more", asked},
		{"the policy asks for more, and so do all", "purgeItem", "mcp", true, "403 -32600 purging needs more", asked + " item:purgeItem"},
		{"what the policy asked for is there", "purgeItem", "item:Admin item:Purge", false, "200 isError purging needs more", ""},
		{"denied", "createItem", "mcp", false, "200 -32602 Unknown tool: my_server_createItem", ""},
	} {
		w := newWorld(t, needs, func(w *world) { w.items.Exchange.SubjectScopes = test.subject })
		w.tokens.known[agentToken].Scopes = strings.Fields(test.scopes)
		r, body := modernCall("my_server_"+test.tool, `{}`)
		v := w.judge(r, body)
		got := outcome(v)
		if strings.HasPrefix(got, "403 -32600 the agent's token lacks") {
			got = "403 -32600 more scope is required"
		}
		diff(t, test.name, test.want, got)
		if test.challenge == "" {
			if v.Reply != nil && header(t, v.Reply, "www-authenticate") != "" {
				t.Errorf("%s: a challenge", test.name)
			}
			continue
		}
		diff(t, test.name, test.challenge, scopeOf(header(t, v.Reply, "www-authenticate")))
		if rec := w.only(); rec.Outcome != audit.Denied || rec.Message != "insufficient scope: "+test.challenge || len(w.exchanger.requests) != 0 {
			t.Errorf("%s: record %+v", test.name, rec)
		}
	}
}

// What takes more scope stays listed, or no client would ever ask for it.
func TestRequiresIsListed(t *testing.T) {
	w := newWorld(t, needs)
	w.checkShown(post(), "my_server_getItem", true)
}

// Clients up to 2025-11-25 log in with what the challenge says alone, so it repeats what they have; never what is no scope,
// or what is between the client and its authorization server.
func TestOwnScopesAreKept(t *testing.T) {
	for _, test := range []struct{ name, scopes, want string }{
		{"some", "mcp other", "items item:getItem:Own mcp other"},
		{"one of those that are needed", "mcp items", "items item:getItem:Own mcp"},
		{"none", "", "items item:getItem:Own"},
		{"offline", "mcp offline_access", "items item:getItem:Own mcp"},
		{"no scopes", `a"b c\\d mcp`, "items item:getItem:Own mcp"},
		{"too many", strings.Repeat("x ", 3) + strings.Repeat("y", 3000), "items item:getItem:Own x"},
	} {
		w := newWorld(t, needs)
		w.tokens.known[agentToken].Scopes = strings.Fields(test.scopes)
		r, body := legacyCall(w.session(ownerOf), "my_server_getItem", `{}`)
		diff(t, test.name, test.want, scopeOf(header(t, w.judge(r, body).Reply, "www-authenticate")))
		if m := w.only().Message; m != "insufficient scope: items item:getItem:Own" {
			t.Errorf("%s: record %q", test.name, m)
		}
	}
}
