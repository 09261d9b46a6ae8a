package service

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/cmd/sallyport/internal/config"
	"github.com/sallyport/sallyport/envoy"
)

const (
	canaryInterval = 5 * time.Second
	canaryRetry    = 200 * time.Millisecond // until one comes back
	canaryTimeout  = 5 * time.Second
)

// canary sends a request without a token through the agents' listener, again and again, and wants this very service to
// refuse it: an Envoy that does not ask would answer otherwise. A service that Envoy goes around is not ready.
type canary struct {
	url         string
	client      *http.Client
	log         *slog.Logger
	outstanding atomic.Pointer[canaryPair]
	alive       atomic.Bool
	last        error // of run's
}

// canaryPair is a nonce that nobody else knows, and the only right answer. Each is good once.
type canaryPair struct{ nonce, echo string }

// newCanary returns nil where there is no way to the listener.
func newCanary(o Options) (*canary, error) {
	base := o.Config.Service.Canary
	if base == "" && o.OwnEnvoy {
		base = origin(o.Config)
	}
	if base == "" || base == "off" {
		return nil, nil
	}
	transport := &http.Transport{DisableKeepAlives: true} // no proxy; and each canary knocks at the door
	if t := o.Config.TLS[o.Config.HTTP.TLS]; t != nil && strings.HasPrefix(base, "https:") {
		if len(t.ClientCAFiles) > 0 && t.ClientAuth == "RequireAndVerifyClientCert" {
			o.Log.Warn("no canary: the listener wants a client certificate, and the service has none to show")
			return nil, nil
		}
		pinned, err := pinnedTo(t)
		if err != nil {
			return nil, err
		}
		transport.TLSClientConfig = pinned
	}
	return &canary{url: base + endpoints(o.Config)[0], log: o.Log, last: errNoAnswer, client: &http.Client{Transport: transport, Timeout: canaryTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}, nil
}

// pinnedTo trusts the one certificate of p: it is our own listener, under whatever name agents reach it.
func pinnedTo(p *config.TLS) (*tls.Config, error) {
	if _, err := tls.LoadX509KeyPair(p.CertFile, p.KeyFile); err != nil {
		return nil, err
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true, //nolint:gosec // VerifyConnection is stricter
		VerifyConnection: func(s tls.ConnectionState) error {
			own, err := tls.LoadX509KeyPair(p.CertFile, p.KeyFile) // as it is now: Envoy follows its replacement
			if err != nil {
				return err
			}
			if !bytes.Equal(s.PeerCertificates[0].Raw, own.Certificate[0]) {
				return errors.New("the listener shows another certificate than http.tls")
			}
			return nil
		}}, nil
}

// Echo implements authz.Canary.
func (c *canary) Echo(nonce string) (string, bool) {
	p := c.outstanding.Load()
	if p == nil || p.nonce != nonce || !c.outstanding.CompareAndSwap(p, nil) {
		return "", false
	}
	return p.echo, true
}

// run sends canaries until ctx ends. paused says that none is to be sent now.
func (c *canary) run(ctx context.Context, paused func() bool) error {
	for {
		wait := canaryInterval
		if !paused() {
			err := c.send(ctx)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if !errors.Is(err, errCrowded) { // which is no news: Envoy refused it by itself, and went around nobody
				c.tell(err)
			}
			if err != nil {
				wait = canaryRetry
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// tell keeps the state and logs each change of it. An Envoy that has yet to begin is no news.
func (c *canary) tell(err error) {
	c.alive.Store(err == nil)
	switch {
	case err == nil && c.last != nil:
		c.log.Info("the canary is refused, as it must be")
	case err != nil && (c.last == nil || c.last.Error() != err.Error()):
		c.log.Error("the canary was not refused by this service: not ready. Envoy may let through what was not judged; "+
			"`sallyport doctor` says why", "url", c.url, "error", err)
	}
	c.last = err
}

var (
	errNoAnswer   = errors.New("no answer")
	errCrowded    = errors.New("turned away by a limit")
	errNotRefused = errors.New("answered by somebody else")
)

// metric is the value of sallyport_canary_successful.
func (c *canary) metric() float64 {
	if c.alive.Load() {
		return 1
	}
	return 0
}

// send sends one and returns nil when it was refused by this service.
func (c *canary) send(ctx context.Context) error {
	p := &canaryPair{random(), random()}
	c.outstanding.Store(p)
	defer c.outstanding.CompareAndSwap(p, nil)
	// What it says is harmless to whoever gets it; it claims a route, as a forged message would.
	body := `{"jsonrpc":"2.0","id":"canary","method":"ping"}`
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	req.Header.Set(authz.CanaryHeader, p.nonce)
	req.Header.Set(envoy.RouteHeader, envoy.HubRoute)
	resp, err := c.client.Do(req)
	if err != nil {
		return errNoAnswer
	}
	defer func() { _ = resp.Body.Close() }()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	if resp.StatusCode == http.StatusTooManyRequests {
		return errCrowded
	}
	if resp.StatusCode != http.StatusUnauthorized || resp.Header.Get(authz.CanaryHeader) != p.echo {
		return fmt.Errorf("%w: %s", errNotRefused, resp.Status)
	}
	return nil
}

func random() string {
	b := make([]byte, 16)
	rand.Read(b)
	return hex.EncodeToString(b)
}
