package policy

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Whatever the arguments are, a policy that says no says no, and reading them does not end the process.
func FuzzDecide(f *testing.F) {
	for _, seed := range []string{`{}`, `{"a":[1,2.5e3,"\u00e9",null,{"b":true}]}`, `{"a":1,"a":2}`, `[`, `{"a":1e999999999}`, `{"allowed":true}`, "\xff", `{"a":-}`} {
		f.Add("tool", []byte(seed))
	}
	deny, err := Compile("deny", "deny.rego", []byte(`package orchestrator
default result["allowed"] := false
touched := count([v | walk(input, [_, v])])
result["allowed"] := true if touched < 0
result["external_message"] := sprintf("%v", [touched])`))
	if err != nil {
		f.Fatal(err)
	}
	some, err := Compile("some", "some.rego", []byte(`package orchestrator
default result["allowed"] := false
result["allowed"] := true if input.request.mcp.tool.params.arguments.allowed == true`))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, tool string, args []byte) {
		in := Input{Method: "tools/call", Tool: &Tool{Name: tool, Arguments: args}}
		if d := deny.Decide(context.Background(), in); d.Allowed {
			t.Fatalf("allowed %q", args)
		}
		var sent struct{ Allowed json.RawMessage }
		if d := some.Decide(context.Background(), in); d.Allowed && json.Unmarshal(args, &sent) == nil && string(sent.Allowed) != "true" {
			t.Fatalf("allowed %q", args)
		}
	})
}

// Of all values that a policy can produce, only an object whose allowed is exactly true allows.
func FuzzResult(f *testing.F) {
	for _, seed := range []string{`{"allowed":true}`, `{"allowed":"true"}`, `{"Allowed":true}`, `true`, `[true]`, `{"allowed":false,"required_scopes":["a b"],"external_message":1}`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, src string) {
		value, err := ast.ValueFromReader(strings.NewReader(src))
		if err != nil {
			return
		}
		d := read(ast.NewTerm(value))
		native, err := ast.JSON(value)
		if err != nil {
			t.Fatal(err)
		}
		object, _ := native.(map[string]any)
		if want := object["allowed"] == true; d.Allowed != want {
			t.Fatalf("%s: allowed %v", src, d.Allowed)
		}
		if len(d.Message) > maxMessage || strings.ContainsAny(strings.Join(d.RequiredScopes, ""), "\r\n\" \\") {
			t.Fatalf("%s: %+v", src, d)
		}
	})
}
