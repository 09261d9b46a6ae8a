package service

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/authz/token"
	"github.com/sallyport/sallyport/cmd/sallyport/internal/config"
)

func TestIssuers(t *testing.T) {
	s := config.AuthorizationServer{WellKnownEndpoint: "https://one.example/x", RefreshInterval: time.Hour, AllowPlainHTTP: true,
		TokenValidation: config.TokenValidation{ExpectedAudiences: []string{"a"}, Method: "introspection", JWT: config.JWT{ClockSkew: time.Second},
			Introspection: config.Introspection{Endpoint: "https://one.example/i", ClientID: "g", ClientSecret: "s", AuthMethod: "client_secret_post",
				Tokens: "all", CacheTTL: 2 * time.Second, Timeout: 3 * time.Second},
			Clients: []string{"c"}, MaxLifetime: 4 * time.Hour, Binding: "required"}}
	want := token.IssuerConfig{WellKnown: "https://one.example/x", RefreshInterval: time.Hour, AllowPlainHTTP: true, Audiences: []string{"a"},
		ClockSkew: time.Second, MaxLifetime: 4 * time.Hour, Clients: []string{"c"}, Binding: token.BindingRequired,
		Introspection: &token.IntrospectionConfig{Endpoint: "https://one.example/i", ClientID: "g", ClientSecret: "s", AuthMethod: token.AuthPost,
			Tokens: token.IntrospectAll, CacheTTL: 2 * time.Second, Timeout: 3 * time.Second}}
	if d := cmp.Diff(want, issuerConfig(&s)); d != "" {
		t.Error(d)
	}
	s.TokenValidation.Method, want.Introspection = "jwt", nil
	if d := cmp.Diff(want, issuerConfig(&s)); d != "" {
		t.Error(d)
	}
}

// Envoy waits for longer than a question may take.
func TestMessageTimeoutIsLongerThanAQuestion(t *testing.T) {
	cfg := newFiles(t).config()
	v := &cfg.MCPProvider.Authorization.OAuth.Servers[1].TokenValidation
	v.Introspection.Timeout = 10 * time.Second
	for method, want := range map[string]time.Duration{"jwt": 14 * time.Second, "introspection": 15 * time.Second} {
		v.Method = method
		if got := Gateway(cfg, Sockets{}).MessageTimeout; got != want {
			t.Errorf("%s: %v", method, got)
		}
	}
}

// Which bound tokens are welcome, as the issuers and the listener together have it.
func TestBound(t *testing.T) {
	for _, test := range []struct {
		one, two, clientAuth string
		want                 authz.Bound
	}{
		{"none", "none", "RequireAndVerifyClientCert", authz.Bound{}},
		{"none", "optional", "", authz.Bound{DPoP: true}},
		{"none", "required", "", authz.Bound{DPoP: true}},
		{"required", "required", "", authz.Bound{DPoP: true, DPoPOnly: true}},
		{"required", "required", "NoClientCert", authz.Bound{DPoP: true, DPoPOnly: true}},
		{"required", "required", "VerifyClientCertIfGiven", authz.Bound{DPoP: true, Certificates: true}},
		{"optional", "none", "RequireAndVerifyClientCert", authz.Bound{DPoP: true, Certificates: true}},
	} {
		cfg := newFiles(t).config()
		oauth := &cfg.MCPProvider.Authorization.OAuth
		oauth.Servers[0].TokenValidation.Binding, oauth.Servers[1].TokenValidation.Binding = test.one, test.two
		if test.clientAuth != "" {
			cfg.HTTP.TLS = "server"
			cfg.TLS["server"] = &config.TLS{CertFile: "/c", KeyFile: "/k", ClientAuth: test.clientAuth, ClientCAFiles: []string{"/ca"}}
		}
		if d := cmp.Diff(test.want, bound(cfg)); d != "" {
			t.Errorf("%+v: %s", test, d)
		}
		if p := cfg.TLS["server"]; p != nil { // whether the authorities are in one file or in several
			f := newFiles(t)
			p.ClientCAFiles = []string{f.path("ca.pem"), f.path("ca.pem")}
			if d := cmp.Diff(test.want, bound(cfg)); d != "" {
				t.Errorf("%+v, two files: %s", test, d)
			}
		}
		oauth.Enabled = false
		if got := bound(cfg); got != (authz.Bound{}) {
			t.Errorf("without OAuth: %+v", got)
		}
	}
}

// Replicas take each other's nonces by the key that they share.
func TestNonceKeys(t *testing.T) {
	cfg := newFiles(t).config()
	if c := dpopConfig(cfg, nil); c.NonceKey != nil || c.Replays != nil {
		t.Errorf("%+v", c)
	}
	cfg.MCPProvider.Authorization.OAuth.DPoP = config.DPoP{ProofAge: time.Second, RequireNonce: true, NonceLifetime: time.Minute}
	c := dpopConfig(cfg, nil)
	if string(c.NonceKey) != cfg.Session.Key.Reveal() || c.Window != time.Second || c.NonceLifetime != time.Minute {
		t.Errorf("%+v", c)
	}
	cfg.Session.Key = ""
	if a, b := dpopConfig(cfg, nil).NonceKey, dpopConfig(cfg, nil).NonceKey; len(a) < 32 || string(a) == string(b) {
		t.Error("two processes without a key share one")
	}
}
