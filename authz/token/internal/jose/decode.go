package jose

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

const (
	maxDepth  = 32
	maxNumber = 64           // bytes of one number
	maxDate   = 253402300799 // 9999-12-31T23:59:59Z
)

// Object decodes one JSON object as I-JSON (RFC 7493): valid UTF-8, no duplicate names at any depth, names
// case-sensitive, nothing after it. Numbers become json.Number. The errors quote nothing of the input.
func Object(b []byte) (map[string]any, error) {
	d := jsontext.NewDecoder(bytes.NewBuffer(b))
	if d.PeekKind() != '{' {
		return nil, errors.New("not a JSON object")
	}
	v, err := value(d)
	if err == nil {
		if _, end := d.ReadToken(); !errors.Is(end, io.EOF) {
			err = errors.New("data after the JSON object")
		}
	}
	if err != nil {
		return nil, PlainError(err)
	}
	return v.(map[string]any), nil
}

// PlainError replaces the decoder's errors, which quote the input at any length.
func PlainError(err error) error {
	var syntax *jsontext.SyntacticError
	switch {
	case errors.Is(err, jsontext.ErrDuplicateName):
		return errors.New("duplicate name in JSON")
	case errors.As(err, &syntax), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("not strict JSON")
	}
	return err
}

func value(d *jsontext.Decoder) (any, error) {
	t, err := d.ReadToken()
	if err != nil {
		return nil, err
	}
	if d.StackDepth() > maxDepth {
		return nil, fmt.Errorf("JSON nested deeper than %d", maxDepth)
	}
	switch t.Kind() {
	case '{':
		return members(d)
	case '[':
		return elements(d)
	case '"':
		return t.String(), nil
	case '0':
		return number(t.String())
	case 't', 'f':
		return t.Bool(), nil
	default:
		return nil, nil
	}
}

func members(d *jsontext.Decoder) (any, error) {
	m := map[string]any{}
	for d.PeekKind() != '}' {
		name, err := d.ReadToken()
		if err != nil {
			return nil, err
		}
		key := name.String()
		if m[key], err = value(d); err != nil {
			return nil, err
		}
	}
	_, err := d.ReadToken()
	return m, err
}

func elements(d *jsontext.Decoder) (any, error) {
	list := []any{}
	for d.PeekKind() != ']' {
		v, err := value(d)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	_, err := d.ReadToken()
	return list, err
}

// number keeps the digits as they are, but only of numbers that a float64 can hold: a policy engine that computes
// with big numbers would expand 1e-999999999.
func number(s string) (json.Number, error) {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsInf(f, 0) || len(s) > maxNumber {
		return "", errors.New("number out of range")
	}
	if e := strings.IndexAny(s, "eE"); e >= 0 && len(s)-e > len("e-999") {
		return "", errors.New("number out of range")
	}
	return json.Number(s), nil
}

// Date reads a NumericDate (RFC 7519 §2). Fractions of a second are dropped.
func Date(v any) (time.Time, error) {
	n, ok := v.(json.Number)
	f, err := n.Float64()
	if !ok || err != nil || f < 0 || f > maxDate {
		return time.Time{}, errors.New("not a date in seconds")
	}
	return time.Unix(int64(f), 0), nil
}
