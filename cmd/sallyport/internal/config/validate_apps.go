package config

import (
	"regexp"
	"strings"
	"time"
)

var (
	appName   = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)
	namespace = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,64}$`)
	scope     = regexp.MustCompile(`^[\x21\x23-\x5B\x5D-\x7E]+$`) // RFC 6749 §3.3 scope-token
)

func (c *checker) apps() {
	if len(c.cfg.Apps) == 0 {
		c.errorf(c.place(&c.cfg.Apps), "apps is missing or empty; add the MCP servers to protect")
	}
	for i := range c.cfg.Apps {
		a := &c.cfg.Apps[i]
		if c.required(&a.Name, "an app's name", "name it", a) && !appName.MatchString(a.Name) {
			c.errorf(c.place(&a.Name), "app name %s is not 1 to 64 characters of A-Z a-z 0-9 . _ -", c.show(&a.Name))
		}
		if a.Type != "mcpProxy" {
			c.errorf(c.place(&a.Type, a), "app type %s is not supported; the only type is mcpProxy", c.show(&a.Type))
		}
		c.upstream(a)
		c.inbound(a)
		c.outbound(a)
	}
	c.namespaces()
}

// namespaces checks that a tool's full name can mean one app only.
func (c *checker) namespaces() {
	apps := c.cfg.Apps
	for i := range apps {
		n := &apps[i].ToolNamespace
		switch {
		case n.Disabled:
		case !c.required(&n.Name, "toolNamespace.name", "write a prefix such as my_server_, or disabled: true to leave the names bare", n, &apps[i]):
		case !namespace.MatchString(n.Name):
			c.errorf(c.place(&n.Name), "toolNamespace.name: %s is not 1 to 64 characters of A-Z a-z 0-9 _ . -", c.show(&n.Name))
		default:
			c.prefixes(i)
		}
	}
}

// prefixes compares the namespace of an app with those before it.
func (c *checker) prefixes(i int) {
	n := &c.cfg.Apps[i].ToolNamespace
	for j := range i {
		m := &c.cfg.Apps[j].ToolNamespace
		if m.Disabled || m.Name == "" || !strings.HasPrefix(n.Name, m.Name) && !strings.HasPrefix(m.Name, n.Name) {
			continue
		}
		line := 0
		if place := c.place(&m.Name); place != nil {
			line = place.Line
		}
		c.errorf(c.place(&n.Name), "toolNamespace.name: one of %s and %s (line %d) is the beginning of the other, so a call could mean two apps; change one", c.show(&n.Name), c.show(&m.Name), line)
	}
}

func (c *checker) upstream(a *App) {
	u := &a.Upstream
	if u.Transport != "stream" {
		c.errorf(c.place(&u.Transport), "upstream.transport: %s is not supported; the only transport is stream", c.show(&u.Transport))
	}
	s := &u.Stream
	if !c.required(&s.URL, "upstream.stream.url", "write the address of the MCP server", s, u, a) {
		return
	}
	parsed := c.address(&s.URL, "url")
	if parsed != nil && (parsed.RawQuery != "" || parsed.ForceQuery) {
		c.errorf(c.place(&s.URL), "url: %s has a query; remove it", c.show(&s.URL))
	}
	if s.TLS != "" {
		c.profile(&s.TLS)
		if parsed != nil && parsed.Scheme == "http" {
			c.errorf(c.place(&s.TLS), "tls has no effect on an http:// url; write https:// or remove tls")
		}
	}
	k := &s.Connection
	c.positive(&k.DialTimeout, "dialTimeout")
	c.positive(&k.KeepAlive.Interval, "keepAlive.interval")
	for name, n := range map[string]*int{"maxIdleConns": &k.Pool.MaxIdleConns, "maxIdleConnsPerHost": &k.Pool.MaxIdleConnsPerHost} {
		if *n < 1 {
			c.errorf(c.place(n), "%s must be at least 1", name)
		}
	}
}

func (c *checker) inbound(a *App) {
	p := a.Authorization.Inbound.OPA
	switch {
	case p == nil:
		c.errorf(c.place(&a.Authorization.Inbound, &a.Authorization, a), "authorization.inbound.opa is missing; an app needs a policy, in rego or file")
		return
	case p.Rego != "" && p.File != "":
		c.errorf(c.place(&p.File), "opa has both rego and file; keep one")
		return
	case p.Rego == "" && p.File == "":
		c.errorf(c.place(&p.Rego, &p.File, p), "opa has neither rego nor file; add one")
		return
	}
	label := c.show(&p.Name)
	if p.Name == "" {
		p.Name, label = a.Name, c.show(&a.Name)
	}
	if p.File == "" {
		p.Source = []byte(p.Rego)
		c.compile(p, label, c.place(&p.Rego))
		return
	}
	src, ok := c.contents(&p.File, "policy file")
	if ok {
		p.Source = src
		c.compile(p, label, nil)
	}
}

func (c *checker) outbound(a *App) {
	o := &a.Authorization.Outbound
	place := c.place(&o.Type, o, &a.Authorization, a)
	switch o.Type {
	case "unprotected":
		if o.TokenExchange != nil {
			c.warnf(c.place(&o.TokenExchange, o), "outbound.tokenExchange has no effect with type unprotected; remove one of them")
		}
	case "tokenExchange":
		if o.TokenExchange == nil {
			c.errorf(place, "outbound.tokenExchange is missing; add idp, audience and tools")
			return
		}
		if oauth := &c.cfg.MCPProvider.Authorization.OAuth; !oauth.Enabled {
			c.errorf(place, "outbound.type: tokenExchange needs an agent's token, but authorization.oauth.enabled is false; enable it or use unprotected")
		}
		c.tokenExchange(o.TokenExchange)
	case "":
		c.errorf(place, "authorization.outbound.type is missing; write tokenExchange, or unprotected for a server that asks for no token")
	default:
		c.errorf(place, "outbound.type: unknown value %s%s", c.show(&o.Type), suggest(c.written(&o.Type), []string{"tokenExchange", "unprotected"}))
	}
}

func (c *checker) tokenExchange(t *TokenExchange) {
	if c.required(&t.IDP, "tokenExchange.idp", "name a connector", t) {
		c.idp(t)
	}
	c.required(&t.Audience, "tokenExchange.audience", "write the audience of the MCP server", t)
	c.positive(&t.Timeout, "timeout")
	if t.Timeout > time.Minute {
		c.errorf(c.place(&t.Timeout), "timeout must be at most 1m; a call waits that long")
	}
	if strings.ContainsAny(t.TTLParameter, " &=") {
		c.errorf(c.place(&t.TTLParameter), "ttlParameter: %s is not a parameter name", c.show(&t.TTLParameter))
	}
	lines := map[string]int{}
	for i := range t.Tools {
		tool := &t.Tools[i]
		if c.required(&tool.Name, "a tool's name", "write the name that the MCP server uses, without the namespace", tool) {
			place := c.place(&tool.Name)
			if line := lines[tool.Name]; line > 0 {
				c.errorf(place, "tool %s is already on line %d; merge the two", c.show(&tool.Name), line)
			}
			lines[tool.Name] = place.Line
		}
		c.tool(tool)
	}
}

func (c *checker) tool(t *Tool) {
	switch place := c.place(&t.TTL, t); {
	case c.place(&t.TTL) == nil:
		c.errorf(place, "tool %s has no ttl; write how long its token lives, such as ttl: 5s", c.show(&t.Name))
	case t.TTL < time.Second || t.TTL > time.Hour || t.TTL%time.Second != 0:
		c.errorf(place, "ttl must be whole seconds from 1s to 1h")
	}
	if len(t.Scopes) == 0 {
		c.warnf(c.place(&t.Scopes, t), "tool %s has no scopes, so its token may carry none; list those that the MCP server demands", c.show(&t.Name))
	}
	for i := range t.Scopes {
		s := &t.Scopes[i]
		if !scope.MatchString(s.Name) {
			c.errorf(c.place(&s.Name, s), "scope %s is not one OAuth scope; write one in each entry, without spaces", c.show(&s.Name))
		}
	}
}

func (c *checker) idp(t *TokenExchange) {
	var names []string
	for i := range c.cfg.Connectors {
		k := &c.cfg.Connectors[i]
		names = append(names, c.written(&k.Name))
		if k.Name != t.IDP {
			continue
		}
		if k.OAuthClientSecret == "" {
			c.errorf(c.place(&k.OAuthClientSecret, k), "connector %s has no oauthClientSecret, which exchanging tokens needs; add it as <namespace.key>", c.show(&k.Name))
		}
		return
	}
	cure := suggest(c.written(&t.IDP), names)
	if len(names) == 0 {
		cure = "; add it under the top-level key connectors"
	}
	c.errorf(c.place(&t.IDP), "unknown idp %s: no connector has this name%s", c.show(&t.IDP), cure)
}
