package envoy

import (
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// manyStreams replaces Envoy's limit of 1024 requests to a cluster, which
// would be 1024 open event streams.
const manyStreams = 100_000

// upstreamIdle closes an unused connection to an upstream before the upstream
// does: Node's and uvicorn's HTTP servers close after 5 s, and a call sent into
// a closing connection is lost, since calls are never retried.
const upstreamIdle = 4 * time.Second

// ownCluster is an HTTP/2 server of the service's, on a unix socket beside
// Envoy or, as host:port, elsewhere; or several of them. One that does not
// answer a ping is taken for gone. secret names what TLS goes by.
func (g Gateway) ownCluster(name, secret string, ping time.Duration, where ...string) *clusterv3.Cluster {
	discovery, assignment, hosts := endpoints(name, where)
	var secure *corev3.TransportSocket
	if g.ServiceTLS != nil && len(hosts) > 0 {
		context := g.clientTLS(g.ServiceTLS, ownTrust(secret), secret, hosts...)
		context.CommonTlsContext.AlpnProtocols = []string{"h2"}
		secure = tlsSocket(context)
	}
	return &clusterv3.Cluster{
		Name:                 name,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: discovery},
		ConnectTimeout:       durationpb.New(time.Second),
		CircuitBreakers:      circuitBreakers(manyStreams),
		LoadAssignment:       assignment,
		TransportSocket:      secure,
		TypedExtensionProtocolOptions: protocol(&httpv3.HttpProtocolOptions{
			UpstreamProtocolOptions: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{
				ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
					ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{
						Http2ProtocolOptions: http2(ping),
					},
				},
			},
		}),
	}
}

// appCluster is one upstream, shared by the ingress and the egress listener:
// HTTP/1.1 for http, what the server prefers (ALPN) for https.
func appCluster(g Gateway, a App) *clusterv3.Cluster {
	up, _ := parseUpstream(a.URL) // checked by withDefaults
	// One logical host whose addresses of both families are tried in turn (RFC
	// 8305): STRICT_DNS would take ::1 and 127.0.0.1 for two servers, and would
	// spread a legacy session over replicas that do not know it.
	discovery := clusterv3.Cluster_LOGICAL_DNS
	if up.ip {
		discovery = clusterv3.Cluster_STATIC
	}
	name := a.Route
	c := &clusterv3.Cluster{
		Name:                          name,
		ClusterDiscoveryType:          &clusterv3.Cluster_Type{Type: discovery},
		ConnectTimeout:                durationpb.New(a.DialTimeout),
		CircuitBreakers:               circuitBreakers(a.MaxRequests),
		TypedExtensionProtocolOptions: protocol(appProtocol(a, up)),
		LoadAssignment:                endpoint(name, up.authority, socketAddress(up.host, up.port)),
		UpstreamConnectionOptions: &clusterv3.UpstreamConnectionOptions{
			TcpKeepalive: &corev3.TcpKeepalive{
				KeepaliveTime:     wrapperspb.UInt32(uint32(a.KeepAlive.Seconds())),
				KeepaliveInterval: wrapperspb.UInt32(uint32(a.KeepAlive.Seconds())),
			},
		},
	}
	if !up.ip {
		c.DnsLookupFamily = clusterv3.Cluster_ALL
		c.WaitForWarmOnInit = wrapperspb.Bool(false) // one dead name must not delay the others
	}
	if up.tls {
		c.TransportSocket = tlsSocket(g.clientTLS(a.TLS, a.trustSecret(g), certificateSecret(a.TLS.CertFile, a.TLS.KeyFile), up.host))
	}
	return c
}

func appProtocol(a App, up upstream) *httpv3.HttpProtocolOptions {
	options := &httpv3.HttpProtocolOptions{
		CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{IdleTimeout: durationpb.New(upstreamIdle)},
	}
	if up.tls {
		options.UpstreamProtocolOptions = &httpv3.HttpProtocolOptions_AutoConfig{
			AutoConfig: &httpv3.HttpProtocolOptions_AutoHttpConfig{Http2ProtocolOptions: http2(a.KeepAlive)},
		}
		return options
	}
	options.UpstreamProtocolOptions = &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{
		ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
			ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{},
		},
	}
	return options
}

func http2(keepAlive time.Duration) *corev3.Http2ProtocolOptions {
	return &corev3.Http2ProtocolOptions{
		MaxConcurrentStreams: wrapperspb.UInt32(1000), // then a further connection
		ConnectionKeepalive: &corev3.KeepaliveSettings{
			Interval: durationpb.New(keepAlive),
			Timeout:  durationpb.New(5 * time.Second),
		},
	}
}

func circuitBreakers(requests uint32) *clusterv3.CircuitBreakers {
	return &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{
		MaxConnections:     wrapperspb.UInt32(manyStreams),
		MaxPendingRequests: wrapperspb.UInt32(manyStreams),
		MaxRequests:        wrapperspb.UInt32(requests),
	}}}
}

func endpoint(cluster, hostname string, address *corev3.Address) *endpointv3.ClusterLoadAssignment {
	return &endpointv3.ClusterLoadAssignment{
		ClusterName: cluster,
		Endpoints: []*endpointv3.LocalityLbEndpoints{{
			LbEndpoints: []*endpointv3.LbEndpoint{{
				HostIdentifier: &endpointv3.LbEndpoint_Endpoint{
					Endpoint: &endpointv3.Endpoint{Hostname: hostname, Address: address},
				},
			}},
		}},
	}
}

func protocol(options *httpv3.HttpProtocolOptions) map[string]*anypb.Any {
	return map[string]*anypb.Any{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": typed(options)}
}
