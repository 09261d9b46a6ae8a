package hub

import (
	"context"
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

// keepAlive sends a comment on an idle stream, so that nobody in between cuts it, until ctx ends.
func (s *agentStream) keepAlive(ctx context.Context, every time.Duration) {
	if every <= 0 {
		return
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		s.mu.Lock()
		idle := time.Since(s.used) >= every
		s.mu.Unlock()
		if idle && s.send(mcpparse.Event{}) != nil {
			return
		}
	}
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
