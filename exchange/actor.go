package exchange

import (
	"context"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"
)

// actorMargin is how long before its expiry an actor token stops being sent, so
// that it does not expire on the way; for short ones, half their life.
const actorMargin = 10 * time.Second

// actorTokens holds this client's own access token, which says who acts in an
// exchange (RFC 8693 §2.1, actor_token). Any number of callers wait for one
// fetch; a caller that gives up does not take it from the others.
type actorTokens struct {
	current atomic.Pointer[actorToken]
	flight  singleflight.Group
}

type actorToken struct {
	value   string
	subject string // of a JWT; "" if opaque
	until   time.Time
}

func (a *actorTokens) get(ctx context.Context, c *Client, md *metadata) (actorToken, *Error) {
	if t, ok := a.valid(c.cfg.Now); ok {
		return t, nil
	}
	fetched := a.flight.DoChan(md.tokenEndpoint, func() (any, error) {
		if t, ok := a.valid(c.cfg.Now); ok { // another flight has landed since
			return t, nil
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.cfg.Timeout)
		defer cancel()
		t, err := c.fetchActorToken(ctx, md)
		if err != nil {
			return err, nil
		}
		a.current.Store(&t)
		return t, nil
	})
	select {
	case <-ctx.Done():
		return actorToken{}, &Error{Kind: Unavailable, Err: ctx.Err()}
	case r := <-fetched:
		if err, failed := r.Val.(*Error); failed {
			return actorToken{}, err
		}
		return r.Val.(actorToken), nil
	}
}

func (a *actorTokens) valid(now func() time.Time) (actorToken, bool) {
	t := a.current.Load()
	if t == nil || !now().Before(t.until) {
		return actorToken{}, false
	}
	return *t, true
}

// forget drops t if it is still the current token.
func (a *actorTokens) forget(t actorToken) {
	if current := a.current.Load(); current != nil && current.value == t.value {
		a.current.CompareAndSwap(current, nil)
	}
}

// fetchActorToken is the client credentials grant (RFC 6749 §4.4). No scope is
// asked for: the token says who we are, it opens nothing.
func (c *Client) fetchActorToken(ctx context.Context, md *metadata) (actorToken, *Error) {
	asked := c.cfg.Now()
	body, err := c.post(ctx, md, url.Values{"grant_type": {"client_credentials"}})
	if err != nil {
		return actorToken{}, err
	}
	res, bad := parseResponse(body)
	if bad != nil {
		return actorToken{}, &Error{Kind: Unacceptable, Status: http.StatusOK, Err: bad}
	}
	life := res.expiresIn // 0, not said: good for this one use
	t := actorToken{value: res.accessToken, until: asked.Add(life - min(actorMargin, life/2))}
	if jwt, isJWT := splitJWT(res.accessToken); isJWT {
		var cl claims
		if unmarshal(jwt.payload, &cl) == nil {
			t.subject = cl.Subject
		}
	}
	return t, nil
}
