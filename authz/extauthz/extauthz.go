// Package extauthz is the gate behind Envoy's ext_authz filter, for hosts that have no ext_proc.
//
// ext_authz asks one question a request, with its body, and takes one answer: go on with these headers, or this reply. No
// body can be changed and no upstream's answer is seen, so a call that needs either is carried out by the hub; the host needs
// the same routes by private header as with ext_proc. What is judged must be what goes on: a filter that sends the body in
// part, as text, or not at all is refused, whatever it would do with the answer.
package extauthz

import (
	"context"
	"encoding/pem"
	"log/slog"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	statusv3 "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/authz/envoyhttp"
	"github.com/sallyport/sallyport/authz/token"
)

// Server is Envoy's authorization service. Each request is judged by the gate that was current when it came.
type Server struct {
	authv3.UnimplementedAuthorizationServer
	gate atomic.Pointer[authz.Gate]
	log  *slog.Logger
}

// NewServer returns a service that refuses everything until SetGate is called.
func NewServer(log *slog.Logger) *Server { return &Server{log: log} }

// SetGate makes g judge all requests from now on.
func (s *Server) SetGate(g *authz.Gate) { s.gate.Store(g) }

// Check judges one request. An error is no answer: Envoy refuses the request with its status_on_error.
func (s *Server) Check(ctx context.Context, m *authv3.CheckRequest) (resp *authv3.CheckResponse, err error) {
	g := s.gate.Load()
	if g == nil {
		return nil, status.Error(codes.Unavailable, "not ready")
	}
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("panic while judging a request; it is refused", "panic", p, "stack", string(debug.Stack()))
			resp, err = nil, status.Error(codes.Internal, "internal error")
		}
	}()
	q, err := decode(m)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	call, verdict := g.Begin(ctx, q.request)
	if call == nil {
		return encode(&verdict)
	}
	if q.fault != "" {
		s.log.Error("ext_authz filter refused", "cure", q.fault)
		call.Abort(q.fault)
		return nil, status.Error(codes.FailedPrecondition, q.fault)
	}
	verdict = call.Finish(ctx, q.body)
	return encode(&verdict)
}

// question is a CheckRequest in the gate's words.
type question struct {
	request authz.Request
	body    []byte
	fault   string // what to change in the filter's configuration; "" for nothing
}

// partialHeader is how Envoy says whether it sends the whole body. It is set on the question, not on the request.
const partialHeader = "x-envoy-auth-partial-body"

func decode(m *authv3.CheckRequest) (question, error) {
	http := m.GetAttributes().GetRequest().GetHttp()
	header, pseudo, err := headers(http)
	if err != nil {
		return question{}, err
	}
	for name, value := range map[string]string{":method": http.GetMethod(), ":path": http.GetPath(), ":authority": http.GetHost(), ":scheme": http.GetScheme()} {
		if pseudo[name] == "" {
			pseudo[name] = value
		}
	}
	source := m.GetAttributes().GetSource().GetAddress().GetSocketAddress().GetAddress()
	q := question{body: http.GetRawBody()}
	partial := slices.Contains(header[partialHeader], "true")
	delete(header, partialHeader)
	if q.request, err = envoyhttp.Request(header, pseudo, source); err != nil {
		return question{}, err
	}
	q.request.KeepsBody, q.request.HidesAnswer = true, true
	q.request.Certificate = certificate(m.GetAttributes().GetSource().GetCertificate())
	length, sized := header.Get("content-length")
	announced, _ := strconv.ParseInt(length, 10, 64)
	switch {
	case http.GetBody() != "":
		q.fault = "set with_request_body.pack_as_bytes: true; as text, Envoy changes what is no UTF-8"
	case len(q.body) == 0 && (announced > 0 || len(header["transfer-encoding"]) > 0):
		q.fault = "set with_request_body: the body is not sent"
	case partial, sized && int64(len(q.body)) < announced:
		q.fault = "set with_request_body.allow_partial_message: false; only a part of the body was sent"
	}
	q.request.EndOfStream = q.fault == "" && len(q.body) == 0
	return q, nil
}

// certificate is the digest of the client's certificate, which Envoy sends as URL-encoded PEM; "" for none.
func certificate(encoded string) string {
	text, err := url.QueryUnescape(strings.ReplaceAll(encoded, "+", "%2B"))
	if err != nil {
		return ""
	}
	block, _ := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE" {
		return ""
	}
	return token.CertificateDigest(block.Bytes)
}

// headers reads the raw form, in which a repeated field is one (encode_raw_headers), or the joined one, in which a field
// that must be single and was repeated is refused for its comma.
func headers(http *authv3.AttributeContext_HttpRequest) (authz.Header, map[string]string, error) {
	if raw := http.GetHeaderMap(); raw != nil {
		return envoyhttp.Headers(raw)
	}
	m := &corev3.HeaderMap{}
	for name, value := range http.GetHeaders() {
		m.Headers = append(m.Headers, &corev3.HeaderValue{Key: name, Value: value})
	}
	return envoyhttp.Headers(m)
}

// encode writes a verdict as Envoy's answer.
func encode(v *authz.Verdict) (*authv3.CheckResponse, error) {
	out := &authv3.CheckResponse{DynamicMetadata: envoyhttp.Of(v).Proto()}
	switch {
	case v.Reply != nil:
		out.Status = &statusv3.Status{Code: int32(codes.PermissionDenied)}
		out.HttpResponse = &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
			Status: &typev3.HttpStatus{Code: typev3.StatusCode(v.Reply.Status)}, Headers: overwrite(v.Reply.Header), Body: string(v.Reply.Body)}}
	case v.Body != nil || v.Watch || !v.Forwards():
		return nil, status.Error(codes.Internal, "a verdict that ext_authz cannot carry out")
	default:
		out.Status = &statusv3.Status{Code: int32(codes.OK)}
		out.HttpResponse = &authv3.CheckResponse_OkResponse{OkResponse: forward(v)}
	}
	return out, nil
}

// forward is a verdict's mutations. Envoy sets first and then removes, so what is set must not be among what goes. The path is
// not ext_authz's to change: of the two destinations the hub does not mind a query, and no upstream gets one this way.
func forward(v *authz.Verdict) *authv3.OkHttpResponse {
	ok := &authv3.OkHttpResponse{}
	set := map[string]bool{}
	for _, field := range v.Set {
		set[field[0]] = true
		if field[0] != ":path" {
			ok.Headers = append(ok.Headers, overwrite([][2]string{field})...)
		}
	}
	for _, name := range v.Remove {
		if !set[name] {
			ok.HeadersToRemove = append(ok.HeadersToRemove, name)
		}
	}
	return ok
}

func overwrite(fields [][2]string) []*corev3.HeaderValueOption {
	out := make([]*corev3.HeaderValueOption, len(fields))
	for i, f := range fields {
		out[i] = &corev3.HeaderValueOption{
			Header:       &corev3.HeaderValue{Key: f[0], Value: f[1]},
			AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
		}
	}
	return out
}
