package exchange

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	grantExchange          = "urn:ietf:params:oauth:grant-type:token-exchange"
	typeAccessToken        = "urn:ietf:params:oauth:token-type:access_token"
	typeJWT                = "urn:ietf:params:oauth:token-type:jwt"
	maxToken               = 16 << 10
	lifetimeRounding       = time.Second
	maxScopes, maxScopeLen = 256, 256
)

// reserved are the parameters of the request that a TTLParameter must not
// overwrite.
var reserved = map[string]bool{
	"grant_type": true, "subject_token": true, "subject_token_type": true, "requested_token_type": true,
	"audience": true, "scope": true, "actor_token": true, "actor_token_type": true,
	"client_id": true, "client_secret": true, "resource": true,
}

// Request is one exchange: what is asked, and what the answer must then be.
type Request struct {
	// SubjectToken is the caller's token, at most 16 KiB of visible ASCII. The
	// token that comes back must be another one.
	SubjectToken string
	// Subject is the verified `sub` of SubjectToken. The answer must keep it, or
	// the token would be somebody else's.
	Subject string
	// Audience is the one place where the answer may be used. Every `aud` of the
	// answer must equal it: a token that is also good elsewhere could be
	// replayed there by the upstream that got it.
	Audience string
	// Scopes are asked for exactly, and must be granted exactly: fewer would fail
	// at the upstream, more would be more than the tool needs. With none asked
	// for, none may be granted.
	Scopes []string
	// Lifetime is the longest that the answer may live, in whole seconds, rounded
	// down but at least one. 0 asks for and checks nothing.
	Lifetime time.Duration
	// Delegation says that the answer may name who acts for the subject (`act`,
	// RFC 8693 §4.1). Without it (impersonation) an answer with an actor is not
	// acceptable.
	Delegation bool
	// ActorToken sends an access token of this client's own, got by the client
	// credentials grant, as actor_token. Otherwise the server takes the
	// authenticated client as the actor. Only with Delegation.
	ActorToken bool
	// RequireAct refuses an answer that does not name this client as the outermost
	// actor: by the client's id, or by the subject of its actor token.
	RequireAct bool
	// AllowOpaque accepts a token that is not a JWT. All that can be checked of it
	// is what the response says: expires_in, which it must then have if Lifetime is
	// set, and scope.
	AllowOpaque bool
}

func (r Request) validate() error {
	switch {
	case !visibleASCII(r.SubjectToken):
		return errors.New("the subject token is empty or not visible ASCII")
	case len(r.SubjectToken) > maxToken:
		return fmt.Errorf("the subject token is longer than %d bytes", maxToken)
	case r.Subject == "":
		return errors.New("no subject")
	case r.Audience == "":
		return errors.New("no audience")
	case r.Lifetime < 0:
		return errors.New("a negative lifetime")
	case len(r.Scopes) > maxScopes:
		return fmt.Errorf("more than %d scopes", maxScopes)
	case !r.Delegation && (r.ActorToken || r.RequireAct):
		return errors.New("an actor is asked for without delegation")
	}
	for _, s := range r.Scopes {
		if !scopeToken(s) {
			return fmt.Errorf("%.32q is not a scope", s)
		}
	}
	return nil
}

// form is the request of RFC 8693 §2.1.
func (r Request) form(ttlParameter, actorToken string) url.Values {
	form := url.Values{
		"grant_type":           {grantExchange},
		"subject_token":        {r.SubjectToken},
		"subject_token_type":   {typeAccessToken},
		"requested_token_type": {typeAccessToken},
		"audience":             {r.Audience},
	}
	if len(r.Scopes) > 0 {
		form.Set("scope", strings.Join(r.Scopes, " "))
	}
	if r.Lifetime > 0 && ttlParameter != noTTLParameter {
		form.Set(ttlParameter, strconv.FormatInt(int64(r.wholeLifetime()/time.Second), 10))
	}
	if actorToken != "" {
		form.Set("actor_token", actorToken)
		form.Set("actor_token_type", typeAccessToken)
	}
	return form
}

func (r Request) wholeLifetime() time.Duration {
	return max(r.Lifetime.Truncate(time.Second), time.Second)
}

// longest is the longest acceptable life: that asked for, and one second for
// servers that round iat down and exp up.
func (r Request) longest() time.Duration { return r.wholeLifetime() + lifetimeRounding }

func visibleASCII(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return s != ""
}

// scopeToken is the syntax of RFC 6749 §3.3.
func scopeToken(s string) bool {
	return visibleASCII(s) && len(s) <= maxScopeLen && !strings.ContainsAny(s, `"\`)
}
