package hosts

import (
	"reflect"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

// What is in a value stays in it.
func TestTextIsQuoted(t *testing.T) {
	for _, s := range []string{"", "a b", `"`, `\`, "x\ny: z", "x # y", "{{.}}", "'", "%REQ(a)%", "\u2028\u0085", "é", "&a", "*a", "!!int 1", "true", "1", "- x", "---", "\x00\x1b\x7f"} {
		var got struct{ K, Next string }
		if err := yaml.Unmarshal([]byte("k: "+text(s).String()+" # remark\nnext: x\n"), &got); err != nil || got.K != s || got.Next != "x" {
			t.Errorf("%q: got %+v, %v", s, got, err)
		}
	}
}

// A template can write no string but a text. Patches are YAML already, from the package that makes Envoy's configuration.
func TestOnlyTextsReachTemplates(t *testing.T) {
	var look func(at string, kind reflect.Type)
	look = func(at string, kind reflect.Type) {
		switch kind.Kind() {
		case reflect.String:
			if kind != reflect.TypeFor[text]() {
				t.Errorf("%s is a %s", at, kind)
			}
		case reflect.Slice:
			look(at+"[]", kind.Elem())
		case reflect.Struct:
			for i := range kind.NumField() {
				look(at+"."+kind.Field(i).Name, kind.Field(i).Type)
			}
		}
		for i := range kind.NumMethod() {
			if m := kind.Method(i); m.Type.NumOut() == 1 && m.Name != "String" {
				look(at+"."+m.Name+"()", m.Type.Out(0))
			}
		}
	}
	for i := range reflect.TypeFor[view]().NumField() {
		if f := reflect.TypeFor[view]().Field(i); f.Name != "Patches" {
			look(f.Name, f.Type)
		}
	}
	for _, file := range templates.Templates() {
		for _, verb := range []string{"print", "html", "js", "urlquery"} {
			if file.Tree != nil && strings.Contains(file.Root.String(), verb+" ") {
				t.Errorf("%s uses %s, which makes plain strings", file.Name(), verb)
			}
		}
	}
}

func TestOtherTypes(t *testing.T) {
	other := regexp.MustCompile("^(?:" + string(view{}.OtherTypes()) + ")$")
	for _, c := range []struct {
		value string
		want  bool
	}{
		{"application/json", false}, {"Application/JSON; charset=utf-8", false}, {"application/json ;x", false}, {"text/event-stream", false},
		{" Text/Event-Stream;charset=utf-8", false}, {"", false},
		{"text/html", true}, {"TEXT/HTML; charset=utf-8", true}, {"text/plain", true}, {"text/ecmascript", true}, {"application/xml", true},
		{"application/javascript", true}, {"application/jsonx", true}, {"application/json-seq", true}, {"application/octet-stream", true},
		{"multipart/form-data; x", true}, {"image/png", true}, {"text/plain; x=application/json", true},
	} {
		if got := other.MatchString(c.value); got != c.want {
			t.Errorf("%q: got %v", c.value, got)
		}
	}
}

func TestServiceOf(t *testing.T) {
	for raw, want := range map[string]string{
		"http://items.tools.svc:8080/mcp":               "items/tools",
		"https://items.tools.svc.cluster.local/mcp":     "items/tools",
		"http://items.tools:8080/mcp":                   "/",
		"http://items/mcp":                              "/",
		"http://a.items.tools.svc/mcp":                  "/",
		"http://items.tools.svc.example.com/mcp":        "/",
		"http://Items.tools.svc/mcp":                    "/",
		"http://10.0.0.1/mcp":                           "/",
		"http://svc.cluster.local/":                     "/",
		"http://items.tools.svc.cluster.local.evil.org": "/",
	} {
		name, namespace := serviceOf(raw)
		if got := name + "/" + namespace; got != want {
			t.Errorf("%s: got %s, want %s", raw, got, want)
		}
	}
}
