package dpop

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"
)

func TestMemoryIsBounded(t *testing.T) {
	at := now
	m := NewMemory(64, func() time.Time { return at })
	use := func(key, jti string) (bool, error) { return m.Use(t.Context(), key, jti, at.Add(time.Minute)) }
	for i := range 4 {
		if first, err := use("greedy", fmt.Sprint(i)); !first || err != nil {
			t.Fatal(i, first, err)
		}
	}
	if _, err := use("greedy", "5"); !errors.Is(err, errKeyFull) {
		t.Errorf("one key fills more than its share: %v", err)
	}
	if first, err := use("greedy", "0"); first || err != nil {
		t.Errorf("a full share hides a replay: %v, %v", first, err)
	}
	for i := range 60 {
		if first, err := use(fmt.Sprint("key", i), "0"); !first || err != nil {
			t.Fatal(i, first, err)
		}
	}
	if _, err := use("late", "0"); !errors.Is(err, errFull) {
		t.Errorf("a full memory takes more: %v", err)
	}
	if m.held != 64 {
		t.Errorf("%d held", m.held)
	}
	at = at.Add(time.Minute)
	if first, _ := use("key1", "0"); first {
		t.Error("forgotten too early")
	}
	at = at.Add(slotLength + time.Second)
	if first, err := use("late", "0"); !first || err != nil || m.held != 1 || len(m.slots) != 1 {
		t.Errorf("%v, %v: %d held in %d slots", first, err, m.held, len(m.slots))
	}
}

// Keys and identifiers that run into each other are not the same.
func TestMemoryKeepsKeysApart(t *testing.T) {
	m := NewMemory(100, clock)
	for _, use := range [][2]string{{"a", "b"}, {"a", "b "}, {"b", "b"}, {"a", ""}} {
		if first, err := m.Use(t.Context(), use[0], use[1], now); !first || err != nil {
			t.Errorf("%q: %v, %v", use, first, err)
		}
	}
}

func BenchmarkMemory(b *testing.B) {
	at := now
	m := NewMemory(DefaultMemory, func() time.Time { return at })
	i := 0
	for b.Loop() {
		if i++; i%2000 == 0 {
			at = at.Add(time.Second)
		}
		if first, err := m.Use(context.Background(), fmt.Sprint(i%1000), fmt.Sprint(i), at.Add(time.Minute)); !first || err != nil {
			b.Fatal(first, err)
		}
	}
}
