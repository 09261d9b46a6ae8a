package authz

import (
	"context"

	"github.com/sallyport/sallyport/authz/session"
	"github.com/sallyport/sallyport/mcpparse"
)

// Answer is what is to be done with the upstream's answer to a Watch-ed call. The zero Answer lets it pass unread.
type Answer struct {
	Reply *Reply         // replaces it
	Again bool           // … with the answer that the upstream gave when it was sent the call again
	Relay *session.Relay // rewrites its events

	Private bool // no cache that callers share may hand it on
	Events  bool // … and it is an event stream
}

// Response judges the headers of the upstream's answer to a Watch-ed call; end means that there is no body.
func (c *Call) Response(ctx context.Context, status int, h Header, end bool) Answer {
	contentType, _ := h.Get("content-type")
	encoding, encoded := h.Get("content-encoding")
	switch {
	case status == 404 && c.leg.SessionID != "":
		return c.resend(ctx)
	case status == 401, status == 403, status >= 300 && status < 400:
		return c.upstreamFailed("the upstream refused the gateway's request")
	case status != 202 && status != 204 && !isMCPAnswer(contentType):
		return c.upstreamFailed("the upstream did not answer with JSON or an event stream")
	case encoded && encoding != "identity":
		return c.upstreamFailed("the upstream compressed its answer without being asked to")
	case status == 200 && end:
		return c.upstreamFailed("the upstream gave an empty answer")
	case c.era == mcpparse.EraModern:
		return Answer{Private: status == 200, Events: isEventStream(contentType)}
	case isEventStream(contentType):
		return Answer{Relay: &session.Relay{Sealer: c.gate.cfg.Sessions, Session: c.session, App: c.app.Name, Leg: c.leg.SessionID,
			Stream: session.CallEvent, Wants: c.msg.ID}}
	}
	return Answer{}
}

// resend opens a new session at an upstream that no longer knew the old one, and so did nothing, and sends the call again.
func (c *Call) resend(ctx context.Context) Answer {
	again := Resent{ID: c.msg.ID, Body: c.sent, Limit: maxResentBytes}
	if c.issued != nil {
		again.Token = c.issued.Value
	}
	reply, err := c.gate.cfg.Upstreams.Resend(ctx, c.app, c.peer(), c.leg, again)
	if err != nil {
		c.gate.cfg.Log.Warn("a call could not be sent again after the upstream ended its session", "app", c.app.Name, "id", c.id, "error", err)
		return c.upstreamFailed("the upstream ended its session; call again to open a new one")
	}
	return Answer{Reply: reply, Again: true}
}

// maxResentBytes bounds an answer that has to be held in memory.
const maxResentBytes = 4 << 20

// upstreamFailed is the answer in place of an upstream's that must not reach the agent.
func (c *Call) upstreamFailed(public string) Answer {
	reply := failed(502, public, "").reply(c)
	c.gate.readable(c.req, &reply)
	return Answer{Reply: &reply}
}

// BrokenStream is the event that ends a stream in which the upstream broke the protocol, or which it ended without a
// response: the agent is not left waiting.
func (c *Call) BrokenStream() mcpparse.Event {
	return mcpparse.Event{HasData: true, Data: mcpparse.ErrorBody(c.msg.ID, mcpparse.CodeInternal, "the upstream gave no usable answer", nil)}
}
