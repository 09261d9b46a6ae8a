package mcpparse

import (
	"errors"
	"fmt"
)

// ErrList is wrapped by every error of List.
var ErrList = errors.New("mcpparse: malformed list")

// ListItem is one entry of a list that a server sent.
type ListItem struct {
	Name string // decoded name, URI or URI template
	Raw  []byte // exact bytes of the entry

	name span // in Raw
}

// Renamed returns the entry with another name and everything else as it was.
func (i ListItem) Renamed(name string) []byte {
	return splice(i.Raw, []Edit{{i.name.start, i.name.end, quote(nil, name)}})
}

// lists says, for the methods whose results are lists, where the entries are and what names them.
var lists = map[string]struct{ entries, name string }{
	"tools/list":               {"tools", "name"},
	"prompts/list":             {"prompts", "name"},
	"resources/list":           {"resources", "uri"},
	"resources/templates/list": {"resourceTemplates", "uriTemplate"},
}

// List splits the result of one of the list methods into its entries, which alias result. It is as strict as Parse,
// with MaxUpstreamValues. hasNext tells an empty cursor, which is a valid one, from none; null counts as none.
// Whether the names are acceptable, and whether they are unique, is the caller's to judge.
func List(method string, result []byte) (items []ListItem, nextCursor string, hasNext bool, err error) {
	shape, ok := lists[method]
	if !ok {
		return nil, "", false, fmt.Errorf("%w: %s is no list method", ErrList, method)
	}
	s, err := scan(result, outside, MaxUpstreamValues)
	defer s.release()
	if err != nil {
		return nil, "", false, fmt.Errorf("%w: %s", ErrList, explain(err))
	}
	if s.fault.code != 0 {
		return nil, "", false, fmt.Errorf("%w: %s", ErrList, s.fault.text)
	}
	if !isObject(trim(result)) {
		return nil, "", false, fmt.Errorf("%w: not an object", ErrList)
	}
	found := false
	for f := range fields(result) {
		value := f.value.of(result)
		switch string(f.key) {
		case shape.entries:
			found = true
			if items, err = entries(value, shape.name); err != nil {
				return nil, "", false, err
			}
		case "nextCursor":
			if hasNext = isString(value); hasNext {
				nextCursor = string(unquote(value))
			} else if value[0] != 'n' {
				return nil, "", false, fmt.Errorf("%w: nextCursor must be a string", ErrList)
			}
		}
	}
	if !found {
		return nil, "", false, fmt.Errorf("%w: no %s", ErrList, shape.entries)
	}
	return items, nextCursor, hasNext, nil
}

// entries splits an array of objects, each with a string member called key.
func entries(array []byte, key string) ([]ListItem, error) {
	if array[0] != '[' {
		return nil, fmt.Errorf("%w: entries must be an array", ErrList)
	}
	items := []ListItem{}
	for raw := range elements(array) {
		item := ListItem{Raw: raw}
		if isObject(raw) {
			item.name = find(raw, key)
		}
		if name := item.name.of(raw); isString(name) {
			item.Name = string(unquote(name))
		}
		if item.Name == "" {
			return nil, fmt.Errorf("%w: an entry has no %s", ErrList, key)
		}
		items = append(items, item)
	}
	return items, nil
}

// find returns where the value of a member is, the zero span when there is none.
func find(object []byte, key string) span {
	for f := range fields(object) {
		if string(f.key) == key {
			return f.value
		}
	}
	return span{}
}
