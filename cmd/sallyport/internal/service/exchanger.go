package service

import (
	"context"
	"errors"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/exchange"
)

// exchanger lets the gate, which knows no OAuth client, use one.
type exchanger struct{ client *exchange.Client }

func (e exchanger) Exchange(ctx context.Context, r authz.TokenRequest) (*authz.IssuedToken, error) {
	t, err := e.client.Exchange(ctx, exchange.Request{
		SubjectToken: r.SubjectToken, Subject: r.Subject,
		Audience: r.Rule.Audience, Scopes: r.Scopes, Lifetime: r.Lifetime,
		Delegation: r.Rule.Delegation, ActorToken: r.Rule.ActorToken,
		RequireAct: r.Rule.RequireAct, AllowOpaque: r.Rule.AllowOpaque,
	})
	var why *exchange.Error
	switch {
	case errors.As(err, &why):
		return nil, &authz.ExchangeError{Refused: why.Kind == exchange.Refused, RetryAfter: why.RetryAfter, Err: err}
	case err != nil:
		return nil, &authz.ExchangeError{Err: err}
	}
	return &authz.IssuedToken{Value: t.Value, JTI: t.JTI, Audience: t.Audience, Scopes: t.Scopes,
		Actors: t.Actors, ExpiresIn: t.ExpiresIn}, nil
}
