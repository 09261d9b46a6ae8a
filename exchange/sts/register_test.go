package sts_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/exchange/sts"
)

func (s *server) register(body string) (reply, map[string]any) {
	s.t.Helper()
	r := s.do(s.request("POST", "/register", "application/json", body))
	var doc map[string]any
	if err := json.Unmarshal([]byte(r.raw), &doc); err != nil {
		s.t.Fatalf("%v in %s", err, r.raw)
	}
	return r, doc
}

func TestRegister(t *testing.T) {
	s := start(t)
	r, public := s.register(`{"redirect_uris":["http://127.0.0.1/cb"],"token_endpoint_auth_method":"none",
		"grant_types":["authorization_code","refresh_token"],"client_name":"an agent","scope":"offline_access admin","logo_uri":"x"}`) // more may be asked for later
	if r.status != http.StatusCreated || r.header.Get("Cache-Control") != "no-store" || public["client_secret"] != nil || public["scope"] != "mcp:use offline_access" {
		t.Fatalf("got %d %s", r.status, r.raw)
	}
	id := public["client_id"].(string)
	redirect := "http://127.0.0.1:5555/cb"
	change := map[string][]string{"client_id": {id}, "redirect_uri": {redirect}}
	res := s.token("", "", codeForm(s.authorize(change).Get("code"), change))
	if res.status != http.StatusOK || res.Fresh == "" || s.claims(res.Access)["client_id"] != id || res.Scope != "mcp:use" {
		t.Errorf("login: %d %s", res.status, res.raw)
	}

	r, confidential := s.register(`{"redirect_uris":["https://app.example/cb"]}`)
	if r.status != http.StatusCreated || confidential["token_endpoint_auth_method"] != "client_secret_basic" || confidential["client_secret_expires_at"] == nil {
		t.Fatalf("got %d %s", r.status, r.raw)
	}
	change = map[string][]string{"client_id": {confidential["client_id"].(string)}, "redirect_uri": {"https://app.example/cb"}}
	wantError(t, s.token("", "", codeForm(s.authorize(change).Get("code"), change)), 401, "invalid_client")
	res = s.token(confidential["client_id"].(string), confidential["client_secret"].(string), codeForm(s.authorize(change).Get("code"), change))
	if res.status != http.StatusOK || res.Fresh != "" {
		t.Errorf("login: %d %s", res.status, res.raw)
	}
}

func TestRegisterRefusals(t *testing.T) {
	s := start(t)
	tests := []struct{ name, body, want string }{
		{"no redirect", `{}`, "invalid_redirect_uri"},
		{"plain http", `{"redirect_uris":["http://evil.example/"]}`, "invalid_redirect_uri"},
		{"looks like loopback", `{"redirect_uris":["http://127.0.0.1.evil.example/"]}`, "invalid_redirect_uri"},
		{"script", `{"redirect_uris":["javascript:alert(1)"]}`, "invalid_redirect_uri"},
		{"own scheme", `{"redirect_uris":["app:/cb"]}`, "invalid_redirect_uri"},
		{"fragment", `{"redirect_uris":["https://a.example/#x"]}`, "invalid_redirect_uri"},
		{"empty fragment", `{"redirect_uris":["https://a.example/#"]}`, "invalid_redirect_uri"},
		{"too many", `{"redirect_uris":["` + strings.Repeat(`https://a.example/","`, 10) + `https://a.example/"]}`, "invalid_redirect_uri"},
		{"exchange", `{"redirect_uris":["https://a.example/"],"grant_types":["urn:ietf:params:oauth:grant-type:token-exchange"]}`, "invalid_client_metadata"},
		{"credentials", `{"redirect_uris":["https://a.example/"],"grant_types":["authorization_code","client_credentials"]}`, "invalid_client_metadata"},
		{"implicit", `{"redirect_uris":["https://a.example/"],"response_types":["token"]}`, "invalid_client_metadata"},
		{"private_key_jwt", `{"redirect_uris":["https://a.example/"],"token_endpoint_auth_method":"private_key_jwt"}`, "invalid_client_metadata"},
		{"long name", `{"redirect_uris":["https://a.example/"],"client_name":"` + strings.Repeat("x", 201) + `"}`, "invalid_client_metadata"},
		{"repeated member", `{"redirect_uris":["https://a.example/"],"redirect_uris":["https://b.example/"]}`, "invalid_client_metadata"},
		{"not JSON", `x`, "invalid_client_metadata"},
		{"too large", `{"client_name":"` + strings.Repeat("x", 65<<10) + `"}`, "invalid_client_metadata"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, _ := s.register(tt.body)
			wantError(t, r, 400, tt.want)
		})
	}
	// What a web page may send without asking is not accepted.
	r := s.do(s.request("POST", "/register", "text/plain", `{"redirect_uris":["https://a.example/"]}`))
	wantError(t, r, 400, "invalid_client_metadata")
}

func TestRegistrationsAreBounded(t *testing.T) {
	s := start(t, func(c *sts.Config) { c.MaxRegistrations = 2 })
	const body = `{"redirect_uris":["https://a.example/"]}`
	for range 2 {
		if r, _ := s.register(body); r.status != http.StatusCreated {
			t.Fatalf("got %s", r.raw)
		}
	}
	r, _ := s.register(body)
	wantError(t, r, 503, "temporarily_unavailable")
	s.clock.advance(24*time.Hour + time.Second)
	if r, _ := s.register(body); r.status != http.StatusCreated {
		t.Errorf("room was not made: %s", r.raw)
	}
}
