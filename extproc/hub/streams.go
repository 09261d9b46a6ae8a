package hub

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/sallyport/sallyport/authz/session"
	"github.com/sallyport/sallyport/mcpparse"
)

// Streams that the hub keeps open at upstreams. They end when ctx does, or when the upstream says that it has none.

const (
	minReconnect = time.Second
	maxReconnect = 30 * time.Second
	steady       = 10 * time.Second // a stream that lasted so long was a good one
)

// persist opens a stream again and again, more slowly while it fails at once, until ctx ends or open says to stop.
func persist(ctx context.Context, open func(ctx context.Context) (again bool)) {
	wait := minReconnect
	for {
		begun := time.Now()
		if !open(ctx) || ctx.Err() != nil {
			return
		}
		if time.Since(begun) > steady {
			wait = minReconnect
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = min(2*wait, maxReconnect)
	}
}

// sessionStream keeps the GET stream of a legacy session open and hands over its events. from is the raw id of the event
// after which it is to go on, "" for none. began is called each time the upstream has answered, or has not.
func (h *Hub) sessionStream(ctx context.Context, l leg, token func(context.Context) (string, error), from string, began func(), each func(mcpparse.Event) error) {
	persist(ctx, func(ctx context.Context) bool {
		t, err := token(ctx)
		if err != nil {
			return true
		}
		l.token = t
		resp, err := h.client.stream(ctx, l, from)
		began()
		switch {
		case errors.Is(err, errUnreachable):
			return true
		case err != nil: // 405: it has none; 404: the session has ended, and the next one has its own
			return false
		}
		defer resp.Body.Close()
		err = eachEvent(resp.Body, func(ev mcpparse.Event) error {
			if ev.HasID {
				from = ev.ID
			}
			return each(ev)
		})
		return !errors.Is(err, session.ErrLie)
	})
}

// eachEvent reads a stream to its end.
func eachEvent(body io.Reader, each func(mcpparse.Event) error) error {
	for events := mcpparse.NewEventReader(body, session.MaxEventBytes); ; {
		ev, err := events.NextBlock()
		if err == nil {
			err = each(ev)
		}
		if err != nil {
			return err
		}
	}
}

// listenStream keeps a subscriptions/listen open at a modern upstream and hands over its notifications. began is called
// each time it has been acknowledged.
func (h *Hub) listenStream(ctx context.Context, route string, token func(context.Context) (string, error), filter map[string]any, began func(), each func(mcpparse.Message)) {
	persist(ctx, func(ctx context.Context) bool {
		t, err := token(ctx)
		if err != nil {
			return true
		}
		l := leg{route: route, era: mcpparse.EraModern, version: mcpparse.LatestModern, token: t}
		id := h.client.newID()
		params := h.client.withMeta(encode(map[string]any{"notifications": filter}))
		resp, err := h.client.post(ctx, l, "subscriptions/listen", envelope(id, "subscriptions/listen", params), nil)
		if err != nil {
			return true
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK || !isType(resp.Header.Get("Content-Type"), "text/event-stream") {
			return statusErrorIsTransient(resp.StatusCode)
		}
		_ = eachEvent(resp.Body, func(ev mcpparse.Event) error {
			m, err := mcpparse.ParseUpstream(ev.Data)
			switch {
			case !ev.HasData || len(ev.Data) == 0:
				return nil
			case err != nil:
				return err
			case m.Kind == mcpparse.Response:
				return io.EOF
			case m.Kind == mcpparse.Notification && m.Method == "notifications/subscriptions/acknowledged":
				began()
			case m.Kind == mcpparse.Notification:
				each(m)
			}
			return nil
		})
		return true
	})
}

func statusErrorIsTransient(status int) bool { return errors.Is(statusError(status), errUnreachable) }

// watch listens for changes of u's lists, on the hub's own account, once for each upstream.
func (h *Hub) watch(u *upstream) {
	e, o := u.offering()
	u.mu.Lock()
	begin := o.changes && !u.watched && u.catalogue != nil
	u.watched = u.watched || begin
	own := u.own
	u.mu.Unlock()
	if !begin {
		return
	}
	h.work.Go(func() {
		defer func() {
			u.mu.Lock()
			u.watched = false
			u.mu.Unlock()
		}()
		changed := func() { h.stale(u) }
		ctx, cancel := context.WithCancel(h.life)
		defer cancel()
		defer h.whileKnown(ctx, u, cancel)()
		switch {
		case u.old:
			<-ctx.Done() // its connection tells: see connect
		case e.modern:
			filter := map[string]any{}
			for k := range kinds {
				if o.has(k) {
					filter[lists[k].filter] = true
				}
			}
			first := true
			h.listenStream(ctx, u.route, h.showing(u), filter, func() {
				if !first {
					changed() // what happened in between is not known
				}
				first = false
			}, func(mcpparse.Message) { changed() })
			<-ctx.Done()
		default:
			h.sessionStream(ctx, legOf(own, ""), h.showing(u), "", func() {}, func(ev mcpparse.Event) error {
				switch m, err := mcpparse.ParseUpstream(ev.Data); {
				case err != nil:
				case isListChanged(m):
					changed()
				case m.Kind == mcpparse.Request && m.Method == "ping":
					if token, err := h.credential(ctx, u); err == nil {
						_ = h.client.deliver(ctx, legOf(own, token), mcpparse.ResultBody(m.ID, []byte("{}")))
					}
				}
				return nil
			})
			<-ctx.Done()
		}
	})
}

// whileKnown calls stop once u is no longer what the hub knows under its name, or has opened another session.
func (h *Hub) whileKnown(ctx context.Context, u *upstream, stop func()) (done func()) {
	u.mu.Lock()
	own := u.own.ID
	u.mu.Unlock()
	ended := make(chan struct{})
	h.work.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-ended:
				return
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			h.mu.RLock()
			known := h.upstreams[u.of] == u
			h.mu.RUnlock()
			u.mu.Lock()
			same := u.own.ID == own
			u.mu.Unlock()
			if !known || !same {
				stop()
				return
			}
		}
	})
	return func() { close(ended) }
}

func isListChanged(m mcpparse.Message) bool {
	for k := range kinds {
		if m.Kind == mcpparse.Notification && m.Method == lists[k].changed {
			return true
		}
	}
	return false
}
