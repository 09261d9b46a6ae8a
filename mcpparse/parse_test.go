package mcpparse_test

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sallyport/sallyport/mcpparse"
)

// code returns the JSON-RPC code of an error of Parse, 0 for none.
func code(err error) int {
	if err == nil {
		return 0
	}
	var e *mcpparse.Error
	if !errors.As(err, &e) {
		return -1
	}
	return e.Code
}

// visible compares what a Message says, not where it says it.
var visible = cmpopts.IgnoreUnexported(mcpparse.Message{})

func TestParseMessage(t *testing.T) {
	const meta = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}`
	tests := []struct {
		name, body string
		want       mcpparse.Message
	}{
		{"tool call", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":{"x": 1.0}}}`, mcpparse.Message{
			Kind: mcpparse.Request, ID: []byte("1"), Method: "tools/call", Name: "a", Target: mcpparse.Tool, Arguments: []byte(`{"x": 1.0}`),
		}},
		{"no arguments, params first", ` { "params" : {"name":"a.b-C_9"} , "method":"tools/call","id":"x","jsonrpc":"2.0" } ` + "\n", mcpparse.Message{
			Kind: mcpparse.Request, ID: []byte(`"x"`), Method: "tools/call", Name: "a.b-C_9", Target: mcpparse.Tool,
		}},
		{"escapes are decoded", `{"jsonrpc":"2\u002e0","\u0069d":"\u0041","m\u0065thod":"tools\/c\u0061ll","p\u0061rams":{"n\u0061me":"\u0065vil"}}`, mcpparse.Message{
			Kind: mcpparse.Request, ID: []byte(`"\u0041"`), Method: "tools/call", Name: "evil", Target: mcpparse.Tool,
		}},
		{"modern", `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{` + meta + `}}`, mcpparse.Message{
			Kind: mcpparse.Request, ID: []byte("1"), Method: "tools/list", Version: "2026-07-28", HasClientCapabilities: true,
		}},
		{"capabilities that are no object", `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/clientCapabilities":[]}}}`, mcpparse.Message{
			Kind: mcpparse.Request, ID: []byte("1"), Method: "tools/list",
		}},
		{"initialize", `{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{}}}`, mcpparse.Message{
			Kind: mcpparse.Request, ID: []byte("0"), Method: "initialize", InitializeVersion: "2025-11-25",
		}},
		{"a legacy method in the modern era", `{"jsonrpc":"2.0","id":1,"method":"resources/subscribe","params":{` + meta + `}}`, mcpparse.Message{
			Kind: mcpparse.Request, ID: []byte("1"), Method: "resources/subscribe", Version: "2026-07-28", HasClientCapabilities: true,
		}},
		{"initialize in the modern era", `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{` + meta + `}}`, mcpparse.Message{
			Kind: mcpparse.Request, ID: []byte("1"), Method: "initialize", Version: "2026-07-28", HasClientCapabilities: true,
		}},
		{"version nobody serves", `{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"1.0"}}`, mcpparse.Message{
			Kind: mcpparse.Request, ID: []byte("0"), Method: "initialize", InitializeVersion: "1.0",
		}},
		{"prompt", `{"jsonrpc":"2.0","id":-5,"method":"prompts/get","params":{"name":"ask me","arguments":{}}}`, mcpparse.Message{
			Kind: mcpparse.Request, ID: []byte("-5"), Method: "prompts/get", Name: "ask me", Target: mcpparse.Prompt, Arguments: []byte("{}"),
		}},
		{"resource", `{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"file:///a","name":"not this"}}`, mcpparse.Message{
			Kind: mcpparse.Request, ID: []byte("1"), Method: "resources/read", Name: "file:///a", Target: mcpparse.Resource,
		}},
		{"completion of a prompt", `{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{"ref":{"type":"ref/prompt","name":"p","uri":"u"},"argument":{"name":"a","value":"b"},"name":"n"}}`, mcpparse.Message{
			Kind: mcpparse.Request, ID: []byte("1"), Method: "completion/complete", Name: "p", Target: mcpparse.Prompt,
		}},
		{"completion of a resource", `{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{"argument":{},"ref":{"uri":"u","name":"p","type":"ref/resource"}}}`, mcpparse.Message{
			Kind: mcpparse.Request, ID: []byte("1"), Method: "completion/complete", Name: "u", Target: mcpparse.Resource,
		}},
		{"notification", `{"jsonrpc":"2.0","method":"notifications/initialized"}`, mcpparse.Message{
			Kind: mcpparse.Notification, Method: "notifications/initialized",
		}},
		{"unknown method", `{"jsonrpc":"2.0","id":1,"method":"tools/call "}`, mcpparse.Message{
			Kind: mcpparse.Request, ID: []byte("1"), Method: "tools/call ",
		}},
		{"result", `{"jsonrpc":"2.0","id":1,"result":{"action": "accept"}}`, mcpparse.Message{
			Kind: mcpparse.Response, ID: []byte("1"), Result: []byte(`{"action": "accept"}`),
		}},
		{"error", `{"jsonrpc":"2.0","id":"1","error":{"code":-1,"message":"no"}}`, mcpparse.Message{
			Kind: mcpparse.Response, ID: []byte(`"1"`), Failure: []byte(`{"code":-1,"message":"no"}`),
		}},
		{"the protocol's names deep in arguments are nothing special", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":{"Name":1,"METHOD":2,"name":"b","_meta":3}}}`, mcpparse.Message{
			Kind: mcpparse.Request, ID: []byte("1"), Method: "tools/call", Name: "a", Target: mcpparse.Tool, Arguments: []byte(`{"Name":1,"METHOD":2,"name":"b","_meta":3}`),
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := mcpparse.Parse([]byte(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got, visible); diff != "" {
				t.Error(diff)
			}
			if string(got.Raw()) != tt.body {
				t.Error("Raw is not the body")
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	const parse, request, params = mcpparse.CodeParse, mcpparse.CodeInvalidRequest, mcpparse.CodeInvalidParams
	call := func(params string) string {
		return `{"jsonrpc":"2.0","method":"tools/call","params":` + params + `,"id":7}`
	}
	long := strings.Repeat("a", 300)
	tests := []struct {
		name, body string
		code       int
		id         string
	}{
		{"batch", `[{"jsonrpc":"2.0","id":1,"method":"ping"}]`, request, ""},
		{"broken batch", `[{"jsonrpc":"2.0","id":1,"method":"ping"},]`, parse, ""},
		{"string", `"ping"`, request, ""},
		{"null", `null`, request, ""},
		{"empty object", `{}`, request, ""},
		{"no version", `{"id":7,"method":"ping"}`, request, "7"},
		{"other version", `{"jsonrpc":"2.1","id":7,"method":"ping"}`, request, "7"},
		{"numeric version", `{"jsonrpc":2.0,"id":7,"method":"ping"}`, request, "7"},
		{"no method", `{"jsonrpc":"2.0","id":7}`, request, "7"},
		{"method null", `{"jsonrpc":"2.0","id":7,"method":null}`, request, "7"},
		{"method empty", `{"jsonrpc":"2.0","id":7,"method":""}`, request, "7"},
		{"method with NUL", `{"jsonrpc":"2.0","id":7,"method":"ping\u0000"}`, request, "7"},
		{"method long", `{"jsonrpc":"2.0","id":7,"method":"` + long + `"}`, request, "7"},
		{"params array", call(`["a",{}]`), request, "7"},
		{"params null", call(`null`), request, "7"},
		{"method and result", `{"jsonrpc":"2.0","id":7,"method":"ping","result":{}}`, request, "7"},
		{"result and error", `{"jsonrpc":"2.0","id":7,"error":{},"result":{}}`, request, "7"},
		{"result and params", `{"jsonrpc":"2.0","id":7,"params":{},"result":{}}`, request, "7"},
		{"result without id", `{"jsonrpc":"2.0","result":{}}`, request, ""},
		{"error with null id", `{"jsonrpc":"2.0","id":null,"error":{}}`, request, ""},
		{"result string", `{"jsonrpc":"2.0","id":7,"result":"x"}`, request, "7"},
		{"error null", `{"jsonrpc":"2.0","id":7,"error":null}`, request, "7"},
		{"unknown member", `{"jsonrpc":"2.0","id":7,"method":"ping","auth":"x"}`, request, "7"},
		{"unknown member before everything", `{"x":1,"jsonrpc":"2.0","method":"ping","id":7}`, request, "7"},
		{"empty member name", `{"":1,"jsonrpc":"2.0","method":"ping","id":7}`, request, "7"},

		{"id null", `{"jsonrpc":"2.0","id":null,"method":"ping"}`, request, ""},
		{"id true", `{"jsonrpc":"2.0","id":true,"method":"ping"}`, request, ""},
		{"id object", `{"jsonrpc":"2.0","id":{},"method":"ping"}`, request, ""},
		{"id 1.0", `{"jsonrpc":"2.0","id":1.0,"method":"ping"}`, request, ""},
		{"id 1e2", `{"jsonrpc":"2.0","id":1e2,"method":"ping"}`, request, ""},
		{"id 2^53", `{"jsonrpc":"2.0","id":9007199254740992,"method":"ping"}`, request, ""},
		{"id -2^53", `{"jsonrpc":"2.0","id":-9007199254740992,"method":"ping"}`, request, ""},
		{"id long", `{"jsonrpc":"2.0","id":"` + long + `","method":"ping"}`, request, ""},
		{"call without id", `{"jsonrpc":"2.0","method":"tools/call","params":{"name":"a"}}`, request, ""},
		{"notification with id", `{"jsonrpc":"2.0","id":7,"method":"notifications/initialized"}`, request, "7"},

		{"twin in root", `{"jsonrpc":"2.0","id":7,"method":"ping","Method":"tools/call"}`, request, "7"},
		{"twin ſ", call(`{"name":"a"},"param\u017f":{"name":"b"}`), request, "7"},
		{"twin in params", call(`{"name":"a","NAME":"b"}`), request, "7"},
		{"twin K in params", `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"a","ta` + "s\u212a" + `":{}}}`, request, "7"},
		{"twin argumentſ", call(`{"name":"a","argument\u017f":{}}`), request, "7"},
		{"twin alone", call(`{"Name":"b"}`), request, "7"},
		{"twin of _meta", call(`{"name":"a","_Meta":{}}`), request, "7"},
		{"twin in _meta", call(`{"name":"a","_meta":{"io.modelcontextprotocol/protocolversion":"2026-07-28"}}`), request, "7"},
		{"twin in ref", `{"jsonrpc":"2.0","id":7,"method":"completion/complete","params":{"ref":{"type":"ref/prompt","name":"a","Name":"b"}}}`, request, "7"},
		{"NUL after a name", call(`{"name":"a","name\u0000":"b"}`), request, "7"},
		{"NUL in a deep name", call(`{"name":"a","arguments":{"x":[{"\u0000":1}]}}`), request, "7"},
		{"NUL in a tool name", call(`{"name":"a\u0000b"}`), request, "7"},
		{"NUL in a uri", `{"jsonrpc":"2.0","id":7,"method":"resources/read","params":{"uri":"file:///a\u0000"}}`, request, "7"},

		{"tool name missing", call(`{}`), params, "7"},
		{"tool name number", call(`{"name":1}`), params, "7"},
		{"tool name array", call(`{"name":["a"]}`), params, "7"},
		{"tool name empty", call(`{"name":""}`), params, "7"},
		{"tool name long", call(`{"name":"` + long[:129] + `"}`), params, "7"},
		{"tool name with a space", call(`{"name":"a b"}`), params, "7"},
		{"tool name zero width", call(`{"name":"o\u200bk"}`), params, "7"},
		{"tool name fullwidth", call("{\"name\":\"\uff4f\uff4b\"}"), params, "7"},
		{"arguments null", call(`{"name":"a","arguments":null}`), params, "7"},
		{"arguments array", call(`{"name":"a","arguments":[]}`), params, "7"},
		{"call without params", `{"jsonrpc":"2.0","id":7,"method":"tools/call"}`, params, "7"},
		{"read without uri", `{"jsonrpc":"2.0","id":7,"method":"resources/read","params":{}}`, params, "7"},
		{"uri endless", `{"jsonrpc":"2.0","id":7,"method":"resources/read","params":{"uri":"` + strings.Repeat("a", mcpparse.MaxNameBytes+1) + `"}}`, params, "7"},
		{"completion without ref", `{"jsonrpc":"2.0","id":7,"method":"completion/complete","params":{}}`, params, "7"},
		{"completion of a tool", `{"jsonrpc":"2.0","id":7,"method":"completion/complete","params":{"ref":{"type":"ref/tool","name":"a"}}}`, params, "7"},
		{"completion without a name", `{"jsonrpc":"2.0","id":7,"method":"completion/complete","params":{"ref":{"type":"ref/prompt","uri":"a"}}}`, params, "7"},
		{"_meta array", call(`{"name":"a","_meta":[]}`), params, "7"},
		{"meta version number", call(`{"name":"a","_meta":{"io.modelcontextprotocol/protocolVersion":1}}`), params, "7"},
		{"meta version empty", call(`{"name":"a","_meta":{"io.modelcontextprotocol/protocolVersion":""}}`), params, "7"},
		{"meta version long", call(`{"name":"a","_meta":{"io.modelcontextprotocol/protocolVersion":"` + long + `"}}`), params, "7"},
		{"initialize without a version", `{"jsonrpc":"2.0","id":7,"method":"initialize","params":{}}`, params, "7"},

		{"__proto__ in params", call(`{"name":"a","__proto__":{"arguments":{}}}`), params, "7"},
		{"constructor in arguments", call(`{"name":"a","arguments":{"constructor":1}}`), params, "7"},
		{"prototype deep in arguments", call(`{"name":"a","arguments":{"x":[[{"y":{"proto\u0074ype":1}}]]}}`), params, "7"},
		{"a broken envelope outranks broken params", call(`{"name":"a","arguments":{"__proto__":1}},"auth":1`), request, "7"},
		{"broken JSON outranks everything", `{"jsonrpc":"2.0","id":7,"auth":1,"method":"ping"`, parse, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m, err := mcpparse.Parse([]byte(tt.body))
			var e *mcpparse.Error
			if !errors.As(err, &e) {
				t.Fatalf("accepted: %+v", m)
			}
			if e.Code != tt.code || string(e.ID) != tt.id {
				t.Errorf("code %d id %q (%s), want %d %q", e.Code, e.ID, e.Text, tt.code, tt.id)
			}
			if diff := cmp.Diff(mcpparse.Message{}, m, visible); diff != "" {
				t.Errorf("a message beside the error: %s", diff)
			}
		})
	}
}

func TestParseLimits(t *testing.T) {
	arguments := func(v string) string {
		return `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":{"v":` + v + `}}}`
	}
	nested := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	list := func(n int) string { return "[" + strings.TrimSuffix(strings.Repeat("1,", n), ",") + "]" }
	object := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `,"%d":1`, i)
		}
		return "{" + b.String()[1:] + "}"
	}
	const around = 3 // objects around v
	const others = 8 // values beside those of the list: three objects, four scalars and the list
	tests := []struct {
		name, body string
		code       int
	}{
		{"deepest", arguments(nested(mcpparse.MaxDepth - around)), 0},
		{"too deep", arguments(nested(mcpparse.MaxDepth - around + 1)), mcpparse.CodeParse},
		{"very deep", strings.Repeat("[", 1<<20), mcpparse.CodeParse},
		{"very deep names", strings.Repeat(`{"a":`, 1<<17), mcpparse.CodeParse},
		{"objects as names", strings.Repeat(`{`, 1<<20), mcpparse.CodeParse},
		{"longest number", arguments("0." + strings.Repeat("1", mcpparse.MaxNumberBytes-2)), 0},
		{"number too long", arguments("0." + strings.Repeat("1", mcpparse.MaxNumberBytes-1)), mcpparse.CodeParse},
		{"long number outside params", `{"jsonrpc":"2.0","id":` + strings.Repeat("1", 65) + `,"method":"ping"}`, mcpparse.CodeParse},
		{"most values", arguments(list(mcpparse.MaxValues - others)), 0},
		{"too many values", arguments(list(mcpparse.MaxValues - others + 1)), mcpparse.CodeParse},
		{"most members", arguments(object(mcpparse.MaxMembers)), 0},
		{"too many members", arguments(object(mcpparse.MaxMembers + 1)), mcpparse.CodeParse},
		{"longest id", `{"jsonrpc":"2.0","id":"` + strings.Repeat(`\u0041`, mcpparse.MaxIDBytes) + `","method":"ping"}`, 0},
		{"1 MiB of white space", strings.Repeat(" ", 1<<20) + arguments("1"), 0},
		{"a long escaped name", arguments(`{"` + strings.Repeat(`\u0041`, 1<<16) + `":1}`), 0},
		{"1 MiB of text", arguments(`"` + strings.Repeat("a", 1<<20) + `"`), 0},
		{"largest integers as ids", `{"jsonrpc":"2.0","id":-9007199254740991,"method":"ping"}`, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := mcpparse.Parse([]byte(tt.body)); code(err) != tt.code {
				t.Errorf("got %v, want %d", err, tt.code)
			}
		})
	}
	t.Run("1 MiB of measurements", func(t *testing.T) {
		var b strings.Builder
		for i := 0; b.Len() < 1<<20-100; i++ {
			fmt.Fprintf(&b, "%.8f,", float64(i)/7)
		}
		if _, err := mcpparse.Parse([]byte(arguments("[" + strings.TrimSuffix(b.String(), ",") + "]"))); err != nil {
			t.Error(err)
		}
	})
}

func TestParseUpstream(t *testing.T) {
	many := `{"jsonrpc":"2.0","id":1,"result":{"v":[` + strings.TrimSuffix(strings.Repeat("1,", 2*mcpparse.MaxValues), ",") + `]}}`
	tests := []struct {
		name, body string
		code       int
	}{
		{"more values than an agent may send", many, 0},
		{"error with a null id", `{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"x"}}`, 0},
		{"error without an id", `{"jsonrpc":"2.0","error":{"code":-32700,"message":"x"}}`, 0},
		{"result without an id", `{"jsonrpc":"2.0","result":{}}`, mcpparse.CodeInvalidRequest},
		{"error with an object as id", `{"jsonrpc":"2.0","id":{},"error":{}}`, mcpparse.CodeInvalidRequest},
		{"duplicate names", `{"jsonrpc":"2.0","id":1,"result":{"a":1,"a":2}}`, mcpparse.CodeParse},
		{"request of the server's", `{"jsonrpc":"2.0","id":1,"method":"sampling/createMessage","params":{}}`, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := mcpparse.ParseUpstream([]byte(tt.body)); code(err) != tt.code {
				t.Errorf("got %v, want %d", err, tt.code)
			}
		})
	}
}

func TestParseBigNumber(t *testing.T) {
	tests := []struct{ params, want string }{
		{`{"name":"a","arguments":{"a":[0,1,-2.5,{"b":9007199254740991}]}}`, ""},
		{`{"name":"a","arguments":{"a":[0,1,2,9007199254740992]}}`, "params.arguments.a[3]"},
		{`{"name":"a","arguments":{"a":-9007199254740992,"b":9007199254740992}}`, "params.arguments.a"},
		{`{"name":"a","arguments":{"a":12345678901234567890}}`, "params.arguments.a"},
		{`{"name":"a","arguments":{"a":9007199254740993.0,"b":1e17,"c":1e308}}`, ""},
		{`{"name":"a","arguments":{"a":1e400}}`, "params.arguments.a"},
		{`{"name":"a","arguments":{"a":-1E+400}}`, "params.arguments.a"},
		{`{"name":"a","arguments":{"a":1e-400}}`, ""},
		{`{"name":"a","arguments":{"3":[[9007199254740992]]}}`, "params.arguments.3[0][0]"},
		{`{"name":"a","arguments":{"a b":9007199254740992}}`, `params.arguments["a b"]`},
		{`{"name":"a","arguments":{"a/b~":9007199254740992}}`, `params.arguments["a/b~"]`},
		{`{"name":"a","arguments":{"":{"\n\u2028":9007199254740992}}}`, `params.arguments[""]["\n\u2028"]`},
		{`{"name":"a","_meta":{"progressToken":9007199254740992}}`, "params._meta.progressToken"},
		{`{"name":"a","ref":9007199254740992}`, "params.ref"},
	}
	for _, tt := range tests {
		m, err := mcpparse.Parse([]byte(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":` + tt.params + `}`))
		if err != nil || m.BigNumber != tt.want {
			t.Errorf("%s: %q, %v; want %q", tt.params, m.BigNumber, err, tt.want)
		}
	}
	long := `{"name":"a","arguments":{"` + strings.Repeat("é", 1<<16) + `":9007199254740992}}`
	m, err := mcpparse.Parse([]byte(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":` + long + `}`))
	if err != nil || len(m.BigNumber) != mcpparse.MaxPathBytes || !strings.HasSuffix(m.BigNumber, "...") {
		t.Errorf("a long path: %q, %v", m.BigNumber, err)
	}
}

// An error must not repeat what the body says: it is logged and sent.
func TestErrorKeepsSecrets(t *testing.T) {
	for _, body := range []string{
		`{"s3cret":1,"s3cret":2}`, `{"s3cret" 1}`, `{"jsonrpc":"2.0","id":1,"method":"ping","s3cret":1}`, `["s3cret"`, `{"a":s3cret}`,
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"s3cret !"}}`,
	} {
		_, err := mcpparse.Parse([]byte(body))
		if err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", body, err)
		}
	}
}

// A Message's slices have no room to append into what follows them.
func TestSlicesAreClosed(t *testing.T) {
	body := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":{}}}`
	m, err := mcpparse.Parse([]byte(body))
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range [][]byte{m.ID, m.Arguments, m.Params()} {
		_ = append(b, "overwritten"...)
	}
	if string(m.Raw()) != body {
		t.Errorf("the body has become %s", m.Raw())
	}
}

// Parsers are pooled: what one message says must not show in another.
func TestParseConcurrently(t *testing.T) {
	var group sync.WaitGroup
	for worker := range 8 {
		group.Go(func() {
			for i := range 200 {
				name := fmt.Sprintf("tool_%d_%d", worker, i)
				body := fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"n\u0061me":"\u0074%s"}}`, i, name[1:])
				if i%3 == 0 {
					body = `{"broken":{"__proto__":1,"io.modelcontextprotocol/protocolVersion":"1"},`
				}
				m, err := mcpparse.Parse([]byte(body))
				if (err != nil) != (i%3 == 0) || err == nil && (m.Name != name || m.Version != "" || string(m.ID) != strconv.Itoa(i)) {
					t.Errorf("%s: %+v, %v", body, m, err)
				}
			}
		})
	}
	group.Wait()
}

func TestValidToolName(t *testing.T) {
	for name, want := range map[string]bool{
		"a": true, "A-z_0.9": true, strings.Repeat("a", 128): true,
		"": false, strings.Repeat("a", 129): false, "a b": false, "a/b": false, "é": false, "a\x00": false,
	} {
		if got := mcpparse.ValidToolName(name); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
}
