package hub

import (
	"context"
	"sync"

	"github.com/sallyport/sallyport/authz/session"
	"github.com/sallyport/sallyport/authz/token"
)

// holdings are what a revocation has to end, and would not end by being asked about the next message: streams and calls that are
// open, and sessions, whose sessions at upstreams would wait for their timeouts.
type holdings struct {
	mu       sync.Mutex
	open     map[*holding]struct{}
	sessions *lru[string, holding] // that were spoken in here, by id
}

// holding is something of a caller's that is open.
type holding struct {
	who     *token.Identity
	session session.Session // zero: none
	end     func()
}

func newHoldings() holdings {
	return holdings{open: map[*holding]struct{}{}, sessions: newLRU[string, holding](maxOwners)}
}

// saw notes a session that is in use, and whose it is.
func (l *holdings) saw(who *token.Identity, s session.Session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, known := l.sessions.get(s.ID); !known && s.ID != "" {
		owner := &token.Identity{Issuer: who.Issuer, Subject: who.Subject, ClientID: who.ClientID} // without all the claims
		l.sessions.put(s.ID, holding{who: owner, session: session.Session{ID: s.ID, Issued: s.Issued}})
	}
}

// hold has end called should c's token or session be revoked while something is open, until done is called.
func (h *Hub) hold(c caller, s session.Session, end func()) (done func()) {
	o := &holding{c.who.Identity, s, end}
	h.holdings.mu.Lock()
	h.holdings.open[o] = struct{}{}
	h.holdings.mu.Unlock()
	if h.gone(o) { // revoked since the caller was identified
		end()
	}
	return func() {
		h.holdings.mu.Lock()
		defer h.holdings.mu.Unlock()
		delete(h.holdings.open, o)
	}
}

func (h *Hub) gone(o *holding) bool {
	return h.cfg.Revocations.Revoked(o.who) || h.cfg.Revocations.Ended(o.who, o.session)
}

// Revoke ends what is open of those whose tokens or sessions are revoked now: event streams, calls that the hub carries, and
// the sessions at upstreams. It returns how many streams and calls, and how many sessions of agents, that were. The error is
// the session store's; the agents' sessions are refused all the same.
func (h *Hub) Revoke(ctx context.Context) (streams, sessions int, err error) {
	h.holdings.mu.Lock()
	var ending []*holding
	for o := range h.holdings.open {
		if h.gone(o) {
			ending = append(ending, o)
		}
	}
	var ended []string
	for id, e := range h.holdings.sessions.byKey {
		if o := e.Value.(pair[string, holding]).value; h.cfg.Revocations.Ended(o.who, o.session) {
			ended = append(ended, id)
		}
	}
	for _, id := range ended {
		h.holdings.sessions.remove(id)
	}
	h.holdings.mu.Unlock()
	for _, o := range ending {
		o.end()
	}
	for _, id := range ended {
		if e := h.end(ctx, id, withToken("")); e != nil {
			err = e
		}
	}
	return len(ending), len(ended), err
}

// EndSession ends an agent's session, wherever it is in use.
func (h *Hub) EndSession(ctx context.Context, id string) error { return h.end(ctx, id, withToken("")) }
