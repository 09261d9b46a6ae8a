package config

import (
	"regexp"
	"time"
)

var headerName = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")

func (c *checker) provider() {
	p := &c.cfg.MCPProvider
	if c.place(p) == nil {
		c.errorf(nil, "mcpProvider is missing; add the section that agents connect to")
		return
	}
	if !p.Enabled {
		c.errorf(c.place(&p.Enabled, p), "mcpProvider.enabled is false; there is nothing else to run, write true")
	}
	if !p.Transports.Stream.Enabled && !p.Transports.SSE.Enabled {
		c.errorf(c.place(&p.Transports, p), "no transport is enabled; enable transports.stream")
	}
	if k := &p.Transports.SSE.KeepAlive; k.Enabled && (k.Interval < time.Second || k.Interval > time.Hour) {
		c.errorf(c.place(&k.Interval), "keepAlive.interval must be from 1s to 1h")
	}
	s := &p.Transports.Stream.Session
	c.positive(&s.Timeout, "session.timeout")
	if !headerName.MatchString(s.HeaderName) {
		c.errorf(c.place(&s.HeaderName), "headerName: %s is not a header name; use Mcp-Session-Id", c.show(&s.HeaderName))
	}
	if p.Authorization.OAuth.Enabled {
		c.oauth(&p.Authorization.OAuth)
	}
}

func (c *checker) oauth(o *OAuth) {
	p := &c.cfg.MCPProvider
	if len(o.Servers) == 0 {
		c.errorf(c.place(&o.Servers, o, &p.Authorization, p), "authorization.oauth.servers is missing; name the authorization servers whose tokens are accepted, or write enabled: false")
	}
	if o.Resource != "" {
		c.address(&o.Resource, "resource")
	}
	c.scopes(o.ScopesSupported)
	c.unique(o.ScopesSupported, "scopesSupported")
	for i := range o.ScopesSupported {
		if s := &o.ScopesSupported[i]; *s == "offline_access" {
			c.errorf(c.place(s), "scopesSupported: offline_access is for the client to ask of its authorization server; remove it")
		}
	}
	lines := map[string]int{}
	for i := range o.Servers {
		s := &o.Servers[i]
		if !c.required(&s.WellKnownEndpoint, "wellKnownEndpoint", "write the address of the server's metadata", s) {
			continue
		}
		c.issuer(&s.WellKnownEndpoint, "wellKnownEndpoint", s.AllowPlainHTTP)
		place := c.place(&s.WellKnownEndpoint)
		if line := lines[s.WellKnownEndpoint]; line > 0 {
			c.errorf(place, "wellKnownEndpoint: %s is already on line %d; remove one", c.show(&s.WellKnownEndpoint), line)
		}
		lines[s.WellKnownEndpoint] = place.Line
		c.positive(&s.RefreshInterval, "refreshInterval")
		c.validation(s)
	}
	c.opaque(o)
	c.dpop(o)
}

func (c *checker) validation(s *AuthorizationServer) {
	t := &s.TokenValidation
	if len(t.ExpectedAudiences) == 0 {
		c.errorf(c.place(&t.ExpectedAudiences, t, s), "expectedAudiences is missing or empty; list the audiences that tokens for this gateway carry")
	}
	c.unique(t.ExpectedAudiences, "expectedAudiences")
	for i := range t.ExpectedAudiences {
		if t.ExpectedAudiences[i] == "*" {
			c.errorf(c.place(&t.ExpectedAudiences[i]), "expectedAudiences: there is no wildcard; list the audiences themselves")
		}
	}
	c.introspection(s)
	c.unique(t.Clients, "clients")
	if life := &t.MaxLifetime; c.place(life) != nil && *life < time.Second {
		c.errorf(c.place(life), "maxLifetime must be at least 1s; remove it for no limit")
	}
	if skew := &t.JWT.ClockSkew; *skew < 0 || *skew > 5*time.Minute {
		c.errorf(c.place(skew), "clockSkew must be from 0s to 5m; expired tokens are accepted that long")
	}
}
