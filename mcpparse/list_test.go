package mcpparse_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/mcpparse"
)

func TestToolList(t *testing.T) {
	type item struct{ Name, Raw, Renamed string }
	tests := []struct {
		name, result string
		items        []item
		cursor       string
		hasNext, ok  bool
	}{
		{"two", ` {"tools":[{"name":"a","x": 1.0}, {"description":"é","n\u0061me" : "\u0062"}]} `, []item{
			{"a", `{"name":"a","x": 1.0}`, `{"name":"p_a","x": 1.0}`},
			{"b", `{"description":"é","n\u0061me" : "\u0062"}`, `{"description":"é","n\u0061me" : "p_b"}`},
		}, "", false, true},
		{"name further down does not count", `{"tools":[{"annotations":{"name":"x"},"name":"a"}]}`, []item{
			{"a", `{"annotations":{"name":"x"},"name":"a"}`, `{"annotations":{"name":"x"},"name":"p_a"}`},
		}, "", false, true},
		{"empty", `{"tools":[]}`, nil, "", false, true},
		{"cursor", `{"nextCursor":"a\u0062","tools":[]}`, nil, "ab", true, true},
		{"empty cursor", `{"tools":[],"nextCursor":""}`, nil, "", true, true},
		{"null cursor", `{"tools":[],"nextCursor":null}`, nil, "", false, true},
		{"more members", `{"tools":[],"ttlMs":0,"cacheScope":"private","_meta":{}}`, nil, "", false, true},
		{"numeric cursor", `{"tools":[],"nextCursor":1}`, nil, "", false, false},
		{"no tools", `{}`, nil, "", false, false},
		{"tools null", `{"tools":null}`, nil, "", false, false},
		{"tools object", `{"tools":{}}`, nil, "", false, false},
		{"no name", `{"tools":[{"title":"a"}]}`, nil, "", false, false},
		{"name number", `{"tools":[{"name":1}]}`, nil, "", false, false},
		{"name empty", `{"tools":[{"name":""}]}`, nil, "", false, false},
		{"string", `{"tools":["a"]}`, nil, "", false, false},
		{"array", `[{"name":"a"}]`, nil, "", false, false},
		{"two names", `{"tools":[{"name":"a","name":"b"}]}`, nil, "", false, false},
		{"two lists", `{"tools":[],"tools":[]}`, nil, "", false, false},
		{"trailing", `{"tools":[]}{}`, nil, "", false, false},
		{"NUL in a member name", `{"tools":[{"name":"a","name\u0000":"b"}]}`, nil, "", false, false},
		{"empty body", ``, nil, "", false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			items, cursor, hasNext, err := mcpparse.List("tools/list", []byte(tt.result))
			if (err == nil) != tt.ok || err != nil && !errors.Is(err, mcpparse.ErrList) {
				t.Fatal(err)
			}
			var got []item
			for _, i := range items {
				got = append(got, item{i.Name, string(i.Raw), string(i.Renamed("p_" + i.Name))})
			}
			if diff := cmp.Diff(tt.items, got); diff != "" || cursor != tt.cursor || hasNext != tt.hasNext {
				t.Errorf("cursor %q %v %s", cursor, hasNext, diff)
			}
		})
	}
}

func TestList(t *testing.T) {
	for method, result := range map[string]string{
		"tools/list":               `{"tools":[{"name":"x"}]}`,
		"prompts/list":             `{"prompts":[{"name":"x"}]}`,
		"resources/list":           `{"resources":[{"name":"y","uri":"x"}]}`,
		"resources/templates/list": `{"resourceTemplates":[{"uriTemplate":"x","name":"y"}]}`,
	} {
		if items, _, _, err := mcpparse.List(method, []byte(result)); err != nil || len(items) != 1 || items[0].Name != "x" {
			t.Errorf("%s: %v, %v", method, items, err)
		}
	}
	if _, _, _, err := mcpparse.List("tasks/list", []byte(`{}`)); !errors.Is(err, mcpparse.ErrList) {
		t.Errorf("tasks/list: %v", err)
	}
}
