package config

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
)

// Problem is one thing that is wrong with a file, with the cure in its message.
type Problem struct {
	File      string
	Line, Col int // 1-based; 0 when the problem has no place in the file
	Message   string
	Warning   bool // the file can be used nevertheless
}

// String returns file:line:col: message, without the parts that are unknown.
func (p Problem) String() string {
	where := p.File
	if p.Line > 0 {
		where += ":" + strconv.Itoa(p.Line)
		if p.Col > 0 {
			where += ":" + strconv.Itoa(p.Col)
		}
	}
	if p.Warning {
		return where + ": warning: " + p.Message
	}
	return where + ": " + p.Message
}

// Failed reports whether any problem forbids the use of the file.
func Failed(problems []Problem) bool {
	return slices.ContainsFunc(problems, func(p Problem) bool { return !p.Warning })
}

// sorted orders problems by place and drops repetitions, which arise where an
// alias is read at several places.
func sorted(problems []Problem) []Problem {
	slices.SortFunc(problems, func(a, b Problem) int {
		return cmp.Or(
			cmp.Compare(a.File, b.File),
			cmp.Compare(a.Line, b.Line),
			cmp.Compare(a.Col, b.Col),
			cmp.Compare(a.Message, b.Message),
		)
	})
	return slices.Compact(problems)
}

// quote shows a value as it is written in the file, bounded.
func quote(written string) string {
	const limit = 100
	if runes := []rune(written); len(runes) > limit {
		return fmt.Sprintf("%q…", string(runes[:limit]))
	}
	return strconv.Quote(written)
}
