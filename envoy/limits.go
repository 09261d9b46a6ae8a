package envoy

import (
	"strconv"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	overloadv3 "github.com/envoyproxy/go-control-plane/envoy/config/overload/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	localv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/local_ratelimit/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	connectionsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/downstream_connections/v3"
	metadatav3 "github.com/envoyproxy/go-control-plane/envoy/type/metadata/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Rate is a token bucket: Calls at once, and as many again in each Per.
type Rate struct {
	Calls uint32
	Per   time.Duration
}

func (r Rate) none() bool { return r == Rate{} }

func (r Rate) good() bool { return r.Calls > 0 && r.Per >= time.Second && r.Per <= 24*time.Hour }

func (r Rate) bucket() *typev3.TokenBucket {
	return &typev3.TokenBucket{MaxTokens: r.Calls, TokensPerFill: wrapperspb.UInt32(r.Calls), FillInterval: durationpb.New(r.Per)}
}

// maxMeters bounds the callers and tools that are counted at a time; beyond it
// the one that was not seen for longest begins anew.
const maxMeters = 10_000

// requestLimit turns away what comes too fast before anything else looks at it:
// one bucket for all.
func requestLimit(r Rate) *hcmv3.HttpFilter {
	limit := rateLimit("requests", r)
	limit.TokenBucket = r.bucket()
	return filter("envoy.filters.http.local_ratelimit.requests", limit)
}

// callLimits count what the service let through, each caller's calls of each
// tool apart. The service says in dynamic metadata whose call of what it is
// ([MeterKey]) and of which app ([MeteredAppKey]); without its word nothing is
// counted. Nil is no limit.
func callLimits(g Gateway) *localv3.LocalRateLimit {
	var descriptors []*ratelimitv3.LocalRateLimitDescriptor
	longest := Rate{}
	for _, a := range g.Apps {
		if a.CallLimit.none() {
			continue
		}
		if a.CallLimit.Per > longest.Per {
			longest = a.CallLimit
		}
		descriptors = append(descriptors, &ratelimitv3.LocalRateLimitDescriptor{
			Entries: []*ratelimitv3.RateLimitDescriptor_Entry{
				{Key: MeteredAppKey, Value: a.Name},
				{Key: MeterKey}, // each value has a bucket of its own
			},
			TokenBucket: a.CallLimit.bucket(),
		})
	}
	if len(descriptors) == 0 {
		return nil
	}
	limit := rateLimit("calls", longest)
	limit.Descriptors = descriptors
	limit.MaxDynamicDescriptors = wrapperspb.UInt32(maxMeters)
	limit.RateLimits = []*routev3.RateLimit{{Actions: []*routev3.RateLimit_Action{
		fromFact(g.namespace(), MeteredAppKey), fromFact(g.namespace(), MeterKey),
	}}}
	// The filter demands a bucket for what no descriptor matches: one that is never empty.
	limit.TokenBucket = &typev3.TokenBucket{MaxTokens: 1 << 31, TokensPerFill: wrapperspb.UInt32(1 << 31), FillInterval: durationpb.New(time.Second)}
	return limit
}

func rateLimit(name string, r Rate) *localv3.LocalRateLimit {
	always := &corev3.RuntimeFractionalPercent{DefaultValue: &typev3.FractionalPercent{Numerator: 100}}
	return &localv3.LocalRateLimit{
		StatPrefix:     name,
		Status:         &typev3.HttpStatus{Code: typev3.StatusCode_TooManyRequests},
		FilterEnabled:  always, // Envoy's default is 0 %
		FilterEnforced: always,
		ResponseHeadersToAdd: []*corev3.HeaderValueOption{
			overwrite("retry-after", strconv.Itoa(max(1, int(r.Per.Seconds())))),
		},
	}
}

func fromFact(namespace, key string) *routev3.RateLimit_Action {
	return &routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_Metadata{Metadata: &routev3.RateLimit_Action_MetaData{
		DescriptorKey: key,
		MetadataKey: &metadatav3.MetadataKey{
			Key:  namespace,
			Path: []*metadatav3.MetadataKey_PathSegment{{Segment: &metadatav3.MetadataKey_PathSegment_Key{Key: key}}},
		},
		Source: routev3.RateLimit_Action_MetaData_DYNAMIC,
	}}}
}

// overload bounds what Envoy takes on: connections, whose default is none.
func overload(g Gateway) *overloadv3.OverloadManager {
	return &overloadv3.OverloadManager{ResourceMonitors: []*overloadv3.ResourceMonitor{{
		Name: "envoy.resource_monitors.global_downstream_max_connections",
		ConfigType: &overloadv3.ResourceMonitor_TypedConfig{TypedConfig: typed(&connectionsv3.DownstreamConnectionsConfig{
			MaxActiveDownstreamConnections: int64(g.MaxConnections),
		})},
	}}}
}
