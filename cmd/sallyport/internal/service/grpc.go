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

// noticeTime is what a load balancer that asks for our health gets to notice that we are about to end, and is more than
// the pause between two questions of an Envoy's.
const noticeTime = 1500 * time.Millisecond

// logDelay is how long Envoy may keep an entry of its access log to itself (buffer_flush_interval, 200 ms), and some more.
const logDelay = 500 * time.Millisecond

// flight counts the messages under way, so that the log of how they ended is waited for, and no longer than that.
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

// settle waits until nothing is under way and Envoy has had the time to say how the last message ended, or for within.
func (f *flight) settle(within time.Duration) {
	for deadline := time.Now().Add(within); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		f.mu.Lock()
		done := f.open == 0 && time.Since(f.ended) > logDelay
		f.mu.Unlock()
		if done {
			return
		}
	}
}

// untilNoticed returns a context that ends after ctx does, and after those who ask for our health have been told: until
// then everything is served as before.
func (s *Service) untilNoticed(ctx context.Context) (context.Context, context.CancelFunc) {
	serving, end := context.WithCancel(context.WithoutCancel(ctx))
	context.AfterFunc(ctx, func() {
		defer end()
		s.draining.Store(true)
		s.health.Shutdown() // NOT_SERVING, before anything is refused
		if s.flight.watched() {
			time.Sleep(noticeTime)
		}
	})
	return serving, end
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
			s.flight.settle(drainTime)
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

// drainTime bounds how long calls in flight may take to finish once the service is told to end.
const drainTime = 10 * time.Second
