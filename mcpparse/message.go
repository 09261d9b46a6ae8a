// Package mcpparse reads one JSON-RPC message of the Model Context Protocol (MCP) so strictly that only one reading
// of it is left, and changes it without decoding it.
//
// A gateway's judgement is worth nothing if the server behind it reads the same bytes differently: one parser takes
// the first of two equal names, another the last, a third folds case. Parse therefore refuses everything on which
// parsers are known to differ, keeps the positions of what the gateway acts on, and Splice replaces exactly those
// bytes. Numbers, key order and unknown members stay as they came.
//
// Contract:
//   - the body is I-JSON (RFC 7493): UTF-8 without a byte order mark, one top-level object, no duplicate names at any
//     depth (compared after unescaping), no lone surrogates, nothing but JSON white space around it;
//   - nesting is at most MaxDepth, a number at most MaxNumberBytes, an object has at most MaxMembers members and a
//     message at most MaxValues values;
//   - the root has no members but those of JSON-RPC 2.0, and neither the root, params, params._meta nor params.ref has
//     a member that equals one of the protocol's under Unicode simple case folding without being it;
//   - no member name contains NUL, no member within params is called __proto__, constructor or prototype;
//   - escapes are decoded before anything is compared;
//   - a Message aliases the body, which must not change as long as the Message is in use;
//   - the size of the body is the caller's to bound: time and memory are linear in it.
//
// Functions and Messages are safe for concurrent use.
package mcpparse

// Kind says what a message is in JSON-RPC (JSON-RPC 2.0 §4, §5). The zero Kind is none of them.
type Kind uint8

// The kinds of messages.
const (
	Request      Kind = iota + 1 // has a method and an id
	Notification                 // has a method and no id
	Response                     // has a result or an error
)

// Message is one message: an immutable view over the body that it was parsed from.
type Message struct {
	Kind   Kind
	ID     []byte // raw token, quotes included; nil for a notification
	Method string // decoded; "" for a response

	// Name is what the message is aimed at, decoded: params.name of tools/call and prompts/get, params.uri of
	// resources/read, resources/subscribe and resources/unsubscribe, params.ref.name or params.ref.uri of
	// completion/complete; "" for other methods. Target tells which.
	Name      string
	Target    Target
	Arguments []byte // exact bytes of params.arguments; nil when absent

	Version               string // params._meta["io.modelcontextprotocol/protocolVersion"], "" when absent
	HasClientCapabilities bool   // params._meta["io.modelcontextprotocol/clientCapabilities"] is an object
	InitializeVersion     string // params.protocolVersion of initialize

	// BigNumber is the path ("params.arguments.a[3]", at most MaxPathBytes) of the first number in params that not
	// every reader takes for the same: an integer beyond ±(2^53−1), or one that overflows binary64 (RFC 7493 §2.2).
	// It is "" when there is none. Parse does not refuse these, since some servers need them.
	BigNumber string

	Result  []byte // exact bytes of a response's result; nil when absent
	Failure []byte // exact bytes of a response's error; nil when absent

	// ProgressToken is the raw token that progress is reported under: params._meta.progressToken of a request,
	// params.progressToken of notifications/progress; nil when absent or neither a string nor an integer.
	ProgressToken []byte
	// RequestID is the raw params.requestId of notifications/cancelled; nil when absent or no id.
	RequestID []byte

	raw      []byte
	id       span
	params   span
	meta     span // params._meta
	name     span // the value that Name was read from
	progress span // … ProgressToken …
	request  span // … RequestID …
	caps     span // params._meta's client capabilities
	task     bool // params.task is there
}

// Raw returns the body that the message was parsed from.
func (m Message) Raw() []byte { return m.raw }

// Params returns the exact bytes of params, nil when absent.
func (m Message) Params() []byte { return m.params.of(m.raw) }

// Param returns the exact bytes of the member of params with this name, nil when absent. It is for the members that
// Message has no field for, off the hot path.
func (m Message) Param(name string) []byte { return Member(m.Params(), name) }

// JSON-RPC error codes (JSON-RPC 2.0 §5.1; MCP 2026-07-28, basic).
const (
	CodeParse              = -32700
	CodeInvalidRequest     = -32600
	CodeMethodNotFound     = -32601
	CodeInvalidParams      = -32602
	CodeInternal           = -32603
	CodeHeaderMismatch     = -32020
	CodeMissingCapability  = -32021
	CodeUnsupportedVersion = -32022

	// CodeResourceNotFound is what legacy revisions say of an unknown resource; 2026-07-28 has CodeInvalidParams.
	CodeResourceNotFound = -32002
	// CodeURLElicitation asks a legacy client to open an address first; a modern client must never see it.
	CodeURLElicitation = -32042
	// CodeDenied says that a policy refused. It is ours, outside of what JSON-RPC and MCP reserve.
	CodeDenied = 403
)

// Error is why a body is not an acceptable message. Text never repeats what the body says, so that it may be logged.
type Error struct {
	Code int    // CodeParse, CodeInvalidRequest or CodeInvalidParams
	Text string // for the caller
	ID   []byte // the message's id, raw, when the body is well formed and the id is acceptable; else nil
}

func (e *Error) Error() string { return "mcpparse: " + e.Text }

// span is a range of the body. The zero span is absent: no value starts and ends at 0.
type span struct{ start, end int }

// of returns the bytes of s in b, with no room to append into what follows; nil when s is absent.
func (s span) of(b []byte) []byte {
	if s.end == 0 {
		return nil
	}
	return b[s.start:s.end:s.end]
}
