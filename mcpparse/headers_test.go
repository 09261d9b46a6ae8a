package mcpparse_test

import (
	"errors"
	"testing"

	"github.com/sallyport/sallyport/mcpparse"
)

func TestDecodeHeader(t *testing.T) {
	tests := []struct {
		value, want string
		ok          bool
	}{
		{"foo", "foo", true},
		{"  foo\t", "foo", true},
		{"", "", true},
		{"a b", "a b", true},
		{"TOOLS", "TOOLS", true},
		{"=?base64?SGVsbG8=?=", "Hello", true},
		{" =?base64?w6k=?= ", "é", true},
		{"=?base64??=", "", true},
		{"=?base64?=", "=?base64?=", true},
		{"=?BASE64?SGVsbG8=?=", "=?BASE64?SGVsbG8=?=", true},
		{"=?base64?SGVsbG8=", "=?base64?SGVsbG8=", true},
		{"SGVsbG8=?=", "SGVsbG8=?=", true},
		{"=?base64?SGVsbG8?=", "", false},
		{"=?base64?SGVsbG9=?=", "", false}, // bits that are not zero
		{"=?base64?SGVs\r\nbG8=?=", "", false},
		{"=?base64?SGVs bG8=?=", "", false},
		{"=?base64?-_-_?=", "", false}, // the URL alphabet
		{"=?base64?/w==?=", "", false}, // not UTF-8
		{"é", "", false},
		{"a\x00", "", false},
		{"a\tb", "", false},
		{"a\x7f", "", false},
	}
	for _, tt := range tests {
		got, err := mcpparse.DecodeHeader(tt.value)
		if got != tt.want || (err == nil) != tt.ok || err != nil && !errors.Is(err, mcpparse.ErrHeader) {
			t.Errorf("%q: %q, %v; want %q, %v", tt.value, got, err, tt.want, tt.ok)
		}
	}
}

func TestEncodeHeader(t *testing.T) {
	for text, want := range map[string]string{
		"foo":             "foo",
		"a b":             "a b",
		"":                "",
		" foo":            "=?base64?IGZvbw==?=",
		"foo ":            "=?base64?Zm9vIA==?=",
		"é":               "=?base64?w6k=?=",
		"a\tb":            "=?base64?YQli?=",
		"a\r\nX: y":       "=?base64?YQ0KWDogeQ==?=",
		"=?base64?YQ==?=": "=?base64?PT9iYXNlNjQ/WVE9PT89?=",
		"=?base64?YQ==":   "=?base64?YQ==",
	} {
		got := mcpparse.EncodeHeader(text)
		if got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
		if back, err := mcpparse.DecodeHeader(got); back != text || err != nil {
			t.Errorf("%q comes back as %q, %v", text, back, err)
		}
	}
}
