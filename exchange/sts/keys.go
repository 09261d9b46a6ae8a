package sts

import (
	"crypto"
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const tokenTyp = "at+jwt" // RFC 9068 §2.1

var errNotP256 = errors.New("the key is not ECDSA on P-256")

// signer signs and verifies this server's own access tokens.
type signer struct {
	*signingKey
	public *ecdsa.PublicKey
	jwks   []byte
	parser *jwt.Parser
}

func newSigner(private crypto.Signer, issuer string, now func() time.Time) (*signer, error) {
	if private == nil {
		var err error
		if private, err = generateKey(ES256); err != nil {
			return nil, err
		}
	}
	key, err := newSigningKey(private)
	if err != nil || key.alg != ES256 {
		return nil, errNotP256
	}
	s := &signer{signingKey: key, public: private.Public().(*ecdsa.PublicKey)}
	s.jwks, err = keySetJSON(key)
	s.parser = jwt.NewParser(
		jwt.WithValidMethods([]string{ES256}), jwt.WithIssuer(issuer), jwt.WithExpirationRequired(),
		jwt.WithTimeFunc(now), jwt.WithStrictDecoding(), jwt.WithJSONNumber(),
	)
	return s, err
}

// keySetJSON is a JWK Set (RFC 7517 §5).
func keySetJSON(keys ...*signingKey) ([]byte, error) {
	set := struct {
		Keys []json.RawMessage `json:"keys"`
	}{}
	for _, k := range keys {
		set.Keys = append(set.Keys, k.jwk)
	}
	return json.Marshal(set)
}

func (s *signer) sign(claims jwt.MapClaims) (string, error) {
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	token, err := s.signingKey.sign(slices.Concat(s.header, []byte(b64(payload))))
	return string(token), err
}

// verify accepts only access tokens of this server that are alive.
func (s *signer) verify(token string) (jwt.MapClaims, error) {
	claims := jwt.MapClaims{}
	parsed, err := s.parser.ParseWithClaims(token, claims, func(t *jwt.Token) (any, error) {
		if t.Header["typ"] != tokenTyp || t.Header["kid"] != s.kid {
			return nil, errors.New("not an access token of this server")
		}
		return s.public, nil
	})
	if err != nil || !parsed.Valid {
		return nil, fmt.Errorf("token: %w", err)
	}
	return claims, nil
}

// ParseKey reads an ECDSA P-256 private key in PEM: PKCS #8 ("PRIVATE KEY") or
// SEC 1 ("EC PRIVATE KEY").
func ParseKey(data []byte) (crypto.Signer, error) {
	keys, err := parseKeys(data)
	switch {
	case err != nil && !errors.Is(err, errNotOurs):
		return nil, fmt.Errorf("sts: %w", err)
	case err != nil || keys[0].alg != ES256:
		return nil, fmt.Errorf("sts: %w", errNotP256)
	}
	return keys[0].private, nil
}
