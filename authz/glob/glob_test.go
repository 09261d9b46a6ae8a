package glob_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/authz/glob"
)

func TestMatches(t *testing.T) {
	for _, test := range []struct {
		pattern, yes, no string // names, separated by spaces; "-" is the empty one
	}{
		{"get", "get", "- ge gets Get *"},
		{"get*", "get gets get*", "- ge forget Gets"},
		{"*", "- a a/b *", ""},
		{"**", "- a a/b", ""},
		{"*Item", "Item getItem", "- Items getitem"},
		{"get*Item", "getItem getAnItem getItemItem", "get getIte Item getItems"},
		{"a*a", "aa aba aaa", "a ab ba"}, // the two ends are not the same character
		{"ab*bc", "abbc abxbc", "abc"},
		{"*a*b*", "ab xaxbx aabb", "- a b ba"},
		{"a*b*c", "abc a1b2c abbcc", "acb ac bc"},
		{"a*bc*c", "abcc abcxc abbcc", "abc"},
		{"file:///*/b?x=[1]", "file:///a/b?x=[1] file:///a/c/b?x=[1]", "file:///a/bbx=1 file:///a/b?x=1"},
		{"é*", "é éa", "e"},
		{"", "-", "a"},
	} {
		p := glob.Parse(test.pattern)
		for want, names := range map[bool]string{true: test.yes, false: test.no} {
			for _, name := range strings.Fields(names) {
				if name == "-" {
					name = ""
				}
				if p.Matches(name) != want {
					t.Errorf("%q matches %q: %v", test.pattern, name, !want)
				}
			}
		}
	}
}

func TestTie(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want bool
	}{
		{"read*", "read*_a", true},
		{"read*_a", "read*_b", false},
		{"read*_a", "read*b_a", true},
		{"read*x*_a", "read*y*_a", true},
		{"a*b*c", "a*c", true},
		{"*", "**", true},
		{"*", "*a", true},
		{"*a", "*b", false},
		{"read*", "rea*", false}, // the longer one wins
		{"read*", "read", false}, // the name wins
		{"read", "read", false},
		{"read*", "write*", false},
	} {
		a, b := glob.Parse(test.a), glob.Parse(test.b)
		if glob.Tie(a, b) != test.want || glob.Tie(b, a) != test.want {
			t.Errorf("%s and %s: %v", test.a, test.b, !test.want)
		}
		_, err := glob.NewTable(map[string]int{test.a: 1, test.b: 2})
		if errors.Is(err, glob.ErrTie) != test.want {
			t.Errorf("%s and %s: %v", test.a, test.b, err)
		}
	}
}

// Names that are written out win, then the longest beginning.
func TestTable(t *testing.T) {
	table, err := glob.NewTable(map[string]int{
		"get": 1, "get*": 2, "get*Item": 0, "getI*": 3, "*": 4, "file:///a/*": 5, "file:///a/b": 6, "file:///*.md": 7,
	})
	if err == nil { // get* and get*Item
		t.Fatal("a tie is accepted")
	}
	table, err = glob.NewTable(map[string]int{
		"get": 1, "get*s": 2, "get*Item": 8, "getI*": 3, "*": 4, "file:///a/*": 5, "file:///a/b": 6, "file:///*.md": 7,
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int{
		"get": 1, "gets": 2, "getAnItem": 8, "getItem": 3, "getIs": 3, "getter": 4, "": 4,
		"file:///a/c": 5, "file:///a/b": 6, "file:///a/x.md": 5, "file:///b/x.md": 7, "file:///b": 4,
	} {
		if got, ok := table.Find(name); !ok || got != want {
			t.Errorf("%q: %d, %v, want %d", name, got, ok, want)
		}
	}
	if !table.Names("get") || table.Names("gets") || table.Names("*") {
		t.Error("names what is not written out")
	}
	var zero glob.Table[int]
	if _, ok := zero.Find(""); ok || zero.Names("") {
		t.Error("the zero table has something")
	}
	if n := testing.AllocsPerRun(100, func() { table.Find("file:///b/x.md"); table.Find("nothing") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// naive says the same as a matcher, letter by letter.
func naive(pattern, name string) bool {
	switch {
	case pattern == "":
		return name == ""
	case pattern[0] == '*':
		return naive(pattern[1:], name) || name != "" && naive(pattern, name[1:])
	}
	return name != "" && pattern[0] == name[0] && naive(pattern[1:], name[1:])
}

func FuzzMatches(f *testing.F) {
	for _, seed := range [][2]string{{"a*b", "aab"}, {"*a*a*", "aa"}, {"ab*ba", "aba"}, {"**", ""}, {"a*bc*c", "abc"}} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, pattern, name string) {
		if len(pattern) > 12 || len(name) > 16 {
			return
		}
		if got, want := glob.Parse(pattern).Matches(name), naive(pattern, name); got != want {
			t.Errorf("%q matches %q: %v", pattern, name, got)
		}
	})
}

// letters makes a short pattern or name of few letters, in which coincidences are common.
func letters(s, alphabet string) string {
	out := []byte(s[:min(len(s), 5)])
	for i := range out {
		out[i] = alphabet[int(out[i])%len(alphabet)]
	}
	return string(out)
}

// Two patterns that tie match a name in common, and two with the same beginning that do not tie match none. A name in
// common, if there is one, is as short as the two patterns together.
func FuzzTie(f *testing.F) {
	f.Add("\x02a\x00", "\x02b\x01")
	f.Add("a\x02\x00\x02", "a\x02\x01")
	f.Fuzz(func(t *testing.T, one, two string) {
		a, b := letters(one, "ab*"), letters(two, "ab*")
		p, q := glob.Parse(a), glob.Parse(b)
		if p.Exact() || q.Exact() || p.Prefix() != q.Prefix() {
			if glob.Tie(p, q) {
				t.Errorf("%s and %s tie", a, b)
			}
			return
		}
		if want := common(a, b, "", len(a)+len(b)-2); glob.Tie(p, q) != want {
			t.Errorf("%s and %s tie: %v", a, b, !want)
		}
	})
}

// common reports whether both patterns match a name that begins with name and has at most left more letters.
func common(a, b, name string, left int) bool {
	if naive(a, name) && naive(b, name) {
		return true
	}
	return left > 0 && (common(a, b, name+"a", left-1) || common(a, b, name+"b", left-1))
}

// A pattern that makes others try every way is tried once.
func BenchmarkMatches(b *testing.B) {
	p, name := glob.Parse("*a*a*a*a*a*a*a*b"), strings.Repeat("a", 4096)
	for b.Loop() {
		p.Matches(name)
	}
}
