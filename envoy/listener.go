package envoy

import (
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	alsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/grpc/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	earlyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/early_header_mutation/header_mutation/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"time"
)

// ingress is the listener that agents reach.
//
// It never changes while Envoy runs: a changed listener ends every open event
// stream when the old one has drained. What changes are routes and clusters.
func ingress(g Gateway, routes *routev3.RouteConfiguration) *listenerv3.Listener {
	manager := hardened()
	g.route(manager, routes)
	manager.HttpFilters = ingressFilters(g)
	manager.AccessLog = accessLogs(g)
	manager.LocalReplyConfig = localReplies(g.namespace())

	addr, _ := parseListen(g.Listen) // checked by withDefaults
	socket := &corev3.SocketAddress{
		Address:       addr.Addr().String(),
		PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(addr.Port())},
		Ipv4Compat:    addr.Addr().Is6() && addr.Addr().IsUnspecified(),
	}
	chain := filterChain(manager)
	if g.TLS != nil {
		chain.TransportSocket = tlsSocket(downstreamTLS(g))
	}
	return &listenerv3.Listener{
		Name:         "ingress",
		Address:      &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: socket}},
		FilterChains: []*listenerv3.FilterChain{chain},
		// The cap of a BUFFERED body. No route raises it: the larger of the two would win.
		PerConnectionBufferLimitBytes: wrapperspb.UInt32(g.MaxRequestBytes),
	}
}

// hardened is the connection manager for connections from anywhere. Upgrades
// are refused by leaving upgrade_configs out: an upgraded stream behind a
// BUFFERED processor dead-locks, and would be out of the processor's sight.
func hardened() *hcmv3.HttpConnectionManager {
	return &hcmv3.HttpConnectionManager{
		StatPrefix: "ingress",
		CodecType:  hcmv3.HttpConnectionManager_AUTO,

		// The peer's address is the agent's; what a client says about itself
		// in x-forwarded-for or x-envoy-* is not believed.
		UseRemoteAddress:  wrapperspb.Bool(true),
		XffNumTrustedHops: 0,
		GenerateRequestId: wrapperspb.Bool(true),
		EarlyHeaderMutationExtensions: []*corev3.TypedExtensionConfig{
			extension("envoy.http.early_header_mutation.header_mutation", &earlyv3.HeaderMutation{
				// Lock 2: before the first route is matched. What a client says
				// about where it comes from goes too, and its request id, so that
				// Envoy's own tells exchanges apart.
				Mutations: []*mutationv3.HeaderMutation{
					removeHeaders(InternalPrefix), removeHeaders("x-envoy-"), removeHeaders("x-forwarded-"), removeHeaders("x-request-id"),
				},
			}),
		},

		// The path that is judged is the path that is matched and replaced:
		// dot segments go, and what normalising cannot settle is refused.
		// Slashes are not merged, so //mcp is simply an unknown path.
		NormalizePath:                wrapperspb.Bool(true),
		MergeSlashes:                 false,
		PathWithEscapedSlashesAction: hcmv3.HttpConnectionManager_REJECT_REQUEST,

		// Slow or endless senders.
		RequestHeadersTimeout: durationpb.New(10 * time.Second),
		RequestTimeout:        durationpb.New(30 * time.Second), // headers and body
		StreamIdleTimeout:     durationpb.New(5 * time.Minute),  // routes to upstreams raise it
		MaxRequestHeadersKb:   wrapperspb.UInt32(60),
		CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{
			IdleTimeout:     durationpb.New(time.Hour),
			MaxHeadersCount: wrapperspb.UInt32(100),
			// x_sallyport_route and x-sallyport-route are one name to CGI and WSGI upstreams.
			HeadersWithUnderscoresAction: corev3.HttpProtocolOptions_REJECT_REQUEST,
		},
		Http2ProtocolOptions: &corev3.Http2ProtocolOptions{
			MaxConcurrentStreams:        wrapperspb.UInt32(256),
			InitialStreamWindowSize:     wrapperspb.UInt32(64 << 10),
			InitialConnectionWindowSize: wrapperspb.UInt32(1 << 20),
		},

		// No "server: envoy"; an upstream's own is removed on its route.
		ServerHeaderTransformation: hcmv3.HttpConnectionManager_PASS_THROUGH,
	}
}

// egress is the listener through which the hub reaches the upstreams, so that
// Envoy pools and secures every upstream connection. It asks nobody: its
// socket's mode is what guards it.
func egress(g Gateway, routes *routev3.RouteConfiguration) *listenerv3.Listener {
	manager := &hcmv3.HttpConnectionManager{
		StatPrefix:                 "egress",
		CodecType:                  hcmv3.HttpConnectionManager_HTTP2,
		HttpFilters:                []*hcmv3.HttpFilter{routerFilter()},
		LocalReplyConfig:           localReplies(g.namespace()),
		StreamIdleTimeout:          durationpb.New(g.StreamIdle),
		Http2ProtocolOptions:       &corev3.Http2ProtocolOptions{MaxConcurrentStreams: wrapperspb.UInt32(10_000)},
		ServerHeaderTransformation: hcmv3.HttpConnectionManager_PASS_THROUGH,
	}
	g.route(manager, routes)
	return &listenerv3.Listener{
		Name:         "egress",
		Address:      pipe(g.EgressSocket, uint32(g.EgressMode)),
		FilterChains: []*listenerv3.FilterChain{filterChain(manager)},
	}
}

func filterChain(manager *hcmv3.HttpConnectionManager) *listenerv3.FilterChain {
	return &listenerv3.FilterChain{Filters: []*listenerv3.Filter{{
		Name:       "envoy.filters.network.http_connection_manager",
		ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: typed(manager)},
	}}}
}

func removeHeaders(prefix string) *mutationv3.HeaderMutation {
	return &mutationv3.HeaderMutation{Action: &mutationv3.HeaderMutation_RemoveOnMatch_{
		RemoveOnMatch: &mutationv3.HeaderMutation_RemoveOnMatch{
			KeyMatcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: prefix}},
		},
	}}
}

// logBuffer is how much of the log, in bytes, each worker keeps while its connection to the service is busy with bodies.
// Envoy drops what comes beyond it, and with it completions; its default is 16 KiB. One message of the log has to stay below
// what the service takes in one.
const logBuffer = 512 << 10

// accessLogs report the end of every exchange to the service, which joins it
// to its decision by the metadata that the verdict set. It is lossy by nature,
// so it never carries the decision itself.
func accessLogs(g Gateway) (logs []*accesslogv3.AccessLog) {
	if !g.several() {
		return append(logs, accessLog(ServiceCluster))
	}
	for i := range g.Replicas {
		logs = append(logs, accessLog(replicaCluster(i)))
	}
	return logs
}

func accessLog(cluster string) *accesslogv3.AccessLog {
	return &accesslogv3.AccessLog{
		Name: "envoy.access_loggers.http_grpc",
		ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: typed(&alsv3.HttpGrpcAccessLogConfig{
			CommonConfig: &alsv3.CommonGrpcAccessLogConfig{
				LogName:             AccessLogName,
				GrpcService:         grpcService(cluster, 0),
				TransportApiVersion: corev3.ApiVersion_V3,
				BufferFlushInterval: durationpb.New(200 * time.Millisecond),
				BufferSizeBytes:     wrapperspb.UInt32(logBuffer),
			},
		})},
	}
}

func downstreamTLS(g Gateway) *tlsv3.DownstreamTlsContext {
	t := g.TLS
	common := &tlsv3.CommonTlsContext{TlsParams: tlsParams(t.MinVersion), AlpnProtocols: []string{"h2", "http/1.1"}}
	g.present(common, listenerSecret, t.CertFile, t.KeyFile)
	if t.Verifies() {
		g.trust(common, clientsSecret, t.clients(), nil)
	}
	return &tlsv3.DownstreamTlsContext{
		CommonTlsContext:         common,
		RequireClientCertificate: wrapperspb.Bool(t.Verifies() && !t.ClientCertOptional),
	}
}
