package token

import (
	"context"
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/authz/token/dpop"
	"github.com/sallyport/sallyport/authz/token/internal/josetest"
)

const endpoint = audience + "mcp"

var (
	certificate      = []byte("a client certificate, in DER")
	otherCertificate = []byte("another client certificate, in DER")
)

func hashOf(s string) string {
	sum := sha256.Sum256([]byte(s))
	return encode(sum[:])
}

// The confirmations of tokens that are bound to otherEC, and to the certificate.
func jkt() jsonObject { return jsonObject{"jkt": josetest.Thumbprint(otherEC())} }

func x5t() jsonObject { return jsonObject{"x5t#S256": hashOf(string(certificate))} }

var proofs int

// prove makes a proof for a token, by a key; each is new.
func prove(signer crypto.Signer, raw string, changes jsonObject) string {
	proofs++
	header := jsonObject{"typ": "dpop+jwt", "alg": "ES256", "jwk": toJWK("", signer)}
	claims := jsonObject{"jti": fmt.Sprint("proof ", proofs), "htm": "POST", "htu": endpoint, "iat": time.Now().Unix(), "ath": hashOf(raw)}
	return sign("ES256", signer, header, with(claims, changes))
}

// byDPoP presents a token with a good proof by otherEC.
func byDPoP(raw string) Presented {
	return Presented{Scheme: SchemeDPoP, Token: raw, Proofs: []string{prove(otherEC(), raw, nil)}, Method: "POST", URL: endpoint}
}

func byTLS(raw string, cert []byte) Presented {
	return Presented{Scheme: SchemeBearer, Token: raw, Certificate: CertificateDigest(cert)}
}

// expect demands the outcome want of presenting p, and no secret in an error.
func expect(t *testing.T, v *Verifier, p Presented, want error, label ...string) *Identity {
	t.Helper()
	id, err := v.VerifyRequest(t.Context(), p)
	if !errors.Is(err, want) || (id == nil) == (err == nil) {
		t.Errorf("%v: got %+v, %v, want %v", label, id, err, want)
	}
	if err == nil {
		return id
	}
	for _, secret := range append(p.Proofs, p.Token) {
		if len(secret) >= 12 && strings.Contains(err.Error(), secret) {
			t.Errorf("%v: the error quotes a secret: %v", label, err)
		}
	}
	return nil
}

// binding runs f against a verifier of one issuer whose tokens may be bound.
func binding(t *testing.T, mode BindingMode, f func(*testing.T, *Verifier), change ...func(*Config)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		cfg := configFor(newAuthority(issuerA, toJWK("k1", ecKey())))
		cfg.Issuers[0].Binding = mode
		for _, c := range change {
			c(&cfg)
		}
		f(t, start(t, cfg))
	})
}

func TestBoundTokens(t *testing.T) {
	binding(t, BindingOptional, func(t *testing.T, v *Verifier) {
		plain, withKey, withCert := tokenWith(nil, nil), tokenWith(nil, jsonObject{"cnf": jkt()}), tokenWith(nil, jsonObject{"cnf": x5t()})
		without := func(p Presented, change func(*Presented)) Presented { change(&p); return p }
		for name, tt := range map[string]struct {
			p    Presented
			want error
			got  Binding
		}{
			"a bearer token":                {Presented{Token: plain}, nil, Binding{}},
			"a bearer token, scheme given":  {Presented{Scheme: "BEARER", Token: plain}, nil, Binding{}},
			"a bearer token, with a proof":  {Presented{Token: plain, Proofs: []string{prove(otherEC(), plain, nil)}}, nil, Binding{}},
			"a bearer token, with a cert":   {byTLS(plain, certificate), nil, Binding{}},
			"a bearer token as DPoP":        {byDPoP(plain), ErrBinding, Binding{}},
			"another scheme":                {Presented{Scheme: "Basic", Token: plain}, ErrInvalidToken, Binding{}},
			"DPoP":                          {byDPoP(withKey), nil, Binding{MethodDPoP, josetest.Thumbprint(otherEC())}},
			"DPoP in lower case":            {without(byDPoP(withKey), func(p *Presented) { p.Scheme = "dpop" }), nil, Binding{MethodDPoP, josetest.Thumbprint(otherEC())}},
			"F-038 DPoP as bearer":          {Presented{Token: withKey}, ErrBinding, Binding{}},
			"F-038 as bearer, with a proof": {without(byDPoP(withKey), func(p *Presented) { p.Scheme = SchemeBearer }), ErrBinding, Binding{}},
			"DPoP without a proof":          {without(byDPoP(withKey), func(p *Presented) { p.Proofs = nil }), ErrProof, Binding{}},
			"DPoP with a certificate":       {Presented{Scheme: SchemeDPoP, Token: withKey, Certificate: CertificateDigest(certificate)}, ErrProof, Binding{}},
			"DPoP by another key":           {without(byDPoP(withKey), func(p *Presented) { p.Proofs = []string{prove(ecKey(), withKey, nil)} }), ErrBinding, Binding{}},
			"DPoP for another token":        {without(byDPoP(withKey), func(p *Presented) { p.Proofs = []string{prove(otherEC(), plain, nil)} }), ErrProof, Binding{}},
			"DPoP for another method":       {without(byDPoP(withKey), func(p *Presented) { p.Method = "GET" }), ErrProof, Binding{}},
			"DPoP for another URL":          {without(byDPoP(withKey), func(p *Presented) { p.URL += "/x" }), ErrProof, Binding{}},
			"F-032 the proof as the token":  {Presented{Token: prove(otherEC(), withKey, jsonObject{"iss": issuerA, "sub": "x", "exp": 1})}, ErrInvalidToken, Binding{}},
			"mutual TLS":                    {byTLS(withCert, certificate), nil, Binding{MethodMTLS, hashOf(string(certificate))}},
			"mutual TLS, hash in capitals":  {without(byTLS(withCert, certificate), func(p *Presented) { p.Certificate = strings.ToUpper(p.Certificate) }), nil, Binding{MethodMTLS, hashOf(string(certificate))}},
			"F-039 no certificate":          {Presented{Token: withCert}, ErrBinding, Binding{}},
			"F-039 another certificate":     {byTLS(withCert, otherCertificate), ErrBinding, Binding{}},
			"a hash that is none":           {without(byTLS(withCert, certificate), func(p *Presented) { p.Certificate = "x" + p.Certificate[1:] }), ErrBinding, Binding{}},
			"a hash that is cut short":      {without(byTLS(withCert, certificate), func(p *Presented) { p.Certificate = p.Certificate[:62] }), ErrBinding, Binding{}},
			"mutual TLS by DPoP":            {byDPoP(withCert), ErrBinding, Binding{}},
			"mutual TLS by DPoP, with both": {without(byDPoP(withCert), func(p *Presented) { p.Certificate = CertificateDigest(certificate) }), ErrBinding, Binding{}},
		} {
			if id := expect(t, v, tt.p, tt.want, name); id != nil && id.Binding != tt.got {
				t.Errorf("%s: bound to %v", name, id.Binding)
			}
		}
		if v.Nonce() != "" {
			t.Error("a nonce nobody configured")
		}
	})
}

func TestConfirmations(t *testing.T) {
	good := josetest.Thumbprint(otherEC())
	for name, tt := range map[string]struct {
		claims jsonObject
		want   error
	}{
		"jkt":                     {jsonObject{"cnf": jkt()}, nil},
		"jkt and Keycloak's type": {jsonObject{"cnf": with(jkt(), jsonObject{"kc-jkt-type": "DPoP"})}, nil},
		"Keycloak's typ":          {jsonObject{"cnf": jkt(), "typ": "DPoP"}, nil},
		"typ DPoP without a key":  {jsonObject{"typ": "DPoP"}, ErrBinding},
		"cnf empty":               {jsonObject{"cnf": jsonObject{}}, ErrBinding},
		"cnf a string":            {jsonObject{"cnf": good}, ErrBinding},
		"cnf a list":              {jsonObject{"cnf": []any{jkt()}}, ErrBinding},
		"a method not known here": {jsonObject{"cnf": jsonObject{"x": good}}, ErrBinding},
		"a key by value":          {jsonObject{"cnf": jsonObject{"jwk": toJWK("", otherEC())}}, ErrBinding},
		"a key by value too":      {jsonObject{"cnf": with(jkt(), jsonObject{"jwk": toJWK("", otherEC())})}, ErrBinding},
		"a kid":                   {jsonObject{"cnf": jsonObject{"kid": "k1"}}, ErrBinding},
		"two methods":             {jsonObject{"cnf": with(jkt(), x5t())}, ErrBinding},
		"jkt empty":               {jsonObject{"cnf": jsonObject{"jkt": ""}}, ErrBinding},
		"jkt a number":            {jsonObject{"cnf": jsonObject{"jkt": 1}}, ErrBinding},
		"jkt too short":           {jsonObject{"cnf": jsonObject{"jkt": good[:42]}}, ErrBinding},
		"jkt padded":              {jsonObject{"cnf": jsonObject{"jkt": good + "="}}, ErrBinding},
		"jkt in another case":     {jsonObject{"cnf": jsonObject{"JKT": good}}, ErrBinding},
	} {
		t.Run(name, func(t *testing.T) {
			binding(t, BindingRequired, func(t *testing.T, v *Verifier) {
				expect(t, v, byDPoP(tokenWith(nil, tt.claims)), tt.want)
			})
			bubble(t, func(t *testing.T, v *Verifier) { // and none is good where binding is not configured
				if tt.claims["cnf"] != nil {
					expect(t, v, byDPoP(tokenWith(nil, tt.claims)), ErrBinding)
				}
			})
		})
	}
}

// A token that says it is for DPoP, but is bound to a certificate, is neither.
func TestContradictoryBinding(t *testing.T) {
	binding(t, BindingOptional, func(t *testing.T, v *Verifier) {
		expect(t, v, byTLS(tokenWith(nil, jsonObject{"cnf": x5t(), "typ": "DPoP"}), certificate), ErrBinding)
		expect(t, v, byTLS(tokenWith(nil, jsonObject{"cnf": x5t(), "typ": "Bearer"}), certificate), nil)
	})
}

func TestBindingModes(t *testing.T) {
	for mode, want := range map[BindingMode]struct{ bearer, dpop, mtls error }{
		"":              {nil, ErrBinding, ErrBinding},
		BindingNone:     {nil, ErrBinding, ErrBinding},
		BindingOptional: {nil, nil, nil},
		BindingRequired: {ErrBinding, nil, nil},
	} {
		binding(t, mode, func(t *testing.T, v *Verifier) {
			label := fmt.Sprintf("mode %q", mode)
			expect(t, v, Presented{Token: tokenWith(nil, nil)}, want.bearer, label, "bearer")
			expect(t, v, byDPoP(tokenWith(nil, nil)), ErrBinding, label, "bearer as dpop")
			expect(t, v, byDPoP(tokenWith(nil, jsonObject{"cnf": jkt()})), want.dpop, label, "dpop")
			expect(t, v, byTLS(tokenWith(nil, jsonObject{"cnf": x5t()}), certificate), want.mtls, label, "mtls")
			if v.Nonce() != "" {
				t.Error("a nonce")
			}
		})
	}
}

// A token that has been verified is remembered; what its presenter proves is not.
func TestPossessionIsProvenEachTime(t *testing.T) {
	binding(t, BindingOptional, func(t *testing.T, v *Verifier) {
		withKey, withCert := tokenWith(nil, jsonObject{"cnf": jkt()}), tokenWith(nil, jsonObject{"cnf": x5t()})
		good := byDPoP(withKey)
		first := expect(t, v, good, nil)
		expect(t, v, Presented{Token: withKey}, ErrBinding)
		expect(t, v, good, ErrReplay)
		if expect(t, v, byDPoP(withKey), nil) != first {
			t.Error("verified twice")
		}
		expect(t, v, byTLS(withCert, certificate), nil)
		expect(t, v, Presented{Token: withCert}, ErrBinding)
		expect(t, v, byTLS(withCert, otherCertificate), ErrBinding)
	})
}

func TestLooks(t *testing.T) {
	binding(t, BindingOptional, func(t *testing.T, v *Verifier) {
		raw, cert := tokenWith(nil, jsonObject{"cnf": jkt()}), tokenWith(nil, jsonObject{"cnf": x5t()})
		look := func(p Presented, l Look) Presented { p.Look = l; return p }
		p, bound := byDPoP(raw), byTLS(cert, certificate)
		expect(t, v, p, nil)
		expect(t, v, bound, nil)
		expect(t, v, look(p, LookRelayed), nil)
		expect(t, v, look(p, LookRelayed), nil)
		expect(t, v, look(p, LookHeld), nil)
		expect(t, v, p, ErrReplay)
		expect(t, v, look(bound, LookRelayed), nil)
		bad := p
		bad.Method = "GET"
		expect(t, v, look(bad, LookRelayed), ErrProof)
		bad.Proofs = nil
		expect(t, v, look(bad, LookRelayed), ErrProof)
		bad.Scheme = SchemeBearer
		expect(t, v, look(bad, LookHeld), ErrBinding)
		expect(t, v, look(Presented{Token: cert}, LookRelayed), ErrBinding)

		advance(10 * time.Minute)
		expect(t, v, look(p, LookRelayed), ErrProof)
		expect(t, v, look(p, LookHeld), nil)
		advance(time.Hour)
		expect(t, v, look(p, LookHeld), ErrExpired)
	})
}

func TestNonces(t *testing.T) {
	binding(t, BindingOptional, func(t *testing.T, v *Verifier) {
		raw := tokenWith(nil, jsonObject{"cnf": jkt()})
		p := byDPoP(raw)
		_, err := v.VerifyRequest(t.Context(), p)
		var wanted *NonceError
		if !errors.Is(err, ErrNonce) || !errors.As(err, &wanted) {
			t.Fatalf("got %v", err)
		}
		p.Proofs = []string{prove(otherEC(), raw, jsonObject{"nonce": wanted.Nonce})}
		expect(t, v, p, nil)
		p.Proofs = []string{prove(otherEC(), raw, jsonObject{"nonce": v.Nonce()})}
		expect(t, v, p, nil)
		expect(t, v, Presented{Token: tokenWith(nil, nil)}, nil)
	}, func(cfg *Config) { cfg.DPoP.NonceKey = []byte(strings.Repeat("k", dpop.MinNonceKeyBytes)) })
}

// Proofs are judged by the verifier's clock, whatever the clock of their own configuration.
func TestProofsGoByOurClock(t *testing.T) {
	v := still(func(cfg *Config) {
		cfg.Issuers[0].Binding = BindingOptional
		cfg.DPoP.Now = time.Now
	})
	raw := sign("ES256", ecKey(), baseHeader, with(benchClaims(), jsonObject{"cnf": jkt()}))
	p := byDPoP(raw)
	expect(t, v, p, ErrProof)
	p.Proofs = []string{prove(otherEC(), raw, jsonObject{"iat": fuzzNow.Unix()})}
	expect(t, v, p, nil)
}

// lost is a memory of proofs that is away.
type lost struct{}

func (lost) Use(context.Context, string, string, time.Time) (bool, error) {
	return true, errors.New("connection refused")
}

func TestLostReplays(t *testing.T) {
	binding(t, BindingOptional, func(t *testing.T, v *Verifier) {
		expect(t, v, byDPoP(tokenWith(nil, jsonObject{"cnf": jkt()})), ErrUnavailable)
		expect(t, v, Presented{Token: tokenWith(nil, nil)}, nil)
	}, func(cfg *Config) { cfg.DPoP.Replays = lost{} })
}

func TestNewRefusesBinding(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"a mode of its own":   func(cfg *Config) { cfg.Issuers[0].Binding = "maybe" },
		"proofs for ever":     func(cfg *Config) { cfg.Issuers[0].Binding, cfg.DPoP.Window = BindingOptional, time.Hour },
		"a short nonce key":   func(cfg *Config) { cfg.Issuers[0].Binding, cfg.DPoP.NonceKey = BindingOptional, []byte("x") },
		"a client of no name": func(cfg *Config) { cfg.Issuers[0].Clients = []string{""} },
	} {
		cfg := configFor(newAuthority(issuerA))
		change(&cfg)
		if v, err := New(cfg); err == nil || v != nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestIntrospectedBinding(t *testing.T) {
	for name, tt := range map[string]struct {
		answer jsonObject
		want   error
	}{
		"DPoP":                     {jsonObject{"cnf": jkt(), "token_type": "DPoP"}, nil},
		"DPoP, Keycloak's typ":     {jsonObject{"cnf": jkt(), "token_type": "DPoP", "typ": "DPoP"}, nil},
		"DPoP, no token_type":      {jsonObject{"cnf": jkt(), "token_type": nil}, nil},
		"DPoP said to be a bearer": {jsonObject{"cnf": jkt()}, ErrTokenType},
		"cnf dropped":              {jsonObject{"token_type": "DPoP"}, ErrBinding},
		"cnf and type dropped":     {nil, ErrBinding},
		"another key":              {jsonObject{"cnf": jsonObject{"jkt": josetest.Thumbprint(ecKey())}, "token_type": "DPoP"}, ErrBinding},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := newInspector(newAuthority(issuerA, toJWK("k1", ecKey())), answerWith(tt.answer))
				cfg := i.config()
				cfg.Issuers[0].Binding = BindingOptional
				v := start(t, cfg)
				expect(t, v, byDPoP(opaqueToken), tt.want)
				if tt.want == nil {
					expect(t, v, Presented{Token: opaqueToken}, ErrBinding)
				}
				i.says(answerWith(jsonObject{"cnf": x5t()}))
				expect(t, v, byTLS(opaqueToken, certificate), nil)
				expect(t, v, byTLS(opaqueToken, otherCertificate), ErrBinding)
			})
		})
	}
}

func TestBindingString(t *testing.T) {
	for want, b := range map[string]Binding{"": {}, "dpop:x": {MethodDPoP, "x"}, "mtls:y": {MethodMTLS, "y"}} {
		if b.String() != want {
			t.Errorf("%q, want %q", b, want)
		}
	}
}

// sameReplays lets a benchmark use one proof again and again.
type sameReplays struct{}

func (sameReplays) Use(context.Context, string, string, time.Time) (bool, error) { return true, nil }

func BenchmarkVerifyRequestDPoP(b *testing.B) {
	raw := sign("ES256", ecKey(), baseHeader, with(benchClaims(), jsonObject{"cnf": jkt()}))
	v := still(func(cfg *Config) {
		cfg.CacheSize = 0
		cfg.Issuers[0].Binding = BindingRequired
		cfg.DPoP.Replays = sameReplays{}
	})
	p := byDPoP(raw)
	p.Proofs = []string{prove(otherEC(), raw, jsonObject{"iat": fuzzNow.Unix()})}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.VerifyRequest(context.Background(), p); err != nil {
			b.Fatal(err)
		}
	}
}
