package mcpparse

import "bytes"

// place is where in a message a value stands.
type place uint8

const (
	outside     place = iota // nothing that the gateway acts on: a response's result, a list
	root                     // the message
	inParams                 // root.params
	inRef                    // params.ref
	inMeta                   // params._meta
	inArguments              // anything else in params, at any depth
	places
)

func (p place) belowParams() bool { return p >= inParams }

// within is the place of p's elements and of those of its members that have none of their own.
func (p place) within() place {
	if p.belowParams() {
		return inArguments
	}
	return outside
}

// slot names a value whose span is noted.
type slot uint8

const (
	unnoted slot = iota
	rootJSONRPC
	rootID
	rootMethod
	rootParams
	rootResult
	rootError
	paramsName
	paramsArguments
	paramsURI
	paramsRef
	paramsMeta
	paramsVersion
	refType
	refName
	refURI
	paramsProgressToken
	paramsRequestID
	paramsTask
	metaVersion
	metaCapabilities
	metaProgressToken
	slots
)

// Members of params._meta in which a 2026-07-28 request carries what used to be the session's.
const (
	metaPrefix          = "io.modelcontextprotocol/"
	metaKeyVersion      = metaPrefix + "protocolVersion"
	metaKeyClientInfo   = metaPrefix + "clientInfo"
	metaKeyCapabilities = metaPrefix + "clientCapabilities"
	metaKeyLogLevel     = metaPrefix + "logLevel"
)

// member is one of the protocol's member names.
type member struct {
	name  string
	slot  slot  // where its value's span is noted
	place place // where its value stands; outside means place.within of the object
}

// protocol holds the protocol's members by place. Those without a slot are there to find their twins.
var protocol = [places][]member{
	root: {
		{name: "jsonrpc", slot: rootJSONRPC}, {name: "id", slot: rootID}, {name: "method", slot: rootMethod},
		{name: "params", slot: rootParams, place: inParams},
		{name: "result", slot: rootResult}, {name: "error", slot: rootError},
	},
	inParams: {
		{name: "name", slot: paramsName}, {name: "arguments", slot: paramsArguments}, {name: "uri", slot: paramsURI},
		{name: "_meta", slot: paramsMeta, place: inMeta}, {name: "ref", slot: paramsRef, place: inRef},
		{name: "protocolVersion", slot: paramsVersion},
		{name: "capabilities"}, {name: "clientInfo"}, {name: "argument"}, {name: "context"}, {name: "cursor"},
		{name: "level"}, {name: "notifications"}, {name: "progressToken", slot: paramsProgressToken}, {name: "progress"},
		{name: "total"}, {name: "message"}, {name: "requestId", slot: paramsRequestID}, {name: "reason"}, {name: "requestState"}, {name: "inputResponses"},
		{name: "task", slot: paramsTask}, {name: "taskId"},
	},
	inRef: {{name: "type", slot: refType}, {name: "name", slot: refName}, {name: "uri", slot: refURI}},
	inMeta: {
		{name: metaKeyVersion, slot: metaVersion}, {name: metaKeyCapabilities, slot: metaCapabilities},
		{name: metaKeyClientInfo}, {name: metaKeyLogLevel}, {name: "progressToken", slot: metaProgressToken},
	},
}

// member judges a decoded member name at p and says where its value's span belongs and where the value stands.
func (s *scanner) member(p place, name []byte) (slot, place) {
	if bytes.IndexByte(name, 0) >= 0 {
		s.refuse(CodeInvalidRequest, "a member name contains NUL")
	}
	if p.belowParams() && pollutes(name) {
		s.refuse(CodeInvalidParams, "member names __proto__, constructor and prototype are not accepted")
	}
	for _, m := range protocol[p] {
		if string(name) != m.name {
			continue
		}
		if m.place == outside {
			return m.slot, p.within()
		}
		return m.slot, m.place
	}
	for _, m := range protocol[p] {
		if bytes.EqualFold(name, []byte(m.name)) {
			s.refuse(CodeInvalidRequest, "a member name differs from the protocol's only in case")
		}
	}
	if p == root {
		s.refuse(CodeInvalidRequest, "the message has a member that JSON-RPC does not define")
	}
	return unnoted, p.within()
}

// pollutes reports whether a member of this name can reach the prototypes of a JavaScript server's objects.
func pollutes(name []byte) bool {
	switch string(name) {
	case "__proto__", "constructor", "prototype":
		return true
	}
	return false
}
