package mcpparse

import (
	"strconv"

	"github.com/go-json-experiment/json"
)

// ErrorBody returns an error response (JSON-RPC 2.0 §5.1). id is a raw token, nil writes null; data is any value that
// marshals to JSON, nil leaves it out.
func ErrorBody(id []byte, code int, message string, data any) []byte {
	failure := strconv.AppendInt([]byte(`{"code":`), int64(code), 10)
	failure = quote(append(failure, `,"message":`...), message)
	// Details that do not marshal are left out: the refusal matters more.
	if detail, err := json.Marshal(data, json.Deterministic(true)); data != nil && err == nil {
		failure = append(append(failure, `,"data":`...), detail...)
	}
	return respond(id, "error", append(failure, '}'))
}

// ResultBody returns a response with result, a raw value, to the request with this raw id.
func ResultBody(id, result []byte) []byte { return respond(id, "result", result) }

// FailureBody returns an error response with failure, a raw error object, to the request with this raw id.
func FailureBody(id, failure []byte) []byte { return respond(id, "error", failure) }

// ToolErrorBody returns the result of a tools/call that failed in a way that the model should read. A modern result
// says that it is complete.
func ToolErrorBody(id []byte, text string, modern bool) []byte {
	result := append(quote([]byte(`{"content":[{"type":"text","text":`), text), `}],"isError":true`...)
	if modern {
		result = append(result, `,"resultType":"complete"`...)
	}
	return ResultBody(id, append(result, '}'))
}

func respond(id []byte, member string, value []byte) []byte {
	if id == nil {
		id = []byte("null")
	}
	out := make([]byte, 0, len(`{"jsonrpc":"2.0","id":,"":}`)+len(id)+len(member)+len(value))
	out = append(append(out, `{"jsonrpc":"2.0","id":`...), id...)
	out = append(append(append(out, `,"`...), member...), `":`...)
	return append(append(out, value...), '}')
}
