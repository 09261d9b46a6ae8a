package token

import (
	"encoding/json"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"
)

// unknownExpiry is how long the identity of an answer without exp lasts.
const unknownExpiry = 30 * time.Second

// judge makes an entry of an introspection answer (RFC 7662 §2.2). Of a JWT that has been verified here, local, the
// answer has to say that it is active and to contradict nothing; otherwise it has to say everything itself.
func (is *issuer) judge(answer map[string]any, local *entry, asked time.Time) (*entry, error) {
	switch active, ok := answer["active"].(bool); {
	case !ok:
		return nil, fmt.Errorf("%w: introspection: active is not a boolean", ErrInvalidToken)
	case !active:
		return nil, ErrInactive
	}
	e := &entry{issuer: is, stored: asked}
	var err error
	if local != nil {
		e.identity, e.set = local.identity, local.set
		err = confirm(e.identity, answer, is.cfg.ClockSkew, asked)
	} else {
		e.identity, err = is.identify(answer, asked)
	}
	if err != nil {
		return nil, err
	}
	e.until = asked.Add(is.introspection.cfg.CacheTTL)
	if e.identity.Expiry.Before(e.until) {
		e.until = e.identity.Expiry
	}
	return e, nil
}

// identify reads whom an answer speaks of. It needs all that a JWT needs but iss, which the place vouches for, and exp:
// without one the answer is good for a moment. An absent aud is none that is expected here.
func (is *issuer) identify(answer map[string]any, asked time.Time) (*Identity, error) {
	full := maps.Clone(answer)
	if _, ok := full["iss"]; !ok {
		full["iss"] = is.meta.Load().issuer
	}
	if _, ok := full["exp"]; !ok {
		full["exp"] = json.Number(strconv.FormatInt(asked.Add(unknownExpiry).Unix(), 10))
	}
	c, err := readClaims(full)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: introspection: %w", ErrInvalidToken, err)
	case c.issuer != is.meta.Load().issuer:
		return nil, fmt.Errorf("%w: introspection: iss of another", ErrIssuer)
	}
	c.all = answer
	if err := c.check(&is.cfg, "", asked); err != nil {
		return nil, err
	}
	if err := c.checkTokenType(); err != nil {
		return nil, err
	}
	return c.identity(), nil
}

// checkTokenType refuses answers about refresh tokens, which some servers call active too, and answers that deny the
// binding that they carry (RFC 9449 §6.2).
func (c *claims) checkTokenType() error {
	v, ok := c.all["token_type"]
	if !ok {
		return nil
	}
	want := SchemeBearer
	if c.binding.Method == MethodDPoP {
		want = SchemeDPoP
	}
	if s, _ := v.(string); !strings.EqualFold(s, want) {
		return fmt.Errorf("%w: introspection: token_type is not %s", ErrTokenType, want)
	}
	return nil
}

// confirm compares an answer about a verified JWT with what the JWT itself says.
func confirm(id *Identity, answer map[string]any, skew time.Duration, now time.Time) error {
	r := reader{m: answer}
	iss, sub, exp := r.text("iss"), r.text("sub"), r.date("exp")
	switch {
	case r.err != nil:
		return fmt.Errorf("%w: introspection: %w", ErrInvalidToken, r.err)
	case iss != "" && iss != id.Issuer, sub != "" && sub != id.Subject:
		return fmt.Errorf("%w: introspection: the answer is about another token", ErrInvalidToken)
	case !exp.IsZero() && !now.Before(exp.Add(skew)):
		return ErrExpired
	}
	return nil
}

// jwtShaped reports whether a token looks like a compact JWS: three segments, of which the first begins with the brace of
// a JSON object. Such a token is judged as a JWT or not at all; every other token is opaque, a JWE included.
func jwtShaped(raw string) bool {
	head, _, _ := strings.Cut(raw, ".")
	return strings.Count(raw, ".") == 2 && len(head) >= 2 && head[0] == 'e' && strings.IndexByte("wxyz0123456789-_", head[1]) >= 0
}

// opaqueCharset is what a token consists of (RFC 6750 §2.1), before the "=" at its end.
const opaqueCharset = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~+/"

// checkOpaque keeps from the issuer what cannot be a token.
func checkOpaque(raw string) error {
	if body := strings.TrimRight(raw, "="); body == "" || strings.Trim(body, opaqueCharset) != "" {
		return fmt.Errorf("%w: not a b64token", ErrInvalidToken)
	}
	return nil
}
