package service

import (
	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/authz/token"
	"github.com/sallyport/sallyport/authz/token/dpop"
	"github.com/sallyport/sallyport/cmd/sallyport/internal/config"
	"github.com/sallyport/sallyport/extproc/hub"
)

// How the tokens of each authorization server are verified.

func issuerConfig(s *config.AuthorizationServer) token.IssuerConfig {
	v := s.TokenValidation
	c := token.IssuerConfig{WellKnown: s.WellKnownEndpoint, RefreshInterval: s.RefreshInterval, AllowPlainHTTP: s.AllowPlainHTTP,
		Audiences: v.ExpectedAudiences, Clients: v.Clients, ClockSkew: v.JWT.ClockSkew, MaxLifetime: v.MaxLifetime,
		Binding: token.BindingMode(v.Binding)}
	if v.Method == "introspection" {
		i := v.Introspection
		c.Introspection = &token.IntrospectionConfig{Endpoint: i.Endpoint, ClientID: i.ClientID, ClientSecret: i.ClientSecret.Reveal(),
			AuthMethod: i.AuthMethod, Tokens: token.IntrospectedTokens(i.Tokens), CacheTTL: i.CacheTTL, Timeout: i.Timeout}
	}
	return c
}

// dpopConfig is how proofs are judged. Nonces are made with the key of the sessions, which replicas share.
func dpopConfig(cfg *config.Config, proofs dpop.Replays) dpop.Config {
	d := cfg.MCPProvider.Authorization.OAuth.DPoP
	c := dpop.Config{Window: d.ProofAge, NonceLifetime: d.NonceLifetime, Replays: proofs}
	if d.RequireNonce {
		c.NonceKey = sessionKey(cfg)
	}
	return c
}

// sharedProofs is where replicas see each other's used proofs; nil when the store is this process's own.
func sharedProofs(store hub.Store) dpop.Replays {
	if shared, ok := store.(*hub.Redis); ok {
		return shared.Proofs()
	}
	return nil
}

// bound says which bound tokens cfg lets in. Certificates count only where the listener asks for them.
func bound(cfg *config.Config) authz.Bound {
	oauth := cfg.MCPProvider.Authorization.OAuth
	if !oauth.Enabled || !oauth.Binds() {
		return authz.Bound{}
	}
	b := authz.Bound{DPoP: true, Certificates: Gateway(cfg, Sockets{}).TLS.Verifies()}
	b.DPoPOnly = !b.Certificates
	for _, s := range oauth.Servers {
		b.DPoPOnly = b.DPoPOnly && s.TokenValidation.Binding == "required"
	}
	return b
}
