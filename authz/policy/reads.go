package policy

import (
	"maps"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
)

// The objects of the input whose members are built one by one, as far as the policy can read them.
var (
	inputRoot       = ast.InputRootRef
	inputMCP        = ast.MustParseRef("input.request.mcp")
	inputSource     = ast.MustParseRef("input.source")
	inputHTTP       = ast.MustParseRef("input.request.http")
	inputHeaders    = ast.MustParseRef("input.request.http.headers")
	toolArguments   = ast.MustParseRef("input.request.mcp.tool.params.arguments")
	promptArguments = ast.MustParseRef("input.request.mcp.prompt.params.arguments")
)

// sight says what of them a policy can read.
type sight struct{ root, mcp, http, headers, arguments members }

func seen(reads []ast.Ref) sight {
	arguments := membersOf(reads, toolArguments)
	arguments.add(membersOf(reads, promptArguments))
	return sight{
		root:      membersOf(reads, inputRoot),
		mcp:       membersOf(reads, inputMCP),
		http:      membersOf(reads, inputHTTP),
		headers:   membersOf(reads, inputHeaders),
		arguments: arguments,
	}
}

// members are the names in an object that a policy can read.
type members struct {
	all   bool
	names []string
}

func membersOf(reads []ast.Ref, object ast.Ref) members {
	var m members
	for _, r := range reads {
		switch {
		case object.HasPrefix(r):
			m.all = true
		case r.HasPrefix(object):
			m.names = append(m.names, string(r[len(object)].Value.(ast.String)))
		}
	}
	return m
}

func (m *members) add(other members) {
	m.all = m.all || other.all
	m.names = append(m.names, other.names...)
}

func (m members) any() bool { return m.all || len(m.names) > 0 }

func (m members) has(name string) bool { return m.all || slices.Contains(m.names, name) }

// overlap reports whether one reference lies in or above the other.
func overlap(a, b ast.Ref) bool { return a.HasPrefix(b) || b.HasPrefix(a) }

// inputPaths collects every reference to the input in the compiled modules, where imports and local variables have
// been resolved. A reference with a variable in it counts as everything from there on.
func inputPaths(compiler *ast.Compiler) []ast.Ref {
	found := map[string]ast.Ref{}
	var visitor *ast.GenericVisitor
	visitor = ast.NewGenericVisitor(func(x any) bool {
		switch x := x.(type) {
		case ast.Ref:
			if !x[0].Equal(ast.InputRootDocument) {
				return false
			}
			path := constantPrefix(x)
			found[path.String()] = path
			for _, t := range x[1:] {
				visitor.Walk(t)
			}
			return true
		case ast.Var:
			if x.Equal(ast.InputRootDocument.Value) {
				found[ast.InputRootRef.String()] = ast.InputRootRef
			}
		}
		return false
	})
	for _, module := range compiler.Modules {
		visitor.Walk(module)
	}
	paths := make([]ast.Ref, 0, len(found))
	for _, key := range slices.Sorted(maps.Keys(found)) {
		paths = append(paths, found[key])
	}
	return paths
}

// constantPrefix is the part of ref before the first element that is not a constant name.
func constantPrefix(ref ast.Ref) ast.Ref {
	for i, t := range ref[1:] {
		if _, ok := t.Value.(ast.String); !ok {
			return ref[:i+1]
		}
	}
	return ref
}
