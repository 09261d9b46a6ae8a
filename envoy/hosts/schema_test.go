package hosts_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// object is a Kubernetes object, or a part of one.
type object = map[string]any

// documents takes a YAML stream apart.
func documents(t *testing.T, stream []byte) []object {
	t.Helper()
	var out []object
	for d := yaml.NewDecoder(bytes.NewReader(stream)); ; {
		var doc object
		err := d.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		if doc != nil {
			out = append(out, doc)
		}
	}
}

// schemas are the structural schemas of the hosts' own API, by apiVersion and kind.
func schemas(t *testing.T) map[string]object {
	t.Helper()
	files, _ := filepath.Glob("../../build/crds/*.yaml")
	if len(files) == 0 {
		t.Fatal("no schemas: `make crds` fetches them")
	}
	out := map[string]object{}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, crd := range documents(t, text) {
			if crd["kind"] != "CustomResourceDefinition" {
				continue
			}
			spec := crd["spec"].(object)
			for _, v := range spec["versions"].([]any) {
				version := v.(object)
				key := fmt.Sprint(spec["group"], "/", version["name"], " ", spec["names"].(object)["kind"])
				out[key] = version["schema"].(object)["openAPIV3Schema"].(object)
			}
		}
	}
	return out
}

// problems holds a value to a structural schema as a strict API server does:
// what the schema does not name is wrong. Formats and CEL rules are not looked at.
func problems(at string, value any, s object) []string {
	if s["x-kubernetes-preserve-unknown-fields"] == true && s["properties"] == nil {
		return nil
	}
	out := constraints(at, value, s)
	switch v := value.(type) {
	case object:
		if s["type"] != "object" {
			return append(out, fmt.Sprintf("%s: an object; want %v", at, s["type"]))
		}
		known, _ := s["properties"].(object)
		others, open := s["additionalProperties"].(object)
		for k, member := range v {
			switch sub, ok := known[k].(object); {
			case at == "" && (k == "apiVersion" || k == "kind" || k == "metadata"): // Kubernetes' own
			case ok:
				out = append(out, problems(at+"."+k, member, sub)...)
			case open:
				out = append(out, problems(at+"."+k, member, others)...)
			case s["x-kubernetes-preserve-unknown-fields"] != true && s["additionalProperties"] != true:
				out = append(out, fmt.Sprintf("%s: unknown field %q", at, k))
			}
		}
	case []any:
		if s["type"] != "array" {
			return append(out, fmt.Sprintf("%s: a list; want %v", at, s["type"]))
		}
		for i, item := range v {
			out = append(out, problems(fmt.Sprintf("%s[%d]", at, i), item, s["items"].(object))...)
		}
	default:
		if kind := scalar(value); s["type"] != kind && (s["type"] != "number" || kind != "integer") && (s["x-kubernetes-int-or-string"] != true) {
			out = append(out, fmt.Sprintf("%s: %v is a %s; want %v", at, value, kind, s["type"]))
		}
	}
	return out
}

func scalar(value any) string {
	switch value.(type) {
	case string:
		return "string"
	case bool:
		return "boolean"
	case int, int64, uint64:
		return "integer"
	case float64:
		return "number"
	}
	return fmt.Sprintf("%T", value)
}

// constraints are what a schema says of a value beside its shape. They also
// stand alone, in allOf, anyOf, oneOf and not.
func constraints(at string, value any, s object) []string {
	var out []string
	fail := func(format string, args ...any) { out = append(out, at+": "+fmt.Sprintf(format, args...)) }
	if allowed, ok := s["enum"].([]any); ok && !slices.ContainsFunc(allowed, func(a any) bool { return reflect.DeepEqual(a, value) }) {
		fail("%v is none of %v", value, allowed)
	}
	switch v := value.(type) {
	case object:
		required, _ := s["required"].([]any)
		for _, name := range required {
			if _, ok := v[name.(string)]; !ok {
				fail("no %s", name)
			}
		}
		if n, ok := s["minProperties"].(int); ok && len(v) < n {
			fail("fewer than %d members", n)
		}
		if n, ok := s["maxProperties"].(int); ok && len(v) > n {
			fail("more than %d members", n)
		}
	case []any:
		if n, ok := s["minItems"].(int); ok && len(v) < n {
			fail("fewer than %d items", n)
		}
		if n, ok := s["maxItems"].(int); ok && len(v) > n {
			fail("more than %d items", n)
		}
	case string:
		if p, ok := s["pattern"].(string); ok && !regexp.MustCompile(p).MatchString(v) {
			fail("%q does not match %s", v, p)
		}
		if n, ok := s["minLength"].(int); ok && utf8.RuneCountInString(v) < n {
			fail("%q is too short", v)
		}
		if n, ok := s["maxLength"].(int); ok && utf8.RuneCountInString(v) > n {
			fail("%q is too long", v)
		}
	case int:
		if n, ok := s["minimum"].(int); ok && v < n {
			fail("%d is less than %d", v, n)
		}
		if n, ok := s["maximum"].(int); ok && v > n {
			fail("%d is more than %d", v, n)
		}
	}
	return append(out, combinations(at, value, s)...)
}

func combinations(at string, value any, s object) []string {
	met := func(list string) (n, of int) {
		subs, _ := s[list].([]any)
		for _, sub := range subs {
			if len(alone(at, value, sub.(object))) == 0 {
				n++
			}
		}
		return n, len(subs)
	}
	var out []string
	if n, of := met("anyOf"); of > 0 && n == 0 {
		out = append(out, at+": none of anyOf holds")
	}
	if n, of := met("oneOf"); of > 0 && n != 1 {
		out = append(out, fmt.Sprintf("%s: %d of oneOf hold", at, n))
	}
	if n, of := met("allOf"); n != of {
		out = append(out, at+": not all of allOf holds")
	}
	if sub, ok := s["not"].(object); ok && len(alone(at, value, sub)) == 0 {
		out = append(out, at+": what must not be is")
	}
	return out
}

// alone looks at a schema that says nothing of the shape.
func alone(at string, value any, s object) []string {
	out := constraints(at, value, s)
	members, _ := s["properties"].(object)
	if v, ok := value.(object); ok {
		for k, sub := range members {
			if member, ok := v[k]; ok {
				out = append(out, alone(at+"."+k, member, sub.(object))...)
			}
		}
	}
	if kind, ok := s["type"].(string); ok && kind != "object" && kind != "array" && scalar(value) != kind {
		out = append(out, at+": want "+kind)
	}
	return out
}

// The checker can say no.
func TestSchemaChecker(t *testing.T) {
	known := schemas(t)
	valid := `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: x }
spec:
  rules:
  - matches: [ { path: { type: Exact, value: /mcp } } ]
    timeouts: { request: 0s }
    backendRefs: [ { name: x, port: 80 } ]
`
	for _, c := range []struct{ old, changed, want string }{
		{"", "", ""},
		{"backendRefs:", "backendReferences:", `unknown field "backendReferences"`},
		{"type: Exact", "type: Precise", "none of"},
		{"0s", "zero", "does not match"},
		{"port: 80", "port: 80000", "more than 65535"},
		{"port: 80", `port: "80"`, "want integer"},
		{"name: x, port", "group: g, port", "no name"},
		{"[ { name: x, port: 80 } ]", "{ name: x, port: 80 }", "want array"},
	} {
		doc := documents(t, []byte(strings.Replace(valid, c.old, c.changed, 1)))[0]
		got := strings.Join(problems("", doc, known["gateway.networking.k8s.io/v1 HTTPRoute"]), "\n")
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s -> %s: got %q", c.old, c.changed, got)
		}
	}
	oneOf := documents(t, []byte("spec: { http: [ { match: [ { uri: { exact: /a, prefix: /b } } ] } ] }"))[0]
	if len(problems("", oneOf, known["networking.istio.io/v1 VirtualService"])) == 0 {
		t.Error("oneOf was not looked at")
	}
}
