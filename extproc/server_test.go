package extproc

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sallyport/sallyport/authz/audit"
)

// fakeStream is Envoy's side of one request.
type fakeStream struct {
	grpc.ServerStream
	ctx  context.Context
	in   []*extprocv3.ProcessingRequest
	out  []*extprocv3.ProcessingResponse
	dead error // of Send
}

func (s *fakeStream) Context() context.Context { return s.ctx }

func (s *fakeStream) Recv() (*extprocv3.ProcessingRequest, error) {
	if len(s.in) == 0 {
		return nil, io.EOF
	}
	m := s.in[0]
	s.in = s.in[1:]
	return m, nil
}

func (s *fakeStream) Send(m *extprocv3.ProcessingResponse) error {
	if s.dead != nil {
		return s.dead
	}
	s.out = append(s.out, m)
	return nil
}

func requestMessage() *extprocv3.ProcessingRequest {
	return headersMessage(":method", "POST", ":path", "/mcp", ":scheme", "http", ":authority", "127.0.0.1:1", "content-type", "application/json")
}

func bodyMessage(tool string) *extprocv3.ProcessingRequest {
	return &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestBody{RequestBody: &extprocv3.HttpBody{Body: call(tool).body, EndOfStream: true}}}
}

func answerMessage(statusCode, contentType string) *extprocv3.ProcessingRequest {
	return &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_ResponseHeaders{ResponseHeaders: &extprocv3.HttpHeaders{Headers: &corev3.HeaderMap{Headers: []*corev3.HeaderValue{
		{Key: ":status", RawValue: []byte(statusCode)}, {Key: "content-type", RawValue: []byte(contentType)}}}}}}
}

func chunkMessage(text string, end bool) *extprocv3.ProcessingRequest {
	return &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_ResponseBody{ResponseBody: &extprocv3.HttpBody{Body: []byte(text), EndOfStream: end}}}
}

// A stream ends well after its last answer, and otherwise not: Envoy would let the request through.
func TestProcess(t *testing.T) {
	unsafeFilter := requestMessage()
	unsafeFilter.ProtocolConfig.RequestBodyMode = extprocfilterv3.ProcessingMode_STREAMED
	ignored := requestMessage()
	ignored.ObservabilityMode = true
	for _, c := range []struct {
		name    string
		in      []*extprocv3.ProcessingRequest
		want    codes.Code
		answers int
		record  audit.Outcome
	}{
		{"a call", []*extprocv3.ProcessingRequest{requestMessage(), bodyMessage("a_ok"), answerMessage("200", "application/json")}, codes.OK, 3, audit.Allowed},
		{"a streamed answer", []*extprocv3.ProcessingRequest{requestMessage(), bodyMessage("a_ok"), answerMessage("200", "text/event-stream"), chunkMessage(response, false), chunkMessage("", true)}, codes.OK, 5, audit.Allowed},
		{"a denied call", []*extprocv3.ProcessingRequest{requestMessage(), bodyMessage("a_no"), answerMessage("200", "")}, codes.OK, 2, audit.Denied},
		{"it ends before the verdict", []*extprocv3.ProcessingRequest{requestMessage()}, codes.Canceled, 1, audit.Error},
		{"it ends before the answer", []*extprocv3.ProcessingRequest{requestMessage(), bodyMessage("a_ok")}, codes.Canceled, 2, audit.Allowed},
		{"it ends at once", nil, codes.Canceled, 0, ""},
		{"no request", []*extprocv3.ProcessingRequest{headersMessage(":path", "/mcp")}, codes.InvalidArgument, 0, ""},
		{"out of order", []*extprocv3.ProcessingRequest{bodyMessage("a_ok")}, codes.FailedPrecondition, 0, ""},
		{"a stream that is cut", []*extprocv3.ProcessingRequest{requestMessage(), bodyMessage("a_ok"), answerMessage("200", "text/event-stream"), chunkMessage("data: x\n\n", false), chunkMessage("", false)}, codes.FailedPrecondition, 4, audit.Allowed},
		{"an unsafe filter", []*extprocv3.ProcessingRequest{unsafeFilter}, codes.OK, 1, ""},
		{"a filter that ignores us", []*extprocv3.ProcessingRequest{ignored}, codes.FailedPrecondition, 0, ""},
	} {
		g, rec, _ := newTestGate(t)
		s := NewServer(slog.New(slog.DiscardHandler))
		s.SetGate(g)
		stream := &fakeStream{ctx: t.Context(), in: c.in}
		err := s.Process(stream)
		if status.Code(err) != c.want || len(stream.out) != c.answers {
			t.Errorf("%s: %v after %d answers", c.name, err, len(stream.out))
		}
		if n := total(rec); c.record == "" && n != 0 || c.record != "" && (n != 1 || rec.outcomes[c.record] != 1) {
			t.Errorf("%s: records %v", c.name, rec.outcomes)
		}
		if s.Ignored() != (c.name == "a filter that ignores us") {
			t.Errorf("%s: ignored %v", c.name, s.Ignored())
		}
	}
}

func TestProcessFails(t *testing.T) {
	s := NewServer(slog.New(slog.DiscardHandler))
	if err := s.Process(&fakeStream{ctx: t.Context()}); status.Code(err) != codes.Unavailable {
		t.Errorf("without a gate: %v", err)
	}
	g, _, _ := newTestGate(t)
	s.SetGate(g)
	if err := s.Process(&fakeStream{ctx: t.Context(), in: []*extprocv3.ProcessingRequest{requestMessage()}, dead: errors.New("reset")}); err == nil {
		t.Error("Envoy has gone, and all is well")
	}
	stream := &fakeStream{ctx: t.Context(), in: []*extprocv3.ProcessingRequest{requestMessage(), bodyMessage("a_ok")}}
	if err := s.Process(panicking{stream}); status.Code(err) != codes.Internal {
		t.Errorf("a panic: %v", err)
	}
}

// panicking is a stream on which something goes very wrong.
type panicking struct{ *fakeStream }

func (panicking) Recv() (*extprocv3.ProcessingRequest, error) { panic("boom") }
