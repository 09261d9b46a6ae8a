package sts

import (
	"crypto/sha256"
	"crypto/subtle"
	"io"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	methodBasic = "client_secret_basic"
	methodPost  = "client_secret_post"
	methodNone  = "none"
)

var (
	challengeSyntax = regexp.MustCompile(`^[A-Za-z0-9_-]{43}$`)       // SHA-256, RFC 7636 §4.2
	verifierSyntax  = regexp.MustCompile(`^[A-Za-z0-9._~-]{43,128}$`) // RFC 7636 §4.1
)

// family is a chain of refresh tokens, of which only the last is alive. A token
// is the family's key and a secret; an older one, used again, was stolen from
// somebody, and ends the family (OAuth 2.1 §4.3.1).
type family struct {
	client string
	grant  grant
	secret string // hash of the token that is alive
}

// response is a successful answer (RFC 6749 §5.1, RFC 8693 §2.2.1).
type response struct {
	AccessToken     string `json:"access_token"`
	IssuedTokenType string `json:"issued_token_type,omitempty"`
	TokenType       string `json:"token_type"`
	ExpiresIn       int64  `json:"expires_in"`
	Scope           string `json:"scope"`
	RefreshToken    string `json:"refresh_token,omitempty"`
}

// token is the token endpoint (RFC 6749 §3.2).
func (s *Server) token(w http.ResponseWriter, r *http.Request) {
	res, fail := s.answer(r)
	if fail != nil {
		s.cfg.Log.Info("token request refused", "error", fail.Code, "description", fail.Description)
		fail.write(w)
		return
	}
	writeJSON(w, http.StatusOK, res)
}

func (s *Server) answer(r *http.Request) (*response, *oauthError) {
	q, fail := readForm(r)
	if fail != nil {
		return nil, fail
	}
	client, fail := s.authenticate(r, q)
	if fail != nil {
		return nil, fail
	}
	grantType := q.get("grant_type")
	handlers := map[string]func(Client, form) (*response, *oauthError){
		GrantCode: s.redeem, GrantRefresh: s.refresh, GrantCredentials: s.credentials, GrantExchange: s.exchange,
	}
	handle, known := handlers[grantType]
	switch {
	case grantType == "":
		return nil, refuse("invalid_request", "no grant_type")
	case !known:
		return nil, refuse("unsupported_grant_type", "unknown grant_type")
	case !slices.Contains(client.Grants, grantType):
		return nil, refuse("unauthorized_client", "the client may not use this grant")
	}
	return handle(client, q)
}

// authenticate finds the client (RFC 6749 §2.3) and, unless it is public, checks
// its secret. Which of the two was wrong is not told.
func (s *Server) authenticate(r *http.Request, q form) (Client, *oauthError) {
	id, secret := q.get("client_id"), q.get("client_secret")
	challenge := false
	if r.Header.Get("Authorization") != "" {
		user, password, ok := r.BasicAuth()
		name, errName := url.QueryUnescape(user)
		pass, errPass := url.QueryUnescape(password)
		switch {
		case !ok || errName != nil || errPass != nil:
			return Client{}, badClient(true)
		case secret != "" || id != "" && id != name:
			return Client{}, refuse("invalid_request", "two ways of client authentication")
		}
		id, secret, challenge = name, pass, true
	}
	client, known := s.client(id)
	match := sameText(client.Secret, secret)
	switch {
	case known && client.Public && secret == "" && !challenge:
		return client, nil
	case known && !client.Public && match:
		return client, nil
	}
	return Client{}, badClient(challenge)
}

func (s *Server) client(id string) (Client, bool) {
	if c, ok := s.clients[id]; ok {
		return c, true
	}
	return s.registered.get(id, s.cfg.Now())
}

// redeem is the authorization code grant (OAuth 2.1 §4.1.3). A code dies with
// its first use, even a wrong one; a second use also ends what the first began.
func (s *Server) redeem(client Client, q form) (*response, *oauthError) {
	now := s.cfg.Now()
	key := hash(q.get("code"))
	c, ok := s.codes.update(key, now, time.Time{}, func(c *code) { c.uses++ })
	if ok && c.uses > 0 {
		s.families.remove(c.family)
		return nil, refuse("invalid_grant", "the code was used before")
	}
	verifier := q.get("code_verifier")
	sum := sha256.Sum256([]byte(verifier))
	switch {
	case !ok:
		return nil, refuse("invalid_grant", "unknown or expired code")
	case c.client != client.ID || c.redirect != q.get("redirect_uri"):
		return nil, refuse("invalid_grant", "the code is another client's or another redirect_uri's")
	case !verifierSyntax.MatchString(verifier) || !sameText(b64(sum[:]), c.challenge):
		return nil, refuse("invalid_grant", "code_verifier does not match")
	}
	if fail := sameResource(q, c.grant); fail != nil {
		return nil, fail
	}
	res, fail := s.userToken(client, c.grant)
	if fail != nil || !slices.Contains(client.Grants, GrantRefresh) {
		return res, fail
	}
	if res.RefreshToken, fail = s.newFamily(client, c); fail != nil {
		return nil, fail
	}
	if c, ok = s.codes.get(key, now); ok && c.uses > 1 { // a second use, meanwhile
		s.families.remove(c.family)
		return nil, refuse("invalid_grant", "the code was used before")
	}
	return res, nil
}

// newFamily begins a chain of refresh tokens. When there are too many, the client
// gets none and signs its user in again later.
func (s *Server) newFamily(client Client, c code) (string, *oauthError) {
	secret, err := s.randomText()
	if err != nil {
		return "", s.internal(err)
	}
	now := s.cfg.Now()
	f := family{client: client.ID, grant: c.grant, secret: hash(secret)}
	if s.families.put(c.family, f, now, now.Add(s.cfg.RefreshTokenLifetime)) != nil {
		return "", nil
	}
	return c.family + "." + secret, nil
}

// refresh is the refresh token grant (OAuth 2.1 §4.3): each token works once.
func (s *Server) refresh(client Client, q form) (*response, *oauthError) {
	id, secret, _ := strings.Cut(q.get("refresh_token"), ".")
	now := s.cfg.Now()
	next, err := s.randomText()
	if err != nil {
		return nil, s.internal(err)
	}
	f, ok := s.families.get(id, now)
	if !ok || f.client != client.ID {
		return nil, refuse("invalid_grant", "unknown or expired refresh token")
	}
	if fail := sameResource(q, f.grant); fail != nil {
		return nil, fail
	}
	g := f.grant
	if asked := splitScope(q.get("scope")); len(asked) > 0 {
		if !subset(asked, g.scopes) {
			return nil, refuse("invalid_scope", "wider than what was granted")
		}
		g.scopes = asked
	}
	used := hash(secret)
	f, ok = s.families.update(id, now, now.Add(s.cfg.RefreshTokenLifetime), func(f *family) {
		if sameText(f.secret, used) {
			f.secret = hash(next)
		}
	})
	if !ok || !sameText(f.secret, used) {
		s.families.remove(id)
		return nil, refuse("invalid_grant", "the refresh token was used before")
	}
	res, fail := s.userToken(client, g)
	if fail != nil {
		return nil, fail
	}
	res.RefreshToken = id + "." + next
	return res, nil
}

// credentials is the client credentials grant (RFC 6749 §4.4). A client gets the
// scopes that it asks for, and none without asking.
func (s *Server) credentials(client Client, q form) (*response, *oauthError) {
	audience, fail := s.ownTarget(client, q)
	if fail != nil {
		return nil, fail
	}
	scopes := splitScope(q.get("scope"))
	if !subset(scopes, client.Scopes) {
		return nil, refuse("invalid_scope", "not the client's")
	}
	life, fail := askedLife(q, s.cfg.AccessTokenLifetime)
	if fail != nil {
		return nil, fail
	}
	return s.issue(client.ID, grant{subject: client.ID, scopes: scopes, audience: audience}, life, nil)
}

// ownTarget is the one place that a client asks a token of its own for, by name or
// by URI: a resource, or what it may exchange tokens for.
func (s *Server) ownTarget(client Client, q form) (string, *oauthError) {
	asked := slices.Compact(slices.Sorted(slices.Values(slices.Concat(q["audience"], q["resource"]))))
	switch {
	case len(asked) == 0:
		return s.cfg.DefaultAudience, nil
	case len(asked) > 1:
		return "", refuse("invalid_target", "one audience or resource at a time")
	case asked[0] == s.cfg.DefaultAudience || slices.Contains(s.cfg.Resources, asked[0]) || slices.Contains(client.Exchange.Audiences, asked[0]):
		return asked[0], nil
	}
	return "", refuse("invalid_target", "unknown resource")
}

func (s *Server) userToken(client Client, g grant) (*response, *oauthError) {
	return s.issue(client.ID, g, s.cfg.AccessTokenLifetime, maps.Clone(s.users[g.subject].Claims))
}

// issue signs one access token (RFC 9068 §2.2) that lives whole seconds.
func (s *Server) issue(clientID string, g grant, life time.Duration, claims jwt.MapClaims) (*response, *oauthError) {
	jti, err := s.randomText()
	if err != nil {
		return nil, s.internal(err)
	}
	if claims == nil {
		claims = jwt.MapClaims{}
	}
	now, seconds := s.cfg.Now().Unix(), int64(life/time.Second)
	scope := strings.Join(g.scopes, " ")
	maps.Copy(claims, jwt.MapClaims{
		"iss": s.cfg.Issuer, "sub": g.subject, "aud": g.audience, "client_id": clientID, "scope": scope,
		"iat": now, "exp": now + seconds, "jti": jti,
	})
	token, err := s.signer.sign(claims)
	if err != nil {
		return nil, s.internal(err)
	}
	s.issued.Add(1)
	return &response{AccessToken: token, TokenType: "Bearer", ExpiresIn: seconds, Scope: scope}, nil
}

func sameResource(q form, g grant) *oauthError {
	for _, asked := range q["resource"] {
		if asked != g.audience {
			return refuse("invalid_target", "not the resource of the authorization")
		}
	}
	return nil
}

// randomText is 128 bits as text.
func (s *Server) randomText() (string, error) {
	var b [16]byte
	if _, err := io.ReadFull(s.cfg.Rand, b[:]); err != nil {
		return "", err
	}
	return b64(b[:]), nil
}

// hash keeps codes and refresh tokens out of memory, and lookups from telling by
// their time how much of a key was right.
func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return b64(sum[:])
}

// sameText compares in a time that does not depend on where, or on how long.
func sameText(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

func subset(a, b []string) bool {
	return !slices.ContainsFunc(a, func(s string) bool { return !slices.Contains(b, s) })
}

// splitScope splits at the space alone (RFC 6749 §3.3) and drops repetitions.
func splitScope(s string) []string {
	list := strings.Split(s, " ")
	slices.Sort(list)
	return slices.DeleteFunc(slices.Compact(list), func(s string) bool { return s == "" })
}

func allScopes(list []string) bool {
	return !slices.ContainsFunc(list, func(s string) bool { return !scopeSyntax.MatchString(s) })
}

var scopeSyntax = regexp.MustCompile(`^[\x21\x23-\x5b\x5d-\x7e]{1,256}$`)
