package extproc

import (
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	datav3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	extprocfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/authz/audit"
	"github.com/sallyport/sallyport/authz/envoyhttp"
)

func headersMessage(pairs ...string) *extprocv3.ProcessingRequest {
	m := &corev3.HeaderMap{}
	for i := 0; i < len(pairs); i += 2 {
		m.Headers = append(m.Headers, &corev3.HeaderValue{Key: pairs[i], RawValue: []byte(pairs[i+1])})
	}
	return &extprocv3.ProcessingRequest{
		Request:        &extprocv3.ProcessingRequest_RequestHeaders{RequestHeaders: &extprocv3.HttpHeaders{Headers: m}},
		ProtocolConfig: &extprocv3.ProtocolConfiguration{RequestBodyMode: extprocfilterv3.ProcessingMode_BUFFERED},
	}
}

func TestDecodeRequest(t *testing.T) {
	good := []string{":method", "POST", ":path", "/mcp?a=b", ":scheme", "http", ":authority", "h:1", "x-forwarded-proto", "https", "x-forwarded-for", "6.6.6.6, 10.0.0.9",
		"x-sallyport-cert", "6666", "connection.sha256_peer_certificate_digest", "6666"}
	ev, err := decode(headersMessage(append(good, "x", "1", "x", "2")...))
	if err != nil {
		t.Fatal(err)
	}
	r := ev.(headersEvent).request
	if r.Path != "/mcp" || r.RawQuery != "a=b" || r.Scheme != "https" || r.Host != "h:1" || r.SourceIP != "10.0.0.9" || r.Certificate != "" || len(r.Header["x"]) != 2 {
		t.Errorf("%+v", r)
	}
	withAttribute := headersMessage(good...)
	withAttribute.Attributes = map[string]*structpb.Struct{"envoy.filters.http.ext_proc": {Fields: map[string]*structpb.Value{
		"source.address": structpb.NewStringValue("[2001:db8::7]:4711"),
		"connection.sha256_peer_certificate_digest": structpb.NewStringValue("ab12")}}}
	ev, err = decode(withAttribute)
	if err != nil || ev.(headersEvent).request.SourceIP != "2001:db8::7" || ev.(headersEvent).request.Certificate != "ab12" {
		t.Errorf("source %v, %v", ev, err)
	}
	for name, extra := range map[string][]string{"a path twice": append(good, ":path", "/x"), "no method": {":path", "/mcp"}, "no path (CONNECT)": {":method", "CONNECT"}} {
		if _, err := decode(headersMessage(extra...)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestDecodeMode(t *testing.T) {
	for name, c := range map[string]struct {
		change func(m *extprocv3.ProcessingRequest)
		want   mode
	}{
		"buffered":        {func(*extprocv3.ProcessingRequest) {}, modeBuffered},
		"not said":        {func(m *extprocv3.ProcessingRequest) { m.ProtocolConfig = nil }, modeUnknown},
		"none":            {bodyMode(extprocfilterv3.ProcessingMode_NONE), modeUnsafe},
		"partial":         {bodyMode(extprocfilterv3.ProcessingMode_BUFFERED_PARTIAL), modeUnsafe},
		"streamed":        {bodyMode(extprocfilterv3.ProcessingMode_STREAMED), modeUnsafe},
		"full duplex":     {bodyMode(extprocfilterv3.ProcessingMode_FULL_DUPLEX_STREAMED), modeDuplex},
		"without waiting": {func(m *extprocv3.ProcessingRequest) { m.ProtocolConfig.SendBodyWithoutWaitingForHeaderResponse = true }, modeUnsafe},
		"observability":   {func(m *extprocv3.ProcessingRequest) { m.ObservabilityMode = true }, modeIgnored},
	} {
		m := headersMessage(":method", "POST", ":path", "/mcp")
		c.change(m)
		if got := decodeMode(m); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func bodyMode(m extprocfilterv3.ProcessingMode_BodySendMode) func(*extprocv3.ProcessingRequest) {
	return func(r *extprocv3.ProcessingRequest) { r.ProtocolConfig.RequestBodyMode = m }
}

// What forwards says so in metadata, and nothing else does: RBAC goes by it.
func TestEncodeDecided(t *testing.T) {
	forwards := authz.Verdict{ID: "i", RPCID: []byte(`"7"`), Route: "app/a", Body: []byte("{}"), Remove: []string{"cookie"}, Set: [][2]string{{"a", "b"}}}
	for name, c := range map[string]struct {
		action action
		want   bool
	}{
		"forward at the body":    {action{verdict: &forwards, answers: wantBody}, true},
		"forward at the headers": {action{verdict: &forwards, answers: wantHeaders}, true},
		"proceed":                {action{proceed: true, callID: "i", answers: wantHeaders}, false},
		"reply":                  {action{verdict: &authz.Verdict{ID: "i", Reply: &authz.Reply{Status: 401}}, answers: wantHeaders}, false},
		"replaced response":      {action{reply: &authz.Reply{Status: 502}, answers: wantResponse}, false},
		"passed response":        {action{pass: true, answers: wantResponse}, false},
	} {
		out := encodeOne(c.action)
		facts := out.GetDynamicMetadata().GetFields()[envoyhttp.ProcNamespace].GetStructValue().GetFields()
		if got := facts[envoyhttp.FactDecided].GetBoolValue(); got != c.want {
			t.Errorf("%s: decided %v", name, got)
		}
		for _, h := range out.GetRequestBody().GetResponse().GetHeaderMutation().GetSetHeaders() {
			if h.GetAppendAction() != corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD {
				t.Errorf("%s: header %s would be appended", name, h.GetHeader().GetKey())
			}
		}
	}
	if out := encodeOne(action{verdict: &forwards, answers: wantBody}).GetRequestBody().GetResponse(); !out.GetClearRouteCache() || string(out.GetBodyMutation().GetBody()) != "{}" {
		t.Errorf("%v", out)
	}
}

func TestOutcome(t *testing.T) {
	for name, c := range map[string]struct {
		flags   *datav3.ResponseFlags
		details string
		status  uint32
		ours    bool
		decided bool
		hub     bool
		want    audit.CompletionOutcome
	}{
		"ok":                        {&datav3.ResponseFlags{}, "via_upstream", 200, false, true, false, audit.OK},
		"upstream says no":          {&datav3.ResponseFlags{}, "via_upstream", 400, false, true, false, audit.UpstreamError},
		"the hub says no":           {&datav3.ResponseFlags{}, "via_upstream", 404, false, true, true, audit.Refused},
		"the hub's upstream failed": {&datav3.ResponseFlags{}, "via_upstream", 502, false, true, true, audit.UpstreamError},
		"the hub fails":             {&datav3.ResponseFlags{}, "via_upstream", 503, false, true, true, audit.GatewayError},
		"ours":                      {&datav3.ResponseFlags{}, "sallyport", 401, true, false, false, audit.Refused},
		"ours, in place of another": {&datav3.ResponseFlags{}, "sallyport", 502, true, true, false, audit.UpstreamError},
		"agent left":                {&datav3.ResponseFlags{DownstreamConnectionTermination: true}, "downstream_remote_disconnect", 0, false, true, false, audit.Aborted},
		"upstream is down":          {&datav3.ResponseFlags{UpstreamConnectionFailure: true}, "upstream_reset_before_response_started{connection_failure}", 503, false, true, false, audit.Unreachable},
		"upstream fell silent":      {&datav3.ResponseFlags{StreamIdleTimeout: true}, "stream_idle_timeout", 408, false, true, false, audit.Unreachable},
		"upstream speaks no HTTP":   {&datav3.ResponseFlags{UpstreamProtocolError: true}, "upstream_reset_before_response_started{protocol_error}", 502, false, true, false, audit.UpstreamError},
		"… and in the middle":       {&datav3.ResponseFlags{UpstreamProtocolError: true}, "upstream_reset_after_response_started{protocol_error}", 200, false, true, false, audit.UpstreamError},
		"we were too slow":          {&datav3.ResponseFlags{}, "ext_proc_error_per-message_timeout_exceeded", 504, false, false, false, audit.GatewayError},
		"nothing routed":            {&datav3.ResponseFlags{}, "direct_response", 503, false, false, false, audit.GatewayError},
		"body too large for Envoy":  {&datav3.ResponseFlags{}, "request_payload_too_large", 413, false, false, false, audit.Refused},
	} {
		e := &datav3.HTTPAccessLogEntry{CommonProperties: &datav3.AccessLogCommon{ResponseFlags: c.flags},
			Response: &datav3.HTTPResponseProperties{ResponseCode: wrapperspb.UInt32(c.status), ResponseCodeDetails: c.details}}
		if got := outcome(e, c.ours, c.decided, c.hub); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

// A lost session's call that was answered when it was sent again is the upstream's answer, though we say it.
func TestSentAgain(t *testing.T) {
	for _, c := range []struct {
		name   string
		again  bool
		status uint32
		want   audit.CompletionOutcome
	}{
		{"answered", true, 200, audit.OK},
		{"answered with an error", true, 400, audit.UpstreamError},
		{"replaced", false, 502, audit.UpstreamError},
	} {
		out := encodeOne(action{reply: &authz.Reply{Status: int(c.status)}, again: c.again, answers: wantResponse, last: true})
		facts := out.GetDynamicMetadata().GetFields()[envoyhttp.ProcNamespace].GetStructValue()
		facts.Fields[envoyhttp.FactDecided] = structpb.NewBoolValue(true) // Envoy keeps what the verdict said
		facts.Fields[envoyhttp.FactID] = structpb.NewStringValue("i")
		done := completion(&datav3.HTTPAccessLogEntry{
			CommonProperties: &datav3.AccessLogCommon{ResponseFlags: &datav3.ResponseFlags{},
				Metadata: &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{envoyhttp.ProcNamespace: facts}}},
			Response: &datav3.HTTPResponseProperties{ResponseCode: wrapperspb.UInt32(c.status), ResponseCodeDetails: "via_upstream"},
		})
		if done.Outcome != c.want || done.ID != "i" || out.GetImmediateResponse().GetStatus().GetCode() != typev3.StatusCode(c.status) {
			t.Errorf("%s: %+v", c.name, done)
		}
	}
}

// The bodies of rewritten responses have no length that is known, and come chunk by chunk.
func TestEncodeRewriting(t *testing.T) {
	out := encodeOne(action{relay: true, answers: wantResponse})
	headers := out.GetResponseHeaders().GetResponse()
	if diff := cmp.Diff([]string{"content-length"}, headers.GetHeaderMutation().GetRemoveHeaders()); diff != "" {
		t.Error(diff)
	}
	if m := out.GetModeOverride(); m.GetResponseBodyMode() != extprocfilterv3.ProcessingMode_STREAMED || m.GetRequestBodyMode() != extprocfilterv3.ProcessingMode_BUFFERED {
		t.Errorf("%v", m)
	}
	for _, chunk := range [][]byte{{}, []byte("x")} { // nothing is said in place of a chunk, too
		body := encodeOne(action{chunk: chunk, answers: wantChunk}).GetResponseBody().GetResponse().GetBodyMutation()
		if _, ok := body.GetMutation().(*extprocv3.BodyMutation_Body); !ok || string(body.GetBody()) != string(chunk) {
			t.Errorf("%q: %v", chunk, body)
		}
	}
}

func TestDecodeResponses(t *testing.T) {
	m := &corev3.HeaderMap{Headers: []*corev3.HeaderValue{{Key: ":status", RawValue: []byte("404")}, {Key: "content-type", RawValue: []byte("text/event-stream")}}}
	ev, err := decode(&extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_ResponseHeaders{
		ResponseHeaders: &extprocv3.HttpHeaders{Headers: m, EndOfStream: true}}})
	if diff := cmp.Diff(responseEvent{404, authz.Header{"content-type": {"text/event-stream"}}, true}, ev, cmp.AllowUnexported(responseEvent{})); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	for _, end := range []bool{true, false} {
		ev, err := decode(&extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_ResponseBody{
			ResponseBody: &extprocv3.HttpBody{Body: []byte("x"), EndOfStream: end}}})
		if diff := cmp.Diff(chunkEvent{[]byte("x"), end}, ev, cmp.AllowUnexported(chunkEvent{})); err != nil || diff != "" {
			t.Errorf("%v %s", err, diff)
		}
	}
	if ev, err := decode(&extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_ResponseTrailers{}}); ev != (unknownEvent{}) || err != nil {
		t.Errorf("trailers: %v, %v", ev, err)
	}
}

// However many headers a verdict sets, each costs its value, and all of them together two allocations.
func TestOverwriteAllocates(t *testing.T) {
	fields := [][2]string{{"a", "1"}, {"b", "2"}, {"c", "3"}}
	if n := testing.AllocsPerRun(100, func() { overwrite(fields) }); n > float64(len(fields)+2) {
		t.Errorf("%v allocations", n)
	}
}
