// Package glob finds what a configuration says about a name.
//
// In a pattern `*` stands for any run of characters, the empty one and one with "/" in it included. Everything else, `?`
// and `[` too, stands for itself: names and URIs contain such characters, and there is no way to write a literal `*`.
//
// A name that is written out wins over every pattern; among patterns the one wins that has more characters before its
// first `*`. Two patterns between which that leaves a choice are an error ([Tie]).
//
// Matching takes time linear in the pattern and the name, and allocates nothing.
package glob

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Pattern is a parsed pattern. The zero Pattern matches the empty name only.
type Pattern struct {
	prefix string   // what names begin with; all of the name when it is exact
	middle []string // what follows, in order, with anything in between
	suffix string   // what names end with
	open   bool     // there is a `*`
}

// Parse reads a pattern. Every text is one.
func Parse(s string) Pattern {
	parts := strings.Split(s, "*")
	last := len(parts) - 1
	if last == 0 {
		return Pattern{prefix: s}
	}
	p := Pattern{prefix: parts[0], suffix: parts[last], open: true}
	for _, part := range parts[1:last] {
		if part != "" { // of `**`, which says no more than `*`
			p.middle = append(p.middle, part)
		}
	}
	return p
}

// Exact reports whether p is a name that is written out.
func (p Pattern) Exact() bool { return !p.open }

// Prefix is what stands before the first `*`.
func (p Pattern) Prefix() string { return p.prefix }

// Matches reports whether name is one of p's.
func (p Pattern) Matches(name string) bool {
	if !p.open {
		return name == p.prefix
	}
	rest, ok := strings.CutPrefix(name, p.prefix)
	if !ok {
		return false
	}
	if rest, ok = strings.CutSuffix(rest, p.suffix); !ok {
		return false
	}
	for _, part := range p.middle {
		// The first place will do: it leaves the most for what follows.
		if _, rest, ok = strings.Cut(rest, part); !ok {
			return false
		}
	}
	return true
}

// Tie reports whether some name is matched by both a and b, and neither wins: both have a `*`, and the same before it. In
// the middle there is room for everything that either asks for, so only their ends can keep them apart.
func Tie(a, b Pattern) bool {
	return a.open && b.open && a.prefix == b.prefix &&
		(strings.HasSuffix(a.suffix, b.suffix) || strings.HasSuffix(b.suffix, a.suffix))
}

// ErrTie is that of a Table in which two patterns tie.
var ErrTie = errors.New("glob: patterns match the same names, and neither wins")

// Table holds values by pattern. The zero Table is empty. It is safe for concurrent use.
type Table[T any] struct {
	exact map[string]T
	open  []entry[T] // the longest prefix first
}

type entry[T any] struct {
	Pattern
	value T
}

// NewTable makes a Table of values by pattern, or fails with ErrTie.
func NewTable[T any](values map[string]T) (Table[T], error) {
	t := Table[T]{exact: map[string]T{}}
	for _, s := range slices.Sorted(maps.Keys(values)) {
		p := Parse(s)
		if p.Exact() {
			t.exact[s] = values[s]
			continue
		}
		for _, other := range t.open {
			if Tie(p, other.Pattern) {
				return Table[T]{}, fmt.Errorf("%w: %q is one of them", ErrTie, s)
			}
		}
		t.open = append(t.open, entry[T]{p, values[s]})
	}
	slices.SortStableFunc(t.open, func(a, b entry[T]) int { return cmp.Compare(len(b.prefix), len(a.prefix)) })
	return t, nil
}

// Find returns the value for name.
func (t *Table[T]) Find(name string) (T, bool) {
	if v, ok := t.exact[name]; ok {
		return v, true
	}
	for i := range t.open {
		if t.open[i].Matches(name) {
			return t.open[i].value, true
		}
	}
	var none T
	return none, false
}

// Names reports whether name itself is written out.
func (t *Table[T]) Names(name string) bool {
	_, ok := t.exact[name]
	return ok
}
