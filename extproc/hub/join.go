package hub

import (
	"crypto/sha256"
	"slices"
	"sync"
)

// joins remembers merged lists, ready to be sent. Callers who see the same share the bytes.
type joins struct {
	mu    sync.Mutex
	known *lru[joinKey, *join]
}

// joinKey is what a caller sees: of each item of all apps' lists whether it is visible, a bit each.
type joinKey struct {
	kind    kind
	visible string
}

// join is one merged list, made of cats and of nothing else but its key. It is immutable.
type join struct {
	cats  []*catalogue
	items []byte            // a JSON array
	shown []int             // how many items are of each of cats
	sum   [sha256.Size]byte // of items
}

// What is remembered: a few views, and none that is very large, so that it is 64 MiB at the most.
const (
	maxJoins    = 64
	maxJoinSize = 1 << 20
)

func newJoins() joins { return joins{known: newLRU[joinKey, *join](maxJoins)} }

// of returns what is visible of the lists of kind k in cats, one of each app. visible is of all their items, in order.
func (j *joins) of(k kind, cats []*catalogue, visible []bool) *join {
	key := joinKey{k, pack(visible)}
	j.mu.Lock()
	known, ok := j.known.get(key)
	j.mu.Unlock()
	if ok && slices.Equal(known.cats, cats) { // catalogues do not change, they are replaced
		return known
	}
	made := joined(k, cats, visible)
	if len(made.items) <= maxJoinSize {
		j.mu.Lock()
		j.known.put(key, made)
		j.mu.Unlock()
	}
	return made
}

func joined(k kind, cats []*catalogue, visible []bool) *join {
	claims, size := map[string]int{}, len("[]")
	for _, cat := range cats {
		for _, i := range cat.items(k) {
			claims[i.listed]++
			size += len(i.raw) + 1
		}
	}
	out := &join{cats: cats, items: append(make([]byte, 0, size), '['), shown: make([]int, len(cats))}
	for n, cat := range cats {
		items := cat.items(k)
		for at, i := range items {
			// What two apps claim is nobody's: neither listed nor to be had.
			if claims[i.listed] > 1 || !visible[at] {
				continue
			}
			if len(out.items) > 1 {
				out.items = append(out.items, ',')
			}
			out.items = append(out.items, i.raw...)
			out.shown[n]++
		}
		visible = visible[len(items):]
	}
	out.items = append(out.items, ']')
	out.sum = sha256.Sum256(out.items)
	return out
}

// pack is a bit for each bool, and so many as there are.
func pack(all []bool) string {
	b := make([]byte, len(all)/8+1)
	for i, is := range all {
		if is {
			b[i/8] |= 1 << (i % 8)
		}
	}
	b[len(all)/8] |= 1 << (len(all) % 8) // an end, so that none is another with more at the end
	return string(b)
}
