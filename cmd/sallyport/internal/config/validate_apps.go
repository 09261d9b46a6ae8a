package config

import (
	"net/url"
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
		c.timeouts(a)
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
	other, name := &u.SSE, "sse"
	switch u.Transport {
	case "stream":
	case "sse":
		other, name = &u.Stream, "stream"
		if u.Era == "modern" {
			c.errorf(c.place(&u.Era), "era: modern is not spoken over transport sse; write legacy, or transport: stream")
		}
	default:
		return // decoding has reported it
	}
	s := u.Endpoint()
	if place := c.place(other); place != nil {
		c.errorf(place, "upstream.%s needs transport: %s; write that, or remove the block", name, name)
		if c.place(s) == nil {
			return
		}
	}
	if !c.required(&s.URL, "upstream."+u.Transport+".url", "write the address of the MCP server", s, u, a) {
		return
	}
	parsed := c.address(&s.URL, "url")
	switch {
	case parsed == nil:
	case parsed.RawQuery != "" || parsed.ForceQuery:
		c.errorf(c.place(&s.URL), "url: %s has a query; remove it", c.show(&s.URL))
	case parsed.Scheme == "http" && a.Authorization.Outbound.Type == "tokenExchange" && !isLoopback(parsed.Hostname()):
		c.warnf(c.place(&s.URL), "url: tokens for %s cross the network in the clear, where others can read and use them; use https, or keep that network closed", c.show(&s.URL))
	}
	if s.TLS != "" {
		c.clientProfile(&s.TLS)
		if parsed != nil && parsed.Scheme == "http" {
			c.errorf(c.place(&s.TLS), "tls has no effect on an http:// url; write https:// or remove tls")
		}
	}
	k := &s.Connection
	c.positive(&k.DialTimeout, "dialTimeout")
	if k.MaxRequests < 1 || k.MaxRequests > 1_000_000 {
		c.errorf(c.place(&k.MaxRequests, k), "maxRequests must be from 1 to 1000000")
	}
	c.positive(&k.KeepAlive.Interval, "keepAlive.interval")
	for name, n := range map[string]*int{"maxIdleConns": &k.Pool.MaxIdleConns, "maxIdleConnsPerHost": &k.Pool.MaxIdleConnsPerHost} {
		if *n < 1 {
			c.errorf(c.place(n), "%s must be at least 1", name)
		}
	}
}

// timeouts checks how long the calls of an app may take.
func (c *checker) timeouts(a *App) {
	bounds := func(d *time.Duration) {
		if *d < time.Second || *d > 24*time.Hour {
			c.errorf(c.place(d), "timeout must be from 1s to 24h")
		}
	}
	bounds(&a.Timeout)
	c.rate(a.CallLimit, "callLimit")
	claim := c.claims("tool", "name")
	for i := range a.ToolTimeouts {
		t := &a.ToolTimeouts[i]
		claim(&t.Name, t)
		if c.place(&t.Timeout) == nil {
			c.errorf(c.place(t), "tool %s has no timeout; write how long a call may take, such as timeout: 30s", c.show(&t.Name))
		} else {
			bounds(&t.Timeout)
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
		c.discovery(a)
		c.longNames(a)
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
	if t.Resource == "" {
		c.required(&t.Audience, "tokenExchange.audience", "write the audience of the MCP server", t)
	} else if u, err := url.Parse(t.Resource); err != nil || !u.IsAbs() || strings.ContainsAny(t.Resource, "# ") {
		c.errorf(c.place(&t.Resource), "resource: %s is not an absolute URI without a fragment", c.show(&t.Resource))
	}
	if t.Reuse < 0 || t.Reuse > 5*time.Minute {
		c.errorf(c.place(&t.Reuse), "reuse must be from 0s to 5m; a token that was taken back is used that long")
	}
	c.positive(&t.Timeout, "timeout")
	if t.Timeout > time.Minute {
		c.errorf(c.place(&t.Timeout), "timeout must be at most 1m; a call waits that long")
	}
	if strings.ContainsAny(t.TTLParameter, " &=") {
		c.errorf(c.place(&t.TTLParameter), "ttlParameter: %s is not a parameter name", c.show(&t.TTLParameter))
	}
	claim := c.claims("tool", "name")
	for i := range t.Tools {
		tool := &t.Tools[i]
		claim(&tool.Name, tool)
		c.grant("tool "+c.show(&tool.Name), &tool.TTL, &tool.Scopes, tool)
		c.scopeList(tool.Requires)
	}
	claim = c.claims("prompt", "name")
	for i := range t.Prompts {
		prompt := &t.Prompts[i]
		claim(&prompt.Name, prompt)
		c.grant("prompt "+c.show(&prompt.Name), &prompt.TTL, &prompt.Scopes, prompt)
		c.scopeList(prompt.Requires)
	}
	claim = c.claims("resource", "uri")
	for i := range t.Resources {
		resource := &t.Resources[i]
		claim(&resource.URI, resource)
		c.grant("resource "+c.show(&resource.URI), &resource.TTL, &resource.Scopes, resource)
		c.scopeList(resource.Requires)
	}
	if s := t.Session; s != nil {
		c.grant("tokenExchange.session", &s.TTL, &s.Scopes, s)
	}
}

// discovery checks the token that lists are read with.
func (c *checker) discovery(a *App) {
	d := &a.Authorization.Outbound.TokenExchange.Discovery
	if c.place(&d.TTL) != nil {
		c.lifetime(&d.TTL, d)
	}
	c.scopeList(d.Scopes)
	if d.Type == "tokenExchange" && a.ToolNamespace.Disabled {
		c.errorf(c.place(&d.Type, d), "discovery.type: tokenExchange gives each caller lists of its own, which cannot say for all whose a bare name is; write a toolNamespace.name in place of disabled: true, or type: clientCredentials")
	}
}

const (
	maxToolName   = 128 // characters, namespace included (MCP 2026-07-28, server/tools)
	modelToolName = 64  // of which some models' interfaces take no more
)

// longNames looks at the names that agents will see. Those that the file does not name are looked at when they are read.
func (c *checker) longNames(a *App) {
	namespace := a.ToolNamespace.Name
	if a.ToolNamespace.Disabled {
		namespace = ""
	}
	for i := range a.Authorization.Outbound.TokenExchange.Tools {
		name := &a.Authorization.Outbound.TokenExchange.Tools[i].Name
		switch n := len(namespace) + len(*name) - strings.Count(*name, "*"); {
		case n > maxToolName:
			c.errorf(c.place(name), "tool %s has %d characters with its namespace; at most %d can be called", c.show(name), n, maxToolName)
		case n > modelToolName:
			c.warnf(c.place(name), "tool %s has %d characters with its namespace; some models take at most %d", c.show(name), n, modelToolName)
		}
	}
}
