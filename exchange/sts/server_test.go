package sts_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/exchange/sts"
)

func publicKey(t *testing.T, x, y string) *ecdsa.PublicKey {
	t.Helper()
	point := []byte{4}
	for _, c := range []string{x, y} {
		b, err := base64.RawURLEncoding.DecodeString(c)
		if err != nil {
			t.Fatal(err)
		}
		point = append(point, b...)
	}
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestNewRefuses(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		change func(*sts.Config)
		want   string
	}{
		{"no issuer", func(c *sts.Config) { c.Issuer = "" }, "http or https URL"},
		{"public issuer", func(c *sts.Config) { c.Issuer = "https://sts.example" }, "not loopback"},
		{"issuer with slash", func(c *sts.Config) { c.Issuer += "/" }, "slash at the end"},
		{"issuer with query", func(c *sts.Config) { c.Issuer += "?x" }, "scheme, host"},
		{"issuer with wildcard path", func(c *sts.Config) { c.Issuer += "/{x}" }, "plain path"},
		{"no audience", func(c *sts.Config) { c.DefaultAudience = "" }, "default audience"},
		{"key on another curve", func(c *sts.Config) { c.Key = p384 }, "P-256"},
		{"no secret", func(c *sts.Config) { c.Clients[1].Secret = "" }, "no secret; there is no default"},
		{"public with secret", func(c *sts.Config) { c.Clients[0].Secret = "x" }, "public and has a secret"},
		{"public exchange", func(c *sts.Config) { c.Clients[0].Grants = []string{sts.GrantExchange} }, "audiences"},
		{"public credentials", func(c *sts.Config) { c.Clients[0].Grants = []string{sts.GrantCredentials} }, "cannot use"},
		{"unknown grant", func(c *sts.Config) { c.Clients[0].Grants = []string{"password"} }, "unknown grant"},
		{"client twice", func(c *sts.Config) { c.Clients[1].ID = "agent" }, "twice"},
		{"client named as a user", func(c *sts.Config) { c.Clients[1].ID = "alice" }, "is a user"},
		{"user twice", func(c *sts.Config) { c.Users[1].Subject = "alice" }, "twice"},
		{"forged claim", func(c *sts.Config) { c.Users[0].Claims = map[string]any{"act": "x"} }, "is the server's"},
		{"plain redirect", func(c *sts.Config) { c.Clients[0].Redirects = []string{"http://evil.example/"} }, "neither https"},
		{"no redirect", func(c *sts.Config) { c.Clients[0].Redirects = nil }, "no redirect URI"},
		{"bad scope", func(c *sts.Config) { c.Scopes = []string{"a b"} }, "not a scope"},
		{"short lifetime", func(c *sts.Config) { c.AccessTokenLifetime = time.Millisecond }, "under one second"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := config("http://127.0.0.1:1")
			tt.change(&cfg)
			if _, err := sts.New(cfg); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	cfg := config("https://sts.example")
	cfg.AllowNonLoopback = true
	if _, err := sts.New(cfg); err != nil {
		t.Error(err)
	}
}

func TestMetadata(t *testing.T) {
	s := start(t, func(c *sts.Config) { c.Issuer += "/tenant/one" })
	for _, path := range []string{
		"/.well-known/oauth-authorization-server/tenant/one", "/.well-known/openid-configuration/tenant/one",
		"/tenant/one/.well-known/openid-configuration", "/tenant/one/.well-known/oauth-authorization-server",
	} {
		r := s.do(s.request("GET", path, "", ""))
		var got map[string]any
		if err := json.Unmarshal([]byte(r.raw), &got); err != nil || r.status != http.StatusOK {
			t.Fatalf("%s: %d %v", path, r.status, err)
		}
		base := s.url + "/tenant/one"
		want := map[string]any{
			"issuer": base, "token_endpoint": base + "/token", "authorization_endpoint": base + "/authorize",
			"registration_endpoint": base + "/register", "jwks_uri": base + "/jwks",
			"authorization_response_iss_parameter_supported": true,
			"code_challenge_methods_supported":               []any{"S256"},
		}
		for k, v := range want {
			if diff := cmp.Diff(v, got[k]); diff != "" {
				t.Errorf("%s %s: %s", path, k, diff)
			}
		}
	}
	if r := s.do(s.request("GET", "/tenant/one/jwks", "", "")); r.status != http.StatusOK || strings.Contains(r.raw, `"d"`) {
		t.Errorf("jwks: %d %s", r.status, r.raw)
	}
	if r := s.do(s.request("GET", "/token", "", "")); r.status != http.StatusNotFound {
		t.Errorf("outside of the issuer's path: %d", r.status)
	}
}

// A name that resolves to 127.0.0.1 does not make a web page a local client.
func TestHostOfLoopbackIssuer(t *testing.T) {
	s := start(t)
	for host, want := range map[string]int{
		"attacker.example": 403, "localhost.attacker.example:80": 403, "": 200, "localhost:1": 200, "[::1]:99": 200, "[::1]": 200,
	} {
		req := s.request("GET", "/jwks", "", "")
		req.Host = host
		if r := s.do(req); r.status != want {
			t.Errorf("host %q: %d, want %d", host, r.status, want)
		}
	}
}

func TestGivenKey(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sec1, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	var published []string
	for kind, der := range map[string][]byte{"EC PRIVATE KEY": sec1, "PRIVATE KEY": pkcs8} {
		signer, err := sts.ParseKey(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
		if err != nil {
			t.Fatal(err)
		}
		s := start(t, func(c *sts.Config) { c.Key = signer })
		s.claims(s.login("alice").Access)
		published = append(published, s.do(s.request("GET", "/jwks", "", "")).raw)
	}
	if published = slices.Compact(published); len(published) != 1 {
		t.Errorf("one key, published as %q", published)
	}
}

func TestParseKeyRefuses(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(p384)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"nothing": nil, "text": []byte("key"),
		"certificate": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		"garbage":     pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{1}}),
		"P-384":       pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}),
	} {
		if _, err := sts.ParseKey(data); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

// Without randomness or a working key nothing is issued, and no reason is given.
func TestInternalFailures(t *testing.T) {
	for name, change := range map[string]func(*sts.Config){
		"no randomness": func(c *sts.Config) { c.Rand = strings.NewReader("") },
		"broken key":    func(c *sts.Config) { c.Key = brokenKey{c.Key} },
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, func(c *sts.Config) {
				key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
				if err != nil {
					t.Fatal(err)
				}
				c.Key = key
				change(c)
			})
			r := s.token("gateway", secret, url.Values{"grant_type": {sts.GrantCredentials}})
			wantError(t, r, 500, "server_error")
			if r.Why != "" || s.Issued() != 0 {
				t.Errorf("%s, %d issued", r.raw, s.Issued())
			}
		})
	}
}

type brokenKey struct{ crypto.Signer }

func (brokenKey) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("the key store is down")
}
