package authz_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/authz/audit"
	"github.com/sallyport/sallyport/authz/session"
	"github.com/sallyport/sallyport/mcpparse"
)

// targetsRego decides prompts and resources.
const targetsRego = `package orchestrator
default result["allowed"] := false
result["allowed"] := true if input.request.mcp.prompt.params.name in {"greet", "unnamed"}
result["allowed"] := true if {
	input.request.mcp.prompt.params.name == "picky"
	input.request.mcp.prompt.params.arguments.to == "ann"
}
result["external_message"] := "only on Mondays" if input.request.mcp.prompt.params.name == "monday"
result["required_scopes"] := ["item:Admin"] if input.request.mcp.prompt.params.name == "scoped"
result["allowed"] := true if startswith(input.request.mcp.resource.params.uri, "item://open/")
result["allowed"] := true if input.request.mcp.resource.params.uri == "item://unnamed"
result["allowed"] := true if {
	input.request.mcp.resource.params.uri == "item://reader"
	input.request.mcp.method == "resources/read"
}
result["external_message"] := "not this one" if input.request.mcp.resource.params.uri == "item://told"
`

func withTargets(w *world) {
	w.items.Policy = compile(w.tb, "targets", targetsRego)
	w.items.Exchange.Prompts = rules(w.tb, map[string]authz.TokenRule{
		"greet": {Scopes: []string{"item:Greet"}, Lifetime: 2 * time.Second}, "picky": {}, "monday": {}, "scoped": {}, "hidden": {}})
	w.items.Exchange.Resources = rules(w.tb, map[string]authz.TokenRule{
		"item://open/*": {Scopes: []string{"item:Open"}, Lifetime: 3 * time.Second}, "item://open/own": {Scopes: []string{"item:Own"}},
		"item://told": {}, "item://hidden": {}, "item://reader": {}})
	w.upstreams.owns = map[string]string{"item://elsewhere": "gone"}
	for _, uri := range []string{"item://open/a", "item://open/own", "item://told", "item://hidden", "item://unnamed", "item://reader"} {
		w.upstreams.owns[uri] = "items"
	}
}

// targeted is a request about a prompt or a resource, in an era.
func (w *world) targeted(era, method, name, arguments string) (authz.Request, string) {
	w.tb.Helper()
	quoted, _ := json.Marshal(name)
	params, mirror := `"name":`+string(quoted), mcpparse.EncodeHeader(name)
	switch {
	case method == "completion/complete" && strings.Contains(name, ":"):
		params, mirror = `"ref":{"type":"ref/resource","uri":`+string(quoted)+`},"argument":{"name":"a","value":"v"}`, "-"
	case method == "completion/complete":
		params, mirror = `"ref":{"type":"ref/prompt","name":`+string(quoted)+`},"argument":{"name":"a","value":"v"}`, "-"
	case strings.HasPrefix(method, "resources/"):
		params = `"uri":` + string(quoted)
	}
	if arguments != "" {
		params += `,"arguments":` + arguments
	}
	if era == "legacy" {
		return post("mcp-protocol-version", "2025-11-25", "mcp-session-id", w.session(ownerOf)),
			`{"jsonrpc":"2.0","id":7,"method":"` + method + `","params":{` + params + `}}`
	}
	return post("mcp-protocol-version", "2026-07-28", "mcp-method", method, "mcp-name", mirror),
		`{"jsonrpc":"2.0","id":7,"method":"` + method + `","params":{` + params + `,` + modernMeta + `}}`
}

// One row for each way in which a message about a prompt or a resource can be answered, in both eras.
func TestTargets(t *testing.T) {
	const (
		unknownPrompt   = "200 -32602 Unknown prompt: "
		unknownResource = "200 CODE Resource not found"
		denied          = "200 403 denied by policy"
		forward         = "forward app-items"
		get, read       = "prompts/get", "resources/read"
		complete        = "completion/complete"
	)
	listAll := func(w *world) { w.items.ListAll = true }
	for _, test := range []struct {
		name, method, target, arguments string
		change                          func(w *world)
		want                            string
		reason                          string // in the audit, a part
		scope                           string // of the token
		legacyOnly                      bool
	}{
		{name: "a prompt", method: get, target: "my_server_greet", want: forward, scope: "item:Greet"},
		{name: "a prompt, by arguments", method: get, target: "my_server_picky", arguments: `{"to":"ann"}`, want: forward},
		{name: "a prompt, denied by arguments", method: get, target: "my_server_picky", arguments: `{"to":"bob"}`, want: denied, reason: "policy: denied"},
		{name: "a prompt, denied with a message", method: get, target: "my_server_monday", want: "200 403 only on Mondays", reason: "only on Mondays"},
		{name: "a prompt, denied for scope", method: get, target: "my_server_scoped", want: "403 -32600 more scope is required", reason: "insufficient scope: item:Admin"},
		{name: "a prompt, hidden", method: get, target: "my_server_hidden", want: unknownPrompt + "my_server_hidden", reason: "policy: denied"},
		{name: "a prompt, list shows all", method: get, target: "my_server_hidden", change: listAll, want: denied, reason: "policy: denied"},
		{name: "a prompt, not in prompts", method: get, target: "my_server_unnamed", want: unknownPrompt + "my_server_unnamed", reason: "not named in tokenExchange"},
		{name: "a prompt, not in prompts, others are", method: get, target: "my_server_unnamed", change: func(w *world) { w.items.Exchange.AllowOthers = true }, want: forward},
		{name: "a tool's rule is no prompt's", method: get, target: "my_server_listItems", want: unknownPrompt + "my_server_listItems", reason: "policy: denied"},
		{name: "a prompt of no app", method: get, target: "elsewhere_greet", want: unknownPrompt + "elsewhere_greet", reason: "no app owns this name"},
		{name: "prompts are not offered", method: get, target: "my_server_greet", change: func(w *world) { w.upstreams.lacks = map[string]bool{get: true} }, want: "HTTP -32601 method not found"},

		{name: "a resource", method: read, target: "item://open/a", want: forward, scope: "item:Open"},
		{name: "a resource, its own rule", method: read, target: "item://open/own", want: forward, scope: "item:Own"},
		{name: "a resource, denied with a message", method: read, target: "item://told", want: "200 403 not this one", reason: "not this one"},
		{name: "a resource, hidden", method: read, target: "item://hidden", want: unknownResource, reason: "policy: denied"},
		{name: "a resource, not in resources", method: read, target: "item://unnamed", want: unknownResource, reason: "not named in tokenExchange"},
		{name: "a resource that no app has", method: read, target: "item://nobody", want: unknownResource, reason: "no app owns this name"},
		{name: "a resource of an app that is gone", method: read, target: "item://elsewhere", want: unknownResource, reason: "no app owns this name"},
		{name: "a resource whose prefix means nothing", method: read, target: "my_server_item://open/a", want: unknownResource, reason: "no app owns this name"},

		{name: "completing a prompt", method: complete, target: "my_server_greet", want: forward, scope: "item:Greet"},
		{name: "completing what arguments decide", method: complete, target: "my_server_picky", want: forward},
		{name: "completing a hidden prompt", method: complete, target: "my_server_hidden", want: unknownPrompt + "my_server_hidden", reason: "not visible"},
		{name: "completing a prompt that is not in prompts", method: complete, target: "my_server_unnamed", want: unknownPrompt + "my_server_unnamed", reason: "not visible"},
		{name: "completing a resource", method: complete, target: "item://open/a", want: forward, scope: "item:Open"},
		{name: "completing a hidden resource", method: complete, target: "item://hidden", want: unknownResource, reason: "not visible"},
		{name: "completing a resource that no app has", method: complete, target: "item://nobody", want: unknownResource, reason: "no app owns this name"},

		{name: "subscribing", method: "resources/subscribe", target: "item://open/own", want: "forward hub", scope: "item:Own", legacyOnly: true},
		{name: "subscribing to a hidden resource", method: "resources/subscribe", target: "item://hidden", want: unknownResource, reason: "policy: denied", legacyOnly: true},
		{name: "subscribing to what may only be read", method: "resources/subscribe", target: "item://reader", want: unknownResource, reason: "policy: denied", legacyOnly: true},
		{name: "unsubscribing", method: "resources/unsubscribe", target: "item://open/a", want: "forward hub", scope: "item:Open", legacyOnly: true},
		{name: "subscriptions are not offered", method: "resources/subscribe", target: "item://open/a", change: func(w *world) { w.upstreams.lacks = map[string]bool{"resources/subscribe": true} }, want: "HTTP -32601 method not found", legacyOnly: true},
	} {
		for _, era := range []string{"modern", "legacy"} {
			want := strings.NewReplacer("CODE", map[string]string{"modern": "-32602", "legacy": "-32002"}[era],
				"HTTP", map[string]string{"modern": "404", "legacy": "200"}[era]).Replace(test.want)
			reason := test.reason
			if test.legacyOnly && era == "modern" {
				want, reason = "404 -32601 method not found", ""
			}
			t.Run(test.name+"/"+era, func(t *testing.T) {
				w := newWorld(t, withTargets)
				if test.change != nil {
					w = newWorld(t, withTargets, test.change)
				}
				r, body := w.targeted(era, test.method, test.target, test.arguments)
				v := w.judge(r, body)
				diff(t, "verdict", want, outcome(v))
				rec := w.only()
				if !strings.Contains(rec.Message, reason) || rec.Method != test.method || (rec.Outcome == audit.Allowed) != v.Forwards() {
					t.Errorf("record %+v", rec)
				}
				if strings.Contains(want, "Resource not found") && !strings.Contains(string(v.Reply.Body), `"data":{"uri":"`+test.target+`"}`) {
					t.Errorf("which resource? %s", v.Reply.Body)
				}
				if (len(w.exchanger.requests) > 0) != v.Forwards() {
					t.Errorf("tokens %+v", w.exchanger.requests)
				} else if v.Forwards() && strings.Join(w.exchanger.requests[0].Scopes, " ") != test.scope {
					t.Errorf("a token for %v, want %s", w.exchanger.requests[0].Scopes, test.scope)
				}
			})
		}
	}
}

// What goes upstream: the name without the prefix, a URI as it is, and who it was for on record.
func TestTargetsGoUpstream(t *testing.T) {
	for _, test := range []struct {
		era, method, target string
		want                string // in the body; "" for one that stays
		mirror              string
		record              audit.Decision
		watch               bool
	}{
		{"modern", "prompts/get", "my_server_greet", `"name":"greet"`, "greet", audit.Decision{Prompt: "greet"}, false},
		{"legacy", "prompts/get", "my_server_greet", `"name":"greet"`, "", audit.Decision{Prompt: "greet"}, true},
		{"modern", "resources/read", "item://open/a", "", "item://open/a", audit.Decision{Resource: "item://open/a"}, true},
		{"legacy", "resources/read", "item://open/a", "", "", audit.Decision{Resource: "item://open/a"}, true},
		{"modern", "completion/complete", "my_server_greet", `"ref":{"type":"ref/prompt","name":"greet"}`, "", audit.Decision{Prompt: "greet"}, false},
		{"legacy", "completion/complete", "item://open/a", "", "", audit.Decision{Resource: "item://open/a"}, true},
	} {
		w := newWorld(t, withTargets)
		r, body := w.targeted(test.era, test.method, test.target, "")
		v := w.judge(r, body)
		if v.Route != "app-items" || (v.Body != nil) != (test.want != "") || !strings.Contains(string(v.Body), test.want) || v.Watch != test.watch {
			t.Errorf("%s %s: %s %s, watched %v", test.era, test.method, outcome(v), v.Body, v.Watch)
		}
		diff(t, test.method+": mirror", test.mirror, set(v, "mcp-name"))
		rec := w.only()
		diff(t, test.method+": record", test.record, audit.Decision{Tool: rec.Tool, Prompt: rec.Prompt, Resource: rec.Resource})
	}
}

// A list of prompts or resources shows what a call would reach.
func TestVisibleTargets(t *testing.T) {
	w := newWorld(t, withTargets)
	for _, test := range []struct {
		kind mcpparse.Target
		name string
		want bool
	}{
		{mcpparse.Prompt, "greet", true}, {mcpparse.Prompt, "picky", true}, {mcpparse.Prompt, "monday", true}, {mcpparse.Prompt, "scoped", true},
		{mcpparse.Prompt, "hidden", false}, {mcpparse.Prompt, "unnamed", false},
		{mcpparse.Resource, "item://open/a", true}, {mcpparse.Resource, "item://open/{template}", true}, {mcpparse.Resource, "item://reader", true},
		{mcpparse.Resource, "item://hidden", false}, {mcpparse.Resource, "item://unnamed", false},
		{mcpparse.Tool, "greet", false},
	} {
		if got := w.gate.Visible(t.Context(), w.items, test.kind, test.name, post(), newAnn(), "2026-07-28"); got != test.want {
			t.Errorf("%d %s: %v", test.kind, test.name, got)
		}
	}
}

// A response goes on when its id is one that was sealed for this very session, at an app that is still there.
func TestResponses(t *testing.T) {
	const unasked = "400 -32600 no request of ours is waiting for this response"
	asked := func(w *world, s string, n session.Name) string { return `"` + w.cfg.Sessions.SealName(s, n) + `"` }
	of := func(kind session.Kind, app string) session.Name {
		return session.Name{Kind: kind, App: session.TagOf(app), Leg: session.TagOf("up"), Raw: []byte("1")}
	}
	for _, test := range []struct {
		name   string
		id     func(w *world) string
		change func(w *world)
		want   string
	}{
		{name: "asked", id: func(w *world) string { return asked(w, sessionID, of(session.RequestID, "open")) }, want: listed},
		{name: "asked by another app", id: func(w *world) string { return asked(w, sessionID, of(session.RequestID, "items")) }, want: listed},
		{name: "asked in another session", id: func(w *world) string {
			return asked(w, "ffffffffffffffffffffffffffffffff", of(session.RequestID, "open"))
		}, want: unasked},
		{name: "asked by an app that is gone", id: func(w *world) string { return asked(w, sessionID, of(session.RequestID, "gone")) }, want: unasked},
		{name: "no request's id", id: func(w *world) string { return asked(w, sessionID, of(session.ProgressToken, "open")) }, want: unasked},
		{name: "the upstream's own id", id: func(*world) string { return "1" }, want: unasked},
		{name: "made up", id: func(*world) string { return `"AAAA"` }, want: unasked},
		{name: "no sessions", id: func(w *world) string { return asked(w, "", of(session.RequestID, "open")) }, change: func(w *world) { w.cfg.SessionHeader = "" }, want: unasked},
		{name: "ended", id: func(w *world) string { return asked(w, sessionID, of(session.RequestID, "open")) }, change: func(w *world) { w.upstreams.ended[sessionID] = true }, want: sessionUnknown},
	} {
		for _, member := range []string{`"result":{"x":1}`, `"error":{"code":-1,"message":"m"}`} {
			w := newWorld(t)
			if test.change != nil {
				w = newWorld(t, test.change)
			}
			v := w.judge(post("mcp-protocol-version", "2025-11-25", "mcp-session-id", w.session(ownerOf)), `{"jsonrpc":"2.0","id":`+test.id(w)+`,`+member+`}`)
			diff(t, test.name, test.want, outcome(v))
			rec := w.only()
			if v.Forwards() && (rec.Method != "response" || rec.App == "" || rec.Tool != "" || rec.Policy != "" || rec.ArgumentsSHA256 != "") {
				t.Errorf("%s: record %+v", test.name, rec)
			}
			if len(w.exchanger.requests) > 0 {
				t.Errorf("%s: a token was obtained", test.name)
			}
		}
	}
}
