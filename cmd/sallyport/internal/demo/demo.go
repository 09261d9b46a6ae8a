// Package demo tells the product's story with real parts on this machine: an authorization server, two MCP servers,
// the gateway with its Envoy, and an agent that logs in and calls.
package demo

import (
	"context"
	"crypto/rand"
	"embed"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sallyport/sallyport/authz/token"
	"github.com/sallyport/sallyport/cmd/sallyport/internal/config"
	"github.com/sallyport/sallyport/cmd/sallyport/internal/gateway"
	"github.com/sallyport/sallyport/cmd/sallyport/internal/service"
)

//go:embed files
var files embed.FS

// Config says how to run the demo.
type Config struct {
	Envoy   string // path of the Envoy binary
	Address string // host:port of the gateway
	Once    bool   // end after the story instead of staying up
	Out     io.Writer
	Log     *slog.Logger // the gateway's own log
	Version string
}

// Run sets the stage, tells the story, and stays up until ctx ends.
func Run(ctx context.Context, cfg Config) error {
	s, err := newStage(ctx, cfg)
	if err != nil {
		return err
	}
	defer s.strike()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	ready := make(chan struct{})
	s.start(ctx, group, func() { close(ready) })
	group.Go(func() error {
		defer cancel()
		select {
		case <-ctx.Done():
			return nil
		case <-ready:
		}
		if err := s.awaitUpstreams(ctx); err != nil {
			return err
		}
		if err := newStory(s).tell(ctx); err != nil {
			return err
		}
		if !cfg.Once {
			<-ctx.Done()
		}
		return nil
	})
	if err := group.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// stage is everything that runs besides the agent.
type stage struct {
	cfg      Config
	dir      string
	mcpURL   string
	provider string // issuer
	service  *service.Service
	tokens   map[string]*token.Verifier
	items    *upstream
	mirror   *upstream
	sockets  map[string]net.Listener
	begun    time.Time
}

func newStage(ctx context.Context, cfg Config) (*stage, error) {
	s := &stage{cfg: cfg, begun: time.Now(), sockets: map[string]net.Listener{}, tokens: map[string]*token.Verifier{}}
	var err error
	if s.dir, err = os.MkdirTemp("", "sallyport-demo-"); err != nil {
		return nil, err
	}
	if err := s.build(ctx); err != nil {
		s.strike()
		return nil, err
	}
	return s, nil
}

func (s *stage) build(ctx context.Context) error {
	env, err := s.addresses(ctx)
	if err != nil {
		return err
	}
	s.mcpURL, s.provider = "http://"+env["DEMO_GATEWAY"]+"/mcp", "http://"+env["DEMO_PROVIDER"]
	if err := s.writeFiles(); err != nil {
		return err
	}
	file := filepath.Join(s.dir, "sallyport.yaml")
	load := func() (*config.Config, []config.Problem) {
		return config.Load(file, config.Options{SecretProvider: "secretfile://" + filepath.Join(s.dir, "secrets.yaml"),
			Env: func(name string) string { return env[name] }})
	}
	loaded, problems := load()
	if config.Failed(problems) {
		return errors.New(problems[0].String())
	}
	s.service, err = service.New(service.Options{Config: loaded, File: file, Load: load, Dynamic: loaded.Service.Dynamic(true), OwnEnvoy: true, Log: s.cfg.Log, Version: s.cfg.Version})
	if err != nil {
		return err
	}
	quiet := slog.New(slog.DiscardHandler)
	for _, name := range []string{"items", "mirror"} {
		s.tokens[name], err = token.New(token.Config{Log: quiet, Issuers: []token.IssuerConfig{
			{WellKnown: s.provider + "/.well-known/oauth-authorization-server", Audiences: []string{audienceOf(name)}}}})
		if err != nil {
			return err
		}
	}
	s.items = newUpstream(itemsServer(), s.tokens["items"], quiet)
	s.mirror = newUpstream(mirrorServer(), s.tokens["mirror"], quiet)
	return nil
}

// addresses keeps the two MCP servers' listeners and finds free ports for the rest. The authorization server is on the
// port after the gateway's, since agents remember where they logged in.
func (s *stage) addresses(ctx context.Context) (map[string]string, error) {
	at, err := netip.ParseAddrPort(s.cfg.Address)
	if err != nil || !at.Addr().IsLoopback() {
		return nil, fmt.Errorf("address %s: want a loopback address and a port, such as 127.0.0.1:7420", s.cfg.Address)
	}
	env := map[string]string{"DEMO_GATEWAY": at.String(), "DEMO_PROVIDER": netip.AddrPortFrom(at.Addr(), at.Port()+1).String()}
	for _, name := range []string{"DEMO_ITEMS", "DEMO_MIRROR", "DEMO_PROVIDER", "DEMO_ADMIN", "DEMO_GATEWAY"} {
		want := "127.0.0.1:0"
		if env[name] != "" {
			want = env[name]
		}
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", want)
		if err != nil {
			return nil, fmt.Errorf("%w (choose another with -address)", err)
		}
		env[name] = l.Addr().String()
		if name == "DEMO_ITEMS" || name == "DEMO_MIRROR" {
			s.sockets[name] = l
		} else if err := l.Close(); err != nil {
			return nil, err
		}
	}
	return env, nil
}

func (s *stage) writeFiles() error {
	for _, name := range []string{"sallyport.yaml", "items.rego"} {
		content, err := files.ReadFile("files/" + name)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(s.dir, name), content, 0o600); err != nil {
			return err
		}
	}
	secrets := fmt.Sprintf("secrets:\n  gateway.clientSecret: %q\n", rand.Text())
	return os.WriteFile(filepath.Join(s.dir, "secrets.yaml"), []byte(secrets), 0o600)
}

func (s *stage) start(ctx context.Context, group *errgroup.Group, ready func()) {
	for name, handler := range map[string]http.Handler{"DEMO_ITEMS": s.items, "DEMO_MIRROR": s.mirror} {
		server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
		context.AfterFunc(ctx, func() { _ = server.Close() })
		group.Go(func() error {
			if err := server.Serve(s.sockets[name]); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
	}
	for _, v := range s.tokens {
		group.Go(func() error { return v.Run(ctx) })
	}
	group.Go(func() error {
		return gateway.Run(ctx, gateway.Config{Service: s.service, Envoy: s.cfg.Envoy, OnReady: ready})
	})
}

// awaitUpstreams waits until the MCP servers know the authorization server's keys.
func (s *stage) awaitUpstreams(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !s.tokens["items"].Ready() || !s.tokens["mirror"].Ready() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}

// strike removes what the demo wrote.
func (s *stage) strike() {
	for _, l := range s.sockets {
		_ = l.Close()
	}
	_ = os.RemoveAll(s.dir)
}
