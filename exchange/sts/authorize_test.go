package sts_test

import (
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/exchange/sts"
)

func TestAuthorize(t *testing.T) {
	s := start(t)
	got := s.authorize(nil)
	if got.Get("code") == "" || got.Get("state") != "a state" || got.Get("iss") != s.url {
		t.Errorf("got %v", got)
	}
}

// What is wrong before the redirect URI is known must not be sent there.
func TestAuthorizeDoesNotRedirect(t *testing.T) {
	s := start(t)
	for name, change := range map[string]url.Values{
		"unknown client":          {"client_id": {"nobody"}},
		"no client":               {"client_id": nil},
		"no redirect":             {"redirect_uri": nil},
		"other host":              {"redirect_uri": {"http://127.0.0.2:7777/callback"}},
		"other name for loopback": {"redirect_uri": {"http://localhost:7777/callback"}},
		"other path":              {"redirect_uri": {"http://127.0.0.1:7777/callback/x"}},
		"longer path":             {"redirect_uri": {"http://127.0.0.1:7777/callback/"}},
		"added query":             {"redirect_uri": {callback + "?a=b"}},
		"added fragment":          {"redirect_uri": {callback + "#a"}},
		"user in it":              {"redirect_uri": {"http://127.0.0.1:7777@evil.example/callback"}},
		"https":                   {"redirect_uri": {"https://127.0.0.1:7777/callback"}},
		"other port of https":     {"client_id": {"web"}, "redirect_uri": {"https://web.example:444/cb?x=1"}},
		"twice":                   {"client_id": {"agent", "agent"}},
	} {
		r := s.do(s.request("GET", "/authorize?"+authorizeQuery(change).Encode(), "", ""))
		if r.status != http.StatusBadRequest || r.header.Get("Location") != "" {
			t.Errorf("%s: %d to %q", name, r.status, r.header.Get("Location"))
		}
	}
	if r := s.do(s.request("GET", "/authorize?%zz", "", "")); r.status != http.StatusBadRequest {
		t.Errorf("malformed query: %d", r.status)
	}
}

func TestAuthorizeRefusals(t *testing.T) {
	s := start(t)
	tests := []struct {
		name   string
		change url.Values
		want   string
	}{
		{"token response", url.Values{"response_type": {"token"}}, "unsupported_response_type"},
		{"no challenge", url.Values{"code_challenge": nil}, "invalid_request"},
		{"plain by default", url.Values{"code_challenge_method": nil}, "invalid_request"},
		{"plain", url.Values{"code_challenge_method": {"plain"}}, "invalid_request"},
		{"short challenge", url.Values{"code_challenge": {"abc"}}, "invalid_request"},
		{"unknown user", url.Values{"login_hint": {"mallory"}}, "access_denied"},
		{"unknown resource", url.Values{"resource": {tickets}}, "invalid_target"},
		{"two resources", url.Values{"resource": {gateway, "http://other.example/"}}, "invalid_target"},
		{"no such scope", url.Values{"scope": {"item:List"}}, "invalid_scope"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := s.authorize(tt.change)
			if got.Get("error") != tt.want || got.Get("code") != "" || got.Get("state") != "a state" || got.Get("iss") != s.url {
				t.Errorf("got %v, want %s", got, tt.want)
			}
		})
	}
}

func TestRedirectURIs(t *testing.T) {
	s := start(t)
	other := "http://127.0.0.1:61234/callback" // RFC 8252 §7.3
	code := s.authorize(url.Values{"redirect_uri": {other}}).Get("code")
	if r := s.token("", "", codeForm(code, url.Values{"redirect_uri": {other}})); r.status != http.StatusOK {
		t.Errorf("another loopback port: %d %s", r.status, r.raw)
	}
	got := s.authorize(url.Values{"client_id": {"web"}, "redirect_uri": {"https://web.example/cb?x=1"}})
	if got.Get("x") != "1" || got.Get("code") == "" {
		t.Errorf("the query of the redirect URI was lost: %v", got)
	}
}

func TestCodeGrant(t *testing.T) {
	s := start(t)
	tests := []struct {
		name         string
		change       url.Values
		sub, aud     string
		scope, email any
	}{
		{"first user, all he and the client may", nil, "alice", gateway, "admin mcp:use", "alice@example.com"},
		{"by hint", url.Values{"login_hint": {"bob"}}, "bob", gateway, "mcp:use", nil},
		{"resource", url.Values{"resource": {"http://other.example/"}}, "alice", "http://other.example/", "admin mcp:use", "alice@example.com"},
		{"scope", url.Values{"scope": {"mcp:use"}}, "alice", gateway, "mcp:use", "alice@example.com"},
		{"narrowed scope", url.Values{"login_hint": {"bob"}, "scope": {"mcp:use admin"}}, "bob", gateway, "mcp:use", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := s.token("", "", codeForm(s.authorize(tt.change).Get("code"), nil))
			if r.status != http.StatusOK || r.Type != "Bearer" || r.Expiry != 600 || r.Fresh == "" || r.header.Get("Cache-Control") != "no-store" {
				t.Fatalf("got %d %s", r.status, r.raw)
			}
			c := s.claims(r.Access)
			got := map[string]any{
				"iss": c["iss"], "sub": c["sub"], "aud": c["aud"], "client_id": c["client_id"], "email": c["email"], "life": c["exp"].(float64) - c["iat"].(float64),
			}
			want := map[string]any{"iss": s.url, "sub": tt.sub, "aud": tt.aud, "client_id": "agent", "email": tt.email, "life": 600.0}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			if words(c["scope"]) != words(tt.scope) || words(r.Scope) != words(tt.scope) || c["jti"] == "" {
				t.Errorf("scope %v, %q, jti %v", c["scope"], r.Scope, c["jti"])
			}
		})
	}
	if s.Issued() != uint64(len(tests)) || s.Exchanges() != 0 {
		t.Errorf("counted %d and %d", s.Issued(), s.Exchanges())
	}
}

// words puts a scope into one order.
func words(scope any) string {
	text, _ := scope.(string)
	list := strings.Fields(text)
	for i := range list {
		for j := i + 1; j < len(list); j++ {
			if list[j] < list[i] {
				list[i], list[j] = list[j], list[i]
			}
		}
	}
	return strings.Join(list, " ")
}

func TestCodeRefusals(t *testing.T) {
	s := start(t)
	tests := []struct {
		name   string
		change url.Values
		want   string
	}{
		{"wrong verifier", url.Values{"code_verifier": {verifier + "x"}}, "invalid_grant"},
		{"no verifier", url.Values{"code_verifier": nil}, "invalid_grant"},
		{"other redirect", url.Values{"redirect_uri": {"http://127.0.0.1:1/callback"}}, "invalid_grant"},
		{"no redirect", url.Values{"redirect_uri": nil}, "invalid_grant"},
		{"other resource", url.Values{"resource": {"http://other.example/"}}, "invalid_target"},
		{"unknown code", url.Values{"code": {"x"}}, "invalid_grant"},
		{"no code", url.Values{"code": nil}, "invalid_grant"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			code := s.authorize(nil).Get("code")
			wantError(t, s.token("", "", codeForm(code, tt.change)), 400, tt.want)
			if _, otherCode := tt.change["code"]; !otherCode {
				wantError(t, s.token("", "", codeForm(code, nil)), 400, "invalid_grant") // it died
			}
		})
	}
	t.Run("other client", func(t *testing.T) {
		form := codeForm(s.authorize(nil).Get("code"), url.Values{"client_id": nil})
		wantError(t, s.token("web", "web secret", form), 400, "invalid_grant")
	})
	t.Run("expired", func(t *testing.T) {
		code := s.authorize(nil).Get("code")
		s.clock.advance(61e9)
		wantError(t, s.token("", "", codeForm(code, nil)), 400, "invalid_grant")
	})
}

func TestCodeReplayRevokesRefreshToken(t *testing.T) {
	s := start(t)
	code := s.authorize(nil).Get("code")
	first := s.token("", "", codeForm(code, nil))
	wantError(t, s.token("", "", codeForm(code, nil)), 400, "invalid_grant")
	wantError(t, s.token("", "", refreshForm(first.Fresh, nil)), 400, "invalid_grant")
}

func refreshForm(token string, change url.Values) url.Values {
	return with(url.Values{"grant_type": {sts.GrantRefresh}, "client_id": {"agent"}, "refresh_token": {token}}, change)
}

func TestRefresh(t *testing.T) {
	s := start(t)
	first := s.login("alice")
	second := s.token("", "", refreshForm(first.Fresh, url.Values{"scope": {"mcp:use"}}))
	if second.status != http.StatusOK || second.Fresh == "" || second.Fresh == first.Fresh || second.Scope != "mcp:use" {
		t.Fatalf("got %d %s", second.status, second.raw)
	}
	if c := s.claims(second.Access); c["sub"] != "alice" || c["aud"] != gateway || c["email"] != "alice@example.com" {
		t.Errorf("claims %v", c)
	}
	third := s.token("", "", refreshForm(second.Fresh, nil))
	if words(third.Scope) != "admin mcp:use" {
		t.Errorf("narrowing one token narrowed the grant: %q", third.Scope)
	}
	// The second token is used up. Using it again ends the chain.
	wantError(t, s.token("", "", refreshForm(second.Fresh, nil)), 400, "invalid_grant")
	wantError(t, s.token("", "", refreshForm(third.Fresh, nil)), 400, "invalid_grant")
}

func TestRefreshRefusals(t *testing.T) {
	s := start(t)
	fresh := s.login("alice").Fresh
	wantError(t, s.token("", "", refreshForm(fresh, url.Values{"scope": {"mcp:use item:List"}})), 400, "invalid_scope")
	wantError(t, s.token("", "", refreshForm(fresh, url.Values{"resource": {"http://other.example/"}})), 400, "invalid_target")
	wantError(t, s.token("", "", refreshForm("", nil)), 400, "invalid_grant")
	wantError(t, s.token("web", "web secret", refreshForm(fresh, url.Values{"client_id": nil})), 400, "unauthorized_client")
	_, other := s.register(`{"redirect_uris":["https://a.example/"],"token_endpoint_auth_method":"none","grant_types":["authorization_code","refresh_token"]}`)
	thief := url.Values{"client_id": {other["client_id"].(string)}}
	wantError(t, s.token("", "", refreshForm(fresh, thief)), 400, "invalid_grant")
	if r := s.token("", "", refreshForm(fresh, nil)); r.status != http.StatusOK {
		t.Errorf("refusals used it up: %s", r.raw)
	} else {
		fresh = r.Fresh
	}
	s.clock.advance(25 * 3600e9)
	wantError(t, s.token("", "", refreshForm(fresh, nil)), 400, "invalid_grant")
}

// Of many that present one code at once, at most one gets a token, and as it was
// presented again its refresh token is dead.
func TestCodeIsSingleUseUnderConcurrency(t *testing.T) {
	s := start(t)
	code := s.authorize(nil).Get("code")
	replies := make(chan reply, 16)
	var wg sync.WaitGroup
	for range cap(replies) {
		wg.Go(func() { replies <- s.token("", "", codeForm(code, nil)) })
	}
	wg.Wait()
	close(replies)
	granted := 0
	for r := range replies {
		if r.status == http.StatusOK {
			granted++
			wantError(t, s.token("", "", refreshForm(r.Fresh, nil)), 400, "invalid_grant")
		}
	}
	if granted > 1 {
		t.Errorf("%d tokens for one code", granted)
	}
}
