package token

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// check judges the claims of a token whose signature holds.
func (t *parsed) check(cfg *IssuerConfig, now time.Time) error {
	if err := t.checkKind(); err != nil {
		return err
	}
	if err := t.claims.checkTimes(cfg, now); err != nil {
		return err
	}
	for _, aud := range t.claims.audience {
		if slices.Contains(cfg.Audiences, aud) {
			return nil
		}
	}
	return fmt.Errorf("%w: %d values of aud, none expected", ErrAudience, len(t.claims.audience))
}

// purposes are claims in which authorization servers say what a token is for, with the values of access tokens:
// typ of Keycloak, token_use of Amazon Cognito.
var purposes = map[string][]string{
	"typ":       {"bearer", "jwt", "at+jwt", "access", "access_token"},
	"token_use": {"access"},
}

// checkKind refuses the other JWTs that an authorization server signs with the same keys (RFC 8725 §2.8).
func (t *parsed) checkKind() error {
	all := t.claims.all
	if _, ok := all["cnf"]; ok {
		return fmt.Errorf("%w: cnf", ErrBound)
	}
	if _, ok := all["events"]; ok {
		return fmt.Errorf("%w: events", ErrTokenType)
	}
	for name, accepted := range purposes {
		v, ok := all[name]
		if s, _ := v.(string); ok && !slices.Contains(accepted, strings.ToLower(s)) {
			return fmt.Errorf("%w: %s", ErrTokenType, name)
		}
	}
	switch t.header.typ {
	case "at+jwt":
		return nil
	case "jwt", "":
	default:
		return fmt.Errorf("%w: typ %s", ErrTokenType, clip(t.header.typ))
	}
	for _, name := range []string{"nonce", "at_hash", "c_hash"} {
		if _, ok := all[name]; ok {
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
