package extproc

import (
	"errors"
	"sync"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"

	"github.com/sallyport/sallyport/authz"
)

// live are the calls whose answers we wait for, or are passing on: what a revocation can still end.
type live struct {
	mu   sync.Mutex
	open map[*held]struct{}
}

// held is one of them. The zero value is a request that is still being judged.
type held struct {
	call    *authz.Call
	revoked chan struct{} // closed when the call has to end
	once    sync.Once
}

var errRevoked = errors.New("the token or the session has been revoked")

// hold has h ended by Revoke until it is released.
func (l *live) hold(h *held, call *authz.Call) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h.call, h.revoked = call, make(chan struct{})
	if l.open == nil {
		l.open = map[*held]struct{}{}
	}
	l.open[h] = struct{}{}
	if call.Gone() { // since its verdict
		h.end()
	}
}

// end reports whether h was open until now.
func (h *held) end() (first bool) {
	h.once.Do(func() { close(h.revoked); first = true })
	return first
}

func (l *live) release(h *held) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, h)
}

// recv returns the next message, or errRevoked should the call be revoked while there is none.
func (h *held) recv(stream extprocv3.ExternalProcessor_ProcessServer) (*extprocv3.ProcessingRequest, error) {
	if h.revoked == nil {
		return stream.Recv()
	}
	type message struct {
		req *extprocv3.ProcessingRequest
		err error
	}
	next := make(chan message, 1)
	go func() { // it ends with the stream at the latest
		req, err := stream.Recv()
		next <- message{req, err}
	}()
	select {
	case <-h.revoked:
		return nil, errRevoked
	case m := <-next:
		return m.req, m.err
	}
}

// Revoke ends the calls whose tokens or sessions are revoked now, as far as their answers pass through here, and returns how
// many those were. Answers that Envoy passes on by itself go on.
func (s *Server) Revoke() (ended int) {
	s.live.mu.Lock()
	defer s.live.mu.Unlock()
	for h := range s.live.open {
		if h.call.Gone() && h.end() {
			ended++
		}
	}
	return ended
}
