package exchange

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"syscall"
	"time"
)

// maxConns bounds the connections to the token endpoint, idle ones included, so
// that parallel exchanges reuse connections and never dial without end.
const maxConns = 256

// newHTTPClient never follows a redirect (the form holds credentials), uses no
// proxy (an environment variable must not see them either) and dials only
// allowed addresses.
func newHTTPClient(cfg Config, operatorHost string) *http.Client {
	guard := dialGuard{host: operatorHost, networks: slices.Clone(cfg.AllowNetworks), timeout: cfg.Timeout}
	return &http.Client{
		Transport: &http.Transport{
			DialContext:            guard.dial,
			TLSClientConfig:        tlsConfig(cfg),
			TLSHandshakeTimeout:    cfg.Timeout,
			MaxConnsPerHost:        maxConns,
			MaxIdleConnsPerHost:    maxConns,
			IdleConnTimeout:        90 * time.Second,
			MaxResponseHeaderBytes: 64 << 10,
			DisableCompression:     true,
			ForceAttemptHTTP2:      true,
			HTTP2:                  &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 5 * time.Second},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func tlsConfig(cfg Config) *tls.Config {
	c := cmp.Or(cfg.TLS, &tls.Config{}).Clone()
	c.MinVersion = max(c.MinVersion, tls.VersionTLS12)
	if mutualTLS(cfg.AuthMethod) && c.GetClientCertificate == nil {
		c.GetClientCertificate = showCertificate(c.Certificates)
	}
	return c
}

// showCertificate shows a certificate even if the server names authorities (RFC
// 8446 §4.2.4) of which none has issued it: a self-signed one has none, and without
// it the client would not authenticate at all.
func showCertificate(certificates []tls.Certificate) func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return func(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		for i := range certificates {
			if info.SupportsCertificate(&certificates[i]) == nil {
				return &certificates[i], nil
			}
		}
		return &certificates[0], nil
	}
}

// dialGuard checks the address that is really connected to, after every name
// lookup, so that a name that changes its address gains nothing.
type dialGuard struct {
	host     string // the operator's, from WellKnown
	networks []netip.Prefix
	timeout  time.Duration
}

func (g dialGuard) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	d := net.Dialer{
		Timeout: g.timeout,
		Control: func(_, address string, _ syscall.RawConn) error {
			ap, err := netip.ParseAddrPort(address)
			if err != nil {
				return fmt.Errorf("%w: %w", ErrAddress, err)
			}
			return g.allow(host, ap.Addr())
		},
	}
	return d.DialContext(ctx, network, addr)
}

func (g dialGuard) allow(host string, ip netip.Addr) error {
	ip = inner(ip)
	switch {
	case ip.IsLinkLocalUnicast(), ip.IsMulticast(), ip.IsUnspecified():
		return fmt.Errorf("%w: %s", ErrAddress, ip)
	case isLoopback(host) && !ip.IsLoopback():
		return fmt.Errorf("%w: %s is not loopback", ErrAddress, ip)
	case host == g.host, !ip.IsLoopback() && !ip.IsPrivate() && !sharedSpace.Contains(ip):
		return nil
	case isLoopback(g.host) && ip.IsLoopback():
		return nil
	case slices.ContainsFunc(g.networks, func(p netip.Prefix) bool { return p.Contains(ip) }):
		return nil
	}
	return fmt.Errorf("%w: %s is not public", ErrAddress, ip)
}

var (
	sharedSpace = netip.MustParsePrefix("100.64.0.0/10") // RFC 6598
	nat64       = netip.MustParsePrefix("64:ff9b::/96")  // RFC 6052
	nat64Local  = netip.MustParsePrefix("64:ff9b:1::/48")
)

// inner is the IPv4 address that an IPv6 address stands for, if it does.
func inner(ip netip.Addr) netip.Addr {
	ip = ip.Unmap().WithZone("")
	if nat64.Contains(ip) || nat64Local.Contains(ip) {
		b := ip.As16()
		return netip.AddrFrom4([4]byte(b[12:]))
	}
	return ip
}

// checkURL accepts https, and http on loopback or if plain is set.
func checkURL(raw string, plain bool) (*url.URL, error) {
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return nil, errors.New("not a URL") // the parser's error repeats it, password and all
	case u.Host == "" || u.Hostname() == "":
		return nil, errors.New("not an absolute URL")
	case u.User != nil:
		return nil, errors.New("a URL with a user name")
	case u.Fragment != "":
		return nil, errors.New("a URL with a fragment")
	case u.Scheme == "https":
		return u, nil
	case u.Scheme != "http":
		return nil, fmt.Errorf("scheme %q: want https", u.Scheme)
	case !plain && !isLoopback(u.Hostname()):
		return nil, fmt.Errorf("plain http to %s: only loopback may do without TLS", u.Hostname())
	}
	return u, nil
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}
