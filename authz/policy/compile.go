package policy

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Error is a fault of the source. Line and Col count from 1; 0 means that the position is unknown.
type Error struct {
	File      string
	Line, Col int
	Text      string
}

func (e *Error) Error() string { return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Col, e.Text) }

// Errors are all faults found in a source, by position.
type Errors []*Error

func (es Errors) Error() string {
	lines := make([]string, len(es))
	for i, e := range es {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap makes each fault reachable with errors.As.
func (es Errors) Unwrap() []error {
	all := make([]error, len(es))
	for i, e := range es {
		all[i] = e
	}
	return all
}

// keywords of v1 that v0 policies may use. OPA's own list of future keywords is longer and would change the meaning
// of old policies.
var keywords = []string{"if", "in", "contains", "every"}

var (
	packagePath  = ast.MustParseRef("data.orchestrator")
	capabilities = pure()
)

// pure is what a policy may call: everything but the built-ins that have effects or read what is not input.
func pure() *ast.Capabilities {
	banned := []string{
		"http.send", "net.lookup_ip_addr", "opa.runtime", "rego.parse_module", "trace",
		"io.jwt.encode_sign", "io.jwt.encode_sign_raw",
	}
	caps := ast.CapabilitiesForThisVersion()
	caps.Builtins = slices.DeleteFunc(caps.Builtins, func(b *ast.Builtin) bool { return slices.Contains(banned, b.Name) })
	caps.AllowNet = []string{}
	return caps
}

func compile(file string, src []byte) (*ast.Compiler, error) {
	module, err := parse(file, string(src))
	if err != nil {
		return nil, err
	}
	if err := check(file, module); err != nil {
		return nil, err
	}
	compiler := ast.NewCompiler().WithCapabilities(capabilities)
	compiler.Compile(map[string]*ast.Module{file: module})
	if compiler.Failed() {
		return nil, faults(file, compiler.Errors)
	}
	return compiler, nil
}

// parse reads src as v1, else as v0 with keywords. A source that is neither gets the faults of both readings, since
// only its author knows which was meant.
func parse(file, src string) (*ast.Module, error) {
	module, err1 := ast.ParseModuleWithOpts(file, src, ast.ParserOptions{RegoVersion: ast.RegoV1, Capabilities: capabilities})
	if err1 == nil {
		return module, nil
	}
	module, err0 := ast.ParseModuleWithOpts(file, src,
		ast.ParserOptions{RegoVersion: ast.RegoV0, Capabilities: capabilities, FutureKeywords: keywords})
	if err0 == nil {
		return module, nil
	}
	return nil, merge(faults(file, err1), faults(file, err0))
}

// check refuses another package, whose result nobody would ask for, and rules named like a keyword, which are what a
// misread "if" leaves behind.
func check(file string, module *ast.Module) error {
	var found Errors
	if !module.Package.Path.Equal(packagePath) {
		found = append(found, fault(file, module.Package.Location,
			"package must be orchestrator, not "+strings.TrimPrefix(module.Package.Path.String(), "data.")))
	}
	for _, rule := range module.Rules {
		if name := rule.Head.Ref()[0].Value.String(); slices.Contains(keywords, name) {
			found = append(found, fault(file, rule.Location, "a rule must not be named "+name))
		}
	}
	if found == nil {
		return nil
	}
	return found
}

func fault(file string, at *ast.Location, text string) *Error {
	e := &Error{File: file, Text: text}
	if at != nil {
		e.Line, e.Col = at.Row, at.Col
	}
	return e
}

// faults takes the positions out of OPA's errors.
func faults(file string, err error) Errors {
	var list ast.Errors
	if !errors.As(err, &list) {
		return Errors{{File: file, Text: err.Error()}}
	}
	found := make(Errors, len(list))
	for i, e := range list {
		found[i] = fault(file, e.Location, e.Code+": "+e.Message)
	}
	return found
}

// merge joins the faults of two readings, each once: those of v1 first where both speak of one place.
func merge(v1, v0 Errors) Errors {
	all := append(v1, slices.DeleteFunc(v0, func(e *Error) bool {
		return slices.ContainsFunc(v1, func(f *Error) bool { return *e == *f })
	})...)
	slices.SortStableFunc(all, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col))
	})
	return all
}
