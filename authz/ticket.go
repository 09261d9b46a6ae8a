package authz

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"time"

	"github.com/sallyport/sallyport/authz/audit"
	"github.com/sallyport/sallyport/authz/session"
	"github.com/sallyport/sallyport/authz/token"
)

// Ticket is what the gate has decided of a call that the hub carries out: one whose upstream speaks another era or the
// 2024-11-05 transport, or whose agent does. It travels through Envoy sealed to the caller, to the session and to the
// very bytes that were judged, so that any replica's hub can rely on it, and on nothing else that it is sent.
type Ticket struct {
	Call    string    `json:"call"` // id, as in the audit
	App     string    `json:"app,omitempty"`
	Route   string    `json:"route,omitempty"` // of the app: what the token is for
	Name    string    `json:"name,omitempty"`  // without the app's prefix
	Leg     Leg       `json:"leg"`
	Token   string    `json:"token,omitempty"` // for the upstream; "" sends none
	Reply   *Reply    `json:"reply,omitempty"` // the answer: the message went no further
	Expires time.Time `json:"expires"`
}

// ticketLife is how long a ticket may be on its way through Envoy.
const ticketLife = 30 * time.Second

var errTicket = errors.New("authz: no ticket for this message")

func ticketLabel(id *token.Identity, sessionID string, body []byte) []string {
	sum := sha256.Sum256(body)
	return []string{id.Principal(), sessionID, hex.EncodeToString(sum[:])}
}

// ticket seals what has been decided of c, for the hub.
func (c *Call) ticket(reply *Reply) ([2]string, error) {
	t := Ticket{Call: c.id, Name: c.name, Leg: c.leg, Reply: reply, Expires: c.gate.cfg.Now().Add(ticketLife)}
	if c.app != nil {
		t.App, t.Route = c.app.Name, c.app.Route
	}
	if c.issued != nil {
		t.Token = c.issued.Value
	}
	plain, err := json.Marshal(t)
	if err != nil {
		return [2]string{}, err
	}
	return [2]string{TicketHeader, c.gate.cfg.Sessions.SealTicket(plain, ticketLabel(c.identity, c.session.ID, c.body)...)}, nil
}

// OpenTicket returns the ticket that the gate, of this replica or another, sealed for exactly this message.
func (g *Gate) OpenTicket(sealed string, caller *Caller, s session.Session, body []byte) (Ticket, error) {
	plain, err := g.cfg.Sessions.OpenTicket(sealed, ticketLabel(caller.Identity, s.ID, body)...)
	if err != nil {
		return Ticket{}, errTicket
	}
	var t Ticket
	if err := json.Unmarshal(plain, &t); err != nil || g.cfg.Now().After(t.Expires) {
		return Ticket{}, errTicket
	}
	return t, nil
}

// Again judges a call once more before the hub sends it another time, with what the agent has added in between: token,
// policy, exchange and record are those of a call of its own. A non-nil Reply is the refusal.
func (g *Gate) Again(ctx context.Context, r Request, s session.Session, body []byte) (Ticket, *Reply) {
	c := &Call{gate: g, req: r, id: audit.NewID(), begun: g.cfg.Now(), session: s, version: s.Version, again: true}
	identity, raw, rej := g.verify(ctx, r, token.LookHeld)
	if rej != nil {
		reply := c.settle(c.refuse(rej)).Reply
		return Ticket{}, reply
	}
	c.identity, c.rawToken = identity, raw
	if v := c.Finish(ctx, body); v.Reply != nil {
		return Ticket{Call: c.id}, v.Reply
	}
	t := Ticket{Call: c.id, App: c.app.Name, Route: c.app.Route, Name: c.name, Leg: c.leg}
	if c.issued != nil {
		t.Token = c.issued.Value
	}
	return t, nil
}
