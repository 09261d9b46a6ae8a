package hub

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport/authz/session"
	"github.com/sallyport/sallyport/mcpparse"
)

// The event stream that a legacy agent opens with GET (2025-11-25, transports, "Listening for Messages from the Server"):
// what its upstream sessions have to say outside of calls, merged, and what we have to say ourselves.

// inboxes are the streams that are open here, by session. Each message goes to exactly one stream: the one that was
// opened last.
type inboxes struct {
	mu   sync.Mutex
	open map[string][]*inbox
}

// inbox is one open stream of a session.
type inbox struct {
	h      *Hub
	c      caller
	s      session.Session
	stream *agentStream
	turn   chan bool // whether the messages go to this one
	old    bool      // the 2024-11-05 transport: events have a type and no ids

	mu    sync.Mutex
	begun map[string]chan struct{} // by id of an upstream session: closed once its stream has been asked for
}

// streamPatience is how long a session's first call waits for the session's stream. Servers drop what they have to say
// while there is none, and not all answer before they have something to say.
const streamPatience = 500 * time.Millisecond

// awaitStream waits until the agent's stream, when it is open here, brings what a new session at an upstream has to say.
func (h *Hub) awaitStream(ctx context.Context, owner string, s UpstreamSession) {
	i := h.boxes.top(owner)
	if i == nil || s.ID == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, streamPatience)
	defer cancel()
	select {
	case <-i.began(s.ID, false):
	case <-ctx.Done():
	}
}

// began returns what is closed once the stream of an upstream session has been asked for, and closes it if it has.
func (i *inbox) began(id string, has bool) <-chan struct{} {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.begun == nil {
		i.begun = map[string]chan struct{}{}
	}
	if i.begun[id] == nil {
		i.begun[id] = make(chan struct{})
	}
	select {
	case <-i.begun[id]:
	default:
		if has {
			close(i.begun[id])
		}
	}
	return i.begun[id]
}

func (b *inboxes) push(i *inbox) (pop func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open == nil {
		b.open = map[string][]*inbox{}
	}
	all := b.open[i.s.ID]
	if len(all) > 0 {
		all[len(all)-1].give(false)
	}
	b.open[i.s.ID] = append(all, i)
	i.give(true)
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		rest := slices.DeleteFunc(b.open[i.s.ID], func(o *inbox) bool { return o == i })
		if len(rest) == 0 {
			delete(b.open, i.s.ID)
			return
		}
		b.open[i.s.ID] = rest
		rest[len(rest)-1].give(true)
	}
}

// give tells i whether it is its turn; what it was told before does not matter any more.
func (i *inbox) give(turn bool) {
	select {
	case <-i.turn:
	default:
	}
	i.turn <- turn
}

// top returns the stream of a session that gets its messages; nil when none is open here.
func (b *inboxes) top(owner string) *inbox {
	b.mu.Lock()
	defer b.mu.Unlock()
	if all := b.open[owner]; len(all) > 0 {
		return all[len(all)-1]
	}
	return nil
}

// sessionEvents answers GET: with the messages of the session, or, with Last-Event-ID, with the rest of a stream that
// broke off.
func (h *Hub) sessionEvents(w http.ResponseWriter, r *http.Request, c caller) {
	if _, ok := c.req.Header.Get(h.cfg.SessionHeader); !ok {
		write(w, h.methodNotAllowed())
		return
	}
	s, refusal := h.session(r.Context(), c, nil)
	if refusal != nil {
		write(w, *refusal)
		return
	}
	ctx, cancel := h.streamContext(r, c, s)
	defer cancel()
	var from *resumption
	if last, ok := c.req.Header.Get("last-event-id"); ok && last != "" {
		if from = h.resumption(ctx, s, last); from == nil {
			write(w, fault(http.StatusBadRequest, nil, mcpparse.CodeInvalidRequest, "this stream cannot be resumed"))
			return
		}
	}
	i := &inbox{h: h, c: c, s: s, stream: newAgentStream(w), turn: make(chan bool, 1)}
	if from != nil && from.kind == session.CallEvent {
		i.resume(ctx, w, from)
		return
	}
	defer h.boxes.push(i)() // before the agent knows that it has a stream: what it calls then counts on it
	i.stream.begin()
	i.run(ctx, from)
}

func (i *inbox) relay(at UpstreamSession, kind session.Kind) *session.Relay {
	return &session.Relay{Sealer: i.h.cfg.Sessions, Session: i.h.agentOf(context.Background(), i.s), App: at.App, Leg: at.ID, Stream: kind}
}

// pass sends an upstream's events on, as far as the agent may see them. Changes of lists are told by the hub, when they
// are changes to this agent.
func (i *inbox) pass(relay *session.Relay) func(mcpparse.Event) error {
	return func(ev mcpparse.Event) error {
		relayed, err := relay.Event(ev)
		switch {
		case err != nil:
			return err
		case relayed.Dropped != "":
			i.h.withheld(relay.App, relayed.Dropped)
			return nil
		case relayed.Message.Method == updatedMethod && !i.h.readable(context.Background(), i.c, relay.App, relayed.Message, i.s.Version):
			return nil
		case isListChanged(relayed.Message):
			i.h.staleApp(i.c, relay.App)
			if relayed.Event.HasID { // its place in the stream is kept
				return i.stream.send(mcpparse.Event{ID: relayed.Event.ID, HasID: true})
			}
			return nil
		}
		return i.send(relayed.Event)
	}
}

func (i *inbox) send(ev mcpparse.Event) error {
	if i.old {
		ev = mcpparse.Event{Type: "message", HasData: ev.HasData, Data: ev.Data}
		if len(ev.Data) == 0 {
			return nil
		}
	}
	return i.stream.send(ev)
}

// withheld notes what an agent was not shown.
func (h *Hub) withheld(app, reason string) {
	h.cfg.Metrics.withheld.WithLabelValues(app).Inc()
	h.cfg.Log.Debug("a message of an upstream was withheld from the agent", "app", app, "reason", reason) // upstreams must not fill the log
}

// staleApp has the lists of an app read again.
func (h *Hub) staleApp(c caller, app string) {
	if a := appOf(h.cfg.Gate(), app); a != nil {
		h.stale(h.upstreamFor(a, c.who))
	}
}

// run keeps a stream that is among the session's open until ctx ends. Only while it is the last one do messages go to it.
func (i *inbox) run(ctx context.Context, from *resumption) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	every, what := i.h.cfg.KeepAlive, "get"
	if i.old {
		every, what = i.h.cfg.OldKeepAlive, "sse"
	}
	defer i.h.cfg.Metrics.stream(what)()
	defer i.stream.keepAlive(every)()
	stop := func() {}
	defer func() { stop() }()
	for {
		select {
		case <-ctx.Done():
			return
		case mine := <-i.turn:
			stop()
			stop = func() {}
			if mine {
				pumping, end := context.WithCancel(ctx)
				pump := group{log: i.h.cfg.Log}
				first := from // only the first time does it go on where a stream broke off
				pump.Go(func() { i.pump(pumping, cancel, first) })
				stop = func() { end(); pump.Wait() }
				from = nil
			}
		}
	}
}

// pump brings messages until ctx ends: from a GET stream at each upstream session, also at those that are opened later,
// from modern upstreams whose resources the agent subscribed to, and about its lists.
func (i *inbox) pump(ctx context.Context, end func(), from *resumption) {
	work := group{log: i.h.cfg.Log}
	defer work.Wait()
	more := make(chan struct{}, 1)
	stop, err := i.h.hear(ctx, i.s.ID, func(n note) {
		switch {
		case n.Ended:
			end()
		case n.Opened != "" || n.Subscribed:
			select {
			case more <- struct{}{}:
			default: // it will be looked at anyway: see attach
			}
		}
	})
	if err != nil {
		return
	}
	defer stop()
	work.Go(func() { i.tellChanges(ctx) }) // beside the rest, since it waits for lists
	attached := map[string]context.CancelFunc{}
	defer func() {
		for _, cancel := range attached {
			cancel()
		}
	}()
	next := i.h.changes.next()
	i.attach(ctx, &work, attached, from)
	for {
		select {
		case <-ctx.Done():
			return
		case <-next: // a reload may have sent an app elsewhere
			next = i.h.changes.next()
			i.attach(ctx, &work, attached, nil)
		case <-more:
			i.attach(ctx, &work, attached, nil)
		}
	}
}

// attach opens what is to be listened to and is not yet, and ends what is to be listened to no longer.
func (i *inbox) attach(ctx context.Context, work *group, attached map[string]context.CancelFunc, from *resumption) {
	wanted := map[string]bool{}
	begin := func(key string, run func(context.Context)) {
		wanted[key] = true
		if attached[key] == nil {
			var mine context.Context
			mine, attached[key] = context.WithCancel(ctx)
			work.Go(func() { run(mine) })
		}
	}
	open, err := i.h.store.Upstreams(ctx, i.s.ID)
	if err != nil {
		return
	}
	for _, at := range open {
		u, _ := i.toward(at.App)
		if u == nil || u.route != at.Route || u.old || at.ID == "" {
			continue // an old transport's connection brings its messages by itself
		}
		last := ""
		if from != nil && from.at == at {
			last = from.raw
		}
		begin(at.App+" "+at.ID, func(ctx context.Context) {
			began := func() { i.began(at.ID, true) }
			token := func(ctx context.Context) (string, error) { return i.h.tokens(i.c)(ctx, at) }
			i.h.sessionStream(ctx, legOf(at, ""), token, last, began, i.pass(i.relay(at, session.StreamEvent)))
		})
	}
	for app, uris := range i.subscriptions(ctx) {
		if u, token := i.toward(app); u != nil && len(uris) > 0 {
			begin(app+" at "+u.route+" listens to "+strings.Join(uris, "\n"), func(ctx context.Context) {
				i.h.listenStream(ctx, u.route, token, map[string]any{"resourceSubscriptions": uris}, func() {}, i.updated(ctx, app, uris))
			})
		}
	}
	for key, cancel := range attached {
		if !wanted[key] {
			cancel()
			delete(attached, key)
		}
	}
}

// subscriptions are the URIs that the agent subscribed to at modern upstreams, by app; a legacy one keeps its own.
func (i *inbox) subscriptions(ctx context.Context) map[string][]string {
	facts, err := i.h.store.Facts(ctx, i.s.ID)
	if err != nil {
		return nil
	}
	out := map[string][]string{}
	for _, a := range i.h.cfg.Gate().Apps() {
		if e, _ := i.h.upstreamFor(a, i.c.who).offering(); e.legacy || !e.modern {
			continue
		}
		out[a.Name] = nil
		for key, app := range facts {
			if uri, ok := strings.CutPrefix(key, factSubscribed); ok && app == a.Name {
				out[a.Name] = append(out[a.Name], uri)
			}
		}
		slices.Sort(out[a.Name])
	}
	return out
}

// updated passes on that a resource has changed, to one who still may read it.
func (i *inbox) updated(ctx context.Context, app string, uris []string) func(mcpparse.Message) {
	return func(m mcpparse.Message) {
		if body, ok := i.h.update(ctx, i.c, app, uris, m, i.s.Version, nil); ok {
			_ = i.send(mcpparse.Event{HasData: true, Data: body})
		}
	}
}

// toward returns an app's upstream and how the token for streams there is got.
func (i *inbox) toward(app string) (*upstream, func(context.Context) (string, error)) {
	return i.h.toward(i.c, app)
}

func (h *Hub) toward(c caller, app string) (*upstream, func(context.Context) (string, error)) {
	g := h.cfg.Gate() // a stream outlives the one that it began with
	a := appOf(g, app)
	if a == nil {
		return nil, nil
	}
	u, source := h.upstreamFor(a, c.who), g.TokenSource(c.who)
	return u, func(ctx context.Context) (string, error) { return source(ctx, a, u.demands()) }
}

// tellChanges tells the agent when the lists that it may see have changed.
func (i *inbox) tellChanges(ctx context.Context) {
	i.h.eachChange(ctx, i.c, i.s.Version, func(k kind) {
		_ = i.send(mcpparse.Event{HasData: true, Data: envelope(nil, lists[k].changed, nil)})
	})
}
