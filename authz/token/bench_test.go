package token

import (
	"context"
	"testing"
)

func benchClaims() jsonObject {
	return jsonObject{
		"iss": issuerA, "sub": "alice", "aud": audience, "client_id": "agent", "exp": fuzzNow.Unix() + 100,
		"iat": fuzzNow.Unix(), "jti": "0123456789abcdef", "scope": "tools:read tools:call",
		"act": jsonObject{"sub": "gateway"}, "groups": []string{"engineering", "on-call", "finance-readers"},
	}
}

func benchToken() string { return sign("ES256", ecKey(), baseHeader, benchClaims()) }

func BenchmarkVerifyMiss(b *testing.B) {
	raw := benchToken()
	v := still()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Verify(context.Background(), raw); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerifyHit(b *testing.B) {
	raw := benchToken()
	v := still(remembering)
	if _, err := v.Verify(context.Background(), raw); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Verify(context.Background(), raw); err != nil {
			b.Fatal(err)
		}
	}
}

func remembering(cfg *Config) { cfg.CacheSize = 0 }

// A hit with all that can be asked of a bearer token: a certificate to compare, and a list of the revoked.
func BenchmarkVerifyHitMutualTLS(b *testing.B) {
	raw := sign("ES256", ecKey(), baseHeader, with(benchClaims(), jsonObject{"cnf": x5t()}))
	v := still(remembering, func(cfg *Config) {
		cfg.Issuers[0].Binding = BindingRequired
		cfg.Revoked = func(id *Identity) bool { return id.JTI == "" }
	})
	p := byTLS(raw, certificate)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.VerifyRequest(context.Background(), p); err != nil {
			b.Fatal(err)
		}
	}
}

// A hit costs the garbage collector nothing: it happens on every message.
func TestHitAllocatesNothing(t *testing.T) {
	raw := benchToken()
	v := still(remembering, func(cfg *Config) {
		cfg.Issuers[0].Binding = BindingOptional
		cfg.Revoked = func(id *Identity) bool { return id.JTI == "" }
	})
	p := Presented{Scheme: SchemeBearer, Token: raw, Method: "POST", URL: endpoint, Certificate: CertificateDigest(certificate)}
	for name, verify := range map[string]func() (*Identity, error){
		"Verify":        func() (*Identity, error) { return v.Verify(context.Background(), raw) },
		"VerifyRequest": func() (*Identity, error) { return v.VerifyRequest(context.Background(), p) },
	} {
		n := testing.AllocsPerRun(100, func() {
			if _, err := verify(); err != nil {
				t.Error(err)
			}
		})
		if n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
