package main

import (
	"context"
	"flag"
	"io"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/demo"
	"github.com/sallyport/sallyport/cmd/sallyport/internal/envoyproc"
)

func demoCommand(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	fs := flag.NewFlagSet("demo", flag.ContinueOnError)
	once := fs.Bool("once", false, "exit after the story instead of staying up")
	address := fs.String("address", "127.0.0.1:7420", "`HOST:PORT` of the demo's gateway")
	binary := fs.String("envoy", "", "Envoy `BINARY` (default $ENVOY, else the one beside this program, else the one on PATH)")
	serve := fs.String("serve", "", "run only the demo's MCP server `NAME` (items or mirror) on -address, for a gateway elsewhere")
	wellKnown := fs.String("wellKnown", "", "with -serve: metadata `URL` of the authorization server whose tokens it believes")
	connect := fs.String("connect", "", "with -serve: `HOST:PORT` to connect to instead of the authorization server's own")
	if err := parse(fs, args, stderr); err != nil {
		return err
	}
	if *serve != "" {
		return demo.Serve(ctx, demo.ServerConfig{Name: *serve, Address: *address, WellKnown: *wellKnown, Connect: *connect,
			Log: logger(stderr, "warn")})
	}
	path, err := envoyproc.Find(*binary)
	if err != nil {
		return err
	}
	return demo.Run(ctx, demo.Config{Envoy: path, Address: *address, Once: *once, Out: stdout,
		Log: logger(stderr, "error"), Version: version()})
}
