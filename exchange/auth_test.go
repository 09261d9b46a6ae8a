package exchange

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// testKeys are one of each kind, made once: RSA takes its time.
var testKeys = func() map[string]crypto.Signer {
	keys := map[string]crypto.Signer{}
	var err error
	for name, curve := range map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521(), "P-224": elliptic.P224()} {
		if keys[name], err = ecdsa.GenerateKey(curve, rand.Reader); err != nil {
			panic(err)
		}
	}
	if _, keys["Ed25519"], err = ed25519.GenerateKey(rand.Reader); err != nil {
		panic(err)
	}
	if keys["RSA"], err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		panic(err)
	}
	return keys
}()

func certificate(t *testing.T, key crypto.Signer, name string) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// privateKeyJWT makes the configuration of a client that signs with key.
func privateKeyJWT(key *ClientKey) func(*Config) {
	return func(c *Config) { c.ClientSecret, c.Key = "", key }
}

func TestPrivateKeyJWT(t *testing.T) {
	cert := certificate(t, testKeys["P-256"], "gate way")
	sum := sha256.Sum256(cert.Raw)
	tests := []struct {
		name    string
		key     ClientKey
		offered []string
		alg     string
		header  map[string]any // beside alg and typ
		aud     string         // BASE is the server's URL
		life    float64
	}{
		{"ECDSA", ClientKey{Private: testKeys["P-256"]}, nil, "ES256", nil, "BASE", 60},
		{"P-384", ClientKey{Private: testKeys["P-384"]}, nil, "ES384", nil, "BASE", 60},
		{"P-521", ClientKey{Private: testKeys["P-521"]}, nil, "ES512", nil, "BASE", 60},
		{"RSA", ClientKey{Private: testKeys["RSA"]}, nil, "RS256", nil, "BASE", 60},
		{"RSA-PSS offered", ClientKey{Private: testKeys["RSA"]}, []string{"ES256", "PS256"}, "PS256", nil, "BASE", 60},
		{"RSA-PSS named", ClientKey{Private: testKeys["RSA"], Algorithm: "PS256"}, []string{"RS256"}, "PS256", nil, "BASE", 60},
		{"EdDSA", ClientKey{Private: testKeys["Ed25519"]}, nil, "EdDSA", nil, "BASE", 60},
		{"Ed25519 offered", ClientKey{Private: testKeys["Ed25519"]}, []string{"Ed25519"}, "Ed25519", nil, "BASE", 60},
		{"key id", ClientKey{Private: testKeys["P-256"], ID: "2026-11"}, nil, "ES256", map[string]any{"kid": "2026-11"}, "BASE", 60},
		{"certificate", ClientKey{Private: testKeys["P-256"], Certificate: cert}, nil, "ES256", map[string]any{"x5t#S256": base64.RawURLEncoding.EncodeToString(sum[:])}, "BASE", 60},
		{"token endpoint", ClientKey{Private: testKeys["P-256"], Audience: AssertionToTokenEndpoint, Lifetime: 10 * time.Second}, nil, "ES256", nil, "BASE/token", 10},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := serve(t, (*httptest.Server).Start)
			s.metadata = func() any {
				return map[string]any{"issuer": s.URL, "token_endpoint": s.URL + "/token", "token_endpoint_auth_signing_alg_values_supported": tt.offered}
			}
			c := s.client(t, privateKeyJWT(&tt.key))
			seen := map[string]bool{}
			for range 3 {
				if _, err := c.Exchange(t.Context(), request()); err != nil {
					t.Fatal(err)
				}
			}
			for i, form := range s.forms {
				if got := form.Get("client_assertion_type"); got != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" {
					t.Errorf("client_assertion_type %q", got)
				}
				if form.Get("client_id") != "gate way" || form.Has("client_secret") || s.headers[i].Get("Authorization") != "" {
					t.Errorf("form %v, header %v", form, s.headers[i])
				}
				head, claims := readAssertion(t, form.Get("client_assertion"), tt.alg, tt.key.Private.Public())
				header := map[string]any{"alg": tt.alg, "typ": "JWT"}
				for k, v := range tt.header {
					header[k] = v
				}
				if diff := cmp.Diff(header, head); diff != "" {
					t.Error(diff)
				}
				aud := strings.ReplaceAll(tt.aud, "BASE", s.URL)
				if claims["iss"] != "gate way" || claims["sub"] != "gate way" || claims["aud"] != aud || claims["exp"].(float64)-claims["iat"].(float64) != tt.life {
					t.Errorf("claims %v", claims)
				}
				jti := claims["jti"].(string)
				if len(jti) < 20 || seen[jti] {
					t.Errorf("jti %q", jti)
				}
				seen[jti] = true
			}
		})
	}
}

// readAssertion verifies a JWT with alg, whatever it says itself.
func readAssertion(t *testing.T, assertion, alg string, public crypto.PublicKey) (header, claims map[string]any) {
	t.Helper()
	part := strings.Split(assertion, ".")
	if len(part) != 3 {
		t.Fatalf("not a JWT: %q", assertion)
	}
	var raw [3][]byte
	for i := range part {
		var err error
		if raw[i], err = base64.RawURLEncoding.DecodeString(part[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := signingMethod(alg).Verify(part[0]+"."+part[1], raw[2], public); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(json.Unmarshal(raw[0], &header), json.Unmarshal(raw[1], &claims)); err != nil {
		t.Fatal(err)
	}
	return header, claims
}

// The actor token and the exchange are two requests, so two assertions.
func TestPrivateKeyJWTForActorToken(t *testing.T) {
	s := serve(t, (*httptest.Server).Start)
	withActor(s, 60)
	if _, err := s.client(t, privateKeyJWT(&ClientKey{Private: testKeys["P-256"]})).Exchange(t.Context(), actorRequest()); err != nil {
		t.Fatal(err)
	}
	if a, b := s.forms[0].Get("client_assertion"), s.forms[1].Get("client_assertion"); a == "" || b == "" || a == b {
		t.Errorf("%q, %q", a, b)
	}
}

// A secret that was changed is sent from then on, whichever way secrets are sent, and the old one is not.
func TestSetSecret(t *testing.T) {
	for _, method := range []string{AuthBasic, AuthPost} {
		s := serve(t, (*httptest.Server).Start)
		c := s.client(t, func(c *Config) { c.AuthMethod = method })
		for i, secret := range []string{"s+c:r%t", "an+other"} {
			if i > 0 {
				if err := c.SetSecret(secret); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := c.Exchange(t.Context(), request()); err != nil {
				t.Fatal(err)
			}
			got := s.forms[i].Get("client_secret")
			if method == AuthBasic {
				_, got, _ = (&http.Request{Header: s.headers[i]}).BasicAuth()
				got, _ = url.QueryUnescape(got)
			}
			if got != secret {
				t.Errorf("%s: request %d carries %q, want %q", method, i, got, secret)
			}
		}
		if c.SetSecret("") == nil {
			t.Error("a secret was taken away")
		}
		s.answer = func(w http.ResponseWriter, _ url.Values) {
			writeJSON(w, 401, map[string]any{"error": "invalid_client", "error_description": "an+other is wrong"})
		}
		_, err := c.Exchange(t.Context(), request())
		if e, ok := errors.AsType[*Error](err); !ok || e.Detail != withheld {
			t.Errorf("%s: detail of %v", method, err)
		}
	}
	s := serve(t, (*httptest.Server).Start)
	if s.client(t, privateKeyJWT(&ClientKey{Private: testKeys["P-256"]})).SetSecret("x") == nil {
		t.Error("a secret was brought in")
	}
}

func TestAssertionStaysOutOfErrors(t *testing.T) {
	s := serve(t, (*httptest.Server).Start)
	s.answer = func(w http.ResponseWriter, form url.Values) {
		writeJSON(w, 401, map[string]any{"error": "invalid_client", "error_description": "not good: " + form.Get("client_assertion")})
	}
	token, err := s.client(t, privateKeyJWT(&ClientKey{Private: testKeys["P-256"]})).Exchange(t.Context(), request())
	if e := wantKind(t, token, err, Refused, nil); e.Detail != withheld {
		t.Errorf("detail %q", e.Detail)
	}
}

func TestMutualTLS(t *testing.T) {
	key := testKeys["P-256"]
	cert := certificate(t, key, "gate way")
	shown := make(chan *x509.Certificate, 10)
	var alias *server
	s := serve(t, (*httptest.Server).StartTLS)
	alias = serve(t, func(ts *httptest.Server) {
		// It names an authority that has issued nothing of ours.
		authorities := x509.NewCertPool()
		authorities.AddCert(certificate(t, testKeys["P-384"], "authority"))
		ts.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert, ClientCAs: authorities}
		handler := ts.Config.Handler
		ts.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			shown <- r.TLS.PeerCertificates[0]
			handler.ServeHTTP(w, r)
		})
		ts.StartTLS()
	})
	alias.answer = func(w http.ResponseWriter, _ url.Values) { writeJSON(w, 200, good(s.URL)) }
	s.metadata = func() any {
		return map[string]any{
			"issuer": s.URL, "token_endpoint": s.URL + "/token",
			"mtls_endpoint_aliases": map[string]any{"token_endpoint": alias.URL + "/token"},
		}
	}
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	pool.AddCert(alias.Certificate())
	with := func(method string) func(*Config) {
		return func(c *Config) {
			c.AuthMethod, c.TLS = method, &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}}}
		}
	}
	for _, method := range []string{AuthTLS, AuthSelfSignedTLS} {
		c := s.client(t, with(method), func(c *Config) { c.ClientSecret = "" })
		if _, err := c.Exchange(t.Context(), request()); err != nil {
			t.Fatal(err)
		}
		if got := <-shown; !got.Equal(cert) {
			t.Error("another certificate")
		}
		form, header := alias.forms[len(alias.forms)-1], alias.headers[len(alias.headers)-1]
		if form.Get("client_id") != "gate way" || form.Has("client_secret") || form.Has("client_assertion") || header.Get("Authorization") != "" {
			t.Errorf("form %v, header %v", form, header)
		}
	}
	// The alias is for those who authenticate so.
	if _, err := s.client(t, with(AuthBasic)).Exchange(t.Context(), request()); err != nil || len(s.forms) != 1 {
		t.Errorf("%v, %d requests", err, len(s.forms))
	}
	// Without an alias it is the token endpoint.
	c := s.newClient(t, with(AuthTLS))
	s.metadata = func() any { return map[string]any{"issuer": s.URL, "token_endpoint": s.URL + "/token"} }
	if err := c.refresh(t.Context()); err != nil || c.meta.Load().tokenEndpoint != s.URL+"/token" {
		t.Errorf("%v, %+v", err, c.meta.Load())
	}
	// A bad alias is not passed over.
	for _, endpoint := range []string{"http://as.example/token", "http://127.0.0.1:1/token", "/token"} {
		s.metadata = func() any {
			return map[string]any{"issuer": s.URL, "token_endpoint": s.URL + "/token", "mtls_endpoint_aliases": map[string]any{"token_endpoint": endpoint}}
		}
		if err := c.refresh(t.Context()); err == nil {
			t.Errorf("%s was taken", endpoint)
		}
	}
}

func TestNewRefusesCredentials(t *testing.T) {
	key := &ClientKey{Private: testKeys["P-256"]}
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Config){
		"key and secret":           func(c *Config) { c.Key = key },
		"no key":                   func(c *Config) { c.AuthMethod = AuthPrivateKeyJWT },
		"no private key":           func(c *Config) { privateKeyJWT(&ClientKey{})(c) },
		"P-224":                    func(c *Config) { privateKeyJWT(&ClientKey{Private: testKeys["P-224"]})(c) },
		"small RSA":                func(c *Config) { privateKeyJWT(&ClientKey{Private: small})(c) },
		"algorithm of another key": func(c *Config) { privateKeyJWT(&ClientKey{Private: testKeys["P-256"], Algorithm: "RS256"})(c) },
		"symmetric algorithm":      func(c *Config) { privateKeyJWT(&ClientKey{Private: testKeys["RSA"], Algorithm: "HS256"})(c) },
		"no algorithm":             func(c *Config) { privateKeyJWT(&ClientKey{Private: testKeys["RSA"], Algorithm: "none"})(c) },
		"audience":                 func(c *Config) { privateKeyJWT(&ClientKey{Private: testKeys["P-256"], Audience: "https://as"})(c) },
		"long-lived assertion":     func(c *Config) { privateKeyJWT(&ClientKey{Private: testKeys["P-256"], Lifetime: 61 * time.Second})(c) },
		"short-lived assertion":    func(c *Config) { privateKeyJWT(&ClientKey{Private: testKeys["P-256"], Lifetime: time.Millisecond})(c) },
		"no certificate":           func(c *Config) { c.AuthMethod = AuthTLS },
		"TLS, no certificate":      func(c *Config) { c.AuthMethod, c.TLS = AuthSelfSignedTLS, &tls.Config{} },
		"client_secret_jwt":        func(c *Config) { c.AuthMethod = "client_secret_jwt" },
		"basic without secret":     func(c *Config) { c.AuthMethod, c.ClientSecret, c.Key = AuthBasic, "", key },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := Config{WellKnown: "https://as.example/.well-known/openid-configuration", ClientID: "gate", ClientSecret: "hunter2"}
			change(&cfg)
			if _, err := New(cfg); err == nil || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("got %v", err)
			}
		})
	}
	// A secret that is there for another connector's sake does not hurt once the method is named.
	cfg := Config{WellKnown: "https://as.example/x", ClientID: "gate", ClientSecret: "x", Key: key, AuthMethod: AuthPrivateKeyJWT}
	if _, err := New(cfg); err != nil {
		t.Error(err)
	}
	if key.Lifetime != 0 {
		t.Error("the caller's key was changed")
	}
}

func TestNoCommonAlgorithm(t *testing.T) {
	s := serve(t, (*httptest.Server).Start)
	s.metadata = func() any {
		return map[string]any{"issuer": s.URL, "token_endpoint": s.URL + "/token", "token_endpoint_auth_signing_alg_values_supported": []string{"HS256", "none"}}
	}
	c := s.newClient(t, privateKeyJWT(&ClientKey{Private: testKeys["RSA"]}))
	if err := c.refresh(t.Context()); err == nil || c.Ready() {
		t.Errorf("got %v", err)
	}
}

func TestParseClientKey(t *testing.T) {
	block := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	must := func(der []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	pkcs8 := func(name string) string {
		return block("PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(testKeys[name])))
	}
	sec1 := block("EC PRIVATE KEY", must(x509.MarshalECPrivateKey(testKeys["P-256"].(*ecdsa.PrivateKey))))
	pkcs1 := block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(testKeys["RSA"].(*rsa.PrivateKey)))
	cert := block("CERTIFICATE", certificate(t, testKeys["P-256"], "gate way").Raw)
	other := block("CERTIFICATE", certificate(t, testKeys["RSA"], "gate way").Raw)
	tests := []struct {
		name, text string
		key        string // of testKeys; "" for an error
		cert       bool
	}{
		{"P-256", pkcs8("P-256"), "P-256", false},
		{"P-384", pkcs8("P-384"), "P-384", false},
		{"Ed25519", pkcs8("Ed25519"), "Ed25519", false},
		{"RSA", pkcs8("RSA"), "RSA", false},
		{"SEC 1", block("EC PARAMETERS", []byte{6, 1, 1}) + sec1, "P-256", false},
		{"PKCS #1", pkcs1, "RSA", false},
		{"certificate before", cert + sec1, "P-256", true},
		{"certificate and chain after", "bag attributes\n" + sec1 + cert + other, "P-256", true},
		{"certificate of another key", other + sec1, "", false},
		{"P-224", pkcs8("P-224"), "", false},
		{"nothing", "", "", false},
		{"text", "hunter2", "", false},
		{"certificate alone", cert, "", false},
		{"two keys", sec1 + pkcs1, "", false},
		{"garbage", block("PRIVATE KEY", []byte("hunter2")), "", false},
		{"garbage for a certificate", block("CERTIFICATE", []byte("hunter2")) + sec1, "", false},
		{"encrypted", block("ENCRYPTED PRIVATE KEY", []byte("hunter2")), "", false},
		{"key agreement", block("PRIVATE KEY", []byte{0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x6e, 0x04, 0x22, 0x04, 0x20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32}), "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			key, err := ParseClientKey([]byte(tt.text))
			switch {
			case tt.key == "" && (err == nil || strings.Contains(err.Error(), "hunter2")):
				t.Errorf("got %v, %v", key, err)
			case tt.key != "" && (err != nil || !sameKey(testKeys[tt.key].Public(), key.Private.Public()) || (key.Certificate != nil) != tt.cert):
				t.Errorf("got %+v, %v", key, err)
			}
		})
	}
}

func BenchmarkAssertion(b *testing.B) {
	md := &metadata{issuer: "https://as.example"}
	for _, name := range []string{"P-256", "Ed25519", "RSA"} {
		b.Run(name, func(b *testing.B) {
			key, err := (&ClientKey{Private: testKeys[name]}).complete()
			if err != nil {
				b.Fatal(err)
			}
			md.assertionAlg = key.pickAlgorithm(nil)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := key.assertion("gateway", md, time.Now()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
