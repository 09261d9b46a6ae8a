// Package exchange is an OAuth 2.0 Token Exchange client (RFC 8693): one call,
// one fresh token.
//
// [Client.Exchange] trades the token of a caller for a token that is good for
// one audience, the scopes asked for and a few seconds. By default nothing is
// cached and identical calls are not merged: every call is its own request, so
// that every token has one use. Only the client's own actor token is kept while
// it lives. [Config.Reuse] changes that.
//
// No answer is believed. A token is returned only if everything that can be
// read of it keeps what was asked: its issuer, type, subject, audience, scopes,
// lifetime and actor (see [Request]). The signature is not verified, for the
// token comes straight from its issuer over TLS (the reasoning of OpenID
// Connect Core §3.1.3.7, item 6); the upstream that receives it verifies it.
//
// Every failure is an [*Error], whose Kind says whose failure it is and whose
// Reason says which. There is no fall-back: on failure there is no token. Nothing
// is retried either, except that net/http sends a request again which met a pooled
// connection that the server was just closing. Timeout bounds each call; a server
// that keeps failing is left alone if there is a [Breaker].
//
// Package sts beside this one mints tokens for the same [Request] without asking
// anybody.
package exchange

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"
)

// Client exchanges tokens at one authorization server. It is safe for
// concurrent use.
type Client struct {
	cfg     Config
	http    *http.Client
	meta    atomic.Pointer[metadata]
	secret  atomic.Pointer[string] // ClientSecret, or what it was changed to
	actor   actorTokens
	circuit *circuit
	slots   *slots
	cache   *cache
	count   counters
}

// New checks the configuration. It touches no network: see [Client.Run].
func New(cfg Config) (*Client, error) {
	if err := cfg.complete(); err != nil {
		return nil, fmt.Errorf("exchange: %w", err)
	}
	wellKnown, err := checkURL(cfg.WellKnown, cfg.AllowPlainHTTP)
	if err != nil {
		return nil, fmt.Errorf("exchange: well-known URL: %w", err)
	}
	c := &Client{
		cfg: cfg, http: newHTTPClient(cfg, wellKnown.Hostname()),
		slots: newSlots(cfg.MaxConcurrent, cfg.MaxWait), cache: newCache(cfg.Reuse, cfg.ReuseEntries),
	}
	c.secret.Store(&c.cfg.ClientSecret)
	c.circuit = newCircuit(cfg.Breaker, c.circuitChanged)
	return c, nil
}

func (c *Client) circuitChanged(to Circuit, wait time.Duration) {
	switch to {
	case CircuitOpen:
		c.cfg.Log.Warn("the authorization server is left alone", "url", c.cfg.WellKnown, "for", wait)
	case CircuitClosed:
		c.cfg.Log.Info("the authorization server answers again", "url", c.cfg.WellKnown)
	}
}

// Ready reports whether the metadata has been fetched, that is, whether
// Exchange has an endpoint to ask.
func (c *Client) Ready() bool { return c.meta.Load() != nil }

// Exchange asks for one token (RFC 8693 §2.1) and checks it against r. It needs
// [Client.Run] to have fetched the metadata; until then it is Unavailable. The
// error is always an [*Error].
func (c *Client) Exchange(ctx context.Context, r Request) (*Token, error) {
	if err := c.validate(r); err != nil {
		return nil, err
	}
	md := c.meta.Load()
	if md == nil {
		err := &Error{Kind: Unavailable, Err: ErrNoMetadata}
		c.count.end(err)
		return nil, err
	}
	do := c.ask
	if c.cache != nil {
		do = c.reuse
	}
	token, err := do(ctx, md, r)
	if err != nil {
		return nil, err
	}
	return token, nil
}

func (c *Client) validate(r Request) error {
	err := r.validate()
	if err == nil && c.cfg.OnBehalfOf {
		err = r.validateOnBehalfOf()
	}
	if err == nil {
		return nil
	}
	return c.refuse(err)
}

// refuse is the error for a request that no server would accept.
func (c *Client) refuse(why error) *Error {
	refused := &Error{Kind: Refused, Code: "invalid_request", Err: fmt.Errorf("%w: %w", ErrRequest, why)}
	c.count.end(refused)
	return refused
}

// ask is one exchange, whatever is kept.
func (c *Client) ask(ctx context.Context, md *metadata, r Request) (*Token, *Error) {
	token, err := c.exchange(ctx, md, r)
	c.count.end(err)
	return token, err
}

func (c *Client) exchange(ctx context.Context, md *metadata, r Request) (*Token, *Error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	var actor actorToken
	if r.Delegation && r.ActorToken {
		var err *Error
		if actor, err = c.actor.get(ctx, c, md); err != nil {
			return nil, err
		}
	}
	form := r.form(c.cfg.TTLParameter, actor.value)
	if c.cfg.OnBehalfOf {
		form = r.onBehalfOfForm()
	}
	for name, value := range c.cfg.AdditionalParameters {
		form.Set(name, value)
	}
	asked := c.cfg.Now()
	body, err := c.post(ctx, md, form, r.SubjectToken, actor.value)
	if err != nil {
		if err.Kind == Refused {
			// It may be the actor token that was refused, revoked before its
			// time; the next call then brings a new one.
			c.actor.forget(actor)
		}
		return nil, err
	}
	token, bad := check(body, r, expectation{
		issuer: c.tokenIssuer(md), asked: asked, now: c.cfg.Now(), actors: []string{c.cfg.ClientID, actor.subject}, onBehalfOf: c.cfg.OnBehalfOf,
	})
	if bad != nil {
		return nil, &Error{Kind: Unacceptable, Status: http.StatusOK, Err: bad}
	}
	return token, nil
}

func (c *Client) tokenIssuer(md *metadata) string {
	if c.cfg.TokenIssuer != "" {
		return c.cfg.TokenIssuer
	}
	return md.issuer
}
