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

	"golang.org/x/sync/singleflight"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/authz/session"
	"github.com/sallyport/sallyport/authz/token"
)

// Gate is what the hub asks of the gate. *authz.Gate is one.
type Gate interface {
	Identify(ctx context.Context, r authz.Request) (*token.Identity, *authz.Reply)
	Apps() []*authz.App
	Visible(ctx context.Context, app *authz.App, tool string, r authz.Request, id *token.Identity, version string) bool
}

// Config is what a Hub is made of.
type Config struct {
	Gate func() Gate // the gate in force; a reload changes it

	Sessions       *session.Sealer // seals session ids; required with SessionHeader
	SessionHeader  string          // lower-case name of the session header; "" when sessions are off
	SessionTimeout time.Duration   // idle time after which a session ends; 0: 1 h
	ClientMayEnd   bool            // DELETE ends a session

	Upstream        http.RoundTripper // leads to the upstreams, by authz.RouteHeader; see Egress
	MaxRequestBytes int64             // of one message; 0: 1 MiB
	Version         string            // of this program, for serverInfo and clientInfo

	Log *slog.Logger
	Now func() time.Time // nil: time.Now
}

// Hub is the http.Handler behind the gate's hub route, and the gate's knowledge of the upstreams
// (authz.Upstreams). Run must be running for lists to be kept fresh and for ended sessions to be closed upstream.
type Hub struct {
	cfg    Config
	client *client
	agents *agentSessions
	open   *upstreamSessions

	mu        sync.RWMutex
	upstreams map[string]*upstream // by app name

	flights singleflight.Group // probes, handshakes and list fetches under way
	closing chan upstreamSession
	life    context.Context // of what outlives the request that started it
	stop    context.CancelFunc
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
	case cfg.SessionHeader != "" && cfg.Sessions == nil:
		return nil, errors.New("hub: sessions need a Sealer")
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
	h := &Hub{
		cfg:       cfg,
		client:    newClient(cfg.Upstream, cfg.Version),
		agents:    newAgentSessions(cfg.SessionTimeout),
		open:      newUpstreamSessions(cfg.SessionTimeout),
		upstreams: map[string]*upstream{},
		closing:   make(chan upstreamSession, closeBacklog),
	}
	h.life, h.stop = context.WithCancel(context.Background())
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
	defer h.stop()
	var workers sync.WaitGroup
	defer workers.Wait()
	for range closers {
		workers.Go(func() { h.closeSessions(ctx) })
	}
	every := time.NewTicker(tick)
	defer every.Stop()
	for {
		h.prune()
		h.refreshDue()
		for _, s := range h.open.expire(h.cfg.Now()) {
			h.closeLater(s)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-every.C:
		}
	}
}

// Ready reports whether every app's list has been asked for once, with or without success.
func (h *Hub) Ready() bool {
	for _, a := range h.cfg.Gate().Apps() {
		if !h.upstream(a).attempted() {
			return false
		}
	}
	return true
}

// upstream returns what is known of a's server. An app whose route or prefix was changed by a reload starts anew.
func (h *Hub) upstream(a *authz.App) *upstream {
	h.mu.RLock()
	u := h.upstreams[a.Name]
	h.mu.RUnlock()
	if u != nil && u.route == a.Route && u.prefix == a.Prefix {
		return u
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	u = h.upstreams[a.Name]
	if u == nil || u.route != a.Route || u.prefix != a.Prefix {
		u = &upstream{name: a.Name, route: a.Route, prefix: a.Prefix}
		h.upstreams[a.Name] = u
	}
	return u
}

// prune forgets the apps that a reload removed.
func (h *Hub) prune() {
	kept := map[string]bool{}
	for _, a := range h.cfg.Gate().Apps() {
		kept[a.Name] = true
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for name := range h.upstreams {
		if !kept[name] {
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
