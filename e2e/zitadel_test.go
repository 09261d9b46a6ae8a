package e2e

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/exchange"
)

// The example server of zitadel/oidc, as docs/providers/zitadel-oidc.md has it: the odd one. Its access tokens are opaque,
// it exchanges the tokens of administrators only, and answers 500 for everybody else.

// newZitadel starts the server, and returns its metadata.
func newZitadel(t *testing.T) (string, endpoints) {
	t.Helper()
	program := os.Getenv("ZITADEL_OIDC")
	if program == "" {
		if found, _ := filepath.Glob(filepath.Join("..", "build", "zitadel-oidc@*")); len(found) == 1 {
			program = found[0]
		}
	}
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("%v; run `make zitadel` first", err)
	}
	_, port, _ := strings.Cut(freePort(t), ":")
	issuer := "http://localhost:" + port
	server := spawn(t, []string{"PORT=" + port, "REDIRECT_URI=" + redirectURI}, nil, program)
	var at endpoints
	await(t, "the server", func() bool {
		select {
		case <-server.end:
			t.Fatal("the server ended")
		default:
		}
		resp, err := client.Get(issuer + "/.well-known/openid-configuration")
		if err != nil {
			return false
		}
		defer func() { _ = resp.Body.Close() }()
		return json.NewDecoder(resp.Body).Decode(&at) == nil
	})
	return issuer, at
}

// TestZitadelOIDC is the second door alone, as the gateway has it. At the first one nothing says whom an opaque token is for.
func TestZitadelOIDC(t *testing.T) {
	issuer, at := newZitadel(t)
	c, err := exchange.New(exchange.Config{WellKnown: issuer + "/.well-known/openid-configuration", ClientID: "web", ClientSecret: "secret", TTLParameter: "-"})
	must(t, err)
	go func() { _ = c.Run(t.Context()) }()
	ask := func(login map[string]any, change func(r *exchange.Request)) (*exchange.Token, error) {
		r := exchange.Request{SubjectToken: login["access_token"].(string), Subject: "id1", Audience: "https://items.example.com/",
			Scopes: []string{"item:List"}, Lifetime: 5 * time.Minute, Delegation: true, AllowOpaque: true}
		change(&r)
		return c.Exchange(t.Context(), r)
	}
	asIs := func(*exchange.Request) {}
	admin := newBrowser("test-user@localhost", "verysecure").tokens(t, at, "web", "secret", "openid")
	if known := introspect(t, at, admin["access_token"].(string)); known["active"] != true || known["sub"] != "id1" || known["aud"] != nil {
		t.Errorf("what the server knows of an agent's token: %v", known)
	}
	var got *exchange.Token
	await(t, "the metadata", func() bool {
		got, err = ask(admin, asIs)
		return !errors.Is(err, exchange.ErrNoMetadata)
	})
	must(t, err)
	if got.Value == admin["access_token"] || strings.Count(got.Value, ".") == 2 || got.ExpiresIn > 5*time.Minute || got.ExpiresIn < 4*time.Minute || len(got.Actors) != 0 {
		t.Errorf("it lives %v, and says it acts for %v", got.ExpiresIn, got.Actors)
	}
	// Only a client that a token is for may ask about it, so the audience is the one that was asked for.
	if known := introspect(t, at, got.Value); known["active"] != false {
		t.Errorf("the server tells somebody else: %v", known)
	}
	got, err = ask(admin, func(r *exchange.Request) { r.Audience = "web" })
	must(t, err)
	if known := introspect(t, at, got.Value); known["active"] != true || known["client_id"] != "web" || known["scope"] != "item:List" {
		t.Errorf("what the server knows of it: %v", known)
	}
	for name, refused := range map[string]struct {
		change func(r *exchange.Request)
		reason string
	}{
		"opaque tokens are not accepted unless told so": {func(r *exchange.Request) { r.AllowOpaque = false }, "opaque"},
		"a shorter life": {func(r *exchange.Request) { r.Lifetime = 5 * time.Second }, "lifetime_longer"},
		"an actor, which nobody can see in the token": {func(r *exchange.Request) { r.RequireAct = true }, "actor_missing"},
	} {
		var failed *exchange.Error
		if _, err := ask(admin, refused.change); !errors.As(err, &failed) || failed.Reason() != refused.reason || failed.Kind != exchange.Unacceptable {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The server exchanges for administrators only, and says so with a 500: to the gateway it is broken.
	other := newBrowser("test-user2", "verysecure").tokens(t, at, "web", "secret", "openid")
	var failed *exchange.Error
	if _, err := ask(other, asIs); !errors.As(err, &failed) || failed.Kind != exchange.Unavailable || failed.Status != http.StatusInternalServerError {
		t.Errorf("somebody who is no administrator: %v", err)
	}
}

// introspect asks the server what it knows of a token (RFC 7662).
func introspect(t *testing.T, at endpoints, token string) map[string]any {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, strings.TrimSuffix(at.Issuer, "/")+"/oauth/introspect", strings.NewReader(url.Values{"token": {token}}.Encode()))
	must(t, err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth("web", "secret")
	resp, err := client.Do(req)
	must(t, err)
	defer func() { _ = resp.Body.Close() }()
	out := map[string]any{}
	must(t, json.NewDecoder(resp.Body).Decode(&out))
	return out
}
