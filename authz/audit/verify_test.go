package audit

import (
	"bytes"
	"strings"
	"testing"
)

// chain returns the lines of a log of n records.
func chain(t *testing.T, n int) []string {
	t.Helper()
	var out bytes.Buffer
	l, err := Open(Config{Writer: &out, Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	for range n {
		put(t, l, "abc")
	}
	return strings.SplitAfter(strings.TrimSuffix(out.String(), "\n"), "\n")
}

func TestVerifyFinds(t *testing.T) {
	lines := chain(t, 5)
	join := func(s ...string) string { return strings.Join(s, "") }
	l1, l2, l3, l4, l5 := lines[0], lines[1], lines[2], lines[3], lines[4]
	torn := l3[:40] + "\n"
	tests := map[string]struct{ text, err string }{
		"changed value":      {join(l1, strings.Replace(l2, "abc", "abd", 1), l3), "line 2: hash does not match the line"},
		"changed hash":       {join(l1, strings.Replace(l2, `"hash":"`, `"hash":"0`, 1), l3), "line 2: hash does not match the line"},
		"changed first":      {join(strings.Replace(l1, "allowed", "denied", 1), l2), "line 1: hash does not match the line"},
		"changed last":       {join(l1, l2, strings.Replace(l3, "allowed", "denied", 1)), "line 3: hash does not match the line"},
		"added space":        {join(l1, strings.Replace(l2, "\n", " \n", 1), l3), "line 2: hash does not match the line"},
		"added CR":           {join(l1, strings.Replace(l2, "\n", "\r\n", 1), l3), "line 2: hash does not match the line"},
		"empty line":         {join(l1, "\n", l2), "line 2: not a record"},
		"foreign line":       {join(l1, "{}\n", l2), "line 2: not a record"},
		"deleted":            {join(l1, l3, l4), "line 2: seq does not follow the record before"},
		"deleted first":      {join(l2, l3), "line 1: seq does not follow the record before"},
		"reordered":          {join(l1, l3, l2), "line 2: seq does not follow the record before"},
		"repeated":           {join(l1, l2, l2), "line 3: seq does not follow the record before"},
		"torn":               {join(l1, l2, l3[:40]), "line 3: torn line without a gap record after it"},
		"torn in the middle": {join(l1, l2, torn, l3), "line 3: not a record"},
		"endless line":       {join(l1, strings.Repeat("x", maxLine+1)), "line 2: bufio: buffer full"},
		"other chain":        {join(l1, l2, other(t), l4, l5), "line 3: prev is not the hash of the record before"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if _, err := Verify(strings.NewReader(tt.text)); err == nil || err.Error() != tt.err {
				t.Errorf("got %v, want %s", err, tt.err)
			}
		})
	}
	verified(t, join(lines...), 5)
	verified(t, "", 0)
	verified(t, join(l1, l2), 2) // a missing end cannot be seen
}

// other is the third record of a different chain.
func other(t *testing.T) string {
	t.Helper()
	var out bytes.Buffer
	l, err := Open(Config{Writer: &out, Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	put(t, l, "x", "y", "z")
	return strings.SplitAfter(out.String(), "\n")[2]
}

// A gap record excuses as many torn lines as it names, directly before it, and nothing else.
func TestVerifyGaps(t *testing.T) {
	gapped := func(torn int) (good, gapLine string) {
		d := &disk{room: 1 << 20}
		l, err := Open(Config{Writer: d, Now: clock})
		if err != nil {
			t.Fatal(err)
		}
		put(t, l, "1")
		good = d.String()
		l.missing.torn, l.missing.lost = torn, torn
		put(t, l, "2")
		return good, strings.TrimPrefix(d.String(), good)
	}
	good, rest := gapped(1)
	verified(t, good+"{\"kin\n"+rest, 3)
	for name, text := range map[string]string{
		"none torn":       good + rest,
		"two torn":        good + "{\n{\n" + rest,
		"torn record cut": strings.TrimSuffix(good, "\n")[:50] + "\n" + rest,
		"torn after it":   good + strings.Replace(rest, "\n", "\n{\n", 1),
	} {
		if n, err := Verify(strings.NewReader(text)); err == nil {
			t.Errorf("%s: verified %d", name, n)
		}
	}
}

func FuzzVerify(f *testing.F) {
	f.Add([]byte(`{"kind":"gap","torn":1}`))
	f.Add([]byte("\n\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if n, err := Verify(bytes.NewReader(b)); err == nil && n == 0 && len(b) > 0 {
			t.Fatalf("accepted %q without a record", b)
		}
	})
}
