package hub

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestLRU(t *testing.T) {
	l := newLRU[string, int](2)
	put := func(k string, v int, wantEvicted int, want bool) {
		t.Helper()
		if got, ok := l.put(k, v); got != wantEvicted || ok != want {
			t.Errorf("put %s: evicted %d %v, want %d %v", k, got, ok, wantEvicted, want)
		}
	}
	put("a", 1, 0, false)
	put("b", 2, 0, false)
	put("a", 3, 0, false) // replaces, and is used
	put("c", 4, 2, true)  // so b is the oldest
	if v, ok := l.get("a"); v != 3 || !ok {
		t.Errorf("a is %d %v", v, ok)
	}
	if k, v, ok := l.oldest(); k != "c" || v != 4 || !ok {
		t.Errorf("oldest is %s %d %v", k, v, ok)
	}
	put("d", 5, 4, true)
	if v, ok := l.remove("a"); v != 3 || !ok {
		t.Errorf("removed %d %v", v, ok)
	}
	for _, gone := range []string{"a", "b", "c"} {
		if _, ok := l.get(gone); ok {
			t.Errorf("%s is still there", gone)
		}
		if _, ok := l.remove(gone); ok {
			t.Errorf("%s was there to remove", gone)
		}
	}
	l.remove("d")
	if _, _, ok := l.oldest(); ok || l.order.Len() != 0 || len(l.byKey) != 0 {
		t.Error("not empty")
	}
}

func TestAgentSessions(t *testing.T) {
	now := time.Unix(0, 0)
	s := newAgentSessions(time.Minute)
	if !s.begin("a", "alice", now) || !s.begin("b", "alice", now) {
		t.Fatal("not begun")
	}
	s.end("b")
	s.end("never seen")
	if s.touch("b", now) || s.touch("never seen", now) {
		t.Error("an ended session was used")
	}
	if !s.touch("from before a restart", now) {
		t.Error("an unknown session was refused")
	}
	now = now.Add(time.Minute)
	if !s.touch("a", now) {
		t.Error("ended within the timeout")
	}
	now = now.Add(time.Second)
	if s.touch("from before a restart", now) {
		t.Error("used beyond the timeout")
	}
	if diff := cmp.Diff(map[string]int{"alice": 1}, s.count); diff != "" {
		t.Error(diff)
	}
	now = now.Add(time.Hour)
	s.touch("x", now)
	if len(s.count) != 0 {
		t.Errorf("counted %v after all have expired", s.count)
	}
}

// Memory is bounded whatever is asked, and a session that was evicted is forgotten, not ended.
func TestAgentSessionsAreBounded(t *testing.T) {
	now := time.Unix(0, 0)
	s := newAgentSessions(time.Hour)
	s.live, s.ended = newLRU[string, agentSession](3), newLRU[string, struct{}](3)
	for i := range 100 {
		s.begin(fmt.Sprint("live", i), fmt.Sprint("principal", i), now)
		s.end(fmt.Sprint("ended", i))
	}
	if len(s.live.byKey) != 3 || len(s.ended.byKey) != 3 || len(s.count) != 3 {
		t.Errorf("%d live, %d ended, %d counted", len(s.live.byKey), len(s.ended.byKey), len(s.count))
	}
	if !s.touch("live0", now) {
		t.Error("an evicted session has ended")
	}
}

func TestUpstreamSessions(t *testing.T) {
	now := time.Unix(0, 0)
	s := newUpstreamSessions(time.Minute)
	s.open.max = 2
	session := func(id string) upstreamSession { return upstreamSession{id: id, used: now} }
	displaced := func(want ...string) func([]upstreamSession) {
		return func(got []upstreamSession) {
			t.Helper()
			var ids []string
			for _, u := range got {
				ids = append(ids, u.id)
			}
			if diff := cmp.Diff(want, ids); diff != "" {
				t.Error(diff)
			}
		}
	}
	displaced()(s.put(sessionKey{"alice", "a"}, session("1")))
	displaced()(s.put(sessionKey{"bob", "a"}, session("2")))
	displaced("1")(s.put(sessionKey{"alice", "a"}, session("3")))
	displaced("2")(s.put(sessionKey{"alice", "b"}, session("4")))
	if _, ok := s.get(sessionKey{"bob", "a"}, now); ok {
		t.Error("evicted, and still there")
	}
	now = now.Add(time.Minute)
	if u, ok := s.get(sessionKey{"alice", "a"}, now); u.id != "3" || !ok {
		t.Errorf("%+v %v", u, ok)
	}
	now = now.Add(time.Second)
	if _, ok := s.get(sessionKey{"alice", "b"}, now); ok {
		t.Error("used beyond the timeout")
	}
}
