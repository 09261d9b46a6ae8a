package authz

import (
	"fmt"
	"time"

	"github.com/sallyport/sallyport/authz/glob"
)

// Rules say by pattern (see package glob) what a token may do. The zero Rules name nothing.
type Rules struct{ table glob.Table[TokenRule] }

// NewRules makes rules of patterns.
func NewRules(patterns map[string]TokenRule) (Rules, error) {
	table, err := glob.NewTable(patterns)
	if err != nil {
		return Rules{}, fmt.Errorf("authz: %w", err)
	}
	return Rules{table}, nil
}

// Find returns the rule for name.
func (r Rules) Find(name string) (TokenRule, bool) { return r.table.Find(name) }

// Names reports whether a rule names name itself: the set of such names is as finite as the configuration.
func (r Rules) Names(name string) bool { return r.table.Names(name) }

// Timeouts bound calls. The zero value of a duration is no bound.
type Timeouts struct {
	Default time.Duration
	Tools   glob.Table[time.Duration]
}

// Of returns the bound for a tool, else the default.
func (t Timeouts) Of(tool string) time.Duration {
	if d, ok := t.Tools.Find(tool); ok {
		return d
	}
	return t.Default
}
