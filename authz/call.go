package authz

import (
	"context"
	"errors"
	"time"

	"github.com/sallyport/sallyport/authz/policy"
	"github.com/sallyport/sallyport/authz/token"
	"github.com/sallyport/sallyport/mcpparse"
)

// The steps of a tool call, in the order in which judge takes them.

// resolve finds the app behind the namespaced name.
func (c *Call) resolve() *rejection {
	app, tool, ok := c.gate.resolve(c.msg.Name)
	if !ok {
		return unknownName(c.msg.Name, "no app owns this name")
	}
	c.app, c.tool = app, tool
	if c.msg.BigNumber != "" && !app.AllowBigNumbers {
		return denied(400, mcpparse.CodeInvalidParams,
			c.msg.BigNumber+": number out of the range that every JSON reader agrees on", "")
	}
	return nil
}

// decide asks the app's policy. Anything but a plain yes refuses.
func (c *Call) decide(ctx context.Context) *rejection {
	in := c.policyInput()
	start := c.gate.cfg.Now()
	d := c.app.Policy.Decide(ctx, in)
	c.gate.cfg.Metrics.policy(c.app.Name, c.gate.cfg.Now().Sub(start))
	_, known := c.app.rule(c.tool)
	reason := d.Explain()
	if d.Allowed {
		reason = "tool is not named in tokenExchange.tools"
	}
	switch {
	case d.Allowed && known:
		return nil
	case !known && c.app.ListAll:
		return denied(200, 0, "denied by policy", reason)
	case !known:
		return unknownName(c.msg.Name, reason)
	case len(d.RequiredScopes) > 0:
		return c.insufficientScope(d.RequiredScopes, d.Message)
	case d.Message != "":
		return denied(200, 0, d.Message, "")
	case c.gate.visible(ctx, c.app, c.tool, in):
		return denied(200, 0, "denied by policy", reason)
	default:
		return unknownName(c.msg.Name, reason)
	}
}

func (c *Call) policyInput() policy.Input {
	return policyInput(c.app, c.req, c.identity, c.msg.Method, c.version, &policy.Tool{Name: c.tool, Arguments: c.msg.Arguments})
}

func policyInput(app *App, r Request, id *token.Identity, method, version string, tool *policy.Tool) policy.Input {
	return policy.Input{
		Method:          method,
		ProtocolVersion: version,
		Tool:            tool,
		HTTP:            policy.HTTP{Method: r.Method, Path: r.Path, Host: r.Host, Headers: r.Header.canonical()},
		SourceIP:        r.SourceIP,
		App:             app.Name,
		Identity:        id,
	}
}

// Visible reports whether a caller's list shows tool of app: the same decision as a call, with the arguments unknown.
func (g *Gate) Visible(ctx context.Context, app *App, tool string, r Request, id *token.Identity, version string) bool {
	if owner, _, ok := g.resolve(app.Prefix + tool); !ok || owner != app {
		return false // the name leads elsewhere, or nowhere
	}
	return g.visible(ctx, app, tool, policyInput(app, r, id, "tools/call", version, &policy.Tool{Name: tool}))
}

func (g *Gate) visible(ctx context.Context, app *App, tool string, in policy.Input) bool {
	if app.ListAll {
		return true
	}
	_, known := app.rule(tool)
	return known && app.Policy.Visible(ctx, in)
}

// Identify verifies the caller again for the hub, which trusts no header to say who is calling.
func (g *Gate) Identify(ctx context.Context, r Request) (*token.Identity, *Reply) {
	id, _, rej := g.verify(ctx, r)
	if rej != nil {
		reply := rej.reply(&Call{gate: g, req: r})
		return nil, &reply
	}
	return id, nil
}

// owner names whose upstream session this call uses: the agent's own session, or, in the era without sessions, the
// principal. Nothing crosses from one principal to another.
func (c *Call) owner() string {
	if c.session.ID != "" {
		return c.session.ID
	}
	return "principal-" + c.identity.Principal()
}

// legTimeout bounds asking the upstream for its era and a session, so that an answer is given before the host gives up.
const legTimeout = 4 * time.Second

// openLeg learns how the upstream is to be spoken to.
func (c *Call) openLeg(ctx context.Context) *rejection {
	ctx, cancel := context.WithTimeout(ctx, legTimeout)
	defer cancel()
	leg, err := c.gate.cfg.Upstreams.Leg(ctx, c.app, c.owner(), c.era)
	if err != nil {
		return failed(502, "the upstream is not reachable", err.Error())
	}
	c.leg = leg
	return nil
}

// checkActor notes a delegated token that does not say who acts. Some authorization servers write no `act`; RequireAct
// refuses their tokens, and otherwise the operator is told.
func (c *Call) checkActor() {
	if !c.app.Exchange.Delegation || len(c.issued.Actors) > 0 {
		return
	}
	c.note = "the delegated token has no act"
	if _, told := c.gate.actless.LoadOrStore(c.app.Name, true); !told {
		c.gate.cfg.Log.Warn("delegated tokens come without act: upstreams cannot see who acts; requireAct refuses them", "app", c.app.Name)
	}
}

// exchange swaps the agent's token for one that is good for this tool. There is no fallback: no token, no call.
func (c *Call) exchange(ctx context.Context) *rejection {
	x := c.app.Exchange
	if x == nil {
		return nil
	}
	rule, _ := c.app.rule(c.tool)
	start := c.gate.cfg.Now()
	issued, err := x.Exchanger.Exchange(ctx, TokenRequest{SubjectToken: c.rawToken, Subject: c.identity.Subject, Rule: x, ToolRule: rule})
	c.gate.cfg.Metrics.exchange(c.app.Name, err, c.gate.cfg.Now().Sub(start))
	var why *ExchangeError
	switch {
	case err == nil && issued != nil && issued.Value != "" && issued.Value != c.rawToken:
		c.issued = issued
		c.checkActor()
		return nil
	case err == nil:
		return failed(503, "no token could be obtained for this call", "the exchange returned no fresh token")
	case errors.As(err, &why) && why.Refused:
		return denied(200, 0, "the authorization server refused a token for this tool", err.Error())
	}
	wait := time.Second
	if why != nil {
		wait = max(wait, why.RetryAfter)
	}
	return failed(503, "no token could be obtained for this call", err.Error()).retryAfter(wait)
}
