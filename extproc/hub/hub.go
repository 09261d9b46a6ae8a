package hub

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/singleflight"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/authz/audit"
	"github.com/sallyport/sallyport/authz/session"
	"github.com/sallyport/sallyport/authz/token"
	"github.com/sallyport/sallyport/mcpparse"
)

// Gate is what the hub asks of the gate. *authz.Gate is one.
type Gate interface {
	Identify(ctx context.Context, r authz.Request) (*authz.Caller, *authz.Reply)
	Apps() []*authz.App
	Visible(ctx context.Context, app *authz.App, target mcpparse.Target, name string, r authz.Request, id *token.Identity, version string) bool
	Owner(id *token.Identity, path string) session.Owner
	TokenSource(c *authz.Caller) authz.TokenSource
	DiscoveryToken(ctx context.Context, app *authz.App, who *authz.Caller) (*authz.IssuedToken, error)
	OpenTicket(sealed string, c *authz.Caller, s session.Session, body []byte) (authz.Ticket, error)
	Again(ctx context.Context, r authz.Request, s session.Session, body []byte) (authz.Ticket, *authz.Reply)
}

// Config is what a Hub is made of.
type Config struct {
	Gate    func() Gate         // the gate in force; a reload changes it
	Retired func() []*authz.App // apps that a reload has removed or changed and of which calls may be under way; nil: none

	Paths          authz.Paths
	Sessions       *session.Sealer   // seals session ids and names
	SessionHeader  string            // lower-case name of the session header; "" when sessions are off
	SessionTimeout time.Duration     // idle time after which a session ends; 0: 1 h
	ClientMayEnd   bool              // DELETE ends a session
	Store          Store             // nil: in memory
	Revocations    authz.Revocations // nil: nothing is ever revoked
	KeepAlive      time.Duration     // between comments on idle streams to agents; 0: 20 s
	OldKeepAlive   time.Duration     // likewise on those of the 2024-11-05 transport; 0: none

	Upstream        http.RoundTripper // leads to the upstreams, by authz.RouteHeader; see Egress
	MaxRequestBytes int64             // of one message; 0: 1 MiB
	Version         string            // of this program, for serverInfo and clientInfo

	Completed func(audit.Completion) // tells the end of a call that the hub carried out and that has a record of its own; nil: nobody
	Metrics   *Metrics               // nil: nobody looks
	Log       *slog.Logger
	Now       func() time.Time // nil: time.Now
}

// Hub is the http.Handler behind the gate's hub route, and the gate's knowledge of the upstreams
// (authz.Upstreams). Run must be running for lists to be kept fresh and for ended sessions to be closed upstream.
type Hub struct {
	cfg      Config
	client   *client
	store    Store
	conns    *oldConns // to upstreams that speak the 2024-11-05 transport
	boxes    inboxes   // the open event streams of agents' sessions
	holdings holdings  // what a revocation has to end

	mu        sync.RWMutex
	upstreams map[upstreamKey]*upstream
	callers   perCaller

	viewsMu sync.Mutex
	views   *lru[view, []bool]
	joins   joins

	flights    singleflight.Group // probes, handshakes and list fetches under way
	closing    chan ending
	changes    changes
	woken      chan struct{}   // something is due before the next tick
	life       context.Context // of what outlives the request that started it
	stop       context.CancelFunc
	work       group           // what runs in life
	drained    context.Context // ends when streams are to end, so that the process can
	endStreams context.CancelFunc
}

var (
	_ authz.Upstreams = (*Hub)(nil)
	_ Gate            = (*authz.Gate)(nil)
)

// New returns a hub for cfg, or an error that says what is missing.
func New(cfg Config) (*Hub, error) {
	switch {
	case cfg.Gate == nil || cfg.Upstream == nil || cfg.Log == nil:
		return nil, errors.New("hub: Gate, Upstream and Log are required")
	case cfg.Sessions == nil:
		return nil, errors.New("hub: Sessions is required")
	case cfg.SessionTimeout < 0 || cfg.MaxRequestBytes < 0:
		return nil, errors.New("hub: SessionTimeout and MaxRequestBytes must not be negative")
	}
	if cfg.SessionTimeout == 0 {
		cfg.SessionTimeout = time.Hour
	}
	if cfg.MaxRequestBytes == 0 {
		cfg.MaxRequestBytes = 1 << 20
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Metrics == nil {
		cfg.Metrics = NewMetrics(prometheus.NewRegistry())
	}
	if cfg.KeepAlive == 0 {
		cfg.KeepAlive = 20 * time.Second
	}
	if cfg.Revocations == nil {
		cfg.Revocations = authz.NothingRevoked{}
	}
	if cfg.Retired == nil {
		cfg.Retired = func() []*authz.App { return nil }
	}
	if cfg.Store == nil {
		cfg.Store = NewMemory(cfg.SessionTimeout, cfg.Now)
	}
	h := &Hub{
		cfg:       cfg,
		client:    newClient(cfg.Upstream, cfg.Version),
		store:     cfg.Store,
		conns:     newOldConns(),
		holdings:  newHoldings(),
		upstreams: map[upstreamKey]*upstream{},
		callers:   newPerCaller(),
		views:     newLRU[view, []bool](maxViews),
		joins:     newJoins(),
		closing:   make(chan ending, closeBacklog),
		woken:     make(chan struct{}, 1),
		work:      group{log: cfg.Log},
	}
	h.life, h.stop = context.WithCancel(context.Background())
	h.drained, h.endStreams = context.WithCancel(h.life)
	return h, nil
}

const (
	tick         = time.Second
	closers      = 4    // upstream sessions closed at the same time
	closeBacklog = 1024 // upstream sessions waiting to be closed; what is beyond is left to the upstream's own timeout
)

// Run keeps the tool lists fresh and closes upstream sessions that are no longer needed, until ctx ends. The hub is
// of no use afterwards.
func (h *Hub) Run(ctx context.Context) error {
	workers := group{log: h.cfg.Log}
	defer workers.Wait()
	defer h.work.Wait()
	defer h.stop()
	for range closers {
		workers.Go(func() { h.closeSessions(ctx) })
	}
	every := time.NewTicker(tick)
	defer every.Stop()
	for gate := h.cfg.Gate(); ; {
		h.prune()
		h.refreshDue()
		if g := h.cfg.Gate(); g != gate {
			gate = g
			h.changes.announce() // other policies, other lists
		}
		idle, err := h.store.Expire(ctx)
		if err != nil && ctx.Err() == nil {
			h.cfg.Log.Error("the session store does not answer", "error", err)
		}
		h.closeLater(nil, idle...) // the agent is gone, and its token with it
		select {
		case <-ctx.Done():
			return nil
		case <-h.woken:
		case <-every.C:
		}
	}
}

// wake has what is due done now.
func (h *Hub) wake() {
	select {
	case h.woken <- struct{}{}:
	default:
	}
}

// Drain ends the open event streams, which would otherwise keep the process from ending. Calls go on.
func (h *Hub) Drain() { h.endStreams() }

// Ready reports whether every app's list has been asked for once, with or without success. Lists that are each caller's
// are not waited for.
func (h *Hub) Ready() bool {
	for _, a := range h.cfg.Gate().Apps() {
		if !a.DiscoversAsAgent() && !h.upstream(a).attempted() {
			return false
		}
	}
	return true
}

// upstreamKey tells the server of an app from those that had its name before a reload, or have it still for calls that are
// under way: one that a reload changed starts anew.
type upstreamKey struct {
	name, route, prefix string
	era                 mcpparse.Era
	old                 bool
}

func keyOf(a *authz.App) upstreamKey {
	return upstreamKey{name: a.Name, route: a.Route, prefix: a.Prefix, era: a.Era, old: a.OldTransport != nil}
}

// upstream returns what is known of a's server.
func (h *Hub) upstream(a *authz.App) *upstream {
	key := keyOf(a)
	h.mu.RLock()
	u := h.upstreams[key]
	h.mu.RUnlock()
	if u != nil {
		return u
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if u = h.upstreams[key]; u == nil {
		u = newUpstream(a)
		h.upstreams[key] = u
	}
	return u
}

func newUpstream(a *authz.App) *upstream {
	return &upstream{of: keyOf(a), name: a.Name, route: a.Route, prefix: a.Prefix, fixed: a.Era, old: a.OldTransport != nil, base: a.OldTransport}
}

// appOf returns the app of this name in a gate; nil when there is none.
func appOf(g Gate, name string) *authz.App {
	for _, a := range g.Apps() {
		if a.Name == name {
			return a
		}
	}
	return nil
}

// appAt returns the app of this name that is at this route, in g or, if a call of it may be under way, before. What has been
// decided of one app holds for no other, whatever its name.
func (h *Hub) appAt(g Gate, name, route string) *authz.App {
	if a := appOf(g, name); a != nil && a.Route == route {
		return a
	}
	for _, a := range h.cfg.Retired() {
		if a.Name == name && a.Route == route {
			return a
		}
	}
	return nil
}

// app returns the app in force whose server u is; nil when there is none any more.
func (h *Hub) app(u *upstream) *authz.App {
	if a := appOf(h.cfg.Gate(), u.name); a != nil && u.of == keyOf(a) {
		return a
	}
	return nil
}

// prune forgets the apps that a reload removed, or whose lists it made each caller's or everybody's.
func (h *Hub) prune() {
	shared, each := map[upstreamKey]bool{}, map[upstreamKey]bool{}
	for _, a := range slices.Concat(h.cfg.Gate().Apps(), h.cfg.Retired()) {
		if a.DiscoversAsAgent() {
			each[keyOf(a)] = true
		} else {
			shared[keyOf(a)] = true
		}
	}
	h.forgetCallers(each)
	h.mu.Lock()
	defer h.mu.Unlock()
	for key := range h.upstreams {
		if !shared[key] {
			delete(h.upstreams, key)
		}
	}
}

// primePatience bounds Prime.
const primePatience = time.Second

// Prime is to be called when Gate has another gate than before: it starts to read the lists of the apps that are new, and
// waits a moment for them, so that the first calls find their tools. What is known of the others stays.
func (h *Hub) Prime(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, primePatience)
	defer cancel()
	h.wake()
	for _, a := range h.cfg.Gate().Apps() {
		if a.DiscoversAsAgent() {
			continue
		}
		u := h.upstream(a)
		if u.attempted() {
			continue
		}
		select {
		case <-h.refresh(u):
		case <-ctx.Done():
		}
	}
}

// once runs work unless the same work is under way, and waits for it until ctx ends. The work goes on without the
// caller: others may be waiting for it, and its result is kept.
func once[T any](ctx context.Context, h *Hub, key string, limit time.Duration, work func(context.Context) (T, error)) (T, error) {
	select {
	case r := <-start(h, key, limit, work):
		v, _ := r.Val.(T)
		return v, r.Err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

// start is once without the waiting. Work reads what upstreams sent; should that ever make it panic, it fails, as a
// request to net/http would, and the process goes on.
func start[T any](h *Hub, key string, limit time.Duration, work func(context.Context) (T, error)) <-chan singleflight.Result {
	return h.flights.DoChan(key, func() (v any, err error) {
		defer func() {
			if p := recover(); p != nil {
				h.cfg.Log.Error("panic while asking an upstream", "panic", p, "stack", string(debug.Stack()))
				err = fmt.Errorf("%w: internal error", ErrUnavailable)
			}
		}()
		ctx, cancel := context.WithTimeout(h.life, limit)
		defer cancel()
		return work(ctx)
	})
}
