package config

import (
	"slices"
	"strings"
	"time"
)

const grantExchange = "urn:ietf:params:oauth:grant-type:token-exchange"

func (c *checker) authProvider(p *AuthProvider) {
	if !p.Enabled {
		return
	}
	if c.required(&p.Address, "authProvider.address", "write a loopback address such as 127.0.0.1:9000", p) {
		c.providerAddress(p)
	}
	if p.KeyFile != "" {
		c.contents(&p.KeyFile, "keyFile")
	}
	if p.AccessTokenLifetime < time.Second || p.AccessTokenLifetime > 24*time.Hour {
		c.errorf(c.place(&p.AccessTokenLifetime), "accessTokenLifetime must be from 1s to 24h")
	}
	c.defaultAudience(p)
	c.scopes(p.Scopes)
	c.people(p)
}

// providerAddress checks where the embedded server listens, and what it calls itself.
func (c *checker) providerAddress(p *AuthProvider) {
	public := c.listenAddress(&p.Address, "authProvider.address", p)
	switch {
	case public && !p.AllowNonLoopback:
		c.errorf(c.place(&p.Address), "authProvider.address: other machines can reach %s, and the embedded server asks for no password; use a loopback address", c.show(&p.Address))
	case public:
		c.warnf(c.place(&p.Address), "authProvider.address: whoever reaches %s can log in as each of the users; publish its port on loopback only", c.show(&p.Address))
	}
	switch {
	case p.Issuer != "":
		c.embeddedIssuer(p)
	case public && p.AllowNonLoopback:
		c.required(&p.Issuer, "authProvider.issuer", "write the loopback address at which agents reach it, such as http://127.0.0.1:9000", p)
	default:
		p.Issuer = "http://" + p.Address
	}
}

func (c *checker) embeddedIssuer(p *AuthProvider) {
	u := c.address(&p.Issuer, "issuer")
	switch {
	case u == nil:
	case !isLoopback(u.Hostname()):
		c.errorf(c.place(&p.Issuer), "issuer: %s is not on loopback, where the embedded server is; use its address", c.show(&p.Issuer))
	case u.RawQuery != "" || strings.HasSuffix(p.Issuer, "/"):
		c.errorf(c.place(&p.Issuer), "issuer: %s has a query or a slash at its end; remove it", c.show(&p.Issuer))
	}
}

func (c *checker) defaultAudience(p *AuthProvider) {
	if p.DefaultAudience != "" {
		return
	}
	for _, s := range c.cfg.MCPProvider.Authorization.OAuth.Servers {
		if len(s.TokenValidation.ExpectedAudiences) > 0 {
			p.DefaultAudience = s.TokenValidation.ExpectedAudiences[0]
			return
		}
	}
	c.errorf(c.place(&p.DefaultAudience, p), "authProvider.defaultAudience is missing; write the audience of the gateway")
}

// people checks users and clients, whose names share one space: both become `sub`.
func (c *checker) people(p *AuthProvider) {
	if len(p.Users) == 0 {
		c.errorf(c.place(&p.Users, p), "authProvider.users is missing or empty; add at least one subject")
	}
	lines := map[string]int{}
	claim := func(field *string) {
		place := c.place(field)
		if line := lines[*field]; line > 0 {
			c.errorf(place, "the name %s is already on line %d; users and clients have different names", c.show(field), line)
		}
		lines[*field] = place.Line
	}
	for i := range p.Users {
		u := &p.Users[i]
		if c.required(&u.Subject, "a user's subject", "write the sub of the tokens", u) {
			claim(&u.Subject)
		}
		c.scopes(u.Scopes)
	}
	for i := range p.Clients {
		k := &p.Clients[i]
		if c.required(&k.ID, "a client's id", "write it", k) {
			claim(&k.ID)
		}
		c.client(k)
	}
}

func (c *checker) client(k *Client) {
	exchanges := slices.Contains(k.Grants, grantExchange)
	switch {
	case k.Public && k.Secret != "":
		c.errorf(c.place(&k.Secret, k), "client %s is public and has a secret; remove one of them", c.show(&k.ID))
	case !k.Public && k.Secret == "":
		c.errorf(c.place(&k.Secret, k), "client %s has no secret; add one as <namespace.key>, or public: true", c.show(&k.ID))
	case k.Public && (exchanges || slices.Contains(k.Grants, "client_credentials")):
		c.errorf(c.place(&k.Grants, k), "client %s is public and can only log users in; give it a secret", c.show(&k.ID))
	}
	if len(k.Grants) == 0 {
		c.errorf(c.place(&k.Grants, k), "client %s has no grants; list its grant types", c.show(&k.ID))
	}
	if slices.Contains(k.Grants, "authorization_code") && len(k.RedirectURIs) == 0 {
		c.errorf(c.place(&k.RedirectURIs, k), "client %s logs users in and has no redirectURIs; list them", c.show(&k.ID))
	}
	for i := range k.RedirectURIs {
		c.address(&k.RedirectURIs[i], "redirectURIs")
	}
	c.scopes(k.Scopes)
	e := &k.Exchange
	if exchanges && len(e.Audiences) == 0 {
		c.errorf(c.place(&e.Audiences, e, k), "exchange.audiences is missing or empty; list what the client may ask for")
	}
	if exchanges && len(e.SubjectAudiences) == 0 {
		c.errorf(c.place(&e.SubjectAudiences, e, k), "exchange.subjectAudiences is missing or empty; list the audiences of tokens that it may exchange")
	}
	if e.MaxLifetime < time.Second {
		c.errorf(c.place(&e.MaxLifetime), "maxLifetime must be at least 1s")
	}
}

// scopes checks a plain list of OAuth scopes.
func (c *checker) scopes(list []string) {
	for i := range list {
		if !scope.MatchString(list[i]) {
			c.errorf(c.place(&list[i]), "scope %s is not one OAuth scope; write one in each entry, without spaces", c.show(&list[i]))
		}
	}
}
