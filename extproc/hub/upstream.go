package hub

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/tidwall/gjson"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/authz/session"
	"github.com/sallyport/sallyport/mcpparse"
)

const (
	probeDeadline     = 3 * time.Second // for one answer
	handshakeDeadline = 3 * time.Second
	closeDeadline     = 3 * time.Second
)

// ErrUnavailable means that an upstream could not be asked, or that its answer was of no use.
var ErrUnavailable = errors.New("hub: upstream unavailable")

// upstream is what is known of one app's server.
type upstream struct {
	name, route, prefix string

	mu     sync.Mutex
	eras   eras
	probes backoff
	vague  bool // the last probe was answered, but as no revision has it

	catalogue *catalogue // last good list; nil: none yet
	tried     bool       // the list has been asked for
	down      bool       // the last attempt failed
	next      time.Time  // when to ask again
	lists     backoff
}

// eras is which revisions an upstream speaks; both false: not known.
type eras struct{ modern, legacy bool }

func (e eras) known() bool { return e.modern || e.legacy }

// either is what an upstream is taken to speak that does not say: an agent's call is sent to it in the agent's own era.
var either = eras{modern: true, legacy: true}

// key tells this upstream from the one that had its name before a reload.
func (u *upstream) key(what string) string {
	return what + "\x00" + u.name + "\x00" + u.route + "\x00" + u.prefix
}

// backoff spaces out attempts after failures: 1 s, doubled each time, up to 30 s.
type backoff struct {
	failures int
	until    time.Time
}

func (b *backoff) fail(now time.Time) {
	b.until = now.Add(min(time.Second<<b.failures, 30*time.Second))
	b.failures = min(b.failures+1, 5)
}

// speaks returns what is known of the eras. settled is false when it is time to probe.
func (u *upstream) speaks(now time.Time) (e eras, settled bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	settled = u.eras.known() || now.Before(u.probes.until)
	if u.vague && settled {
		return either, true
	}
	return u.eras, settled
}

// probed keeps the outcome of a probe.
func (u *upstream) probed(e eras, vague bool, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.eras, u.vague = e, vague
	if e.known() {
		u.probes = backoff{}
	} else {
		u.probes.fail(now)
	}
}

// doubt forgets the eras, so that the next use probes again: the server may have been replaced.
func (u *upstream) doubt() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.eras = eras{}
}

// modernOnly remembers that a modern upstream turned down the legacy handshake.
func (u *upstream) modernOnly() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.eras.legacy = false
}

// speaks returns the eras of u, probing when they are not known. After a failure it fails at once until it is time
// to try again.
func (h *Hub) speaks(ctx context.Context, u *upstream) (eras, error) {
	e, settled := u.speaks(h.cfg.Now())
	switch {
	case e.known():
		return e, nil
	case settled:
		return eras{}, fmt.Errorf("%w: %s failed a moment ago", ErrUnavailable, u.name)
	}
	return once(ctx, h, u.key("probe"), probeDeadline+handshakeDeadline, func(ctx context.Context) (eras, error) {
		if e, _ := u.speaks(h.cfg.Now()); e.known() {
			return e, nil // found while this was waiting its turn
		}
		e, err := h.probe(ctx, u)
		vague := err != nil && !errors.Is(err, errUnreachable)
		u.probed(e, vague, h.cfg.Now())
		switch {
		case vague:
			return either, nil
		case err != nil:
			return eras{}, fmt.Errorf("%w: probe %s: %w", ErrUnavailable, u.name, err)
		}
		return e, nil
	})
}

// probe asks an upstream for its era: discover first, and for any answer that is not a modern server's, initialize
// (versioning, "Backward Compatibility").
func (h *Hub) probe(ctx context.Context, u *upstream) (eras, error) {
	e, discoverErr := h.askVersions(ctx, u)
	if e.modern || errors.Is(discoverErr, errUnreachable) {
		return e, discoverErr
	}
	_, err := h.handshake(ctx, u, sessionKey{catalogueOwner, u.name})
	switch {
	case err == nil:
		return eras{legacy: true}, nil
	case errors.Is(discoverErr, errGuarded) && errors.Is(err, errGuarded):
		// It shows strangers nothing. An agent's call, which carries a token, is sent in the agent's own era.
		return either, nil
	}
	return eras{}, err
}

func (h *Hub) askVersions(ctx context.Context, u *upstream) (eras, error) {
	ctx, cancel := context.WithTimeout(ctx, probeDeadline)
	defer cancel()
	a, err := h.client.call(ctx, leg{route: u.route, era: mcpparse.EraModern, version: mcpparse.LatestModern}, "server/discover", nil)
	if err != nil {
		return eras{}, err
	}
	var e eras
	for _, v := range gjson.GetBytes(a.result, "supportedVersions").Array() {
		e.modern = e.modern || v.Str == mcpparse.LatestModern
		e.legacy = e.legacy || slices.Contains(negotiated, v.Str)
	}
	return e, nil
}

// Leg says how to speak to app on behalf of owner: in the agent's own era where the upstream speaks it, else in the
// other. It opens a session when the upstream wants one. Errors are ErrUnavailable, or ctx's.
func (h *Hub) Leg(ctx context.Context, app *authz.App, owner string, era mcpparse.Era) (authz.Leg, error) {
	u := h.upstream(app)
	e, err := h.speaks(ctx, u)
	if err != nil {
		return authz.Leg{}, err
	}
	modern := authz.Leg{Era: mcpparse.EraModern, Version: mcpparse.LatestModern}
	if e.modern && (era == mcpparse.EraModern || !e.legacy) {
		return modern, nil
	}
	s, err := h.openSession(ctx, u, owner)
	switch {
	case err == nil:
		return authz.Leg{Era: mcpparse.EraLegacy, Version: s.version, SessionID: s.id}, nil
	case e.modern && errors.Is(err, errRefused):
		u.modernOnly()
		return modern, nil
	case errors.Is(err, errRefused):
		u.doubt()
	case errors.Is(err, errBadAnswer): // no handshake that we understand: the call itself may fare better
		return authz.Leg{Era: mcpparse.EraLegacy, Version: mcpparse.LatestLegacy}, nil
	}
	return authz.Leg{}, err
}

// openSession returns owner's session at u, opening it when there is none.
func (h *Hub) openSession(ctx context.Context, u *upstream, owner string) (upstreamSession, error) {
	k := sessionKey{owner, u.name}
	if s, ok := h.open.get(k, h.cfg.Now()); ok && s.route == u.route {
		return s, nil
	}
	return once(ctx, h, u.key("open")+"\x00"+owner, handshakeDeadline, func(ctx context.Context) (upstreamSession, error) {
		if s, ok := h.open.get(k, h.cfg.Now()); ok && s.route == u.route {
			return s, nil
		}
		s, err := h.handshake(ctx, u, k)
		switch {
		case err == nil:
			return s, nil
		case errors.Is(err, errGuarded):
			return h.keep(k, upstreamSession{app: u.name, route: u.route, version: mcpparse.LatestLegacy}), nil
		case errors.Is(err, errUnreachable):
			u.probed(eras{}, false, h.cfg.Now()) // everybody's calls fail fast until it answers again
		}
		return upstreamSession{}, fmt.Errorf("%w: initialize %s: %w", ErrUnavailable, u.name, err)
	})
}

// handshake opens a session and keeps it under k.
func (h *Hub) handshake(ctx context.Context, u *upstream, k sessionKey) (upstreamSession, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeDeadline)
	defer cancel()
	id, version, err := h.client.initialize(ctx, u.route)
	if err != nil {
		return upstreamSession{}, err
	}
	return h.keep(k, upstreamSession{app: u.name, route: u.route, id: id, version: version}), nil
}

func (h *Hub) keep(k sessionKey, s upstreamSession) upstreamSession {
	s.used = h.cfg.Now()
	for _, displaced := range h.open.put(k, s) {
		h.closeLater(displaced)
	}
	return s
}

// Forget drops owner's session at app: the upstream no longer knows it.
func (h *Hub) Forget(app *authz.App, owner string) {
	h.open.remove(sessionKey{owner, app.Name})
}

// Touch marks an agent's session as used. It reports false when the session has ended.
func (h *Hub) Touch(s session.Session) bool {
	return h.agents.touch(s.ID, h.cfg.Now())
}

// End ends an agent's session, and in the background the sessions that upstreams opened for it.
func (h *Hub) End(sessionID string) {
	h.agents.end(sessionID)
	h.mu.RLock()
	defer h.mu.RUnlock()
	for name := range h.upstreams {
		if s, ok := h.open.remove(sessionKey{sessionID, name}); ok {
			h.closeLater(s)
		}
	}
}

// closeLater has an upstream session closed in the background, as a courtesy: when too many wait, it is left to the
// upstream's own timeout.
func (h *Hub) closeLater(s upstreamSession) {
	if s.id == "" {
		return
	}
	select {
	case h.closing <- s:
	default:
	}
}

func (h *Hub) closeSessions(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case s := <-h.closing:
			h.closeSession(ctx, s)
		}
	}
}

func (h *Hub) closeSession(ctx context.Context, s upstreamSession) {
	ctx, cancel := context.WithTimeout(ctx, closeDeadline)
	defer cancel()
	if err := h.client.end(ctx, leg{route: s.route, version: s.version, session: s.id}); err != nil {
		h.cfg.Log.Debug("upstream session not closed", "app", s.app, "error", err)
	}
}
