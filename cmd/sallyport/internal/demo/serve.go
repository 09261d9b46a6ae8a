package demo

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"golang.org/x/sync/errgroup"

	"github.com/sallyport/sallyport/authz/token"
)

// ServerConfig says which of the demo's MCP servers to run by itself, for a gateway elsewhere.
type ServerConfig struct {
	Name      string // items or mirror
	Address   string // host:port to listen on
	WellKnown string // metadata address of the authorization server whose tokens it believes
	// Connect is the host:port at which that server is reached, when it is not the one in its own addresses: in a
	// container, 127.0.0.1 is somebody else.
	Connect string
	Log     *slog.Logger
}

// Serve runs the server at /mcp until ctx ends. /ready answers 200 once it can verify tokens.
func Serve(ctx context.Context, cfg ServerConfig) error {
	make, ok := map[string]func() *mcp.Server{"items": itemsServer, "mirror": mirrorServer}[cfg.Name]
	if !ok {
		return fmt.Errorf("no MCP server %q; there are items and mirror", cfg.Name)
	}
	tokens, err := token.New(token.Config{Log: cfg.Log, HTTP: connectTo(cfg.Connect), Issuers: []token.IssuerConfig{
		{WellKnown: cfg.WellKnown, Audiences: []string{audienceOf(cfg.Name)}}}})
	if err != nil {
		return err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", cfg.Address)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/mcp", newUpstream(make(), tokens, cfg.Log))
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) {
		if !tokens.Ready() {
			http.Error(w, "no keys of the authorization server yet", http.StatusServiceUnavailable)
		}
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return tokens.Run(ctx) })
	group.Go(func() error { return server.Serve(l) })
	if err := group.Wait(); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// audienceOf is what a token for a server of the demo must name.
func audienceOf(name string) string { return "http://" + name + ".demo/" }

// connectTo makes a client all of whose connections go to address, whatever the URL says; nil when address is empty.
func connectTo(address string) *http.Client {
	if address == "" {
		return nil
	}
	return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, address)
	}}}
}
