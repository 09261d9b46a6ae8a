package config

import "time"

// Bounds of package authz/token, which refuses the same.
const (
	maxAnswerTTL   = 30 * time.Second
	maxAskTimeout  = 10 * time.Second
	maxProofAge    = 10 * time.Minute
	maxNonceLife   = time.Hour
	shortestWindow = time.Second
)

// introspection checks how a server is asked about tokens.
func (c *checker) introspection(s *AuthorizationServer) {
	t := &s.TokenValidation
	i := &t.Introspection
	switch t.Method {
	case "introspection":
	case "jwt":
		if c.place(i) != nil {
			c.errorf(c.place(i), "introspection belongs to method introspection; write method: introspection, or remove it")
		}
		return
	default:
		c.errorf(c.place(&t.Method), "method: %s is not supported; use jwt or introspection", c.show(&t.Method))
		return
	}
	if i.Endpoint != "" {
		c.issuer(&i.Endpoint, "endpoint", s.AllowPlainHTTP)
	}
	c.required(&i.ClientID, "introspection.clientID", "write the gateway's client id", i, &t.Method)
	if i.ClientSecret == "" {
		c.errorf(c.place(&i.ClientSecret, i, &t.Method), "introspection.clientSecret is missing; add it as <namespace.key>")
	}
	if i.CacheTTL < 0 || i.CacheTTL > maxAnswerTTL {
		c.errorf(c.place(&i.CacheTTL), "cacheTTL must be from 0s to 30s; revoked tokens are accepted that long")
	}
	if i.Timeout <= 0 || i.Timeout > maxAskTimeout {
		c.errorf(c.place(&i.Timeout), "timeout must be longer than zero and at most 10s")
	}
}

// opaque finds two servers that could both be asked about one token.
func (c *checker) opaque(o *OAuth) {
	line := 0
	for n := range o.Servers {
		t := &o.Servers[n].TokenValidation
		if t.Method != "introspection" || t.Introspection.Tokens == "jwt" {
			continue
		}
		place := c.place(&t.Introspection.Tokens, &t.Introspection, &t.Method)
		if line > 0 {
			c.errorf(place, "opaque tokens do not say whose they are, and those of the server on line %d are introspected already; write tokens: jwt for one of the two", line)
			continue
		}
		line = c.place(&o.Servers[n].WellKnownEndpoint, &t.Method).Line
	}
}

// dpop checks how proofs are judged.
func (c *checker) dpop(o *OAuth) {
	d := &o.DPoP
	if d.ProofAge < shortestWindow || d.ProofAge > maxProofAge {
		c.errorf(c.place(&d.ProofAge), "dpop.proofAge must be from 1s to 10m; each used proof is remembered that long")
	}
	if d.NonceLifetime < shortestWindow || d.NonceLifetime > maxNonceLife {
		c.errorf(c.place(&d.NonceLifetime), "dpop.nonceLifetime must be from 1s to 1h")
	}
	if c.place(d) != nil && !o.Binds() {
		c.warnf(c.place(d), "dpop has no effect while binding is none for every server; write binding: optional or required")
	}
}

// Binds reports whether tokens of any server may be bound to a key.
func (o *OAuth) Binds() bool {
	for i := range o.Servers {
		if o.Servers[i].TokenValidation.Binding != "none" {
			return true
		}
	}
	return false
}
