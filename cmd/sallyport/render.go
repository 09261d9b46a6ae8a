package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/service"
	"github.com/sallyport/sallyport/envoy"
)

func renderCommand(_ context.Context, args []string, stdout, stderr io.Writer) error {
	fs := flag.NewFlagSet("render", flag.ContinueOnError)
	var src source
	src.flags(fs)
	host := fs.String("for", "envoy", "the `HOST` to render for: envoy (a static bootstrap)")
	out := fs.String("o", "", "write to `FILE` instead of standard output")
	if err := parse(fs, args, stderr); err != nil {
		return err
	}
	if *host != "envoy" {
		_, _ = fmt.Fprintf(stderr, "sallyport render: unknown host %q; known: envoy\n", *host)
		return errUsage
	}
	cfg, err := src.read(stderr)
	if err != nil {
		return err
	}
	sockets, err := service.SocketsFor(src.file, cfg.Service.Address, cfg.Service.Hub)
	if err != nil {
		return err
	}
	bootstrap, err := envoy.Bootstrap(service.Gateway(cfg, sockets))
	if err != nil {
		return err
	}
	if *out != "" {
		return os.WriteFile(*out, bootstrap, 0o600)
	}
	_, err = stdout.Write(bootstrap)
	return err
}
