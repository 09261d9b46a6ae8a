package exchange

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Parallel callers share connections; a call does not dial.
func TestConnectionsAreReused(t *testing.T) {
	const callers, calls = 64, 20
	for name, start := range map[string]func(*httptest.Server){
		"HTTP/1.1": (*httptest.Server).Start, "TLS": (*httptest.Server).StartTLS,
		"HTTP/2": func(ts *httptest.Server) { ts.EnableHTTP2 = true; ts.StartTLS() },
	} {
		t.Run(name, func(t *testing.T) {
			var dialled atomic.Int64
			s := serve(t, func(ts *httptest.Server) {
				ts.Config.ConnState = func(_ net.Conn, state http.ConnState) {
					if state == http.StateNew {
						dialled.Add(1)
					}
				}
				start(ts)
			})
			c := s.client(t, trust(s))
			var wg sync.WaitGroup
			for range callers {
				wg.Go(func() {
					for range calls {
						if _, err := c.Exchange(t.Context(), request()); err != nil {
							t.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			// net/http dials ahead of need, so there may be more than callers.
			if n := dialled.Load(); n > maxConns {
				t.Errorf("%d connections for %d calls of %d callers", n, callers*calls, callers)
			}
			if len(s.forms) != callers*calls {
				t.Errorf("%d requests for %d calls", len(s.forms), callers*calls)
			}
		})
	}
}

func trust(s *server) func(*Config) {
	return func(c *Config) {
		if cert := s.Certificate(); cert != nil {
			pool := x509.NewCertPool()
			pool.AddCert(cert)
			c.TLS = &tls.Config{RootCAs: pool}
		}
	}
}

// A pooled connection that the server has closed meanwhile does not fail a call.
func TestClosedConnectionIsReplaced(t *testing.T) {
	s := serve(t, (*httptest.Server).Start)
	c := s.client(t)
	for range 20 {
		if _, err := c.Exchange(t.Context(), request()); err != nil {
			t.Fatal(err)
		}
		s.CloseClientConnections()
	}
}

func TestTLS(t *testing.T) {
	expired := func(cfg *tls.Config) { cfg.Time = func() time.Time { return time.Now().AddDate(200, 0, 0) } }
	tests := []struct {
		name   string
		server func(*tls.Config)
		client func(*Config, *server)
		want   string
	}{
		{"trusted", nil, func(c *Config, s *server) { trust(s)(c) }, ""},
		{"self-signed", nil, func(*Config, *server) {}, "x509"},
		{"wrong host", nil, func(c *Config, s *server) { trust(s)(c); c.TLS.ServerName = "as.example.net" }, "not as.example.net"},
		{"expired", nil, func(c *Config, s *server) { trust(s)(c); expired(c.TLS) }, "expired"},
		{"TLS 1.1", func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }, func(c *Config, s *server) {
			trust(s)(c)
			c.TLS.MinVersion = tls.VersionTLS10
		}, "protocol version"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := serve(t, func(ts *httptest.Server) {
				ts.TLS = &tls.Config{}
				if tt.server != nil {
					tt.server(ts.TLS)
				}
				ts.StartTLS()
			})
			c := s.newClient(t, func(c *Config) { tt.client(c, s) })
			err := c.refresh(t.Context())
			if tt.want == "" {
				if err == nil {
					_, err = c.Exchange(t.Context(), request())
				}
				if err != nil {
					t.Error(err)
				}
			} else if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestProxyOfTheEnvironmentIsNotUsed(t *testing.T) {
	c := newHTTPClient(Config{}, "as.example")
	if c.Transport.(*http.Transport).Proxy != nil {
		t.Error("a proxy would see the secrets")
	}
}

func TestDialGuard(t *testing.T) {
	nets := []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")}
	tests := []struct {
		operator, host, ip string
		ok                 bool
	}{
		{"as.example", "as.example", "93.184.216.34", true},
		{"as.example", "as.example", "10.0.0.1", true}, // the operator's own word
		{"as.example", "as.example", "127.0.0.1", true},
		{"as.example", "as.example", "169.254.169.254", false},
		{"as.example", "as.example", "::ffff:169.254.169.254", false},
		{"as.example", "as.example", "64:ff9b::a9fe:a9fe", false},
		{"as.example", "as.example", "64:ff9b:1::a9fe:a9fe", false},
		{"as.example", "as.example", "fe80::1", false},
		{"as.example", "as.example", "0.0.0.0", false},
		{"as.example", "as.example", "::", false},
		{"as.example", "as.example", "224.0.0.1", false},
		{"as.example", "token.example", "93.184.216.34", true},
		{"as.example", "token.example", "2606:2800:220:1::1", true},
		{"as.example", "token.example", "10.0.0.1", false},
		{"as.example", "token.example", "10.9.0.1", true},
		{"as.example", "token.example", "::ffff:10.0.0.1", false},
		{"as.example", "token.example", "64:ff9b::a00:1", false},
		{"as.example", "token.example", "100.64.0.1", false},
		{"as.example", "token.example", "fd00::1", false},
		{"as.example", "token.example", "127.0.0.1", false},
		{"as.example", "localhost", "127.0.0.1", false},
		{"localhost", "127.0.0.1", "127.0.0.1", true},
		{"localhost", "localhost", "::1", true},
		{"localhost", "localhost", "93.184.216.34", false},
	}
	for _, tt := range tests {
		err := dialGuard{host: tt.operator, networks: nets}.allow(tt.host, netip.MustParseAddr(tt.ip))
		if (err == nil) != tt.ok || err != nil && !errors.Is(err, ErrAddress) {
			t.Errorf("%s, of %s, at %s: %v", tt.host, tt.operator, tt.ip, err)
		}
	}
}

// The address is checked when it is dialled, whatever the name was.
func TestTokenEndpointElsewhere(t *testing.T) {
	s := serve(t, (*httptest.Server).Start)
	c := s.client(t, func(c *Config) { c.AllowPlainHTTP = true })
	guarded := newHTTPClient(c.cfg, "as.example")
	defer guarded.CloseIdleConnections()
	c.http = guarded
	token, err := c.Exchange(t.Context(), request())
	wantKind(t, token, err, Unavailable, ErrAddress)
	if len(s.forms) != 0 {
		t.Error("the form was sent")
	}
}
