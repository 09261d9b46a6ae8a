package authz

import (
	"slices"
	"strconv"
	"strings"
	"time"

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
	_, _, traced := c.req.Header.TraceContext()
	for name := range c.req.Header {
		switch {
		case slices.Contains(kept, name), strings.HasPrefix(name, "x-envoy-"):
		case (name == "traceparent" || name == "tracestate") && traced:
		case strings.HasPrefix(name, "mcp-param-") && c.era == mcpparse.EraModern:
		default:
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// maxCall is how long a call may take in all: as the app says, and no longer than its token is good for.
func (c *Call) maxCall() time.Duration {
	var limit time.Duration
	if c.msg.Target == mcpparse.Tool {
		limit = c.app.Timeouts.Of(c.name)
	} else {
		limit = c.app.Timeouts.Default
	}
	if exp := c.identity.Expiry; !exp.IsZero() {
		if left := max(exp.Sub(c.gate.cfg.Now()), time.Second); limit == 0 || left < limit {
			limit = left
		}
	}
	return limit
}

// timeoutHeader bounds one call in Envoy, its answer's stream included.
const timeoutHeader = "x-envoy-upstream-rq-timeout-ms"

// deliver makes a verdict on a message of the 2024-11-05 transport, where answers come on the stream that the session
// is: the hub, which has the stream, answers the POST. What the client's HTTP must see is answered at once.
func (c *Call) deliver(v Verdict, rec audit.Decision) (Verdict, audit.Decision) {
	if !c.sse() || c.again || v.Reply == nil || c.session.ID == "" || c.msg.Kind != mcpparse.Request || v.Reply.Status == 401 || v.Reply.Status == 403 {
		return v, rec
	}
	out, _ := c.toHub()
	ticket, err := c.ticket(v.Reply)
	if err != nil {
		return v, rec
	}
	out.Set = append(out.Set, ticket)
	return out, rec
}

// toHub sends the message to our own hub, which verifies the token again and shows policies the same headers that a
// call's policy sees.
func (c *Call) toHub() (Verdict, audit.Decision) {
	v := Verdict{Route: HubRoute}
	v.Set = append(c.path(), [2]string{RouteHeader, HubRoute}, [2]string{SourceHeader, c.req.SourceIP})
	if c.req.Certificate != "" {
		v.Set = append(v.Set, [2]string{CertHeader, c.req.Certificate})
	}
	if c.sse() {
		v.Set = append(v.Set, [2]string{SessionHeader, sessionOf(c.req.RawQuery)})
	}
	return v, c.record(audit.Allowed)
}

// toCarrier sends the call to the hub, which carries it out by its ticket: the eras differ, or a transport does that
// Envoy cannot lead anywhere by itself, or the gateway has to remember something.
func (c *Call) toCarrier() (Verdict, audit.Decision) {
	v, rec := c.toHub()
	ticket, err := c.ticket(nil)
	if err != nil {
		return c.refuse(failed(500, "internal error", err.Error()))
	}
	v.Set = append(v.Set, ticket)
	return v, rec
}

// carried reports whether the hub is to carry the call out.
func (c *Call) carried() bool {
	return c.leg.Era != c.era || c.leg.Indirect || c.sse() || c.again ||
		c.msg.Method == "resources/subscribe" || c.msg.Method == "resources/unsubscribe"
}

// toUpstream sends the call to the app that owns it: bare name, fresh token, mirrors rebuilt from the new body.
func (c *Call) toUpstream() (Verdict, audit.Decision) {
	if c.carried() {
		return c.toCarrier()
	}
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
		v.Set = append(v.Set, [2]string{"mcp-method", c.msg.Method})
		if mcpparse.MirrorsName(c.msg.Method) {
			v.Set = append(v.Set, [2]string{"mcp-name", mcpparse.EncodeHeader(c.name)})
		}
	}
	if limit := c.maxCall(); limit > 0 {
		v.Set = append(v.Set, [2]string{timeoutHeader, strconv.FormatInt(limit.Milliseconds(), 10)})
	}
	c.sent = c.msg.Raw()
	if edits := c.edits(); len(edits) > 0 {
		v.Body = c.msg.Splice(edits...)
		c.sent = v.Body
		v.Set = append(v.Set, [2]string{"content-length", strconv.Itoa(len(v.Body))})
	}
	// In the legacy era a session may be lost, and there are names in event streams; what one caller may read is no
	// other's to have from a cache.
	v.Watch = c.era == mcpparse.EraLegacy || c.msg.Method == "resources/read"
	if c.req.KeepsBody && (v.Body != nil || c.req.RawQuery != "") || c.req.HidesAnswer && v.Watch {
		return c.toCarrier()
	}
	return v, c.record(audit.Allowed)
}

// meter says whose call of what it is, where the host counts calls. Names of tools are as many as the server has; prompts and
// resources, which may be without number, count together.
func (c *Call) meter(v *Verdict) {
	if c.app == nil || !c.app.Metered {
		return
	}
	what := ""
	switch c.msg.Target {
	case mcpparse.Tool:
		what = "tool " + c.name
	case mcpparse.Prompt:
		what = "prompts"
	case mcpparse.Resource:
		what = "resources"
	default:
		return // an answer, or what else belongs to no call
	}
	v.Metered, v.Meter = c.app.Name, c.identity.Principal()+" "+what
}

// edits are the bytes that change between agent and upstream: the name, and what would ask for a task.
func (c *Call) edits() []mcpparse.Edit {
	edits := c.msg.DropTasks()
	if c.name != c.msg.Name {
		edits = append(edits, c.msg.SetName(c.name))
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
