package service

import (
	"context"
	"errors"
	"fmt"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/exchange"
)

// tokenSource makes tokens: an exchange.Client by asking, an sts.Minter by itself.
type tokenSource interface {
	Exchange(ctx context.Context, r exchange.Request) (*exchange.Token, error)
	ClientCredentials(ctx context.Context, r exchange.Request) (*exchange.Token, error)
}

// exchanger lets the gate, which knows no OAuth client, use one.
type exchanger struct{ source tokenSource }

func (e exchanger) Exchange(ctx context.Context, r authz.TokenRequest) (*authz.IssuedToken, error) {
	t, err := e.source.Exchange(ctx, exchange.Request{
		SubjectToken: r.SubjectToken, Subject: r.Subject, SubjectClaim: r.Rule.SubjectClaim,
		Audience: r.Rule.Audience, Resource: r.Rule.Resource, Scopes: r.Scopes, Lifetime: r.Lifetime,
		Delegation: r.Rule.Delegation, ActorToken: r.Rule.ActorToken,
		RequireAct: r.Rule.RequireAct, AllowOpaque: r.Rule.AllowOpaque,
		AcceptLonger: r.Rule.AllowLonger, AllowNarrower: r.Rule.AllowNarrower,
		Agent: r.Agent, Act: r.Act, SubjectExpiry: r.Expiry, SubjectJTI: r.JTI, Binding: r.Binding,
	})
	return issued(t, err)
}

// ClientCredentials gets a token of the gateway's own.
func (e exchanger) ClientCredentials(ctx context.Context, x *authz.ExchangeRule, r authz.TokenRule) (*authz.IssuedToken, error) {
	t, err := e.source.ClientCredentials(ctx, exchange.Request{
		Audience: x.Audience, Resource: x.Resource, Scopes: r.Scopes, Lifetime: r.Lifetime,
		AllowOpaque: x.AllowOpaque, AcceptLonger: x.AllowLonger, AllowNarrower: x.AllowNarrower,
	})
	return issued(t, err)
}

func issued(t *exchange.Token, err error) (*authz.IssuedToken, error) {
	var why *exchange.Error
	switch {
	case errors.As(err, &why):
		if why.Detail != "" {
			err = fmt.Errorf("%w; it says: %s", err, why.Detail)
		}
		return nil, &authz.ExchangeError{Refused: why.Kind == exchange.Refused, RetryAfter: why.RetryAfter, Reason: why.Reason(), Err: err}
	case err != nil:
		return nil, &authz.ExchangeError{Err: err}
	}
	return &authz.IssuedToken{Value: t.Value, JTI: t.JTI, Audience: t.Audience, Scopes: t.Scopes,
		Actors: t.Actors, ExpiresIn: t.ExpiresIn, Expiry: t.Expiry, Longer: t.Longer, Narrower: t.Narrower, Reused: t.Reused}, nil
}
