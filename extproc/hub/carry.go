package hub

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"time"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/authz/audit"
	"github.com/sallyport/sallyport/authz/session"
	"github.com/sallyport/sallyport/mcpparse"
)

// Calls that Envoy cannot lead to their upstream by itself: the eras or the transports differ. The gate has decided them,
// and says so in a ticket; what follows is carrying them out.

// out is where the answer to a carried call goes.
type out interface {
	event(ev mcpparse.Event) error // what comes before the answer
	last(ev mcpparse.Event)        // the answer: its data is a response
	refuse(r authz.Reply)          // an answer of ours
	abandon()                      // none: the agent wants none any more
}

// carry is one call on its way.
type carry struct {
	h      *Hub
	c      caller
	s      session.Session // the agent's; zero in the modern era
	era    mcpparse.Era    // the agent's
	app    *authz.App
	u      *upstream
	m      mcpparse.Message
	ticket authz.Ticket
	out    out
}

// carried carries out a POSTed call by its ticket.
func (h *Hub) carried(w http.ResponseWriter, r *http.Request, c caller, m mcpparse.Message, modern bool) {
	k := carry{h: h, c: c, m: m, era: mcpparse.EraModern}
	if !modern {
		k.era = mcpparse.EraLegacy
		s, refusal := h.session(r.Context(), c, m.ID)
		if refusal != nil {
			write(w, *refusal)
			return
		}
		k.s = s
	} else { // whose sessions at upstreams are the caller's
		h.holdings.saw(c.who.Identity, session.Session{ID: k.owner(), Issued: h.cfg.Now()})
	}
	stream := &httpOut{w: w, stream: newAgentStream(w)}
	k.out = stream
	if refusal := k.open(); refusal != nil {
		write(w, *refusal)
		return
	}
	ctx := r.Context()
	if !modern { // to leave is not to cancel (2025-11-25, transports)
		ctx = context.WithoutCancel(ctx)
	}
	k.run(ctx)
}

// open checks the ticket and finds the app.
func (k *carry) open() *authz.Reply {
	t, err := k.c.gate.OpenTicket(k.c.ticket, k.c.who, k.s, k.m.Raw())
	if err != nil {
		r := fault(http.StatusServiceUnavailable, k.m.ID, mcpparse.CodeInternal, "the gateway lost sight of this call; send it again")
		return &r
	}
	k.ticket = t
	if k.app = k.h.appAt(k.c.gate, t.App, t.Route); k.app != nil {
		k.u = k.h.upstreamFor(k.app, k.c.who)
		return nil
	}
	if t.Reply == nil {
		r := fault(http.StatusServiceUnavailable, k.m.ID, mcpparse.CodeInternal, "the gateway's configuration has just changed; send this again")
		return &r
	}
	return nil
}

// run carries the call out within its time, unless the agent cancels it.
func (k *carry) run(ctx context.Context) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if limit := k.limit(); limit > 0 {
		defer time.AfterFunc(limit, func() { cancel(context.DeadlineExceeded) }).Stop()
	}
	defer context.AfterFunc(k.h.life, func() { cancel(context.Canceled) })()
	defer k.h.hold(k.c, k.s, func() { cancel(errRevoked) })()
	if k.s.ID != "" {
		stop, err := k.h.hear(ctx, k.s.ID, func(n note) {
			if bytes.Equal(n.Cancelled, k.m.ID) {
				cancel(errCancelled)
			}
		})
		if err == nil {
			defer stop()
		}
	}
	err := k.carry(ctx)
	switch cause := context.Cause(ctx); {
	case err == nil:
	case errors.Is(cause, errCancelled):
		k.out.abandon()
	case errors.Is(cause, errRevoked):
		k.out.refuse(fault(http.StatusUnauthorized, k.m.ID, mcpparse.CodeInvalidRequest, errRevoked.Error()))
	case errors.Is(cause, context.DeadlineExceeded):
		k.out.refuse(fault(http.StatusOK, k.m.ID, mcpparse.CodeInternal, "the call took longer than it may"))
	default:
		k.h.cfg.Log.Info("a call could not be carried out", "id", k.ticket.Call, "app", k.app.Name, "error", err)
		k.out.refuse(fault(http.StatusBadGateway, k.m.ID, mcpparse.CodeInternal, "the upstream gave no usable answer"))
	}
}

var (
	errCancelled = errors.New("cancelled by the agent")
	errRevoked   = errors.New("the token or the session has been revoked")
)

// limit is how long the call may take: as the app says, and no longer than the agent's token is good for.
func (k *carry) limit() time.Duration {
	limit := k.app.Timeouts.Default
	if k.m.Target == mcpparse.Tool {
		limit = k.app.Timeouts.Of(k.ticket.Name)
	}
	if exp := k.c.who.Identity.Expiry; !exp.IsZero() {
		if left := max(exp.Sub(k.h.cfg.Now()), time.Millisecond); limit == 0 || left < limit {
			limit = left
		}
	}
	return limit
}

func (k *carry) carry(ctx context.Context) error {
	switch {
	case k.m.Method == "resources/subscribe" || k.m.Method == "resources/unsubscribe":
		return k.subscribe(ctx)
	case k.ticket.Leg.Era == mcpparse.EraModern && k.era == mcpparse.EraModern:
		return k.modernToModern(ctx)
	case k.ticket.Leg.Era == mcpparse.EraModern:
		return k.toModern(ctx)
	case k.era == mcpparse.EraModern:
		return k.modernToLegacy(ctx)
	default:
		return k.legacyToLegacy(ctx)
	}
}

// errMoved ends a call whose app a reload has sent elsewhere between two rounds.
var errMoved = errors.New("the app is another one by now")

// owner is whose upstream session the call uses.
func (k *carry) owner() string {
	if k.s.ID != "" {
		return k.s.ID
	}
	return authz.PrincipalOwner(k.c.who.Identity)
}

// reopen opens a new session in place of one that the upstream no longer knows.
func (k *carry) reopen(ctx context.Context) error {
	if err := k.h.store.RemoveUpstream(ctx, k.owner(), k.app.Name, k.ticket.Leg.SessionID); err != nil {
		return err
	}
	p := authz.Peer{Owner: k.owner(), Era: k.era, Session: k.s, Caller: k.c.who, Token: k.c.gate.TokenSource(k.c.who)}
	leg, err := k.h.Leg(ctx, k.app, p)
	if err == nil && leg.Era != k.ticket.Leg.Era {
		err = fmt.Errorf("%w: it speaks another era now", ErrUnavailable)
	}
	k.ticket.Leg = leg
	return err
}

// exchange sends the call and hands over what the upstream says, until each says that it was the answer. A session that
// the upstream lost is opened again, once: it has done nothing yet.
func (k *carry) exchange(ctx context.Context, id, body []byte, header http.Header, each func(mcpparse.Event) (done bool, err error)) error {
	err := k.exchangeOnce(ctx, id, body, header, each)
	if errors.Is(err, errLost) && k.ticket.Leg.SessionID != "" {
		if err = k.reopen(ctx); err == nil {
			err = k.exchangeOnce(ctx, id, body, header, each)
		}
	}
	return err
}

var errNoAnswer = errors.New("the stream ended without an answer")

func (k *carry) exchangeOnce(ctx context.Context, id, body []byte, header http.Header, each func(mcpparse.Event) (bool, error)) error {
	if k.ticket.Leg.Indirect {
		return k.exchangeOld(ctx, id, body, each)
	}
	l := leg{route: k.u.route, era: k.ticket.Leg.Era, version: k.ticket.Leg.Version, session: k.ticket.Leg.SessionID, token: k.ticket.Token}
	resp, err := k.h.client.post(ctx, l, k.m.Method, body, k.traced(header))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if coding := resp.Header.Get("Content-Encoding"); coding != "" && coding != "identity" {
		return fmt.Errorf("%w: compressed without being asked", errBadAnswer)
	}
	contentType := resp.Header.Get("Content-Type")
	if l.session != "" && resp.StatusCode == http.StatusNotFound {
		return statusError(resp.StatusCode)
	}
	switch {
	case isType(contentType, "application/json") && (resp.StatusCode == 200 || resp.StatusCode == 400 || resp.StatusCode == 404):
		text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswerBytes))
		if err != nil {
			return fmt.Errorf("%w: %w", errUnreachable, err)
		}
		return k.each(mcpparse.Event{HasData: true, Data: text}, each)
	case isType(contentType, "text/event-stream") && resp.StatusCode == 200:
		f := follower{carry: k, each: each, wait: minReconnect}
		return f.follow(ctx, l, resp.Body)
	}
	if err := statusError(resp.StatusCode); err != nil {
		return err
	}
	return fmt.Errorf("%w: neither JSON nor an event stream", errBadAnswer)
}

// traced adds the agent's trace context to a copy of header.
func (k *carry) traced(header http.Header) http.Header {
	out := http.Header{}
	maps.Copy(out, header)
	if parent, state, ok := k.c.req.Header.TraceContext(); ok {
		out.Set("Traceparent", parent)
		if state != "" {
			out.Set("Tracestate", state)
		}
	}
	return out
}

// follower reads the stream of a call to its answer. A legacy upstream may end the stream before that, and be asked for
// the rest, if it gave its events ids (2025-11-25, transports, "Resumability and Redelivery").
type follower struct {
	*carry
	each  func(mcpparse.Event) (done bool, err error)
	from  string        // the id of the last event
	wait  time.Duration // before asking for the rest: as the upstream says
	tries int           // in vain
}

const (
	maxTries = 5                      // to go on with a stream, in vain
	minWait  = 100 * time.Millisecond // before each
)

func (f *follower) follow(ctx context.Context, l leg, first io.Reader) error {
	done, err := f.read(first)
	for !done && err == nil {
		if l.era != mcpparse.EraLegacy || f.from == "" || f.tries == maxTries {
			return errNoAnswer
		}
		f.tries++
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(f.wait):
		}
		done, err = f.resume(ctx, l)
	}
	return err
}

func (f *follower) resume(ctx context.Context, l leg) (done bool, err error) {
	resp, err := f.h.client.stream(ctx, l, f.from)
	if err != nil {
		return false, errNoAnswer // whatever it was: the call has been sent, and is not sent again
	}
	defer resp.Body.Close()
	return f.read(resp.Body)
}

// read hands over the events of one stream. That it ended is no error.
func (f *follower) read(body io.Reader) (done bool, fatal error) {
	begun := time.Now()
	err := eachEvent(body, func(ev mcpparse.Event) error {
		if ev.HasID {
			f.from, f.tries = ev.ID, 0
		}
		if ev.HasRetry {
			f.wait = min(max(ev.Retry, minWait), maxReconnect)
		}
		if done, fatal = f.each(ev); done || fatal != nil {
			return io.EOF
		}
		return nil
	})
	if errors.Is(err, mcpparse.ErrEventTooLarge) {
		return false, err
	}
	if time.Since(begun) > steady {
		f.tries = 0
	}
	return done, fatal
}

// each hands over an answer that is one message.
func (k *carry) each(ev mcpparse.Event, each func(mcpparse.Event) (bool, error)) error {
	done, err := each(ev)
	if err == nil && !done {
		err = fmt.Errorf("%w: not the response to the call", errBadAnswer)
	}
	return err
}

// renamed adds the name by which the upstream knows what is called. A resource's is the agent's.
func (k *carry) renamed(edits []mcpparse.Edit) []mcpparse.Edit {
	if k.m.Target == mcpparse.Tool || k.m.Target == mcpparse.Prompt {
		edits = append(edits, k.m.SetName(k.ticket.Name))
	}
	return edits
}

// legacyToLegacy carries between transports: the messages are the same, the names in them are sealed.
func (k *carry) legacyToLegacy(ctx context.Context) error {
	edits := k.renamed(k.m.DropTasks())
	return k.exchange(ctx, k.m.ID, k.m.Splice(edits...), nil, k.relaying(ctx))
}

// relaying sends on what the agent may see.
func (k *carry) relaying(ctx context.Context) func(mcpparse.Event) (bool, error) {
	agent := k.h.agentOf(ctx, k.s)
	return func(ev mcpparse.Event) (bool, error) {
		relay := &session.Relay{Sealer: k.h.cfg.Sessions, Session: agent, App: k.app.Name, Leg: k.ticket.Leg.SessionID,
			Stream: session.CallEvent, Wants: k.m.ID}
		relayed, err := relay.Event(ev)
		switch {
		case err != nil:
			return false, err
		case relayed.Dropped != "":
			k.h.withheld(k.app.Name, relayed.Dropped)
			return false, nil
		case relayed.Answers():
			k.out.last(relayed.Event)
			return true, nil
		}
		_ = k.out.event(relayed.Event) // an agent that went away may come back for the answer
		return false, nil
	}
}

// modernToModern carries for a host that can change no body: the name is the upstream's own, and the rest stays as it is.
func (k *carry) modernToModern(ctx context.Context) error {
	edits := k.renamed(k.m.DropTasks())
	return k.exchange(ctx, k.m.ID, k.m.Splice(edits...), k.mirrors(), func(ev mcpparse.Event) (bool, error) {
		m, err := parseEvent(ev)
		switch {
		case err != nil:
			return false, err
		case m.Kind == mcpparse.Response && mcpparse.SameToken(m.ID, k.m.ID):
			answer := m.Raw()
			if k.m.Method == "resources/read" {
				answer = mcpparse.Private(m)
			}
			k.out.last(mcpparse.Event{HasData: true, Data: answer})
			return true, nil
		case m.Kind == mcpparse.Notification: // the only other message that a server sends (2026-07-28, transports)
			_ = k.out.event(mcpparse.Event{HasData: true, Data: m.Raw()})
		}
		return false, nil
	})
}

// subscribe passes a subscription on and remembers it, for the sessions that follow. At a modern upstream the stream of
// the agent's session listens for it.
func (k *carry) subscribe(ctx context.Context) error {
	remember := func() error {
		app := k.app.Name
		if k.m.Method == "resources/unsubscribe" {
			app = ""
		}
		err := k.h.store.Remember(ctx, k.owner(), factSubscribed+k.m.Name, app)
		k.h.tell(ctx, k.owner(), note{Subscribed: true})
		return err
	}
	if k.ticket.Leg.Era == mcpparse.EraModern {
		if err := remember(); err != nil {
			return err
		}
		k.out.last(mcpparse.Event{HasData: true, Data: mcpparse.ResultBody(k.m.ID, []byte("{}"))})
		return nil
	}
	relay := k.relaying(ctx)
	return k.exchange(ctx, k.m.ID, k.m.Raw(), nil, func(ev mcpparse.Event) (bool, error) {
		if m, err := mcpparse.ParseUpstream(ev.Data); err == nil && m.Kind == mcpparse.Response && m.Result != nil {
			if err := remember(); err != nil {
				return false, err
			}
		}
		return relay(ev)
	})
}

// completed tells the audit how a round of a call ended that has a record of its own.
func (k *carry) completed(call string, begun time.Time, outcome audit.CompletionOutcome) {
	if k.h.cfg.Completed != nil {
		now := k.h.cfg.Now()
		k.h.cfg.Completed(audit.Completion{Time: now, ID: call, Outcome: outcome, Status: http.StatusOK, Duration: now.Sub(begun)})
	}
}

// httpOut answers a POST: with JSON when there is nothing but the answer, else with an event stream.
type httpOut struct {
	w      http.ResponseWriter
	stream *agentStream
	begun  bool
}

func (o *httpOut) event(ev mcpparse.Event) error {
	o.begun = true
	return o.stream.send(ev)
}

func (o *httpOut) last(ev mcpparse.Event) {
	if o.begun {
		_ = o.stream.send(ev)
		return
	}
	write(o.w, reply(http.StatusOK, ev.Data))
}

func (o *httpOut) refuse(r authz.Reply) {
	if o.begun {
		_ = o.stream.send(mcpparse.Event{HasData: true, Data: r.Body})
		return
	}
	write(o.w, r)
}

func (o *httpOut) abandon() {
	if !o.begun {
		o.stream.begin()
	}
}
