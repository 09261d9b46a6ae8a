package policy

import (
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Bounds of what a policy may say to an agent. A longer message is cut, a longer list of scopes is ignored.
const (
	maxMessage   = 4 << 10 // bytes
	maxScopes    = 32
	maxScopeSize = 256 // bytes
)

var (
	keyAllowed        = ast.StringTerm("allowed")
	keyMessage        = ast.StringTerm("external_message")
	keyRequiredScopes = ast.StringTerm("required_scopes")
)

// read is the only way to an allowed Decision.
func read(result *ast.Term) Decision {
	if result == nil {
		return Decision{Reason: Undefined}
	}
	object, ok := result.Value.(ast.Object)
	if !ok {
		return Decision{Reason: NotBoolean}
	}
	d := Decision{Reason: Undefined}
	if allowed := object.Get(keyAllowed); allowed != nil {
		yes, ok := allowed.Value.(ast.Boolean)
		switch {
		case !ok:
			return Decision{Reason: NotBoolean}
		case bool(yes):
			return Decision{Allowed: true, Reason: Allowed}
		}
		d.Reason = Denied
	}
	d.Message = message(object.Get(keyMessage))
	d.RequiredScopes = scopes(object.Get(keyRequiredScopes))
	return d
}

// message returns the text of an external_message, "" when it is none.
func message(t *ast.Term) string {
	if t == nil {
		return ""
	}
	s, _ := t.Value.(ast.String)
	m := strings.ToValidUTF8(string(s), "\uFFFD")
	if len(m) <= maxMessage {
		return m
	}
	cut := maxMessage
	for !utf8.RuneStart(m[cut]) {
		cut--
	}
	return m[:cut]
}

// scopes returns the names of a required_scopes, nil unless all of them can stand in a challenge.
func scopes(t *ast.Term) []string {
	if t == nil {
		return nil
	}
	var list []*ast.Term
	switch v := t.Value.(type) {
	case *ast.Array:
		v.Foreach(func(e *ast.Term) { list = append(list, e) })
	case ast.Set:
		v.Foreach(func(e *ast.Term) { list = append(list, e) })
	}
	if len(list) > maxScopes {
		return nil
	}
	var names []string
	for _, e := range list {
		s, ok := e.Value.(ast.String)
		if !ok || !scopeToken(string(s)) {
			return nil
		}
		names = append(names, string(s))
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// scopeToken reports whether s is a scope-token of RFC 6749 §3.3: anything else would break out of the quoted string
// of a challenge.
func scopeToken(s string) bool {
	notAllowed := func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' }
	return s != "" && len(s) <= maxScopeSize && !strings.ContainsFunc(s, notAllowed)
}
