package hub

import "testing"

// A merged list is made once for all who see the same, and again when a catalogue has been replaced.
func TestJoins(t *testing.T) {
	catalogueOf := func(names ...string) *catalogue {
		c := &catalogue{}
		for _, name := range names {
			c.lists[tools] = append(c.lists[tools], item{listed: name, raw: []byte(`"` + name + `"`)})
		}
		return c
	}
	one, two := catalogueOf("a", "b"), catalogueOf("c", "b")
	j := newJoins()
	for _, step := range []struct {
		cats    []*catalogue
		visible []bool
		want    string
		shown   int // of the first
	}{
		{[]*catalogue{one, nil}, []bool{true, true}, `["a","b"]`, 2},
		{[]*catalogue{one, nil}, []bool{true, false}, `["a"]`, 1},
		{[]*catalogue{one, two}, []bool{true, true, true, true}, `["a","c"]`, 1}, // b is claimed twice
		{[]*catalogue{one, two}, []bool{false, true, true, true}, `["c"]`, 0},
		{[]*catalogue{two, one}, []bool{false, true, true, true}, `["a"]`, 0}, // the same view of others
		{[]*catalogue{nil, nil}, nil, `[]`, 0},
	} {
		for range 2 {
			got := j.of(tools, step.cats, step.visible)
			if string(got.items) != step.want || got.shown[0] != step.shown {
				t.Errorf("%v: %s, %v", step.visible, got.items, got.shown)
			}
		}
		if first, again := j.of(tools, step.cats, step.visible), j.of(tools, step.cats, step.visible); first != again {
			t.Errorf("%v: made twice", step.visible)
		}
	}
	if pack([]bool{true}) == pack([]bool{true, false}) || pack(nil) == pack(make([]bool, 8)) {
		t.Error("views of different length are one")
	}
}
