package authz

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/sallyport/sallyport/authz/policy"
	"github.com/sallyport/sallyport/authz/token"
	"github.com/sallyport/sallyport/mcpparse"
)

// The steps of a call, in the order in which judge takes them.

// resolve finds the app behind a namespaced name or a URI.
func (c *Call) resolve() *rejection {
	app, name, ok := c.gate.resolve(c.msg.Target, c.msg.Name, c.caller())
	if !ok {
		return c.unknown("no app owns this name")
	}
	c.app, c.name = app, name
	if c.msg.BigNumber != "" && !app.AllowBigNumbers {
		return denied(400, mcpparse.CodeInvalidParams,
			c.msg.BigNumber+": number out of the range that every JSON reader agrees on", "")
	}
	return nil
}

// decide asks the app's policy. Anything but a plain yes refuses.
func (c *Call) decide(ctx context.Context) *rejection {
	in := c.policyInput()
	if c.msg.Method == "completion/complete" {
		return c.decideCompletion(ctx, in)
	}
	start := c.gate.cfg.Now()
	d := c.app.Policy.Decide(ctx, in)
	c.gate.cfg.Metrics.policy(c.app.Name, c.gate.cfg.Now().Sub(start))
	_, known := c.app.rule(c.msg.Target, c.name)
	reason := d.Explain()
	if d.Allowed {
		reason = "not named in tokenExchange"
	}
	switch {
	case d.Allowed && known:
		return nil
	case !known && c.app.ListAll:
		return c.refused("denied by policy", reason)
	case !known:
		return c.unknown(reason)
	case len(lacking(d.RequiredScopes, c.identity)) > 0:
		return c.insufficientScope(d.RequiredScopes, d.Message)
	case d.Message != "":
		return c.refused(d.Message, "")
	case c.gate.visible(ctx, c.app, c.msg.Target, c.name, in):
		return c.refused("denied by policy", reason)
	default:
		return c.unknown(reason)
	}
}

// decideCompletion lets a caller complete the arguments of what it may see: which arguments the prompt will be got
// with is not known yet.
func (c *Call) decideCompletion(ctx context.Context, in policy.Input) *rejection {
	if !c.gate.visible(ctx, c.app, c.msg.Target, c.name, in) {
		return c.unknown("policy: not visible to this caller")
	}
	return nil
}

func (c *Call) policyInput() policy.Input {
	return policyInput(c.app, c.req, c.identity, c.msg.Method, c.version, c.msg.Target, c.name, c.msg.Arguments)
}

func policyInput(app *App, r Request, id *token.Identity, method, version string, kind mcpparse.Target, name string, arguments []byte) policy.Input {
	in := policy.Input{
		Method:          method,
		ProtocolVersion: version,
		HTTP:            policy.HTTP{Method: r.Method, Path: r.Path, Host: r.Host, Headers: r.Header.canonical()},
		SourceIP:        r.SourceIP,
		App:             app.Name,
		Identity:        id,
	}
	switch kind {
	case mcpparse.Tool:
		in.Tool = &policy.Tool{Name: name, Arguments: arguments}
	case mcpparse.Prompt:
		in.Prompt = &policy.Tool{Name: name, Arguments: arguments}
	case mcpparse.Resource:
		in.Resource = &policy.Resource{URI: name}
	}
	return in
}

// asked is the method under which a list asks a policy about its items.
var asked = map[mcpparse.Target]string{
	mcpparse.Tool: "tools/call", mcpparse.Prompt: "prompts/get", mcpparse.Resource: "resources/read",
}

// Visible reports whether a caller's list shows a tool, a prompt or a resource of app: the same decision as a call, with
// the arguments unknown.
func (g *Gate) Visible(ctx context.Context, app *App, kind mcpparse.Target, name string, r Request, id *token.Identity, version string) bool {
	if kind != mcpparse.Resource {
		if owner, _, ok := g.resolve(kind, app.Prefix+name, nil); !ok || owner != app {
			return false // the name leads elsewhere, or nowhere
		}
	}
	return g.visible(ctx, app, kind, name, policyInput(app, r, id, asked[kind], version, kind, name, nil))
}

func (g *Gate) visible(ctx context.Context, app *App, kind mcpparse.Target, name string, in policy.Input) bool {
	if app.ListAll {
		return true
	}
	_, known := app.rule(kind, name)
	return known && app.Policy.Visible(ctx, in)
}

// peer is the caller as upstreams get to know it: by its own session, or, in the era without sessions, as the principal.
func (c *Call) peer() Peer {
	p := Peer{Owner: c.session.ID, Era: c.era, Session: c.session, Caller: c.caller(), Token: c.gate.TokenSource(c.caller())}
	if p.Owner == "" {
		p.Owner = PrincipalOwner(c.identity)
	}
	return p
}

// PrincipalOwner owns the upstream sessions of a caller without a session.
func PrincipalOwner(id *token.Identity) string { return principalPrefix + id.Principal() }

// IsPrincipal tells a principal from a session among owners.
func IsPrincipal(owner string) bool { return strings.HasPrefix(owner, principalPrefix) }

const principalPrefix = "principal-"

// legTimeout bounds asking the upstream for its era and a session, so that an answer is given before the host gives up.
const legTimeout = 4 * time.Second

// openLeg learns how the upstream is to be spoken to.
func (c *Call) openLeg(ctx context.Context) *rejection {
	ctx, cancel := context.WithTimeout(ctx, legTimeout)
	defer cancel()
	leg, err := c.gate.cfg.Upstreams.Leg(ctx, c.app, c.peer())
	if err != nil {
		return failed(502, "the upstream is not reachable", err.Error())
	}
	c.leg = leg
	return nil
}

// remark notes what is remarkable about a token that was accepted all the same.
func (c *Call) remark() {
	c.checkActor()
	for _, r := range []struct {
		so   bool
		note string
	}{
		{c.issued.Longer, "the token lives longer than asked for"},
		{c.issued.Narrower, "the token lacks scopes that were asked for"},
		{c.issued.Reused, "the token was made for an earlier call"},
	} {
		if r.so && c.note != "" {
			c.note += "; "
		}
		if r.so {
			c.note += r.note
		}
	}
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

// exchange swaps the agent's token for one that is good for this call. There is no fallback: no token, no call.
func (c *Call) exchange(ctx context.Context) *rejection {
	x := c.app.Exchange
	if x == nil {
		return nil
	}
	rule, _ := c.app.rule(c.msg.Target, c.name)
	issued, err := c.gate.exchange(ctx, c.app, rule, c.caller())
	var why *ExchangeError
	switch {
	case err == nil:
		c.issued = issued
		c.remark()
		return nil
	case errors.As(err, &why) && why.Refused:
		return c.refused("the authorization server refused a token for this "+nouns[c.msg.Target], err.Error())
	}
	wait := time.Second
	if why != nil {
		wait = max(wait, why.RetryAfter)
	}
	return failed(503, "no token could be obtained for this call", err.Error()).retryAfter(wait)
}

var errNotFresh = errors.New("the exchange returned no fresh token")

// exchange gets one token from app's authorization server, and makes sure that it is not the agent's own.
func (g *Gate) exchange(ctx context.Context, app *App, rule TokenRule, caller *Caller) (*IssuedToken, error) {
	start := g.cfg.Now()
	var issued *IssuedToken
	request, err := tokenRequest(app.Exchange, rule, caller)
	if err == nil {
		issued, err = app.Exchange.Exchanger.Exchange(ctx, request)
	}
	if err == nil && (issued == nil || issued.Value == "" || issued.Value == caller.raw) {
		err = errNotFresh
	}
	g.cfg.Metrics.exchange(app.Name, err, g.cfg.Now().Sub(start))
	return issued, err
}

// tokenRequest says of the agent's token what a new one is made of.
func tokenRequest(x *ExchangeRule, rule TokenRule, caller *Caller) (TokenRequest, error) {
	id := caller.Identity
	r := TokenRequest{SubjectToken: caller.raw, Subject: id.Subject, Agent: id.ClientID, Expiry: id.Expiry, JTI: id.JTI,
		Rule: x, TokenRule: rule}
	if b := id.Binding; b != (token.Binding{}) {
		r.Binding = b.Method + ":" + b.Thumbprint
	}
	if missing := lacking(x.subjectScopes(rule), id); len(missing) > 0 {
		return r, &ExchangeError{Refused: true, Err: errors.New("the agent's token lacks " + strings.Join(missing, " "))}
	}
	if x.SubjectClaim != "" {
		if r.Subject, _ = id.Claims[x.SubjectClaim].(string); r.Subject == "" {
			return r, &ExchangeError{Refused: true, Err: fmt.Errorf("the agent's token has no text as its claim %q", x.SubjectClaim)}
		}
	}
	if act, ok := id.Claims["act"]; ok {
		var err error
		if r.Act, err = json.Marshal(act); err != nil {
			return r, err
		}
	}
	return r, nil
}
