package token

import (
	"crypto/sha256"
	"sync"
	"sync/atomic"
	"time"
)

const (
	cacheTTL    = 60 * time.Second
	cacheShards = 16
	evictSample = 8
)

// cache remembers tokens that have been verified. The whole compact token is the key, so two spellings of one token
// share nothing; refusals are never remembered.
type cache struct {
	perShard int           // 0: remember nothing
	round    atomic.Uint64 // counts the calls of drop
	shards   [cacheShards]shard
}

type shard struct {
	mu sync.RWMutex
	m  map[[sha256.Size]byte]*entry
}

// entry is a verified token and what its verification rests on.
type entry struct {
	identity *Identity
	issuer   *issuer
	set      *keySet // nil when it rests on the issuer's word alone
	stored   time.Time
	until    time.Time // exp plus the skew; of an introspected token what comes first, exp or the end of the answer's life
}

func newCache(size int) *cache {
	c := &cache{}
	if size > 0 {
		c.perShard = max(1, size/cacheShards)
	}
	for i := range c.shards {
		c.shards[i].m = map[[sha256.Size]byte]*entry{}
	}
	return c
}

// digest hashes a token of usual size without leaving the stack.
func digest(raw string) [sha256.Size]byte {
	var buf [2048]byte
	return sha256.Sum256(append(buf[:0], raw...))
}

// valid reports whether verifying the token again would succeed: in time, and under keys that the issuer still has.
func (e *entry) valid(now time.Time) bool {
	if age := now.Sub(e.stored); age < 0 || age >= cacheTTL || !now.Before(e.until) {
		return false
	}
	if e.set == nil {
		return true
	}
	snap := e.issuer.keys.Load()
	return snap.set == e.set && !e.issuer.stale(snap, now)
}

func (c *cache) shard(sum [sha256.Size]byte) *shard { return &c.shards[sum[0]%cacheShards] }

func (c *cache) get(sum [sha256.Size]byte, now time.Time) *Identity {
	s := c.shard(sum)
	s.mu.RLock()
	e := s.m[sum]
	s.mu.RUnlock()
	if e == nil || !e.valid(now) {
		return nil
	}
	return e.identity
}

// put remembers what has been verified since round, unless entries have been dropped in between: this might have been
// one of them.
func (c *cache) put(sum [sha256.Size]byte, e *entry, now time.Time, round uint64) {
	if c.perShard == 0 || !e.valid(now) {
		return
	}
	s := c.shard(sum)
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.round.Load() != round {
		return
	}
	if _, ok := s.m[sum]; !ok && len(s.m) >= c.perShard {
		s.evict(now)
	}
	s.m[sum] = e
}

// drop forgets the identities that match, and reports how many were remembered.
func (c *cache) drop(match func(*Identity) bool) int {
	c.round.Add(1)
	n := 0
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		for sum, e := range s.m {
			if match(e.identity) {
				delete(s.m, sum)
				n++
			}
		}
		s.mu.Unlock()
	}
	return n
}

// evict makes room by dropping the dead among a few entries, or one that lives. Go's map order makes the choice
// random, which no caller can steer. mu is held.
func (s *shard) evict(now time.Time) {
	var victim [sha256.Size]byte
	seen, dropped := 0, false
	for sum, e := range s.m {
		if !e.valid(now) {
			delete(s.m, sum)
			dropped = true
		}
		victim = sum
		if seen++; seen == evictSample {
			break
		}
	}
	if !dropped {
		delete(s.m, victim)
	}
}

// sweep drops what is no longer valid, so that a burst of tokens does not hold memory for ever.
func (c *cache) sweep(now time.Time) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		for sum, e := range s.m {
			if !e.valid(now) {
				delete(s.m, sum)
			}
		}
		s.mu.Unlock()
	}
}
