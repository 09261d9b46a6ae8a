package hub

import "context"

// Upstream sessions that are no longer needed are closed in the background, as a courtesy.

// ending is one of them.
type ending struct {
	UpstreamSession
	token tokenFor
}

// tokenFor gets the token that closes a session, which is one of those whose token opened it: an upstream lets nobody
// else. nil: there is none any more.
type tokenFor func(context.Context, UpstreamSession) (string, error)

// withToken is for who has the token already.
func withToken(token string) tokenFor {
	return func(context.Context, UpstreamSession) (string, error) { return token, nil }
}

// end ends an agent's session, and in the background the sessions that upstreams opened for it.
func (h *Hub) end(ctx context.Context, owner string, token tokenFor) error {
	open, err := h.store.End(ctx, owner)
	h.closeLater(token, open...)
	h.tell(ctx, owner, note{Ended: true})
	return err
}

// closeLater has upstream sessions closed. When too many wait, they are left to the upstreams' own timeouts.
func (h *Hub) closeLater(token tokenFor, open ...UpstreamSession) {
	for _, s := range open {
		if s.ID == "" {
			continue
		}
		select {
		case h.closing <- ending{s, token}:
		default:
		}
	}
}

func (h *Hub) closeSessions(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-h.closing:
			h.closeSession(ctx, e)
		}
	}
}

func (h *Hub) closeSession(ctx context.Context, e ending) {
	h.cfg.Metrics.closed.WithLabelValues(e.App).Inc()
	if h.conns.closeID(e.ID) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, closeDeadline)
	defer cancel()
	token, err := "", error(nil)
	if e.token != nil {
		token, err = e.token(ctx, e.UpstreamSession)
	}
	if err == nil {
		err = h.client.end(ctx, legOf(e.UpstreamSession, token))
	}
	if err != nil {
		h.cfg.Log.Debug("upstream session not closed", "app", e.App, "error", err)
	}
}
