package envoy

import (
	"slices"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	alsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/grpc/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Patches are one gateway as additions to an Envoy whose listener, routes and
// clusters somebody else writes.
type Patches struct {
	// Listener holds the limit of a buffered body.
	Listener *listenerv3.Listener
	// Manager is what the connection manager has to have, but for filters and routes.
	Manager *hcmv3.HttpConnectionManager
	// Filters are the HTTP filters, in request order, to stand right before the
	// router. Over ext_authz the filter that asks is not among them.
	Filters []*hcmv3.HttpFilter
	// Route is what every route to an upstream has to have.
	Route *routev3.Route
}

// PatchesFor returns the additions for g. cluster is the other Envoy's name for
// the cluster of the service's gRPC port.
func PatchesFor(g Gateway, cluster string) (*Patches, error) {
	g, err := g.withDefaults()
	if err != nil {
		return nil, err
	}
	manager := hardened()
	manager.StatPrefix = ""                                  // and the codec are the host's own
	manager.StreamIdleTimeout = durationpb.New(g.StreamIdle) // not every host's routes can raise it
	// A host may allow upgrades, and no patch can take one out of its list.
	manager.HttpProtocolOptions = &corev3.Http1ProtocolOptions{IgnoreHttp_11Upgrade: []*matcherv3.StringMatcher{anyString()}}
	log := accessLog(ServiceCluster)
	log.ConfigType = &accesslogv3.AccessLog_TypedConfig{TypedConfig: typed(elsewhere(log.GetTypedConfig(), cluster))}
	manager.AccessLog = []*accesslogv3.AccessLog{log}
	manager.LocalReplyConfig = localReplies(g.namespace())
	p := &Patches{
		Listener: &listenerv3.Listener{PerConnectionBufferLimitBytes: wrapperspb.UInt32(g.MaxRequestBytes)},
		Manager:  manager,
		Route: &routev3.Route{
			TypedPerFilterConfig: map[string]*anypb.Any{customResponseName: typed(refusedAnswers())},
		},
	}
	for _, f := range ingressFilters(g) {
		switch f.GetName() {
		case "envoy.filters.http.router", extAuthzName:
			continue
		case extProcName:
			f.Disabled = false // no virtual host of ours switches it on
			f.ConfigType = &hcmv3.HttpFilter_TypedConfig{TypedConfig: typed(elsewhere(f.GetTypedConfig(), cluster))}
		}
		p.Filters = append(p.Filters, f)
	}
	return p, nil
}

// elsewhere unpacks an extension's configuration and points it to the service
// under another name.
func elsewhere(config *anypb.Any, cluster string) proto.Message {
	m, err := config.UnmarshalNew()
	if err != nil {
		panic(err) // typed made it
	}
	var service *corev3.GrpcService
	switch m := m.(type) {
	case *extprocv3.ExternalProcessor:
		service = m.GetGrpcService()
	case *alsv3.HttpGrpcAccessLogConfig:
		service = m.GetCommonConfig().GetGrpcService()
	}
	service.GetEnvoyGrpc().ClusterName = cluster
	return m
}

// WithheldHeaders are the response headers of upstreams that must not reach an
// agent, the weightiest first.
func WithheldHeaders() []string { return slices.Clone(withheldHeaders) }
