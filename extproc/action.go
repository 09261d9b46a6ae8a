package extproc

import (
	"slices"
	"strconv"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/authz/envoyhttp"
)

// decode reads one of Envoy's messages as an event.
func decode(m *extprocv3.ProcessingRequest) (any, error) {
	switch req := m.GetRequest().(type) {
	case *extprocv3.ProcessingRequest_RequestHeaders:
		r, err := decodeRequest(req.RequestHeaders, m)
		return headersEvent{request: r, mode: decodeMode(m)}, err
	case *extprocv3.ProcessingRequest_RequestBody:
		return bodyEvent{body: req.RequestBody.GetBody(), end: req.RequestBody.GetEndOfStream()}, nil
	case *extprocv3.ProcessingRequest_RequestTrailers:
		return trailersEvent{}, nil
	case *extprocv3.ProcessingRequest_ResponseHeaders:
		h, pseudo, err := envoyhttp.Headers(req.ResponseHeaders.GetHeaders())
		status, _ := strconv.Atoi(pseudo[":status"])
		return responseEvent{status: status, header: h, end: req.ResponseHeaders.GetEndOfStream()}, err
	case *extprocv3.ProcessingRequest_ResponseBody:
		return chunkEvent{chunk: req.ResponseBody.GetBody(), end: req.ResponseBody.GetEndOfStream()}, nil
	}
	return unknownEvent{}, nil
}

// decodeMode reads what the filter will do with our answers. A decision about the body can change headers and route when
// the body is buffered by Envoy, or when Envoy has to wait for us to give it back.
func decodeMode(m *extprocv3.ProcessingRequest) mode {
	cfg := m.GetProtocolConfig()
	switch {
	case m.GetObservabilityMode():
		return modeIgnored
	case cfg == nil:
		return modeUnknown
	case cfg.GetSendBodyWithoutWaitingForHeaderResponse():
		return modeUnsafe
	}
	switch cfg.GetRequestBodyMode() {
	case extprocfilterv3.ProcessingMode_BUFFERED:
		return modeBuffered
	case extprocfilterv3.ProcessingMode_FULL_DUPLEX_STREAMED:
		return modeDuplex
	}
	return modeUnsafe
}

func decodeRequest(h *extprocv3.HttpHeaders, m *extprocv3.ProcessingRequest) (authz.Request, error) {
	header, pseudo, err := envoyhttp.Headers(h.GetHeaders())
	if err != nil {
		return authz.Request{}, err
	}
	r, err := envoyhttp.Request(header, pseudo, attribute(m, "source.address"))
	r.EndOfStream, r.Certificate = h.GetEndOfStream(), attribute(m, "connection.sha256_peer_certificate_digest")
	return r, err
}

// attribute returns what Envoy has established of the request, "" for nothing.
func attribute(m *extprocv3.ProcessingRequest, name string) string {
	for _, attributes := range m.GetAttributes() {
		if value := attributes.GetFields()[name].GetStringValue(); value != "" {
			return value
		}
	}
	return ""
}

// encode writes an action as Envoy's answer, which is one message, or, in modeDuplex, none or several.
func encode(a action) []*extprocv3.ProcessingResponse {
	switch {
	case a.silent:
		return nil
	case a.duplex && a.verdict.Reply == nil:
		return giveBack(a)
	}
	return []*extprocv3.ProcessingResponse{encodeOne(a)}
}

// maxPart bounds one part of a body that is given back (64 KiB, the filter's documentation says).
const maxPart = 62_000

// giveBack is a verdict with the headers, which have waited for it, and the body that was judged. The length is always
// said: an Envoy that lets the one through that the agent said (allow_content_length_header) would otherwise frame another
// body with it.
func giveBack(a action) []*extprocv3.ProcessingResponse {
	v := *a.verdict
	v.Body = nil
	v.Set = append(slices.DeleteFunc(slices.Clone(v.Set), func(f [2]string) bool { return f[0] == "content-length" }),
		[2]string{"content-length", strconv.Itoa(len(a.body))})
	headers := requestHeaders(forward(&v))
	headers.DynamicMetadata = metadata(envoyhttp.Of(&v))
	out := []*extprocv3.ProcessingResponse{headers}
	for rest, more := a.body, true; more; {
		part := rest[:min(len(rest), maxPart)]
		rest = rest[len(part):]
		more = len(rest) > 0
		out = append(out, &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_RequestBody{RequestBody: &extprocv3.BodyResponse{
			Response: &extprocv3.CommonResponse{BodyMutation: &extprocv3.BodyMutation{Mutation: &extprocv3.BodyMutation_StreamedResponse{
				StreamedResponse: &extprocv3.StreamedBodyResponse{Body: part, EndOfStream: !more && !a.trailers}}}}}}})
	}
	if a.trailers {
		out = append(out, &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_RequestTrailers{RequestTrailers: &extprocv3.TrailersResponse{}}})
	}
	return out
}

func encodeOne(a action) *extprocv3.ProcessingResponse {
	switch {
	case a.reply != nil:
		return immediate(a.reply, envoyhttp.Facts{envoyhttp.FactReply: true, envoyhttp.FactAgain: a.again})
	case a.relay:
		return streamed()
	case a.chunk != nil:
		return &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ResponseBody{
			ResponseBody: &extprocv3.BodyResponse{Response: &extprocv3.CommonResponse{BodyMutation: bodyOf(a.chunk)}}}}
	case a.pass:
		return &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ResponseHeaders{
			ResponseHeaders: &extprocv3.HeadersResponse{Response: &extprocv3.CommonResponse{}}}}
	case a.proceed:
		out := requestHeaders(&extprocv3.CommonResponse{})
		out.DynamicMetadata = metadata(envoyhttp.Facts{envoyhttp.FactID: a.callID})
		return out
	}
	v := a.verdict
	facts := envoyhttp.Of(v)
	if v.Reply != nil {
		return immediate(v.Reply, facts)
	}
	var out *extprocv3.ProcessingResponse
	if a.answers == wantHeaders {
		out = requestHeaders(forward(v))
	} else {
		out = &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_RequestBody{
			RequestBody: &extprocv3.BodyResponse{Response: forward(v)}}}
	}
	out.DynamicMetadata = metadata(facts)
	return out
}

func requestHeaders(c *extprocv3.CommonResponse) *extprocv3.ProcessingResponse {
	return &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_RequestHeaders{
		RequestHeaders: &extprocv3.HeadersResponse{Response: c}}}
}

// forward is a verdict's mutations. Envoy removes first and then sets; a changed body needs its content-length,
// which the gate has put among the headers. What is set stays among what is removed: of several fields of one name Envoy
// overwrites the first and leaves the others.
func forward(v *authz.Verdict) *extprocv3.CommonResponse {
	c := &extprocv3.CommonResponse{
		HeaderMutation:  &extprocv3.HeaderMutation{RemoveHeaders: v.Remove, SetHeaders: overwrite(v.Set)},
		ClearRouteCache: true,
	}
	if v.Body != nil {
		c.BodyMutation = bodyOf(v.Body)
	}
	return c
}

func bodyOf(b []byte) *extprocv3.BodyMutation {
	return &extprocv3.BodyMutation{Mutation: &extprocv3.BodyMutation_Body{Body: b}}
}

// streamed lets the response's headers go on and asks for its body, chunk by chunk. Its length is no longer known. Envoy
// compares the override with the allowed ones field by field.
func streamed() *extprocv3.ProcessingResponse {
	return &extprocv3.ProcessingResponse{
		Response: &extprocv3.ProcessingResponse_ResponseHeaders{ResponseHeaders: &extprocv3.HeadersResponse{
			Response: &extprocv3.CommonResponse{HeaderMutation: &extprocv3.HeaderMutation{RemoveHeaders: []string{"content-length"}}}}},
		ModeOverride: &extprocfilterv3.ProcessingMode{
			RequestHeaderMode:   extprocfilterv3.ProcessingMode_SEND,
			RequestBodyMode:     extprocfilterv3.ProcessingMode_BUFFERED,
			RequestTrailerMode:  extprocfilterv3.ProcessingMode_SKIP,
			ResponseHeaderMode:  extprocfilterv3.ProcessingMode_SEND,
			ResponseBodyMode:    extprocfilterv3.ProcessingMode_STREAMED,
			ResponseTrailerMode: extprocfilterv3.ProcessingMode_SKIP,
		},
	}
}

func immediate(r *authz.Reply, facts envoyhttp.Facts) *extprocv3.ProcessingResponse {
	return &extprocv3.ProcessingResponse{
		Response: &extprocv3.ProcessingResponse_ImmediateResponse{ImmediateResponse: &extprocv3.ImmediateResponse{
			Status:  &typev3.HttpStatus{Code: typev3.StatusCode(r.Status)},
			Headers: &extprocv3.HeaderMutation{SetHeaders: overwrite(r.Header)},
			Body:    r.Body,
			Details: "sallyport",
		}},
		DynamicMetadata: metadata(facts),
	}
}

// overwrite sets headers so that nothing a client sent stays beside them, in the words of old and new Envoys.
func overwrite(fields [][2]string) []*corev3.HeaderValueOption {
	out := make([]*corev3.HeaderValueOption, len(fields))
	room := make([]struct { // one allocation for all of them
		option corev3.HeaderValueOption
		header corev3.HeaderValue
	}, len(fields))
	for i, f := range fields {
		option, header := &room[i].option, &room[i].header
		header.Key, header.RawValue = f[0], []byte(f[1])
		option.Header, option.AppendAction = header, corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD
		out[i] = option
	}
	return out
}

// metadata puts facts under their namespace.
func metadata(facts envoyhttp.Facts) *structpb.Struct {
	return &structpb.Struct{Fields: map[string]*structpb.Value{envoyhttp.ProcNamespace: structpb.NewStructValue(facts.Proto())}}
}
