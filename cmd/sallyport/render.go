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
	"github.com/sallyport/sallyport/envoy/hosts"
)

func renderCommand(_ context.Context, args []string, stdout, stderr io.Writer) error {
	fs := flag.NewFlagSet("render", flag.ContinueOnError)
	var src source
	src.flags(fs)
	var to hosts.Config
	host := fs.String("for", "envoy", "the `HOST` to render for: envoy (a bootstrap), "+strings.Join(hosts.Names(), ", "))
	static := fs.Bool("static", false, "everything in the file, even if service.envoyConfig is ads; the service must then run with static, too")
	secrets := fs.String("secrets", "", "for envoy: write into `DIR`, by the path at which Envoy finds it, files that have it follow the replacement of certificates")
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
	to.ServiceTLS = cfg.Service.TLS != ""
	rendered, files, err := render(*host, src.file, cfg, *static, *secrets, to)
	if err != nil {
		return err
	}
	for name, content := range files {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			return err
		}
	}
	if *out != "" {
		return os.WriteFile(*out, rendered, 0o600)
	}
	_, err = stdout.Write(rendered)
	return err
}

func render(host, file string, cfg *config.Config, static bool, secretsDir string, to hosts.Config) ([]byte, map[string][]byte, error) {
	sockets, err := service.SocketsFor(file, cfg.Service.Address, cfg.Service.Hub)
	if err != nil {
		return nil, nil, err
	}
	if host == "envoy" {
		return service.Bootstrap(cfg, sockets, cfg.Service.Dynamic(false) && !static, secretsDir)
	}
	if len(cfg.Service.Replicas) > 0 {
		return nil, nil, fmt.Errorf("service.replicas is for -for envoy; %s finds replicas behind one service.address", host)
	}
	to.Gateway = service.Gateway(cfg, sockets)
	out, err := hosts.Render(host, to)
	return out, nil, err
}
