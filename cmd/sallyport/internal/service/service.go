// Package service wires one gateway together: what the file describes, running. It decides nothing itself.
package service

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/authz/audit"
	"github.com/sallyport/sallyport/authz/extauthz"
	"github.com/sallyport/sallyport/authz/revocation"
	"github.com/sallyport/sallyport/authz/session"
	"github.com/sallyport/sallyport/authz/token/dpop"
	"github.com/sallyport/sallyport/cmd/sallyport/internal/config"
	"github.com/sallyport/sallyport/envoy"
	"github.com/sallyport/sallyport/exchange/sts"
	"github.com/sallyport/sallyport/extproc"
	"github.com/sallyport/sallyport/extproc/hub"
)

// Options say what to run.
type Options struct {
	Config  *config.Config
	File    string                                    // where Config came from
	Load    func() (*config.Config, []config.Problem) // reads File again, for reloads
	Log     *slog.Logger
	Version string
	Dynamic bool // Envoy asks the service for its resources

	OwnEnvoy bool // an Envoy with our configuration runs beside, so http.address is ours to knock at
}

// Service is one running gateway, Envoy excepted.
type Service struct {
	Options
	Sockets Sockets

	audit      *audit.Ledger
	sealer     *session.Sealer
	proofs     dpop.Replays
	store      hub.Store
	revoked    *revocation.List
	hub        *hub.Hub
	processor  *extproc.Server
	authorizer *extauthz.Server
	provider   *sts.Server // nil when the file has none
	canary     *canary     // nil when none is sent
	registry   *prometheus.Registry
	metrics    *authz.Metrics
	ads        *envoy.Server // nil when Envoy has a file instead
	reloads    reloads

	// What a reload cannot change.
	lasting        map[string]string // sums of values, by key
	messageTimeout time.Duration     // of Envoy's listener
	skew           time.Duration     // that revocations are kept for

	state     atomic.Pointer[state]
	life      context.Context // of what works in the background; nil before Run
	group     *errgroup.Group // which runs there
	listening chan struct{}   // closed once every listener is ours
	began     time.Time
	routed    atomic.Bool // an Envoy with our routes is there
	draining  atomic.Bool
	health    *health.Server
	flight    flight
}

// New builds everything that o describes and opens its audit log, but listens nowhere yet.
func New(o Options) (*Service, error) {
	s := &Service{Options: o, listening: make(chan struct{}), began: time.Now(), health: health.NewServer(), registry: prometheus.NewRegistry(),
		messageTimeout: messageTimeout(o.Config), skew: clockSkew(o.Config)}
	var err error
	if s.Sockets, err = SocketsFor(o.File, o.Config.Service.Address, o.Config.Service.Hub); err != nil {
		return nil, err
	}
	s.lasting = s.lastingOf(o.Config)
	if s.store, err = newStore(o.Config, o.Log); err != nil {
		return nil, err
	}
	if s.revoked, err = s.newRevocations(); err != nil {
		return nil, err
	}
	s.proofs = sharedProofs(s.store)
	if s.proofs == nil { // they outlive a verifier
		s.proofs = dpop.NewMemory(dpop.DefaultMemory, time.Now)
	}
	if s.sealer, err = newSealer(o.Config); err != nil {
		return nil, err
	}
	if s.provider, err = newSTS(o.Config, o.Log); err != nil {
		return nil, err
	}
	if s.canary, err = newCanary(o); err != nil {
		return nil, err
	}
	first, err := s.build(o.Config, nil)
	if err != nil {
		return nil, err
	}
	if s.audit, err = openAudit(o.Config.Audit.File); err != nil {
		return nil, err
	}
	s.metrics = authz.NewMetrics(s.registry)
	s.processor, s.authorizer = extproc.NewServer(o.Log), extauthz.NewServer(o.Log)
	if s.hub, err = s.newHub(); err != nil {
		return nil, err
	}
	if first.gate, err = s.newGate(first); err != nil {
		return nil, err
	}
	s.state.Store(first)
	s.setGate(first)
	if o.Dynamic {
		s.ads = envoy.NewServer(o.Log)
		if err := s.push(context.Background(), first); err != nil {
			return nil, err
		}
	}
	s.register()
	return s, nil
}

// now is the configuration that is in force.
func (s *Service) now() *state { return s.state.Load() }

func openAudit(file string) (*audit.Ledger, error) {
	c := audit.Config{Path: file}
	if file == "" {
		c.Writer = os.Stderr
	}
	log, err := audit.Open(c)
	if err != nil {
		return nil, err
	}
	return audit.NewLedger(log), nil
}

func (s *Service) newHub() (*hub.Hub, error) {
	transports := s.Config.MCPProvider.Transports
	session := transports.Stream.Session
	header := sessionHeader(s.Config)
	oldKeepAlive := time.Duration(0)
	if transports.SSE.KeepAlive.Enabled {
		oldKeepAlive = transports.SSE.KeepAlive.Interval
	}
	return hub.New(hub.Config{
		Gate:         func() hub.Gate { return s.now().gate },
		Retired:      func() []*authz.App { return s.now().retired() },
		Paths:        paths(s.Config),
		OldKeepAlive: oldKeepAlive,
		Store:        s.store,
		Revocations:  s.revoked,
		Metrics:      hub.NewMetrics(s.registry),
		Completed: func(c audit.Completion) {
			if err := s.audit.Completion(c, ""); err != nil {
				s.Log.Error("completion not recorded", "id", c.ID, "error", err)
			}
		},
		Upstream: s.upstreams(),
		Sessions: s.sealer, SessionHeader: header, SessionTimeout: session.Timeout, ClientMayEnd: session.AllowClientTermination,
		MaxRequestBytes: int64(s.Config.HTTP.MaxRequestBytes),
		Version:         s.Version, Log: s.Log,
	})
}

// newGate builds the judge for n. Sessions stay.
func (s *Service) newGate(n *state) (*authz.Gate, error) {
	cfg := n.cfg
	p := cfg.MCPProvider
	stream, oauth := p.Transports.Stream, p.Authorization.OAuth
	c := authz.Config{
		Sessions: s.sealer, SessionHeader: sessionHeader(cfg), Upstreams: s.hub, Revocations: s.revoked, Audit: s.audit, Metrics: s.metrics, Log: s.Log,
		Paths: paths(cfg), Documents: n.documents,
		ClientMayEnd: stream.Session.AllowClientTermination,
		Audiences:    audiences(cfg), Resource: oauth.Resource, Scopes: oauth.ScopesSupported, Listen: cfg.HTTP.Address,
		AllowedHosts: cfg.HTTP.AllowedHosts, AllowedOrigins: cfg.HTTP.AllowedOrigins,
		MaxRequestBytes: int64(cfg.HTTP.MaxRequestBytes),
	}
	if s.canary != nil {
		c.Canary = s.canary
	}
	if n.verifier != nil {
		c.Tokens, c.Bound = n.verifier, bound(cfg)
	}
	for i := range cfg.Apps {
		app, err := newApp(&cfg.Apps[i], n.sources)
		if err != nil {
			return nil, err
		}
		if route := n.envoy.Apps[i].Route; route != "" {
			app.Route = route
		}
		c.Apps = append(c.Apps, app)
	}
	return authz.New(c)
}

// setGate has n judge every message that begins from now on.
func (s *Service) setGate(n *state) {
	s.processor.SetGate(n.gate)
	s.authorizer.SetGate(n.gate)
}

// Listening is closed once Run has opened every listener: from then on the sockets are this service's alone.
func (s *Service) Listening() <-chan struct{} { return s.listening }

// Run serves until ctx ends, then says that it is not ready and lets what is in flight finish.
func (s *Service) Run(ctx context.Context) error {
	ctx, end := s.untilNoticed(ctx)
	defer end()
	if err := s.Sockets.Prepare(); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	life, die := context.WithCancel(context.WithoutCancel(ctx))
	defer die()
	if err := s.serveAll(ctx, life, die, group); err != nil {
		group.Go(func() error { return err }) // ends what has been opened
		die()
		return errors.Join(group.Wait(), s.audit.Close())
	}
	close(s.listening)
	background := []func(context.Context) error{s.runHub, s.watch, s.revoked.Run, s.tellHealth}
	if s.canary != nil {
		background = append(background, func(ctx context.Context) error { return s.canary.run(ctx, s.draining.Load) })
	}
	s.life, s.group = life, group
	s.startParts(s.now())
	for _, run := range background {
		group.Go(func() error { return ignoreEnd(run(life)) })
	}
	err := group.Wait()
	if shared, ok := s.store.(io.Closer); ok {
		err = errors.Join(err, shared.Close())
	}
	return errors.Join(ignoreEnd(err), s.audit.Close())
}

// runHub runs the hub once there is an Envoy to reach the upstreams through, so that an Envoy that is slower to start
// than we are does not look like a failure of every upstream.
func (s *Service) runHub(ctx context.Context) error {
	if s.Config.Service.Upstreams == "direct" {
		s.routed.Store(true)
		return s.hub.Run(ctx)
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", s.Sockets.Egress)
		if err == nil {
			_ = conn.Close()
		}
		if err == nil && (s.ads == nil || s.ads.Served()) { // an Envoy that outlived an earlier service has other routes at first
			s.routed.Store(true)
			if s.connected() || time.Since(s.began) > exchangeGrace { // some upstreams show nothing without a token
				return s.hub.Run(ctx)
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// serveAll opens every listener before anything is served, so that a taken address ends the program at once. Envoy is
// served until ctx ends and its calls have; then die is called, for all the rest: calls in flight need it.
func (s *Service) serveAll(ctx, life context.Context, die func(), group *errgroup.Group) error {
	calls, ctx := errgroup.WithContext(ctx)
	err := s.serveEnvoy(ctx, calls)
	group.Go(func() error { defer die(); return calls.Wait() })
	if err != nil {
		return err
	}
	control, err := listenPrivately(ctx, s.Sockets.Control)
	if err != nil {
		return err
	}
	group.Go(func() error { return serveHTTP(life, control, s.controlHandler()) })
	servers := map[string]http.Handler{s.Config.Admin.Address: s.adminHandler()}
	if s.provider != nil {
		servers[s.Config.AuthProvider.Address] = s.provider
	}
	for address := range s.now().publish {
		servers[address] = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.now().publish[address].ServeHTTP(w, r) })
	}
	for address, handler := range servers {
		l, err := listen(ctx, address)
		if err != nil {
			return err
		}
		group.Go(func() error { return serveHTTP(life, l, handler) })
	}
	return nil
}

// serveEnvoy answers Envoy, which asks one of several replicas as soon as it can be reached: it can be when it is ready.
func (s *Service) serveEnvoy(ctx context.Context, calls *errgroup.Group) error {
	serve := func() error {
		l, err := listen(ctx, s.Sockets.Service)
		if err != nil {
			return err
		}
		calls.Go(func() error { return s.serveGRPC(ctx, s.secure(l)) })
		hub, err := listen(ctx, s.Sockets.Hub)
		if err != nil {
			return err
		}
		calls.Go(func() error { return s.hub.Serve(ctx, s.secure(hub)) })
		return nil
	}
	if len(s.Config.Service.Replicas) == 0 {
		return serve()
	}
	calls.Go(func() error {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			if ready, _ := s.Ready(); ready {
				s.health.SetServingStatus("", healthv1.HealthCheckResponse_SERVING) // from the first answer on
				return serve()
			}
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
			}
		}
	})
	return nil
}

func serveHTTP(ctx context.Context, l net.Listener, h http.Handler) error {
	server := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 64 << 10}
	stop := context.AfterFunc(ctx, func() {
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second) // the calls are over
		defer cancel()
		_ = server.Shutdown(bounded)
		_ = server.Close()
	})
	defer stop()
	return ignoreEnd(server.Serve(l))
}

func ignoreEnd(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
