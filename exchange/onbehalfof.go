package exchange

import (
	"errors"
	"net/url"
	"slices"
	"strings"
)

const (
	grantJWTBearer = "urn:ietf:params:oauth:grant-type:jwt-bearer"
	allConsented   = ".default"
)

// validateOnBehalfOf refuses what the on-behalf-of flow has no means to ask for.
func (r Request) validateOnBehalfOf() error {
	switch {
	case r.ActorToken || r.RequireAct:
		return errors.New("the on-behalf-of flow knows no actor")
	case len(r.Scopes) > 1 && slices.ContainsFunc(r.Scopes, func(s string) bool { return r.shortScope(s) == allConsented }):
		return errors.New("the scope .default must be the only one")
	}
	return nil
}

// onBehalfOfForm is the request of Entra ID's on-behalf-of flow, a jwt-bearer
// grant (RFC 7523 §2.1). The audience is a part of each scope.
func (r Request) onBehalfOfForm() url.Values {
	scopes := []string{r.longScope(allConsented)}
	if len(r.Scopes) > 0 {
		scopes = make([]string, len(r.Scopes))
		for i, s := range r.Scopes {
			scopes[i] = r.longScope(s)
		}
	}
	return url.Values{
		"grant_type":          {grantJWTBearer},
		"assertion":           {r.SubjectToken},
		"requested_token_use": {"on_behalf_of"},
		"scope":               {strings.Join(scopes, " ")},
	}
}

// longScope names the audience in front of a scope, with a slash between even if
// the audience ends in one.
func (r Request) longScope(s string) string {
	if strings.HasPrefix(s, r.place()+"/") {
		return s
	}
	return r.place() + "/" + s
}

// shortScope is how a scope is written in the token (scp), the response having
// the long form.
func (r Request) shortScope(s string) string { return strings.TrimPrefix(s, r.place()+"/") }

// allScopes tells that whatever has been consented to is asked for.
func (r Request) allScopes() bool {
	return len(r.Scopes) == 0 || len(r.Scopes) == 1 && r.shortScope(r.Scopes[0]) == allConsented
}
