// Package hosts writes the files by which an Envoy that is somebody else's asks
// the service: a mesh's, a Kubernetes gateway's, a cloud's load balancer's. They
// are made from the same description of a gateway as the bootstrap of an Envoy
// of one's own, and hold as many of its locks (see package envoy) as the host
// has words for:
//
//  1. Every route to an MCP server or to the hub demands [envoy.RouteHeader];
//     what is left is answered without any upstream.
//  2. x-sallyport-* is removed from what clients send before the first route is
//     matched, where the host can do that; where it asks over ext_authz every
//     verdict overwrites the header, and there is no way on without a verdict.
//  3. Only what a final verdict has marked may pass, where the host can look at
//     dynamic metadata.
//
// The text of each host is in templates/. Values can be written into it as
// quoted strings only (see text).
package hosts

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"text/template"

	"github.com/sallyport/sallyport/envoy"
)

// Config says what is rendered.
type Config struct {
	// Gateway is the gateway, as for an Envoy of one's own. Its listener is the
	// host's to make; its service and hub are host:port, and it has no egress socket.
	Gateway envoy.Gateway
	// Namespace is where all objects go, the host's Gateway among them.
	Namespace string
	// Name is the name of the host's Gateway (or what the host calls it).
	Name string
	// Service is the Kubernetes Service of sallyport: name, or name.namespace.
	Service string
	// ServiceTLS says that the service and its hub speak TLS and demand a
	// certificate, which the host has to be given by hand.
	ServiceTLS bool
}

// host is what can differ between hosts and concerns the configuration.
type host struct {
	filters  []envoy.Filter // that it has
	cure     string         // what to set when it is another
	external bool           // it reaches upstreams outside the cluster
	local    bool           // its routes lead to Services of their own namespace only
	named    bool           // upstreams outside the cluster need a DNS name

	// In hosts of the Gateway API: the group of the objects for such upstreams,
	// whether a reference to one says its port, and what refers to Services beside routes.
	backends    text
	backendPort bool
	referrers   []referrer
	hostFilters bool
	// readsMetadata: see view.ReadsMetadata.
	readsMetadata bool
}

var hosts = map[string]host{
	"istio": {filters: []envoy.Filter{envoy.FilterExtProc, envoy.FilterExtProcDuplex, envoy.FilterExtAuthz}, external: true},
	"envoy-gateway": {
		filters: []envoy.Filter{envoy.FilterExtProc, envoy.FilterExtProcDuplex},
		cure:    "it sends ext_authz the body as text, which changes what is no UTF-8: set service.filter to extProc or extProcDuplex", external: true,
		backends: "gateway.envoyproxy.io", backendPort: true, hostFilters: true, readsMetadata: true,
		referrers: []referrer{{"gateway.envoyproxy.io", "EnvoyExtensionPolicy"}, {"gateway.envoyproxy.io", "EnvoyProxy"}},
	},
	"kgateway": {
		filters: []envoy.Filter{envoy.FilterExtProc}, cure: "set service.filter to extProc", external: true,
		backends:  "gateway.kgateway.dev",
		referrers: []referrer{{"gateway.kgateway.dev", "GatewayExtension"}, {"gateway.kgateway.dev", "ListenerPolicy"}},
	},
	"contour": {filters: []envoy.Filter{envoy.FilterExtAuthz}, cure: "it has no ext_proc: set service.filter to extAuthz", external: true, local: true, named: true},
	"consul":  {filters: []envoy.Filter{envoy.FilterExtAuthz}, cure: "set service.filter to extAuthz"},
	"gcp": {
		filters: []envoy.Filter{envoy.FilterExtProcDuplex}, cure: "it streams bodies: set service.filter to extProcDuplex",
		referrers: []referrer{{"networking.gke.io", "GCPRoutingExtension"}},
	},
}

// Names are the hosts that Render knows.
func Names() []string { return slices.Sorted(maps.Keys(hosts)) }

//go:embed templates
var files embed.FS

var templates = template.Must(template.New("").Funcs(template.FuncMap{"indent": indent}).ParseFS(files, "templates/*.yaml"))

// Render returns the files for the named host as one YAML stream, or everything
// that keeps this gateway from being written for it.
func Render(name string, c Config) ([]byte, error) {
	h, known := hosts[name]
	if !known {
		return nil, fmt.Errorf("unknown host %q", name)
	}
	if _, err := envoy.Generate(c.Gateway); err != nil {
		return nil, err
	}
	if err := errors.Join(c.check(name, h)...); err != nil {
		return nil, err
	}
	v, err := viewOf(c, h)
	if err != nil {
		return nil, err
	}
	if name == "istio" {
		if err := v.patch(c.Gateway); err != nil {
			return nil, err
		}
	}
	out := new(bytes.Buffer)
	if c.ServiceTLS {
		out.WriteString(tlsNote)
	}
	if err := templates.ExecuteTemplate(out, name+".yaml", v); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// tlsNote heads the files of a service that speaks TLS: no host's objects say how it shows a certificate to one service alone.
const tlsNote = `# The service demands TLS and a client certificate (service.tls), on both of its ports. This file makes the host speak plain
# text to them, which is refused, and so is every message: give the host's connections to both ports a certificate that
# service.tls accepts, and the authority of the service's own, in the way that the host has for that.
`

// check returns what the configuration has to say differently for this host.
func (c Config) check(hostName string, h host) []error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(hostName+": "+format, args...)) }
	for _, a := range [][2]string{{"service.address", c.Gateway.ServiceSocket}, {"service.hub", c.Gateway.HubSocket}} {
		if _, port, err := net.SplitHostPort(a[1]); err != nil || port == "0" {
			fail("the host reaches the service over TCP: set %s to host:port, such as 0.0.0.0:9903", a[0])
		}
	}
	if c.Gateway.EgressSocket != "" {
		fail("the host's Envoy has no listener for the hub: set service.upstreams to direct")
	}
	if !slices.Contains(h.filters, c.Gateway.Filter) {
		fail("%s", h.cure)
	}
	for _, n := range [][2]string{{"namespace", c.Namespace}, {"gateway", c.Name}} {
		if !isLabel(n[1]) {
			fail("-%s %q is no Kubernetes name (RFC 1123)", n[0], n[1])
		}
	}
	if service, namespace, qualified := strings.Cut(c.Service, "."); !isLabel(service) || qualified && !isLabel(namespace) {
		fail("-service %q: want a Kubernetes name, or name.namespace", c.Service)
	} else if h.local && qualified && namespace != c.Namespace {
		fail("-service %q is in another namespace, and routes lead to their own only", c.Service)
	}
	for _, a := range c.Gateway.Apps {
		if t := a.TLS; t != nil && t.CertFile != "" {
			fail("app %q shows a client certificate: the host has to be given that by hand, or the server reached in another way", a.Name)
		}
		if t := a.TLS; t != nil && (t.CRLFile != "" || len(t.SPIFFEIDs) > 0) {
			fail("app %q has a server that is held to SPIFFE ids or to a crlFile: the host has to be told that by hand, or the server reached in another way", a.Name)
		}
		name, namespace := serviceOf(a.URL)
		if h.local && namespace != "" && namespace != c.Namespace {
			fail("app %q is a Service in the namespace %s, and routes lead to their own only: render with -namespace %s", a.Name, namespace, namespace)
		}
		u, _ := url.Parse(a.URL) // envoy.Generate could
		_, err := netip.ParseAddr(u.Hostname())
		if err == nil && (h.named || u.Scheme == "https" && hostName == "envoy-gateway") {
			fail("app %q is known by an address: give it a DNS name", a.Name)
		}
		if !h.external && name == "" {
			fail("app %q is outside the cluster: give the server a Kubernetes Service, and its address as http://name.namespace.svc:port", a.Name)
		}
	}
	return errs
}

// indent moves a block of YAML n columns to the right.
func indent(n int, block string) string {
	space := strings.Repeat(" ", n)
	return space + strings.ReplaceAll(strings.TrimSuffix(block, "\n"), "\n", "\n"+space)
}
