package hub

import "container/list"

// lru is a bounded map that forgets what was used longest ago. It is not safe for concurrent use.
type lru[K comparable, V any] struct {
	max   int
	byKey map[K]*list.Element
	order *list.List // of pair[K, V], most recently used first
}

type pair[K comparable, V any] struct {
	key   K
	value V
}

func newLRU[K comparable, V any](max int) *lru[K, V] {
	return &lru[K, V]{max: max, byKey: map[K]*list.Element{}, order: list.New()}
}

// get returns the value of k and marks it as just used.
func (l *lru[K, V]) get(k K) (v V, ok bool) {
	e, ok := l.byKey[k]
	if !ok {
		return v, false
	}
	l.order.MoveToFront(e)
	return e.Value.(pair[K, V]).value, true
}

// put sets the value of k and marks it as just used. When that is one entry too many, the oldest makes room and is
// returned.
func (l *lru[K, V]) put(k K, v V) (evicted V, ok bool) {
	if e, found := l.byKey[k]; found {
		e.Value = pair[K, V]{k, v}
		l.order.MoveToFront(e)
		return evicted, false
	}
	l.byKey[k] = l.order.PushFront(pair[K, V]{k, v})
	if l.order.Len() <= l.max {
		return evicted, false
	}
	oldest, evicted, ok := l.oldest()
	l.remove(oldest)
	return evicted, ok
}

// remove forgets k and returns what it was.
func (l *lru[K, V]) remove(k K) (v V, ok bool) {
	e, ok := l.byKey[k]
	if !ok {
		return v, false
	}
	delete(l.byKey, k)
	return l.order.Remove(e).(pair[K, V]).value, true
}

// oldest returns the entry used longest ago, without marking it.
func (l *lru[K, V]) oldest() (k K, v V, ok bool) {
	e := l.order.Back()
	if e == nil {
		return k, v, false
	}
	p := e.Value.(pair[K, V])
	return p.key, p.value, true
}
