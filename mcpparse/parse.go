package mcpparse

import "bytes"

// Limits of what the gateway acts on, in bytes after unescaping.
const (
	MaxIDBytes       = 256
	MaxMethodBytes   = 128
	MaxVersionBytes  = 64
	MaxToolNameBytes = 128  // MCP 2026-07-28, server/tools
	MaxNameBytes     = 8192 // a prompt's name or a resource's URI, which must fit a header
)

// Parse reads one message that a client sends. The error is an *Error.
//
// CodeParse is for a body that is not I-JSON or exceeds a limit, CodeInvalidRequest for one that is not a JSON-RPC
// message, CodeInvalidParams for params that the method does not allow. Methods that are not known are not refused.
func Parse(body []byte) (Message, error) {
	return parse(body, MaxValues, false)
}

// ParseUpstream is Parse for what a server sends: up to MaxUpstreamValues values, and an error response may have a
// null id or none (JSON-RPC 2.0 §5).
func ParseUpstream(body []byte) (Message, error) {
	return parse(body, MaxUpstreamValues, true)
}

func parse(body []byte, maxValues int, fromServer bool) (Message, error) {
	s, err := scan(body, root, maxValues)
	defer s.release()
	if err != nil {
		return Message{}, &Error{Code: CodeParse, Text: explain(err)}
	}
	m := Message{raw: body, BigNumber: s.big}
	if f := s.message(&m, fromServer); f.code != 0 {
		return Message{}, &Error{Code: f.code, Text: f.text, ID: m.ID}
	}
	return m, nil
}

// message fills m from what the walk has noted.
func (s *scanner) message(m *Message, fromServer bool) fault {
	if !isObject(trim(s.body)) {
		return fault{CodeInvalidRequest, "a message is one JSON object; batches are not accepted"}
	}
	id := s.found[rootID].of(s.body)
	if s.validID(id) {
		m.ID, m.id = id, s.found[rootID]
	}
	if s.fault.code == CodeInvalidRequest {
		return s.fault
	}
	if f := s.envelope(m, id, fromServer); f.code != 0 {
		return f
	}
	if s.fault.code != 0 {
		return s.fault
	}
	m.params = s.found[rootParams]
	m.Arguments = s.found[paramsArguments].of(s.body)
	if f := s.metadata(m); f.code != 0 {
		return f
	}
	return s.target(m)
}

// validID reports whether id is a string of bounded length or an integer that survives every reader.
func (s *scanner) validID(id []byte) bool {
	switch {
	case id == nil:
		return false
	case id[0] == '"':
		return len(s.decode(id)) <= MaxIDBytes
	default:
		return (id[0] == '-' || '0' <= id[0] && id[0] <= '9') && isInteger(id) && !outOfRange(id)
	}
}

// envelope holds the root to JSON-RPC 2.0 and finds out which kind of message it is.
func (s *scanner) envelope(m *Message, id []byte, fromServer bool) fault {
	has := func(at slot) bool { return s.found[at].end != 0 }
	version, _ := s.text(rootJSONRPC)
	answer := has(rootResult) || has(rootError)
	anonymous := fromServer && has(rootError) && (id == nil || id[0] == 'n')
	switch {
	case string(version) != "2.0":
		return fault{CodeInvalidRequest, `jsonrpc must be "2.0"`}
	case id != nil && m.ID == nil && !anonymous:
		return fault{CodeInvalidRequest, "id must be a short string or an integer within ±(2^53-1)"}
	case has(rootMethod) && answer, has(rootResult) && has(rootError):
		return fault{CodeInvalidRequest, "a message is either a request or a response"}
	case answer && has(rootParams):
		return fault{CodeInvalidRequest, "a response has no params"}
	case answer && id == nil && !anonymous:
		return fault{CodeInvalidRequest, "a response needs an id"}
	case answer:
		return s.response(m)
	default:
		return s.request(m)
	}
}

func (s *scanner) response(m *Message) fault {
	m.Kind = Response
	m.Result, m.Failure = s.found[rootResult].of(s.body), s.found[rootError].of(s.body)
	if !isObject(m.Result) && !isObject(m.Failure) {
		return fault{CodeInvalidRequest, "result and error must be objects"}
	}
	return fault{}
}

// request reads the method and whether it agrees with the presence of an id: a request without one would be carried
// out by servers that never answer it, and skipped by a policy that waits for ids.
func (s *scanner) request(m *Message) fault {
	method, ok := s.text(rootMethod)
	if !ok || len(method) == 0 || len(method) > MaxMethodBytes || bytes.IndexByte(method, 0) >= 0 {
		return fault{CodeInvalidRequest, "method must be a short string without NUL"}
	}
	info, known := methods[string(method)]
	if known {
		m.Method = info.Name
	} else {
		m.Method = string(method)
	}
	m.Kind = Request
	if m.ID == nil {
		m.Kind = Notification
	}
	switch {
	case known && info.Kind == Request && m.Kind != Request:
		return fault{CodeInvalidRequest, "this method needs an id"}
	case known && info.Kind == Notification && m.Kind != Notification:
		return fault{CodeInvalidRequest, "a notification has no id"}
	}
	if params := s.found[rootParams].of(s.body); params != nil && !isObject(params) {
		return fault{CodeInvalidRequest, "params must be an object"}
	}
	return fault{}
}

// metadata reads params._meta and what initialize negotiates.
func (s *scanner) metadata(m *Message) fault {
	m.meta = s.found[paramsMeta]
	if v := m.meta.of(s.body); v != nil && !isObject(v) {
		return fault{CodeInvalidParams, "params._meta must be an object"}
	}
	if s.found[metaVersion].end != 0 {
		if m.Version = s.version(metaVersion); m.Version == "" {
			return fault{CodeInvalidParams, "the protocol version in params._meta must be a short string"}
		}
	}
	m.caps = s.found[metaCapabilities]
	m.HasClientCapabilities = isObject(m.caps.of(s.body))
	m.task = s.found[paramsTask].end != 0
	s.tokens(m)
	if m.Method != "initialize" || m.foreign() {
		return fault{}
	}
	if m.InitializeVersion = s.version(paramsVersion); m.InitializeVersion == "" {
		return fault{CodeInvalidParams, "params.protocolVersion must be a short string"}
	}
	return fault{}
}

// tokens notes the names that one side gives to a request and the other refers to.
func (s *scanner) tokens(m *Message) {
	at := s.found[metaProgressToken]
	if m.Kind == Notification {
		at = s.found[paramsProgressToken]
	}
	if token := at.of(s.body); s.validID(token) {
		m.ProgressToken, m.progress = token, at
	}
	if id := s.found[paramsRequestID].of(s.body); s.validID(id) {
		m.RequestID, m.request = id, s.found[paramsRequestID]
	}
}

// version returns the protocol version at a slot, "" when it is none.
func (s *scanner) version(at slot) string {
	v, ok := s.text(at)
	if !ok || len(v) > MaxVersionBytes {
		return ""
	}
	return intern(v)
}

// foreign reports whether the message is of the modern era and its method is not: what that era has no method for is
// not found, whatever its params are.
func (m *Message) foreign() bool { return m.Version != "" && !methods[m.Method].modern }

// target reads what the message is aimed at.
func (s *scanner) target(m *Message) fault {
	if m.foreign() {
		return fault{}
	}
	m.Target = methods[m.Method].Target
	var at slot
	switch m.Target {
	case Tool, Prompt:
		at = paramsName
	case Resource:
		at = paramsURI
	case Reference:
		if m.Target, at = s.reference(); at == unnoted {
			return fault{CodeInvalidParams, "params.ref must be a ref/prompt or a ref/resource"}
		}
	default:
		return fault{}
	}
	name, ok := s.text(at)
	switch {
	case bytes.IndexByte(name, 0) >= 0:
		return fault{CodeInvalidRequest, "the name contains NUL"}
	case !ok || len(name) == 0 || len(name) > MaxNameBytes:
		return fault{CodeInvalidParams, "the name or URI of the target is missing, not a string, or too long"}
	case m.Target == Tool && !validToolName(name):
		return fault{CodeInvalidParams, "a tool name is 1 to 128 of A-Z a-z 0-9 _ . -"}
	case m.Arguments != nil && !isObject(m.Arguments):
		return fault{CodeInvalidParams, "params.arguments must be an object"}
	}
	m.Name, m.name = string(name), s.found[at]
	return fault{}
}

// reference resolves params.ref of completion/complete. The type decides, as it does in servers.
func (s *scanner) reference() (Target, slot) {
	kind, _ := s.text(refType)
	switch string(kind) {
	case "ref/prompt":
		return Prompt, refName
	case "ref/resource":
		return Resource, refURI
	}
	return NoTarget, unnoted
}

// text returns the decoded string at a slot; not ok when the value is absent or no string. It is valid until the
// next call.
func (s *scanner) text(at slot) (text []byte, ok bool) {
	v := s.found[at].of(s.body)
	if !isString(v) {
		return nil, false
	}
	return s.decode(v), true
}

// ValidToolName reports whether name is 1 to 128 of A-Z a-z 0-9 _ . - (MCP 2026-07-28, server/tools).
func ValidToolName(name string) bool { return validToolName(name) }

func validToolName[T ~string | ~[]byte](name T) bool {
	for i := range len(name) {
		if c := name[i]; c != '.' && !wordByte(c) {
			return false
		}
	}
	return 0 < len(name) && len(name) <= MaxToolNameBytes
}
