package envoy_test

import (
	"errors"
	"net"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	alogv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/sallyport/sallyport/envoy"
)

// A script answers one message in place of the service. The agent names it in
// the header x-script.
type script func(s *stream) error

// stream is the service's side of one message.
type stream struct {
	extprocv3.ExternalProcessor_ProcessServer
	headers map[string]string
}

// service is a stand-in for the gateway's service.
type service struct {
	extprocv3.UnimplementedExternalProcessorServer
	alsv3.UnimplementedAccessLogServiceServer
	scripts map[string]script
	log     chan *alogv3.HTTPAccessLogEntry
}

func (s *service) Process(grpcStream extprocv3.ExternalProcessor_ProcessServer) error {
	first, err := grpcStream.Recv()
	if err != nil {
		return err
	}
	st := &stream{ExternalProcessor_ProcessServer: grpcStream, headers: map[string]string{}}
	for _, h := range first.GetRequestHeaders().GetHeaders().GetHeaders() {
		st.headers[h.GetKey()] = string(h.GetRawValue())
	}
	if first.GetResponseHeaders() != nil { // Envoy refused an upgrade before asking
		return st.pass()
	}
	if run := s.scripts[st.headers["x-script"]]; run != nil {
		if err := run(st); !errors.Is(err, errRefused) {
			return err
		}
		return nil
	}
	return immediate(404, "text/plain", "unknown script "+st.headers["x-script"])(st)
}

func (s *service) StreamAccessLogs(logs alsv3.AccessLogService_StreamAccessLogsServer) error {
	for {
		m, err := logs.Recv()
		if err != nil {
			return nil //nolint:nilerr // Envoy has gone
		}
		for _, e := range m.GetHttpLogs().GetLogEntry() {
			s.log <- e
		}
	}
}

// serve runs the service on g's socket until the test ends.
func serve(t *testing.T, g envoy.Gateway, scripts map[string]script) *service {
	t.Helper()
	listener, err := net.Listen("unix", g.ServiceSocket)
	if err != nil {
		t.Fatal(err)
	}
	s := &service{scripts: scripts, log: make(chan *alogv3.HTTPAccessLogEntry, 1000)}
	server := grpc.NewServer()
	extprocv3.RegisterExternalProcessorServer(server, s)
	alsv3.RegisterAccessLogServiceServer(server, s)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return s
}

// metadata is what a verdict of the service sets. The id is the raw JSON token.
func metadata(fields map[string]any) *structpb.Struct {
	inner, err := structpb.NewStruct(fields)
	if err != nil {
		panic(err)
	}
	return &structpb.Struct{Fields: map[string]*structpb.Value{envoy.MetadataNamespace: structpb.NewStructValue(inner)}}
}

// proceed answers the headers of a message whose body is still to come.
func (s *stream) proceed() error {
	if err := s.Send(&extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_RequestHeaders{
		RequestHeaders: &extprocv3.HeadersResponse{},
	}}); err != nil {
		return err
	}
	m, err := s.Recv()
	if err == nil && m.GetResponseHeaders() != nil { // Envoy refused the body: 413
		return errors.Join(errRefused, s.pass())
	}
	return err
}

var errRefused = errors.New("answered by Envoy itself")

// pass lets an answer through as it is.
func (s *stream) pass() error {
	return s.Send(&extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ResponseHeaders{
		ResponseHeaders: &extprocv3.HeadersResponse{},
	}})
}

// release answers the body: the verdict.
func (s *stream) release(m *structpb.Struct, set ...string) error {
	return s.Send(&extprocv3.ProcessingResponse{
		DynamicMetadata: m,
		Response: &extprocv3.ProcessingResponse_RequestBody{RequestBody: &extprocv3.BodyResponse{
			Response: &extprocv3.CommonResponse{
				ClearRouteCache: true,
				HeaderMutation:  &extprocv3.HeaderMutation{SetHeaders: header(set...)},
			},
		}},
	})
}

// to allows a POST and routes it; the id is the one in the header x-id.
func to(route string, set ...string) script {
	return func(s *stream) error {
		if err := s.proceed(); err != nil {
			return err
		}
		m := map[string]any{envoy.DecidedKey: true}
		if id := s.headers["x-id"]; id != "" {
			m[envoy.IDKey] = id
		}
		return s.release(metadata(m), append([]string{
			envoy.RouteHeader, route, envoy.SourceHeader, "192.0.2.1", "authorization", "Bearer fresh",
		}, set...)...)
	}
}

func immediate(status int, contentType, body string, set ...string) script {
	return func(s *stream) error {
		return s.Send(&extprocv3.ProcessingResponse{
			DynamicMetadata: metadata(map[string]any{envoy.ImmediateKey: true}),
			Response: &extprocv3.ProcessingResponse_ImmediateResponse{ImmediateResponse: &extprocv3.ImmediateResponse{
				Status:  &typev3.HttpStatus{Code: typev3.StatusCode(status)},
				Headers: &extprocv3.HeaderMutation{SetHeaders: header(append([]string{"content-type", contentType}, set...)...)},
				Body:    []byte(body),
			}},
		})
	}
}

func afterBody(then script) script {
	return func(s *stream) error {
		if err := s.proceed(); err != nil {
			return err
		}
		return then(s)
	}
}

// otherNamespace tries to pass the RBAC filter by metadata that is not its own.
func otherNamespace(s *stream) error {
	m := metadata(map[string]any{envoy.DecidedKey: true})
	m.Fields["envoy.filters.http.rbac"] = m.Fields[envoy.MetadataNamespace]
	delete(m.Fields, envoy.MetadataNamespace)
	return s.release(m, envoy.RouteHeader, "app/up")
}

func header(pairs ...string) []*corev3.HeaderValueOption {
	var out []*corev3.HeaderValueOption
	for i := 0; i < len(pairs); i += 2 {
		out = append(out, &corev3.HeaderValueOption{
			Header:       &corev3.HeaderValue{Key: pairs[i], RawValue: []byte(pairs[i+1])},
			AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
		})
	}
	return out
}
