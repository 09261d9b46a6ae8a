package extproc

import (
	"errors"
	"io"
	"log/slog"
	"runtime/debug"
	"sync/atomic"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sallyport/sallyport/authz"
)

// Server is Envoy's external processor. Each stream is judged by the gate that was current when it began.
type Server struct {
	extprocv3.UnimplementedExternalProcessorServer
	gate    atomic.Pointer[authz.Gate]
	ignored atomic.Bool
	log     *slog.Logger
	live    live
}

// NewServer returns a processor that refuses everything until SetGate is called.
func NewServer(log *slog.Logger) *Server { return &Server{log: log} }

// SetGate makes g judge all streams that begin from now on.
func (s *Server) SetGate(g *authz.Gate) { s.gate.Store(g) }

// Ignored reports whether a host has been seen that throws our verdicts away. Such a gateway is not ready.
func (s *Server) Ignored() bool { return s.ignored.Load() }

// Process answers one request's stream. It returns nil only after the last answer: see the package comment.
func (s *Server) Process(stream extprocv3.ExternalProcessor_ProcessServer) (err error) {
	g := s.gate.Load()
	if g == nil {
		return status.Error(codes.Unavailable, "not ready")
	}
	m := &machine{gate: g}
	held := &held{}
	defer s.live.release(held)
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("panic while judging a message; it is refused", "panic", p, "stack", string(debug.Stack()))
			m.abort("internal error")
			err = status.Error(codes.Internal, "internal error")
		}
	}()
	for {
		a, err := s.exchange(stream, m, held)
		if err != nil {
			return err
		}
		if a.last {
			return nil
		}
	}
}

// exchange receives one message and sends its answer.
func (s *Server) exchange(stream extprocv3.ExternalProcessor_ProcessServer, m *machine, held *held) (action, error) {
	if m.phase == wantResponse {
		s.live.hold(held, m.call)
	}
	req, err := held.recv(stream)
	if errors.Is(err, errRevoked) { // Envoy ends the exchange, and the upstream's with it
		return action{}, status.Error(codes.PermissionDenied, err.Error())
	}
	if err != nil {
		m.abort("the request was broken off")
		if errors.Is(err, io.EOF) {
			return action{}, status.Error(codes.Canceled, "stream ended before the last answer")
		}
		return action{}, err
	}
	ev, err := decode(req)
	if err != nil {
		m.abort(err.Error())
		return action{}, status.Error(codes.InvalidArgument, err.Error())
	}
	a, err := m.step(stream.Context(), ev)
	if err != nil {
		s.refused(err)
		return action{}, status.Error(codes.FailedPrecondition, err.Error())
	}
	if a.verdict == &unsafe {
		s.log.Error("ext_proc filter refused: set processing_mode.request_body_mode: BUFFERED (or FULL_DUPLEX_STREAMED) and leave "+
			"send_body_without_waiting_for_header_response off", "protocol_config", req.GetProtocolConfig().String())
	}
	for _, answer := range encode(a) {
		if err := stream.Send(answer); err != nil {
			return action{}, err
		}
	}
	return a, nil
}

func (s *Server) refused(err error) {
	if errors.Is(err, errIgnored) {
		s.ignored.Store(true)
	}
	s.log.Error("ext_proc stream refused", "error", err)
}
