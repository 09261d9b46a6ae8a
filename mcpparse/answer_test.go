package mcpparse_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/mcpparse"
)

func TestAnswers(t *testing.T) {
	tests := []struct {
		name string
		got  []byte
		want string
	}{
		{"error", mcpparse.ErrorBody([]byte("7"), -32602, `no "x"`, nil),
			`{"jsonrpc":"2.0","id":7,"error":{"code":-32602,"message":"no \"x\""}}`},
		{"error without id", mcpparse.ErrorBody(nil, -32700, "parse error", nil),
			`{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"parse error"}}`},
		{"error with data", mcpparse.ErrorBody([]byte(`"a"`), -32022, "x", map[string]any{"supported": []string{"b"}, "requested": "<"}),
			`{"jsonrpc":"2.0","id":"a","error":{"code":-32022,"message":"x","data":{"requested":"<","supported":["b"]}}}`},
		{"error with data that does not marshal", mcpparse.ErrorBody([]byte("7"), 1, "x", func() {}),
			`{"jsonrpc":"2.0","id":7,"error":{"code":1,"message":"x"}}`},
		{"error with bytes that are no text", mcpparse.ErrorBody([]byte("7"), 1, "\xff\x00", nil),
			"{\"jsonrpc\":\"2.0\",\"id\":7,\"error\":{\"code\":1,\"message\":\"\ufffd\\u0000\"}}"},
		{"result", mcpparse.ResultBody([]byte("7"), []byte(`{"a": 1}`)),
			`{"jsonrpc":"2.0","id":7,"result":{"a": 1}}`},
		{"tool error", mcpparse.ToolErrorBody([]byte("7"), "denied\n", false),
			`{"jsonrpc":"2.0","id":7,"result":{"content":[{"type":"text","text":"denied\n"}],"isError":true}}`},
		{"modern tool error", mcpparse.ToolErrorBody([]byte("7"), "denied", true),
			`{"jsonrpc":"2.0","id":7,"result":{"content":[{"type":"text","text":"denied"}],"isError":true,"resultType":"complete"}}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, string(tt.got)); diff != "" {
				t.Error(diff)
			}
			if m, err := mcpparse.ParseUpstream(tt.got); err != nil || m.Kind != mcpparse.Response {
				t.Errorf("not a response: %v", err)
			}
		})
	}
}
