package sts

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const tokenTyp = "at+jwt" // RFC 9068 §2.1

// signer signs and verifies this server's own access tokens.
type signer struct {
	key    crypto.Signer
	public *ecdsa.PublicKey
	kid    string // RFC 7638 thumbprint
	jwks   []byte
	parser *jwt.Parser
}

func newSigner(key crypto.Signer, issuer string, now func() time.Time) (*signer, error) {
	if key == nil {
		var err error
		if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return nil, err
		}
	}
	public, ok := key.Public().(*ecdsa.PublicKey)
	if !ok || public.Curve != elliptic.P256() {
		return nil, errors.New("the key is not ECDSA on P-256")
	}
	point, err := public.Bytes() // 4, x, y
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	x, y := b64(point[1:33]), b64(point[33:])
	thumb := sha256.Sum256(fmt.Appendf(nil, `{"crv":"P-256","kty":"EC","x":%q,"y":%q}`, x, y))
	s := &signer{key: key, public: public, kid: b64(thumb[:])}
	s.jwks, err = json.Marshal(map[string]any{"keys": []map[string]string{{
		"kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": s.kid, "use": "sig", "alg": "ES256",
	}}})
	s.parser = jwt.NewParser(
		jwt.WithValidMethods([]string{"ES256"}), jwt.WithIssuer(issuer), jwt.WithExpirationRequired(),
		jwt.WithTimeFunc(now), jwt.WithStrictDecoding(), jwt.WithJSONNumber(),
	)
	return s, err
}

// sign goes through crypto.Signer, so that the key may live elsewhere.
func (s *signer) sign(claims jwt.MapClaims) (string, error) {
	token := jwt.NewWithClaims(jwt.SigningMethodES256, claims)
	token.Header["typ"], token.Header["kid"] = tokenTyp, s.kid
	text, err := token.SigningString()
	if err != nil {
		return "", err
	}
	digest := sha256.Sum256([]byte(text))
	der, err := s.key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return "", err
	}
	var sig struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &sig); err != nil {
		return "", fmt.Errorf("signature: %w", err)
	}
	raw := make([]byte, 64) // RFC 7518 §3.4: R and S, 32 bytes each
	sig.R.FillBytes(raw[:32])
	sig.S.FillBytes(raw[32:])
	return text + "." + b64(raw), nil
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
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, errors.New("sts: no PEM block")
	}
	var parsed any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		parsed, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		parsed, err = x509.ParseECPrivateKey(block.Bytes)
	default:
		return nil, fmt.Errorf("sts: PEM block %q is not a private key", block.Type)
	}
	if err != nil {
		return nil, errors.New("sts: the private key cannot be parsed")
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("sts: the key is not ECDSA on P-256")
	}
	return key, nil
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
