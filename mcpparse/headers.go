package mcpparse

import (
	"encoding/base64"
	"errors"
	"strings"
	"unicode/utf8"
)

// Markers around a header value that is written in base64 (MCP 2026-07-28, streamable HTTP; compared exactly).
const (
	base64Open  = "=?base64?"
	base64Close = "?="
)

// ErrHeader is returned for a header value that mirrors no text.
var ErrHeader = errors.New("mcpparse: malformed mirror header")

// DecodeHeader returns the text that an Mcp-Name or Mcp-Param-* value stands for. White space around it does not
// count (RFC 9110 §5.5). A value without both markers is literal and must be printable ASCII. The error is ErrHeader.
func DecodeHeader(v string) (string, error) {
	v = strings.Trim(v, " \t")
	encoded, ok := encodedHeader(v)
	if !ok {
		if !printable(v) {
			return "", ErrHeader
		}
		return v, nil
	}
	// Go's decoder skips line ends, and without Strict also bits that are not zero: two spellings of one text.
	text, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if err != nil || strings.ContainsAny(encoded, "\r\n") || !utf8.Valid(text) {
		return "", ErrHeader
	}
	return string(text), nil
}

// EncodeHeader is the inverse of DecodeHeader: v itself where that is unambiguous, else base64.
func EncodeHeader(v string) string {
	if _, looksEncoded := encodedHeader(v); !looksEncoded && printable(v) && strings.Trim(v, " ") == v {
		return v
	}
	return base64Open + base64.StdEncoding.EncodeToString([]byte(v)) + base64Close
}

// encodedHeader returns what stands between the markers.
func encodedHeader(v string) (string, bool) {
	rest, opened := strings.CutPrefix(v, base64Open)
	inside, closed := strings.CutSuffix(rest, base64Close)
	return inside, opened && closed
}

// printable reports whether v is of printable ASCII and spaces only.
func printable(v string) bool {
	for i := range len(v) {
		if v[i] < ' ' || v[i] > '~' {
			return false
		}
	}
	return true
}
