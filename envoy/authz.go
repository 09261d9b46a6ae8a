package envoy

import (
	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// extAuthz asks the service about every message in one question, body included.
func extAuthz(g Gateway) *authzv3.ExtAuthz {
	service := g.judge(1 << 20)
	service.Timeout = durationpb.New(g.MessageTimeout) // Envoy's default is 200 ms
	return &authzv3.ExtAuthz{
		Services:            &authzv3.ExtAuthz_GrpcService{GrpcService: service},
		TransportApiVersion: corev3.ApiVersion_V3,
		FailureModeAllow:    false,
		StatusOnError:       &typev3.HttpStatus{Code: typev3.StatusCode_ServiceUnavailable},
		WithRequestBody: &authzv3.BufferSettings{
			MaxRequestBytes:     g.MaxRequestBytes,
			AllowPartialMessage: false, // the rest would pass unread; 413 instead
			PackAsBytes:         true,  // as text, Envoy would replace what is no UTF-8
		},
		ClearRouteCache:        true, // the verdict chooses the route
		EncodeRawHeaders:       true, // else a field's values arrive joined, and a repeated one cannot be told
		IncludePeerCertificate: true,
		ValidateMutations:      true, // a header that is none fails the request instead of being dropped
		DecoderHeaderMutationRules: &mutationv3.HeaderMutationRules{
			DisallowIsError: wrapperspb.Bool(true),
			AllowEnvoy:      wrapperspb.Bool(true),
			DisallowExpression: &matcherv3.RegexMatcher{
				Regex: "^(transfer-encoding|connection|upgrade|content-length)$",
			},
		},
	}
}
