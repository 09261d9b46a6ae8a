package sts_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/sallyport/sallyport/exchange"
	"github.com/sallyport/sallyport/exchange/sts"
)

func BenchmarkMint(b *testing.B) {
	for _, alg := range []string{sts.ES256, sts.EdDSA} {
		for _, act := range []string{"", `{"sub":"orchestrator","act":{"sub":"assistant"}}`} {
			b.Run(fmt.Sprintf("%s/chain=%t", alg, act != ""), func(b *testing.B) {
				keys, err := sts.NewKeySet(sts.KeySetConfig{Algorithm: alg})
				if err != nil {
					b.Fatal(err)
				}
				m, err := sts.NewMinter(sts.MinterConfig{Issuer: "https://gateway.example/sts", ClientID: "ai-identity-gateway", Keys: keys})
				if err != nil {
					b.Fatal(err)
				}
				r := exchange.Request{
					SubjectToken: "a.b.c", Subject: "0f6a7f6e-6a57-4c8c-9d63-5a0d5b0f2f11", Audience: "https://tickets.example/", Scopes: []string{"ticket:List", "ticket:Read"},
					Lifetime: 5 * time.Second, Delegation: true, Agent: "claude", Act: []byte(act), SubjectExpiry: time.Now().Add(time.Hour),
				}
				b.ReportAllocs()
				for b.Loop() {
					if _, err := m.Exchange(b.Context(), r); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
