package dpop

import (
	"context"
	"crypto/sha256"
	"errors"
	"sync"
	"time"
)

// Replays remembers which proofs have been used (RFC 9449 §11.1). Replicas that share one refuse each other's replays;
// "SET key 1 NX PX remaining" is all that a store has to do.
type Replays interface {
	// Use marks jti as used by the key with the thumbprint, until the time given at least, and reports whether this was
	// the first use. Of concurrent calls one is first. An error means that this cannot be told, and the proof is
	// refused. jti is a stranger's text of at most 256 bytes: a store hashes it into its keys.
	Use(ctx context.Context, thumbprint, jti string, until time.Time) (first bool, err error)
}

// DefaultMemory is how many proofs a Memory holds by default: more than 2,000 requests a second within the default
// window, in about 20 MB.
const DefaultMemory = 1 << 18

// keyShare is the part of a Memory that one key can fill.
const keyShare = 16

// Memory is the Replays of one process. When it is full, or one key's share of it is, new proofs are refused: forgetting
// one early would let it be replayed. It holds no proof for much longer than its time.
type Memory struct {
	most int
	now  func() time.Time

	mu    sync.Mutex
	held  int
	slots map[int64]*slot // by the time at which all in it have expired, in units of slotLength
}

// slot holds the proofs that expire at about the same time, so that they are dropped as one.
type slot struct {
	used   map[[sha256.Size]byte]struct{}
	byKey  map[string]int // how many of each thumbprint
	expiry time.Time
}

const slotLength = 30 * time.Second

// NewMemory makes a Memory of at most this many proofs, a sixteenth of them from any one key.
func NewMemory(most int, now func() time.Time) *Memory {
	return &Memory{most: most, now: now, slots: map[int64]*slot{}}
}

var (
	errFull    = errors.New("too many proofs at once")
	errKeyFull = errors.New("too many proofs by one key at once")
)

// Use implements Replays.
func (m *Memory) Use(_ context.Context, thumbprint, jti string, until time.Time) (bool, error) {
	sum := sha256.Sum256([]byte(thumbprint + " " + jti)) // a thumbprint has no space
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expire()
	ofKey := 0
	for _, s := range m.slots {
		if _, ok := s.used[sum]; ok {
			return false, nil
		}
		ofKey += s.byKey[thumbprint]
	}
	switch {
	case m.held >= m.most:
		return false, errFull
	case ofKey >= max(1, m.most/keyShare):
		return false, errKeyFull
	}
	s := m.slot(until)
	s.used[sum] = struct{}{}
	s.byKey[thumbprint]++
	m.held++
	return true, nil
}

// slot returns the slot that expires at the next full slotLength after until. mu is held.
func (m *Memory) slot(until time.Time) *slot {
	end := until.Truncate(slotLength).Add(slotLength)
	s := m.slots[end.Unix()]
	if s == nil {
		s = &slot{used: map[[sha256.Size]byte]struct{}{}, byKey: map[string]int{}, expiry: end}
		m.slots[end.Unix()] = s
	}
	return s
}

// expire drops the slots whose time has passed. mu is held.
func (m *Memory) expire() {
	now := m.now()
	for at, s := range m.slots {
		if s.expiry.Before(now) {
			m.held -= len(s.used)
			delete(m.slots, at)
		}
	}
}
