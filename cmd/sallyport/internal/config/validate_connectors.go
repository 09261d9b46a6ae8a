package config

import (
	"net/netip"
	"strings"
	"time"

	"github.com/sallyport/sallyport/exchange"
	"github.com/sallyport/sallyport/exchange/sts"
)

const minRotation = 2 * time.Hour // a key is published that long after it has signed

func (c *checker) connectors() {
	for i := range c.cfg.Connectors {
		k := &c.cfg.Connectors[i]
		c.required(&k.Name, "a connector's name", "apps refer to it", k)
		switch k.Type {
		case "oidc":
			c.foreign("sts", map[string]any{"issuer": &k.Issuer, "address": &k.Address, "keyDir": &k.KeyDir, "keys": &k.Keys,
				"algorithm": &k.Algorithm, "rotateEvery": &k.RotateEvery})
			c.server(k)
		case "sts":
			c.foreign("oidc", map[string]any{"oidcWellKnownURL": &k.OIDCWellKnownURL, "oauthClientSecret": &k.OAuthClientSecret,
				"tokenEndpointAuthMethod": &k.TokenEndpointAuthMethod, "privateKeyFile": &k.PrivateKeyFile, "privateKey": &k.PrivateKey,
				"keyID": &k.KeyID, "assertionAudience": &k.AssertionAudience, "grant": &k.Grant, "tokenIssuer": &k.TokenIssuer,
				"additionalParameters": &k.AdditionalParameters, "maxConcurrent": &k.MaxConcurrent, "breaker": &k.Breaker,
				"tls": &k.TLS, "allowNetworks": &k.AllowNetworks})
			c.mint(k)
		default:
			c.errorf(c.place(&k.Type, k), "connector type %s is not supported; use oidc or sts", c.show(&k.Type))
		}
		c.required(&k.OAuthClientID, "oauthClientID", "write the gateway's client id", k)
	}
}

// foreign reports the keys that belong to connectors of another type.
func (c *checker) foreign(kind string, fields map[string]any) {
	for name, field := range fields {
		if c.place(field) != nil {
			c.errorf(c.place(field), "%s belongs to connectors of type %s; remove it", name, kind)
		}
	}
}

// server checks the connector of an authorization server.
func (c *checker) server(k *Connector) {
	if c.required(&k.OIDCWellKnownURL, "oidcWellKnownURL", "write the address of the server's metadata", k) {
		c.issuer(&k.OIDCWellKnownURL, "oidcWellKnownURL", k.AllowPlainHTTP)
	}
	if k.TLS != "" {
		c.clientProfile(&k.TLS)
	}
	for j := range k.AllowNetworks {
		if _, err := netip.ParsePrefix(k.AllowNetworks[j]); err != nil {
			c.errorf(c.place(&k.AllowNetworks[j], k), "allowNetworks: %s is not a network; write it as 10.20.0.0/16", c.show(&k.AllowNetworks[j]))
		}
	}
	if k.MaxConcurrent < 1 || k.MaxConcurrent > 256 {
		c.errorf(c.place(&k.MaxConcurrent), "maxConcurrent must be from 1 to 256")
	}
	c.breaker(&k.Breaker)
	c.clientKey(k)
	c.parameters(k)
}

func (c *checker) breaker(b *Breaker) {
	switch {
	case b.Failures < 0 || b.Failures > 1000:
		c.errorf(c.place(&b.Failures), "breaker.failures must be from 0, which turns the breaker off, to 1000")
	case b.BackOff < 100*time.Millisecond || b.BackOff > time.Hour:
		c.errorf(c.place(&b.BackOff), "breaker.backOff must be from 100ms to 1h")
	case b.MaxBackOff < b.BackOff || b.MaxBackOff > time.Hour:
		c.errorf(c.place(&b.MaxBackOff, &b.BackOff), "breaker.maxBackOff must be from backOff to 1h")
	}
}

// clientKey reads the key for private_key_jwt.
func (c *checker) clientKey(k *Connector) {
	field, name, text := any(&k.PrivateKey), "privateKey", []byte(k.PrivateKey.Reveal())
	switch {
	case k.PrivateKeyFile != "" && k.PrivateKey != "":
		c.errorf(c.place(&k.PrivateKey), "connector %s has both privateKeyFile and privateKey; keep one", c.show(&k.Name))
		return
	case k.PrivateKeyFile != "":
		content, ok := c.contents(&k.PrivateKeyFile, "privateKeyFile")
		if !ok {
			return
		}
		field, name, text = &k.PrivateKeyFile, "privateKeyFile", content
	case k.PrivateKey == "":
		return
	}
	if _, err := exchange.ParseClientKey(text); err != nil {
		c.errorf(c.place(field), "%s: %s", name, strings.TrimPrefix(err.Error(), "exchange: "))
	}
	if k.TokenEndpointAuthMethod == "" && k.OAuthClientSecret != "" {
		c.errorf(c.place(field), "connector %s has a secret and a private key; say in tokenEndpointAuthMethod which one is used", c.show(&k.Name))
	}
}

// parameters holds additional parameters to what the client accepts.
func (c *checker) parameters(k *Connector) {
	if len(k.AdditionalParameters) == 0 {
		return
	}
	cfg := exchange.Config{WellKnown: "https://localhost", ClientID: "-", ClientSecret: "-", AdditionalParameters: k.Parameters()}
	if _, err := exchange.New(cfg); err != nil {
		c.errorf(c.place(&k.AdditionalParameters), "additionalParameters: %s", strings.TrimPrefix(err.Error(), "exchange: "))
	}
}

// Parameters are the additional parameters as they are sent.
func (c *Connector) Parameters() map[string]string {
	out := make(map[string]string, len(c.AdditionalParameters))
	for name, value := range c.AdditionalParameters {
		out[name] = value.Reveal()
	}
	return out
}

// mint checks the connector of a gateway that mints by itself.
func (c *checker) mint(k *Connector) {
	if c.required(&k.Issuer, "issuer", "write the address by which MCP servers find the keys", k) {
		c.issuer(&k.Issuer, "issuer", k.AllowPlainHTTP)
		if strings.HasSuffix(k.Issuer, "/") || strings.Contains(k.Issuer, "?") {
			c.errorf(c.place(&k.Issuer), "issuer: %s has a query or a slash at its end; remove it", c.show(&k.Issuer))
		}
	}
	switch {
	case k.Address == "" && c.cfg.AtGateway(k.Issuer):
	case k.Address == "":
		k.Address = defaultMintAddress
	case c.listenAddress(&k.Address, "address", k):
		c.warnf(c.place(&k.Address), "address: other machines can reach %s over plain HTTP, where keys can be replaced on their way; use a loopback address behind what terminates TLS", c.show(&k.Address))
	}
	if k.RotateEvery != 0 && k.RotateEvery < minRotation {
		c.errorf(c.place(&k.RotateEvery), "rotateEvery must be at least 2h, or 0s for no new keys")
	}
	switch {
	case k.KeyDir != "" && k.Keys != "":
		c.errorf(c.place(&k.Keys), "connector %s has both keyDir and keys; keep one", c.show(&k.Name))
	case k.Keys != "":
		c.signingKeys(k)
	case k.KeyDir == "":
		c.warnf(c.place(k), "connector %s has its key in memory, so tokens are worthless after a restart until MCP servers have fetched the new one; write keyDir, or keys as <namespace.key>", c.show(&k.Name))
	}
}

func (c *checker) signingKeys(k *Connector) {
	if _, err := sts.NewKeySet(sts.KeySetConfig{PEM: []byte(k.Keys.Reveal())}); err != nil {
		c.errorf(c.place(&k.Keys), "%s", strings.TrimPrefix(err.Error(), "sts: "))
	}
	for name, field := range map[string]any{"algorithm": &k.Algorithm, "rotateEvery": &k.RotateEvery} {
		if c.place(field) != nil {
			c.warnf(c.place(field), "%s has no effect on keys that are given; remove it", name)
		}
	}
}

// minters checks what connectors of type sts share with each other and with the embedded server.
func (c *checker) minters() {
	lines := map[string]int{}
	for i := range c.cfg.Connectors {
		k := &c.cfg.Connectors[i]
		if k.Type != "sts" || k.Issuer == "" {
			continue
		}
		if p := c.cfg.AuthProvider; p != nil && p.Enabled && p.Issuer == k.Issuer {
			c.errorf(c.place(&k.Issuer), "issuer: %s is that of authProvider, whose keys are others; write an issuer of its own", c.show(&k.Issuer))
		}
		place := c.place(&k.Issuer)
		if line := lines[k.Issuer]; line > 0 {
			c.errorf(place, "issuer: %s is already on line %d; let apps share that connector", c.show(&k.Issuer), line)
		}
		lines[k.Issuer] = place.Line
	}
}

// idp finds the connector that an app's tokens come from, and checks that the two fit.
func (c *checker) idp(t *TokenExchange) {
	var names []string
	for i := range c.cfg.Connectors {
		k := &c.cfg.Connectors[i]
		names = append(names, c.written(&k.Name))
		if k.Name != t.IDP {
			continue
		}
		switch k.Type {
		case "oidc":
			c.credential(k)
			c.fitsServer(t, k)
		case "sts":
			c.fitsMint(t)
		}
		return
	}
	cure := suggest(c.written(&t.IDP), names)
	if len(names) == 0 {
		cure = "; add it under the top-level key connectors"
	}
	c.errorf(c.place(&t.IDP), "unknown idp %s: no connector has this name%s", c.show(&t.IDP), cure)
}

// credential checks that the gateway can prove who it is, which exchanging tokens needs and logging in may not.
func (c *checker) credential(k *Connector) {
	switch method := k.TokenEndpointAuthMethod; method {
	case exchange.AuthPrivateKeyJWT:
		if k.PrivateKeyFile == "" && k.PrivateKey == "" {
			c.errorf(c.place(&k.TokenEndpointAuthMethod), "connector %s has no privateKeyFile, which private_key_jwt needs; name the PEM file, or write privateKey as <namespace.key>", c.show(&k.Name))
		}
	case exchange.AuthTLS, exchange.AuthSelfSignedTLS:
		if p := c.cfg.TLS[k.TLS]; p == nil || p.CertFile == "" {
			c.errorf(c.place(&k.TokenEndpointAuthMethod), "connector %s has no tls profile with a certFile, which %s needs; add it", c.show(&k.Name), method)
		}
	default:
		if k.OAuthClientSecret == "" && (method != "" || k.PrivateKeyFile == "" && k.PrivateKey == "") {
			c.errorf(c.place(&k.OAuthClientSecret, k), "connector %s has no oauthClientSecret, which exchanging tokens needs; add it as <namespace.key>", c.show(&k.Name))
		}
	}
}

// fitsServer checks an app against the server that it asks.
func (c *checker) fitsServer(t *TokenExchange, k *Connector) {
	for name := range k.AdditionalParameters {
		if strings.EqualFold(name, t.TTLParameter) {
			c.errorf(c.place(&t.TTLParameter, &t.IDP), "ttlParameter is also one of the connector's additionalParameters; remove one")
		}
	}
	if k.Grant != "onBehalfOf" {
		return
	}
	if t.ActorToken != "" {
		c.errorf(c.place(&t.ActorToken), "actorToken: the grant onBehalfOf of connector %s knows no actor; remove it", c.show(&k.Name))
	}
	if t.RequireAct {
		c.errorf(c.place(&t.RequireAct), "requireAct: the grant onBehalfOf of connector %s knows no actor; remove it", c.show(&k.Name))
	}
}

// fitsMint checks an app whose tokens the gateway mints.
func (c *checker) fitsMint(t *TokenExchange) {
	if t.SubjectClaim != "" {
		c.errorf(c.place(&t.SubjectClaim), "subjectClaim: a minted token has the agent's sub; remove it")
	}
	for name, field := range map[string]any{"timeout": &t.Timeout, "ttlParameter": &t.TTLParameter, "actorToken": &t.ActorToken,
		"opaqueTokens": &t.OpaqueTokens, "longerLifetimes": &t.LongerLifetimes, "narrowerScopes": &t.NarrowerScopes, "reuse": &t.Reuse} {
		if c.place(field) != nil {
			c.warnf(c.place(field), "%s has no effect on tokens that the gateway mints; remove it", name)
		}
	}
}
