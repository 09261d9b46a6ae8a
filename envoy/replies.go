package envoy

import (
	"fmt"

	xdscorev3 "github.com/cncf/xds/go/xds/core/v3"
	xdsmatcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	customv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/custom_response/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	localv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/custom_response/local_response_policy/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// upstreamFlags are Envoy's response flags for an upstream that gave no answer:
// no healthy host, connection failed, overflowed, reset, timed out, broke the protocol.
var upstreamFlags = []string{"UH", "UF", "UO", "UC", "UR", "LR", "UT", "UPE", "NC"}

// A replyClass is one kind of answer that Envoy makes by itself.
type replyClass struct {
	filter  *accesslogv3.AccessLogFilter
	status  uint32 // replaces Envoy's own; 0 keeps it
	code    int    // JSON-RPC
	message string // may hold Envoy's %…% operators
}

// replyClasses are tried in order.
func replyClasses() []replyClass {
	return []replyClass{
		{
			filter: anyOf(
				&accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_ResponseFlagFilter{
					ResponseFlagFilter: &accesslogv3.ResponseFlagFilter{Flags: upstreamFlags},
				}},
				statusFilter(accesslogv3.ComparisonFilter_EQ, 502), // refusedAnswers made it
			),
			status: 502, code: -32603, message: "the upstream server gave no usable answer",
		},
		{filter: statusFilter(accesslogv3.ComparisonFilter_GE, 500), code: -32603, message: "gateway error %RESPONSE_CODE%"},
		{filter: statusFilter(accesslogv3.ComparisonFilter_GE, 400), code: -32600, message: "request refused by the gateway: %RESPONSE_CODE%"},
	}
}

// localReplies makes every answer of Envoy's own a JSON-RPC error. An answer of
// the service (ImmediateResponse) passes through the same mappers, so the
// first one takes it out unchanged. The text form is used because it quotes the
// id as it came; it has no word for a missing id, hence two mappers a class.
// %RESPONSE_CODE_DETAILS% must not appear here: it names addresses and errors.
func localReplies(namespace string) *hcmv3.LocalReplyConfig {
	mappers := []*hcmv3.ResponseMapper{{Filter: metadataFilter(namespace, ImmediateKey, isTrue())}}
	for _, c := range replyClasses() {
		mappers = append(mappers,
			c.mapper("%DYNAMIC_METADATA("+namespace+":"+IDKey+")%", allOf(c.filter, metadataFilter(namespace, IDKey, present()))),
			c.mapper("null", c.filter))
	}
	return &hcmv3.LocalReplyConfig{Mappers: mappers}
}

func (c replyClass) mapper(id string, filter *accesslogv3.AccessLogFilter) *hcmv3.ResponseMapper {
	body := fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"error":{"code":%d,"message":%q}}`, id, c.code, c.message)
	m := &hcmv3.ResponseMapper{
		Filter:       filter,
		HeadersToAdd: []*corev3.HeaderValueOption{overwrite("cache-control", "no-store")},
		BodyFormatOverride: &corev3.SubstitutionFormatString{
			ContentType: "application/json",
			Format: &corev3.SubstitutionFormatString_TextFormatSource{TextFormatSource: &corev3.DataSource{
				Specifier: &corev3.DataSource_InlineString{InlineString: body},
			}},
		},
	}
	if c.status != 0 {
		m.StatusCode = wrapperspb.UInt32(c.status)
	}
	return m
}

// refusedAnswers turns an upstream's answer that must not reach the agent into
// a 502, whose body localReplies writes: a challenge (401, 403, 407) is about
// the gateway's token and not the agent's, a redirect would lead the agent
// past the gateway, a type other than MCP's two is not an answer to a message,
// and nobody asked for compression, which would hide the answer. An answer without a body (202, 204) may come without a type.
func refusedAnswers() *customv3.CustomResponse {
	var (
		status      = &matcherv3.HttpResponseStatusCodeMatchInput{}
		contentType = &matcherv3.HttpResponseHeaderMatchInput{HeaderName: "content-type"}
		encoding    = &matcherv3.HttpResponseHeaderMatchInput{HeaderName: "content-encoding"}
		local       = matches(&matcherv3.HttpResponseLocalReplyMatchInput{}, "true")
		refusal     = matches(status, "3..|401|403|407")
		mcpType     = matches(contentType, `(?i)\s*(application/json|text/event-stream)\s*(;.*)?`)
		typed       = matches(contentType, "(?s).*")
		bodyless    = matches(status, "202|204")
		compressed  = matches(encoding, "(?i).*[^ ].*")
		identity    = matches(encoding, "(?i) *identity *")
		// Most answers are of this form, which no condition below is about. Comparing is cheaper than three expressions.
		usual = both(equals(status, "200"), either(equals(contentType, "application/json"), equals(contentType, "text/event-stream")),
			not(matches(encoding, "(?s).*")))
	)
	return &customv3.CustomResponse{CustomResponseMatcher: &xdsmatcherv3.Matcher{
		MatcherType: &xdsmatcherv3.Matcher_MatcherList_{MatcherList: &xdsmatcherv3.Matcher_MatcherList{
			Matchers: []*xdsmatcherv3.Matcher_MatcherList_FieldMatcher{{
				Predicate: both(not(usual), not(local), either(refusal, both(compressed, not(identity)), both(not(mcpType), either(typed, not(bodyless))))),
				OnMatch: &xdsmatcherv3.Matcher_OnMatch{OnMatch: &xdsmatcherv3.Matcher_OnMatch_Action{
					Action: matchExtension("refused", &localv3.LocalResponsePolicy{
						StatusCode: wrapperspb.UInt32(502),
						// via_upstream: the access log shows who failed.
						ResponseCodeDetailsAction: &localv3.LocalResponsePolicy_PreserveResponseCodeDetails{
							PreserveResponseCodeDetails: true,
						},
					}),
				}},
			}},
		}},
	}}
}

type predicate = xdsmatcherv3.Matcher_MatcherList_Predicate

// matches tells whether the whole of an input matches a regular expression. An
// input that is absent matches none.
func matches(input proto.Message, regex string) *predicate {
	return single(input, &xdsmatcherv3.StringMatcher{MatchPattern: &xdsmatcherv3.StringMatcher_SafeRegex{
		SafeRegex: &xdsmatcherv3.RegexMatcher{
			EngineType: &xdsmatcherv3.RegexMatcher_GoogleRe2{GoogleRe2: &xdsmatcherv3.RegexMatcher_GoogleRE2{}},
			Regex:      regex,
		},
	}})
}

func equals(input proto.Message, value string) *predicate {
	return single(input, &xdsmatcherv3.StringMatcher{MatchPattern: &xdsmatcherv3.StringMatcher_Exact{Exact: value}})
}

func single(input proto.Message, value *xdsmatcherv3.StringMatcher) *predicate {
	return &predicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate_{
		SinglePredicate: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate{
			Input:   matchExtension("input", input),
			Matcher: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate_ValueMatch{ValueMatch: value},
		},
	}}
}

func not(p *predicate) *predicate {
	return &predicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_NotMatcher{NotMatcher: p}}
}

func either(ps ...*predicate) *predicate {
	return &predicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_OrMatcher{
		OrMatcher: &xdsmatcherv3.Matcher_MatcherList_Predicate_PredicateList{Predicate: ps},
	}}
}

func both(ps ...*predicate) *predicate {
	return &predicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_AndMatcher{
		AndMatcher: &xdsmatcherv3.Matcher_MatcherList_Predicate_PredicateList{Predicate: ps},
	}}
}

func matchExtension(name string, m proto.Message) *xdscorev3.TypedExtensionConfig {
	return &xdscorev3.TypedExtensionConfig{Name: name, TypedConfig: typed(m)}
}

func statusFilter(op accesslogv3.ComparisonFilter_Op, status uint32) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_StatusCodeFilter{
		StatusCodeFilter: &accesslogv3.StatusCodeFilter{Comparison: &accesslogv3.ComparisonFilter{
			Op: op,
			// The API demands a key; nothing sets it.
			Value: &corev3.RuntimeUInt32{DefaultValue: status, RuntimeKey: "sallyport.unused"},
		}},
	}}
}

func metadataFilter(namespace, key string, value *matcherv3.ValueMatcher) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_MetadataFilter{
		MetadataFilter: &accesslogv3.MetadataFilter{
			Matcher:            metadataMatcher(namespace, key, value),
			MatchIfKeyNotFound: wrapperspb.Bool(false), // Envoy's default is true
		},
	}}
}

func anyOf(filters ...*accesslogv3.AccessLogFilter) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_OrFilter{
		OrFilter: &accesslogv3.OrFilter{Filters: filters},
	}}
}

func allOf(filters ...*accesslogv3.AccessLogFilter) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_AndFilter{
		AndFilter: &accesslogv3.AndFilter{Filters: filters},
	}}
}

func isTrue() *matcherv3.ValueMatcher {
	return &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_BoolMatch{BoolMatch: true}}
}
