package exchange

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	grantExchange   = "urn:ietf:params:oauth:grant-type:token-exchange"
	typeAccessToken = "urn:ietf:params:oauth:token-type:access_token"
	typeJWT         = "urn:ietf:params:oauth:token-type:jwt"

	maxToken               = 16 << 10
	maxResource            = 2048
	maxAct                 = 4 << 10
	lifetimeRounding       = time.Second
	maxScopes, maxScopeLen = 256, 256
)

// Request is one exchange: what is asked, and what the answer must then be.
type Request struct {
	// SubjectToken is the caller's token, at most 16 KiB of visible ASCII. The
	// token that comes back must be another one.
	SubjectToken string
	// Subject is the verified `sub` of SubjectToken. The answer must keep it, or
	// the token would be somebody else's.
	Subject string
	// SubjectClaim names the claim of the answer that must equal Subject, for
	// servers that give a person another `sub` at each client (pairwise
	// identifiers, OpenID Connect Core §8.1). Default: sub. Subject then is
	// whatever the caller's own token has to say about that, such as its `oid` for
	// Entra ID's oid.
	SubjectClaim string

	// Audience is the logical name of the one place where the answer may be used
	// (RFC 8693 §2.1), Resource its address, an absolute URI without fragment (RFC
	// 8707 §2). One of them is required; both are sent if both are given.
	//
	// Every `aud` of the answer must be one of those: a token that is also good
	// elsewhere could be replayed there by the upstream that got it.
	Audience, Resource string
	// TokenAudience is the `aud` of the answer where the server has a third name
	// for that place. Nothing else is accepted then.
	TokenAudience string

	// Scopes are asked for exactly, and must be granted exactly: fewer would fail
	// at the upstream, more would be more than the tool needs. With none asked
	// for, none may be granted.
	//
	// With [Config.OnBehalfOf] a scope belongs to an audience, api://x/Read, and
	// may be given as Read. None, or .default alone, asks for all that has been
	// consented to: then, and only then, what is granted is recorded and not
	// compared. Entra ID tends to grant all of that whatever is asked for, which is
	// more than was asked for unless it was .default.
	Scopes []string
	// AllowNarrower accepts some of Scopes, though not none of them.
	AllowNarrower bool

	// Lifetime is the longest that the answer may live, in whole seconds, rounded
	// down but at least one. 0 asks for and checks nothing.
	Lifetime time.Duration
	// AcceptLonger takes a token that lives longer than that, and says so in
	// [Token.Longer], for servers that cannot be asked.
	AcceptLonger bool

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

	// RequireATJWT refuses a JWT whose typ is not at+jwt (RFC 9068 §2.1). Without
	// it typ may also be JWT or absent, but not that of another kind of token.
	RequireATJWT bool
	// AllowOpaque accepts a token that is not a JWT. All that can be checked of it
	// is what the response says: expires_in, which it must then have if Lifetime is
	// set, and scope.
	AllowOpaque bool

	// The rest says more about SubjectToken. It is not sent: a server reads the
	// token itself. What signs tokens here needs it (package sts), and so does
	// [Config.Reuse].

	// Agent is the client that SubjectToken was issued to (client_id).
	Agent string
	// Act is its `act` claim, as JSON of at most 4 KiB: who acted before.
	Act []byte
	// SubjectExpiry is its `exp`. Nothing is reused beyond it.
	SubjectExpiry time.Time
	// SubjectJTI is its `jti`, by which [Client.Drop] can find what was made of it.
	SubjectJTI string
	// Binding is what the call is bound to beside the token, such as the
	// thumbprint of a DPoP key (RFC 9449 §6.1). Nothing is reused across it.
	Binding string
}

// Validate reports what no server would accept, as an [*Error] that is Refused.
// Exchange does it first.
func (r Request) Validate() error {
	if err := r.validate(); err != nil {
		return &Error{Kind: Refused, Code: "invalid_request", Err: fmt.Errorf("%w: %w", ErrRequest, err)}
	}
	return nil
}

func (r Request) validate() error {
	switch {
	case !visibleASCII(r.SubjectToken):
		return errors.New("the subject token is empty or not visible ASCII")
	case len(r.SubjectToken) > maxToken:
		return fmt.Errorf("the subject token is longer than %d bytes", maxToken)
	case r.Subject == "":
		return errors.New("no subject")
	case !r.Delegation && (r.ActorToken || r.RequireAct):
		return errors.New("an actor is asked for without delegation")
	case len(r.Act) > maxAct:
		return fmt.Errorf("the subject token's act is longer than %d bytes", maxAct)
	}
	return r.validatePlace()
}

// validatePlace checks what is asked for, whoever asks.
func (r Request) validatePlace() error {
	switch {
	case r.Audience == "" && r.Resource == "":
		return errors.New("no audience")
	case r.Resource != "" && !isResource(r.Resource):
		return errors.New("the resource is not an absolute URI without fragment")
	case r.Lifetime < 0:
		return errors.New("a negative lifetime")
	case len(r.Scopes) > maxScopes:
		return fmt.Errorf("more than %d scopes", maxScopes)
	}
	for _, s := range r.Scopes {
		if !scopeToken(s) {
			return fmt.Errorf("%.32q is not a scope", s)
		}
	}
	return nil
}

func isResource(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.IsAbs() && len(s) <= maxResource && visibleASCII(s) && !strings.Contains(s, "#")
}

// audiences are what the `aud` of the answer may consist of.
func (r Request) audiences() []string {
	if r.TokenAudience != "" {
		return []string{r.TokenAudience}
	}
	return slices.DeleteFunc([]string{r.Audience, r.Resource}, func(s string) bool { return s == "" })
}

// place is the one that tokens are asked for, by whichever name there is.
func (r Request) place() string { return cmp.Or(r.Audience, r.Resource) }

// form is the request of RFC 8693 §2.1.
func (r Request) form(ttlParameter, actorToken string) url.Values {
	form := url.Values{
		"grant_type":           {grantExchange},
		"subject_token":        {r.SubjectToken},
		"subject_token_type":   {typeAccessToken},
		"requested_token_type": {typeAccessToken},
	}
	if r.Audience != "" {
		form.Set("audience", r.Audience)
	}
	if r.Resource != "" {
		form.Set("resource", r.Resource)
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

// tooLong tells whether a life is longer than asked for, by more than the one
// second of servers that round iat down and exp up.
func (r Request) tooLong(life time.Duration) bool {
	return r.Lifetime > 0 && life > r.wholeLifetime()+lifetimeRounding
}

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
