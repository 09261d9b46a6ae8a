package authz_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/sallyport/sallyport/authz"
)

// own issues tokens of the gateway's own.
type own struct {
	issued *authz.IssuedToken
	err    error
	asked  []authz.TokenRule
}

func (o *own) ClientCredentials(_ context.Context, _ *authz.ExchangeRule, r authz.TokenRule) (*authz.IssuedToken, error) {
	o.asked = append(o.asked, r)
	return o.issued, o.err
}

// The gateway's own token serves everybody; where lists are each caller's, the caller's serves, and nothing else does.
func TestDiscoveryToken(t *testing.T) {
	look := authz.TokenRule{Scopes: []string{"item:Look"}}
	begun := time.Now()
	for name, test := range map[string]struct {
		kind      authz.DiscoveryType
		agent     bool
		change    func(w *world, o *own)
		want      string
		lifetime  time.Duration // that was asked for
		expiresBy time.Duration // from now; 0: not known
	}{
		"bare":                        {authz.DiscoverBare, false, nil, "own", 0, 0},
		"bare, for an agent":          {authz.DiscoverBare, true, nil, "own", 0, 0},
		"the gateway's":               {authz.DiscoverAsGateway, true, nil, "own", 0, 0},
		"refused":                     {authz.DiscoverAsGateway, false, func(_ *world, o *own) { o.err = errors.New("no") }, "", 0, 0},
		"nothing":                     {authz.DiscoverAsGateway, false, func(_ *world, o *own) { o.issued = nil }, "", 0, 0},
		"no such grant":               {authz.DiscoverAsGateway, false, func(w *world, _ *own) { w.items.Exchange.Discovery.Tokens = nil }, "", 0, 0},
		"an agent's":                  {authz.DiscoverAsAgent, true, nil, issuedToken, time.Minute, time.Minute},
		"an agent's, for nobody":      {authz.DiscoverAsAgent, false, nil, "", 0, 0},
		"an agent's, refused":         {authz.DiscoverAsAgent, true, func(w *world, _ *own) { w.exchanger.err = errors.New("no") }, "", time.Minute, 0},
		"an agent's, the agent's own": {authz.DiscoverAsAgent, true, func(w *world, _ *own) { w.exchanger.issued.Value = agentToken }, "", time.Minute, 0},
		"an agent's that lives longer": {authz.DiscoverAsAgent, true, func(w *world, _ *own) {
			w.exchanger.issued.Expiry = begun.Add(time.Hour)
		}, issuedToken, time.Minute, time.Minute},
		"an agent's that lives shorter": {authz.DiscoverAsAgent, true, func(w *world, _ *own) {
			w.exchanger.issued.Expiry = begun.Add(20 * time.Second)
		}, issuedToken, time.Minute, 20 * time.Second},
		"an agent's that outlives the agent": {authz.DiscoverAsAgent, true, func(w *world, _ *own) {
			w.tokens.known[agentToken].Expiry = begun.Add(10 * time.Second)
		}, issuedToken, time.Minute, 10 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			o := &own{issued: &authz.IssuedToken{Value: "own"}}
			w := newWorld(t, func(w *world) {
				w.items.Exchange.Discovery = authz.Discovery{Type: test.kind, Tokens: o, TokenRule: look}
				if test.change != nil {
					test.change(w, o)
				}
			})
			var who *authz.Caller
			if test.agent {
				who, _ = w.gate.Identify(t.Context(), post())
			}
			got, err := w.gate.DiscoveryToken(t.Context(), w.items, who)
			if (err != nil) != (test.want == "") || err == nil && got.Value != test.want {
				t.Fatalf("%+v, %v", got, err)
			}
			if n := len(w.exchanger.requests); test.lifetime > 0 != (n > 0) || n > 0 && w.exchanger.requests[0].Lifetime != test.lifetime {
				t.Errorf("exchanges %+v", w.exchanger.requests)
			}
			for _, asked := range o.asked {
				diff(t, "asked", look, asked)
			}
			switch {
			case err != nil:
			case got.Expiry.IsZero():
				if test.expiresBy > 0 {
					t.Error("no end")
				}
			default:
				left := got.Expiry.Sub(begun)
				if left < test.expiresBy-time.Second || left > test.expiresBy+10*time.Second { // of a busy machine
					t.Errorf("good for %s, want %s", left, test.expiresBy)
				}
			}
		})
	}
}
