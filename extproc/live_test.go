package extproc

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sallyport/sallyport/authz/session"
	"github.com/sallyport/sallyport/authz/token"
)

// everybody's tokens are revoked, or nobody's.
type everybody struct{ atomic.Bool }

func (e *everybody) Revoked(*token.Identity) bool                { return e.Load() }
func (e *everybody) Ended(*token.Identity, session.Session) bool { return false }

// waiting is a stream on which nothing comes after its messages, until it ends.
type waiting struct{ fakeStream }

func (s *waiting) Recv() (*extprocv3.ProcessingRequest, error) {
	if len(s.in) > 0 {
		return s.fakeStream.Recv()
	}
	<-s.ctx.Done()
	return nil, s.ctx.Err()
}

// Calls whose answers pass through here end when they are revoked; those that wait for a verdict get one.
func TestRevoke(t *testing.T) {
	judged := []*extprocv3.ProcessingRequest{requestMessage(), bodyMessage("a_ok")}
	for name, tt := range map[string]struct {
		in    []*extprocv3.ProcessingRequest
		ended int
	}{
		"before its answer": {judged, 1},
		"in its answer":     {append(judged, answerMessage("200", "text/event-stream"), chunkMessage("data: ", false)), 1},
		"before its body":   {judged[:1], 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			back := &everybody{}
			g, _, _ := newGateFor(t, &upstreams{}, back)
			s := NewServer(slog.New(slog.DiscardHandler))
			s.SetGate(g)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- s.Process(&waiting{fakeStream{ctx: ctx, in: tt.in}}) }()
			synctest.Wait()
			if n := s.Revoke(); n != 0 {
				t.Errorf("%s: %d ended of nobody", name, n)
			}
			back.Store(true)
			if n := s.Revoke(); n != tt.ended {
				t.Errorf("%s: %d ended", name, n)
			}
			synctest.Wait()
			select {
			case err := <-done:
				if tt.ended == 0 || status.Code(err) != codes.PermissionDenied {
					t.Errorf("%s: %v", name, err)
				}
			default:
				if tt.ended != 0 {
					t.Errorf("%s: goes on", name)
				}
			}
			cancel()
			synctest.Wait()
			if n := len(s.live.open); n != 0 {
				t.Errorf("%s: %d still held", name, n)
			}
		})
	}
}

// deciding has everybody revoked once the verdict has been given.
type deciding struct {
	waiting
	back *everybody
}

func (s *deciding) Send(m *extprocv3.ProcessingResponse) error {
	if len(s.out) == 1 {
		s.back.Store(true)
	}
	return s.waiting.Send(m)
}

// What is revoked between the verdict and the answer is not missed, though Revoke has come too early.
func TestRevokedAfterTheVerdict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		back := &everybody{}
		g, _, _ := newGateFor(t, &upstreams{}, back)
		s := NewServer(slog.New(slog.DiscardHandler))
		s.SetGate(g)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		stream := &deciding{waiting{fakeStream{ctx: ctx, in: []*extprocv3.ProcessingRequest{requestMessage(), bodyMessage("a_ok")}}}, back}
		if err := s.Process(stream); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%v", err)
		}
	})
}
