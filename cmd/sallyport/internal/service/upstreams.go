package service

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"

	"github.com/sallyport/sallyport/envoy"
	"github.com/sallyport/sallyport/extproc/hub"
)

// upstreams is the hub's way to the MCP servers.
func (s *Service) upstreams() http.RoundTripper {
	if s.Config.Service.Upstreams != "direct" {
		return hub.Egress(s.Sockets.Egress)
	}
	return direct{s}
}

// direct leads to the upstreams in force, and to those that are leaving.
type direct struct{ *Service }

func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	return d.now().direct.RoundTrip(r)
}

// buildDirect makes the way to n's apps without Envoy, and, as they were, to those that are leaving. Connections outlive a
// reload that changes nothing about them.
func (s *Service) buildDirect(n, old *state) error {
	if s.Config.Service.Upstreams != "direct" {
		return nil
	}
	all := n.everyApp()
	values := []any{all}
	for _, a := range all {
		if a.TLS != nil {
			values = append(values, contents(a.TLS.CAFile, a.TLS.CertFile, a.TLS.KeyFile, a.TLS.CRLFile))
		}
	}
	if n.directFrom = sum(values...); old != nil && old.directFrom == n.directFrom {
		n.direct = old.direct
		return nil
	}
	var targets []hub.Target
	for _, a := range all {
		at, err := url.Parse(a.URL)
		if err != nil {
			return fmt.Errorf("app %s: %w", a.Name, err)
		}
		t := hub.Target{Route: cmp.Or(a.Route, envoy.AppRoute(a.Name)), URL: at, DialTimeout: a.DialTimeout, KeepAlive: a.KeepAlive}
		if a.TLS != nil {
			t.TLS, err = clientTLS(a.TLS)
		}
		if err != nil {
			return fmt.Errorf("app %s: %w", a.Name, err)
		}
		targets = append(targets, t)
	}
	n.direct = hub.Direct(targets)
	return nil
}
