package extproc

import (
	"errors"
	"net"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/sallyport/sallyport/authz"
)

// Metadata that Envoy is given under this namespace; RBAC, access log and local replies read it.
const (
	Namespace       = "sallyport"
	metadataID      = "id"      // call id: joins the audit's decision and completion
	metadataDecided = "decided" // present only when the verdict forwards: what RBAC demands
	metadataRPCID   = "rpc_id"  // the message's JSON-RPC id as written
	metadataReply   = "imm"     // the reply is ours, not Envoy's
	metadataOrigin  = "origin"  // of the page that may read the answer
	metadataNonce   = "nonce"   // DPoP-Nonce of the answer
	metadataExpose  = "expose"  // what the page may read of an upstream's answer besides
	metadataAgain   = "again"   // … and holds what the upstream answered when it was asked again
)

var errPseudo = errors.New("request has a repeated or missing pseudo-header")

// decode reads one of Envoy's messages as an event.
func decode(m *extprocv3.ProcessingRequest) (any, error) {
	switch req := m.GetRequest().(type) {
	case *extprocv3.ProcessingRequest_RequestHeaders:
		r, err := decodeRequest(req.RequestHeaders, m)
		return headersEvent{request: r, mode: decodeMode(m)}, err
	case *extprocv3.ProcessingRequest_RequestBody:
		return bodyEvent{body: req.RequestBody.GetBody()}, nil
	case *extprocv3.ProcessingRequest_ResponseHeaders:
		h, pseudo, err := decodeHeaders(req.ResponseHeaders.GetHeaders())
		status, _ := strconv.Atoi(pseudo[":status"])
		return responseEvent{status: status, header: h, end: req.ResponseHeaders.GetEndOfStream()}, err
	case *extprocv3.ProcessingRequest_ResponseBody:
		return chunkEvent{chunk: req.ResponseBody.GetBody(), end: req.ResponseBody.GetEndOfStream()}, nil
	}
	return unknownEvent{}, nil
}

// decodeMode reads what the filter will do with our answers. Only a buffered body lets a decision about the body
// change headers and route, under a timeout.
func decodeMode(m *extprocv3.ProcessingRequest) mode {
	cfg := m.GetProtocolConfig()
	switch {
	case m.GetObservabilityMode():
		return modeIgnored
	case cfg == nil:
		return modeUnknown
	case cfg.GetRequestBodyMode() != extprocfilterv3.ProcessingMode_BUFFERED,
		cfg.GetSendBodyWithoutWaitingForHeaderResponse():
		return modeUnsafe
	}
	return modeBuffered
}

func decodeRequest(h *extprocv3.HttpHeaders, m *extprocv3.ProcessingRequest) (authz.Request, error) {
	header, pseudo, err := decodeHeaders(h.GetHeaders())
	if err != nil {
		return authz.Request{}, err
	}
	path, query, _ := strings.Cut(pseudo[":path"], "?")
	r := authz.Request{
		Method: pseudo[":method"], Path: path, RawQuery: query, Scheme: pseudo[":scheme"], Host: pseudo[":authority"],
		Header: header, EndOfStream: h.GetEndOfStream(), SourceIP: sourceIP(header, m),
		Certificate: attribute(m, "connection.sha256_peer_certificate_digest"),
	}
	r.ID, _ = header.Get("x-request-id")
	if proto, ok := header.Get("x-forwarded-proto"); ok && (proto == "http" || proto == "https") {
		r.Scheme = proto
	}
	if r.Method == "" || r.Path == "" {
		return authz.Request{}, errPseudo
	}
	return r, nil
}

// decodeHeaders splits fields from pseudo-headers. Envoy sends names in lower case and values as raw bytes.
func decodeHeaders(m *corev3.HeaderMap) (authz.Header, map[string]string, error) {
	header := make(authz.Header, len(m.GetHeaders()))
	pseudo := make(map[string]string, 4)
	for _, h := range m.GetHeaders() {
		name, value := h.GetKey(), string(h.GetRawValue())
		if value == "" {
			value = h.GetValue()
		}
		if !strings.HasPrefix(name, ":") {
			header[name] = append(header[name], value)
			continue
		}
		if _, twice := pseudo[name]; twice {
			return nil, nil, errPseudo
		}
		pseudo[name] = value
	}
	return header, pseudo, nil
}

// sourceIP is the peer as Envoy established it: its attribute, else the last hop that it appended itself.
func sourceIP(h authz.Header, m *extprocv3.ProcessingRequest) string {
	if address := attribute(m, "source.address"); address != "" {
		if host, _, err := net.SplitHostPort(address); err == nil {
			return host
		}
		return address
	}
	forwarded, _ := h.Get("x-forwarded-for")
	return strings.TrimSpace(forwarded[strings.LastIndexByte(forwarded, ',')+1:])
}

// attribute is what Envoy says by itself of the connection or the request, "" when it says nothing.
func attribute(m *extprocv3.ProcessingRequest, name string) string {
	for _, attributes := range m.GetAttributes() {
		if value := attributes.GetFields()[name].GetStringValue(); value != "" {
			return value
		}
	}
	return ""
}

// encode writes an action as Envoy's answer.
func encode(a action) *extprocv3.ProcessingResponse {
	switch {
	case a.reply != nil:
		return immediate(a.reply, metadata{metadataReply: true, metadataAgain: a.again})
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
		out.DynamicMetadata = metadata{metadataID: a.callID}.proto()
		return out
	}
	v := a.verdict
	facts := metadata{metadataID: v.ID, metadataRPCID: "null"}
	if v.RPCID != nil {
		facts[metadataRPCID] = string(v.RPCID)
	}
	if v.Reply != nil {
		facts[metadataReply] = true
		return immediate(v.Reply, facts)
	}
	facts[metadataDecided] = true
	if v.Origin != "" {
		facts[metadataOrigin] = v.Origin
	}
	if v.Nonce != "" {
		facts[metadataNonce] = v.Nonce
		if v.Origin != "" {
			facts[metadataExpose] = "DPoP-Nonce"
		}
	}
	var out *extprocv3.ProcessingResponse
	if a.answers == wantHeaders {
		out = requestHeaders(forward(v))
	} else {
		out = &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_RequestBody{
			RequestBody: &extprocv3.BodyResponse{Response: forward(v)}}}
	}
	out.DynamicMetadata = facts.proto()
	return out
}

func requestHeaders(c *extprocv3.CommonResponse) *extprocv3.ProcessingResponse {
	return &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_RequestHeaders{
		RequestHeaders: &extprocv3.HeadersResponse{Response: c}}}
}

// forward is a verdict's mutations. Envoy removes first and then sets; a changed body needs its content-length,
// which the gate has put among the headers.
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

func immediate(r *authz.Reply, facts metadata) *extprocv3.ProcessingResponse {
	return &extprocv3.ProcessingResponse{
		Response: &extprocv3.ProcessingResponse_ImmediateResponse{ImmediateResponse: &extprocv3.ImmediateResponse{
			Status:  &typev3.HttpStatus{Code: typev3.StatusCode(r.Status)},
			Headers: &extprocv3.HeaderMutation{SetHeaders: overwrite(r.Header)},
			Body:    r.Body,
			Details: "sallyport",
		}},
		DynamicMetadata: facts.proto(),
	}
}

// overwrite sets headers so that nothing a client sent stays beside them, in the words of old and new Envoys.
func overwrite(fields [][2]string) []*corev3.HeaderValueOption {
	out := make([]*corev3.HeaderValueOption, len(fields))
	for i, f := range fields {
		out[i] = &corev3.HeaderValueOption{
			Header:       &corev3.HeaderValue{Key: f[0], RawValue: []byte(f[1])},
			AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
		}
	}
	return out
}

// metadata is a flat set of facts about one call: strings and booleans.
type metadata map[string]any

func (m metadata) proto() *structpb.Struct {
	fields := make(map[string]*structpb.Value, len(m))
	for k, v := range m {
		switch v := v.(type) {
		case string:
			fields[k] = structpb.NewStringValue(v)
		case bool:
			fields[k] = structpb.NewBoolValue(v)
		}
	}
	return &structpb.Struct{Fields: map[string]*structpb.Value{
		Namespace: structpb.NewStructValue(&structpb.Struct{Fields: fields})}}
}
