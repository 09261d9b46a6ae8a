package main

import (
	"context"
	"flag"
	"io"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/config"
	"github.com/sallyport/sallyport/cmd/sallyport/internal/service"
)

func serveCommand(ctx context.Context, args []string, _, stderr io.Writer) error {
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
	s, err := newService(&src, cfg, stderr)
	if err != nil {
		return err
	}
	return s.Run(ctx)
}

func newService(src *source, cfg *config.Config, stderr io.Writer) (*service.Service, error) {
	return service.New(service.Options{Config: cfg, File: src.file, Load: src.load,
		Log: logger(stderr, cfg.Logger.Level), Version: version()})
}
