package exchange

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

const (
	clockSkew = 30 * time.Second // between the server's clock and ours, for iat and nbf
	maxActors = 10
	maxLife   = 10 * 365 * 24 * time.Hour // more is a mistake, or meant to overflow
)

// Token is an accepted token and what it was found to say. For an opaque token
// Actors, JTI, Issuer and Subject are empty, and the rest is as asked or as the
// response said. A Token is shared if it is reused: read it, never change it.
type Token struct {
	Value     string
	Audience  []string
	Scopes    []string
	Actors    []string // outermost `act` first: its sub, or else its client_id
	JTI       string
	Issuer    string
	Subject   string        // its sub, even where [Request.SubjectClaim] is another claim
	ExpiresIn time.Duration // the whole life; 0 if an opaque token's is not known
	Expiry    time.Time     // zero if an opaque token's is not known

	Longer   bool // it lives longer than asked for, see [Request.AcceptLonger]
	Narrower bool // it has not all the scopes asked for, see [Request.AllowNarrower]
	Reused   bool // it was not made for this call alone, see [Config.Reuse]
}

// expectation is what an answer must match beside the request itself.
type expectation struct {
	issuer     string
	asked, now time.Time // when the request was sent, and when the answer was in
	actors     []string  // names of this client, any of which `act` may carry
	onBehalfOf bool
	own        bool // this client's own token, by another grant than an exchange
}

// check decides whether the body of a 200 is an answer to r (RFC 8693 §2.2.1).
func check(body []byte, r Request, want expectation) (*Token, error) {
	res, err := parseResponse(body)
	if err != nil {
		return nil, err
	}
	switch {
	case res.accessToken == r.SubjectToken:
		return nil, ErrSameToken
	case !want.onBehalfOf && !want.own && res.issuedTokenType != typeAccessToken && res.issuedTokenType != typeJWT:
		// RFC 8693 §2.2.1 requires it; another type is not meant to be sent to a
		// resource.
		return nil, fmt.Errorf("%w: issued_token_type", ErrTokenType)
	case res.hasExpiresIn && r.tooLong(res.expiresIn) && !r.AcceptLonger:
		return nil, fmt.Errorf("expires_in: %w", ErrLifetimeLonger)
	}
	token := &Token{Value: res.accessToken, Audience: r.audiences(), Scopes: r.Scopes}
	if res.hasScope {
		if token.Scopes, err = checkScopes(splitScope(res.scope), r, want); err != nil {
			return nil, fmt.Errorf("the response: %w", err)
		}
	}
	jwt, isJWT := splitJWT(res.accessToken)
	if isJWT {
		err = token.checkJWT(res, jwt, r, want)
	} else {
		err = token.checkOpaque(res, r, want)
	}
	if err != nil {
		return nil, err
	}
	token.Scopes = slices.Clone(token.Scopes)
	token.Longer = r.tooLong(token.ExpiresIn) || res.hasExpiresIn && r.tooLong(res.expiresIn)
	token.Narrower = len(set(token.Scopes)) < len(set(r.Scopes)) && (!want.onBehalfOf || !r.allScopes())
	return token, nil
}

// checkOpaque relies on an omitted scope being the one asked for (RFC 8693
// §2.2.1).
func (t *Token) checkOpaque(res response, r Request, want expectation) error {
	switch {
	case res.issuedTokenType == typeJWT:
		return fmt.Errorf("%w: said to be a JWT", ErrTokenType)
	case !r.AllowOpaque:
		return ErrOpaque
	case r.RequireAct:
		return fmt.Errorf("%w: an opaque token does not show one", ErrActorMissing)
	case r.Lifetime > 0 && !res.hasExpiresIn:
		return fmt.Errorf("%w: no expires_in", ErrLifetime)
	}
	if res.hasExpiresIn {
		t.ExpiresIn, t.Expiry = res.expiresIn, want.asked.Add(res.expiresIn)
	}
	return nil
}

func (t *Token) checkJWT(res response, jwt jwtParts, r Request, want expectation) error {
	if err := checkHeader(jwt.header, r.RequireATJWT); err != nil {
		return err
	}
	var c claims
	if err := unmarshal(jwt.payload, &c); err != nil {
		return err
	}
	if c.Issuer != want.issuer {
		return ErrIssuer
	}
	subject := c.Subject
	if r.SubjectClaim != "" {
		subject = textClaim(jwt.payload, r.SubjectClaim)
	}
	if subject != r.Subject && !want.own {
		return ErrSubject
	}
	t.JTI, t.Issuer, t.Subject = c.JTI, c.Issuer, c.Subject
	var err error
	if t.Audience, err = checkAudience(c, r); err != nil {
		return err
	}
	if t.Scopes, err = checkClaimedScopes(c, r, want); err != nil {
		return err
	}
	if t.ExpiresIn, t.Expiry, err = checkLifetime(c, r, want.now); err != nil {
		return err
	}
	if said := want.asked.Add(res.expiresIn); res.hasExpiresIn && said.Before(t.Expiry) {
		t.Expiry = said
	}
	t.Actors, err = checkActor(c, r, want.actors)
	return err
}

func checkAudience(c claims, r Request) ([]string, error) {
	audience, err := oneOrMany(c.Audience)
	if err != nil {
		return nil, fmt.Errorf("aud: %w", err)
	}
	if may := r.audiences(); len(audience) == 0 || !subset(set(audience), set(may)) {
		return nil, ErrAudience
	}
	return audience, nil
}

// checkClaimedScopes reads scope (RFC 9068 §2.2.3) and scp, as a string or an
// array. The upstream may read either, so all that is in either must have been
// asked for.
func checkClaimedScopes(c claims, r Request, want expectation) ([]string, error) {
	var granted []string
	for _, v := range []jsontext.Value{c.Scope, c.Scp} {
		list, err := oneOrMany(v)
		if err != nil {
			return nil, fmt.Errorf("scope: %w", err)
		}
		for _, s := range list {
			granted = append(granted, splitScope(s)...)
		}
	}
	return checkScopes(granted, r, want)
}

// checkScopes returns those of r that were granted, or all that were if r is not
// particular.
func checkScopes(granted []string, r Request, want expectation) ([]string, error) {
	asked, name := r.Scopes, func(s string) string { return s }
	if want.onBehalfOf {
		name = r.shortScope
	}
	has, may := map[string]bool{}, map[string]bool{}
	for _, s := range granted {
		has[name(s)] = true
	}
	for _, s := range asked {
		may[name(s)] = true
	}
	switch {
	case want.onBehalfOf && r.allScopes():
		return slices.Sorted(maps.Keys(has)), nil
	case !subset(has, may):
		return nil, ErrScopeWider
	case len(has) == len(may):
		return asked, nil
	case !r.AllowNarrower || len(has) == 0:
		return nil, ErrScopeNarrower
	}
	return slices.DeleteFunc(slices.Clone(asked), func(s string) bool { return !has[name(s)] }), nil
}

// checkLifetime holds a token to the lifetime from when it was issued and also
// from now, as an iat in the future would stretch it.
func checkLifetime(c claims, r Request, now time.Time) (life time.Duration, exp time.Time, err error) {
	if c.Expiry == nil {
		return 0, exp, fmt.Errorf("%w: no exp", ErrLifetime)
	}
	if exp, err = numericDate("exp", *c.Expiry); err != nil {
		return 0, exp, err
	}
	start, slack := now, time.Duration(0)
	if c.IssuedAt != nil {
		if start, err = numericDate("iat", *c.IssuedAt); err != nil {
			return 0, exp, err
		}
		slack = clockSkew
	}
	if c.NotBefore != nil {
		nbf, err := numericDate("nbf", *c.NotBefore)
		if err != nil || nbf.After(now.Add(clockSkew)) {
			return 0, exp, fmt.Errorf("%w: nbf", ErrLifetime)
		}
	}
	life = exp.Sub(start)
	switch {
	case !exp.After(now):
		return 0, exp, ErrExpired
	case start.After(now.Add(clockSkew)), life <= 0, life > maxLife:
		return 0, exp, fmt.Errorf("%w: iat", ErrLifetime)
	case !r.AcceptLonger && (r.tooLong(life) || r.tooLong(exp.Sub(now)-slack)):
		return 0, exp, ErrLifetimeLonger
	}
	return life, exp, nil
}

func checkActor(c claims, r Request, us []string) ([]string, error) {
	if c.Act == nil {
		if r.RequireAct {
			return nil, ErrActorMissing
		}
		return nil, nil
	}
	if !r.Delegation {
		return nil, ErrActorUnwanted
	}
	isUs := func(name string) bool { return name != "" && slices.Contains(us, name) }
	if r.RequireAct && !isUs(c.Act.Subject) && !isUs(c.Act.ClientID) {
		return nil, ErrActorOther
	}
	var actors []string
	for a := c.Act; a != nil; a = a.Act {
		name := a.Subject
		if name == "" {
			name = a.ClientID
		}
		if actors = append(actors, name); len(actors) > maxActors {
			return nil, fmt.Errorf("%w: a chain longer than %d", ErrActor, maxActors)
		}
	}
	return actors, nil
}

// splitScope splits at the space alone, the one separator of RFC 6749 §3.3.
func splitScope(s string) []string {
	return slices.DeleteFunc(strings.Split(s, " "), func(s string) bool { return s == "" })
}

func set(list []string) map[string]bool {
	m := make(map[string]bool, len(list))
	for _, s := range list {
		m[s] = true
	}
	return m
}

func subset(a, b map[string]bool) bool {
	for s := range a {
		if !b[s] {
			return false
		}
	}
	return true
}
