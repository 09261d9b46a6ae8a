package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/envoyproc"
	"github.com/sallyport/sallyport/cmd/sallyport/internal/gateway"
	"github.com/sallyport/sallyport/cmd/sallyport/internal/service"
)

func runCommand(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	fs := flag.NewFlagSet("run", flag.ContinueOnError)
	var src source
	src.flags(fs)
	binary := fs.String("envoy", "", "Envoy `BINARY` (default $ENVOY, else the one beside this program, else the one on PATH)")
	concurrency := fs.Int("concurrency", 0, "Envoy's worker threads (default half the cores)")
	if err := parse(fs, args, stderr); err != nil {
		return err
	}
	cfg, err := src.read(stderr)
	if err != nil {
		return err
	}
	if len(cfg.Service.Replicas) > 0 {
		return errors.New("service.replicas: run starts an Envoy for one service; use serve, and an Envoy with what render -for envoy writes")
	}
	path, err := envoyproc.Find(*binary)
	if err != nil {
		return err
	}
	s, err := newService(&src, cfg, stderr, true)
	if err != nil {
		return err
	}
	return gateway.Run(ctx, gateway.Config{Service: s, Envoy: path, Concurrency: *concurrency,
		OnReady: func() { _, _ = fmt.Fprintln(stdout, "ready: "+service.MCPURL(cfg)) }})
}
