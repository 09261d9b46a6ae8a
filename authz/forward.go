package authz

import (
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/sallyport/sallyport/authz/audit"
	"github.com/sallyport/sallyport/mcpparse"
)

// kept are the request fields that an upstream sees. Everything else a client sent ends at the gate, credentials
// and forged identities first; Envoy's own fields (x-envoy-*, x-forwarded-for, x-request-id) are Envoy's matter.
var kept = []string{"accept", "accept-language", "content-type", "content-length", "host", "user-agent",
	"x-request-id", "x-forwarded-for", "x-forwarded-proto",
	"connection", "transfer-encoding", "te", "trailer", "upgrade", "keep-alive", "expect"}

// strip lists the request's fields that must not go on.
func (c *Call) strip() []string {
	var out []string
	for name := range c.req.Header {
		switch {
		case slices.Contains(kept, name), strings.HasPrefix(name, "x-envoy-"):
		case (name == "traceparent" || name == "tracestate") && c.traced():
		case strings.HasPrefix(name, "mcp-param-") && c.era == mcpparse.EraModern && c.leg.Era == mcpparse.EraModern:
		default:
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// traceParent is a trace context in its only form so far (W3C Trace Context §3.2.2.3).
var traceParent = regexp.MustCompile(`^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$`)

// traced reports whether the request's trace context is one, and of a bounded size (§3.3.1.5).
func (c *Call) traced() bool {
	parent, ok := c.req.Header.Get("traceparent")
	state := strings.Join(c.req.Header["tracestate"], ",")
	return ok && traceParent.MatchString(parent) && len(state) <= 512
}

// toHub sends the message to our own hub, which verifies the token again and shows policies the same headers that a
// call's policy sees.
func (c *Call) toHub() (Verdict, audit.Decision) {
	v := Verdict{Route: HubRoute}
	v.Set = append(c.path(), [2]string{RouteHeader, HubRoute}, [2]string{SourceHeader, c.req.SourceIP})
	return v, c.record(audit.Allowed)
}

// toUpstream sends the call to the app that owns it: bare name, fresh token, mirrors rebuilt from the new body.
func (c *Call) toUpstream() (Verdict, audit.Decision) {
	v := Verdict{Route: c.app.Route, Remove: c.strip(), Set: append(c.path(), [2]string{RouteHeader, c.app.Route})}
	if c.issued != nil {
		v.Set = append(v.Set, [2]string{"authorization", "Bearer " + c.issued.Value})
	}
	if c.leg.Version != "" {
		v.Set = append(v.Set, [2]string{"mcp-protocol-version", c.leg.Version})
	}
	if c.leg.SessionID != "" {
		v.Set = append(v.Set, [2]string{"mcp-session-id", c.leg.SessionID})
	}
	if c.leg.Era == mcpparse.EraModern {
		v.Set = append(v.Set, [2]string{"mcp-method", c.msg.Method}, [2]string{"mcp-name", mcpparse.EncodeHeader(c.tool)})
	}
	if edits := c.edits(); len(edits) > 0 {
		v.Body = c.msg.Splice(edits...)
		v.Set = append(v.Set, [2]string{"content-length", strconv.Itoa(len(v.Body))})
	}
	if c.leg.Era != c.era {
		v.Set = append(v.Set, [2]string{"accept", "application/json, text/event-stream"})
	}
	v.Watch = c.leg.SessionID != "" // only a lost session has to be noticed
	return v, c.record(audit.Allowed)
}

// edits are the bytes that change between agent and upstream: the name, and the metadata that only one era knows.
func (c *Call) edits() []mcpparse.Edit {
	var edits []mcpparse.Edit
	if c.tool != c.msg.Name {
		edits = append(edits, c.msg.SetName(c.tool))
	}
	switch {
	case c.era == mcpparse.EraModern && c.leg.Era == mcpparse.EraLegacy:
		edits = append(edits, c.msg.DropModernMeta()...)
	case c.era == mcpparse.EraLegacy && c.leg.Era == mcpparse.EraModern:
		edits = append(edits, c.msg.AddModernMeta(c.leg.Version, nil)...)
	}
	return edits
}

// path drops the query: no upstream has been promised one, and nothing has judged it.
func (c *Call) path() [][2]string {
	if c.req.RawQuery == "" {
		return nil
	}
	return [][2]string{{":path", c.req.Path}}
}
