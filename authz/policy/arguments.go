package policy

import (
	"encoding/json"
	"errors"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/tidwall/gjson"
)

// maxDepth repeats the bound of the caller's strict parse, for the stack's sake.
const maxDepth = 64

// What makes arguments unfit for a policy. The strict parse refuses all but the numbers earlier.
var (
	errNotObject  = errors.New("arguments: not an object")
	errDuplicate  = errors.New("arguments: duplicate name")
	errDepth      = errors.New("arguments: nested too deeply")
	errNumber     = errors.New("arguments: number that a policy cannot read")
	errIncomplete = errors.New("arguments: not JSON")
)

// arguments reads raw JSON, of the object itself only the members in seen. Numbers keep the digits that were sent.
func arguments(raw []byte, seen members) (*ast.Term, error) {
	if raw == nil {
		return ast.InternedEmptyObject, nil
	}
	root := gjson.ParseBytes(raw)
	if !root.IsObject() {
		return nil, errNotObject
	}
	return fields(root, 1, seen)
}

func term(r gjson.Result, depth int) (*ast.Term, error) {
	switch r.Type {
	case gjson.String:
		return text(r.Str), nil
	case gjson.Number:
		return number(r.Raw)
	case gjson.True, gjson.False:
		return ast.InternedTerm(r.Type == gjson.True), nil
	case gjson.Null:
		return ast.InternedNullTerm, nil
	}
	switch {
	case depth > maxDepth:
		return nil, errDepth
	case r.IsObject():
		return fields(r, depth, members{all: true})
	case r.IsArray():
		return elements(r, depth)
	}
	return nil, errIncomplete
}

func fields(r gjson.Result, depth int, seen members) (*ast.Term, error) {
	object, n := ast.NewObject(), 0
	var err error
	r.ForEach(func(key, value gjson.Result) bool {
		if !seen.has(key.Str) {
			return true
		}
		var t *ast.Term
		if t, err = term(value, depth+1); err != nil {
			return false
		}
		object.Insert(text(key.Str), t)
		n++
		return true
	})
	if err == nil && object.Len() != n {
		err = errDuplicate
	}
	return ast.NewTerm(object), err
}

func elements(r gjson.Result, depth int) (*ast.Term, error) {
	var terms []*ast.Term
	var err error
	r.ForEach(func(_, value gjson.Result) bool {
		var t *ast.Term
		if t, err = term(value, depth+1); err != nil {
			return false
		}
		terms = append(terms, t)
		return true
	})
	return ast.ArrayTerm(terms...), err
}

// number refuses what OPA's unbounded arithmetic would make expensive: numbers beyond a float64, and exponents so
// long that only an attack writes them (10^-999999999 costs as much to compute with as its reciprocal).
func number(raw string) (*ast.Term, error) {
	if strings.Trim(raw, "+-.eE0123456789") != "" {
		return nil, errNumber
	}
	if i := strings.IndexAny(raw, "eE"); i >= 0 && len(raw)-i > len("e-9999") {
		return nil, errNumber
	}
	if _, err := strconv.ParseFloat(raw, 64); err != nil {
		return nil, errNumber
	}
	return ast.NumberTerm(json.Number(raw)), nil
}
