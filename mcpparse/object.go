package mcpparse

import (
	"bytes"
	"iter"
	"slices"

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

// Member returns the exact bytes of a member of an object that has been checked strictly; nil when it has none of this
// name, or is no object.
func Member(object []byte, name string) []byte {
	if object = trim(object); len(object) == 0 || object[0] != '{' {
		return nil
	}
	return find(object, name).of(object)
}

// Members yields the names and the exact bytes of the members of an object that has been checked strictly.
func Members(object []byte) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		if object = trim(object); len(object) == 0 || object[0] != '{' {
			return
		}
		for f := range fields(object) {
			if !yield(string(f.key), f.value.of(object)) {
				return
			}
		}
	}
}

// Text decodes a string token that has been checked strictly; false when it is no string.
func Text(token []byte) (string, bool) {
	if len(token) == 0 || token[0] != '"' {
		return "", false
	}
	return string(unquote(token)), true
}

// SameToken reports whether two raw tokens that have been checked strictly are one id: a string may be written with other
// escapes by whoever sends it back.
func SameToken(a, b []byte) bool {
	x, ok := Text(a)
	y, also := Text(b)
	return string(a) == string(b) || ok && also && x == y
}

// Private returns a response whose result no cache may show to others (2026-07-28, caching). What says nothing of caches, or
// is no response, stays as it is.
func Private(m Message) []byte {
	if Member(m.Result, "cacheScope") == nil {
		return m.raw
	}
	return WithMember(m.raw, "result", WithMember(m.Result, "cacheScope", []byte(`"private"`)))
}

// WithMember returns an object with a member set to value, in place of one of that name, and everything else as it was.
func WithMember(object []byte, name string, value []byte) []byte {
	object = trim(object)
	if at := find(object, name); at.end != 0 {
		return splice(object, []Edit{{at.start, at.end, value}})
	}
	member := append(append(quote(nil, name), ':'), value...)
	return splice(object, []Edit{prepend(object, 0, member)})
}

// WithoutMembers returns an object without the members of these names, and everything else as it was.
func WithoutMembers(object []byte, names ...string) []byte {
	object = trim(object)
	return splice(object, removals(object, 0, func(f field) bool { return slices.Contains(names, string(f.key)) }))
}

// trim removes JSON white space in front of a value.
func trim(v []byte) []byte { return bytes.TrimLeft(v, " \t\r\n") }

func isObject(v []byte) bool { return v != nil && v[0] == '{' }

func isString(v []byte) bool { return v != nil && v[0] == '"' }
