package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"time"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/config"
	"github.com/sallyport/sallyport/cmd/sallyport/internal/service"
)

func serveCommand(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	fs := flag.NewFlagSet("serve", flag.ContinueOnError)
	var src source
	src.flags(fs)
	if err := parse(fs, args, stderr); err != nil {
		return err
	}
	cfg, err := src.read(stderr)
	if err != nil {
		return err
	}
	s, err := newService(&src, cfg, stderr, false)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		if awaitReady(ctx, s) {
			_, _ = fmt.Fprintln(stdout, "ready: "+service.MCPURL(cfg))
		}
	}()
	return s.Run(ctx)
}

// awaitReady waits until the first call would succeed, which takes an Envoy.
func awaitReady(ctx context.Context, s *service.Service) bool {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		if ready, _ := s.Ready(); ready {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
}

func newService(src *source, cfg *config.Config, stderr io.Writer, ownEnvoy bool) (*service.Service, error) {
	share := 0.9 // the rest is stacks' and the kernel's
	if ownEnvoy {
		share = 0.5
	}
	tuneMemory(share)
	return service.New(service.Options{Config: cfg, File: src.file, Load: src.load, Dynamic: cfg.Service.Dynamic(ownEnvoy),
		Log: logger(stderr, cfg.Logger.Level), Version: version(), OwnEnvoy: ownEnvoy})
}
