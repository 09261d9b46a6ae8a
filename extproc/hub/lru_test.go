package hub

import "testing"

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
