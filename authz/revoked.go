package authz

import (
	"errors"

	"github.com/sallyport/sallyport/authz/session"
	"github.com/sallyport/sallyport/authz/token"
	"github.com/sallyport/sallyport/mcpparse"
)

// Revocations say what has been taken back. They are asked about every message: they must be quick. *revocation.List is one.
type Revocations interface {
	// Revoked reports whether the token that id was made of is revoked.
	Revoked(id *token.Identity) bool
	// Ended reports whether a session of id's is.
	Ended(id *token.Identity, s session.Session) bool
}

// NothingRevoked is for who has no Revocations.
type NothingRevoked struct{}

// Revoked reports false.
func (NothingRevoked) Revoked(*token.Identity) bool { return false }

// Ended reports false.
func (NothingRevoked) Ended(*token.Identity, session.Session) bool { return false }

// revoked refuses a token that was good when the request came: its body may have been slow, or its own token late.
func (c *Call) revoked() *rejection {
	switch r := c.gate.cfg.Revocations; {
	case r.Revoked(c.identity):
		return c.gate.tokenRefused(c.req, schemeOf(c.identity), token.ErrRevoked)
	case r.Ended(c.identity, c.session):
		return c.gate.sessionRevoked()
	}
	return nil
}

// tokenRefused is the challenge for a token that is not accepted.
func (g *Gate) tokenRefused(r Request, scheme string, err error) *rejection {
	if errors.Is(err, token.ErrRevoked) {
		g.cfg.Metrics.revoked.Inc()
	}
	return g.challenge(r, scheme, "invalid_token", publicTokenError(err), err.Error())
}

// sessionRevoked looks from outside like any session that has ended, after which a client may initialize again.
func (g *Gate) sessionRevoked() *rejection {
	g.cfg.Metrics.revoked.Inc()
	return noSession("revoked session")
}

func noSession(reason string) *rejection {
	return denied(404, mcpparse.CodeInvalidRequest, "session not found; send initialize again", reason)
}

// Gone reports whether the call's token or session has been revoked since it was let through.
func (c *Call) Gone() bool {
	r := c.gate.cfg.Revocations
	return r.Revoked(c.identity) || r.Ended(c.identity, c.session)
}
