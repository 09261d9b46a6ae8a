package config

import (
	"net"
	"net/url"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/exchange/sts"
)

const defaultMintAddress = "127.0.0.1:9903"

// AtGateway reports whether an issuer is at an address of the gateway's own: where
// it listens, or one that it is known by.
func (c *Config) AtGateway(issuer string) bool {
	u, err := url.Parse(issuer)
	if err != nil || u.Host == "" {
		return false
	}
	oauth := c.MCPProvider.Authorization.OAuth
	known := []string{oauth.Resource}
	for _, s := range oauth.Servers {
		known = append(known, s.TokenValidation.ExpectedAudiences...)
	}
	return c.listensAt(u) ||
		slices.ContainsFunc(known, func(text string) bool {
			k, err := url.Parse(text)
			return err == nil && k.Scheme == u.Scheme && strings.EqualFold(k.Host, u.Host)
		}) ||
		slices.ContainsFunc(c.HTTP.AllowedHosts, func(host string) bool {
			return strings.EqualFold(host, u.Host) || strings.EqualFold(host, u.Hostname())
		})
}

// listensAt reports whether u leads to http.address without anything in between.
func (c *Config) listensAt(u *url.URL) bool {
	host, port, err := net.SplitHostPort(c.HTTP.Address)
	if err != nil || u.Port() != port || (u.Scheme == "https") != (c.HTTP.TLS != "") {
		return false
	}
	ip := net.ParseIP(host)
	return strings.EqualFold(host, u.Hostname()) || isLoopback(u.Hostname()) && (isLoopback(host) || host == "" || ip != nil && ip.IsUnspecified())
}

// issuers checks that what connectors publish at the gateway's own address does not
// get in the way of anything else there, whose paths are used.
func (c *checker) issuers(used map[string]string) {
	for i := range c.cfg.Connectors {
		k := &c.cfg.Connectors[i]
		if k.Type != "sts" || !c.cfg.AtGateway(k.Issuer) {
			continue
		}
		u, err := url.Parse(k.Issuer)
		if err != nil {
			continue
		}
		// What is found there is what agents take for where to log in (MCP 2025-03-26,
		// "Authorization Server Metadata Discovery").
		if u.Path == "" || u.Path == "/" {
			c.errorf(c.place(&k.Issuer), "issuer: %s is the gateway's own address, whose metadata agents take for where to log in; add a path such as /tokens", c.show(&k.Issuer))
			continue
		}
		if name := used[u.Path]; name != "" {
			c.errorf(c.place(&k.Issuer), "issuer: the path of %s is already %s; choose another one, such as /tokens", c.show(&k.Issuer), name)
			continue
		}
		for _, path := range sts.PublishedPaths(k.Issuer) {
			if name := used[path]; name != "" {
				c.errorf(c.place(&k.Issuer), "issuer: %s is published at %s, which is already %s; choose another path", c.show(&k.Issuer), path, name)
				break
			}
			used[path] = "published for connector " + c.show(&k.Name)
		}
	}
}
