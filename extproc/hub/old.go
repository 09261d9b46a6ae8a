package hub

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/authz/session"
	"github.com/sallyport/sallyport/mcpparse"
)

// The HTTP+SSE transport of 2024-11-05 towards agents: a GET opens the session and stays, messages are POSTed beside it,
// and everything that is said to the agent comes on the stream.

// oldStream answers the GET. Its first event says where to post.
func (h *Hub) oldStream(w http.ResponseWriter, r *http.Request, c caller) {
	s := session.Session{ID: session.NewID(), Issued: h.cfg.Now()}
	sealed, refusal := h.begin(r.Context(), c, s)
	if refusal != nil {
		write(w, *refusal)
		return
	}
	ctx, cancel := h.streamContext(r, c, s)
	defer cancel()
	defer func() { _ = h.end(context.WithoutCancel(ctx), s.ID, h.tokens(c)) }()
	i := &inbox{h: h, c: c, s: s, stream: newAgentStream(w), turn: make(chan bool, 1), old: true}
	// Before the agent knows where to post: no answer may be missed.
	stop, err := h.hear(ctx, s.ID, func(n note) {
		if n.Message != nil {
			_ = i.send(mcpparse.Event{HasData: true, Data: n.Message})
		}
	})
	if err != nil {
		write(w, h.storeFailed(nil, err))
		return
	}
	defer stop()
	defer h.boxes.push(i)()
	endpoint := h.cfg.Paths.Message + "?" + authz.SessionQuery + sealed // relative: the agent knows our origin better than we do
	if i.stream.send(mcpparse.Event{Type: "endpoint", HasData: true, Data: []byte(endpoint)}) == nil {
		i.run(ctx, nil)
	}
}

// oldMessage answers a POST: 202 once the message is understood, and on the stream what there is to say to it.
func (h *Hub) oldMessage(w http.ResponseWriter, r *http.Request, c caller, m mcpparse.Message) {
	s, refusal := h.session(r.Context(), c, m.ID)
	if refusal != nil {
		write(w, *refusal)
		return
	}
	k := &carry{h: h, c: c, s: s, era: mcpparse.EraLegacy, m: m, out: &oldOut{h, s.ID}}
	switch {
	case c.ticket != "":
		if refusal := k.open(); refusal != nil {
			write(w, *refusal)
			return
		}
		if k.ticket.Reply != nil {
			k.out.refuse(*k.ticket.Reply)
			break
		}
		ctx := context.WithoutCancel(r.Context())
		h.work.Go(func() { k.run(ctx) })
	case m.Method == "initialize":
		agent, body := h.hello(r.Context(), c, m)
		if err := h.store.Remember(r.Context(), s.ID, factAgent, string(encode(agent))); err != nil {
			write(w, h.storeFailed(m.ID, err))
			return
		}
		k.out.last(mcpparse.Event{HasData: true, Data: mcpparse.ResultBody(m.ID, body)})
	default:
		answer := h.inSession(r.Context(), c, s, m, h.agentOf(r.Context(), s).Version)
		if m.Kind != mcpparse.Request {
			write(w, answer)
			return
		}
		k.out.refuse(answer)
	}
	write(w, accepted())
}

// oldOut answers on the stream that the session is, in whichever replica that is open.
type oldOut struct {
	h     *Hub
	owner string
}

func (o *oldOut) event(ev mcpparse.Event) error {
	if len(ev.Data) > 0 {
		o.say(ev.Data)
	}
	return nil
}

func (o *oldOut) last(ev mcpparse.Event) { o.say(ev.Data) }
func (o *oldOut) refuse(r authz.Reply)   { o.say(r.Body) }
func (o *oldOut) abandon()               {}

func (o *oldOut) say(message []byte) {
	o.h.tell(context.Background(), o.owner, note{Message: json.RawMessage(message)})
}
