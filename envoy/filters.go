package envoy

import (
	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rbacconfigv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	customv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/custom_response/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	headerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	localv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/local_ratelimit/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const (
	callLimitName      = "envoy.filters.http.local_ratelimit.calls"
	extAuthzName       = "envoy.filters.http.ext_authz"
	extProcName        = "envoy.filters.http.ext_proc"
	customResponseName = "envoy.filters.http.custom_response"
)

// ingressFilters is the chain in request order; responses pass it backwards.
// custom_response therefore acts on what the processor let through: the
// processor sees the upstream's true status (a lost session's 404), the agent
// does not. It is switched on by the routes to apps only. The processor is off
// until the virtual host switches it on: a request too broken to have a path
// would otherwise die waiting for the processor's word on Envoy's own 400.
func ingressFilters(g Gateway) []*hcmv3.HttpFilter {
	judge := filter(extProcName, extProc(g))
	if g.Filter == FilterExtAuthz {
		judge = filter(extAuthzName, extAuthz(g))
	}
	judge.Disabled = true
	var chain []*hcmv3.HttpFilter
	if !g.RequestLimit.none() {
		chain = append(chain, requestLimit(g.RequestLimit))
	}
	chain = append(chain,
		filter(customResponseName, &customv3.CustomResponse{}),
		judge,
		filter("envoy.filters.http.rbac", decidedOnly(g.namespace())))
	switch limits := callLimits(g); {
	case g.Dynamic: // a listener does not change: the routes say what is limited
		chain = append(chain, filter(callLimitName, &localv3.LocalRateLimit{StatPrefix: "calls"}))
	case limits != nil:
		chain = append(chain, filter(callLimitName, limits))
	}
	return append(chain,
		filter("envoy.filters.http.header_mutation", noTrailers()),
		routerFilter())
}

func filter(name string, config proto.Message) *hcmv3.HttpFilter {
	return &hcmv3.HttpFilter{Name: name, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: typed(config)}}
}

// routerFilter keeps Envoy's own x-envoy-* headers from upstreams and agents.
func routerFilter() *hcmv3.HttpFilter {
	return filter("envoy.filters.http.router", &routerv3.Router{SuppressEnvoyHeaders: true})
}

// extProc asks the service about every message. A request body is BUFFERED:
// only then can a decision made from the body change headers and route, under
// a timeout. A response body is never sent unless the service asks for it.
func extProc(g Gateway) *extprocv3.ExternalProcessor {
	p := buffered(g)
	if g.Filter == FilterExtProcDuplex {
		p.ProcessingMode = &extprocv3.ProcessingMode{
			RequestHeaderMode:   extprocv3.ProcessingMode_SEND,
			RequestBodyMode:     extprocv3.ProcessingMode_FULL_DUPLEX_STREAMED,
			RequestTrailerMode:  extprocv3.ProcessingMode_SEND, // the mode wants it
			ResponseHeaderMode:  extprocv3.ProcessingMode_SKIP,
			ResponseBodyMode:    extprocv3.ProcessingMode_NONE,
			ResponseTrailerMode: extprocv3.ProcessingMode_SKIP,
		}
		p.AllowModeOverride, p.AllowedOverrideModes = false, nil // which that mode ignores
	}
	return p
}

func buffered(g Gateway) *extprocv3.ExternalProcessor {
	return &extprocv3.ExternalProcessor{
		// A reply holds at most one rewritten body, its headers and its route.
		GrpcService:      g.judge(g.MaxRequestBytes + 1<<20),
		FailureModeAllow: false,
		StatusOnError:    &typev3.HttpStatus{Code: typev3.StatusCode_ServiceUnavailable},
		MessageTimeout:   durationpb.New(g.MessageTimeout),
		ProcessingMode:   mode(extprocv3.ProcessingMode_BUFFERED, extprocv3.ProcessingMode_SEND, extprocv3.ProcessingMode_NONE),
		// The service may ask for less than the mode above, never for more. In
		// particular no BUFFERED response, which hangs above the buffer limit.
		AllowModeOverride: true,
		AllowedOverrideModes: []*extprocv3.ProcessingMode{
			mode(extprocv3.ProcessingMode_BUFFERED, extprocv3.ProcessingMode_SKIP, extprocv3.ProcessingMode_NONE),
			mode(extprocv3.ProcessingMode_NONE, extprocv3.ProcessingMode_SKIP, extprocv3.ProcessingMode_NONE),
			mode(extprocv3.ProcessingMode_NONE, extprocv3.ProcessingMode_SEND, extprocv3.ProcessingMode_NONE),
			// The event streams of the legacy era, in which names have to be rewritten.
			mode(extprocv3.ProcessingMode_BUFFERED, extprocv3.ProcessingMode_SEND, extprocv3.ProcessingMode_STREAMED),
		},
		RequestAttributes: attributes(g),
		MetadataOptions: &extprocv3.MetadataOptions{
			ReceivingNamespaces: &extprocv3.MetadataOptions_MetadataNamespaces{Untyped: []string{MetadataNamespace}},
		},
		// The service routes by RouteHeader and drops the query from :path; a
		// path that is not the gateway's has no route. Method, scheme and host
		// are closed by default, the framing is closed here. A mutation that
		// breaks the rules fails the request instead of being dropped.
		MutationRules: &mutationv3.HeaderMutationRules{
			DisallowIsError: wrapperspb.Bool(true),
			// x-envoy-upstream-rq-timeout-ms bounds a call by its own limit and by its token's life.
			AllowEnvoy: wrapperspb.Bool(true),
			DisallowExpression: &matcherv3.RegexMatcher{
				Regex: "^(transfer-encoding|connection|upgrade)$",
			},
		},
	}
}

// attributes are what the service is told besides the headers: facts that no
// client can write.
func attributes(g Gateway) []string {
	names := []string{"source.address"}
	if g.TLS.Verifies() {
		names = append(names, "connection.sha256_peer_certificate_digest")
	}
	return names
}

// mode names all the fields: Envoy compares an override with the allowed ones
// field by field, and takes a body mode that is left out for NONE.
func mode(request extprocv3.ProcessingMode_BodySendMode, headers extprocv3.ProcessingMode_HeaderSendMode,
	response extprocv3.ProcessingMode_BodySendMode,
) *extprocv3.ProcessingMode {
	return &extprocv3.ProcessingMode{
		RequestHeaderMode:   extprocv3.ProcessingMode_SEND,
		RequestBodyMode:     request,
		RequestTrailerMode:  extprocv3.ProcessingMode_SKIP,
		ResponseHeaderMode:  headers,
		ResponseBodyMode:    response,
		ResponseTrailerMode: extprocv3.ProcessingMode_SKIP,
	}
}

// decidedOnly is lock 3: no request passes that a final verdict did not mark.
func decidedOnly(namespace string) *rbacv3.RBAC {
	return &rbacv3.RBAC{Rules: &rbacconfigv3.RBAC{
		Action: rbacconfigv3.RBAC_ALLOW,
		Policies: map[string]*rbacconfigv3.Policy{"decided": {
			Permissions: []*rbacconfigv3.Permission{{Rule: &rbacconfigv3.Permission_Any{Any: true}}},
			Principals: []*rbacconfigv3.Principal{{Identifier: &rbacconfigv3.Principal_SourcedMetadata{
				SourcedMetadata: &rbacconfigv3.SourcedMetadata{
					MetadataMatcher: metadataMatcher(namespace, DecidedKey, present()),
					MetadataSource:  rbacconfigv3.MetadataSource_DYNAMIC,
				},
			}}},
		}},
	}}
}

// noTrailers removes every trailer, either way: nobody judged them, and some
// programs merge them into the headers.
func noTrailers() *headerv3.HeaderMutation {
	all := []*mutationv3.HeaderMutation{{Action: &mutationv3.HeaderMutation_RemoveOnMatch_{
		RemoveOnMatch: &mutationv3.HeaderMutation_RemoveOnMatch{KeyMatcher: anyString()},
	}}}
	return &headerv3.HeaderMutation{Mutations: &headerv3.Mutations{RequestTrailersMutations: all, ResponseTrailersMutations: all}}
}

// judge reaches a service that judges.
func (g Gateway) judge(maxReply uint32) *corev3.GrpcService {
	s := grpcService(ServiceCluster, maxReply)
	if g.several() {
		orAnother(s)
	}
	return s
}

// grpcService reaches the service. maxReply bounds one message of its answer
// in bytes; 0 keeps Envoy's default.
func grpcService(cluster string, maxReply uint32) *corev3.GrpcService {
	target := &corev3.GrpcService_EnvoyGrpc{ClusterName: cluster}
	if maxReply > 0 {
		target.MaxReceiveMessageLength = wrapperspb.UInt32(maxReply)
	}
	return &corev3.GrpcService{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{EnvoyGrpc: target}}
}

func metadataMatcher(namespace, key string, value *matcherv3.ValueMatcher) *matcherv3.MetadataMatcher {
	return &matcherv3.MetadataMatcher{
		Filter: namespace,
		Path:   []*matcherv3.MetadataMatcher_PathSegment{{Segment: &matcherv3.MetadataMatcher_PathSegment_Key{Key: key}}},
		Value:  value,
	}
}

func present() *matcherv3.ValueMatcher {
	return &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_PresentMatch{PresentMatch: true}}
}

func anyString() *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{
		SafeRegex: &matcherv3.RegexMatcher{Regex: ".*"},
	}}
}
