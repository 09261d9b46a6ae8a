package hub

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/sallyport/sallyport/authz/session"
	"github.com/sallyport/sallyport/mcpparse"
)

// agentStream is an event stream to an agent. It is safe for concurrent use.
type agentStream struct {
	mu      sync.Mutex
	w       http.ResponseWriter
	control *http.ResponseController
	begun   bool
	failed  error
	used    time.Time
}

func newAgentStream(w http.ResponseWriter) *agentStream {
	return &agentStream{w: w, control: http.NewResponseController(w)}
}

// begin sends the headers, before there is an event to send.
func (s *agentStream) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.start()
	_ = s.control.Flush()
}

func (s *agentStream) start() {
	if s.begun {
		return
	}
	s.begun = true
	for _, f := range eventHeader {
		s.w.Header().Set(f[0], f[1])
	}
	s.w.WriteHeader(http.StatusOK)
}

// send sends one event at once. After an error the agent is gone.
func (s *agentStream) send(ev mcpparse.Event) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed != nil {
		return s.failed
	}
	s.start()
	s.used = time.Now()
	if _, s.failed = s.w.Write(mcpparse.AppendEvent(nil, ev)); s.failed == nil {
		s.failed = s.control.Flush()
	}
	return s.failed
}

// notify sends a message of ours.
func (s *agentStream) notify(message []byte) error {
	return s.send(mcpparse.Event{HasData: true, Data: message})
}

// errEnded means that the handler that a stream belongs to has returned.
var errEnded = errors.New("the stream has ended")

// keepAlive sends a comment on an idle stream, so that nobody in between cuts it, until end is called; after that nothing
// is sent any more. It has no goroutine of its own: most streams are idle, and there are many.
func (s *agentStream) keepAlive(every time.Duration) (end func()) {
	stop := func() bool { return true }
	if every > 0 {
		s.mu.Lock()
		defer s.mu.Unlock() // beat needs it, so that it finds the timer
		var timer *time.Timer
		timer = time.AfterFunc(every, func() {
			if s.beat(every) == nil {
				timer.Reset(every)
			}
		})
		stop = timer.Stop
	}
	return func() {
		stop()
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.failed == nil {
			s.failed = errEnded
		}
	}
}

// beat sends a comment when nothing has been sent for a while.
func (s *agentStream) beat(every time.Duration) error {
	s.mu.Lock()
	idle, failed := time.Since(s.used) >= every, s.failed
	s.mu.Unlock()
	if !idle {
		return failed
	}
	return s.send(mcpparse.Event{})
}

// streamContext ends when the agent goes, when its token expires or is revoked, or s is, and when the process is to end.
func (h *Hub) streamContext(r *http.Request, c caller, s session.Session) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(r.Context())
	stop := context.AfterFunc(h.drained, cancel)
	closed := h.hold(c, s, cancel)
	timer := func() bool { return true }
	if exp := c.who.Identity.Expiry; !exp.IsZero() {
		timer = time.AfterFunc(exp.Sub(h.cfg.Now()), cancel).Stop
	}
	return ctx, func() {
		closed()
		stop()
		timer()
		cancel()
	}
}
