package service

import (
	"context"
	"net"
	"sync"
	"time"

	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"

	"github.com/sallyport/sallyport/extproc"
)

// The limits of an orderly end, 25 s together, of which every caller's patience should be more.
const (
	// noticeTime is what a load balancer that asks for our health gets to notice that we are about to end, and is more
	// than two pauses between the questions of an Envoy's.
	noticeTime = 1500 * time.Millisecond
	// drainTime is what calls in flight get to finish.
	drainTime = 20 * time.Second
)

// logDelay is how long Envoy may keep the first entry of its access log to itself (buffer_flush_interval, 200 ms), and some more.
const logDelay = 500 * time.Millisecond

// flight counts the messages that are being judged, and knows who watches.
type flight struct {
	mu     sync.Mutex
	open   int
	ended  time.Time // the last that did
	health time.Time // when somebody last asked for it
}

func (f *flight) begin(method string) (end func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch method {
	case healthv1.Health_Check_FullMethodName, healthv1.Health_Watch_FullMethodName:
		f.health = time.Now()
	case extprocv3.ExternalProcessor_Process_FullMethodName, authv3.Authorization_Check_FullMethodName:
		f.open++
		return func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.open--
			f.ended = time.Now()
		}
	}
	return func() {}
}

func (f *flight) stream(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	defer f.begin(info.FullMethod)()
	return next(srv, s)
}

func (f *flight) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	defer f.begin(info.FullMethod)()
	return next(ctx, req)
}

// watched tells whether somebody has asked for our health of late.
func (f *flight) watched() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return time.Since(f.health) < 10*time.Second
}

// quiet tells whether nothing is being judged, and for how long that has been so.
func (f *flight) quiet() (since time.Duration, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return time.Since(f.ended), f.open == 0
}

// settle waits until every decision has its completion, or as long as it may. What an upstream streams to an agent is in
// flight as well, though no stream to us is open for it. Without an Envoy that tells of it there is nothing to wait for.
func (s *Service) settle(completions *extproc.Completions) {
	for deadline := time.Now().Add(drainTime); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		since, quiet := s.flight.quiet()
		if quiet && (s.audit.Open() == 0 || since > logDelay && !completions.Connected()) {
			return
		}
	}
}

// untilNoticed returns a context that ends after ctx does, and after those who ask for our health have been told: until
// then everything is served as before.
func (s *Service) untilNoticed(ctx context.Context) (context.Context, context.CancelFunc) {
	serving, end := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		defer end()
		s.draining.Store(true)
		s.health.Shutdown() // NOT_SERVING, before anything is refused
		if s.flight.watched() {
			time.Sleep(noticeTime)
		}
	})
	return serving, func() { stop(); end() }
}

// tellHealth has gRPC health say what /ready does.
func (s *Service) tellHealth(ctx context.Context) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		status := healthv1.HealthCheckResponse_NOT_SERVING
		if ready, _ := s.Ready(); ready {
			status = healthv1.HealthCheckResponse_SERVING
		}
		s.health.SetServingStatus("", status)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (s *Service) serveGRPC(ctx context.Context, l net.Listener) error {
	server := grpc.NewServer(
		grpc.MaxRecvMsgSize(int(s.Config.HTTP.MaxRequestBytes)+1<<20), // a body that Envoy let through at its soft edge, and headers
		grpc.MaxConcurrentStreams(20000),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.WaitForHandlers(true),
		grpc.NumStreamWorkers(extproc.StreamWorkers),
		grpc.StreamInterceptor(s.flight.stream), grpc.UnaryInterceptor(s.flight.unary),
	)
	completions := extproc.NewCompletions(s.audit.Completion, s.Log)
	extprocv3.RegisterExternalProcessorServer(server, s.processor)
	authv3.RegisterAuthorizationServer(server, s.authorizer)
	alsv3.RegisterAccessLogServiceServer(server, completions)
	if s.ads != nil {
		s.ads.Register(server)
	}
	healthv1.RegisterHealthServer(server, s.health)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ctx.Done()
		if s.ads != nil {
			s.ads.Stop()
		}
		timer := time.AfterFunc(drainTime, server.Stop)
		defer timer.Stop()
		go func() { // Envoy does not end that stream, so GracefulStop would wait in vain
			s.settle(completions)
			completions.Stop()
		}()
		server.GracefulStop()
	}()
	err := server.Serve(l)
	if ctx.Err() != nil {
		<-stopped
		return nil
	}
	return err
}
