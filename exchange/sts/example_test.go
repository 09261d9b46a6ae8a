package sts_test

import (
	"context"
	"fmt"
	"time"

	"github.com/sallyport/sallyport/exchange"
	"github.com/sallyport/sallyport/exchange/sts"
)

func ExampleMinter() {
	keys, err := sts.NewKeySet(sts.KeySetConfig{}) // in memory; Dir or PEM in earnest
	if err != nil {
		fmt.Println(err)
		return
	}
	m, err := sts.NewMinter(sts.MinterConfig{Issuer: "https://gateway.example", ClientID: "gateway", Keys: keys})
	if err != nil {
		fmt.Println(err)
		return
	}
	token, err := m.Exchange(context.Background(), exchange.Request{
		SubjectToken: "the.agents.token", Subject: "alice", Agent: "assistant",
		Audience: "https://tickets.example/", Scopes: []string{"ticket:List"}, Lifetime: 5 * time.Second, Delegation: true,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(token.Subject, token.Actors, token.Audience, token.Scopes, token.ExpiresIn)
	// Output: alice [gateway assistant] [https://tickets.example/] [ticket:List] 5s
}
