package token

import (
	"crypto/sha256"
	"sync"
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
	perShard int // 0: remember nothing
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
	set      *keySet
	stored   time.Time
	until    time.Time // exp plus the skew
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
	age := now.Sub(e.stored)
	snap := e.issuer.keys.Load()
	return age >= 0 && age < cacheTTL && now.Before(e.until) && snap.set == e.set && !e.issuer.stale(snap, now)
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

func (c *cache) put(sum [sha256.Size]byte, e *entry, now time.Time) {
	if c.perShard == 0 {
		return
	}
	s := c.shard(sum)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.m[sum]; !ok && len(s.m) >= c.perShard {
		s.evict(now)
	}
	s.m[sum] = e
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
