package config

import (
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"go.yaml.in/yaml/v4"
)

// Bounds of what is decoded. Without them a few nested aliases stand for more
// values than there is memory.
const (
	maxNodes = 200_000
	maxDepth = 32
)

// pair is one entry of a YAML map.
type pair struct{ key, value *yaml.Node }

// slot is the field that a value is decoded into.
type slot struct {
	name string
	key  *yaml.Node // where the field's key is; nil in a list
	tag  reflect.StructTag
}

// place is where to point at for a value: at the value itself when it is on one
// line, else at the key that introduces it.
func (s slot) place(n *yaml.Node) *yaml.Node {
	if s.key != nil && (n.Kind != yaml.ScalarNode || n.Tag == "!!null") {
		return s.key
	}
	return n
}

var (
	durationType = reflect.TypeFor[time.Duration]()
	secretType   = reflect.TypeFor[Secret]()
	ignoredType  = reflect.TypeFor[ignored]()
)

// decode fills cfg with defaults and then with the values of a map.
func (l *loader) decode(root *yaml.Node, cfg *Config) {
	v := reflect.ValueOf(cfg).Elem()
	setDefaults(v)
	l.value(root, v, slot{name: "the file"})
}

// setDefaults calls the setDefaults methods of a struct and those within it.
func setDefaults(v reflect.Value) {
	if v.Kind() != reflect.Struct {
		return
	}
	if d, ok := v.Addr().Interface().(interface{ setDefaults() }); ok {
		d.setDefaults()
	}
	for i := range v.NumField() {
		if f := v.Field(i); f.CanSet() {
			setDefaults(f)
		}
	}
}

// value decodes n into v and remembers where v came from.
func (l *loader) value(n *yaml.Node, v reflect.Value, s slot) {
	l.depth++
	defer func() { l.depth-- }()
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if !l.within(n) {
		return
	}
	l.places[v.Addr().Interface()] = s.place(n)
	switch {
	case v.Type() == ignoredType:
		l.warnf(s.key, "%s has no effect here: %s", s.name, s.tag.Get("note"))
	case n.Style&yaml.TaggedStyle != 0:
		l.fail(s.place(n), "%s: YAML tags are not supported; remove %s", s.name, quote(n.Tag))
	case v.Kind() == reflect.Interface:
		l.anything(n, v, s)
	case n.Tag == "!!null":
		l.fail(s.place(n), "%s has no value; give it one or remove the key", s.name)
	case v.Kind() == reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		setDefaults(v.Elem())
		l.value(n, v.Elem(), s)
	case v.Kind() == reflect.Struct:
		l.structure(n, v, s)
	case v.Kind() == reflect.Map:
		l.mapping(n, v, s)
	case v.Kind() == reflect.Slice:
		l.list(n, v, s)
	case n.Kind != yaml.ScalarNode:
		l.fail(s.place(n), "%s is a single value, not %s", s.name, kindName(n))
	default:
		l.scalar(n, v, s)
	}
}

// within counts a value and reports whether the bounds still hold. The first
// value beyond one ends the decoding.
func (l *loader) within(n *yaml.Node) bool {
	l.nodes++
	switch {
	case l.exceeded:
	case l.nodes > maxNodes:
		l.errorf(n, "the file stands for more than %d values; remove aliases (*)", maxNodes)
		l.exceeded = true
	case l.depth > maxDepth:
		l.errorf(n, "nested deeper than %d levels; remove levels or an alias (*) to its own parent", maxDepth)
		l.exceeded = true
	}
	return !l.exceeded
}

func (l *loader) structure(n *yaml.Node, v reflect.Value, s slot) {
	if short, ok := v.Addr().Interface().(interface{ shortForm() *string }); ok && n.Kind == yaml.ScalarNode {
		l.value(n, reflect.ValueOf(short.shortForm()).Elem(), s)
		return
	}
	fields, names := fieldsOf(v.Type())
	set := map[int]*yaml.Node{}
	for _, p := range l.pairs(n, s) {
		i, known := fields[p.key.Value]
		if !known {
			text := "unknown key " + quote(p.key.Value) + suggest(p.key.Value, names)
			l.errorf(p.key, "%s", strings.ReplaceAll(text, `"`, "`")) // keys are code, values are text
			continue
		}
		field := v.Type().Field(i)
		current := field.Tag.Get("yaml")
		if p.key.Value != current {
			l.warnf(p.key, "%s is the older name of %s; rename it", p.key.Value, current)
		}
		if earlier := set[i]; earlier != nil {
			l.errorf(p.key, "%s and %s (line %d) are the same; remove one", p.key.Value, earlier.Value, earlier.Line)
		}
		set[i] = p.key
		l.value(p.value, v.Field(i), slot{name: p.key.Value, key: p.key, tag: field.Tag})
	}
}

// fieldsOf returns the index of each key of a struct type, and its keys without
// the older names.
func fieldsOf(t reflect.Type) (map[string]int, []string) {
	index, names := map[string]int{}, []string{}
	for i := range t.NumField() {
		tag := t.Field(i).Tag
		name := tag.Get("yaml")
		if name == "" || name == "-" {
			continue
		}
		index[name] = i
		names = append(names, name)
		if older := tag.Get("alias"); older != "" {
			index[older] = i
		}
	}
	return index, names
}

func (l *loader) mapping(n *yaml.Node, v reflect.Value, s slot) {
	v.Set(reflect.MakeMap(v.Type()))
	for _, p := range l.pairs(n, s) {
		element := reflect.New(v.Type().Elem()).Elem()
		l.value(p.value, element, slot{name: p.key.Value, key: p.key})
		v.SetMapIndex(reflect.ValueOf(p.key.Value), element)
	}
}

func (l *loader) list(n *yaml.Node, v reflect.Value, s slot) {
	if n.Kind != yaml.SequenceNode {
		l.fail(s.place(n), "%s is a list, not %s; write each entry on its own line after a dash", s.name, kindName(n))
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
	for i, entry := range n.Content {
		setDefaults(v.Index(i))
		l.value(entry, v.Index(i), slot{name: "an entry of " + s.name, tag: s.tag})
	}
}

// pairs returns the entries of a map, those that `<<` merges into it last.
func (l *loader) pairs(n *yaml.Node, s slot) []pair {
	if n.Kind != yaml.MappingNode {
		l.fail(s.place(n), "%s is a map of keys, not %s", s.name, kindName(n))
		return nil
	}
	var own []pair
	var merged []*yaml.Node
	seen := map[string]*yaml.Node{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if !l.within(key) {
			break
		}
		switch first := seen[key.Value]; {
		case key.Kind != yaml.ScalarNode:
			l.errorf(key, "a key of %s is not plain text", s.name)
		case key.Tag == "!!merge":
			merged = append(merged, value)
		case first != nil:
			l.errorf(key, "key %s is already on line %d; remove one", quote(key.Value), first.Line)
		default:
			seen[key.Value] = key
			own = append(own, pair{key, value})
		}
	}
	for _, value := range merged {
		for _, p := range l.merge(value) {
			if seen[p.key.Value] == nil {
				seen[p.key.Value] = p.key
				own = append(own, p)
			}
		}
	}
	return own
}

// merge returns the entries that a value of `<<` brings: a map, or a list of
// maps of which the earlier ones win.
func (l *loader) merge(value *yaml.Node) []pair {
	l.depth++
	defer func() { l.depth-- }()
	if value.Kind == yaml.AliasNode {
		value = value.Alias
	}
	if !l.within(value) {
		return nil
	}
	if value.Kind != yaml.SequenceNode {
		return l.pairs(value, slot{name: "<<"})
	}
	var all []pair
	for _, entry := range value.Content {
		all = append(all, l.merge(entry)...)
	}
	return all
}

// scalar decodes a single value into a string, bool, int or duration.
func (l *loader) scalar(n *yaml.Node, v reflect.Value, s slot) {
	text := l.text(n)
	quoted := n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0 && !hasReference(n)
	switch {
	case v.Kind() == reflect.String:
		l.str(n, text, v, s)
	case v.Type() == durationType:
		d, err := time.ParseDuration(text)
		if err != nil {
			l.fail(n, "%s: %s is not a duration; write a number with its unit, such as 30s or 1h", s.name, quote(n.Value))
		}
		v.SetInt(int64(d))
	case v.Kind() == reflect.Bool:
		b, known := map[string]bool{"true": true, "True": true, "TRUE": true, "false": false, "False": false, "FALSE": false}[text]
		if !known || quoted {
			l.fail(n, "%s: %s is not true or false; write true or false without quotes", s.name, quote(n.Value))
		}
		v.SetBool(b)
	default:
		i, err := strconv.ParseInt(text, 10, 64)
		if err != nil || quoted || v.OverflowInt(i) {
			l.fail(n, "%s: %s is not a whole number; write digits without quotes", s.name, quote(n.Value))
			return
		}
		v.SetInt(i)
	}
}

// str decodes a string, which a number may stand for (minVersion: 1.3).
func (l *loader) str(n *yaml.Node, text string, v reflect.Value, s slot) {
	policy, pem := s.tag.Get("as") == "policy", s.tag.Get("as") == "pem"
	if n.Tag == "!!bool" {
		l.fail(n, "%s is text, not true or false; quote it if it is meant so", s.name)
		return
	}
	if !policy {
		shown := quote(n.Value)
		if v.Type() == secretType {
			shown = s.name
		}
		l.checkReferences(n, shown)
		if strings.ContainsFunc(text, func(r rune) bool { return unicode.IsControl(r) && (!pem || r != '\n') }) {
			l.fail(n, "%s contains a control character or line break; write it on one line", s.name)
		}
	}
	if v.Type() != secretType && !policy && hasUserinfo(text) {
		l.fail(n, "%s: the address carries a user name or password; remove it and use a secret in the key meant for it", s.name)
		return
	}
	if enum := s.tag.Get("enum"); enum != "" {
		if values := strings.Split(enum, ","); !slices.Contains(values, text) {
			l.fail(n, "%s: unknown value %s%s", s.name, quote(n.Value), suggest(n.Value, values))
		}
	}
	if s.tag.Get("as") == "path" && text != "" && !filepath.IsAbs(text) {
		text = filepath.Join(l.dir, text)
	}
	v.SetString(text)
}

// anything decodes a claim: whatever JSON can hold.
func (l *loader) anything(n *yaml.Node, v reflect.Value, s slot) {
	var decoded reflect.Value
	switch n.Kind {
	case yaml.MappingNode:
		decoded = reflect.New(reflect.TypeFor[map[string]any]()).Elem()
		l.mapping(n, decoded, s)
	case yaml.SequenceNode:
		decoded = reflect.New(reflect.TypeFor[[]any]()).Elem()
		l.list(n, decoded, s)
	default:
		var ok bool
		if decoded, ok = l.anyScalar(n); !ok {
			return
		}
	}
	v.Set(decoded)
}

func (l *loader) anyScalar(n *yaml.Node) (reflect.Value, bool) {
	text := l.text(n)
	switch n.Tag {
	case "!!null":
		return reflect.Value{}, false
	case "!!bool":
		return reflect.ValueOf(strings.EqualFold(text, "true")), true
	case "!!int":
		if i, err := strconv.ParseInt(text, 10, 64); err == nil {
			return reflect.ValueOf(i), true
		}
	case "!!float":
		if f, err := strconv.ParseFloat(text, 64); err == nil {
			return reflect.ValueOf(f), true
		}
	}
	return reflect.ValueOf(text), true
}

func kindName(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a map"
	case yaml.SequenceNode:
		return "a list"
	}
	return "a single value"
}
