package mcpparse_test

import (
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/mcpparse"
)

func tool(schema string) []byte {
	return []byte(`{"name":"t","description":"mentions x-mcp-header","inputSchema":` + schema + `,"outputSchema":{"x-mcp-header":1}}`)
}

func object(properties string) string { return `{"type":"object","properties":{` + properties + `}}` }

func TestParamHeaders(t *testing.T) {
	region := mcpparse.ParamHeader{Header: "Mcp-Param-Region", Path: []string{"region"}, Type: "string"}
	tests := []struct {
		name, schema string
		want         []mcpparse.ParamHeader
	}{
		{"string", object(`"region":{"type":"string","x-mcp-header":"Region"},"query":{"type":"string"}`), []mcpparse.ParamHeader{region}},
		{"integer", object(`"n":{"x-mcp-header":"n","type":"integer"}`), []mcpparse.ParamHeader{{"Mcp-Param-N", []string{"n"}, "integer"}}},
		{"boolean", object(`"n":{"type":"boolean","x-mcp-header":"N-o_N"}`), []mcpparse.ParamHeader{{"Mcp-Param-N-O_n", []string{"n"}, "boolean"}}},
		{"all of tchar", object(`"n":{"type":"string","x-mcp-header":"!#$%&'*+-.^_` + "`" + `|~aZ0"}`), []mcpparse.ParamHeader{{"Mcp-Param-!#$%&'*+-.^_`|~az0", []string{"n"}, "string"}}},
		{"name of a standard header", object(`"n":{"type":"string","x-mcp-header":"Method"}`), []mcpparse.ParamHeader{{"Mcp-Param-Method", []string{"n"}, "string"}}},
		{"escaped", object(`"r\u0065gion":{"type":"strin\u0067","x-mcp-h\u0065ader":"R\u0065gion"}`), []mcpparse.ParamHeader{region}},
		{"nested", object(`"a":` + object(`"b.c":`+object(`"d":{"type":"string","x-mcp-header":"D"}`)+`,"e":{"type":"integer","x-mcp-header":"E"}`) + `,"region":{"type":"string","x-mcp-header":"Region"}`), []mcpparse.ParamHeader{
			{"Mcp-Param-D", []string{"a", "b.c", "d"}, "string"}, {"Mcp-Param-E", []string{"a", "e"}, "integer"}, region,
		}},
		{"properties called like keywords", object(`"properties":` + object(`"items":{"type":"string","x-mcp-header":"A"}`)), []mcpparse.ParamHeader{{"Mcp-Param-A", []string{"properties", "items"}, "string"}}},
		{"a property of this name", object(`"x-mcp-header":{"type":"string"}`), nil},
		{"definitions of this name", `{"$defs":{"x-mcp-header":{}},"patternProperties":{"x-mcp-header":{}},"dependentRequired":{"x-mcp-header":["a"]}}`, nil},
		{"values", object(`"a":{"default":{"x-mcp-header":1},"const":{"x-mcp-header":1},"enum":[{"x-mcp-header":1}],"examples":[{"x-mcp-header":1}]}`), nil},
		{"another case", object(`"a":{"X-Mcp-Header":1}`), nil},
		{"no schema", `true`, nil},
		{"odd schema", `{"properties":["x-mcp-header",{"properties":1}],"items":null,"$defs":"x"}`, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := mcpparse.ParamHeaders(tool(tt.schema))
			if diff := cmp.Diff(tt.want, got); diff != "" || err != nil {
				t.Error(err, diff)
			}
		})
	}
	for _, tool := range []string{`{"name":"t"}`, `{"name":"x-mcp-header"}`, `{"inputSchema":null,"x-mcp-header":1}`, `["x-mcp-header"]`, ``} {
		if got, err := mcpparse.ParamHeaders([]byte(tool)); got != nil || err != nil {
			t.Errorf("%s: %v, %v", tool, got, err)
		}
	}
}

func TestParamHeadersInvalid(t *testing.T) {
	annotated := `{"type":"string","x-mcp-header":"A"}`
	many := make([]string, mcpparse.MaxParamHeaders+1)
	for i := range many {
		many[i] = fmt.Sprintf(`"a%d":{"type":"string","x-mcp-header":"A%d"}`, i, i)
	}
	if got, err := mcpparse.ParamHeaders(tool(object(strings.Join(many[1:], ",")))); len(got) != mcpparse.MaxParamHeaders || err != nil {
		t.Errorf("as many as may be: %d, %v", len(got), err)
	}
	tests := map[string]string{
		"too many":     object(strings.Join(many, ",")),
		"empty":        object(`"a":{"type":"string","x-mcp-header":""}`),
		"space":        object(`"a":{"type":"string","x-mcp-header":"My Region"}`),
		"colon":        object(`"a":{"type":"string","x-mcp-header":"A:B"}`),
		"not ASCII":    object(`"a":{"type":"string","x-mcp-header":"Région"}`),
		"tab":          object(`"a":{"type":"string","x-mcp-header":"A\t1"}`),
		"CRLF":         object(`"a":{"type":"string","x-mcp-header":"Authorization\r\nX: y"}`),
		"LF":           object(`"a":{"type":"string","x-mcp-header":"A\n"}`),
		"NUL":          object(`"a":{"type":"string","x-mcp-header":"A\u0000"}`),
		"parentheses":  object(`"a":{"type":"string","x-mcp-header":"(A)"}`),
		"number":       object(`"a":{"type":"string","x-mcp-header":1}`),
		"null":         object(`"a":{"type":"string","x-mcp-header":null}`),
		"twice":        object(`"a":` + annotated + `,"b":` + annotated),
		"twice folded": object(`"a":` + annotated + `,"b":{"type":"string","x-mcp-header":"a"}`),
		"twice nested": object(`"a":` + annotated + `,"b":` + object(`"a":`+annotated)),

		"type number":      object(`"a":{"type":"number","x-mcp-header":"A"}`),
		"type object":      object(`"a":{"type":"object","x-mcp-header":"A"}`),
		"type array":       object(`"a":{"type":"array","x-mcp-header":"A"}`),
		"type null":        object(`"a":{"type":"null","x-mcp-header":"A"}`),
		"types":            object(`"a":{"type":["string","null"],"x-mcp-header":"A"}`),
		"no type":          object(`"a":{"enum":["a"],"x-mcp-header":"A"}`),
		"root":             `{"type":"string","x-mcp-header":"A"}`,
		"escaped":          object(`"a":{"type":"number","\u0078-mcp-header":"A"}`),
		"item":             object(`"a":{"type":"array","items":` + annotated + `}`),
		"member of items":  object(`"a":{"type":"array","items":` + object(`"b":`+annotated) + `}`),
		"list of items":    object(`"a":{"items":[` + annotated + `]}`),
		"oneOf":            object(`"a":{"oneOf":[{"type":"null"},` + annotated + `]}`),
		"allOf":            `{"allOf":[` + object(`"a":`+annotated) + `]}`,
		"not":              object(`"a":{"not":` + annotated + `}`),
		"then":             `{"if":{},"then":` + object(`"a":`+annotated) + `}`,
		"$defs":            `{"properties":{"a":{"$ref":"#/$defs/A"}},"$defs":{"A":` + annotated + `}}`,
		"dependentSchemas": `{"dependentSchemas":{"a":` + object(`"a":`+annotated) + `}}`,
		"additional":       `{"additionalProperties":` + annotated + `}`,
		"pattern":          `{"patternProperties":{"^a":` + annotated + `}}`,
		"unknown keyword":  `{"x-more":{"a":` + annotated + `}}`,
	}
	for name, schema := range tests {
		got, err := mcpparse.ParamHeaders(tool(schema))
		if got != nil || !errors.Is(err, mcpparse.ErrParamHeader) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

func TestParamHeaderValue(t *testing.T) {
	p := mcpparse.ParamHeader{Path: []string{"a", "b"}, Type: "string"}
	tests := []struct {
		value, want string
		ok          bool
	}{
		{`"us-west1"`, "us-west1", true},
		{`""`, mcpparse.EncodeHeader(""), true},
		{`"us west 1"`, "us west 1", true},
		{`" padded "`, "=?base64?IHBhZGRlZCA=?=", true},
		{`"\tindented"`, "=?base64?CWluZGVudGVk?=", true},
		{`"line1\r\nline2"`, "=?base64?bGluZTENCmxpbmUy?=", true},
		{`"Hello, 世界"`, "=?base64?SGVsbG8sIOS4lueVjA==?=", true},
		{`"\u4e16"`, "=?base64?5LiW?=", true},
		{`"=?base64?literal?="`, "=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?=", true},
		{`true`, "true", true},
		{`false`, "false", true},
		{`42`, "42", true},
		{`-7`, "-7", true},
		{`42.0`, "42", true},
		{`1e2`, "100", true},
		{`null`, "", false},
		{`3.14`, "", false},
		{`9007199254740992`, "", false},
		{`[1]`, "", false},
		{`{"a":1}`, "", false},
	}
	for _, tt := range tests {
		if got, ok := p.Value([]byte(` {"x":1, "a" : {"b": ` + tt.value + ` } }`)); got != tt.want || ok != tt.ok {
			t.Errorf("%s: %q, %v; want %q, %v", tt.value, got, ok, tt.want, tt.ok)
		}
	}
	for _, arguments := range []string{``, `{}`, `{"a":{}}`, `{"a":"b"}`, `{"a":["b"]}`, `{"a":null}`, `{"b":"x"}`, `{"a.b":"x"}`} {
		if got, ok := p.Value([]byte(arguments)); ok {
			t.Errorf("%s: %q", arguments, got)
		}
	}
}

func TestParamHeaderMatches(t *testing.T) {
	p := mcpparse.ParamHeader{Path: []string{"a"}}
	tests := []struct {
		argument string // "" when absent
		values   []string
		want     bool
	}{
		{``, nil, true},
		{`null`, nil, true},
		{``, []string{"x"}, false},
		{`null`, []string{"null"}, false},
		{`null`, []string{""}, false},
		{`"x"`, nil, false},
		{`"x"`, []string{"x"}, true},
		{`"x"`, []string{" x\t"}, true},
		{`"x"`, []string{"=?base64?eA==?="}, true},
		{`"x"`, []string{"=?base64?eA?="}, false},
		{`"x"`, []string{"X"}, false},
		{`"x"`, []string{"x", "x"}, false},
		{`"\u0078"`, []string{"x"}, true},
		{`"é"`, []string{"é"}, false},
		{`"é"`, []string{"=?base64?w6k=?="}, true},
		{`" x"`, []string{" x"}, false},
		{`"eA=="`, []string{"eA=="}, true},
		{`""`, []string{""}, true},
		{`""`, []string{"=?base64??="}, true},
		{`""`, nil, false},
		{`"42"`, []string{"42"}, true},
		{`"42"`, []string{"42.0"}, false},
		{`42`, []string{"42"}, true},
		{`42`, []string{"42.0"}, true},
		{`42.0`, []string{"42"}, true},
		{`100`, []string{"1e2"}, true},
		{`-7`, []string{"-7.00"}, true},
		{`-7`, []string{"7"}, false},
		{`42`, []string{"43"}, false},
		{`42`, []string{"+42"}, false},
		{`42`, []string{"042"}, false},
		{`42`, []string{"0x2a"}, false},
		{`42`, []string{"42,42"}, false},
		{`42`, []string{"4 2"}, false},
		{`42`, []string{"=?base64?NDI=?="}, true},
		{`42`, []string{"=?base64?IDQy?="}, false}, // with a space
		{`42`, []string{""}, false},
		{`42`, nil, false},
		{`3.5`, []string{"3.5"}, false},
		{`3.5`, nil, false},
		{`9007199254740991`, []string{"9007199254740991"}, true},
		{`9007199254740991`, []string{"9007199254740990.9999999999"}, false},
		{`9007199254740992`, []string{"9007199254740992"}, false},
		{`true`, []string{"true"}, true},
		{`true`, []string{"True"}, false},
		{`true`, []string{"1"}, false},
		{`false`, []string{"false"}, true},
		{`false`, nil, false},
		{`["x"]`, []string{`["x"]`}, false},
		{`{}`, nil, false},
	}
	for _, tt := range tests {
		arguments := []byte(`{"b":1}`)
		if tt.argument != "" {
			arguments = []byte(`{"b":1,"a":` + tt.argument + `}`)
		}
		if got := p.Matches(tt.values, arguments); got != tt.want {
			t.Errorf("%s: %q: %v", tt.argument, tt.values, got)
		}
		if value, ok := p.Value(arguments); ok && !p.Matches([]string{value}, arguments) {
			t.Errorf("%s does not match %q, its own value", tt.argument, value)
		}
	}
	if !p.Matches(nil, nil) || p.Matches([]string{"x"}, nil) {
		t.Error("without arguments")
	}
}

// FuzzParamNumber holds the comparison of numbers to exact arithmetic.
func FuzzParamNumber(f *testing.F) {
	for _, n := range []string{"0", "-0", "42", "42.0", "1e2", "100e-2", "0.5e1", "1e400", "0e999999999999999999999", "9007199254740991", "90071992547409910e-1", "-9007199254740992", "1e-1", "01", "1.", "1e", " 1", "-", "0.00"} {
		f.Add(n)
	}
	p := mcpparse.ParamHeader{Path: []string{"a"}}
	f.Fuzz(func(t *testing.T, n string) {
		body := []byte(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":{"a":` + n + `}}}`)
		m, err := mcpparse.Parse(body)
		if err != nil || strings.Trim(n, "-+.eE0123456789") != "" {
			return
		}
		if at := strings.IndexAny(n, "eE"); at >= 0 && len(n)-at > 5 {
			return // too much for big.Rat
		}
		exact, ok := new(big.Rat).SetString(n)
		if !ok {
			t.Fatalf("%s is no number", n)
		}
		whole := exact.IsInt() && new(big.Int).Abs(exact.Num()).BitLen() <= 53
		got, ok := p.Value(m.Arguments)
		if ok != whole || ok && got != exact.Num().String() {
			t.Fatalf("%s: %q, %v; it is %v", n, got, ok, exact)
		}
		if whole && !p.Matches([]string{n}, []byte(`{"a":`+got+`}`)) {
			t.Fatalf("%s does not match %s", n, got)
		}
	})
}

func BenchmarkParamHeaders(b *testing.B) {
	plain := tool(object(strings.Repeat(`"a":{"type":"string","description":"what it is for"},`, 20) + `"b":{"type":"string"}`))
	plain = []byte(strings.ReplaceAll(string(plain), "x-mcp-header", "no header"))
	annotated := tool(object(`"q":{"type":"string","description":"what it is for"},"region":{"type":"string","x-mcp-header":"Region"}`))
	for name, t := range map[string][]byte{"plain": plain, "annotated": annotated} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := mcpparse.ParamHeaders(t); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
