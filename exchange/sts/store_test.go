package sts

import (
	"errors"
	"testing"
	"time"
)

func TestStore(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	s := newStore[int](2)
	for key, life := range map[string]time.Duration{"a": time.Second, "b": time.Minute} {
		if err := s.put(key, 1, now, now.Add(life)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.put("c", 1, now, now.Add(time.Minute)); !errors.Is(err, errFull) {
		t.Errorf("a full store: %v", err)
	}
	later := now.Add(time.Second)
	if _, ok := s.get("a", later); ok {
		t.Error("a is still there at its expiry")
	}
	if _, ok := s.update("a", later, later.Add(time.Hour), func(v *int) { *v = 2 }); ok {
		t.Error("an update brought a back")
	}
	if err := s.put("c", 3, later, later.Add(time.Minute)); err != nil {
		t.Errorf("a's place was not free: %v", err)
	}
	before, ok := s.update("b", later, time.Time{}, func(v *int) { *v = 2 })
	after, _ := s.get("b", later)
	if !ok || before != 1 || after != 2 {
		t.Errorf("update from %d to %d", before, after)
	}
	if _, ok := s.get("b", now.Add(time.Minute)); ok {
		t.Error("an update without expiry changed the expiry")
	}
	s.remove("b")
	if _, ok := s.get("b", later); ok {
		t.Error("b was not removed")
	}
}
