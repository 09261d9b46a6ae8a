package token

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/authz/token/internal/jose"
)

// check judges what the issuer is known to have said: the claims of a JWT whose signature holds, with the typ of its
// header, or an introspection answer.
func (c *claims) check(cfg *IssuerConfig, typ string, now time.Time) error {
	if err := c.checkKind(typ); err != nil {
		return err
	}
	var err error
	if c.binding, err = c.bind(cfg.Binding); err != nil {
		return err
	}
	if err := c.checkTimes(cfg, now); err != nil {
		return err
	}
	if err := c.checkClient(cfg.Clients); err != nil {
		return err
	}
	for _, aud := range c.audience {
		if slices.Contains(cfg.Audiences, aud) {
			return nil
		}
	}
	return fmt.Errorf("%w: %d values of aud, none expected", ErrAudience, len(c.audience))
}

// purposes are claims in which authorization servers say what a token is for, with the values of access tokens:
// typ of Keycloak, token_use of Amazon Cognito and Ory Hydra.
var purposes = map[string][]string{
	"typ":       {"bearer", "dpop", "jwt", "at+jwt", "access", "access_token"},
	"token_use": {"access", "access_token"},
}

// checkKind refuses the other JWTs that an authorization server signs with the same keys (RFC 8725 §2.8).
func (c *claims) checkKind(typ string) error {
	if _, ok := c.all["events"]; ok {
		return fmt.Errorf("%w: events", ErrTokenType)
	}
	for name, accepted := range purposes {
		v, ok := c.all[name]
		if s, _ := v.(string); ok && !slices.Contains(accepted, strings.ToLower(s)) {
			return fmt.Errorf("%w: %s", ErrTokenType, name)
		}
	}
	switch typ {
	case "at+jwt":
		return nil
	case "jwt", "":
	default:
		return fmt.Errorf("%w: typ %s", ErrTokenType, jose.Clip(typ))
	}
	for _, name := range []string{"nonce", "at_hash", "c_hash"} {
		if _, ok := c.all[name]; ok {
			return fmt.Errorf("%w: %s of an ID token", ErrTokenType, name)
		}
	}
	return nil
}

func (c *claims) checkTimes(cfg *IssuerConfig, now time.Time) error {
	if !now.Before(c.expiry.Add(cfg.ClockSkew)) {
		return ErrExpired
	}
	latest := now.Add(cfg.ClockSkew)
	if c.notBefore.After(latest) {
		return fmt.Errorf("%w: nbf", ErrNotYetValid)
	}
	if c.issuedAt.After(latest) {
		return fmt.Errorf("%w: iat", ErrNotYetValid)
	}
	// Without iat the difference saturates: such a token lives too long.
	if cfg.MaxLifetime > 0 && c.expiry.Sub(c.issuedAt) > cfg.MaxLifetime {
		return fmt.Errorf("%w: its lifetime is over %v or not known", ErrExpired, cfg.MaxLifetime)
	}
	return nil
}

// checkClient demands one of the accepted clients. Where client_id and azp name two, both must be.
func (c *claims) checkClient(accepted []string) error {
	if len(accepted) == 0 {
		return nil
	}
	if !slices.Contains(accepted, c.clientID) || c.azp != "" && !slices.Contains(accepted, c.azp) {
		return fmt.Errorf("%w: %s", ErrClient, jose.Clip(c.clientID))
	}
	return nil
}
