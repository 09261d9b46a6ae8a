package service

import (
	"fmt"
	"net/http"
	"net/url"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/config"
	"github.com/sallyport/sallyport/envoy"
	"github.com/sallyport/sallyport/extproc/hub"
)

// upstreams is the hub's way to the MCP servers.
func upstreams(cfg *config.Config, s Sockets) (http.RoundTripper, error) {
	if cfg.Service.Upstreams != "direct" {
		return hub.Egress(s.Egress), nil
	}
	var targets []hub.Target
	for _, a := range cfg.Apps {
		up := a.Upstream.Endpoint()
		at, err := url.Parse(up.URL)
		if err != nil {
			return nil, fmt.Errorf("app %s: %w", a.Name, err)
		}
		trust, err := ClientTLS(cfg.TLS[up.TLS])
		if err != nil {
			return nil, fmt.Errorf("app %s: %w", a.Name, err)
		}
		targets = append(targets, hub.Target{Route: envoy.AppRoute(a.Name), URL: at, TLS: trust,
			DialTimeout: up.Connection.DialTimeout, KeepAlive: up.Connection.KeepAlive.Interval})
	}
	return hub.Direct(targets), nil
}
