package hosts_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/envoy"
	"github.com/sallyport/sallyport/envoy/hosts"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// unvalidated are the kinds whose schemas cannot be had, or that Kubernetes itself knows.
var unvalidated = map[string]bool{
	"v1 Service": true,
	"gateway.kgateway.dev/v1alpha1 GatewayExtension": true, "gateway.kgateway.dev/v1alpha1 TrafficPolicy": true,
	"gateway.kgateway.dev/v1alpha1 ListenerPolicy": true, "gateway.kgateway.dev/v1alpha1 DirectResponse": true,
	"gateway.kgateway.dev/v1alpha1 Backend": true, "gateway.kgateway.dev/v1alpha1 BackendConfigPolicy": true,
	"networking.gke.io/v1 GCPRoutingExtension": true, "networking.gke.io/v1 GCPBackendPolicy": true,
	"consul.hashicorp.com/v1alpha1 ServiceDefaults": true,
}

// filters are the ones that a host has.
var filters = map[string][]envoy.Filter{
	"istio":         {envoy.FilterExtProc, envoy.FilterExtProcDuplex, envoy.FilterExtAuthz},
	"envoy-gateway": {envoy.FilterExtProc, envoy.FilterExtProcDuplex},
	"kgateway":      {envoy.FilterExtProc},
	"contour":       {envoy.FilterExtAuthz},
	"consul":        {envoy.FilterExtAuthz},
	"gcp":           {envoy.FilterExtProcDuplex},
}

func config(filter envoy.Filter, apps ...envoy.App) hosts.Config {
	return hosts.Config{Namespace: "agents", Name: "mcp", Service: "sallyport", Gateway: envoy.Gateway{
		Listen: "0.0.0.0:8080", Paths: []string{"/mcp", "/mcp/sse", "/mcp/message"}, ServiceSocket: "0.0.0.0:9901", HubSocket: "[::]:9903",
		AdminSocket: "/run/admin.sock", Filter: filter, Apps: apps, MaxRequestBytes: 2_000_000, MessageTimeout: 12500 * time.Millisecond,
	}}
}

var (
	inside  = envoy.App{Name: "items", URL: "http://items.agents.svc:8080/mcp"}
	rewrite = envoy.App{Name: "Mirror_1.b", URL: "http://mirror.agents.svc.cluster.local/deep/$a'b(c)/mcp"}
	secure  = envoy.App{Name: "secure", URL: "https://secure.agents.svc:8443/mcp", TLS: &envoy.UpstreamTLS{CAFile: "/etc/ca.pem"}}
	foreign = envoy.App{Name: "foreign", URL: "http://items.tools.svc:8080/mcp"}
	outside = envoy.App{Name: "outside", URL: "https://mcp.example.com/v1/mcp"}
	plain   = envoy.App{Name: "plain", URL: "http://mcp.internal:8000/mcp"}
	address = envoy.App{Name: "address", URL: "http://192.0.2.7:9000/mcp"}
	old     = envoy.App{Name: "old", URL: "http://old.agents.svc/sse", EndpointEvents: true}
)

// appsFor are upstreams of every kind that a host reaches.
func appsFor(host string) []envoy.App {
	switch host {
	case "consul", "gcp":
		return []envoy.App{inside, rewrite, foreign, old}
	case "contour":
		return []envoy.App{inside, rewrite, secure, outside, plain, old}
	}
	return []envoy.App{inside, rewrite, secure, foreign, outside, plain, address, old}
}

// Whatever is rendered is what the host's own schemas allow.
func TestSchemas(t *testing.T) {
	known := schemas(t)
	for _, host := range hosts.Names() {
		for _, filter := range filters[host] {
			c := config(filter, appsFor(host)...)
			if host != "contour" {
				c.Service = "gate.identity"
			}
			out, err := hosts.Render(host, c)
			if err != nil {
				t.Errorf("%s: %v", host, err)
				continue
			}
			for _, doc := range documents(t, out) {
				kind := fmt.Sprint(doc["apiVersion"], " ", doc["kind"])
				s, ok := known[kind]
				if !ok && !unvalidated[kind] {
					t.Errorf("%s: nobody knows %s", host, kind)
				}
				if !ok {
					continue
				}
				for _, p := range problems("", doc, s) {
					t.Errorf("%s, filter %d: %s %v: %s", host, filter, kind, doc["metadata"].(object)["name"], p)
				}
			}
		}
	}
}

// The files of a small gateway, for the eye.
func TestGolden(t *testing.T) {
	for _, host := range hosts.Names() {
		c := config(filters[host][0], inside, envoy.App{Name: "deep", URL: "http://mirror.agents.svc/deep/mcp"})
		c.Gateway.Paths = []string{"/mcp"}
		out, err := hosts.Render(host, c)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join("testdata", host+".yaml")
		if *update {
			if err := os.WriteFile(file, out, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(out)); diff != "" {
			t.Errorf("%s (-update rewrites it):\n%s", host, diff)
		}
	}
}

// No two objects of one kind share a name, whatever the apps are called.
func TestNamesAreApart(t *testing.T) {
	long := strings.Repeat("x", 64)
	apps := []envoy.App{{Name: "A_b", URL: inside.URL}, {Name: "a.b", URL: inside.URL}, {Name: "a-b", URL: inside.URL},
		{Name: long, URL: inside.URL}, {Name: long[1:], URL: inside.URL}, {Name: "...", URL: inside.URL}, {Name: "hub", URL: inside.URL}, {Name: "none", URL: inside.URL}}
	for _, host := range []string{"envoy-gateway", "kgateway"} {
		out, err := hosts.Render(host, config(envoy.FilterExtProc, apps...))
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		for _, doc := range documents(t, out) {
			name := fmt.Sprint(doc["kind"], " ", doc["metadata"].(object)["name"])
			if seen[name] {
				t.Errorf("%s: %s twice", host, name)
			}
			seen[name] = true
		}
	}
}

// What a host cannot carry is an error that says what to do.
func TestErrors(t *testing.T) {
	with := func(change func(c *hosts.Config)) hosts.Config {
		c := config(envoy.FilterExtProc, inside)
		change(&c)
		return c
	}
	for _, c := range []struct {
		host   string
		config hosts.Config
		want   string
	}{
		{"abacus", config(envoy.FilterExtProc), "unknown host"},
		{"envoy-gateway", with(func(c *hosts.Config) { c.Gateway.ServiceSocket = "/run/s.sock" }), "set service.address to host:port"},
		{"envoy-gateway", with(func(c *hosts.Config) { c.Gateway.HubSocket = "/run/h.sock" }), "set service.hub to host:port"},
		{"envoy-gateway", with(func(c *hosts.Config) { c.Gateway.EgressSocket = "/run/e.sock" }), "set service.upstreams to direct"},
		{"envoy-gateway", config(envoy.FilterExtAuthz, inside), "set service.filter to extProc or"},
		{"kgateway", config(envoy.FilterExtProcDuplex, inside), "set service.filter to extProc"},
		{"contour", config(envoy.FilterExtProc, inside), "it has no ext_proc: set service.filter to extAuthz"},
		{"contour", config(envoy.FilterExtAuthz, foreign), "render with -namespace tools"},
		{"consul", config(envoy.FilterExtAuthz, outside), `app "outside" is outside the cluster`},
		{"contour", config(envoy.FilterExtAuthz, address), "give it a DNS name"},
		{"envoy-gateway", config(envoy.FilterExtProc, envoy.App{Name: "x", URL: "https://192.0.2.7/mcp"}), "give it a DNS name"},
		{"gcp", config(envoy.FilterExtProcDuplex, plain), `app "plain" is outside the cluster`},
		{"istio", with(func(c *hosts.Config) { c.Namespace = "a b" }), "-namespace"},
		{"istio", with(func(c *hosts.Config) { c.Name = "x\ny: z" }), "-gateway"},
		{"istio", with(func(c *hosts.Config) { c.Service = "a.b.c" }), "-service"},
		{"istio", with(func(c *hosts.Config) { c.Gateway.Paths = []string{"mcp"} }), `path "mcp"`},
		{"istio", config(envoy.FilterExtProc, envoy.App{Name: "m", URL: inside.URL, TLS: &envoy.UpstreamTLS{CertFile: "c", KeyFile: "k"}}), "client certificate"},
		{"istio", config(envoy.FilterExtProc, envoy.App{Name: "m", URL: inside.URL, TLS: &envoy.UpstreamTLS{SPIFFEIDs: []string{"spiffe://example.org/m"}}}), "SPIFFE ids"},
	} {
		out, err := hosts.Render(c.host, c.config)
		if err == nil || !strings.Contains(err.Error(), c.want) || out != nil {
			t.Errorf("%s: got %v, want %q", c.host, err, c.want)
		}
	}
}
