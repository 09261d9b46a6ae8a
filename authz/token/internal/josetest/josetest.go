// Package josetest makes keys and signed tokens for tests.
package josetest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"sync"

	"github.com/golang-jwt/jwt/v5"
)

// The keys that tests sign with, made when first asked for.
var (
	RSA      = sync.OnceValue(func() crypto.Signer { return Must(rsa.GenerateKey(rand.Reader, 2048)) })
	OtherRSA = sync.OnceValue(func() crypto.Signer { return Must(rsa.GenerateKey(rand.Reader, 2048)) })
	EC       = sync.OnceValue(func() crypto.Signer { return Must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) })
	OtherEC  = sync.OnceValue(func() crypto.Signer { return Must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) })
	EC384    = sync.OnceValue(func() crypto.Signer { return Must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)) })
	EC521    = sync.OnceValue(func() crypto.Signer { return Must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader)) })
	Ed25519  = sync.OnceValue(func() crypto.Signer {
		_, private, err := ed25519.GenerateKey(rand.Reader)
		return Must(private, err)
	})
)

// Signers holds a key for each algorithm.
func Signers() map[string]crypto.Signer {
	return map[string]crypto.Signer{
		"RS256": RSA(), "RS384": RSA(), "RS512": RSA(), "PS256": RSA(), "PS384": RSA(), "PS512": RSA(),
		"ES256": EC(), "ES384": EC384(), "ES512": EC521(), "EdDSA": Ed25519(),
	}
}

// Must panics with err, or returns v.
func Must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// Object is a JSON object, for headers, claims and JWKs.
type Object = map[string]any

// With returns base with changes; a nil value removes the name.
func With(base, changes Object) Object {
	out := maps.Clone(base)
	for name, v := range changes {
		if out[name] = v; v == nil {
			delete(out, name)
		}
	}
	return out
}

// Encode is base64url without padding.
func Encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// Text returns v as it is when it is a string, else as JSON.
func Text(v any) string {
	if s, ok := v.(string); ok {
		return s
	}
	return string(Must(json.Marshal(v)))
}

// Sign makes a compact JWS of a header and a payload, each an object or the literal text.
func Sign(alg string, signer crypto.Signer, header, payload any) string {
	signed := Encode([]byte(Text(header))) + "." + Encode([]byte(Text(payload)))
	return signed + "." + Encode(Signature(alg, signer, signed))
}

// Signature signs a signing input.
func Signature(alg string, signer crypto.Signer, signed string) []byte {
	return Must(jwt.GetSigningMethod(alg).Sign(signed, crypto.PrivateKey(signer)))
}

// JWK describes the public half of a key; with kid "" it has none.
func JWK(kid string, signer crypto.Signer) Object {
	var j Object
	switch k := signer.Public().(type) {
	case *rsa.PublicKey:
		j = Object{"kty": "RSA", "n": Encode(k.N.Bytes()), "e": Encode(big.NewInt(int64(k.E)).Bytes())}
	case *ecdsa.PublicKey:
		point := Must(k.Bytes())
		half := len(point) / 2
		j = Object{"kty": "EC", "crv": k.Params().Name, "x": Encode(point[1 : 1+half]), "y": Encode(point[1+half:])}
	case ed25519.PublicKey:
		j = Object{"kty": "OKP", "crv": "Ed25519", "x": Encode(k)}
	default:
		panic(fmt.Sprintf("%T", k))
	}
	if kid != "" {
		j["kid"] = kid
	}
	return j
}

// Thumbprint is the JWK thumbprint of a key (RFC 7638). encoding/json sorts the names, as the standard wants.
func Thumbprint(signer crypto.Signer) string {
	sum := sha256.Sum256([]byte(Text(JWK("", signer))))
	return Encode(sum[:])
}
