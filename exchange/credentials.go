package exchange

import (
	"context"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// ClientCredentials asks for a token of this client's own (RFC 6749 §4.4) that is
// good for the same place as one of Exchange, and holds it to the same checks: its
// issuer, type, audience, scopes and lifetime. What of r speaks of the agent
// (SubjectToken to Binding, Delegation to RequireAct) has no meaning here: the
// token is the client's, so that its subject is whatever the server calls this
// client, and it may name no actor. Nothing is reused. It needs [Client.Run] as
// Exchange does; the error is always an [*Error].
func (c *Client) ClientCredentials(ctx context.Context, r Request) (*Token, error) {
	r = r.OwnRequest()
	if err := r.validatePlace(); err != nil {
		return nil, c.refuse(err)
	}
	md := c.meta.Load()
	if md == nil {
		err := &Error{Kind: Unavailable, Err: ErrNoMetadata}
		c.count.end(err)
		return nil, err
	}
	token, err := c.credentials(ctx, md, r)
	if err != nil {
		c.count.end(err)
		return nil, err
	}
	c.count.own.Add(1)
	return token, nil
}

func (c *Client) credentials(ctx context.Context, md *metadata, r Request) (*Token, *Error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	if c.cfg.OnBehalfOf { // its own rights there are roles, not scopes; .default is how they are asked for
		r.Scopes = []string{r.longScope(allConsented)}
	}
	asked := c.cfg.Now()
	body, err := c.post(ctx, md, r.credentialsForm(c.cfg.TTLParameter, c.cfg.OnBehalfOf))
	if err != nil {
		return nil, err
	}
	token, bad := check(body, r, expectation{issuer: c.tokenIssuer(md), asked: asked, now: c.cfg.Now(), onBehalfOf: c.cfg.OnBehalfOf, own: true})
	if bad != nil {
		return nil, &Error{Kind: Unacceptable, Status: 200, Err: bad}
	}
	return token, nil
}

// OwnRequest is r without what it says of the agent.
func (r Request) OwnRequest() Request {
	return Request{
		Audience: r.Audience, Resource: r.Resource, TokenAudience: r.TokenAudience,
		Scopes: r.Scopes, AllowNarrower: r.AllowNarrower, Lifetime: r.Lifetime, AcceptLonger: r.AcceptLonger,
		RequireATJWT: r.RequireATJWT, AllowOpaque: r.AllowOpaque,
	}
}

// credentialsForm is the request of RFC 6749 §4.4.2, with the place that the token
// is for (RFC 8707 §2, and the audience of RFC 8693 that many servers read here
// too). Entra ID has the place in the scope, and refuses it elsewhere.
func (r Request) credentialsForm(ttlParameter string, inScope bool) url.Values {
	form := url.Values{"grant_type": {"client_credentials"}}
	if len(r.Scopes) > 0 {
		form.Set("scope", strings.Join(r.Scopes, " "))
	}
	if inScope {
		return form
	}
	if r.Audience != "" {
		form.Set("audience", r.Audience)
	}
	if r.Resource != "" {
		form.Set("resource", r.Resource)
	}
	if r.Lifetime > 0 && ttlParameter != noTTLParameter {
		form.Set(ttlParameter, strconv.FormatInt(int64(r.wholeLifetime()/time.Second), 10))
	}
	return form
}
