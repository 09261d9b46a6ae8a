package mcpparse_test

import (
	"errors"
	"fmt"
	"strings"

	"github.com/sallyport/sallyport/mcpparse"
)

// A gateway takes its prefix off the name and leaves every other byte as it came.
func ExampleMessage_Splice() {
	body := []byte(`{"jsonrpc":"2.0", "id":1, "method":"tools/call", "params":{"name":"hr_lookup", "arguments":{"limit":1.0}}}`)
	m, err := mcpparse.Parse(body)
	if err != nil {
		fmt.Println(err)
		return
	}
	bare, _ := strings.CutPrefix(m.Name, "hr_")
	fmt.Printf("%s\n", m.Splice(m.SetName(bare)))
	// Output: {"jsonrpc":"2.0", "id":1, "method":"tools/call", "params":{"name":"lookup", "arguments":{"limit":1.0}}}
}

// One parser takes the first name, another the last: Parse takes neither.
func ExampleParse() {
	_, err := mcpparse.Parse([]byte(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"safe","name":"evil"}}`))
	var e *mcpparse.Error
	if errors.As(err, &e) {
		fmt.Printf("%s\n", mcpparse.ErrorBody(e.ID, e.Code, e.Text, nil))
	}
	// Output: {"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"parse error: duplicate member name"}}
}

func ExampleList() {
	items, _, _, err := mcpparse.List("tools/list", []byte(`{"tools":[{"name":"lookup","inputSchema":{"type":"object"}}]}`))
	for _, i := range items {
		fmt.Printf("%s\n", i.Renamed("hr_"+i.Name))
	}
	fmt.Println(err)
	// Output:
	// {"name":"hr_lookup","inputSchema":{"type":"object"}}
	// <nil>
}

func ExampleEventReader() {
	r := mcpparse.NewEventReader(strings.NewReader("id: 7\ndata: {\"jsonrpc\":\"2.0\",\ndata: \"id\":1,\"result\":{}}\n\n"), 1<<20)
	ev, err := r.Next()
	fmt.Printf("%s %s %v\n", ev.ID, strings.ReplaceAll(string(ev.Data), "\n", " "), err)
	// Output: 7 {"jsonrpc":"2.0", "id":1,"result":{}} <nil>
}

func ExampleEncodeHeader() {
	fmt.Println(mcpparse.EncodeHeader("list_issues"))
	fmt.Println(mcpparse.EncodeHeader("Zürich"))
	// Output:
	// list_issues
	// =?base64?WsO8cmljaA==?=
}
