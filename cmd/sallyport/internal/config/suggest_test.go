package config

import "testing"

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"", "", 0},
		{"", "abc", 3},
		{"abc", "", 3},
		{"kitten", "sitting", 3},
		{"toolNamspace", "toolNamespace", 1},
		{"flaw", "lawn", 2},
	} {
		if got := distance(c.a, c.b); got != c.want {
			t.Errorf("distance(%q, %q) = %d, want %d", c.a, c.b, got, c.want)
		}
	}
}

func TestSuggest(t *testing.T) {
	known := []string{"stream", "sse"}
	for word, want := range map[string]string{
		"steam":     `; did you mean "stream"?`,
		"STREAM":    `; did you mean "stream"?`,
		"websocket": `; use one of sse, stream`,
	} {
		if got := suggest(word, known); got != want {
			t.Errorf("suggest(%q) = %q, want %q", word, got, want)
		}
	}
	if got := suggest("x", nil); got != "" {
		t.Errorf("nothing is known, yet: %q", got)
	}
}
