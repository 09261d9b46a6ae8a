package jose

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"

	"github.com/golang-jwt/jwt/v5"
)

// Key is one public key and the algorithms (RFC 7518 §3.1, RFC 8037 §3.1) that it may verify. The zero Key verifies
// nothing.
type Key struct {
	public crypto.PublicKey
	algs   []string
}

// Permits reports whether the key may be used with alg.
func (k Key) Permits(alg string) bool { return slices.Contains(k.algs, alg) }

// Verifies reports whether t is signed by the key, with an algorithm that the key permits.
func (k Key) Verifies(t *JWT) bool {
	return k.Permits(t.Alg) && methods[t.Alg].Verify(t.signed, t.signature, k.public) == nil
}

// Equal reports whether both keys are the same, and for the same algorithms.
func (k Key) Equal(o Key) bool {
	p, ok := k.public.(interface{ Equal(crypto.PublicKey) bool })
	return ok && p.Equal(o.public) && slices.Equal(k.algs, o.algs)
}

// Thumbprint is the key's SHA-256 JWK thumbprint (RFC 7638 §3, RFC 8037 §2), in base64url. It is made from the key
// itself, so a JWK that spells its numbers in an unusual way has the thumbprint of the usual spelling.
func (k Key) Thumbprint() string {
	text := base64.RawURLEncoding.EncodeToString
	var members string // the required ones, in lexicographic order, without white space
	switch p := k.public.(type) {
	case *ecdsa.PublicKey:
		point, err := p.Bytes()
		if err != nil {
			return ""
		}
		x, y := point[1:1+len(point)/2], point[1+len(point)/2:]
		members = `{"crv":"` + p.Params().Name + `","kty":"EC","x":"` + text(x) + `","y":"` + text(y) + `"}`
	case *rsa.PublicKey:
		e := big.NewInt(int64(p.E)).Bytes()
		members = `{"e":"` + text(e) + `","kty":"RSA","n":"` + text(p.N.Bytes()) + `"}`
	case ed25519.PublicKey:
		members = `{"crv":"Ed25519","kty":"OKP","x":"` + text(p) + `"}`
	default:
		return ""
	}
	sum := sha256.Sum256([]byte(members))
	return text(sum[:])
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

// Algorithms returns the names of every accepted signature algorithm, sorted. All are asymmetric.
func Algorithms() []string { return slices.Sorted(maps.Keys(methods)) }

// private are the members of JWKs that hold secrets (RFC 7518 §6.2.2, §6.3.2, §6.4.1).
var private = []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k"}

// ParseKey reads a JWK (RFC 7517 §4, RFC 7518 §6, RFC 8037 §2). It refuses what must not verify a signature: secrets,
// private keys (whoever has shown one has lost it), encryption keys and weak keys.
func ParseKey(m map[string]any) (Key, error) {
	for _, name := range private {
		if _, ok := m[name]; ok {
			return Key{}, errors.New("a private key")
		}
	}
	if !forSignatures(m) {
		return Key{}, errors.New("not for signatures")
	}
	k, err := material(m)
	if err != nil {
		return Key{}, err
	}
	alg, err := member(m, "alg")
	switch {
	case err != nil:
		return Key{}, err
	case alg == "":
		return k, nil
	case !k.Permits(alg):
		return Key{}, fmt.Errorf("alg %s does not fit the key", Clip(alg))
	}
	k.algs = []string{alg}
	return k, nil
}

// forSignatures reads what a key says that it is for (RFC 7517 §4.2 and §4.3).
func forSignatures(m map[string]any) bool {
	use, err := member(m, "use")
	if err != nil || use != "" && use != "sig" {
		return false
	}
	ops, present := m["key_ops"]
	list, _ := ops.([]any)
	return !present || ops == nil || slices.Contains(list, any("verify"))
}

// member returns a member that is a string, "" when it is absent or null.
func member(m map[string]any, name string) (string, error) {
	switch v := m[name].(type) {
	case nil:
		return "", nil
	case string:
		return v, nil
	}
	return "", errors.New("not a JWK")
}

// octets decodes a member that is base64url.
func octets(m map[string]any, name string) ([]byte, error) {
	s, err := member(m, name)
	if err != nil {
		return nil, err
	}
	return Segment(s)
}

func material(m map[string]any) (Key, error) {
	kty, err := member(m, "kty")
	if err != nil {
		return Key{}, err
	}
	switch kty {
	case "RSA":
		return parseRSA(m)
	case "EC":
		return parseEC(m)
	case "OKP":
		x, err := octets(m, "x")
		if m["crv"] != "Ed25519" || err != nil || len(x) != ed25519.PublicKeySize {
			return Key{}, errors.New("not an Ed25519 key")
		}
		return Key{ed25519.PublicKey(x), okpAlgs}, nil
	}
	return Key{}, fmt.Errorf("kty %s", Clip(kty))
}

func parseRSA(m map[string]any) (Key, error) {
	n, errN := octets(m, "n")
	e, errE := octets(m, "e")
	if errN != nil || errE != nil {
		return Key{}, errors.New("not an RSA key")
	}
	modulus, exponent := new(big.Int).SetBytes(n), new(big.Int).SetBytes(e)
	if bits := modulus.BitLen(); bits < minRSABits || bits > maxRSABits || modulus.Bit(0) == 0 {
		return Key{}, fmt.Errorf("RSA modulus of %d bits", bits)
	}
	if exponent.BitLen() > 31 || exponent.Int64() < minRSAExponent || exponent.Bit(0) == 0 {
		return Key{}, errors.New("RSA exponent out of range")
	}
	return Key{&rsa.PublicKey{N: modulus, E: int(exponent.Int64())}, rsaAlgs}, nil
}

// parseEC reads the coordinates, which have the full length of the field (RFC 7518 §6.2.1.2).
func parseEC(m map[string]any) (Key, error) {
	crv, errC := member(m, "crv")
	x, errX := octets(m, "x")
	y, errY := octets(m, "y")
	curve, ok := curves[crv]
	if errC != nil || errX != nil || errY != nil || !ok || len(x) != len(y) {
		return Key{}, errors.New("not a key on a known curve")
	}
	public, err := ecdsa.ParseUncompressedPublicKey(curve, slices.Concat([]byte{4}, x, y))
	if err != nil {
		return Key{}, errors.New("not a point on the curve")
	}
	return Key{public, ecAlgs[curve]}, nil
}
