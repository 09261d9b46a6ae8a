package mcpparse

import (
	"bytes"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// maxInteger is 2^53−1, the largest integer that every reader of JSON takes for the same (RFC 7493 §2.2).
const maxInteger = "9007199254740991"

// MaxPathBytes is the longest Message.BigNumber.
const MaxPathBytes = 256

// isInteger reports whether a number token is written as an integer: 1.0 and 1e2 are not.
func isInteger(token []byte) bool { return !bytes.ContainsAny(token, ".eE") }

// outOfRange reports whether readers differ about a number token: an integer beyond ±(2^53−1), or a number that
// overflows binary64.
func outOfRange(token []byte) bool {
	if isInteger(token) {
		digits := bytes.TrimPrefix(token, []byte("-"))
		return len(digits) > len(maxInteger) || len(digits) == len(maxInteger) && string(digits) > maxInteger
	}
	if !bytes.ContainsAny(token, "eE") {
		return false // MaxNumberBytes digits are far below 1.8e308
	}
	_, err := strconv.ParseFloat(string(token), 64)
	return err != nil
}

// path writes where the decoder stands like "params.arguments.a[3]". Names that are not plain words are quoted.
func path(d *jsontext.Decoder) string {
	var b strings.Builder
	level := 0
	for name := range d.StackPointer().Tokens() {
		level++
		name = name[:min(len(name), MaxPathBytes)]
		switch kind, _ := d.StackIndex(level); {
		case kind == '[':
			b.WriteString("[" + name + "]")
		case !isWord(name):
			b.WriteString("[" + strconv.QuoteToASCII(name) + "]")
		case level == 1:
			b.WriteString(name)
		default:
			b.WriteString("." + name)
		}
		if b.Len() > MaxPathBytes {
			return b.String()[:MaxPathBytes-3] + "..."
		}
	}
	return b.String()
}

// isWord reports whether s needs no quotes in a path.
func isWord(s string) bool {
	for i := range len(s) {
		if !wordByte(s[i]) {
			return false
		}
	}
	return s != ""
}

func wordByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '-'
}
