package authz

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Rules say, by name or by the beginning of a name, what a token may do. The zero Rules name nothing.
type Rules struct {
	exact    map[string]TokenRule
	prefixes []prefixRule // longest first
}

type prefixRule struct {
	prefix string
	rule   TokenRule
}

// NewRules makes rules of patterns: a name, or the beginning of names followed by "*".
func NewRules(patterns map[string]TokenRule) (Rules, error) {
	r := Rules{exact: map[string]TokenRule{}}
	for pattern, rule := range patterns {
		prefix, open := strings.CutSuffix(pattern, "*")
		if strings.Contains(prefix, "*") {
			return Rules{}, fmt.Errorf("authz: pattern %q: * may stand at the end only", pattern)
		}
		if open {
			r.prefixes = append(r.prefixes, prefixRule{prefix, rule})
		} else {
			r.exact[pattern] = rule
		}
	}
	slices.SortFunc(r.prefixes, func(a, b prefixRule) int { return cmp.Compare(len(b.prefix), len(a.prefix)) })
	return r, nil
}

// Find returns the rule for name: its own, else that of the longest beginning.
func (r Rules) Find(name string) (TokenRule, bool) {
	if rule, ok := r.exact[name]; ok {
		return rule, true
	}
	for _, p := range r.prefixes {
		if strings.HasPrefix(name, p.prefix) {
			return p.rule, true
		}
	}
	return TokenRule{}, false
}

// Names reports whether a rule names name itself: the set of such names is as finite as the configuration.
func (r Rules) Names(name string) bool {
	_, ok := r.exact[name]
	return ok
}

// Timeouts bound calls. The zero value of a duration is no bound.
type Timeouts struct {
	Default time.Duration
	Tools   map[string]time.Duration // by name, or by the beginning of names followed by "*"
}

// Of returns the bound for a tool: its own, else that of the longest beginning, else the default.
func (t Timeouts) Of(tool string) time.Duration {
	if d, ok := t.Tools[tool]; ok {
		return d
	}
	best, longest := t.Default, -1
	for pattern, d := range t.Tools {
		prefix, open := strings.CutSuffix(pattern, "*")
		if open && strings.HasPrefix(tool, prefix) && len(prefix) > longest {
			best, longest = d, len(prefix)
		}
	}
	return best
}
