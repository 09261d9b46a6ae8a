package e2e

import (
	"testing"
)

// Lies that a JSON text can tell.

func jsonLies() []lie {
	var all []lie
	for name, text := range map[string]string{
		"another id":                 `{"jsonrpc":"2.0","id":"evil","result":{}}`,
		"no id":                      `{"jsonrpc":"2.0","result":{"evil":1}}`,
		"null id":                    `{"jsonrpc":"2.0","id":null,"result":{"evil":1}}`,
		"error without id":           `{"jsonrpc":"2.0","error":{"code":-32603,"message":"evil"}}`,
		"a batch":                    `[` + fine + `]`,
		"two responses":              fine + fine,
		"trailing text":              fine + `evil`,
		"a request":                  `{"jsonrpc":"2.0","id":@ID,"method":"roots/list","params":{"evil":1}}`,
		"result and method":          `{"jsonrpc":"2.0","id":@ID,"method":"ping","result":{"evil":1}}`,
		"result and error":           `{"jsonrpc":"2.0","id":@ID,"result":{"evil":1},"error":{"code":1,"message":"evil"}}`,
		"neither result nor error":   `{"jsonrpc":"2.0","id":@ID}`,
		"a member twice":             `{"jsonrpc":"2.0","id":@ID,"result":{"evil":1,"evil":2}}`,
		"result twice":               `{"jsonrpc":"2.0","id":@ID,"result":{},"result":{"evil":2}}`,
		"the id twice":               `{"jsonrpc":"2.0","id":"evil","id":@ID,"result":{}}`,
		"a case twin":                `{"jsonrpc":"2.0","id":@ID,"result":{},"Result":{"evil":1}}`,
		"another root member":        `{"jsonrpc":"2.0","id":@ID,"result":{},"evil":1}`,
		"invalid UTF-8":              "{\"jsonrpc\":\"2.0\",\"id\":@ID,\"result\":{\"evil\":\"\xff\xc0\x80\"}}",
		"a lone surrogate":           `{"jsonrpc":"2.0","id":@ID,"result":{"evil":"\ud800"}}`,
		"a byte order mark":          "\xef\xbb\xbf" + fine,
		"no JSON-RPC":                `{"id":@ID,"result":{"evil":1}}`,
		"a result that is no object": `{"jsonrpc":"2.0","id":@ID,"result":"evil"}`,
		"an error that is no object": `{"jsonrpc":"2.0","id":@ID,"error":"evil"}`,
		"not a number":               `{"jsonrpc":"2.0","id":@ID,"result":{"evil":NaN}}`,
		"half a text":                `{"jsonrpc":"2.0","id":@ID,"result":{"evil":`,
		"white space":                " \n",
	} {
		all = append(all, lie{name: name, json: text, want: everywhere(same, refused)})
	}
	return append(all, lie{name: "a notification", json: note, want: everywhere(same, refused).but("up", "200 "+event(note)+failedEvent)})
}

func TestHostileJSON(t *testing.T) {
	all := jsonLies()
	h := startLair(t, all...)
	h.tellAll(all)
}
