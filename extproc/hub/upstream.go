package hub

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

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
	of                  upstreamKey
	name, route, prefix string
	fixed               mcpparse.Era // the only era to speak to it; EraUnknown: find out
	old                 bool         // it speaks the 2024-11-05 transport
	base                *url.URL     // … at this address
	principal           string       // whose lists these are; "" for everybody's

	mu     sync.Mutex
	who    *authz.Caller // likewise, with the newest token; nil for everybody's
	used   time.Time     // when it last asked
	wants  bool          // it has turned down what came without a token
	held   held          // what it is shown
	barred error         // why the last probe was turned down; nil when it was not
	eras   eras
	offers offers
	own    UpstreamSession // the hub's session, for lists; the zero value is none
	probes backoff
	vague  bool // the last probe was answered, but as no revision has it

	catalogue *catalogue // last good lists; nil: none yet
	tried     bool       // the lists have been asked for
	watched   bool       // somebody listens for changes of the lists
	down      bool       // the last attempt failed
	next      time.Time  // when to ask again
	read      time.Time  // when they were last asked for
	reading   bool       // they are being asked for
	missed    bool       // … and have changed since
	lists     backoff
}

// eras is which revisions an upstream speaks; both false: not known.
type eras struct{ modern, legacy bool }

func (e eras) known() bool { return e.modern || e.legacy }

// either is what an upstream is taken to speak that does not say: an agent's call is sent to it in the agent's own era,
// unless the configuration knows better.
func (u *upstream) either() eras {
	return eras{modern: u.fixed != mcpparse.EraLegacy && !u.old, legacy: u.fixed != mcpparse.EraModern}
}

// key tells this upstream from the one that had its name before a reload.
func (u *upstream) key(what string) string {
	return what + "\x00" + u.name + "\x00" + u.route + "\x00" + u.prefix + "\x00" + u.principal
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
		return u.either(), true
	}
	return u.eras, settled
}

// offering returns what is known of the eras and of what the upstream can do.
func (u *upstream) offering() (eras, offers) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.eras, u.offers
}

// probed keeps the outcome of a probe.
func (u *upstream) probed(e eras, o offers, err error, now time.Time) {
	vague := isVague(err)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.eras, u.vague, u.barred = e, vague, nil
	if unauthorized(err) {
		u.barred = err
	}
	switch {
	case e.known():
		u.offers = o // what it last offered stays offered while it is away
	case vague && u.offers == (offers{}):
		u.offers = offers{tools: true} // it did not say; its list will tell
	}
	if e.known() {
		u.probes = backoff{}
	} else {
		u.probes.fail(now)
	}
}

// isVague tells that a probe was answered, but not as any revision has it.
func isVague(err error) bool { return err != nil && !errors.Is(err, errUnreachable) }

// isBarred returns why u shows us nothing, nil if it does.
func (u *upstream) isBarred() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.barred
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

// Leg says how to speak to app on behalf of p: in the agent's own era where the upstream speaks it, else in the other. It
// opens a session when the upstream wants one. Errors are ErrUnavailable, or ctx's.
func (h *Hub) Leg(ctx context.Context, app *authz.App, p authz.Peer) (authz.Leg, error) {
	u := h.upstreamFor(app, p.Caller)
	e, err := h.speaks(ctx, u)
	if err != nil {
		return authz.Leg{}, err
	}
	modern := authz.Leg{Era: mcpparse.EraModern, Version: mcpparse.LatestModern}
	if e.modern && (p.Era == mcpparse.EraModern || !e.legacy) {
		return modern, nil
	}
	s, err := h.openSession(ctx, app, u, p)
	switch {
	case err == nil:
		return authz.Leg{Era: mcpparse.EraLegacy, Version: s.Version, SessionID: s.ID, Indirect: u.old}, nil
	case e.modern && (errors.Is(err, errRefused) || errors.Is(err, errBadAnswer)):
		u.modernOnly()
		return modern, nil
	case errors.Is(err, errRefused):
		u.doubt()
	case errors.Is(err, errBadAnswer) && !u.old: // no handshake that we understand: the call itself may fare better
		return authz.Leg{Era: mcpparse.EraLegacy, Version: mcpparse.LatestLegacy}, nil
	}
	return authz.Leg{}, err
}

// openSession returns p's session at app, opening it when there is none.
func (h *Hub) openSession(ctx context.Context, app *authz.App, u *upstream, p authz.Peer) (UpstreamSession, error) {
	find := func(ctx context.Context) (UpstreamSession, bool, error) {
		s, ok, err := h.store.Upstream(ctx, p.Owner, u.name)
		if u.old && ok {
			ok = h.conns.get(p.Owner, u.name) != nil // the connection is this process's
		}
		return s, ok && s.Route == u.route, err
	}
	if s, ok, err := find(ctx); ok || err != nil {
		return s, err
	}
	token, err := p.Token(ctx, app, u.demands())
	switch {
	case err == nil:
	case app.Exchange.Session != nil:
		return UpstreamSession{}, fmt.Errorf("%w: token for a session at %s: %w", ErrUnavailable, u.name, err)
	default:
		h.cfg.Log.Info("no token to open a session with; the call goes without one", "app", u.name, "error", err)
		return u.sessionless(), nil
	}
	return once(ctx, h, u.key("open")+"\x00"+p.Owner, handshakeDeadline+closeDeadline, func(ctx context.Context) (UpstreamSession, error) {
		if s, ok, err := find(ctx); ok || err != nil {
			return s, err
		}
		return h.open(ctx, app, u, p, token)
	})
}

// sessionless stands for a session at an upstream that opens none for us. A call brings a token of its own, and may fare
// better.
func (u *upstream) sessionless() UpstreamSession {
	return UpstreamSession{App: u.name, Route: u.route, Version: mcpparse.LatestLegacy}
}

func (h *Hub) open(ctx context.Context, app *authz.App, u *upstream, p authz.Peer, token string) (UpstreamSession, error) {
	s, err := h.greet(ctx, u, p, token)
	if errors.Is(err, errGuarded) && token == "" {
		// A session belongs to whose token opened it: to the agent, as its calls will.
		var missing error
		if token, missing = p.Token(ctx, app, true); missing != nil {
			h.cfg.Log.Info("no token to open a session with, and the upstream wants one", "app", u.name, "error", missing)
		} else if token != "" {
			h.demand(u)
			s, err = h.greet(ctx, u, p, token)
		}
	}
	switch {
	case err == nil:
		h.replay(ctx, u, p.Owner, s, token)
	case errors.Is(err, errGuarded):
		s = u.sessionless()
	case errors.Is(err, errUnreachable):
		u.probed(eras{}, offers{}, err, h.cfg.Now()) // everybody's calls fail fast until it answers again
		fallthrough
	default:
		return UpstreamSession{}, fmt.Errorf("%w: initialize %s: %w", ErrUnavailable, u.name, err)
	}
	if s.ID != "" {
		h.cfg.Metrics.opened.WithLabelValues(u.name).Inc()
	}
	displaced, err := h.store.PutUpstream(ctx, p.Owner, s)
	h.closeLater(withToken(token), displaced...)
	if err == nil {
		h.tell(ctx, p.Owner, note{Opened: u.name})
		if !u.old {
			h.awaitStream(ctx, p.Owner, s)
		}
	}
	return s, err
}

// greet opens a session in p's name, over whichever transport u speaks.
func (h *Hub) greet(ctx context.Context, u *upstream, p authz.Peer, token string) (s UpstreamSession, err error) {
	agent := h.agentOf(ctx, p.Session)
	if u.old {
		var conn *oldConn
		if conn, err = h.connect(ctx, u, p.Owner, agent, token); err == nil {
			s = UpstreamSession{App: u.name, Route: u.route, ID: conn.id, Version: conn.version, Logging: conn.offers.logging}
		}
	} else {
		s, _, err = h.handshake(ctx, u, agent, token)
	}
	s.Guarded = token != ""
	return s, err
}

// handshake opens a session in the name of an agent; of nobody when it is zero.
func (h *Hub) handshake(ctx context.Context, u *upstream, agent session.Session, token string) (UpstreamSession, offers, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeDeadline)
	defer cancel()
	got, err := h.client.initialize(ctx, leg{route: u.route, era: mcpparse.EraLegacy, token: token}, agent)
	if err != nil {
		return UpstreamSession{}, offers{}, err
	}
	s := UpstreamSession{App: u.name, Route: u.route, ID: got.id, Version: got.version, Logging: got.offers.logging}
	return s, got.offers, nil
}

// replay tells a new session what its owner had asked of the one before: the log level, and subscriptions.
func (h *Hub) replay(ctx context.Context, u *upstream, owner string, s UpstreamSession, token string) {
	facts, err := h.store.Facts(ctx, owner)
	if err != nil {
		return
	}
	for key, value := range facts {
		uri, subscribed := strings.CutPrefix(key, factSubscribed)
		switch {
		case key == factLevel && s.Logging:
			_, err = h.ask(ctx, u, owner, s, token, "logging/setLevel", encode(map[string]string{"level": value}))
		case subscribed && value == u.name:
			_, err = h.ask(ctx, u, owner, s, token, "resources/subscribe", encode(map[string]string{"uri": uri}))
		}
		if err != nil {
			h.cfg.Log.Info("a new upstream session could not be told what the one before knew", "app", u.name, "error", err)
		}
	}
}

// ask sends a request of our own in a legacy session, whichever transport that has.
func (h *Hub) ask(ctx context.Context, u *upstream, owner string, s UpstreamSession, token, method string, params []byte) ([]byte, error) {
	if conn := h.conns.get(owner, u.name); u.old && conn != nil {
		return conn.call(ctx, h.client.newID(), method, params, token)
	}
	a, err := h.client.call(ctx, legOf(s, token), method, params)
	return a.result, err
}

// legOf is how to speak in a legacy session.
func legOf(s UpstreamSession, token string) leg {
	return leg{route: s.Route, era: mcpparse.EraLegacy, version: s.Version, session: s.ID, token: token}
}

func (u *upstream) keepOwn(s UpstreamSession) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.own = s
}

// Touch marks an agent's session as used. It reports false when the session has ended.
func (h *Hub) Touch(ctx context.Context, s session.Session) (bool, error) {
	return h.store.Touch(ctx, s.ID)
}
