// Package policies tests the policies in deploy: each by the Rego tests beside it (name_test.rego),
// and through the engine that decides in the gateway.
package policies

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/sallyport/sallyport/authz/policy"
	"github.com/sallyport/sallyport/authz/token"
)

// examples are the policies of a pattern, without the endings of their names.
func examples(t *testing.T, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range files {
		if !strings.HasSuffix(f, "_test.rego") {
			names = append(names, strings.TrimSuffix(f, ".rego"))
		}
	}
	if len(names) == 0 {
		t.Fatalf("no %s", pattern)
	}
	return names
}

func source(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// parse reads a module in either dialect, as the gateway does.
func parse(t *testing.T, name string) *ast.Module {
	t.Helper()
	text := source(t, name)
	m, err := ast.ParseModuleWithOpts(name, text, ast.ParserOptions{RegoVersion: ast.RegoV1})
	if err == nil {
		return m
	}
	m, err0 := ast.ParseModuleWithOpts(name, text, ast.ParserOptions{RegoVersion: ast.RegoV0, FutureKeywords: []string{"if", "in", "contains", "every"}})
	if err0 != nil {
		t.Fatal(err, err0)
	}
	return m
}

// TestRego runs every test_ rule of every name_test.rego against name.rego.
func TestRego(t *testing.T) {
	ctx := t.Context()
	store := inmem.New()
	for _, name := range append(examples(t, "*.rego"), examples(t, "../example/*.rego")...) {
		tests := parse(t, name+"_test.rego")
		compiler := ast.NewCompiler()
		compiler.Compile(map[string]*ast.Module{name: parse(t, name+".rego"), name + "_test": tests})
		if compiler.Failed() {
			t.Fatal(compiler.Errors)
		}
		ran := 0
		for _, rule := range tests.Rules {
			test := rule.Head.Ref().String()
			if !strings.HasPrefix(test, "test_") {
				continue
			}
			ran++
			t.Run(name+"/"+test, func(t *testing.T) {
				query := ast.NewBody(ast.NewExpr(ast.NewTerm(rule.Ref())))
				txn := storage.NewTransactionOrDie(ctx, store)
				defer store.Abort(ctx, txn)
				rows, err := topdown.NewQuery(query).WithCompiler(compiler).WithStore(store).WithTransaction(txn).WithStrictBuiltinErrors(true).Run(ctx)
				if err != nil || len(rows) != 1 {
					t.Errorf("failed: %d results, error %v", len(rows), err)
				}
			})
		}
		if ran == 0 {
			t.Errorf("%s has no tests", name)
		}
	}
}

// calls are decisions of the gateway's engine.
var calls = map[string]struct {
	policy  string
	in      policy.Input
	want    policy.Decision
	visible bool // in the caller's list
}{
	"a tool that is named": {"by-tool", call("getItem", `{}`), allowed, true},
	"a tool that is not":   {"by-tool", call("deleteItem", `{}`), denied, false},

	"an argument within the limit": {"by-argument", call("createItem", `{"quantity":10}`), allowed, true},
	"one beyond it": {"by-argument", call("createItem", `{"quantity":11}`),
		policy.Decision{Reason: policy.Denied, Message: "Orders of more than 10 need a human."}, true},
	"one that is no number": {"by-argument", call("createItem", `{"quantity":null}`), denied, true},
	"another tool":          {"by-argument", call("deleteItem", `{"quantity":1}`), denied, false},

	"a buyer":    {"by-claim", as(call("createItem", ``), buyer), allowed, true},
	"a stranger": {"by-claim", as(call("createItem", ``), &token.Identity{Subject: "bob"}), denied, false},
	"a buyer without the scope": {"by-claim", as(call("deleteItem", ``), buyer),
		policy.Decision{Reason: policy.Denied, RequiredScopes: []string{"item:Delete"}}, true},

	"a known agent":           {"by-agent", from(as(call("any", ``), desk), "10.20.0.9"), allowed, true},
	"one from elsewhere":      {"by-agent", from(as(call("any", ``), desk), "192.0.2.1"), denied, false},
	"a caller without agency": {"by-agent", from(as(call("any", ``), buyer), "10.20.0.9"), denied, false},

	"the older dialect":         {"classic", as(call("getItem", ``), buyer), allowed, true},
	"the older dialect, denied": {"classic", as(call("deleteItem", ``), buyer), denied, false},
}

var (
	allowed = policy.Decision{Allowed: true, Reason: policy.Allowed}
	denied  = policy.Decision{Reason: policy.Denied}
	buyer   = &token.Identity{Subject: "ann", ClientID: "shop", Claims: map[string]any{"groups": []any{"buyers"}}}
	desk    = &token.Identity{Subject: "ann", ClientID: "support-desk", Actors: []string{"workflow-engine"}}
)

func call(tool, arguments string) policy.Input {
	in := policy.Input{Method: "tools/call", Tool: &policy.Tool{Name: tool}}
	if arguments != "" {
		in.Tool.Arguments = []byte(arguments)
	}
	return in
}

func as(in policy.Input, id *token.Identity) policy.Input {
	in.Identity = id
	return in
}

func from(in policy.Input, ip string) policy.Input {
	in.SourceIP = ip
	return in
}

func TestDecisions(t *testing.T) {
	for name, c := range calls {
		t.Run(name, func(t *testing.T) {
			p, err := policy.Compile(c.policy, c.policy+".rego", []byte(source(t, c.policy+".rego")))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, p.Decide(t.Context(), c.in)); diff != "" {
				t.Errorf("decision (-want +got):\n%s", diff)
			}
			if got := p.Visible(t.Context(), c.in); got != c.visible {
				t.Errorf("visible = %t", got)
			}
		})
	}
}

// TestDocumented: docs/policy.md shows these files and no others.
func TestDocumented(t *testing.T) {
	page := source(t, "../../docs/policy.md")
	names := examples(t, "*.rego")
	for _, name := range names {
		if !strings.Contains(page, "```rego\n"+source(t, name+".rego")+"```") {
			t.Errorf("docs/policy.md does not show %s.rego as it is", name)
		}
	}
	if shown := strings.Count(page, "```rego\n"); shown != len(names) {
		t.Errorf("docs/policy.md shows %d policies, there are %d", shown, len(names))
	}
}
