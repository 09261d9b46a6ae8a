package authz

import (
	"slices"
	"strings"

	"github.com/sallyport/sallyport/authz/token"
	"github.com/sallyport/sallyport/mcpparse"
)

// The scopes of the agent's own token, and step-up: saying which ones a call needs beside them, so that the client can
// log in again and come back.

// ownScopes refuses a call for which the agent's own token lacks a scope.
func (c *Call) ownScopes() *rejection {
	missing := lacking(c.needed(), c.identity)
	if len(missing) == 0 {
		return nil
	}
	return c.insufficientScope(nil, "the agent's token lacks "+strings.Join(missing, " "))
}

// needed are the scopes that the agent's own token must have for what is called, whatever the policy says.
func (c *Call) needed() []string {
	rule, _ := c.app.rule(c.msg.Target, c.name)
	if c.app.Exchange == nil {
		return rule.Requires
	}
	return union(rule.Requires, c.app.Exchange.subjectScopes(rule))
}

// subjectScopes are the scopes of a rule that the agent's own token must have for them to be asked for.
func (x *ExchangeRule) subjectScopes(rule TokenRule) []string {
	if x.SubjectScopes {
		return rule.Scopes
	}
	return nil
}

// lacking are those of scopes that id's token does not have.
func lacking(scopes []string, id *token.Identity) []string {
	var missing []string
	for _, s := range scopes {
		if !slices.Contains(id.Scopes, s) {
			missing = append(missing, s)
		}
	}
	return missing
}

// union are the scopes of all lists, each once, in order.
func union(lists ...[]string) []string {
	var all []string
	for _, s := range slices.Concat(lists...) {
		if !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	return all
}

// insufficientScope is a 403 that names every scope the call needs at once (RFC 6750 §3.1), those that the policy asked for
// and those that needed says: after one more login the call succeeds. All are scope-tokens (RFC 6749 §3.3), as
// policy.Decision and Config promise, so they can stand between quotes.
func (c *Call) insufficientScope(asked []string, message string) *rejection {
	if message == "" {
		message = "more scope is required"
	}
	needed := union(asked, c.needed())
	challenge := challengeOf(schemeOf(c.identity), `error="insufficient_scope"`, scopeParam(union(needed, c.kept())), c.gate.metadataParam(c.req))
	return denied(403, mcpparse.CodeInvalidRequest, message, "insufficient scope: "+strings.Join(needed, " ")).
		with("www-authenticate", challenge)
}

// maxKept bounds what of a token's scopes is repeated to its owner, in bytes.
const maxKept = 2 << 10

// kept are scopes of the agent's own token that a challenge repeats. Clients of revisions up to 2025-11-25 ask for what
// the challenge says and for nothing else, so that with each step up they would lose what they had; that revision
// recommends to repeat it. From 2026-07-28 on they add it themselves, and servers name what the call needs.
func (c *Call) kept() []string {
	if c.era == mcpparse.EraModern {
		return nil
	}
	var out []string
	size := 0
	for _, s := range c.identity.Scopes {
		// Not offline_access: whether it wants to stay is the client's affair, not this resource's.
		if size += len(s) + 1; size > maxKept {
			break
		}
		if scopeToken(s) && s != "offline_access" {
			out = append(out, s)
		}
	}
	return out
}

// scopeToken reports whether s is a scope-token of RFC 6749 §3.3. A token's scopes are its issuer's words: one that is
// none would break out of the quoted string.
func scopeToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' })
}
