package doctor

import (
	"fmt"
	"regexp"
	"slices"
	"time"

	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sallyport/sallyport/envoy"
)

// judge is the filter that asks the service: one of the two.
type judge struct {
	filter httpFilter
	proc   *extprocv3.ExternalProcessor
	authz  *authzv3.ExtAuthz
}

func newJudge(f httpFilter) judge {
	return judge{f, as[extprocv3.ExternalProcessor](f.config), as[authzv3.ExtAuthz](f.config)}
}

func (j judge) asks() bool { return j.proc != nil || j.authz != nil }

// service is the cluster or the target of the filter's service.
func (j judge) service() string {
	service := j.proc.GetGrpcService()
	if j.authz != nil {
		service = j.authz.GetGrpcService()
	}
	if name := service.GetEnvoyGrpc().GetClusterName(); name != "" {
		return name
	}
	return service.GetGoogleGrpc().GetTargetUri()
}

// namespace is where Envoy keeps what the service says.
func (j judge) namespace() string {
	if j.authz != nil {
		return j.filter.GetName() // Envoy takes the filter's name
	}
	return envoy.MetadataNamespace
}

// find returns the index of the filter of m that asks our service, -1 for none.
func (x *exam) find(m *manager, all []*manager) int {
	mine := func(f httpFilter) bool { return newJudge(f).asks() }
	switch {
	case x.Service != "":
		mine = func(f httpFilter) bool { return newJudge(f).asks() && newJudge(f).service() == x.Service }
	case slices.ContainsFunc(all, func(m *manager) bool { return slices.ContainsFunc(m.filters, ours) }):
		mine = ours
	case asking(m) > 1:
		x.add(Warning, "which-filter", m.where, "several filters ask a service", "name the cluster of sallyport's with -service")
	}
	return slices.IndexFunc(m.filters, mine)
}

func asking(m *manager) int {
	n := 0
	for _, f := range m.filters {
		if newJudge(f).asks() {
			n++
		}
	}
	return n
}

// ours reports whether f writes our metadata.
func ours(f httpFilter) bool {
	return slices.Contains(newJudge(f).proc.GetMetadataOptions().GetReceivingNamespaces().GetUntyped(), envoy.MetadataNamespace)
}

// judged examines the settings of the filter itself.
func (x *exam) judged(m *manager) {
	j, where := m.judge, m.where+", filter "+m.filters[m.at].GetName()
	if j.proc != nil {
		for _, rule := range []func(*extprocv3.ExternalProcessor, string){
			x.failureMode, x.observed, x.immediate, x.procBody, x.procTimeout, x.procStatus, x.overrides, x.procMutations,
			x.routeCache, x.namespaces, x.forwardRules, x.overGRPC, x.contentLength,
		} {
			rule(j.proc, where)
		}
		return
	}
	for _, rule := range []func(*authzv3.ExtAuthz, string){
		x.authzFailureMode, x.enforced, x.authzBody, x.rawHeaders, x.authzGRPC, x.authzTimeout, x.authzStatus, x.authzMutations, x.authzRouteCache, x.authzHeaders,
	} {
		rule(j.authz, where)
	}
}

const failsOpen = "every message passes unjudged when the service is away"

func (x *exam) failureMode(p *extprocv3.ExternalProcessor, where string) {
	if p.GetFailureModeAllow() {
		x.add(Critical, "failure-mode-allow", where, failsOpen, "set failure_mode_allow: false")
	}
}

func (x *exam) authzFailureMode(a *authzv3.ExtAuthz, where string) {
	if a.GetFailureModeAllow() {
		x.add(Critical, "failure-mode-allow", where, failsOpen, "set failure_mode_allow: false")
	}
}

func (x *exam) observed(p *extprocv3.ExternalProcessor, where string) {
	if p.GetObservabilityMode() {
		x.add(Critical, "observability-mode", where, "the service's verdicts are ignored", "set observability_mode: false")
	}
}

func (x *exam) immediate(p *extprocv3.ExternalProcessor, where string) {
	if p.GetDisableImmediateResponse() {
		x.add(Critical, "disable-immediate-response", where, "the service's refusals are ignored", "set disable_immediate_response: false")
	}
}

// enforced: a filter that is on for a part of the requests judges a part of them.
func (x *exam) enforced(a *authzv3.ExtAuthz, where string) {
	if a.GetShadowMode() {
		x.add(Critical, "not-enforced", where, "the service's verdicts are ignored", "set shadow_mode: false")
	}
	if a.GetFilterEnabled() != nil || a.GetFilterEnabledMetadata() != nil {
		x.add(Critical, "not-enforced", where, "some messages are not judged", "remove filter_enabled and filter_enabled_metadata")
	}
}

func (x *exam) procBody(p *extprocv3.ExternalProcessor, where string) {
	x.processingMode(p.GetProcessingMode(), where)
	if p.GetSendBodyWithoutWaitingForHeaderResponse() {
		x.add(Warning, "body-mode", where, "bodies are sent before the service has answered the headers, and it refuses to judge so", "set send_body_without_waiting_for_header_response: false")
	}
}

// processingMode wants the whole body before anything goes on.
func (x *exam) processingMode(mode *extprocv3.ProcessingMode, where string) {
	body := mode.GetRequestBodyMode()
	switch {
	case mode.GetRequestHeaderMode() == extprocv3.ProcessingMode_SKIP:
		x.add(Critical, "header-mode", where, "the service does not see a request's headers", "set processing_mode.request_header_mode: SEND")
	case body == extprocv3.ProcessingMode_BUFFERED:
		if mode.GetResponseHeaderMode() == extprocv3.ProcessingMode_SKIP {
			x.add(Warning, "response-hidden", where, "the service does not see answers: names in event streams of the legacy era stay, and a lost session is not noticed",
				"set processing_mode.response_header_mode: SEND")
		}
	case body == extprocv3.ProcessingMode_FULL_DUPLEX_STREAMED:
		if mode.GetRequestTrailerMode() != extprocv3.ProcessingMode_SEND {
			x.add(Warning, "body-mode", where, "trailers are not sent, which this mode wants", "set processing_mode.request_trailer_mode: SEND")
		}
	default:
		x.add(Warning, "body-mode", where, fmt.Sprintf("request_body_mode %s does not wait for a verdict on the whole body, and the service refuses to judge so", body),
			"set processing_mode.request_body_mode: BUFFERED, or FULL_DUPLEX_STREAMED")
	}
	if mode.GetResponseBodyMode() == extprocv3.ProcessingMode_BUFFERED {
		x.add(Warning, "response-buffered", where, "answers are held back whole: event streams hang", "set processing_mode.response_body_mode: NONE")
	}
}

// leastTimeout is what a token exchange may need; Envoy's default is 200 ms. Beyond mostTimeout, which no exchange comes
// near, a service that hangs keeps every message, with its body, for as long.
const (
	leastTimeout = time.Second
	mostTimeout  = 5 * time.Minute
)

func (x *exam) longTimeout(t *durationpb.Duration, where, field string) {
	if t.AsDuration() > mostTimeout {
		x.add(Warning, "timeout", where, fmt.Sprintf("a message waits up to %s for a service that hangs", t.AsDuration()), "set "+field+", as `sallyport render` does")
	}
}

func (x *exam) procTimeout(p *extprocv3.ExternalProcessor, where string) {
	x.longTimeout(p.GetMessageTimeout(), where, "message_timeout")
	x.longTimeout(p.GetMaxMessageTimeout(), where, "max_message_timeout")
	if t := p.GetMessageTimeout(); t == nil || t.AsDuration() < leastTimeout {
		x.add(Warning, "timeout", where, "the service has less than a second to answer (default 200 ms), token exchange included", "set message_timeout, as `sallyport render` does")
	}
}

func (x *exam) authzTimeout(a *authzv3.ExtAuthz, where string) {
	x.longTimeout(a.GetGrpcService().GetTimeout(), where, "grpc_service.timeout")
	if t := a.GetGrpcService().GetTimeout(); t == nil || t.AsDuration() < leastTimeout {
		x.add(Warning, "timeout", where, "the service has less than a second to answer (default 200 ms), token exchange included", "set grpc_service.timeout, as `sallyport render` does")
	}
}

func (x *exam) procStatus(p *extprocv3.ExternalProcessor, where string) {
	if p.GetStatusOnError() == nil {
		x.add(Warning, "status-on-error", where, "a failure of the service looks like one of Envoy's (500)", "set status_on_error: {code: 503}")
	}
}

func (x *exam) authzStatus(a *authzv3.ExtAuthz, where string) {
	if a.GetStatusOnError() == nil {
		x.add(Warning, "status-on-error", where, "a failure of the service looks like a refusal (403)", "set status_on_error: {code: 503}")
	}
}

// overrides: the service asks per message whether it needs to see the answer.
func (x *exam) overrides(p *extprocv3.ExternalProcessor, where string) {
	if p.GetProcessingMode().GetRequestBodyMode() == extprocv3.ProcessingMode_FULL_DUPLEX_STREAMED {
		return // which ignores them
	}
	if !p.GetAllowModeOverride() {
		x.add(Warning, "mode-override", where, "event streams of the legacy era cannot be rewritten", "set allow_mode_override: true and allowed_override_modes, as `sallyport render` does")
		return
	}
	if len(p.GetAllowedOverrideModes()) == 0 {
		x.add(Warning, "mode-override", where, "any mode may be asked for", "set allowed_override_modes, as `sallyport render` does")
		return
	}
	streams := false
	for _, m := range p.GetAllowedOverrideModes() {
		streams = streams || m.GetResponseBodyMode() == extprocv3.ProcessingMode_STREAMED
	}
	if !streams {
		x.add(Warning, "mode-override", where, "event streams of the legacy era cannot be rewritten", "allow response_body_mode: STREAMED in allowed_override_modes")
	}
}

func (x *exam) procMutations(p *extprocv3.ExternalProcessor, where string) {
	r := p.GetMutationRules()
	x.mutations(r, where, "mutation_rules")
	if !r.GetAllowEnvoy().GetValue() && !r.GetDisallowAll().GetValue() {
		x.add(Warning, "mutation-rules", where, "the service may not bound a call's time (x-envoy-upstream-rq-timeout-ms)", "set mutation_rules.allow_envoy: true")
	}
}

func (x *exam) authzMutations(a *authzv3.ExtAuthz, where string) {
	x.mutations(a.GetDecoderHeaderMutationRules(), where, "decoder_header_mutation_rules")
	if !a.GetValidateMutations() {
		x.add(Warning, "mutation-rules", where, "a header that is none is dropped instead of failing the request", "set validate_mutations: true")
	}
}

// sets are request headers that the service writes.
var sets = []string{envoy.RouteHeader, envoy.SourceHeader, envoy.TicketHeader, "authorization", "mcp-session-id"}

func (x *exam) mutations(r *mutationv3.HeaderMutationRules, where, field string) {
	forbidden := r.GetDisallowAll().GetValue()
	for _, name := range sets {
		forbidden = forbidden || matches(r.GetDisallowExpression().GetRegex(), name)
	}
	if forbidden {
		x.add(Warning, "mutation-rules", where, "the service may not write the headers that route a call and carry its token", "set "+field+" as `sallyport render` does")
	}
	if !r.GetDisallowIsError().GetValue() {
		x.add(Warning, "mutation-rules", where, "a header that may not be changed is left as it is instead of failing the request", "set "+field+".disallow_is_error: true")
	}
}

func matches(expression, text string) bool {
	if expression == "" {
		return false
	}
	whole, err := regexp.Compile("^(?:" + expression + ")$")
	return err != nil || whole.MatchString(text)
}

const chooses = "the service's choice of a route is not looked at"

func (x *exam) routeCache(p *extprocv3.ExternalProcessor, where string) {
	if p.GetDisableClearRouteCache() || p.GetRouteCacheAction() == extprocv3.ExternalProcessor_RETAIN { //nolint:staticcheck // an old dump has it
		x.add(Warning, "route-cache", where, chooses, "set route_cache_action: DEFAULT")
	}
}

func (x *exam) authzRouteCache(a *authzv3.ExtAuthz, where string) {
	if !a.GetClearRouteCache() {
		x.add(Warning, "route-cache", where, chooses, "set clear_route_cache: true")
	}
}

func (x *exam) namespaces(p *extprocv3.ExternalProcessor, where string) {
	if !slices.Contains(p.GetMetadataOptions().GetReceivingNamespaces().GetUntyped(), envoy.MetadataNamespace) {
		x.add(Warning, "metadata", where, "the verdict's metadata is not taken, so lock 3 never opens", "set metadata_options.receiving_namespaces.untyped: ["+envoy.MetadataNamespace+"]")
	}
}

func (x *exam) forwardRules(p *extprocv3.ExternalProcessor, where string) {
	if r := p.GetForwardRules(); r.GetAllowedHeaders() != nil || r.GetDisallowedHeaders() != nil {
		x.add(Critical, "hidden-headers", where, "the service does not see all headers, and removes only what it sees", "remove forward_rules")
	}
}

func (x *exam) authzHeaders(a *authzv3.ExtAuthz, where string) {
	if a.GetAllowedHeaders() != nil || a.GetDisallowedHeaders() != nil {
		x.add(Critical, "hidden-headers", where, "the service does not see all headers, and removes only what it sees", "remove allowed_headers and disallowed_headers")
	}
}

// contentLength: a body that was rewritten has another length than the agent said.
func (x *exam) contentLength(p *extprocv3.ExternalProcessor, where string) {
	if p.GetAllowContentLengthHeader() {
		x.add(Warning, "content-length", where, "what an agent says of its body's length may go on with another body", "set allow_content_length_header: false")
	}
}

func (x *exam) overGRPC(p *extprocv3.ExternalProcessor, where string) {
	if p.GetGrpcService() == nil {
		x.add(Critical, "no-service", where, "asks over HTTP, which the service does not serve", "set grpc_service")
	}
}

// authzBody wants the whole body, as bytes.
func (x *exam) authzBody(a *authzv3.ExtAuthz, where string) {
	x.bufferSettings(a.GetWithRequestBody(), where)
}

func (x *exam) bufferSettings(b *authzv3.BufferSettings, where string) {
	switch {
	case b == nil:
		x.add(Warning, "body-mode", where, "the service gets no body, and refuses to judge so", "set with_request_body, as `sallyport render` does")
		return
	case b.GetAllowPartialMessage():
		x.add(Warning, "body-mode", where, "the rest of a long body is not judged, and the service refuses to judge so", "set with_request_body.allow_partial_message: false")
	case b.GetMaxRequestBytes() < x.MaxRequestBytes:
		x.add(Warning, "body-limit", where, fmt.Sprintf("bodies over %d bytes are refused, though http.maxRequestBytes is %d", b.GetMaxRequestBytes(), x.MaxRequestBytes), "set with_request_body.max_request_bytes")
	}
	if !b.GetPackAsBytes() {
		x.add(Warning, "body-mode", where, "Envoy changes what is no UTF-8 before it is judged, and the service refuses to judge so", "set with_request_body.pack_as_bytes: true")
	}
}

func (x *exam) rawHeaders(a *authzv3.ExtAuthz, where string) {
	if !a.GetEncodeRawHeaders() {
		x.add(Warning, "raw-headers", where, "a header that is there twice cannot be told from one", "set encode_raw_headers: true")
	}
}

func (x *exam) authzGRPC(a *authzv3.ExtAuthz, where string) {
	if a.GetTransportApiVersion() != corev3.ApiVersion_V3 || a.GetGrpcService() == nil {
		x.add(Critical, "no-service", where, "does not ask over gRPC v3, which is what the service serves", "set grpc_service and transport_api_version: V3")
	}
}
