package config

import (
	"net/url"
	"strconv"
	"strings"
)

func (c *checker) session() {
	s := &c.cfg.Session
	c.store(s)
	key := s.Key.Reveal()
	distinct := map[rune]bool{}
	for _, r := range key {
		distinct[r] = true
	}
	switch place := c.place(&s.Key); {
	case key == "" && place == nil:
	case len(key) < 32:
		c.errorf(place, "session.key is shorter than 32 bytes; make one with: openssl rand -base64 48")
	case len(distinct) < 8:
		c.errorf(place, "session.key repeats a few characters and can be guessed; make one with: openssl rand -base64 48")
	}
}

// store checks where sessions are kept. The value may carry a password, so no
// problem repeats any of it.
func (c *checker) store(s *Session) {
	if s.Store == "memory" {
		return
	}
	place := c.place(&s.Store)
	address, ok := s.Redis()
	if file := c.place(&c.cfg.Revocation.File); ok && file != nil {
		c.errorf(file, "revocation.file is of no use with a session.store that replicas share, where revocations are kept; remove it")
	}
	if !ok {
		c.errorf(place, "session.store is neither memory nor the address of a Redis; write redis://host:port or rediss://host:port")
		return
	}
	if c.place(&s.Key) == nil {
		c.errorf(place, "session.store other than memory needs session.key, which the replicas share; make one with: openssl rand -base64 48")
	}
	u, err := url.Parse(address)
	if err != nil || u.Hostname() == "" || !validPort(u.Port()) {
		c.errorf(place, "session.store is not redis://[user:password@]host:port[/db]; correct it, and percent-encode the special characters of a password")
		return
	}
	if u.User != nil {
		if password, _ := u.User.Password(); password == "" {
			c.errorf(place, "session.store has a user without a password; write user:password@, or :password@ for the default user")
		}
	}
	if db := u.EscapedPath(); db != "" {
		if _, err := strconv.ParseUint(db[1:], 10, 31); err != nil {
			c.errorf(place, "session.store has something else than a database's number after host:port; write it as /0, or remove it")
		}
	}
	if strings.ContainsAny(address, "?#") {
		c.errorf(place, "session.store has a query or fragment; remove it, and percent-encode the special characters of a password")
	}
	if u.Scheme == "redis" && !isLoopback(u.Hostname()) {
		c.warnf(place, "session.store: redis:// beyond loopback shows the sessions' ids and the store's password on the path; use rediss://, or close the network")
	}
}
