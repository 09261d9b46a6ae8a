package token

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"errors"
	"fmt"
	"math/big"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/golang-jwt/jwt/v5"
)

// key is one public key and the algorithms (RFC 7518 §3.1, RFC 8037 §3.1) that it may verify.
type key struct {
	public crypto.PublicKey
	algs   []string
}

func (k key) permits(alg string) bool { return slices.Contains(k.algs, alg) }

// verify checks the signature of t, provided that the key may be used with its algorithm.
func (k key) verify(t *parsed) error {
	if !k.permits(t.header.alg) {
		return fmt.Errorf("%w: kid %s is not for %s", ErrKey, clip(t.header.kid), t.header.alg)
	}
	if methods[t.header.alg].Verify(t.signed, t.signature, k.public) != nil {
		return ErrSignature
	}
	return nil
}

func (k key) equal(o key) bool {
	p, ok := k.public.(interface{ Equal(crypto.PublicKey) bool })
	return ok && p.Equal(o.public) && slices.Equal(k.algs, o.algs)
}

const (
	minRSABits     = 2048
	maxRSABits     = 8192
	minRSAExponent = 65537 // FIPS 186-5 §5.1; small exponents are what padding forgeries need
)

var (
	rsaAlgs = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
	ecAlgs  = map[elliptic.Curve][]string{
		elliptic.P256(): {"ES256"},
		elliptic.P384(): {"ES384"},
		elliptic.P521(): {"ES512"},
	}
	okpAlgs = []string{"EdDSA"}

	curves = map[string]elliptic.Curve{
		"P-256": elliptic.P256(),
		"P-384": elliptic.P384(),
		"P-521": elliptic.P521(),
	}

	// methods is every algorithm that any key could permit. All are asymmetric.
	methods = map[string]jwt.SigningMethod{
		"RS256": jwt.SigningMethodRS256,
		"RS384": jwt.SigningMethodRS384,
		"RS512": jwt.SigningMethodRS512,
		"PS256": jwt.SigningMethodPS256,
		"PS384": jwt.SigningMethodPS384,
		"PS512": jwt.SigningMethodPS512,
		"ES256": jwt.SigningMethodES256,
		"ES384": jwt.SigningMethodES384,
		"ES512": jwt.SigningMethodES512,
		"EdDSA": jwt.SigningMethodEdDSA,
	}
)

// jwk is a JSON Web Key (RFC 7517 §4, RFC 7518 §6, RFC 8037 §2).
type jwk struct {
	Kty    string         `json:"kty"`
	Kid    string         `json:"kid"`
	Use    string         `json:"use"`
	Alg    string         `json:"alg"`
	KeyOps []string       `json:"key_ops"`
	Crv    string         `json:"crv"`
	N      string         `json:"n"`
	E      string         `json:"e"`
	X      string         `json:"x"`
	Y      string         `json:"y"`
	D      jsontext.Value `json:"d"`
}

// parseKey reads one JWK. It refuses what must not verify an access token: secrets, private keys (whoever published
// one has lost it), encryption keys and weak keys.
func parseKey(raw []byte) (kid string, k key, err error) {
	var j jwk
	if err := json.Unmarshal(raw, &j); err != nil {
		return "", key{}, errors.New("not a JWK")
	}
	switch {
	case j.Kid == "" || len(j.Kid) > maxKeyIDBytes:
		return "", key{}, errors.New("no usable kid")
	case len(j.D) > 0:
		return "", key{}, errors.New("a private key")
	case j.Use != "" && j.Use != "sig", j.KeyOps != nil && !slices.Contains(j.KeyOps, "verify"):
		return "", key{}, errors.New("not for signatures")
	}
	if k, err = j.material(); err != nil {
		return "", key{}, err
	}
	if j.Alg != "" {
		if !k.permits(j.Alg) {
			return "", key{}, fmt.Errorf("alg %s does not fit the key", clip(j.Alg))
		}
		k.algs = []string{j.Alg}
	}
	return j.Kid, k, nil
}

func (j *jwk) material() (key, error) {
	switch j.Kty {
	case "RSA":
		return j.rsa()
	case "EC":
		return j.ec()
	case "OKP":
		x, err := segment(j.X)
		if j.Crv != "Ed25519" || err != nil || len(x) != ed25519.PublicKeySize {
			return key{}, errors.New("not an Ed25519 key")
		}
		return key{ed25519.PublicKey(x), okpAlgs}, nil
	}
	return key{}, fmt.Errorf("kty %s", clip(j.Kty))
}

func (j *jwk) rsa() (key, error) {
	n, errN := segment(j.N)
	e, errE := segment(j.E)
	if errN != nil || errE != nil {
		return key{}, errors.New("not an RSA key")
	}
	modulus, exponent := new(big.Int).SetBytes(n), new(big.Int).SetBytes(e)
	if bits := modulus.BitLen(); bits < minRSABits || bits > maxRSABits || modulus.Bit(0) == 0 {
		return key{}, fmt.Errorf("RSA modulus of %d bits", bits)
	}
	if exponent.BitLen() > 31 || exponent.Int64() < minRSAExponent || exponent.Bit(0) == 0 {
		return key{}, errors.New("RSA exponent out of range")
	}
	return key{&rsa.PublicKey{N: modulus, E: int(exponent.Int64())}, rsaAlgs}, nil
}

// ec reads the coordinates, which have the full length of the field (RFC 7518 §6.2.1.2).
func (j *jwk) ec() (key, error) {
	curve, ok := curves[j.Crv]
	x, errX := segment(j.X)
	y, errY := segment(j.Y)
	if !ok || errX != nil || errY != nil || len(x) != len(y) {
		return key{}, errors.New("not a key on a known curve")
	}
	public, err := ecdsa.ParseUncompressedPublicKey(curve, slices.Concat([]byte{4}, x, y))
	if err != nil {
		return key{}, errors.New("not a point on the curve")
	}
	return key{public, ecAlgs[curve]}, nil
}
