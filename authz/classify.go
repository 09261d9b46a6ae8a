package authz

import (
	"context"
	"strings"
	"time"

	"github.com/sallyport/sallyport/authz/session"
	"github.com/sallyport/sallyport/authz/token"
	"github.com/sallyport/sallyport/mcpparse"
)

// target is where messages of a method go.
type target uint8

const (
	toHub target = iota // many targets, or none
	toApp               // the one upstream that owns the name
)

// served are the methods that pass the gate, by era. The table is closed: what it lacks is refused, because no
// policy has been asked about it.
var served = map[mcpparse.Era]map[string]target{
	mcpparse.EraLegacy: {
		"initialize":                       toHub,
		"ping":                             toHub,
		"tools/list":                       toHub,
		"tools/call":                       toApp,
		"prompts/list":                     toHub,
		"prompts/get":                      toApp,
		"resources/list":                   toHub,
		"resources/templates/list":         toHub,
		"resources/read":                   toApp,
		"resources/subscribe":              toApp,
		"resources/unsubscribe":            toApp,
		"completion/complete":              toApp,
		"logging/setLevel":                 toHub,
		"notifications/initialized":        toHub,
		"notifications/cancelled":          toHub,
		"notifications/progress":           toHub,
		"notifications/roots/list_changed": toHub,
	},
	mcpparse.EraModern: {
		"server/discover":          toHub,
		"tools/list":               toHub,
		"tools/call":               toApp,
		"prompts/list":             toHub,
		"prompts/get":              toApp,
		"resources/list":           toHub,
		"resources/templates/list": toHub,
		"resources/read":           toApp,
		"completion/complete":      toApp,
		"subscriptions/listen":     toHub,
	},
}

// classify decides which era the message belongs to and holds it to that era's rules; on ambiguity it refuses.
func (c *Call) classify(ctx context.Context) (target, *rejection) {
	if c.sse() { // a transport of the legacy era, which has no header for the version
		c.era = mcpparse.EraLegacy
		return c.attach(ctx)
	}
	header, hasHeader := c.req.Header.Get("mcp-protocol-version")
	modern := c.msg.Version != "" || mcpparse.ClassifyVersion(header) == mcpparse.EraModern
	if modern {
		c.era = mcpparse.EraModern
		if rej := c.checkModern(header, hasHeader); rej != nil {
			return 0, rej
		}
		c.version = header
		return c.lookup()
	}
	c.era = mcpparse.EraLegacy
	if hasHeader && !mcpparse.Served(mcpparse.EraLegacy, header) {
		return 0, c.unsupportedVersion(header)
	}
	c.version = header
	return c.attach(ctx)
}

// attach finds the session of a legacy message, and where it goes.
func (c *Call) attach(ctx context.Context) (target, *rejection) {
	if c.msg.Kind != mcpparse.Response && !c.sse() {
		t, rej := c.lookup()
		if rej == nil {
			rej = c.attachSession(ctx)
		}
		return t, rej
	}
	if rej := c.attachSession(ctx); rej != nil {
		return 0, rej
	}
	if c.msg.Kind == mcpparse.Response {
		return toHub, c.asked()
	}
	return c.lookup() // after the session: a refusal, too, is said on the stream of one
}

// asked finds the upstream that a response answers. That its id opens proves that the request was sent to this session.
func (c *Call) asked() *rejection {
	text, ok := mcpparse.Text(c.msg.ID)
	name, err := c.gate.cfg.Sessions.OpenName(c.session.ID, session.RequestID, text)
	if app := c.gate.tagged(name.App); ok && err == nil && app != nil && c.session.ID != "" {
		c.app = app
		return nil
	}
	return denied(400, mcpparse.CodeInvalidRequest, "no request of ours is waiting for this response", "")
}

// checkModern holds a 2026-07-28 message to its header mirrors and required metadata. Header and body must agree,
// since an intermediary that reads one and a server that reads the other would see different calls.
func (c *Call) checkModern(header string, hasHeader bool) *rejection {
	m := c.msg
	switch {
	case !hasHeader:
		return mismatch("MCP-Protocol-Version is required")
	case m.Version != "" && m.Version != header:
		return mismatch("MCP-Protocol-Version does not match the body")
	case !mcpparse.Served(mcpparse.EraModern, header):
		return c.unsupportedVersion(header)
	case m.Kind == mcpparse.Response:
		return denied(400, mcpparse.CodeInvalidRequest, "a client sends no responses in this protocol version", "")
	case m.Kind == mcpparse.Notification:
		return nil // the revision defines no mirrors for notifications
	}
	method, ok := c.req.Header.Get("mcp-method")
	if !ok || method != m.Method {
		return mismatch("Mcp-Method does not match the body")
	}
	if m.Version == "" || !m.HasClientCapabilities {
		return denied(400, mcpparse.CodeInvalidParams, "_meta must carry the protocol version and client capabilities", "")
	}
	if !mcpparse.MirrorsName(m.Method) {
		return nil
	}
	name, ok := c.req.Header.Get("mcp-name")
	if decoded, err := mcpparse.DecodeHeader(name); !ok || err != nil || decoded != m.Name {
		return mismatch("Mcp-Name does not match the body")
	}
	return nil
}

func mismatch(text string) *rejection {
	return denied(400, mcpparse.CodeHeaderMismatch, text, "")
}

func (c *Call) unsupportedVersion(requested string) *rejection {
	rej := denied(400, mcpparse.CodeUnsupportedVersion, "unsupported protocol version", "")
	rej.data = map[string]any{"supported": mcpparse.Versions(), "requested": clip(requested, 64)}
	return rej
}

// lookup finds the method in the closed table.
func (c *Call) lookup() (target, *rejection) {
	m := c.msg
	t, ok := served[c.era][m.Method]
	info, known := mcpparse.LookupMethod(m.Method)
	if ok && known && info.Kind == m.Kind && c.gate.cfg.Upstreams.Serves(m.Method, c.era, c.caller()) {
		return t, c.wishes()
	}
	status := 200 // what clients of the stateful protocol expect; a 4xx is a transport failure to them
	if c.era == mcpparse.EraModern {
		status = 404
	} else if m.Kind == mcpparse.Notification {
		status = 400
	}
	return 0, denied(status, mcpparse.CodeMethodNotFound, "method not found", "method not served: "+clip(m.Method, 64))
}

// wishes checks that subscriptions/listen says what for.
func (c *Call) wishes() *rejection {
	if wish := c.msg.Param("notifications"); c.msg.Method == "subscriptions/listen" && (len(wish) == 0 || wish[0] != '{') {
		return denied(400, mcpparse.CodeInvalidParams, "params.notifications must be an object", "")
	}
	return nil
}

// attachSession finds the session that a legacy message belongs to.
func (c *Call) attachSession(ctx context.Context) *rejection {
	switch {
	case c.again:
		return nil // the hub has it
	case c.sse():
		return c.openSession(ctx, sessionOf(c.req.RawQuery))
	case c.msg.Method == "initialize" || c.gate.cfg.SessionHeader == "":
		return nil
	}
	id, ok := c.req.Header.Get(c.gate.cfg.SessionHeader)
	if !ok {
		return denied(400, mcpparse.CodeInvalidRequest, "a session is required; send initialize first", "")
	}
	return c.openSession(ctx, id)
}

// sse reports whether the message came by the 2024-11-05 transport.
func (c *Call) sse() bool { return c.req.Path == c.gate.cfg.Paths.Message && c.req.Path != "" }

// sessionOf reads the query that the transport's endpoint event announced, and nothing else.
func sessionOf(query string) string {
	id, _ := strings.CutPrefix(query, SessionQuery)
	return id
}

// SessionQuery comes before the session's id in the address that messages of the 2024-11-05 transport are posted to.
const SessionQuery = "sessionId="

// openSession unseals a session id. Ids of other principals, of other routes, altered or ended ones all look alike
// from outside: 404, which tells a client to initialize again.
func (c *Call) openSession(ctx context.Context, id string) *rejection {
	s, err := c.gate.cfg.Sessions.Open(id, c.gate.Owner(c.identity, c.req.Path))
	if err == nil && c.gate.cfg.Revocations.Ended(c.identity, s) {
		return c.gate.sessionRevoked()
	}
	live := false
	if err == nil {
		if live, err = c.gate.cfg.Upstreams.Touch(ctx, s); err != nil {
			return failed(503, "sessions cannot be looked up at the moment", err.Error()).retryAfter(time.Second)
		}
	}
	if !live {
		return noSession("session unknown, ended, or another caller's")
	}
	c.session = s
	if c.version == "" {
		c.version = s.Version
	}
	return nil
}

// Owner is who a session id of this caller is sealed to. The two paths of the 2024-11-05 transport are one.
func (g *Gate) Owner(id *token.Identity, path string) session.Owner {
	if path == g.cfg.Paths.Message {
		path = g.cfg.Paths.SSE
	}
	return session.Owner{Issuer: id.Issuer, Subject: id.Subject, ClientID: id.ClientID, Route: path}
}

// clip makes text from outside fit to be repeated: bounded, and valid UTF-8.
func clip(s string, n int) string {
	return strings.ToValidUTF8(s[:min(len(s), n)], "\uFFFD")
}
