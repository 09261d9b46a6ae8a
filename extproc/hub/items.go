package hub

import (
	"regexp"
	"strings"

	"github.com/yosida95/uritemplate/v3"

	"github.com/sallyport/sallyport/mcpparse"
)

// listBuilder collects the good items of a list.
type listBuilder struct {
	kind    kind
	prefix  string
	seen    map[string]bool
	items   []item
	dropped []string
	left    int

	matchers int // of templates, so far
}

const maxDroppedNamed = 20

func (b *listBuilder) add(entries []mcpparse.ListItem) {
	for _, entry := range entries {
		i, ok := b.item(entry)
		if b.seen[entry.Name] || !ok {
			b.left++
			if len(b.dropped) < maxDroppedNamed {
				b.dropped = append(b.dropped, entry.Name[:min(len(entry.Name), mcpparse.MaxToolNameBytes)])
			}
			continue
		}
		b.seen[entry.Name] = true
		b.items = append(b.items, i)
	}
}

// item makes an entry what agents see of it. It is no good if agents could not call it by what they see.
func (b *listBuilder) item(entry mcpparse.ListItem) (item, bool) {
	i := item{name: entry.Name, listed: entry.Name, raw: entry.Raw}
	switch b.kind {
	case tools, prompts:
		i.listed = b.prefix + entry.Name
		if b.prefix != "" {
			i.raw = entry.Renamed(i.listed)
		}
		if b.kind == prompts {
			return i, printable(entry.Name) && len(i.listed) <= mcpparse.MaxNameBytes
		}
		i.raw = mcpparse.WithoutMembers(i.raw, "execution") // tasks are not served
		params, err := mcpparse.ParamHeaders(entry.Raw)
		i.params = params
		return i, err == nil && mcpparse.ValidToolName(i.listed)
	case templates:
		if i.matches = matcher(entry.Name); i.matches != nil {
			b.matchers++
		}
		if b.matchers > maxMatchers {
			i.matches = nil
		}
	}
	return i, printable(entry.Name) && len(entry.Name) <= mcpparse.MaxNameBytes
}

// To match a URI costs its length times what the templates hold, and every call for a resource pays it: an upstream with
// templates without end must not make that dear. What is beyond the bounds is listed and matches nothing.
const (
	maxTemplate    = 1024 // bytes
	maxExpressions = 8    // in one template, each variable of one counted
	maxMatchers    = 64   // templates of one app
	maxMatched     = 2048 // bytes of a URI that is matched
)

// matcher recognises the URIs that a template makes (RFC 6570); nil when it is none, or too much of one.
func matcher(template string) *regexp.Regexp {
	variables := strings.Count(template, "{") + strings.Count(template, ",")
	if len(template) > maxTemplate || variables > maxExpressions {
		return nil
	}
	t, err := uritemplate.New(template)
	if err != nil {
		return nil
	}
	return t.Regexp()
}

func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}
