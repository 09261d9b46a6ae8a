package config

import (
	"net/url"
	"regexp"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
)

// checker holds a decoded configuration against the rules that one value alone
// cannot break.
type checker struct {
	*loader
	cfg *Config
}

func (c *checker) check() {
	c.profiles()
	c.connectors()
	c.provider()
	c.apps()
	c.listener()
	c.addresses()
	c.paths()
	c.session()
	if c.cfg.AuthProvider != nil {
		c.authProvider(c.cfg.AuthProvider)
	}
	c.minters()
}

// place returns where the first of the fields is that the file has: the field
// itself, else what it belongs to.
func (c *checker) place(fields ...any) *yaml.Node {
	for _, f := range fields {
		if n := c.places[f]; n != nil {
			return n
		}
	}
	return nil
}

// written returns a field as it is in the file, before references are replaced.
func (c *checker) written(field *string) string {
	if n := c.places[field]; n != nil && n.Kind == yaml.ScalarNode {
		return n.Value
	}
	return *field
}

// show quotes a field as it is written in the file.
func (c *checker) show(field *string) string { return quote(c.written(field)) }

// required reports an empty field and whether it has a value.
func (c *checker) required(field *string, name, cure string, owners ...any) bool {
	if *field == "" {
		c.errorf(c.place(append([]any{field}, owners...)...), "%s is missing; %s", name, cure)
	}
	return *field != ""
}

// positive reports a duration that is not above zero.
func (c *checker) positive(d *time.Duration, name string) {
	if *d <= 0 {
		c.errorf(c.place(d), "%s must be longer than zero; write a duration such as 30s", name)
	}
}

// unique reports repeated strings of a list, and empty ones.
func (c *checker) unique(list []string, name string) {
	seen := map[string]bool{}
	for i := range list {
		switch {
		case list[i] == "":
			c.errorf(c.place(&list[i]), "an entry of %s is empty; remove it", name)
		case seen[list[i]]:
			c.errorf(c.place(&list[i]), "%s is twice in %s; remove one", c.show(&list[i]), name)
		}
		seen[list[i]] = true
	}
}

var userinfo = regexp.MustCompile(`(?i)^\s*https?://[^/?#]*@`)

func hasUserinfo(text string) bool { return userinfo.MatchString(text) }

// address parses an absolute http or https URL and reports what is wrong with
// it. It returns nil when there is anything.
func (c *checker) address(field *string, name string) *url.URL {
	u, err := url.Parse(*field)
	switch {
	case err != nil, u.Scheme != "http" && u.Scheme != "https", u.Hostname() == "", u.Opaque != "":
		c.errorf(c.place(field), "%s: %s is not an absolute http or https URL", name, c.show(field))
	case u.Fragment != "" || strings.Contains(*field, "#"):
		c.errorf(c.place(field), "%s: %s has a fragment; remove it and what follows", name, c.show(field))
	default:
		if port := u.Port(); port != "" && !validPort(port) {
			c.errorf(c.place(field), "%s: %s has no valid port", name, c.show(field))
			return nil
		}
		return u
	}
	return nil
}

// issuer checks the address of an authorization server's metadata.
func (c *checker) issuer(field *string, name string, allowPlainHTTP bool) {
	u := c.address(field, name)
	if u == nil || u.Scheme == "https" || allowPlainHTTP || isLoopback(u.Hostname()) {
		return
	}
	c.errorf(c.place(field), "%s: %s is plain http beyond loopback; use https, or allowPlainHTTP: true beside it on a closed network", name, c.show(field))
}
