package exchange

import (
	"encoding/base64"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
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
// only Value, Audience, Scopes and ExpiresIn are set, as asked or as the
// response said.
type Token struct {
	Value     string
	Audience  []string
	Scopes    []string
	Actors    []string // outermost `act` first: its sub, or else its client_id
	JTI       string
	Issuer    string
	Subject   string
	ExpiresIn time.Duration // the whole life; 0 if an opaque token's is not known
}

// expectation is what an answer must match beside the request itself.
type expectation struct {
	issuer string
	now    time.Time
	actors []string // names of this client, any of which `act` may carry
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
	case res.issuedTokenType != typeAccessToken && res.issuedTokenType != typeJWT:
		// RFC 8693 §2.2.1 requires it; another type is not meant to be sent to a
		// resource.
		return nil, fmt.Errorf("%w: issued_token_type", ErrTokenType)
	case res.hasExpiresIn && r.Lifetime > 0 && res.expiresIn > r.longest():
		return nil, fmt.Errorf("%w: expires_in is longer than asked for", ErrLifetime)
	case res.hasScope && !sameSet(splitScope(res.scope), r.Scopes):
		return nil, fmt.Errorf("%w: the response grants another", ErrScope)
	}
	jwt, isJWT := splitJWT(res.accessToken)
	if !isJWT {
		return checkOpaque(res, r)
	}
	return checkJWT(res, jwt, r, want)
}

type response struct {
	accessToken, issuedTokenType string
	scope                        string
	expiresIn                    time.Duration
	hasScope, hasExpiresIn       bool
}

// parseResponse reads a successful response of any grant (RFC 6749 §5.1).
func parseResponse(body []byte) (response, error) {
	var doc struct {
		AccessToken     string         `json:"access_token"`
		IssuedTokenType string         `json:"issued_token_type"`
		TokenType       string         `json:"token_type"`
		ExpiresIn       jsontext.Value `json:"expires_in"`
		Scope           *string        `json:"scope"`
	}
	if err := unmarshal(body, &doc); err != nil {
		return response{}, err
	}
	res := response{accessToken: doc.AccessToken, issuedTokenType: doc.IssuedTokenType}
	switch {
	case !visibleASCII(doc.AccessToken) || len(doc.AccessToken) > maxToken:
		return response{}, ErrToken
	case !strings.EqualFold(doc.TokenType, "Bearer"):
		return response{}, fmt.Errorf("%w: token_type is not Bearer", ErrTokenType)
	}
	if doc.Scope != nil {
		res.scope, res.hasScope = *doc.Scope, true
	}
	if doc.ExpiresIn != nil {
		n, err := strconv.ParseInt(string(doc.ExpiresIn), 10, 64)
		if err != nil || n <= 0 || n > int64(maxLife/time.Second) {
			return response{}, fmt.Errorf("%w: expires_in", ErrLifetime)
		}
		res.expiresIn, res.hasExpiresIn = time.Duration(n)*time.Second, true
	}
	return res, nil
}

func checkOpaque(res response, r Request) (*Token, error) {
	switch {
	case res.issuedTokenType == typeJWT:
		return nil, fmt.Errorf("%w: said to be a JWT", ErrTokenType)
	case !r.AllowOpaque:
		return nil, ErrOpaque
	case r.RequireAct:
		return nil, fmt.Errorf("%w: an opaque token does not show one", ErrActor)
	case r.Lifetime > 0 && !res.hasExpiresIn:
		return nil, fmt.Errorf("%w: no expires_in", ErrLifetime)
	}
	// An omitted scope is the one asked for (RFC 8693 §2.2.1).
	return &Token{
		Value: res.accessToken, Audience: []string{r.Audience}, Scopes: slices.Clone(r.Scopes), ExpiresIn: res.expiresIn,
	}, nil
}

type jwtParts struct{ header, payload []byte }

// splitJWT tells a JWT (JWS compact serialization) from an opaque token. What
// begins like one must then be one in every detail.
func splitJWT(token string) (jwtParts, bool) {
	part := strings.Split(token, ".")
	if len(part) != 3 {
		return jwtParts{}, false
	}
	header, err := base64.RawURLEncoding.DecodeString(part[0])
	if err != nil || len(header) == 0 || header[0] != '{' {
		return jwtParts{}, false
	}
	payload, err := base64.RawURLEncoding.DecodeString(part[1])
	if err != nil || part[2] == "" {
		payload = nil // a JWT with no readable claims: refused when decoded
	}
	return jwtParts{header: header, payload: payload}, true
}

// claims are the claims that the checks read (RFC 9068 §2.2). Expiry and the
// other times are numbers that may have a fraction (RFC 7519 §2).
type claims struct {
	Issuer    string         `json:"iss"`
	Subject   string         `json:"sub"`
	Audience  jsontext.Value `json:"aud"`
	Expiry    *float64       `json:"exp"`
	IssuedAt  *float64       `json:"iat"`
	NotBefore *float64       `json:"nbf"`
	JTI       string         `json:"jti"`
	Scope     jsontext.Value `json:"scope"`
	Scp       jsontext.Value `json:"scp"`
	Act       *act           `json:"act"`
}

type act struct {
	Subject  string `json:"sub"`
	ClientID string `json:"client_id"`
	Act      *act   `json:"act"`
}

func checkJWT(res response, jwt jwtParts, r Request, want expectation) (*Token, error) {
	var head struct {
		Alg string `json:"alg"`
	}
	if err := unmarshal(jwt.header, &head); err != nil {
		return nil, err
	}
	if head.Alg == "" || strings.EqualFold(head.Alg, "none") {
		return nil, fmt.Errorf("%w: a JWT without signature", ErrToken)
	}
	var c claims
	if err := unmarshal(jwt.payload, &c); err != nil {
		return nil, err
	}
	if c.Issuer != want.issuer {
		return nil, ErrIssuer
	}
	if c.Subject != r.Subject {
		return nil, ErrSubject
	}
	audience, err := checkAudience(c, r)
	if err != nil {
		return nil, err
	}
	scopes, err := checkScope(c, r)
	if err != nil {
		return nil, err
	}
	life, err := checkLifetime(c, r, want.now)
	if err != nil {
		return nil, err
	}
	actors, err := checkActor(c, r, want.actors)
	if err != nil {
		return nil, err
	}
	return &Token{
		Value: res.accessToken, Audience: audience, Scopes: scopes, Actors: actors,
		JTI: c.JTI, Issuer: c.Issuer, Subject: c.Subject, ExpiresIn: life,
	}, nil
}

func checkAudience(c claims, r Request) ([]string, error) {
	audience, err := oneOrMany(c.Audience)
	if err != nil {
		return nil, fmt.Errorf("aud: %w", err)
	}
	if !sameSet(audience, []string{r.Audience}) {
		return nil, ErrAudience
	}
	return audience, nil
}

// checkScope reads scope (RFC 9068 §2.2.3) and scp, as a string or an array. The
// upstream may read either, so all that is in either must have been asked for.
func checkScope(c claims, r Request) ([]string, error) {
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
	if !sameSet(granted, r.Scopes) {
		return nil, ErrScope
	}
	return slices.Clone(r.Scopes), nil
}

// checkLifetime holds a token to the lifetime from when it was issued and also
// from now, as an iat in the future would stretch it.
func checkLifetime(c claims, r Request, now time.Time) (time.Duration, error) {
	if c.Expiry == nil {
		return 0, fmt.Errorf("%w: no exp", ErrLifetime)
	}
	exp, err := numericDate(*c.Expiry)
	if err != nil {
		return 0, fmt.Errorf("exp: %w", err)
	}
	start, slack := now, time.Duration(0)
	if c.IssuedAt != nil {
		if start, err = numericDate(*c.IssuedAt); err != nil {
			return 0, fmt.Errorf("iat: %w", err)
		}
		slack = clockSkew
	}
	if c.NotBefore != nil {
		nbf, err := numericDate(*c.NotBefore)
		if err != nil || nbf.After(now.Add(clockSkew)) {
			return 0, fmt.Errorf("%w: nbf", ErrLifetime)
		}
	}
	life := exp.Sub(start)
	switch {
	case !exp.After(now):
		return 0, fmt.Errorf("%w: expired", ErrLifetime)
	case start.After(now.Add(clockSkew)), life <= 0, life > maxLife:
		return 0, fmt.Errorf("%w: iat", ErrLifetime)
	case r.Lifetime > 0 && (life > r.longest() || exp.Sub(now) > r.longest()+slack):
		return 0, fmt.Errorf("%w: longer than asked for", ErrLifetime)
	}
	return life, nil
}

func checkActor(c claims, r Request, us []string) ([]string, error) {
	if c.Act == nil {
		if r.RequireAct {
			return nil, fmt.Errorf("%w: none", ErrActor)
		}
		return nil, nil
	}
	if !r.Delegation {
		return nil, fmt.Errorf("%w: one, under impersonation", ErrActor)
	}
	isUs := func(name string) bool { return name != "" && slices.Contains(us, name) }
	if r.RequireAct && !isUs(c.Act.Subject) && !isUs(c.Act.ClientID) {
		return nil, fmt.Errorf("%w: not this client", ErrActor)
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

// oneOrMany reads a string or an array of strings; nothing for an absent claim.
func oneOrMany(v jsontext.Value) ([]string, error) {
	if v == nil {
		return nil, nil
	}
	if v.Kind() == '"' {
		var s string
		err := unmarshal(v, &s)
		return []string{s}, err
	}
	var list []string
	if v.Kind() != '[' || unmarshal(v, &list) != nil {
		return nil, ErrMalformed
	}
	return list, nil
}

// splitScope splits at the space alone, the one separator of RFC 6749 §3.3.
func splitScope(s string) []string {
	return slices.DeleteFunc(strings.Split(s, " "), func(s string) bool { return s == "" })
}

func sameSet(a, b []string) bool { return maps.Equal(set(a), set(b)) }

func set(list []string) map[string]bool {
	m := make(map[string]bool, len(list))
	for _, s := range list {
		m[s] = true
	}
	return m
}

func numericDate(v float64) (time.Time, error) {
	const year9999 = 253402300799
	if math.IsNaN(v) || v < 0 || v > year9999 {
		return time.Time{}, ErrLifetime
	}
	whole, fraction := math.Modf(v)
	return time.Unix(int64(whole), int64(fraction*1e9)), nil
}
