package authz

import (
	"net/http"
	"regexp"
	"strings"
)

// Header holds the fields of a request or response by lower-case name, in the order in which they arrived.
type Header map[string][]string

// Get returns the only value of name. It reports false when the field is absent or, since a second value is how
// two parsers come to disagree, when there are several.
func (h Header) Get(name string) (string, bool) {
	v := h[name]
	if len(v) != 1 {
		return "", false
	}
	return v[0], true
}

// repeated returns the first of names that has more than one value, or "".
func (h Header) repeated(names ...string) string {
	for _, n := range names {
		if len(h[n]) > 1 {
			return n
		}
	}
	return ""
}

// traceParent is a trace context in its only form so far (W3C Trace Context §3.2.2.3).
var traceParent = regexp.MustCompile(`^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$`)

// TraceContext returns the trace context when it is one, and of a bounded size (W3C Trace Context §3.3.1.5).
func (h Header) TraceContext() (parent, state string, ok bool) {
	parent, ok = h.Get("traceparent")
	state = strings.Join(h["tracestate"], ",")
	if !ok || !traceParent.MatchString(parent) || len(state) > 512 {
		return "", "", false
	}
	return parent, state, true
}

// canonical returns the fields under their canonical names (Authorization, Mcp-Session-Id), several values joined
// with ", ": the spelling that published policies read.
func (h Header) canonical() map[string]string {
	out := make(map[string]string, len(h))
	for name, values := range h {
		out[http.CanonicalHeaderKey(name)] = strings.Join(values, ", ")
	}
	return out
}

// Request is what a host knows of an HTTP request before its body has arrived.
type Request struct {
	Method      string // HTTP method
	Path        string // as it will be forwarded, without the query
	RawQuery    string
	Scheme      string // "http" or "https", as the host established it
	Host        string // host[:port], as the host established it
	Header      Header
	SourceIP    string // the address that the host established
	Certificate string // SHA-256 of the TLS client certificate in hex, as the host established it; "" without one
	EndOfStream bool   // no body follows
	ID          string // the host's own id of this exchange, "" when it has none

	// KeepsBody is set by a host that can change no body and no path (ext_authz), HidesAnswer by one that shows no upstream's
	// answer. A call that would need either goes through the hub.
	KeepsBody, HidesAnswer bool
}

// Reply is an HTTP answer that the gate gives itself.
type Reply struct {
	Status int
	Header [][2]string
	Body   []byte
}

// Verdict is the last word on one request. It forwards (Reply is nil) or answers (Reply is set); the zero Verdict
// does neither and must be treated as a failure of ours.
type Verdict struct {
	ID    string // call id, joins the audit's decision and completion; "" for what is not a message (metadata, health)
	RPCID []byte // the message's JSON-RPC id as it was written; nil when there is none
	Reply *Reply

	// Origin of the page that may read the upstream's answer; "" when no page asked.
	Origin string
	// Nonce is the DPoP-Nonce of the upstream's answer (RFC 9449 §8.2); "" for none.
	Nonce string

	// Metered is the app whose calls the host counts, and Meter whose call of what this is: calls of one Meter count
	// together. "" where nothing is counted.
	Metered, Meter string

	Route  string      // value of the private route header: HubRoute or an App's Route
	Remove []string    // request headers to remove, before Set
	Set    [][2]string // request headers to overwrite
	Body   []byte      // replaces the request body; nil leaves it as it came

	// Watch asks the host for the response's headers: see Call.Response.
	Watch bool
}

// Forwards reports whether the request goes on.
func (v Verdict) Forwards() bool { return v.Reply == nil && v.Route != "" }
