package authz

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/sallyport/sallyport/authz/audit"
	"github.com/sallyport/sallyport/authz/session"
	"github.com/sallyport/sallyport/authz/token"
	"github.com/sallyport/sallyport/mcpparse"
)

// Gate judges messages. It is immutable and safe for concurrent use; a reload makes a new one.
type Gate struct {
	cfg   Config
	hosts hostRules
	bare  []*App // the apps without a prefix

	actless sync.Map // apps whose operator has been told that delegated tokens lack act
}

// Apps returns the upstreams in configured order.
func (g *Gate) Apps() []*App { return g.cfg.Apps }

// Call is one message on its way through the gate. It is used by one goroutine.
type Call struct {
	gate     *Gate
	req      Request
	id       string
	rawToken string
	identity *token.Identity
	session  session.Session // zero: none
	msg      mcpparse.Message
	era      mcpparse.Era
	version  string // protocol version that the agent speaks
	app      *App
	name     string // of the tool, prompt or resource, as the upstream knows it
	body     []byte // as the agent sent it
	sent     []byte // as the upstream gets it
	again    bool   // another round of a call that the hub carries out
	leg      Leg
	issued   *IssuedToken
	note     string // for the record of an allowed call
	begun    time.Time
}

// Begin judges what can be judged without a body: where the request is going, who sends it, and whether a body is
// to be read at all. A nil Call means that the verdict is final; otherwise the verdict comes from Finish.
func (g *Gate) Begin(ctx context.Context, r Request) (*Call, Verdict) {
	if reply, ok := g.local(r); ok { // metadata and health are no messages
		return nil, Verdict{Reply: &reply}
	}
	c := &Call{gate: g, req: r, id: audit.NewID(), begun: g.cfg.Now()}
	if rej := g.admit(r); rej != nil {
		return nil, c.settle(c.refuse(rej))
	}
	identity, raw, rej := g.verify(ctx, r, token.LookFirst)
	if rej != nil {
		return nil, c.settle(c.refuse(rej))
	}
	c.identity, c.rawToken = identity, raw
	if r.Method != "POST" {
		return nil, c.settle(c.bodiless(ctx))
	}
	if rej := g.acceptsBody(r); rej != nil {
		return nil, c.settle(c.refuse(rej))
	}
	return c, Verdict{ID: c.id}
}

// MaxBody is the longest body that can be allowed, in bytes: with more than that, Finish refuses whatever else there is.
func (c *Call) MaxBody() int64 { return c.gate.cfg.MaxRequestBytes }

// Finish judges the body: parse, resolve, decide, exchange. The verdict is final, and recorded.
func (c *Call) Finish(ctx context.Context, body []byte) Verdict {
	c.body = body
	v, rec := c.deliver(c.judge(ctx, body))
	if v.Forwards() {
		c.meter(&v)
	}
	return c.settle(v, rec)
}

// judge is the whole story of one message.
func (c *Call) judge(ctx context.Context, body []byte) (Verdict, audit.Decision) {
	// Parse: once, strictly. What this reads is what the upstream will read.
	if int64(len(body)) > c.gate.cfg.MaxRequestBytes {
		return c.refuse(errTooLarge)
	}
	msg, err := mcpparse.Parse(body)
	if err != nil {
		return c.refuse(c.malformed(err))
	}
	c.msg = msg

	// Resolve: which era, which method, which session, and which app owns what is called.
	route, rej := c.classify(ctx)
	if rej != nil {
		return c.refuse(rej)
	}
	if route == toHub {
		return c.toHub()
	}
	if rej := c.resolve(); rej != nil {
		return c.refuse(rej)
	}

	// Decide: one Rego query, arguments included. Anything but a plain yes is a no. Only whom the policy lets through
	// learns that scopes are missing: to others they would be of no use.
	if rej := c.decide(ctx); rej != nil {
		return c.refuse(rej)
	}
	if rej := c.ownScopes(); rej != nil {
		return c.refuse(rej)
	}

	// Exchange: the agent's token ends here; a fresh one for this call opens the second door.
	if rej := c.openLeg(ctx); rej != nil {
		return c.refuse(rej)
	}
	if rej := c.exchange(ctx); rej != nil {
		return c.refuse(rej)
	}
	if rej := c.revoked(); rej != nil { // since the request came
		return c.refuse(rej)
	}

	// Verdict: name spliced, headers rebuilt, route chosen.
	return c.toUpstream()
}

// Abort records that the request ended, or broke off, before its body was complete. Nothing went upstream.
func (c *Call) Abort(reason string) {
	c.settle(c.refuse(failed(503, "the request ended before it was decided", reason)))
}

// Answered records that the host itself ended the request with status before its body was complete.
func (c *Call) Answered(status int) {
	if status == errTooLarge.status {
		c.settle(c.refuse(errTooLarge))
		return
	}
	c.Abort("answered by the host with status " + strconv.Itoa(status))
}

// settle records the decision before anyone sees the verdict. What cannot be recorded does not happen.
func (c *Call) settle(v Verdict, rec audit.Decision) Verdict {
	if err := c.gate.cfg.Audit.Decision(rec); err != nil {
		c.gate.cfg.Log.Error("audit record not written; the message is refused", "id", c.id, "error", err)
		reply := unrecorded.reply(c)
		v, rec.Outcome = Verdict{Reply: &reply}, audit.Error
	}
	c.gate.cfg.Metrics.observe(c, rec.Outcome)
	if v.Reply != nil {
		c.gate.readable(c.req, v.Reply)
	}
	v.ID, v.RPCID, v.Origin = c.id, c.msg.ID, c.gate.origin(c.req)
	c.renew(&v)
	return v
}
