package mcpparse_test

import (
	"bufio"
	"encoding/json"
	"os"
	"slices"
	"testing"

	"github.com/sallyport/sallyport/mcpparse"
)

// entry is a line of testdata/catalogue.jsonl: bytes on which JSON readers are known to differ, and the codes that
// are acceptable for refusing them (none: the body is accepted).
type entry struct {
	ID   string `json:"id"`
	Want []int  `json:"want"`
	Body []byte `json:"body_b64"`
}

func catalogue(t testing.TB) []entry {
	f, err := os.Open("testdata/catalogue.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []entry
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e entry
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	if err := lines.Err(); err != nil || len(all) < 50 {
		t.Fatalf("%d entries, %v", len(all), err)
	}
	return all
}

func TestParseCatalogue(t *testing.T) {
	for _, e := range catalogue(t) {
		t.Run(e.ID, func(t *testing.T) {
			_, err := mcpparse.Parse(e.Body)
			if got := code(err); got == 0 && len(e.Want) > 0 || got != 0 && !slices.Contains(e.Want, got) {
				t.Errorf("got %d (%v), want one of %v", got, err, e.Want)
			}
		})
	}
}
