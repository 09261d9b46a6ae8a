package config

import (
	"bytes"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const referenceFile = "../../../../docs/configuration.md"

var update = flag.Bool("update", false, "rewrite docs/configuration.md")

// TestReference holds docs/configuration.md to the types and comments of this package.
func TestReference(t *testing.T) {
	want := newManual(t).render()
	if *update {
		if err := os.WriteFile(referenceFile, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(referenceFile)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("docs/configuration.md is stale; run go test ./cmd/sallyport/internal/config -run TestReference -update (-want +got):\n%s", diff)
	}
}

// TestReferenceExample loads the example that the reference begins with.
func TestReferenceExample(t *testing.T) {
	files := map[string]string{"/sallyport.yaml": example, "/secrets.yaml": exampleSecrets, "/files.rego": examplePolicy}
	cfg, problems := Load("/sallyport.yaml", Options{
		SecretProvider: "secretfile:///secrets.yaml",
		ReadFile: func(path string) ([]byte, error) {
			if text, ok := files[path]; ok {
				return []byte(text), nil
			}
			return nil, os.ErrNotExist
		},
	})
	for _, p := range problems {
		t.Error(p)
	}
	if len(cfg.Apps) != 1 {
		t.Errorf("%d apps, want 1", len(cfg.Apps))
	}
}

// TestReferenceIsComplete: every key of the types is in the reference, with a comment or a note.
func TestReferenceIsComplete(t *testing.T) {
	r := newManual(t)
	for _, s := range r.sections {
		if s.doc == "" {
			t.Errorf("%s: its type has no comment", s.path)
		}
		for _, k := range s.keys {
			if k.meaning == "" {
				t.Errorf("%s.%s has no comment", s.path, k.name)
			}
		}
	}
}

const example = `connectors:
  - name: idp
    type: oidc
    oidcWellKnownURL: https://login.example.com/.well-known/openid-configuration
    oauthClientID: sallyport
    oauthClientSecret: <gateway.clientSecret>

mcpProvider:
  authorization:
    oauth:
      servers:
        - wellKnownEndpoint: https://login.example.com/.well-known/oauth-authorization-server
          tokenValidation:
            expectedAudiences: [https://mcp.example.com/mcp]

apps:
  - name: files
    type: mcpProxy
    toolNamespace:
      name: files_
    upstream:
      stream:
        url: https://files.internal.example.com/mcp
    authorization:
      inbound:
        opa:
          file: files.rego
      outbound:
        type: tokenExchange
        tokenExchange:
          idp: idp
          audience: https://files.internal.example.com/
          tools:
            - name: read
              ttl: 5s
              scopes: [file:Read]

audit:
  file: /var/lib/sallyport/audit.jsonl
`

const examplePolicy = `package orchestrator

default result["allowed"] := false

result["allowed"] := true if input.request.mcp.tool.params.name == "read"
`

const exampleSecrets = `secrets:
  gateway.clientSecret: kept-out-of-the-configuration
`

// section is the table of one struct type at one place of the file.
type section struct {
	path  string
	level int
	doc   string
	keys  []key
}

type key struct{ name, kind, byDefault, meaning string }

// manual collects the sections in the order of the types.
type manual struct {
	t        *testing.T
	types    map[string]*ast.TypeSpec
	docs     map[string]string
	free     []*ast.CommentGroup // comments between fields, which belong to the fields after them
	intro    string
	sections []section
}

func newManual(t *testing.T) *manual {
	t.Helper()
	r := &manual{t: t, types: map[string]*ast.TypeSpec{}, docs: map[string]string{}}
	sources, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	fset := token.NewFileSet()
	for _, name := range sources {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(fset, name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		r.read(f)
	}
	r.walk(reflect.New(reflect.TypeFor[Config]()).Elem(), "", 1)
	return r
}

func (r *manual) read(f *ast.File) {
	if f.Doc != nil {
		r.intro = f.Doc.Text()
	}
	attached := map[*ast.CommentGroup]bool{}
	for _, d := range f.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.TYPE {
			continue
		}
		for _, s := range g.Specs {
			spec := s.(*ast.TypeSpec)
			structure, ok := spec.Type.(*ast.StructType)
			if !ok {
				continue
			}
			r.types[spec.Name.Name], r.docs[spec.Name.Name] = spec, g.Doc.Text()
			for _, field := range structure.Fields.List {
				attached[field.Doc], attached[field.Comment] = true, true
			}
			for _, c := range f.Comments {
				if !attached[c] && structure.Pos() < c.Pos() && c.End() < structure.End() {
					r.free = append(r.free, c)
				}
			}
		}
	}
}

// walk adds the section of the struct v, which is found at path, and those within it.
func (r *manual) walk(v reflect.Value, path string, level int) {
	setDefaults(v)
	typ := v.Type()
	s := section{path: path, level: level, doc: r.typeDoc(typ, path)}
	index := len(r.sections)
	r.sections = append(r.sections, s)
	for i := range typ.NumField() {
		f := typ.Field(i)
		name := f.Tag.Get("yaml")
		if name == "" || name == "-" {
			continue
		}
		s.keys = append(s.keys, key{name, kind(f), defaultOf(f, v.Field(i)), r.meaning(typ, f)})
		inner, suffix := structIn(f.Type)
		if inner == nil {
			continue
		}
		within := v.Field(i)
		if within.Type() != inner { // an entry, which begins with defaults of its own
			within = reflect.New(inner).Elem()
		}
		r.walk(within, strings.TrimPrefix(path+"."+name+suffix, "."), level+1)
	}
	r.sections[index] = s
}

// structIn returns the struct type that values of t hold, and how the path to it goes on.
func structIn(t reflect.Type) (reflect.Type, string) {
	switch {
	case t == ignoredType:
		return nil, ""
	case t.Kind() == reflect.Struct:
		return t, ""
	case t.Kind() == reflect.Pointer:
		return structIn(t.Elem())
	case t.Kind() == reflect.Slice:
		inner, _ := structIn(t.Elem())
		return inner, "[]"
	case t.Kind() == reflect.Map:
		inner, _ := structIn(t.Elem())
		return inner, ".<name>"
	}
	return nil, ""
}

func kind(f reflect.StructField) string {
	inner, suffix := structIn(f.Type)
	switch t := f.Type; {
	case t == ignoredType:
		return "any"
	case suffix == "[]" && inner != nil:
		return "list of maps"
	case suffix == ".<name>" && inner != nil:
		return "map by name"
	case inner != nil, t.Kind() == reflect.Map:
		return "map"
	case t.Kind() == reflect.Slice:
		return "list of " + kind(reflect.StructField{Type: t.Elem(), Tag: f.Tag}) + "s"
	case t == durationType:
		return "duration"
	case t == secretType:
		return "secret"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.String && f.Tag.Get("as") == "path":
		return "path"
	case t.Kind() == reflect.String:
		return "string"
	}
	return "number"
}

func defaultOf(f reflect.StructField, v reflect.Value) string {
	switch {
	case f.Type == secretType:
		return code(v.Interface().(Secret).Reveal())
	case f.Type == durationType:
		return code(shortDuration(v.Interface().(time.Duration)))
	case v.Kind() == reflect.Bool, v.IsValid() && !v.IsZero() && v.Kind() != reflect.Struct:
		return code(fmt.Sprint(v.Interface()))
	}
	return ""
}

func shortDuration(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return strings.Replace(strings.Replace(d.String(), "m0s", "m", 1), "h0m", "h", 1)
}

func code(s string) string {
	if s == "" {
		return ""
	}
	return "`" + s + "`"
}

func (r *manual) typeDoc(typ reflect.Type, path string) string {
	called := "`" + path[strings.LastIndexByte(path, '.')+1:] + "`"
	if strings.HasSuffix(path, "[]") || strings.HasSuffix(path, "<name>") {
		called = "An entry"
	}
	return prose(strings.Replace(r.docs[typ.Name()], typ.Name(), called, 1))
}

// meaning is a field's comment with the names of fields written as keys.
func (r *manual) meaning(typ reflect.Type, f reflect.StructField) string {
	if f.Type == ignoredType {
		return "No effect: " + f.Tag.Get("note") + "."
	}
	field, before := r.field(typ, f.Name)
	text := before + field.Doc.Text()
	for i := range typ.NumField() {
		g := typ.Field(i)
		word := regexp.MustCompile(`\b` + g.Name + `\b`)
		if abbreviation.MatchString(g.Name) { // a key only where it begins the comment
			word = regexp.MustCompile(`^` + g.Name + `\b`)
		}
		text = word.ReplaceAllString(text, "`"+g.Tag.Get("yaml")+"`")
	}
	if values := f.Tag.Get("enum"); values != "" {
		text += " One of `" + strings.ReplaceAll(values, ",", "`, `") + "`."
	}
	return prose(text)
}

var abbreviation = regexp.MustCompile(`^([A-Z]+|OAuth)$`)

// field finds a field's declaration, and the free comment that stands between it and the field before.
func (r *manual) field(typ reflect.Type, name string) (*ast.Field, string) {
	var previous *ast.Field
	for _, f := range r.types[typ.Name()].Type.(*ast.StructType).Fields.List {
		if !slices.ContainsFunc(f.Names, func(n *ast.Ident) bool { return n.Name == name }) {
			previous = f
			continue
		}
		for _, c := range r.free {
			if previous != nil && previous.End() < c.Pos() && c.End() < f.Pos() {
				return f, c.Text()
			}
		}
		return f, ""
	}
	r.t.Fatalf("%s.%s is not in the sources", typ, name)
	return nil, ""
}

var secretReference = regexp.MustCompile("`?<[a-z]+\\.[A-Za-z]+>`?")

// prose is a comment as one paragraph of Markdown.
func prose(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	return secretReference.ReplaceAllStringFunc(text, func(s string) string { return code(strings.Trim(s, "`")) })
}

func (r *manual) render() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, preface, example, examplePolicy, exampleSecrets, r.rules())
	for _, s := range r.sections {
		switch s.level {
		case 1:
			b.WriteString("\n## Sections\n")
		case 2:
			fmt.Fprintf(&b, "\n## `%s`\n\n%s\n", s.path, s.doc)
		default:
			fmt.Fprintf(&b, "\n### `%s`\n\n%s\n", s.path, s.doc)
		}
		b.WriteString("\n| key | type | default | meaning |\n|---|---|---|---|\n")
		for _, k := range s.keys {
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", k.name, k.kind, k.byDefault, k.meaning)
		}
	}
	return b.Bytes()
}

// rules is the package comment without what is about the Go types.
func (r *manual) rules() string {
	_, rules, found := strings.Cut(r.intro, "A Maverics")
	if !found {
		r.t.Fatal("the package comment has changed; see rules")
	}
	return strings.TrimSpace("A Maverics" + strings.Replace(rules, "a Problem", "a problem", 1))
}

const preface = `# The configuration file

<!-- Made from the comments in cmd/sallyport/internal/config by its TestReference (-update); edit those. -->

One YAML file describes one gateway. ` + "`sallyport check -config FILE`" + ` prints every problem of it with its place.

## An example

` + "```yaml\n%s```" + `

The policy ` + "`files.rego`" + `, beside it:

` + "```rego\n%s```" + `

The secrets, named by ` + "`-secretProvider secretfile:///absolute/path.yaml`" + ` or the environment
variable ` + "`SALLYPORT_SECRET_PROVIDER` (or `MAVERICS_SECRET_PROVIDER`)" + `:

` + "```yaml\n%s```" + `

## Rules

%s

Durations are numbers with a unit: ` + "`5s`, `15m`, `24h`" + `. A list of OAuth scopes takes names or maps with a ` + "`name`" + `.

While the gateway runs, it reads its files again when they change: see [reload.md](reload.md) for what takes
effect without a restart.
`
