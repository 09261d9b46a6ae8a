package envoy_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/envoy"
)

func TestRefusedGateways(t *testing.T) {
	long := "/" + strings.Repeat("x", 107)
	for _, c := range []struct {
		want   string // in the error
		change func(*envoy.Gateway)
	}{
		{`listen "gateway.example:80"`, func(g *envoy.Gateway) { g.Listen = "gateway.example:80" }},
		{`listen "127.0.0.1"`, func(g *envoy.Gateway) { g.Listen = "127.0.0.1" }},
		{`listen "::1:80"`, func(g *envoy.Gateway) { g.Listen = "::1:80" }},
		{`listen "[fe80::1%eth0]:80"`, func(g *envoy.Gateway) { g.Listen = "[fe80::1%eth0]:80" }},
		{`listen "127.0.0.1:65536"`, func(g *envoy.Gateway) { g.Listen = "127.0.0.1:65536" }},
		{"no MCP path", func(g *envoy.Gateway) { g.Paths = nil }},
		{`path "mcp"`, func(g *envoy.Gateway) { g.Paths = []string{"mcp"} }},
		{`path "/mcp?x"`, func(g *envoy.Gateway) { g.Paths = []string{"/mcp?x"} }},
		{`path "/m%63p"`, func(g *envoy.Gateway) { g.Paths = []string{"/m%63p"} }},
		{`path "/mcp" given twice`, func(g *envoy.Gateway) { g.Paths = []string{"/mcp", "/mcp"} }},
		{"hub socket", func(g *envoy.Gateway) { g.HubSocket = "" }},
		{"egress socket", func(g *envoy.Gateway) { g.EgressSocket = long }},
		{"service and hub socket are both", func(g *envoy.Gateway) { g.HubSocket = g.ServiceSocket }},
		{"egress socket mode 0666", func(g *envoy.Gateway) { g.EgressMode = 0o666 }},
		{"max request bytes 1023", func(g *envoy.Gateway) { g.MaxRequestBytes = 1023 }},
		{"message timeout -1s", func(g *envoy.Gateway) { g.MessageTimeout = -time.Second }},
		{"certificate and a key", func(g *envoy.Gateway) { g.TLS = &envoy.ListenerTLS{CertFile: "x"} }},
		{`TLS version "1.1"`, func(g *envoy.Gateway) {
			g.TLS = &envoy.ListenerTLS{CertFile: "x", KeyFile: "y", MinVersion: "1.1"}
		}},
		{`app "orders" given twice`, func(g *envoy.Gateway) { g.Apps = append(g.Apps, g.Apps[0]) }},
		{"the name must", func(g *envoy.Gateway) { g.Apps[0].Name = "a/b" }},
		{`route "app/tickets" is not`, func(g *envoy.Gateway) { g.Apps[0].Route = "app/tickets" }},
		{"the name must", func(g *envoy.Gateway) { g.Apps[0].Name = "" }},
		{"must be absolute", func(g *envoy.Gateway) { g.Apps[0].URL = "ftp://host" }},
		{"must be absolute", func(g *envoy.Gateway) { g.Apps[0].URL = "/mcp" }},
		{"no user, query or fragment", func(g *envoy.Gateway) { g.Apps[0].URL = "http://u:p@host" }},
		{"no user, query or fragment", func(g *envoy.Gateway) { g.Apps[0].URL = "http://host/?" }},
		{"no user, query or fragment", func(g *envoy.Gateway) { g.Apps[0].URL = "http://host/#f" }},
		{`port "70000"`, func(g *envoy.Gateway) { g.Apps[0].URL = "http://host:70000" }},
		{"cannot be parsed", func(g *envoy.Gateway) { g.Apps[0].URL = "http://ho st" }},
		{"zone", func(g *envoy.Gateway) { g.Apps[0].URL = "http://[fe80::1%25eth0]" }},
		{"keep-alive 1ms", func(g *envoy.Gateway) { g.Apps[0].KeepAlive = time.Millisecond }},
		{"both its file and its key's", func(g *envoy.Gateway) { g.Apps[0].TLS = &envoy.UpstreamTLS{CertFile: "x"} }},
		{`TLS version "1.0"`, func(g *envoy.Gateway) { g.Apps[0].TLS = &envoy.UpstreamTLS{MinVersion: "1.0"} }},
		{"no SPIFFE id", func(g *envoy.Gateway) {
			g.Apps[0].TLS = &envoy.UpstreamTLS{SPIFFEIDs: []string{"spiffe://example.org/a/../b"}}
		}},
		{"no SPIFFE id", func(g *envoy.Gateway) {
			g.Apps[0].TLS = &envoy.UpstreamTLS{SPIFFEIDs: []string{"https://example.org/a"}}
		}},
		{"not UTF-8", func(g *envoy.Gateway) { g.Apps[0].TLS = &envoy.UpstreamTLS{CAFile: "\xff"} }},
		{"not UTF-8", func(g *envoy.Gateway) { g.NodeID = "\xff" }},
		{"not UTF-8", func(g *envoy.Gateway) { g.CAFile = "\xff" }},
		{"not UTF-8", func(g *envoy.Gateway) { g.Apps[0].URL = "http://host/\xff" }},
	} {
		g := seed()
		c.change(&g)
		if _, err := envoy.Bootstrap(g); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want an error with %q", err, c.want)
		}
	}
}

// The caller's description stays as it is.
func TestGenerateLeavesTheGateway(t *testing.T) {
	g := seed()
	if _, err := envoy.Generate(g); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(seed(), g); diff != "" {
		t.Error(diff)
	}
}

// Lock 1, on the resources: no route leads to a cluster without the service's
// exact word, and none repeats, copies or redirects a request.
func TestRoutes(t *testing.T) {
	g := seed()
	g.Paths = []string{"/mcp", "/sse", "/messages"}
	r, err := envoy.Generate(g)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for _, table := range r.Routes {
		for _, route := range table.GetVirtualHosts()[0].GetRoutes() {
			action := route.GetRoute()
			if action == nil {
				if d := route.GetDirectResponse(); d.GetStatus() != 503 || table.GetName() != "ingress" {
					t.Errorf("%s: %v", table.GetName(), route)
				}
				continue
			}
			checkRoute(t, route)
			seen[table.GetName()+" "+action.GetCluster()]++
		}
	}
	want := map[string]int{
		"ingress hub": 3, "ingress app/orders": 3, "ingress app/tickets": 3,
		"egress app/orders": 1, "egress app/tickets": 1,
	}
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Error(diff)
	}
}

func checkRoute(t *testing.T, route *routev3.Route) {
	t.Helper()
	action := route.GetRoute()
	if route.GetMatch().GetPath() == "" || len(route.GetMatch().GetHeaders()) != 1 {
		t.Fatalf("match %v", route.GetMatch())
	}
	h := route.GetMatch().GetHeaders()[0]
	if h.GetName() != envoy.RouteHeader || h.GetStringMatch().GetExact() != action.GetCluster() || h.GetInvertMatch() {
		t.Errorf("match %v leads to %s", h, action.GetCluster())
	}
	if !slices.Contains(route.GetRequestHeadersToRemove(), envoy.RouteHeader) {
		t.Errorf("%s: the route header goes on", route.GetName())
	}
	if action.GetRetryPolicy() != nil || action.GetRequestMirrorPolicies() != nil || action.GetInternalRedirectPolicy() != nil || action.GetUpgradeConfigs() != nil {
		t.Errorf("%s: %v", route.GetName(), action)
	}
}

// What stands behind several services is reached once; another service or hub is asked only for what none has heard.
func TestReplicas(t *testing.T) {
	g := seed()
	g.EgressSocket = ""
	g.Replicas = []envoy.Replica{{Service: "/one/service.sock", Hub: "/one/hub.sock"}, {Service: "/two/service.sock", Hub: "/two/hub.sock"}}
	r, err := envoy.Generate(g)
	if err != nil {
		t.Fatal(err)
	}
	for _, route := range r.Routes[0].GetVirtualHosts()[0].GetRoutes() {
		on := route.GetRoute().GetRetryPolicy().GetRetryOn()
		if want := map[bool]string{true: "connect-failure,refused-stream,reset-before-request"}[route.GetName() == envoy.HubRoute]; on != want {
			t.Errorf("%s is tried again on %q", route.GetName(), on)
		}
	}
	places := map[string]int{}
	for _, c := range r.Clusters {
		places[c.GetName()] = len(c.GetLoadAssignment().GetEndpoints()[0].GetLbEndpoints())
	}
	want := map[string]int{"service": 2, "hub": 2, "service/0": 1, "service/1": 1, "app/orders": 1, "app/tickets": 1}
	if diff := cmp.Diff(want, places); diff != "" {
		t.Error(diff)
	}
	for name, spoil := range map[string]func(g *envoy.Gateway){
		"one way to the upstreams": func(g *envoy.Gateway) { g.EgressSocket = "/egress.sock" },
		"one's own configuration":  func(g *envoy.Gateway) { g.Dynamic = true },
		"two of one place":         func(g *envoy.Gateway) { g.Replicas[1] = g.Replicas[0] },
		"sockets and addresses":    func(g *envoy.Gateway) { g.Replicas[1] = envoy.Replica{Service: "a:1", Hub: "a:2"} },
	} {
		bad := g
		bad.Replicas = slices.Clone(g.Replicas)
		spoil(&bad)
		if _, err := envoy.Generate(bad); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// Over TLS a replica may show the name of any of them, and has to show one.
func TestReplicasOverTLS(t *testing.T) {
	g := seed()
	g.EgressSocket = ""
	g.Replicas = []envoy.Replica{{Service: "one.example:9000", Hub: "one.example:9001"}, {Service: "two.example:9000", Hub: "two.example:9001"}}
	g.ServiceTLS = &envoy.UpstreamTLS{CAFile: "/ca.pem", CertFile: "/envoy.pem", KeyFile: "/envoy.key"}
	r, err := envoy.Generate(g)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][]string{}
	for _, c := range r.Clusters {
		if c.GetTransportSocket() == nil {
			continue
		}
		var tls tlsv3.UpstreamTlsContext
		if err := c.GetTransportSocket().GetTypedConfig().UnmarshalTo(&tls); err != nil {
			t.Fatal(err)
		}
		for _, name := range tls.GetCommonTlsContext().GetValidationContext().GetMatchTypedSubjectAltNames() {
			got[c.GetName()] = append(got[c.GetName()], name.GetMatcher().GetExact())
		}
	}
	both := []string{"one.example", "two.example"}
	want := map[string][]string{"app/tickets": {"tickets.example.com"}, "service": both, "hub": both, "service/0": both[:1], "service/1": both[1:]}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestUpstreams(t *testing.T) {
	for _, c := range []struct {
		url, host, path string
		discovery       clusterv3.Cluster_DiscoveryType
		port            uint32
		tls             bool
	}{
		{"http://localhost:9000/mcp", "localhost:9000", "/mcp", clusterv3.Cluster_LOGICAL_DNS, 9000, false},
		{"http://host80", "host80", "/", clusterv3.Cluster_LOGICAL_DNS, 80, false},
		{"http://host:80/", "host", "/", clusterv3.Cluster_LOGICAL_DNS, 80, false},
		{"https://host", "host", "/", clusterv3.Cluster_LOGICAL_DNS, 443, true},
		{"https://host:443/a/b", "host", "/a/b", clusterv3.Cluster_LOGICAL_DNS, 443, true},
		{"https://host:80/", "host:80", "/", clusterv3.Cluster_LOGICAL_DNS, 80, true},
		{"http://10.0.0.1/a%20b", "10.0.0.1", "/a%20b", clusterv3.Cluster_STATIC, 80, false},
		{"https://[::1]:8443/", "[::1]:8443", "/", clusterv3.Cluster_STATIC, 8443, true},
		{"https://[::1]/", "[::1]", "/", clusterv3.Cluster_STATIC, 443, true},
	} {
		g := seed()
		g.Apps = []envoy.App{{Name: "a", URL: c.url}}
		r, err := envoy.Generate(g)
		if err != nil {
			t.Fatal(err)
		}
		action := r.Routes[0].GetVirtualHosts()[0].GetRoutes()[0].GetRoute()
		if action.GetHostRewriteLiteral() != c.host || action.GetPrefixRewrite() != c.path {
			t.Errorf("%s: host %q, path %q", c.url, action.GetHostRewriteLiteral(), action.GetPrefixRewrite())
		}
		cluster := r.Clusters[2]
		port := cluster.GetLoadAssignment().GetEndpoints()[0].GetLbEndpoints()[0].GetEndpoint().GetAddress().GetSocketAddress().GetPortValue()
		if cluster.GetType() != c.discovery || port != c.port || (cluster.GetTransportSocket() != nil) != c.tls {
			t.Errorf("%s: %v", c.url, cluster)
		}
	}
}
