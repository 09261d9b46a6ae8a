package authz

import (
	"strings"

	"github.com/sallyport/sallyport/authz/session"
	"github.com/sallyport/sallyport/mcpparse"
)

// target is where messages of a method go.
type target uint8

const (
	toHub  target = iota // many targets, or none
	toTool               // the one upstream that owns the tool
)

// served are the methods that pass the gate, by era. The table is closed: what it lacks is refused, because no
// policy has been asked about it.
var served = map[mcpparse.Era]map[string]target{
	mcpparse.EraLegacy: {
		"initialize":                       toHub,
		"ping":                             toHub,
		"tools/list":                       toHub,
		"tools/call":                       toTool,
		"notifications/initialized":        toHub,
		"notifications/cancelled":          toHub,
		"notifications/progress":           toHub,
		"notifications/roots/list_changed": toHub,
	},
	mcpparse.EraModern: {
		"server/discover": toHub,
		"tools/list":      toHub,
		"tools/call":      toTool,
	},
}

// classify decides which era the message belongs to and holds it to that era's rules; on ambiguity it refuses.
func (c *Call) classify() (target, *rejection) {
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
	t, rej := c.lookup()
	if rej != nil {
		return 0, rej
	}
	return t, c.attachSession()
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
	if m.Kind == mcpparse.Response {
		return 0, denied(400, mcpparse.CodeInvalidRequest, "no request of ours is waiting for this response", "")
	}
	t, ok := served[c.era][m.Method]
	info, known := mcpparse.LookupMethod(m.Method)
	if ok && known && info.Kind == m.Kind {
		return t, nil
	}
	status := 200 // what clients of the stateful protocol expect; a 4xx is a transport failure to them
	if c.era == mcpparse.EraModern {
		status = 404
	} else if m.Kind == mcpparse.Notification {
		status = 400
	}
	return 0, denied(status, mcpparse.CodeMethodNotFound, "method not found", "method not served: "+clip(m.Method, 64))
}

// attachSession finds the session that a legacy message belongs to.
func (c *Call) attachSession() *rejection {
	if c.msg.Method == "initialize" || c.gate.cfg.SessionHeader == "" {
		return nil
	}
	id, ok := c.req.Header.Get(c.gate.cfg.SessionHeader)
	if !ok {
		return denied(400, mcpparse.CodeInvalidRequest, "a session is required; send initialize first", "")
	}
	return c.openSession(id)
}

// openSession unseals a session id. Ids of other principals, of other routes, altered or ended ones all look alike
// from outside: 404, which tells a client to initialize again.
func (c *Call) openSession(id string) *rejection {
	s, err := c.gate.cfg.Sessions.Open(id, c.gate.owner(c))
	if err != nil || !c.gate.cfg.Upstreams.Touch(s) {
		return denied(404, mcpparse.CodeInvalidRequest, "session not found; send initialize again", "session unknown, ended, or another caller's")
	}
	c.session = s
	if c.version == "" {
		c.version = s.Version
	}
	return nil
}

// owner is who a session id of this call's caller is sealed to.
func (g *Gate) owner(c *Call) session.Owner {
	return session.Owner{Issuer: c.identity.Issuer, Subject: c.identity.Subject, ClientID: c.identity.ClientID, Route: g.cfg.Paths.MCP}
}

// clip makes text from outside fit to be repeated: bounded, and valid UTF-8.
func clip(s string, n int) string {
	return strings.ToValidUTF8(s[:min(len(s), n)], "\uFFFD")
}
