package hub

import (
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/authz"
)

const (
	maxOwners            = 100_000 // sessions and principals remembered, and ended ones
	maxSessionsPrincipal = 10_000  // live sessions of one principal, so that none can crowd out the others
)

// memory is the Store of a single replica. An owner that it does not know counts as first used now: it may have been
// opened before a restart.
type memory struct {
	timeout time.Duration // idle
	now     func() time.Time

	mu    sync.Mutex
	live  *lru[string, *owned]
	ended *lru[string, struct{}]
	count map[string]int    // live sessions by principal
	lost  []UpstreamSession // of owners that had to make room; for Expire

	topics topics
}

// owned is what is known of one owner.
type owned struct {
	principal string // "" when it was begun before a restart, or is none
	used      time.Time
	upstreams map[string]UpstreamSession // by app
	facts     map[string]string
	marks     map[string]bool
}

// NewMemory returns a Store in this process's memory, whose owners end after timeout without use.
func NewMemory(timeout time.Duration, now func() time.Time) Store {
	return &memory{
		timeout: timeout, now: now,
		live:  newLRU[string, *owned](maxOwners),
		ended: newLRU[string, struct{}](maxOwners),
		count: map[string]int{},
	}
}

func (m *memory) Begin(_ context.Context, owner, principal string) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expire()
	if m.count[principal] >= maxSessionsPrincipal {
		return false, nil
	}
	m.count[principal]++
	m.add(owner, &owned{principal: principal})
	return true, nil
}

func (m *memory) Touch(_ context.Context, owner string) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.use(owner) != nil, nil
}

func (m *memory) End(_ context.Context, owner string) ([]UpstreamSession, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.finish(owner), nil
}

func (m *memory) Expire(context.Context) ([]UpstreamSession, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expire()
	out := m.lost
	m.lost = nil
	return out, nil
}

func (m *memory) Upstream(_ context.Context, owner, app string) (UpstreamSession, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if o := m.use(owner); o != nil {
		s, ok := o.upstreams[app]
		return s, ok, nil
	}
	return UpstreamSession{}, false, nil
}

func (m *memory) Upstreams(_ context.Context, owner string) ([]UpstreamSession, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if o := m.peek(owner); o != nil {
		return slices.Collect(maps.Values(o.upstreams)), nil
	}
	return nil, nil
}

func (m *memory) PutUpstream(_ context.Context, owner string, s UpstreamSession) ([]UpstreamSession, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o := m.use(owner)
	if o == nil { // it ended while the handshake was under way
		return []UpstreamSession{s}, nil
	}
	var displaced []UpstreamSession
	if old, ok := o.upstreams[s.App]; ok && old.ID != s.ID {
		displaced = append(displaced, old)
	}
	if o.upstreams == nil {
		o.upstreams = map[string]UpstreamSession{}
	}
	o.upstreams[s.App] = s
	return displaced, nil
}

func (m *memory) RemoveUpstream(_ context.Context, owner, app, id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if o := m.peek(owner); o != nil && o.upstreams[app].ID == id {
		delete(o.upstreams, app)
	}
	return nil
}

func (m *memory) Remember(_ context.Context, owner, key, value string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	o := m.use(owner)
	if o == nil {
		return nil
	}
	_, known := o.facts[key]
	switch {
	case value == "":
		delete(o.facts, key)
	case known || len(o.facts) < maxFacts:
		if o.facts == nil {
			o.facts = map[string]string{}
		}
		o.facts[key] = value
	}
	return nil
}

func (m *memory) Facts(_ context.Context, owner string) (map[string]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if o := m.peek(owner); o != nil {
		return maps.Clone(o.facts), nil
	}
	return nil, nil
}

func (m *memory) Once(_ context.Context, owner, mark string) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o := m.use(owner)
	if o == nil || o.marks[mark] {
		return false, nil
	}
	if o.marks == nil || len(o.marks) >= maxMarks {
		o.marks = map[string]bool{}
	}
	o.marks[mark] = true
	return true, nil
}

func (m *memory) Publish(_ context.Context, topic string, message []byte) error {
	m.topics.deliver(topic, message)
	return nil
}

func (m *memory) Subscribe(_ context.Context, topic string, receive func([]byte)) (func(), error) {
	return m.topics.join(topic, receive), nil
}

// use returns what is known of owner, which is used now; nil when it has ended.
func (m *memory) use(owner string) *owned {
	m.expire()
	if _, ended := m.ended.get(owner); ended {
		return nil
	}
	o, known := m.live.get(owner)
	if !known {
		o = &owned{}
		m.add(owner, o)
	}
	o.used = m.now()
	return o
}

// peek returns what is known of owner without using it: its place in the order of use stays, which expire relies on.
func (m *memory) peek(owner string) *owned {
	m.expire()
	if e, ok := m.live.byKey[owner]; ok {
		return e.Value.(pair[string, *owned]).value
	}
	return nil
}

func (m *memory) add(owner string, o *owned) {
	o.used = m.now()
	if old, evicted := m.live.put(owner, o); evicted {
		m.lose(old)
	}
}

// expire ends the owners that were idle for too long. They are in order of use, so it stops at the first that was not.
func (m *memory) expire() {
	for {
		owner, o, ok := m.live.oldest()
		if !ok || m.now().Sub(o.used) <= m.timeout {
			return
		}
		m.lost = append(m.lost, m.finish(owner)...)
	}
}

func (m *memory) finish(owner string) []UpstreamSession {
	if !authz.IsPrincipal(owner) {
		m.ended.put(owner, struct{}{})
	}
	o, ok := m.live.remove(owner)
	if !ok {
		return nil
	}
	m.uncount(o)
	return slices.Collect(maps.Values(o.upstreams))
}

func (m *memory) lose(o *owned) {
	m.uncount(o)
	m.lost = append(m.lost, slices.Collect(maps.Values(o.upstreams))...)
}

func (m *memory) uncount(o *owned) {
	if m.count[o.principal]--; m.count[o.principal] <= 0 {
		delete(m.count, o.principal)
	}
}

// topics hands messages to whoever is subscribed in this process.
type topics struct {
	mu     sync.Mutex
	joined map[string]map[*subscription]bool
}

type subscription struct {
	mu      sync.Mutex // one message at a time
	receive func([]byte)
	left    atomic.Bool
}

func (t *topics) join(topic string, receive func([]byte)) (leave func()) {
	s := &subscription{receive: receive}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.joined == nil {
		t.joined = map[string]map[*subscription]bool{}
	}
	if t.joined[topic] == nil {
		t.joined[topic] = map[*subscription]bool{}
	}
	t.joined[topic][s] = true
	return func() {
		s.left.Store(true) // a deliver under way may still have it
		t.mu.Lock()
		defer t.mu.Unlock()
		if delete(t.joined[topic], s); len(t.joined[topic]) == 0 {
			delete(t.joined, topic)
		}
	}
}

func (t *topics) deliver(topic string, message []byte) {
	t.mu.Lock()
	to := slices.Collect(maps.Keys(t.joined[topic]))
	t.mu.Unlock()
	for _, s := range to {
		s.mu.Lock()
		if !s.left.Load() {
			s.receive(message)
		}
		s.mu.Unlock()
	}
}

func (t *topics) has(topic string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.joined[topic]) > 0
}
