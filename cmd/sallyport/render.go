package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/config"
	"github.com/sallyport/sallyport/cmd/sallyport/internal/service"
	"github.com/sallyport/sallyport/envoy"
	"github.com/sallyport/sallyport/envoy/hosts"
)

func renderCommand(_ context.Context, args []string, stdout, stderr io.Writer) error {
	fs := flag.NewFlagSet("render", flag.ContinueOnError)
	var src source
	src.flags(fs)
	var to hosts.Config
	host := fs.String("for", "envoy", "the `HOST` to render for: envoy (a static bootstrap), "+strings.Join(hosts.Names(), ", "))
	out := fs.String("o", "", "write to `FILE` instead of standard output")
	fs.StringVar(&to.Namespace, "namespace", "default", "the `NAMESPACE` of the host's Gateway and of what is rendered")
	fs.StringVar(&to.Name, "gateway", "mcp", "the `NAME` of the host's Gateway")
	fs.StringVar(&to.Service, "service", "sallyport", "the Kubernetes Service of sallyport: `NAME` or NAME.NAMESPACE")
	if err := parse(fs, args, stderr); err != nil {
		return err
	}
	if *host != "envoy" && !slices.Contains(hosts.Names(), *host) {
		_, _ = fmt.Fprintf(stderr, "sallyport render: unknown host %q; known: envoy, %s\n", *host, strings.Join(hosts.Names(), ", "))
		return errUsage
	}
	cfg, err := src.read(stderr)
	if err != nil {
		return err
	}
	rendered, err := render(*host, src.file, cfg, to)
	if err != nil {
		return err
	}
	if *out != "" {
		return os.WriteFile(*out, rendered, 0o600)
	}
	_, err = stdout.Write(rendered)
	return err
}

func render(host, file string, cfg *config.Config, to hosts.Config) ([]byte, error) {
	sockets, err := service.SocketsFor(file, cfg.Service.Address, cfg.Service.Hub)
	if err != nil {
		return nil, err
	}
	g := service.Gateway(cfg, sockets)
	if host == "envoy" {
		return envoy.Bootstrap(g)
	}
	to.Gateway = g
	return hosts.Render(host, to)
}
