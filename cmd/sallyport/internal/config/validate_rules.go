package config

import (
	"regexp"
	"time"

	"github.com/sallyport/sallyport/authz/glob"
)

// claim is a name or a pattern of one list, and where it is.
type claim struct {
	glob.Pattern
	field *string
	line  int
}

// claims returns a check of the names, or uris, in one list: each is there, is
// there once, and leaves no choice between two patterns.
func (c *checker) claims(kind, key string) func(field *string, owner any) {
	lines := map[string]int{}
	patterns := map[string][]claim{} // by what stands before the first *
	cure := "write the " + key + " that the MCP server uses"
	if key == "name" {
		cure += ", without the namespace"
	}
	return func(field *string, owner any) {
		if !c.required(field, "a "+kind+"'s "+key, cure, owner) {
			return
		}
		place := c.place(field)
		if line := lines[*field]; line > 0 {
			c.errorf(place, "%s %s is already on line %d; merge the two", kind, c.show(field), line)
			return
		}
		lines[*field] = place.Line
		p := glob.Parse(*field)
		for _, other := range patterns[p.Prefix()] {
			if glob.Tie(p, other.Pattern) {
				c.errorf(place, "%s %s and %s (line %d) match the same %ss, and have as much before their first *; write more before one of them, or merge the two",
					kind, c.show(field), c.show(other.field), other.line, key)
				break
			}
		}
		patterns[p.Prefix()] = append(patterns[p.Prefix()], claim{p, field, place.Line})
	}
}

// template matches what elsewhere would be filled in from the arguments of a call.
var template = regexp.MustCompile(`\{\{|\}\}|\$\{|<[^<>]*>`)

// grant checks what one token may do.
func (c *checker) grant(label string, ttl *time.Duration, scopes *[]Scope, owner any) {
	switch place := c.place(ttl, owner); {
	case c.place(ttl) == nil:
		c.errorf(place, "%s has no ttl; write how long its token lives, such as ttl: 5s", label)
	default:
		c.lifetime(ttl, owner)
	}
	if len(*scopes) == 0 {
		c.warnf(c.place(scopes, owner), "%s has no scopes, so its token may carry none; list those that the MCP server demands", label)
	}
	c.scopeList(*scopes)
}

func (c *checker) lifetime(ttl *time.Duration, owner any) {
	if *ttl < time.Second || *ttl > time.Hour || *ttl%time.Second != 0 {
		c.errorf(c.place(ttl, owner), "ttl must be whole seconds from 1s to 1h")
	}
}

// scopeList checks a list of scopes, each of which is written out: what arguments
// an agent sends must not choose what a token may do.
func (c *checker) scopeList(list []Scope) {
	for i := range list {
		s := &list[i]
		switch {
		case template.MatchString(s.Name):
			c.errorf(c.place(&s.Name, s), "scope %s is a template; arguments do not choose scopes: write each scope out, and let the policy judge the arguments", c.show(&s.Name))
		case !scope.MatchString(s.Name):
			c.errorf(c.place(&s.Name, s), "scope %s is not one OAuth scope; write one in each entry, without spaces", c.show(&s.Name))
		}
	}
}
