package hub

import (
	"sync"
	"time"
)

const (
	maxSessions          = 100_000 // agents' sessions remembered, and ended ones, and upstream sessions
	maxSessionsPrincipal = 10_000  // live sessions of one principal, so that none can crowd out the others
)

// agentSessions is what is known of agents' sessions beyond their ids: when each was last used, and which have
// ended. The ids themselves are sealed (package session), so a restart or an eviction forgets only this: a session
// not known here counts as first used now.
type agentSessions struct {
	timeout time.Duration // idle

	mu    sync.Mutex
	live  *lru[string, agentSession]
	ended *lru[string, struct{}]
	count map[string]int // live sessions by principal
}

type agentSession struct {
	principal string // "" when it was begun before a restart
	used      time.Time
}

func newAgentSessions(timeout time.Duration) *agentSessions {
	return &agentSessions{
		timeout: timeout,
		live:    newLRU[string, agentSession](maxSessions),
		ended:   newLRU[string, struct{}](maxSessions),
		count:   map[string]int{},
	}
}

// begin registers a new session. It reports false when the principal has too many.
func (s *agentSessions) begin(id, principal string, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire(now)
	if s.count[principal] >= maxSessionsPrincipal {
		return false
	}
	s.add(id, agentSession{principal, now})
	return true
}

// touch marks a session as used. It reports false when the session has ended.
func (s *agentSessions) touch(id string, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire(now)
	if _, ended := s.ended.get(id); ended {
		return false
	}
	a, known := s.live.get(id)
	if !known {
		s.add(id, agentSession{used: now})
		return true
	}
	a.used = now
	s.live.put(id, a)
	return true
}

// end ends a session, known or not.
func (s *agentSessions) end(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.finish(id)
}

// expire ends the sessions that were idle for too long. The list is in order of use, so it stops at the first that
// was not.
func (s *agentSessions) expire(now time.Time) {
	for {
		id, a, ok := s.live.oldest()
		if !ok || now.Sub(a.used) <= s.timeout {
			return
		}
		s.finish(id)
	}
}

func (s *agentSessions) finish(id string) {
	if a, ok := s.live.remove(id); ok {
		s.uncount(a)
	}
	s.ended.put(id, struct{}{})
}

func (s *agentSessions) add(id string, a agentSession) {
	if a.principal != "" {
		s.count[a.principal]++
	}
	if old, evicted := s.live.put(id, a); evicted {
		s.uncount(old)
	}
}

func (s *agentSessions) uncount(a agentSession) {
	if s.count[a.principal]--; s.count[a.principal] <= 0 {
		delete(s.count, a.principal)
	}
}

// upstreamSessions are the sessions that upstreams opened for us, one for each owner and app. An owner is an agent's
// session or a principal; sharing one session between two owners would let one see the other's state.
type upstreamSessions struct {
	timeout time.Duration // idle

	mu   sync.Mutex
	open *lru[sessionKey, upstreamSession]
}

type sessionKey struct{ owner, app string }

type upstreamSession struct {
	app     string
	route   string
	id      string // Mcp-Session-Id, "" when the upstream keeps no sessions
	version string // negotiated with the upstream
	used    time.Time
}

func newUpstreamSessions(timeout time.Duration) *upstreamSessions {
	return &upstreamSessions{timeout: timeout, open: newLRU[sessionKey, upstreamSession](maxSessions)}
}

// get returns the session of k and marks it as used.
func (s *upstreamSessions) get(k sessionKey, now time.Time) (upstreamSession, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u, ok := s.open.get(k)
	if !ok || now.Sub(u.used) > s.timeout {
		return upstreamSession{}, false
	}
	u.used = now
	s.open.put(k, u)
	return u, true
}

// put keeps a session and returns those that it displaces, which the caller closes.
func (s *upstreamSessions) put(k sessionKey, u upstreamSession) []upstreamSession {
	s.mu.Lock()
	defer s.mu.Unlock()
	var displaced []upstreamSession
	if old, ok := s.open.remove(k); ok {
		displaced = append(displaced, old)
	}
	if old, evicted := s.open.put(k, u); evicted {
		displaced = append(displaced, old)
	}
	return displaced
}

// remove forgets the session of k and returns it.
func (s *upstreamSessions) remove(k sessionKey) (upstreamSession, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open.remove(k)
}

// expire forgets the sessions that were idle for too long and returns them.
func (s *upstreamSessions) expire(now time.Time) []upstreamSession {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []upstreamSession
	for {
		k, u, ok := s.open.oldest()
		if !ok || now.Sub(u.used) <= s.timeout {
			return out
		}
		s.open.remove(k)
		out = append(out, u)
	}
}
