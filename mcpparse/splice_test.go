package mcpparse_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/mcpparse"
)

func mustParse(t testing.TB, body string) mcpparse.Message {
	t.Helper()
	m, err := mcpparse.Parse([]byte(body))
	if err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	return m
}

func TestSplice(t *testing.T) {
	const caps, version = `"io.modelcontextprotocol/clientCapabilities":{}`, `"io.modelcontextprotocol/protocolVersion":"2026-07-28"`
	list := func(params string) string { return `{"jsonrpc":"2.0","id":1,"method":"tools/list"` + params + ` }` }
	name := func(m mcpparse.Message) []mcpparse.Edit { return []mcpparse.Edit{m.SetName(`n"`)} }
	add := func(m mcpparse.Message) []mcpparse.Edit { return m.AddModernMeta("2026-07-28", nil) }
	drop := mcpparse.Message.DropModernMeta
	tests := []struct {
		name, body, want string
		edits            func(mcpparse.Message) []mcpparse.Edit
	}{
		{"name", `{"params" : {"n\u0061me" : "\u0061" , "arguments":{"name":"a"}},"id":1,"method":"tools/call","jsonrpc":"2.0"}`,
			`{"params" : {"n\u0061me" : "n\"" , "arguments":{"name":"a"}},"id":1,"method":"tools/call","jsonrpc":"2.0"}`, name},
		{"name of a reference", `{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{"ref":{"type":"ref/prompt","name":"p"}}}`,
			`{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{"ref":{"type":"ref/prompt","name":"n\""}}}`, name},
		{"no name", list(`,"params":{"name":"x"}`), list(`,"params":{"name":"x"}`), name},

		{"add everything", list(``),
			`{"jsonrpc":"2.0","id":1,"method":"tools/list" ,"params":{"_meta":{` + version + `,` + caps + `}}}`, add},
		{"add _meta", list(`,"params":{"cursor":"x"}`), list(`,"params":{"_meta":{` + version + `,` + caps + `},"cursor":"x"}`), add},
		{"add _meta to nothing", list(`,"params":{ }`), list(`,"params":{"_meta":{` + version + `,` + caps + `} }`), add},
		{"add to _meta", list(`,"params":{"_meta":{ "a":1}}`), list(`,"params":{"_meta":{` + version + `,` + caps + `, "a":1}}`), add},
		{"add to an empty _meta", list(`,"params":{"_meta":{}}`), list(`,"params":{"_meta":{` + version + `,` + caps + `}}`), add},
		{"replace", list(`,"params":{"_meta":{"io.modelcontextprotocol/clientCapabilities":{"x":1},"io.modelcontextprotocol/protocolVersion":"1"}}`),
			list(`,"params":{"_meta":{` + caps + `,` + version + `}}`), add},
		{"replace and add", list(`,"params":{"_meta":{"io.modelcontextprotocol/clientCapabilities":{"x":1}}}`),
			list(`,"params":{"_meta":{` + version + `,` + caps + `}}`), add},

		{"drop nothing", list(``), list(``), drop},
		{"drop nothing of an empty _meta", list(`,"params":{"_meta":{}}`), list(`,"params":{"_meta":{}}`), drop},
		{"drop all", list(`,"params":{"_meta":{ ` + version + ` , ` + caps + ` }}`), list(`,"params":{"_meta":{  }}`), drop},
		{"drop the first", list(`,"params":{"_meta":{` + version + `, ` + caps + ` , "a":1}}`), list(`,"params":{"_meta":{"a":1}}`), drop},
		{"drop the last", list(`,"params":{"_meta":{"a":1, ` + version + `,` + caps + `}}`), list(`,"params":{"_meta":{"a":1}}`), drop},
		{"drop around", list(`,"params":{"_meta":{` + version + `,"a":1,` + caps + `,"b":2,"io.modelcontextprotocol/logLevel":"info","io.modelcontextprotocol/clientInfo":{}}}`),
			list(`,"params":{"_meta":{"a":1,"b":2}}`), drop},
		{"drop what is escaped", list(`,"params":{"_meta":{"io.modelcontextprotocol\/protocolVersion":"2026-07-28","progressToken":1}}`),
			list(`,"params":{"_meta":{"progressToken":1}}`), drop},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := mustParse(t, tt.body)
			got := m.Splice(tt.edits(m)...)
			if diff := cmp.Diff(tt.want, string(got)); diff != "" {
				t.Fatal(diff)
			}
			if string(m.Raw()) != tt.body {
				t.Error("the body has changed")
			}
			if again, err := mcpparse.Parse(got); m.Target != mcpparse.Tool && (err != nil || again.Method != m.Method) {
				t.Errorf("the result does not parse: %v", err)
			}
		})
	}
}

func TestSpliceNothing(t *testing.T) {
	m := mustParse(t, `{"jsonrpc":"2.0","id":1,"method":"ping"}`)
	if got := m.Splice(); &got[0] != &m.Raw()[0] {
		t.Error("the body was copied")
	}
}

func TestSpliceOrder(t *testing.T) {
	m := mustParse(t, `{"jsonrpc":"2.0","id":1,"method":"ping"}`)
	edits := []mcpparse.Edit{{Start: 40, End: 40, With: []byte("z")}, {Start: 0, End: 1, With: []byte("c")}, {With: []byte("a")}, {With: []byte("b")}}
	if got, want := string(m.Splice(edits...)), `abc"jsonrpc":"2.0","id":1,"method":"ping"}z`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if edits[0].Start != 40 {
		t.Error("the caller's edits were sorted")
	}
}

func TestSplicePanicsOnOverlap(t *testing.T) {
	m := mustParse(t, `{"jsonrpc":"2.0","id":1,"method":"ping"}`)
	for _, edits := range [][]mcpparse.Edit{
		{{Start: 1, End: 5}, {Start: 4, End: 6}}, {{Start: 1, End: 5}, {Start: 1, End: 5}}, {{Start: 5, End: 1}},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%v: no panic", edits)
				}
			}()
			m.Splice(edits...)
		}()
	}
}
