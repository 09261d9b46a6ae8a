// Package gateway runs a service and an Envoy beside it as one: they become ready together and end together.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/envoyproc"
	"github.com/sallyport/sallyport/cmd/sallyport/internal/service"
)

// Config says what to run.
type Config struct {
	Service     *service.Service
	Envoy       string // path of the binary
	Concurrency int    // Envoy's worker threads; 0 means half the cores
	OnReady     func() // called once, when the first call would succeed
}

// drainTime bounds how long calls in flight may take to finish after ctx has ended.
const drainTime = 10 * time.Second

// Run runs both until ctx ends or one of them does, and returns why it ended.
func Run(ctx context.Context, cfg Config) error {
	serving, endService := context.WithCancel(context.WithoutCancel(ctx))
	defer endService()
	serviceDone := make(chan error, 1)
	go func() { serviceDone <- cfg.Service.Run(serving) }()
	select {
	case <-cfg.Service.Listening(): // an Envoy on sockets that another gateway holds would take its traffic
	case err := <-serviceDone:
		return err
	}
	proxy, err := startEnvoy(cfg)
	if err != nil {
		endService()
		return errors.Join(err, <-serviceDone)
	}
	waiting, stopWaiting := context.WithCancel(ctx)
	defer stopWaiting()
	rejected := make(chan error, 1)
	go awaitReady(waiting, cfg, proxy, rejected)

	select {
	case <-ctx.Done():
	case err := <-rejected:
		stop(proxy, 0)
		endService()
		return errors.Join(err, <-serviceDone)
	case <-proxy.Done():
		endService()
		return errors.Join(fmt.Errorf("envoy ended: %w", orUnknown(proxy.Err())), <-serviceDone)
	case err := <-serviceDone: // without its judge Envoy refuses everything; better that both end
		stop(proxy, 0)
		return err
	}
	cfg.Service.Log.Info("draining")
	cfg.Service.Drain()
	stop(proxy, drainTime)
	endService()
	return <-serviceDone
}

func stop(p *envoyproc.Process, within time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	p.Stop(ctx)
}

func orUnknown(err error) error {
	if err == nil {
		return errors.New("exit status 0")
	}
	return err
}

// startEnvoy starts an Envoy with the gateway's configuration, which is kept beside the sockets for whoever wants to
// see it.
func startEnvoy(cfg Config) (*envoyproc.Process, error) {
	s := cfg.Service
	path := filepath.Join(s.Sockets.Dir(), "envoy.yaml")
	bootstrap, files, err := service.Bootstrap(s.Config, s.Sockets, s.Dynamic, s.Sockets.Dir())
	if err != nil {
		return nil, err
	}
	files[path] = bootstrap
	for name, content := range files {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			return nil, err
		}
	}
	return envoyproc.Start(envoyproc.Config{Binary: cfg.Envoy, Bootstrap: path, AdminSocket: s.Sockets.Admin,
		Concurrency: cfg.Concurrency, Log: s.Log})
}

// awaitReady calls OnReady once the service is ready and Envoy has its listeners. What keeps it waiting is logged. An Envoy
// that rejects what it is given at first, such as an address that somebody else has, will not become ready.
func awaitReady(ctx context.Context, cfg Config, proxy *envoyproc.Process, rejected chan<- error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	complain := time.NewTicker(5 * time.Second)
	defer complain.Stop()
	for {
		ready, checks := cfg.Service.Ready()
		if ready && proxy.Listening(ctx) {
			cfg.OnReady()
			return
		}
		if err := cfg.Service.Rejected(); err != nil {
			rejected <- err
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-proxy.Done():
			return
		case <-complain.C:
			cfg.Service.Log.Warn("not ready yet", slog.Any("checks", checks))
		case <-tick.C:
		}
	}
}
