package policy

import (
	"context"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/authz/token"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// v0Policy is written as Rego was before v1: rule bodies without "if".
const v0Policy = `package orchestrator

default result["allowed"] := false

result["allowed"] := true {
	input.request.mcp.tool.params.name == "readPage"
}

result["allowed"] := true {
	input.request.mcp.tool.params.name == "searchPages"
}
`

// tokenPolicy decodes the agent's token itself.
const tokenPolicy = `package orchestrator

default result["allowed"] := false

bearer := substring(input.request.http.headers.Authorization, 7, -1) if {
	startswith(input.request.http.headers.Authorization, "Bearer ")
}

claims := payload if [_, payload, _] := io.jwt.decode(bearer)

scopes contains s if some s in split(claims.scope, " ")

restricted := {"readSalary", "exportStaff"}

result["allowed"] := true if {
	not input.request.mcp.tool.params.name in restricted
	claims.sub != ""
}

result["allowed"] := true if {
	input.request.mcp.tool.params.name in restricted
	"staff:read" in scopes
}

result["external_message"] := "Access denied: staff data needs staff:read." if {
	input.request.mcp.tool.params.name in restricted
	not "staff:read" in scopes
}
`

func mustCompile(t testing.TB, src string) *Policy {
	t.Helper()
	p, err := Compile("test", "test.rego", []byte(src))
	if err != nil {
		t.Fatal(err)
	}
	return p.Within(time.Minute)
}

func call(tool, arguments string) Input {
	in := Input{
		Method:          "tools/call",
		ProtocolVersion: "2025-06-18",
		Tool:            &Tool{Name: tool},
		HTTP:            HTTP{Method: "POST", Path: "/mcp", Host: "gateway.example", Headers: map[string]string{"Authorization": bearer(`{"sub":"ann","scope":"pages:read"}`)}},
		SourceIP:        "192.0.2.7",
		App:             "wiki",
	}
	if arguments != "" {
		in.Tool.Arguments = []byte(arguments)
	}
	return in
}

// bearer makes the Authorization value of an unsigned token, which is all that io.jwt.decode looks at.
func bearer(claims string) string {
	enc := base64.RawURLEncoding.EncodeToString
	return "Bearer " + enc([]byte(`{"alg":"ES256","typ":"at+jwt"}`)) + "." + enc([]byte(claims)) + "." + enc([]byte("signature"))
}

// result wraps rules for data.orchestrator.result.
func rules(lines ...string) string {
	return "package orchestrator\n" + strings.Join(lines, "\n")
}

func TestDecide(t *testing.T) {
	tests := map[string]struct {
		src  string
		in   Input
		want Decision
	}{
		"v0 allows":           {v0Policy, call("searchPages", ""), Decision{Allowed: true, Reason: Allowed}},
		"v0 denies":           {v0Policy, call("deletePage", ""), Decision{Reason: Denied}},
		"v0 rules with if":    {strings.ReplaceAll(v0Policy, "true {", "true if {"), call("deletePage", ""), Decision{Reason: Denied}},
		"v0 and if mixed":     {strings.Replace(v0Policy, "true {", "true if {", 1), call("deletePage", ""), Decision{Reason: Denied}},
		"token policy allows": {tokenPolicy, call("readPage", ""), Decision{Allowed: true, Reason: Allowed}},
		"token policy denies": {tokenPolicy, call("readSalary", ""), Decision{Reason: Denied, Message: "Access denied: staff data needs staff:read."}},
		"no tool":             {v0Policy, Input{Method: "ping"}, Decision{Reason: Denied}},
		"object form": {rules(`result := {"allowed": true} if input.app.name == "wiki"`), call("x", ""),
			Decision{Allowed: true, Reason: Allowed}},
		"object form, undefined": {rules(`result := {"allowed": true} if input.app.name == "other"`), call("x", ""),
			Decision{Reason: Undefined}},
		"else": {rules(`result["allowed"] := false if input.request.mcp.tool.params.arguments.force == true else := true`),
			call("x", `{"force":true}`), Decision{Reason: Denied}},
		"every": {rules(`default result["allowed"] := false`,
			`result["allowed"] := true if { every v in input.request.mcp.tool.params.arguments.ids { v < 10 } }`),
			call("x", `{"ids":[1,2,11]}`), Decision{Reason: Denied}},
		"default allow, denied by argument": {rules(`default result["allowed"] := true`,
			`result["allowed"] := false if input.request.mcp.tool.params.arguments.path == "/etc"`),
			call("x", `{"path":"\/etc"}`), Decision{Reason: Denied}},
		"step-up": {rules(`default result["allowed"] := false`, `result["required_scopes"] := {"b:write", "a:read"}`),
			call("x", ""), Decision{Reason: Denied, RequiredScopes: []string{"a:read", "b:write"}}},
		"allowed with odd message": {rules(`result := {"allowed": true, "external_message": 7}`), call("x", ""),
			Decision{Allowed: true, Reason: Allowed}},
		"unknown key": {rules(`result := {"allowed": true, "mask": ["x"]}`), call("x", ""), Decision{Allowed: true, Reason: Allowed}},
		"arguments decide, but are ill-formed": {rules(`default result["allowed"] := true`,
			`result["allowed"] := false if input.request.mcp.tool.params.arguments.a`), call("x", `[]`),
			Decision{Reason: Failed, Err: errNotObject}},
		"oversized number": {rules(`default result["allowed"] := true`,
			`result["allowed"] := false if input.request.mcp.tool.params.arguments.a`), call("x", `{"a":1e-99999}`),
			Decision{Reason: Failed, Err: errNumber}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := mustCompile(t, tt.src).Decide(context.Background(), tt.in)
			if diff := cmp.Diff(tt.want, got, equalErrors); diff != "" {
				t.Error(diff)
			}
		})
	}
}

var equalErrors = cmp.Comparer(func(a, b error) bool { return fmt.Sprint(a) == fmt.Sprint(b) })

func TestOnlyTrueAllows(t *testing.T) {
	tests := []struct{ rule, reason string }{
		{`result := true`, NotBoolean},
		{`result := "true"`, NotBoolean},
		{`result := 1`, NotBoolean},
		{`result := []`, NotBoolean},
		{`result := ["allowed"]`, NotBoolean},
		{`result := null`, NotBoolean},
		{`result contains "allowed"`, NotBoolean},
		{`result := {"allowed"}`, NotBoolean},
		{`result := {}`, Undefined},
		{`result := {"allow": true}`, Undefined},
		{`result := {"Allowed": true}`, Undefined},
		{`result[["allowed"]] := true`, Undefined},
		{`other := true`, Undefined},
		{`result["allowed"] := true if input.nothing`, Undefined},
		{`result := {"allowed": "true"}`, NotBoolean},
		{`result := {"allowed": 1}`, NotBoolean},
		{`result := {"allowed": [true]}`, NotBoolean},
		{`result := {"allowed": {"allowed": true}}`, NotBoolean},
		{`result := {"allowed": null}`, NotBoolean},
		{`result := {"allowed": false}`, Denied},
	}
	for _, tt := range tests {
		t.Run(tt.rule, func(t *testing.T) {
			got := mustCompile(t, rules(tt.rule)).Decide(context.Background(), call("x", ""))
			if diff := cmp.Diff(Decision{Reason: tt.reason}, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestFailuresDeny(t *testing.T) {
	tests := map[string]struct{ src, reason, text string }{
		"two values": {rules(`result["allowed"] := true`, `result["allowed"] := false if input.app`), Conflict, "eval_conflict_error"},
		"failing built-in under a default allow": {rules(`default result["allowed"] := true`,
			`result["allowed"] := false if to_number(input.request.http.headers.Authorization) > 1`), Failed,
			"test.rego:3:31: eval_builtin_error in to_number"},
		"broken token under a default allow": {rules(`default result["allowed"] := true`,
			`result["allowed"] := false if io.jwt.decode("a.b")[1].sub == "eve"`), Failed, "eval_builtin_error in io.jwt.decode"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := mustCompile(t, tt.src).Decide(context.Background(), call("x", ""))
			if got.Allowed || got.Reason != tt.reason || !strings.Contains(got.Explain(), tt.text) {
				t.Errorf("got %+v (%s), want %s with %q", got, got.Explain(), tt.reason, tt.text)
			}
			if strings.Contains(got.Explain(), "Bearer") {
				t.Errorf("input in the explanation: %s", got.Explain())
			}
		})
	}
}

func TestDeadline(t *testing.T) {
	hogs := map[string]string{
		"range":           `result["allowed"] := true if count(numbers.range(1, 1000000000)) > 1`,
		"nested loops":    `result["allowed"] := true if count([1 | some i in numbers.range(1, 10000); some j in numbers.range(1, 10000); i + j == 0]) == 0`,
		"regex in a loop": `result["allowed"] := true if count([1 | some i in numbers.range(1, 1000000); regex.match("(a+)+$", sprintf("%s%d", [input.request.mcp.tool.params.arguments.s, i]))]) == 0`,
		"cidr":            `result["allowed"] := true if count(net.cidr_expand("0.0.0.0/2")) > 1`,
	}
	for name, rule := range hogs {
		t.Run(name, func(t *testing.T) {
			p := mustCompile(t, rules(`default result["allowed"] := true`, rule))
			p.deadline = Deadline
			in := call("x", `{"s":"`+strings.Repeat("a", 1000)+`"}`)
			begun := time.Now()
			if got := p.Decide(context.Background(), in); got.Reason != Late || got.Allowed {
				t.Errorf("got %+v", got)
			}
			if tried := time.Since(begun); tried < 2*Deadline {
				t.Errorf("after %v: that may have been somebody else's time", tried)
			}
			if p.Visible(context.Background(), in) {
				t.Error("visible")
			}
		})
	}
}

func TestDeadlineHonoursCaller(t *testing.T) {
	p := mustCompile(t, rules(`result["allowed"] := count([1 | some i in numbers.range(1, 100000000); i < 0]) == 0`))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if got := p.Decide(ctx, call("x", "")); got.Reason != Late || got.Allowed {
		t.Errorf("got %+v", got)
	}
}

func TestMessageIsBounded(t *testing.T) {
	p := mustCompile(t, rules(`result := {"allowed": false, "external_message": concat("", [x | some i in numbers.range(1, 5000); x := "é"])}`))
	got := p.Decide(context.Background(), call("x", ""))
	if want := strings.Repeat("é", maxMessage/2); got.Message != want {
		t.Errorf("got %d bytes, want %d", len(got.Message), len(want))
	}
}

func TestRequiredScopesFitAChallenge(t *testing.T) {
	for _, value := range []string{
		`"a:read"`, `[1]`, `["a", null]`, `["a b"]`, `["a\""]`, `["a\\"]`, `["a\r\nX-Evil: 1"]`, `["é"]`, `[""]`, `[]`, `{}`,
		`[sprintf("s%d", [i]) | some i in numbers.range(1, 33)]`,
	} {
		p := mustCompile(t, rules(`result := {"allowed": false, "required_scopes": `+value+`}`))
		if got := p.Decide(context.Background(), call("x", "")); got.RequiredScopes != nil {
			t.Errorf("%s: got %q", value, got.RequiredScopes)
		}
	}
}

// One value has many spellings, and a rule must see through all of them: a deny that misses one fails open.
func TestSpellingDoesNotMatter(t *testing.T) {
	deny := func(condition string) *Policy {
		return mustCompile(t, rules(`default result["allowed"] := true`, `a := input.request.mcp.tool.params.arguments.a`,
			`result["allowed"] := false if `+condition))
	}
	for condition, spellings := range map[string][]string{
		`input.request.mcp.tool.params.arguments.a == 100`: {`100`, `1e2`, `100.0`, `1.00E+2`, `10000e-2`},
		`a == 100`:                {`100`, `1e2`, `100.0`},
		`a > 99.5`:                {`100`, `1e2`, `100.0`},
		`a in {100, 7}`:           {`100`, `1e2`, `100.0`},
		`{100: true, 7: true}[a]`: {`100`, `1e2`, `100.0`},
		`input.request.mcp.tool.params.arguments.a == 9007199254740993`:    {`9007199254740993`, `9007199254740993.0`, `9.007199254740993e15`},
		`input.request.mcp.tool.params.arguments.a == "/é"`:                {`"/é"`, `"\/\u00e9"`, `"\u002f\u00E9"`},
		`input.request.mcp.tool.params["arguments"].a == ["x", {"k": -1}]`: {`["x",{"k":-1}]`, ` [ "\u0078" , {"\u006b":-1.0} ] `},
	} {
		p := deny(condition)
		for _, a := range spellings {
			if got := p.Decide(t.Context(), call("x", `{"a":`+a+`}`)); got.Reason != Denied {
				t.Errorf("%s lets %s pass: %s", condition, a, got.Explain())
			}
			if got := p.Decide(t.Context(), call("x", `{"\u0061":`+a+`}`)); got.Reason != Denied {
				t.Errorf("%s lets %s pass under an escaped name: %s", condition, a, got.Explain())
			}
		}
	}
}

func TestConcurrentDecisions(t *testing.T) {
	p := mustCompile(t, rules(`result["allowed"] := input.identity.claims.n > 1`))
	partial := mustCompile(t, aliasForm)
	id := &token.Identity{Claims: map[string]any{"n": 2.0, "list": []any{"b", "a"}}}
	done := make(chan Decision)
	for range 8 {
		go func() {
			in := call("x", "")
			in.Identity = id
			var last Decision
			for range 100 {
				last = p.Decide(context.Background(), in)
				if !partial.Visible(context.Background(), call("pay", "")) {
					last.Allowed = false
				}
			}
			done <- last
		}()
	}
	for range 8 {
		if d := <-done; !d.Allowed {
			t.Errorf("got %+v", d)
		}
	}
}
