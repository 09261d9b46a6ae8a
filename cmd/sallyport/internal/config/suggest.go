package config

import (
	"slices"
	"strconv"
	"strings"
)

// suggest returns the cure for a word that is not one of known: the nearest of
// them, or all of them.
func suggest(word string, known []string) string {
	known = slices.Sorted(slices.Values(known))
	nearest, best := "", 1+len(word)/3
	for _, k := range known {
		if d := distance(strings.ToLower(word), strings.ToLower(k)); d <= best {
			nearest, best = k, d-1
		}
	}
	if nearest != "" {
		return "; did you mean " + strconv.Quote(nearest) + "?"
	}
	if len(known) == 0 {
		return ""
	}
	return "; use one of " + strings.Join(known, ", ")
}

// distance is the Levenshtein distance of two words in bytes; a long word is
// compared by its first bytes only.
func distance(a, b string) int {
	const limit = 64
	a, b = a[:min(len(a), limit)], b[:min(len(b), limit)]
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			substitution := diagonal
			if a[i] != b[j] {
				substitution++
			}
			diagonal = row[j+1]
			row[j+1] = min(substitution, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
