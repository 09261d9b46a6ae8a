package config

import (
	"net"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"
)

func isLoopback(host string) bool {
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

func validPort(port string) bool {
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0
}

// listenAddress checks host:port and returns whether other machines can reach it.
func (c *checker) listenAddress(field *string, name string, owner any) (public bool) {
	host, port, err := net.SplitHostPort(*field)
	if err != nil || !validPort(port) || strings.ContainsAny(host, "/ ") {
		c.errorf(c.place(field, owner), "%s: %s is not host:port; write an address such as 127.0.0.1:8080", name, c.show(field))
		return false
	}
	return !isLoopback(host)
}

func (c *checker) listener() {
	h := &c.cfg.HTTP
	public := c.listenAddress(&h.Address, "http.address", h)
	if h.TLS != "" {
		c.serverProfile(&h.TLS)
	} else if public {
		c.warnf(c.place(&h.Address), "http.address: other machines can reach %s and agents' tokens travel in the clear; set http.tls, or terminate TLS in front", c.show(&h.Address))
	}
	if h.MaxRequestBytes < 1<<10 || h.MaxRequestBytes > 64<<20 {
		c.errorf(c.place(&h.MaxRequestBytes), "maxRequestBytes must be from 1024 to 67108864")
	}
	if h.MaxConnections < 1 || h.MaxConnections > 1_000_000 {
		c.errorf(c.place(&h.MaxConnections), "maxConnections must be from 1 to 1000000")
	}
	c.rate(h.RequestLimit, "requestLimit")
	c.unique(h.AllowedHosts, "allowedHosts")
	c.unique(h.AllowedOrigins, "allowedOrigins")
	for i := range h.AllowedHosts {
		if strings.ContainsAny(h.AllowedHosts[i], "/*@? ") {
			c.errorf(c.place(&h.AllowedHosts[i]), "allowedHosts: %s is not a host or host:port; write the value of the Host header", c.show(&h.AllowedHosts[i]))
		}
	}
	for i := range h.AllowedOrigins {
		origin := h.AllowedOrigins[i]
		u, err := url.Parse(origin)
		if err != nil || u.Scheme == "" || u.Host == "" || strings.Contains(origin, "*") || origin != u.Scheme+"://"+u.Host {
			c.errorf(c.place(&h.AllowedOrigins[i]), "allowedOrigins: %s is not an origin; write scheme://host[:port] without a path or wildcard", c.show(&h.AllowedOrigins[i]))
		}
	}
}

// rate checks a limit; nil is none.
func (c *checker) rate(r *Rate, name string) {
	if r == nil {
		return
	}
	if r.Calls < 1 || r.Calls > 1<<30 {
		c.errorf(c.place(&r.Calls, r), "%s.calls must be from 1 to 1073741824", name)
	}
	if r.Per < time.Second || r.Per > 24*time.Hour {
		c.errorf(c.place(&r.Per, r), "%s.per must be from 1s to 24h", name)
	}
}

func (c *checker) addresses() {
	if a := &c.cfg.Admin; c.listenAddress(&a.Address, "admin.address", a) {
		c.warnf(c.place(&a.Address), "admin.address: other machines can reach %s, which asks for no credential; use a loopback address or close the network", c.show(&a.Address))
	}
	s := &c.cfg.Service
	switch socket, isSocket := strings.CutPrefix(s.Address, "unix:"); {
	case s.Address == "":
	case isSocket && !path.IsAbs(socket):
		c.errorf(c.place(&s.Address), "service.address: %s is not absolute; write unix:/absolute/path", c.show(&s.Address))
	case !isSocket && c.listenAddress(&s.Address, "service.address", s) && s.TLS == "":
		c.warnf(c.place(&s.Address), "service.address: other machines can reach %s and ask for exchanged tokens; set service.tls, or use unix:/absolute/path or a loopback address", c.show(&s.Address))
	}
	if s.Hub != "" && c.listenAddress(&s.Hub, "service.hub", s) && s.TLS == "" {
		c.warnf(c.place(&s.Hub), "service.hub: other machines can reach %s, where agents' tokens travel in the clear; set service.tls, use a loopback address or close the network", c.show(&s.Hub))
	}
	c.serviceTLS(s)
	c.canary(&s.Canary)
	c.replicas(s)
	used := map[string]string{}
	claim := func(field *string, name string) {
		if other := used[*field]; other != "" && *field != "" {
			c.errorf(c.place(field), "%s: %s is already %s; choose another port", name, c.show(field), other)
		}
		used[*field] = name
	}
	claim(&c.cfg.HTTP.Address, "http.address")
	claim(&c.cfg.Admin.Address, "admin.address")
	claim(&s.Address, "service.address")
	claim(&s.Hub, "service.hub")
	if p := c.cfg.AuthProvider; p != nil && p.Enabled {
		claim(&p.Address, "authProvider.address")
	}
	for i := range c.cfg.Connectors {
		if k := &c.cfg.Connectors[i]; k.Type == "sts" {
			claim(&k.Address, "connector "+c.show(&k.Name)+" address")
		}
	}
}

func (c *checker) canary(field *string) {
	if *field == "" || *field == "off" {
		return
	}
	u, err := url.Parse(*field)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || *field != u.Scheme+"://"+u.Host {
		c.errorf(c.place(field), "service.canary: %s is not an origin; write http://host:port, the agents' listener of this service's own Envoy, or off", c.show(field))
	}
}

// paths checks everything that is served on http.address.
func (c *checker) paths() {
	used := map[string]string{}
	claim := func(field *string, name string) {
		if !strings.HasPrefix(*field, "/") || path.Clean(*field) != *field || strings.ContainsAny(*field, "?#% ") {
			c.errorf(c.place(field), "%s: %s is not a path; begin with /, without query, escapes, // or ..", name, c.show(field))
			return
		}
		if other := used[*field]; other != "" {
			c.errorf(c.place(field), "%s: %s is already %s; choose another path", name, c.show(field), other)
		}
		used[*field] = name
	}
	p := &c.cfg.MCPProvider
	if p.Transports.Stream.Enabled {
		claim(&p.Transports.Stream.Path, "stream.path")
	}
	if p.Transports.SSE.Enabled {
		claim(&p.Transports.SSE.Path, "sse.path")
		claim(&p.Transports.SSE.MessagePath, "sse.messagePath")
	}
	if p.Authorization.OAuth.Enabled {
		claim(&p.Authorization.OAuth.MetadataPath, "metadataPath")
	}
	claim(&c.cfg.Health.Location, "health.location")
	c.issuers(used)
}
