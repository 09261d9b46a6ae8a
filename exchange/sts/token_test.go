package sts_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/exchange/sts"
)

const (
	typeAccess = "urn:ietf:params:oauth:token-type:access_token"
	typeJWT    = "urn:ietf:params:oauth:token-type:jwt"
)

func TestClientCredentials(t *testing.T) {
	s := start(t)
	form := url.Values{"grant_type": {sts.GrantCredentials}, "scope": {"item:Read"}}
	r := s.token("gateway", secret, form)
	c := s.claims(r.Access)
	if r.Fresh != "" || c["sub"] != "gateway" || c["client_id"] != "gateway" || c["aud"] != gateway || c["scope"] != "item:Read" {
		t.Errorf("%s: %v", r.raw, c)
	}
	if got := s.token("gateway", secret, with(form, url.Values{"scope": nil})).Scope; got != "" {
		t.Errorf("scope without asking: %q", got)
	}
	wantError(t, s.token("gateway", secret, with(form, url.Values{"scope": {"mcp:use"}})), 400, "invalid_scope")
	ask := func(change url.Values) reply {
		return s.token("gateway", secret, with(url.Values{"grant_type": {sts.GrantCredentials}}, change))
	}
	for _, name := range []string{"resource", "audience"} { // where it may exchange tokens to, it may go by itself
		r := ask(url.Values{name: {tickets}, "requested_expires_in": {"7"}})
		if c := s.claims(r.Access); c["aud"] != tickets || r.Expiry != 7 {
			t.Errorf("%s: %v", name, c)
		}
		wantError(t, ask(url.Values{name: {"http://elsewhere.example/"}}), 400, "invalid_target")
	}
	wantError(t, ask(url.Values{"resource": {tickets}, "audience": {gateway}}), 400, "invalid_target")
	wantError(t, ask(url.Values{"requested_expires_in": {"0"}}), 400, "invalid_request")
	wantError(t, s.token("web", "web secret", form), 400, "unauthorized_client")
}

func TestClientAuthentication(t *testing.T) {
	s := start(t)
	form := func(change url.Values) url.Values {
		return with(url.Values{"grant_type": {sts.GrantCredentials}}, change)
	}
	for name, r := range map[string]reply{
		"basic":          s.token("gateway", secret, form(nil)),
		"basic and name": s.token("gateway", secret, form(url.Values{"client_id": {"gateway"}})),
		"post":           s.token("", "", form(url.Values{"client_id": {"gateway"}, "client_secret": {secret}})),
	} {
		if r.status != http.StatusOK {
			t.Errorf("%s: %s", name, r.raw)
		}
	}
	for name, r := range map[string]reply{
		"wrong secret":     s.token("gateway", "x", form(nil)),
		"no secret":        s.token("gateway", "", form(nil)),
		"unknown":          s.token("nobody", "", form(nil)),
		"public by basic":  s.token("agent", "", form(nil)),
		"post, wrong":      s.token("", "", form(url.Values{"client_id": {"gateway"}, "client_secret": {"x"}})),
		"post, none":       s.token("", "", form(url.Values{"client_id": {"gateway"}})),
		"public, a secret": s.token("", "", form(url.Values{"client_id": {"agent"}, "client_secret": {"x"}})),
		"nobody":           s.token("", "", form(nil)),
	} {
		t.Run(name, func(t *testing.T) { wantError(t, r, 401, "invalid_client") })
	}
	if r := s.token("gateway", "x", form(nil)); !strings.HasPrefix(r.header.Get("WWW-Authenticate"), "Basic ") {
		t.Error("no challenge to Basic") // RFC 6749 §5.2
	}
	wantError(t, s.token("gateway", secret, form(url.Values{"client_secret": {secret}})), 400, "invalid_request")
	wantError(t, s.token("gateway", secret, form(url.Values{"client_id": {"web"}})), 400, "invalid_request")
}

func TestTokenRequests(t *testing.T) {
	s := start(t)
	const encoded = "application/x-www-form-urlencoded"
	tests := []struct {
		name, contentType, body, want string
	}{
		{"JSON", "application/json", "{}", "invalid_request"},
		{"no type", "", "grant_type=refresh_token", "invalid_request"},
		{"too large", encoded, "a=" + strings.Repeat("x", 65<<10), "invalid_request"},
		{"malformed", encoded, "a=%zz", "invalid_request"},
		{"repeated", encoded, "client_id=agent&client_id=agent", "invalid_request"},
		{"no grant", encoded, "client_id=agent", "invalid_request"},
		{"unknown grant", encoded, "client_id=agent&grant_type=password", "unsupported_grant_type"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			wantError(t, s.do(s.request("POST", "/token", tt.contentType, tt.body)), 400, tt.want)
		})
	}
	if r := s.do(s.request("GET", "/token?grant_type=x", "", "")); r.status != http.StatusMethodNotAllowed {
		t.Errorf("GET: %d", r.status)
	}
	query := s.request("POST", "/token?client_id=agent&grant_type=refresh_token", encoded, "")
	wantError(t, s.do(query), 401, "invalid_client") // nothing is read from the URL
}

func exchangeForm(subject string, change url.Values) url.Values {
	return with(url.Values{
		"grant_type": {sts.GrantExchange}, "subject_token": {subject}, "subject_token_type": {typeAccess},
		"requested_token_type": {typeAccess}, "audience": {tickets}, "scope": {"item:List"}, "requested_expires_in": {"5"},
	}, change)
}

func TestExchange(t *testing.T) {
	s := start(t)
	alice, bob := s.login("alice").Access, s.login("bob").Access
	own := s.token("gateway", secret, url.Values{"grant_type": {sts.GrantCredentials}}).Access
	again := s.token("gateway", secret, exchangeForm(alice, url.Values{"audience": {gateway}, "scope": nil, "requested_expires_in": nil})).Access
	delegated := map[string]any{"sub": "gateway", "act": map[string]any{"sub": "agent"}} // the agent stays visible
	tests := []struct {
		name           string
		client, secret string
		subject        string
		change         url.Values
		want           jwt.MapClaims // beside iss, iat, exp, jti
		life           float64
	}{
		{
			"delegation", "gateway", secret, alice, nil,
			jwt.MapClaims{"sub": "alice", "scope": "item:List", "client_id": "gateway", "email": "alice@example.com", "act": delegated}, 5,
		},
		{
			"resource and no scope", "gateway", secret, alice, url.Values{"audience": nil, "resource": {tickets}, "scope": nil},
			jwt.MapClaims{"sub": "alice", "scope": "", "client_id": "gateway", "email": "alice@example.com", "act": delegated}, 5,
		},
		{
			"the client's longest", "gateway", secret, alice, url.Values{"requested_expires_in": {"3600"}, "requested_token_type": nil},
			jwt.MapClaims{"sub": "alice", "scope": "item:List", "client_id": "gateway", "email": "alice@example.com", "act": delegated}, 60,
		},
		{
			"actor token, may_act spent", "gateway", secret, bob, url.Values{"actor_token": {own}, "actor_token_type": {typeAccess}, "subject_token_type": {typeJWT}},
			jwt.MapClaims{"sub": "bob", "scope": "item:List", "client_id": "gateway", "act": delegated}, 5,
		},
		{
			"chain", "gateway", secret, again, nil,
			jwt.MapClaims{
				"sub": "alice", "scope": "item:List", "client_id": "gateway", "email": "alice@example.com",
				"act": map[string]any{"sub": "gateway", "act": delegated},
			}, 5,
		},
		{
			"impersonation", "mask", "mask", again, nil,
			jwt.MapClaims{"sub": "alice", "scope": "item:List", "client_id": "mask", "email": "alice@example.com"}, 5,
		},
		{
			"agent by itself", "gateway", secret, own, nil,
			jwt.MapClaims{"sub": "gateway", "scope": "item:List", "client_id": "gateway", "act": map[string]any{"sub": "gateway"}}, 5,
		},
	}
	before := s.Exchanges()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := s.token(tt.client, tt.secret, exchangeForm(tt.subject, tt.change))
			if r.status != http.StatusOK || r.Issued != typeAccess || r.Type != "Bearer" || float64(r.Expiry) != tt.life || r.Scope != tt.want["scope"] || r.Fresh != "" {
				t.Fatalf("got %d %s", r.status, r.raw)
			}
			got := s.claims(r.Access)
			if life := got["exp"].(float64) - got["iat"].(float64); life != tt.life {
				t.Errorf("lives %v s", life)
			}
			want := maps.Clone(tt.want)
			maps.Copy(want, jwt.MapClaims{"iss": s.url, "aud": tickets, "iat": got["iat"], "exp": got["exp"], "jti": got["jti"]})
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	if n := s.Exchanges() - before; n != uint64(len(tests)) {
		t.Errorf("counted %d", n)
	}
}

func TestExchangeRefusals(t *testing.T) {
	s := start(t)
	other := start(t)
	alice, carol := s.login("alice").Access, s.login("carol").Access
	elsewhere := s.token("", "", codeForm(s.authorize(url.Values{"resource": {"http://other.example/"}}).Get("code"), nil)).Access
	deep := alice
	for range 4 { // the agent is the first of five
		deep = s.token("gateway", secret, exchangeForm(deep, url.Values{"audience": {gateway}, "scope": nil, "requested_expires_in": nil})).Access
		if deep == "" {
			t.Fatal("five actors are allowed")
		}
	}
	tests := []struct {
		name    string
		subject string
		change  url.Values
		want    string
	}{
		{"no subject token", "", nil, "invalid_request"},
		{"garbage", "x.y.z", nil, "invalid_request"},
		{"unsigned", alice[:strings.LastIndex(alice, ".")+1], nil, "invalid_request"},
		{"alg none", unsecured(t, s.claims(alice)), nil, "invalid_request"},
		{"another server's", other.login("alice").Access, nil, "invalid_request"},
		{"meant for another", elsewhere, nil, "invalid_request"},
		{"id_token type", alice, url.Values{"subject_token_type": {"urn:ietf:params:oauth:token-type:id_token"}}, "invalid_request"},
		{"no type", alice, url.Values{"subject_token_type": nil}, "invalid_request"},
		{"refresh token wanted", alice, url.Values{"requested_token_type": {"urn:ietf:params:oauth:token-type:refresh_token"}}, "invalid_request"},
		{"unknown audience", alice, url.Values{"audience": {"http://bank.example/"}}, "invalid_target"},
		{"no audience", alice, url.Values{"audience": nil}, "invalid_target"},
		{"two audiences", alice, url.Values{"audience": {tickets, gateway}}, "invalid_target"},
		{"audience and another resource", alice, url.Values{"resource": {gateway}}, "invalid_target"},
		{"scope of another", alice, url.Values{"scope": {"item:List mcp:use"}}, "invalid_scope"},
		{"lifetime", alice, url.Values{"requested_expires_in": {"0"}}, "invalid_request"},
		{"negative lifetime", alice, url.Values{"requested_expires_in": {"-5"}}, "invalid_request"},
		{"may_act", carol, nil, "invalid_request"},
		{"actor token of another client", alice, url.Values{"actor_token": {alice}, "actor_token_type": {typeAccess}}, "invalid_request"},
		{"actor token without type", alice, url.Values{"actor_token": {alice}}, "invalid_request"},
		{"type without actor token", alice, url.Values{"actor_token_type": {typeAccess}}, "invalid_request"},
		{"too many actors", deep, nil, "invalid_request"},
	}
	before := s.Exchanges()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			wantError(t, s.token("gateway", secret, exchangeForm(tt.subject, tt.change)), 400, tt.want)
		})
	}
	wantError(t, s.token("mask", "mask", exchangeForm(carol, nil)), 400, "invalid_request") // may_act binds impersonators too
	wantError(t, s.token("web", "web secret", exchangeForm(alice, nil)), 400, "unauthorized_client")
	wantError(t, s.token("gateway", "x", exchangeForm(alice, nil)), 401, "invalid_client")
	s.clock.advance(601e9)
	wantError(t, s.token("gateway", secret, exchangeForm(alice, nil)), 400, "invalid_request")
	if n := s.Exchanges() - before; n != 0 {
		t.Errorf("%d exchanges", n)
	}
}

func unsecured(t *testing.T, c jwt.MapClaims) string {
	t.Helper()
	token, err := jwt.NewWithClaims(jwt.SigningMethodNone, c).SignedString(jwt.UnsafeAllowNoneSignatureType)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// A token of another type or key id is not an access token, whoever signed it.
func TestExchangeOfForeignTypes(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, func(c *sts.Config) { c.Key = key })
	alice := s.login("alice").Access
	original, _, err := jwt.NewParser().ParseUnverified(alice, jwt.MapClaims{})
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]map[string]any{
		"the same": {}, "ID token": {"typ": "JWT"}, "other key": {"kid": "x"}, "no key": {"kid": nil},
	} {
		again := jwt.NewWithClaims(jwt.SigningMethodES256, original.Claims)
		again.Header = maps.Clone(original.Header)
		maps.Copy(again.Header, change)
		token, err := again.SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		r := s.token("gateway", secret, exchangeForm(token, nil))
		if ok := r.status == http.StatusOK; ok != (len(change) == 0) {
			t.Errorf("%s: %d %s", name, r.status, r.raw)
		}
	}
}

// An exchanged token does not outlive the token that it was made from.
func TestExchangeEndsWithSubjectToken(t *testing.T) {
	s := start(t)
	alice := s.login("alice").Access
	subject := s.claims(alice)
	s.clock.advance(570e9)
	got := s.claims(s.token("gateway", secret, exchangeForm(alice, url.Values{"requested_expires_in": nil})).Access)
	if got["exp"].(float64) > subject["exp"].(float64) {
		t.Errorf("expires %v, the subject token %v", got["exp"], subject["exp"])
	}
}

func TestScopesNeverGetWider(t *testing.T) {
	s := start(t, func(c *sts.Config) {
		c.AllowWiderScopes = false
		c.Clients[2].Scopes = append(c.Clients[2].Scopes, "mcp:use")
	})
	alice := s.login("alice").Access
	wantError(t, s.token("gateway", secret, exchangeForm(alice, nil)), 400, "invalid_scope")
	if r := s.token("gateway", secret, exchangeForm(alice, url.Values{"scope": {"mcp:use"}})); r.Scope != "mcp:use" {
		t.Errorf("got %s", r.raw)
	}
}
