package authz

import (
	"context"
	"errors"
	"time"
)

// Discovery is the token with which the hub finds out what an upstream speaks, and reads its lists. The gateway's own
// never goes out with anything of an agent's.
type Discovery struct {
	Type   DiscoveryType
	Tokens Credentials // gets tokens of the gateway's own; nil: there are none
	TokenRule
}

// DiscoveryType is whose token that is.
type DiscoveryType uint8

// The types.
const (
	DiscoverBare      DiscoveryType = iota // nobody's; the gateway's own once the upstream has demanded one
	DiscoverAsGateway                      // the gateway's own
	DiscoverAsAgent                        // one exchanged for the agent that asks: each caller has lists of its own
)

// Credentials gets tokens of the gateway's own, for the place that a rule names (RFC 6749 §4.4).
type Credentials interface {
	ClientCredentials(ctx context.Context, x *ExchangeRule, r TokenRule) (*IssuedToken, error)
}

// DiscoversAsAgent reports whether each caller has lists of its own.
func (a *App) DiscoversAsAgent() bool {
	return a.Exchange != nil && a.Exchange.Discovery.Type == DiscoverAsAgent
}

// agentLifetime is that of an agent's token for which the configuration says nothing.
const agentLifetime = time.Minute

// forAgents is what a token may do that is exchanged for an agent and belongs to no single call.
func (x *ExchangeRule) forAgents() TokenRule {
	if x.Session != nil {
		return *x.Session
	}
	return x.Discovery.forAgents()
}

func (d Discovery) forAgents() TokenRule {
	r := d.TokenRule
	if r.Lifetime == 0 {
		r.Lifetime = agentLifetime
	}
	return r
}

var (
	errNoAgent       = errors.New("no agent is there to exchange a token for")
	errNoCredentials = errors.New("the connector gives the gateway no token of its own")
)

// discoveryTokenFor exchanges for an agent. Whatever the token says, what it was shown is good for no longer than was asked
// for, or than the agent's own token.
func (g *Gate) discoveryTokenFor(ctx context.Context, app *App, who *Caller) (*IssuedToken, error) {
	rule, start := app.Exchange.Discovery.forAgents(), g.cfg.Now()
	issued, err := g.exchange(ctx, app, rule, who)
	if err != nil {
		return nil, err
	}
	t := *issued
	for _, end := range []time.Time{start.Add(rule.Lifetime), who.Identity.Expiry} {
		if t.Expiry.IsZero() || !end.IsZero() && end.Before(t.Expiry) {
			t.Expiry = end
		}
	}
	return &t, nil
}

// DiscoveryToken gets the token for what the hub asks of a protected app on its own account: the gateway's own, or, where
// lists are each caller's, one exchanged for who.
func (g *Gate) DiscoveryToken(ctx context.Context, app *App, who *Caller) (*IssuedToken, error) {
	d := app.Exchange.Discovery
	switch {
	case d.Type == DiscoverAsAgent && who == nil:
		return nil, errNoAgent
	case d.Type == DiscoverAsAgent:
		return g.discoveryTokenFor(ctx, app, who)
	case d.Tokens == nil:
		return nil, errNoCredentials
	}
	start := g.cfg.Now()
	issued, err := d.Tokens.ClientCredentials(ctx, app.Exchange, d.TokenRule)
	if err == nil && (issued == nil || issued.Value == "") {
		err = errNotFresh
	}
	g.cfg.Metrics.exchange(app.Name, err, g.cfg.Now().Sub(start))
	return issued, err
}
