package authz

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/sallyport/sallyport/authz/audit"
	"github.com/sallyport/sallyport/mcpparse"
)

// noArguments is what an absent params.arguments counts as.
var noArguments = []byte("{}")

// record says what is known of the call so far.
func (c *Call) record(outcome audit.Outcome) audit.Decision {
	rec := audit.Decision{
		Time:            c.gate.cfg.Now(),
		ID:              c.id,
		Outcome:         outcome,
		Method:          c.msg.Method,
		SourceIP:        c.req.SourceIP,
		ProtocolVersion: c.version,
		Session:         c.session.ID,
		Message:         c.note,
		Exchange:        c.req.ID,
	}
	if rec.Method == "" {
		rec.Method = "http/" + strings.ToLower(clip(c.req.Method, 16)) // refused before a body, or without one
	}
	if id := c.identity; id != nil {
		rec.Subject, rec.ClientID, rec.Actors, rec.Issuer, rec.JTI = id.Subject, id.ClientID, id.Actors, id.Issuer, id.JTI
		rec.Binding = id.Binding.Method
	}
	if c.app != nil && c.msg.Kind == mcpparse.Response {
		rec.App, rec.Method = c.app.Name, "response"
	} else if c.app != nil {
		arguments := c.msg.Arguments
		if arguments == nil {
			arguments = noArguments
		}
		sum := sha256.Sum256(arguments)
		rec.App, rec.ArgumentsSHA256 = c.app.Name, hex.EncodeToString(sum[:])
		switch c.msg.Target {
		case mcpparse.Tool:
			rec.Tool = c.name
		case mcpparse.Prompt:
			rec.Prompt = c.name
		case mcpparse.Resource:
			rec.Resource = clip(c.name, 1024)
		}
		rec.Policy, rec.PolicyDigest = c.app.Policy.Name(), c.app.Policy.Digest()
	}
	if t := c.issued; t != nil {
		rec.Exchanged = &audit.Exchanged{Audience: t.Audience, Scopes: t.Scopes, JTI: t.JTI, ExpiresIn: t.ExpiresIn}
	}
	return rec
}
