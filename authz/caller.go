package authz

import (
	"context"

	"github.com/sallyport/sallyport/authz/token"
)

// Caller is who sent a message: the verified identity, and the token that proves it, which only the gate may use.
type Caller struct {
	Identity *token.Identity
	raw      string
}

func (c *Call) caller() *Caller { return &Caller{c.identity, c.rawToken} }

// Identify verifies the caller again for the hub, which trusts no header to say who is calling.
func (g *Gate) Identify(ctx context.Context, r Request) (*Caller, *Reply) {
	id, raw, rej := g.verify(ctx, r, token.LookRelayed)
	if rej != nil {
		reply := rej.reply(&Call{gate: g, req: r})
		return nil, &reply
	}
	return &Caller{id, raw}, nil
}

// TokenSource returns how c's tokens for sessions and streams are got: by exchange, where the app has a rule for them, or
// the upstream is known to demand a token for everything. Else there are none.
func (g *Gate) TokenSource(c *Caller) TokenSource {
	return func(ctx context.Context, app *App, demanded bool) (string, error) {
		x := app.Exchange
		if x == nil || x.Session == nil && x.Discovery.Type == DiscoverBare && !demanded {
			return "", nil
		}
		issued, err := g.exchange(ctx, app, x.forAgents(), c)
		if err != nil {
			return "", err
		}
		return issued.Value, nil
	}
}
