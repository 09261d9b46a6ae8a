package config

import (
	"path"
	"strings"
)

// replicas checks that the services of one Envoy can do each other's work.
func (c *checker) replicas(s *Service) {
	if len(s.Replicas) == 0 {
		return
	}
	fail := func(field any, format string, args ...any) {
		c.errorf(c.place(field, &s.Replicas), "service.replicas: "+format, args...)
	}
	if n := len(s.Replicas); n < 2 || n > 16 {
		fail(&s.Replicas, "%d of them; list two to sixteen, this one included, or remove the key", n)
	}
	if store := c.cfg.Session.Store.Reveal(); store == "" || store == "memory" {
		fail(&s.Replicas, "each would know its own sessions only; set session.store")
	}
	if s.Upstreams != "direct" {
		fail(&s.Upstreams, "one Envoy has no way to the upstreams for each; write upstreams: direct")
	}
	if s.EnvoyConfig == "ads" {
		fail(&s.EnvoyConfig, "an Envoy that asks a service for its configuration belongs to that service; write envoyConfig: static")
	}
	if s.Canary != "" && s.Canary != "off" {
		fail(&s.Canary, "any of them may refuse the canary of another; write canary: off")
	}
	_, first := strings.CutPrefix(s.Replicas[0].Address, "unix:")
	seen := map[string]bool{}
	for i := range s.Replicas {
		r := &s.Replicas[i]
		socket, isSocket := strings.CutPrefix(r.Address, "unix:")
		switch {
		case !c.required(&r.Address, "service.replicas.address", "write unix:/absolute/path or host:port", r):
			continue
		case isSocket != first:
			fail(&r.Address, "%s is not of the first one's kind; write unix sockets for all, or host:port for all", c.show(&r.Address))
		case isSocket && !path.IsAbs(socket):
			fail(&r.Address, "%s is not absolute; write unix:/absolute/path", c.show(&r.Address))
		case isSocket && r.Hub != "":
			fail(&r.Hub, "the hub of a unix socket is beside it; remove hub")
		case !isSocket:
			c.listenAddress(&r.Address, "service.replicas.address", r)
			if c.required(&r.Hub, "service.replicas.hub", "write the host:port of that service's hub", r) {
				c.listenAddress(&r.Hub, "service.replicas.hub", r)
			}
		}
		for _, field := range []*string{&r.Address, &r.Hub} {
			if *field != "" && seen[*field] {
				fail(field, "%s is given twice; remove one", c.show(field))
			}
			seen[*field] = true
		}
	}
}
