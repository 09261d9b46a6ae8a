package hub

import (
	"slices"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/mcpparse"
)

// Lists reports whether app's last good list has a tool or prompt of this name. Nobody asks that of an app whose lists are
// each caller's.
func (h *Hub) Lists(app *authz.App, target mcpparse.Target, name string) bool {
	_, ok := h.upstream(app).find(target, name)
	return ok
}

func (u *upstream) find(target mcpparse.Target, name string) (item, bool) {
	k := tools
	if target == mcpparse.Prompt {
		k = prompts
	}
	cat, _ := u.list()
	all := cat.items(k)
	at := slices.IndexFunc(all, func(i item) bool { return i.name == name })
	if at < 0 {
		return item{}, false
	}
	return all[at], true
}

// Resource returns the name of the only app that has a resource, "" when there is none: the one that lists its URI or
// template, else the one with a template that makes the URI. What two claim is nobody's. Where a single app has resources at all, it is asked about any.
// In the lists that are each caller's it looks at those of who, also when they are too old to be shown.
func (h *Hub) Resource(uri string, who *authz.Caller) string {
	var exact, made, having []*authz.App
	for _, a := range h.cfg.Gate().Apps() {
		u := h.upstreamFor(a, who)
		cat, _ := u.list()
		named := func(i item) bool { return i.name == uri }
		makes := func(i item) bool { return i.matches != nil && len(uri) <= maxMatched && i.matches.MatchString(uri) }
		switch {
		case slices.ContainsFunc(cat.items(resources), named), slices.ContainsFunc(cat.items(templates), named):
			exact = append(exact, a)
		case slices.ContainsFunc(cat.items(templates), makes):
			made = append(made, a)
		}
		if _, o := u.offering(); o.resources {
			having = append(having, a)
		}
	}
	for _, claim := range [][]*authz.App{exact, made, having} {
		if len(claim) > 0 {
			if len(claim) == 1 {
				return claim[0].Name
			}
			return ""
		}
	}
	return ""
}
