package mcpparse

import (
	"bytes"
	"iter"

	"github.com/go-json-experiment/json/jsontext"
)

// The functions of this file read again what a scanner has checked, off the hot path: they cannot fail.

// field is a member of an object, by positions in the object.
type field struct {
	key         []byte // decoded
	name, value span
}

// fields yields the members of an object; none when object is nil.
func fields(object []byte) iter.Seq[field] {
	return func(yield func(field) bool) {
		d := jsontext.NewDecoder(bytes.NewBuffer(object))
		_, _ = d.ReadToken() // the bytes have passed the strict check
		for d.PeekKind() == '"' {
			name, at := next(d)
			_, value := next(d)
			if !yield(field{unquote(name), at, value}) {
				return
			}
		}
	}
}

// elements yields the raw elements of an array.
func elements(array []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		d := jsontext.NewDecoder(bytes.NewBuffer(array))
		_, _ = d.ReadToken() // the bytes have passed the strict check
		for d.PeekKind() != ']' {
			if v, _ := next(d); !yield(v) {
				return
			}
		}
	}
}

func next(d *jsontext.Decoder) ([]byte, span) {
	v, _ := d.ReadValue()
	end := int(d.InputOffset())
	return v, span{end - len(v), end}
}

// unquote decodes a string token, without copying where there is nothing to unescape.
func unquote(token []byte) []byte {
	if bytes.IndexByte(token, '\\') < 0 {
		return token[1 : len(token)-1]
	}
	text, _ := jsontext.AppendUnquote(nil, token)
	return text
}

// quote appends s as a JSON string. Bytes that are not UTF-8 become U+FFFD.
func quote(b []byte, s string) []byte {
	b, _ = jsontext.AppendQuote(b, s)
	return b
}

// trim removes JSON white space in front of a value.
func trim(v []byte) []byte { return bytes.TrimLeft(v, " \t\r\n") }

func isObject(v []byte) bool { return v != nil && v[0] == '{' }

func isString(v []byte) bool { return v != nil && v[0] == '"' }
