package policy

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCompileRefuses(t *testing.T) {
	tests := map[string]struct {
		src       string
		line, col int
		text      string
	}{
		"empty":               {"", 0, 0, "empty module"},
		"no package":          {`result := {"allowed": true}`, 1, 1, "package expected"},
		"other package":       {"\npackage evil\nresult := {}", 2, 1, "package must be orchestrator, not evil"},
		"sub-package":         {"package orchestrator.sub\nresult := {}", 1, 1, "not orchestrator.sub"},
		"package system":      {"package system\nmain := true", 1, 1, "not system"},
		"syntax":              {"package orchestrator\n\nresult := {", 3, 0, "rego_parse_error"},
		"type error":          {"package orchestrator\nresult := {\"allowed\": nosuch(1)}", 2, 23, "undefined function nosuch"},
		"unsafe variable":     {"package orchestrator\nresult := {\"allowed\": x}", 2, 23, "var x is unsafe"},
		"default and object":  {"package orchestrator\ndefault result[\"allowed\"] := false\nresult := {\"allowed\": true} if input.x", 0, 0, "conflict"},
		"recursion":           {"package orchestrator\na := b\nb := a", 2, 1, "recursive"},
		"http.send":           {"package orchestrator\na := http.send({})", 2, 6, "undefined function http.send"},
		"net.lookup_ip_addr":  {"package orchestrator\na := net.lookup_ip_addr(\"x\")", 2, 6, "undefined function"},
		"opa.runtime":         {"package orchestrator\na := opa.runtime()", 2, 6, "undefined function"},
		"rego.parse_module":   {"package orchestrator\na := rego.parse_module(\"\", \"\")", 2, 6, "undefined function"},
		"trace":               {"package orchestrator\na := trace(\"\")", 2, 6, "undefined function"},
		"io.jwt.encode_sign":  {"package orchestrator\na := io.jwt.encode_sign({}, {}, {})", 2, 6, "undefined function"},
		"encode_sign_raw, v0": {"package orchestrator\na = b { b := io.jwt.encode_sign_raw(\"\", \"\", \"\") }", 2, 14, "undefined function"},
		"rule named if":       {"package orchestrator\nif { input.x }", 2, 0, ""},
		"rule named every":    {"package orchestrator\nevery := 1", 2, 0, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := Compile("p", "p.rego", []byte(tt.src))
			var all Errors
			if !errors.As(err, &all) || len(all) == 0 {
				t.Fatalf("got %v", err)
			}
			fits := false
			for _, e := range all {
				fits = fits || e.File == "p.rego" && (tt.line == 0 || e.Line == tt.line) && (tt.col == 0 || e.Col == tt.col) && strings.Contains(e.Text, tt.text)
			}
			if !fits {
				t.Errorf("want %d:%d %q, got\n%v", tt.line, tt.col, tt.text, err)
			}
		})
	}
}

func TestCompileAccepts(t *testing.T) {
	for name, src := range map[string]string{
		"v0":                     v0Policy,
		"v1":                     tokenPolicy,
		"import rego.v1":         rules(`import rego.v1`, `result["allowed"] := true if input.x`),
		"import future keywords": rules(`import future.keywords.if`, `import future.keywords.in`, `result["allowed"] := true if { "a" in input.x }`),
		"future keywords in v0":  rules(`import future.keywords`, `result["allowed"] := true { input.y }`, `a if { input.x }`),
		"v0 set and contains":    rules(`deny[x] { x := input.a[_] }`, `result["allowed"] := true { contains(input.s, "a"); count(deny) == 0 }`),
		"print is ignored":       rules(`result["allowed"] := true if { print(input); input.x }`),
	} {
		if _, err := Compile("p", "p.rego", []byte(src)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestErrorsNamePlaces(t *testing.T) {
	_, err := Compile("p", "p.rego", []byte("package orchestrator\n\na := nosuch(1)\nb := nosuch(2)"))
	const want = "p.rego:3:6: rego_type_error: undefined function nosuch\np.rego:4:6: rego_type_error: undefined function nosuch"
	if err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
	if first := new(Error); !errors.As(err, &first) || first.Line != 3 {
		t.Errorf("got %+v", first)
	}
}

// A module read with the wrong dialect must never turn a condition into an unconditional allow.
func TestNoDialectAllowsEverything(t *testing.T) {
	for name, src := range map[string]string{
		"if without import":   rules(`result["allowed"] := true if { input.nothing }`),
		"object with if":      rules(`result := {"allowed": true} if { input.nothing }`),
		"mixed":               rules(`result["allowed"] := true { input.nothing }`, `result["allowed"] := true if { input.nothing.more }`),
		"braceless":           rules(`result["allowed"] := true if input.nothing`, `a { input.x }`),
		"if on the next line": rules(`result["allowed"] := true`, `  if { input.nothing }`, `a { input.x }`),
	} {
		p, err := Compile("p", "p.rego", []byte(src))
		if err != nil {
			continue // refused is safe too
		}
		if d := p.Decide(t.Context(), call("x", "")); d.Allowed {
			t.Errorf("%s: allowed", name)
		}
	}
}

func TestReads(t *testing.T) {
	tests := map[string]struct {
		src  string
		want []string
	}{
		"v0":          {v0Policy, []string{"input.request.mcp.tool.params.name"}},
		"token":       {tokenPolicy, []string{"input.request.http.headers.Authorization", "input.request.mcp.tool.params.name"}},
		"import":      {rules(`import input.request.mcp as m`, `a := m.tool.params.arguments.x`), []string{"input.request.mcp.tool.params.arguments.x"}},
		"alias":       {rules(`a := x if { m := input.request.mcp; x := m.tool }`), []string{"input.request.mcp"}},
		"function":    {rules(`f(x) := x.a`, `a := f(input.request)`), []string{"input.request"}},
		"whole":       {rules(`a if { walk(input, [_, "x"]) }`), []string{"input"}},
		"variable":    {rules(`a if { some k; input[k] == 1 }`), []string{"input"}},
		"wildcard":    {rules(`a if input.request.http.headers[_] == "x"`), []string{"input.request.http.headers"}},
		"nested":      {rules(`a := {"x": 1}[input.identity.subject]`), []string{"input.identity.subject"}},
		"both":        {rules(`a := input.request[input.app.name]`), []string{"input.app.name", "input.request"}},
		"header name": {rules(`a := input.request.http.headers["Mcp-Session-Id"]`), []string{`input.request.http.headers["Mcp-Session-Id"]`}},
		"nothing":     {rules(`result := {"allowed": true}`), []string{}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, mustCompile(t, tt.src).Reads()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestNameAndDigest(t *testing.T) {
	p, err := Compile("wiki-authz", "p.rego", []byte("package orchestrator"))
	if err != nil {
		t.Fatal(err)
	}
	if p.Name() != "wiki-authz" || p.Digest() != "5c3451378e468c1904c9f1b1ea68edaa2116c3b3b6bfa268b896a317c88a86ec" {
		t.Errorf("got %s %s", p.Name(), p.Digest())
	}
}
