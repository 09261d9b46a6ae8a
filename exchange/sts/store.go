package sts

import (
	"errors"
	"sync"
	"time"
)

var errFull = errors.New("too many")

// store is a map of bounded size whose entries expire.
type store[V any] struct {
	mu      sync.Mutex
	max     int
	entries map[string]entry[V]
}

type entry[V any] struct {
	value V
	until time.Time
}

func newStore[V any](most int) *store[V] {
	return &store[V]{max: most, entries: map[string]entry[V]{}}
}

// put adds a value. When the store is full of live entries it fails: those that
// are in it were promised to somebody.
func (s *store[V]) put(key string, v V, now, until time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.entries) >= s.max {
		for k, e := range s.entries {
			if !now.Before(e.until) {
				delete(s.entries, k)
			}
		}
	}
	if len(s.entries) >= s.max {
		return errFull
	}
	s.entries[key] = entry[V]{v, until}
	return nil
}

func (s *store[V]) get(key string, now time.Time) (V, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.entries[key]
	if !ok || !now.Before(e.until) {
		var none V
		return none, false
	}
	return e.value, true
}

// update changes a live entry in one step and returns the value before it. A
// zero until leaves its expiry as it was.
func (s *store[V]) update(key string, now, until time.Time, change func(*V)) (V, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.entries[key]
	if !ok || !now.Before(e.until) {
		var none V
		return none, false
	}
	before := e.value
	change(&e.value)
	if !until.IsZero() {
		e.until = until
	}
	s.entries[key] = e
	return before, true
}

func (s *store[V]) remove(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.entries, key)
}
