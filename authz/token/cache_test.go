package token

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func (c *cache) len() int {
	n := 0
	for i := range c.shards {
		c.shards[i].mu.Lock()
		n += len(c.shards[i].m)
		c.shards[i].mu.Unlock()
	}
	return n
}

func TestCacheHitIsTheSameIdentity(t *testing.T) {
	bubble(t, func(t *testing.T, v *Verifier) {
		raw := tokenWith(nil, nil)
		first := accepted(t, v, raw)
		if accepted(t, v, raw) != first {
			t.Error("verified twice")
		}
		advance(cacheTTL - time.Second)
		if accepted(t, v, raw) != first {
			t.Error("forgotten too early")
		}
		advance(time.Second)
		if accepted(t, v, raw) == first {
			t.Error("remembered for too long")
		}
		if tampered := raw[:len(raw)-2] + "AA"; tampered != raw {
			refused(t, v, tampered, ErrSignature)
		}
	})
}

func TestCacheEndsWithTheToken(t *testing.T) {
	bubble(t, func(t *testing.T, v *Verifier) {
		raw := tokenWith(nil, jsonObject{"exp": time.Now().Add(10 * time.Second).Unix()})
		accepted(t, v, raw)
		advance(24 * time.Second)
		accepted(t, v, raw)
		advance(time.Second)
		refused(t, v, raw, ErrExpired)
	})
}

func TestCacheSurvivesUnchangedKeys(t *testing.T) { // and F-050: not changed ones
	synctest.Test(t, func(t *testing.T) {
		as := newAuthority(issuerA, toJWK("k1", ecKey()))
		v := start(t, configFor(as))
		raw := tokenWith(nil, nil)
		first := accepted(t, v, raw)
		refused(t, v, withKid("unknown"), ErrKey)
		if as.fetches.Load() != 2 || accepted(t, v, raw) != first {
			t.Error("the same keys ended what they had verified")
		}
		as.publish(toJWK("k1", otherEC()))
		advance(demandInterval)
		refused(t, v, withKid("unknown"), ErrKey)
		refused(t, v, raw, ErrSignature)
	})
}

func TestCacheKeepsOnlySuccesses(t *testing.T) {
	bubble(t, func(t *testing.T, v *Verifier) {
		raw := tokenWith(nil, jsonObject{"nbf": time.Now().Add(20 * time.Second).Unix()})
		refused(t, v, raw, ErrNotYetValid)
		if v.cache.len() != 0 {
			t.Error("a refusal is remembered")
		}
		advance(10 * time.Second)
		accepted(t, v, raw)
	})
}

func TestCacheIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := configFor(newAuthority(issuerA, toJWK("k1", ecKey())))
		cfg.CacheSize = 32
		v := start(t, cfg)
		for i := range 300 {
			accepted(t, v, tokenWith(nil, jsonObject{"sub": fmt.Sprint("user", i)}))
		}
		if n := v.cache.len(); n > 32 || n < 16 {
			t.Errorf("%d entries of 32", n)
		}
		last := tokenWith(nil, jsonObject{"sub": "last"})
		if first := accepted(t, v, last); first != accepted(t, v, last) {
			t.Error("a full cache takes nothing new")
		}
		advance(cacheTTL + sweepInterval)
		if n := v.cache.len(); n != 0 {
			t.Errorf("%d dead entries kept", n)
		}
	})
}

func TestCacheOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := configFor(newAuthority(issuerA, toJWK("k1", ecKey())))
		cfg.CacheSize = -1
		v := start(t, cfg)
		raw := tokenWith(nil, nil)
		if first := accepted(t, v, raw); first == accepted(t, v, raw) {
			t.Error("remembered")
		}
	})
}

// F-049: a clock that steps back or ahead revives nothing.
func TestClockSteps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var step time.Duration
		stepTo := func(d time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			step = d
		}
		cfg := configFor(newAuthority(issuerA, toJWK("k1", ecKey())))
		cfg.Now = func() time.Time {
			mu.Lock()
			defer mu.Unlock()
			return time.Now().Add(step)
		}
		v := start(t, cfg)
		raw := tokenWith(nil, jsonObject{"exp": time.Now().Add(5 * time.Minute).Unix()})
		first := accepted(t, v, raw)
		stepTo(10 * time.Minute)
		refused(t, v, raw, ErrExpired)
		stepTo(-10 * time.Minute)
		refused(t, v, raw, ErrNotYetValid)
		stepTo(0)
		if accepted(t, v, raw) != first {
			t.Error("the cache did not survive the clock's return")
		}
	})
}

func TestConcurrentUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAuthority(issuerA, toJWK("k1", ecKey()))
		cfg := configFor(as)
		cfg.CacheSize = cacheShards
		v := start(t, cfg)
		var tokens [8]string
		for i := range tokens {
			tokens[i] = tokenWith(nil, jsonObject{"sub": fmt.Sprint(i)})
		}
		var callers sync.WaitGroup
		for w := range 8 {
			callers.Go(func() {
				for i := range 50 {
					n := (w + i) % len(tokens)
					if id, err := v.Verify(t.Context(), tokens[n]); err != nil || id.Subject != fmt.Sprint(n) {
						t.Errorf("token %d: %v, %v", n, id, err)
					}
					v.Stats()
				}
			})
		}
		for range 20 {
			as.publish(toJWK("k1", ecKey()), toJWK("k2", ecKey()))
			advance(time.Minute)
		}
		callers.Wait()
	})
}

func TestEvictionPrefersTheDead(t *testing.T) {
	v := fuzzVerifier()
	is := v.issuers[0]
	then := fuzzNow.Add(-time.Second)
	live := &entry{identity: &Identity{}, issuer: is, set: is.keys.Load().set, stored: then, until: fuzzNow.Add(time.Hour)}
	dead := &entry{identity: &Identity{}, issuer: is, set: live.set, stored: then, until: fuzzNow}
	c := newCache(4 * cacheShards)
	sum := func(i byte) (s [32]byte) { s[1] = i; return s } // one shard
	for i := range byte(4) {
		e := dead
		if i == 2 {
			e = live
		}
		c.put(sum(i), e, then, 0)
	}
	c.put(sum(4), live, fuzzNow, 0)
	if c.get(sum(2), fuzzNow) == nil || c.get(sum(4), fuzzNow) == nil || c.len() != 2 {
		t.Errorf("%d entries left", c.len())
	}
}
