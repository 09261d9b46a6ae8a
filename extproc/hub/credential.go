package hub

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sallyport/sallyport/authz"
)

// The token with which the hub asks an upstream on its own account: what it speaks, what it lists, what has changed. Where
// lists are each caller's it is one exchanged for that caller, and else the gateway's own. It is shown for as long as it
// is good, and never goes out with an agent's message.

// held is such a token. The zero value is none.
type held struct {
	app     *authz.App // by whose rules it was got: a reload has others
	value   string
	until   time.Time // when another one is got
	expires time.Time // when what it was shown is no longer to be shown to others
}

const (
	tokenDeadline = 5 * time.Second
	tokenMargin   = 5 * time.Second // before its expiry, so that it does not expire on the way; for short ones half their life
	unknownLife   = time.Minute     // of a token that does not say
)

var errNoToken = errors.New("no token to show")

// credential returns the token to show u, "" for none.
func (h *Hub) credential(ctx context.Context, u *upstream) (string, error) {
	a := h.app(u)
	if a == nil || a.Exchange == nil {
		return "", nil
	}
	t, needed := u.holds(a, h.cfg.Now())
	if !needed || t.value != "" {
		return t.value, nil
	}
	t, err := once(ctx, h, u.key("token"), tokenDeadline, func(ctx context.Context) (held, error) {
		if t, _ := u.holds(a, h.cfg.Now()); t.value != "" {
			return t, nil
		}
		return h.fetchCredential(ctx, u, a)
	})
	if err != nil {
		u.relent()
		return "", fmt.Errorf("%w: %w", errNoToken, err)
	}
	return t.value, nil
}

func (h *Hub) fetchCredential(ctx context.Context, u *upstream, a *authz.App) (held, error) {
	u.mu.Lock()
	who := u.who
	u.mu.Unlock()
	issued, err := h.cfg.Gate().DiscoveryToken(ctx, a, who)
	if err != nil {
		return held{}, err
	}
	now := h.cfg.Now()
	t := held{app: a, value: issued.Value, expires: issued.Expiry}
	if t.expires.IsZero() {
		t.expires = now.Add(unknownLife)
	}
	t.until = t.expires.Add(-min(tokenMargin, t.expires.Sub(now)/2))
	u.mu.Lock()
	defer u.mu.Unlock()
	u.held = t
	return t, nil
}

// holds returns the token that is still good, and whether u is to be shown one at all.
func (u *upstream) holds(a *authz.App, now time.Time) (t held, needed bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if a.Exchange.Discovery.Type == authz.DiscoverBare && !u.wants {
		return held{}, false
	}
	if u.held.app == a && now.Before(u.held.until) {
		return u.held, true
	}
	return held{}, true
}

// demand notes that u turned down what it was, or was not, shown. It reports whether to ask again at once: now with a
// token, which it has not been shown before.
func (h *Hub) demand(u *upstream) bool {
	a := h.app(u)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.held = held{} // whatever it was, it opens nothing
	again := a != nil && a.Exchange != nil && a.Exchange.Discovery.Type == authz.DiscoverBare && !u.wants
	u.wants = true
	return again
}

// relent goes back to asking without a token, there being none.
func (u *upstream) relent() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.wants = false
}

// demands reports whether u is known to want a token with everything.
func (u *upstream) demands() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.wants
}

// protected reports whether there are tokens for u.
func (h *Hub) protected(u *upstream) bool {
	a := h.app(u)
	return a != nil && a.Exchange != nil
}

// unauthorized tells errors that a better token would have spared us.
func unauthorized(err error) bool { return errors.Is(err, errGuarded) || errors.Is(err, errNoToken) }

// readUntil is when lists that were read in a caller's name are to be read again; zero for everybody's.
func (u *upstream) readUntil() time.Time {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.principal == "" {
		return time.Time{}
	}
	return u.held.expires
}

// showing is credential as streams ask for it.
func (h *Hub) showing(u *upstream) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) { return h.credential(ctx, u) }
}

// tokens gets the token that goes with what belongs to one upstream session of a caller's.
func (h *Hub) tokens(c caller) func(context.Context, UpstreamSession) (string, error) {
	return func(ctx context.Context, s UpstreamSession) (string, error) {
		g := h.cfg.Gate()
		a := appOf(g, s.App)
		if a == nil || a.Route != s.Route { // it is a token for somebody else
			return "", nil
		}
		return g.TokenSource(c.who)(ctx, a, s.Guarded || h.upstreamFor(a, c.who).demands())
	}
}
