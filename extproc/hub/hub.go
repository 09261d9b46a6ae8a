package hub

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
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
	Gate func() Gate // the gate in force; a reload changes it

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
	upstreams map[string]*upstream // by app name
	callers   perCaller

	viewsMu sync.Mutex
	views   *lru[view, []bool]

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
	if cfg.Store == nil {
		cfg.Store = NewMemory(cfg.SessionTimeout, cfg.Now)
	}
	h := &Hub{
		cfg:       cfg,
		client:    newClient(cfg.Upstream, cfg.Version),
		store:     cfg.Store,
		conns:     newOldConns(),
		holdings:  newHoldings(),
		upstreams: map[string]*upstream{},
		callers:   newPerCaller(),
		views:     newLRU[view, []bool](maxViews),
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

// upstream returns what is known of a's server. An app that a reload changed starts anew.
func (h *Hub) upstream(a *authz.App) *upstream {
	h.mu.RLock()
	u := h.upstreams[a.Name]
	h.mu.RUnlock()
	if u.is(a) {
		return u
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	u = h.upstreams[a.Name]
	if !u.is(a) {
		u = newUpstream(a)
		h.upstreams[a.Name] = u
	}
	return u
}

func newUpstream(a *authz.App) *upstream {
	return &upstream{name: a.Name, route: a.Route, prefix: a.Prefix, fixed: a.Era, old: a.OldTransport != nil, base: a.OldTransport}
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

func (u *upstream) is(a *authz.App) bool {
	return u != nil && u.route == a.Route && u.prefix == a.Prefix && u.fixed == a.Era && u.old == (a.OldTransport != nil)
}

// prune forgets the apps that a reload removed, or whose lists it made each caller's or everybody's.
func (h *Hub) prune() {
	shared, each := map[string]bool{}, map[string]bool{}
	for _, a := range h.cfg.Gate().Apps() {
		if a.DiscoversAsAgent() {
			each[a.Name] = true
		} else {
			shared[a.Name] = true
		}
	}
	h.forgetCallers(each)
	h.mu.Lock()
	defer h.mu.Unlock()
	for name := range h.upstreams {
		if !shared[name] {
			delete(h.upstreams, name)
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
