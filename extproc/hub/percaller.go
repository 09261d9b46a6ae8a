package hub

import (
	"sync"
	"time"

	"github.com/sallyport/sallyport/authz"
)

// Upstreams whose lists are each caller's own: what one caller's token was shown is known for that caller only, from the
// era on. They are read when their caller asks, and never in the background, where there is no agent and no token.

const (
	maxCallers     = 1024     // of all apps together
	maxCallerBytes = 64 << 20 // of their lists
)

type callerKey struct {
	app       upstreamKey
	principal string
}

// perCaller is bounded; who has not asked for longest is forgotten first. It is safe for concurrent use.
type perCaller struct {
	mu    sync.Mutex
	known *lru[callerKey, *upstream]
}

func newPerCaller() perCaller { return perCaller{known: newLRU[callerKey, *upstream](maxCallers)} }

// upstreamFor returns what is known of a's server for who.
func (h *Hub) upstreamFor(a *authz.App, who *authz.Caller) *upstream {
	if !a.DiscoversAsAgent() || who == nil {
		return h.upstream(a)
	}
	key := callerKey{keyOf(a), who.Identity.Principal()}
	h.callers.mu.Lock()
	u, ok := h.callers.known.get(key)
	var gone *upstream
	if !ok {
		u = newUpstream(a)
		u.principal = key.principal
		if evicted, full := h.callers.known.put(key, u); full {
			gone = evicted
		}
	}
	h.callers.mu.Unlock()
	h.leave(gone)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.who, u.used = who, h.cfg.Now() // its newest token
	return u
}

// trim forgets callers until their lists take no more than they may. The newest stays in any case.
func (h *Hub) trim() {
	var gone []*upstream
	h.callers.mu.Lock()
	size := 0
	for _, e := range h.callers.known.byKey {
		size += e.Value.(pair[callerKey, *upstream]).value.size()
	}
	for size > maxCallerBytes && h.callers.known.order.Len() > 1 {
		key, u, _ := h.callers.known.oldest()
		h.callers.known.remove(key)
		size -= u.size()
		gone = append(gone, u)
	}
	h.callers.mu.Unlock()
	h.leave(gone...)
}

// forgetCallers forgets those who have been idle for as long as a session may be, and those of other apps than these.
func (h *Hub) forgetCallers(apps map[upstreamKey]bool) {
	var gone []*upstream
	now := h.cfg.Now()
	h.callers.mu.Lock()
	for key, e := range h.callers.known.byKey {
		u := e.Value.(pair[callerKey, *upstream]).value
		if !apps[key.app] || now.Sub(u.lastUsed()) > h.cfg.SessionTimeout {
			h.callers.known.remove(key)
			gone = append(gone, u)
		}
	}
	h.callers.mu.Unlock()
	h.leave(gone...)
}

// leave ends the hub's own sessions at upstreams that it forgets.
func (h *Hub) leave(gone ...*upstream) {
	for _, u := range gone {
		if u == nil {
			continue
		}
		if conn := h.conns.get(hubOwner(u), u.name); conn != nil {
			conn.close()
		}
		u.mu.Lock()
		own, token := u.own, u.held.value
		u.mu.Unlock()
		h.closeLater(withToken(token), own)
	}
}

func (u *upstream) lastUsed() time.Time {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.used
}

// size is how many bytes u's lists have.
func (u *upstream) size() (n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for k := range kinds {
		for _, i := range u.catalogue.items(k) {
			n += len(i.raw) + len(i.name) + len(i.listed)
		}
	}
	return n
}
