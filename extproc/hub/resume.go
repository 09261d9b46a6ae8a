package hub

import (
	"context"
	"net/http"
	"slices"

	"github.com/sallyport/sallyport/authz/session"
	"github.com/sallyport/sallyport/mcpparse"
)

// resumption is where a stream broke off.
type resumption struct {
	at   UpstreamSession
	kind session.Kind
	call session.Tag // whose stream it was, of a CallEvent
	raw  string      // the upstream's own event id
}

// resumption opens an event id. It is nil when the id is none of this session's, or its upstream session is gone.
func (h *Hub) resumption(ctx context.Context, s session.Session, id string) *resumption {
	for _, kind := range []session.Kind{session.CallEvent, session.StreamEvent} {
		name, err := h.cfg.Sessions.OpenName(s.ID, kind, id)
		if err != nil {
			continue
		}
		open, err := h.store.Upstreams(ctx, s.ID)
		at := slices.IndexFunc(open, func(u UpstreamSession) bool {
			return session.TagOf(u.App) == name.App && session.TagOf(u.ID) == name.Leg
		})
		if err != nil || at < 0 {
			return nil
		}
		return &resumption{at: open[at], kind: kind, call: name.Call, raw: string(name.Raw)}
	}
	return nil
}

// resume passes on the rest of a call's stream.
func (i *inbox) resume(ctx context.Context, w http.ResponseWriter, from *resumption) {
	err := i.h.at(ctx, i.c, from.at, func(ctx context.Context, _ *upstream, at UpstreamSession, token string) error {
		resp, err := i.h.client.stream(ctx, legOf(at, token), from.raw)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		i.stream.begin()
		relay := i.relay(at, session.CallEvent)
		relay.Resumes = from.call
		_ = eachEvent(resp.Body, i.pass(relay))
		return nil
	})
	if err != nil {
		write(w, fault(http.StatusBadRequest, nil, mcpparse.CodeInvalidRequest, "this stream cannot be resumed"))
	}
}
