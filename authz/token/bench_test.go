package token

import (
	"context"
	"testing"
)

func benchToken() string {
	claims := jsonObject{
		"iss": issuerA, "sub": "alice", "aud": audience, "client_id": "agent", "exp": fuzzNow.Unix() + 100,
		"iat": fuzzNow.Unix(), "jti": "0123456789abcdef", "scope": "tools:read tools:call",
		"act": jsonObject{"sub": "gateway"}, "groups": []string{"engineering", "on-call", "finance-readers"},
	}
	return sign("ES256", ecKey(), baseHeader, claims)
}

func BenchmarkVerifyMiss(b *testing.B) {
	raw := benchToken()
	v := *fuzzVerifier()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Verify(context.Background(), raw); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerifyHit(b *testing.B) {
	raw := benchToken()
	v := *fuzzVerifier()
	v.cache = newCache(defaultCacheSize)
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

// A hit costs the garbage collector nothing: it happens on every message.
func TestHitAllocatesNothing(t *testing.T) {
	raw := benchToken()
	v := *fuzzVerifier()
	v.cache = newCache(defaultCacheSize)
	n := testing.AllocsPerRun(100, func() {
		if _, err := v.Verify(context.Background(), raw); err != nil {
			t.Error(err)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}
