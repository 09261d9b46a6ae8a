package hub

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/sallyport/sallyport/authz"
)

// Target is an upstream that is reached without Envoy.
type Target struct {
	Route       string   // of the app: see authz.App
	URL         *url.URL // of its endpoint
	TLS         *tls.Config
	DialTimeout time.Duration
	KeepAlive   time.Duration // between TCP probes
}

// directIdle closes an unused connection before an upstream does: see the like in Envoy's clusters.
const directIdle = 4 * time.Second

var errNoTarget = errors.New("hub: no upstream has this route")

// Direct leads to the upstreams by connections of its own, by authz.RouteHeader as Egress does: for hosts whose Envoy has no
// listener for the hub. It neither follows redirects nor decompresses, and no proxy of the environment is used.
func Direct(targets []Target) http.RoundTripper {
	d := direct{}
	for _, t := range targets {
		dialer := net.Dialer{Timeout: t.DialTimeout, KeepAlive: t.KeepAlive}
		via := &http.Transport{
			DialContext:            dialer.DialContext,
			TLSClientConfig:        t.TLS,
			TLSHandshakeTimeout:    t.DialTimeout,
			ForceAttemptHTTP2:      true,
			DisableCompression:     true,
			MaxIdleConnsPerHost:    100,
			IdleConnTimeout:        directIdle,
			MaxResponseHeaderBytes: 64 << 10,
		}
		d[t.Route] = directTarget{url: t.URL, via: via}
		d[authz.EndpointRoute(t.Route)] = directTarget{url: t.URL, via: via, anyPath: true}
	}
	return d
}

type direct map[string]directTarget

type directTarget struct {
	url     *url.URL
	via     http.RoundTripper
	anyPath bool // the hub chooses the path
}

func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	to, ok := d[r.Header.Get(authz.RouteHeader)]
	if !ok {
		return nil, errNoTarget
	}
	out := r.Clone(r.Context())
	out.Header.Del(authz.RouteHeader)
	out.Host = to.url.Host
	out.URL.Scheme, out.URL.Host = to.url.Scheme, to.url.Host
	if !to.anyPath {
		out.URL.Path, out.URL.RawPath, out.URL.RawQuery = to.url.Path, to.url.RawPath, ""
	}
	return to.via.RoundTrip(out)
}
