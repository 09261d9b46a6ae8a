package mcpparse

import (
	"bytes"
	"errors"
	"fmt"
	"net/textproto"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// ErrParamHeader is wrapped by every error of ParamHeaders. Its text never repeats what the tool says.
var ErrParamHeader = errors.New("mcpparse: invalid x-mcp-header")

// MaxParamHeaders is how many arguments of one tool may be mirrored. Each costs every call a walk over the arguments,
// and with more no request would get through a proxy: 100 headers in all is the usual limit.
const MaxParamHeaders = 64

const (
	paramAnnotation = "x-mcp-header"
	paramPrefix     = "Mcp-Param-"
)

// ParamHeader is an argument of a tool that requests mirror in a header (MCP 2026-07-28, streamable HTTP, custom
// headers from tool parameters).
type ParamHeader struct {
	Header string   // canonical name (Mcp-Param-Region)
	Path   []string // names of the members that lead to the value, from the arguments
	Type   string   // that the schema declares: string, integer or boolean
}

// ParamHeaders returns which arguments a tool's inputSchema has mirrored, in its order. The tool is an entry of
// tools/list that has been checked strictly. The error wraps ErrParamHeader: such a tool must not be offered.
func ParamHeaders(tool []byte) ([]ParamHeader, error) {
	// Most tools have none. An escape may spell any letter of the name.
	if !bytes.Contains(tool, []byte(paramAnnotation)) && !bytes.Contains(tool, []byte(`\u00`)) {
		return nil, nil
	}
	if tool = trim(tool); len(tool) == 0 || !isObject(tool) {
		return nil, nil
	}
	w := schemaWalk{taken: map[string]bool{}}
	if err := w.schema(find(tool, "inputSchema").of(tool), nil, true); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrParamHeader, err)
	}
	return w.found, nil
}

// Value returns the value of the header for these arguments, nil when there are none. Like the clients of the official
// SDKs it goes by what the argument is, not by what the schema says it should be: a value of the wrong type is then
// refused by the server as what it is and not as a header that is missing. ok is false, and the header to be left out,
// when the argument is absent, null or nothing that a header can mirror.
func (p ParamHeader) Value(arguments []byte) (value string, ok bool) {
	text, ok := mirrored(p.argument(arguments))
	if !ok {
		return "", false
	}
	return EncodeHeader(text), true
}

// Matches reports whether the values of the header, nil when it is absent, say the same as these arguments, nil when
// there are none. Integers are compared as numbers, in any spelling that JSON has for them. An argument that is neither
// null nor mirrored by anything matches nothing.
func (p ParamHeader) Matches(values []string, arguments []byte) bool {
	argument := p.argument(arguments)
	if argument == nil {
		return len(values) == 0
	}
	want, ok := mirrored(argument)
	if !ok || len(values) != 1 {
		return false
	}
	got, err := DecodeHeader(values[0])
	if err != nil {
		return false
	}
	if isNumber(argument) {
		got, ok = integer([]byte(got))
	}
	return ok && got == want
}

// argument returns the raw value at the path, nil when there is none or it is null.
func (p ParamHeader) argument(arguments []byte) []byte {
	v := trim(arguments)
	for _, name := range p.Path {
		if len(v) == 0 || !isObject(v) {
			return nil
		}
		v = find(v, name).of(v)
	}
	if len(v) == 0 || v[0] == 'n' {
		return nil
	}
	return v
}

// mirrored returns the text that mirrors a raw value. Only strings, booleans and integers within ±(2^53−1) have one.
func mirrored(v []byte) (string, bool) {
	switch {
	case len(v) == 0:
		return "", false
	case v[0] == '"':
		return string(unquote(v)), true
	case v[0] == 't' || v[0] == 'f':
		return string(v), true
	}
	return integer(v)
}

// integer returns the plain decimal form of a JSON number that is an integer within ±(2^53−1), however it is written.
func integer(v []byte) (string, bool) {
	if len(v) > MaxNumberBytes || !isNumber(v) {
		return "", false
	}
	digits, negative := strings.CutPrefix(string(v), "-")
	mantissa, exponent := digits, ""
	if e := strings.IndexAny(digits, "eE"); e >= 0 {
		mantissa, exponent = digits[:e], digits[e+1:]
	}
	whole, fraction, _ := strings.Cut(mantissa, ".")
	digits = strings.TrimLeft(whole+fraction, "0")
	if digits == "" {
		return "0", true
	}
	significant := strings.TrimRight(digits, "0")
	shift := len(digits) - len(significant) - len(fraction)
	if exponent != "" {
		e, err := strconv.Atoi(exponent)
		if err != nil || e > MaxNumberBytes || e < -MaxNumberBytes {
			return "", false // either a fraction or too large, whatever the digits
		}
		shift += e
	}
	if shift < 0 || len(significant)+shift > len(maxInteger) {
		return "", false
	}
	digits = significant + strings.Repeat("0", shift)
	if outOfRange([]byte(digits)) {
		return "", false
	}
	if negative {
		digits = "-" + digits
	}
	return digits, true
}

// isNumber reports whether v is a JSON number and nothing else, not even white space.
func isNumber(v []byte) bool {
	digit := func(c byte) bool { return '0' <= c && c <= '9' }
	return len(v) > 0 && (v[0] == '-' || digit(v[0])) && digit(v[len(v)-1]) && jsontext.Value(v).IsValid()
}

// keyword is what the value of one of JSON Schema's keywords holds.
type keyword uint8

const (
	schemas    keyword = iota // a schema, a list of them, or neither
	named                     // schemas, under names that are no keywords
	properties                // the same, for the members of a value
	instances                 // what looks like a schema here is none
	annotation
)

// keywords are those that hold no plain schemas (JSON Schema 2020-12, core §8 and §10, validation; definitions,
// dependencies and example are of other drafts). Unknown keywords may well hold one that a $ref leads to.
var keywords = map[string]keyword{
	"properties": properties, paramAnnotation: annotation,
	"patternProperties": named, "dependentSchemas": named, "$defs": named, "definitions": named, "dependencies": named,
	"const": instances, "enum": instances, "default": instances, "examples": instances, "example": instances,
	"dependentRequired": instances,
}

// schemaWalk looks through a schema for annotations, also where they must not be.
type schemaWalk struct {
	found []ParamHeader
	taken map[string]bool // canonical names
}

// schema walks a schema or a list of them. An annotation is only in its place where properties alone have led to it,
// by path, from the root, whose path is empty.
func (w *schemaWalk) schema(v []byte, path []string, inPlace bool) error {
	if v != nil && v[0] == '[' {
		for e := range elements(v) {
			if err := w.schema(e, nil, false); err != nil {
				return err
			}
		}
	}
	if !isObject(v) {
		return nil
	}
	for f := range fields(v) {
		var err error
		switch value := f.value.of(v); keywords[string(f.key)] {
		case annotation:
			err = w.annotation(value, v, path, inPlace)
		case properties:
			err = w.named(value, path, inPlace)
		case named:
			err = w.named(value, nil, false)
		case schemas:
			err = w.schema(value, nil, false)
		case instances:
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// named walks the schemas that are the members of an object.
func (w *schemaWalk) named(v []byte, path []string, inPlace bool) error {
	if !isObject(v) {
		return nil
	}
	for f := range fields(v) {
		below := append(path[:len(path):len(path)], string(f.key))
		if err := w.schema(f.value.of(v), below, inPlace); err != nil {
			return err
		}
	}
	return nil
}

// annotation takes in the annotation value of a schema.
func (w *schemaWalk) annotation(value, schema []byte, path []string, inPlace bool) error {
	if !inPlace || len(path) == 0 {
		return errors.New("on something that is not reached through properties alone")
	}
	if !isString(value) {
		return errors.New("not a string")
	}
	name := unquote(value)
	if !isToken(name) {
		return errors.New("not the name of a header")
	}
	h := ParamHeader{Header: textproto.CanonicalMIMEHeaderKey(paramPrefix + string(name)), Path: path}
	if kind := find(schema, "type").of(schema); isString(kind) {
		h.Type = string(unquote(kind))
	}
	switch h.Type {
	case "string", "integer", "boolean":
	default:
		return errors.New("on a type other than string, integer and boolean")
	}
	if w.taken[h.Header] {
		return errors.New("the same name twice")
	}
	if len(w.found) == MaxParamHeaders {
		return errors.New("too many")
	}
	w.taken[h.Header] = true
	w.found = append(w.found, h)
	return nil
}

// isToken reports whether name is a token (RFC 9110 §5.6.2).
func isToken(name []byte) bool {
	for _, c := range name {
		if !wordByte(c) && !strings.ContainsRune("!#$%&'*+.^`|~", rune(c)) {
			return false
		}
	}
	return len(name) > 0
}
