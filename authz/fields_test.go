package authz_test

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/net/http/httpguts"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/mcpparse"
)

// fieldNames is a list of them.
var fieldNames = regexp.MustCompile("^[-!#$%&'*+.^_`|~0-9a-z]+(?:, [-!#$%&'*+.^_`|~0-9a-z]+)*$")

// challenged is a list of challenges (RFC 9110 §11.6.1) whose quoted strings need no escape.
var challenged = regexp.MustCompile(`^(?:(?:, )?(?:Bearer|DPoP) (?:(?:, )?[a-z_]+="[ !#-\[\]-~]*")+)+$`)

// checkFields: Envoy is asked to write nothing that is no field (RFC 9110 §5.1, §5.5). Of what it does with others its
// versions differ.
func checkFields(t *testing.T, v authz.Verdict) {
	t.Helper()
	all := v.Set
	if v.Reply != nil {
		all = v.Reply.Header
	}
	for _, name := range v.Remove {
		all = append(all[:len(all):len(all)], [2]string{name, ""})
	}
	for _, f := range all {
		if name, value := strings.TrimPrefix(f[0], ":"), f[1]; !httpguts.ValidHeaderFieldName(name) || name != strings.ToLower(name) ||
			!httpguts.ValidHeaderFieldValue(value) || value != strings.TrimSpace(value) {
			t.Errorf("no field: %q", f)
		}
		if f[0] == "access-control-allow-headers" && !fieldNames.MatchString(f[1]) {
			t.Errorf("no list of names: %q", f[1])
		}
		if f[0] == "www-authenticate" && !challenged.MatchString(f[1]) {
			t.Errorf("no challenges: %s", f[1])
		}
	}
}

// Whatever names agents and servers use, and whatever policies say, comes out as fields or not at all.
func TestEmittedFields(t *testing.T) {
	const answering = `package orchestrator
arguments := object.get(input.request.mcp, ["tool", "params", "arguments"], {})
say := object.get(arguments, "say", "")
default result["allowed"] := false
result["allowed"] := true if say == ""
result["external_message"] := say if say != ""
result["required_scopes"] := [say] if arguments.scope
`
	w := newWorld(t, inspected, func(w *world) { w.open.Policy = compile(t, "answering", answering) })
	own := w.session(ownerOf)
	forwarded, mirrored := 0, 0
	judge := func(r authz.Request, body string) {
		v := w.judge(r, body)
		checkFields(t, v)
		if v.Forwards() {
			forwarded++
		}
		if strings.HasPrefix(set(v, "mcp-name"), "=?base64?") {
			mirrored++
		}
	}
	for _, evil := range []string{"a\r\nx-sallyport-route: hub", "a\nb", "a\x00b", "\x7f", "é", "\u2028", `"`, `", error="x`, `\`, "a b", "\ta", " a ", "=?base64?YQ==?=", "%0d%0a", strings.Repeat("x", 100)} {
		quoted, err := json.Marshal(evil)
		if err != nil {
			t.Fatal(err)
		}
		for _, arguments := range []string{`{"say":` + string(quoted) + `}`, `{"scope":true,"say":` + string(quoted) + `}`} {
			judge(modernCall("open_echo", arguments))
			judge(legacyCall(own, "open_echo", arguments))
		}
		for method, member := range map[string]string{"tools/call": "name", "prompts/get": "name", "resources/read": "uri"} {
			name := "open_" + evil
			w.upstreams.owns = map[string]string{name: "open"}
			judge(post("mcp-protocol-version", "2026-07-28", "mcp-method", method, "mcp-name", mcpparse.EncodeHeader(name)),
				`{"jsonrpc":"2.0","id":7,"method":"`+method+`","params":{"`+member+`":"open_`+string(quoted[1:])+`,`+modernMeta+`}}`)
		}
		r, body := modernCall("open_echo", `{}`)
		judge(r, strings.Replace(body, `"tools/call"`, string(quoted), 1))
		judge(r, strings.Replace(body, `"id":7`, `"id":`+string(quoted), 1))
		for _, field := range []string{"authorization", "origin", "mcp-method", "mcp-name", "mcp-param-x", "mcp-param-" + evil, "mcp-protocol-version", "mcp-session-id", "traceparent", "tracestate",
			"access-control-request-headers", "x-forwarded-proto", "dpop", evil} {
			for _, value := range []string{evil, "mcp-param-" + evil, page + "/" + evil, "Bearer " + evil} {
				if !httpguts.ValidHeaderFieldName(field) || !httpguts.ValidHeaderFieldValue(value) {
					continue // Envoy lets none through
				}
				r, body := modernCall("open_echo", `{}`)
				judge(with(r, field, value), body)
				preflight := authz.Request{Method: "OPTIONS", Path: "/mcp", Scheme: "http", Host: host, EndOfStream: true,
					Header: authz.Header{"origin": {page}, "access-control-request-method": {"POST"}}}
				judge(with(preflight, field, value), "")
			}
		}
		r, body = modernCall("open_echo", `{}`)
		r.Host = host + evil
		judge(r, body)
		r.Host, r.RawQuery = host, "sessionId="+evil
		judge(r, body)
	}
	if forwarded < 30 || mirrored < 5 {
		t.Errorf("%d messages went on, %d with a name that has to be encoded", forwarded, mirrored)
	}
}
