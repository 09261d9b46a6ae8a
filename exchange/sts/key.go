package sts

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
)

// The signature algorithms (RFC 7518 §3.4, RFC 8037 §3.1).
const (
	ES256 = "ES256"
	EdDSA = "EdDSA"
)

const signatureSize = 64 // of both

var errNotOurs = errors.New("the key is neither ECDSA on P-256 nor Ed25519")

// signingKey signs through crypto.Signer, so that the key may live elsewhere.
type signingKey struct {
	private crypto.Signer
	alg     string
	kid     string // RFC 7638 thumbprint
	jwk     json.RawMessage
	header  []byte // of an access token, encoded, with the dot after it
}

func newSigningKey(private crypto.Signer) (*signingKey, error) {
	k := &signingKey{private: private}
	var members map[string]string // those that RFC 7638 §3.2 hashes
	switch public := private.Public().(type) {
	case *ecdsa.PublicKey:
		if public.Curve != elliptic.P256() {
			return nil, errNotOurs
		}
		point, err := public.Bytes() // 4, x, y
		if err != nil {
			return nil, fmt.Errorf("key: %w", err)
		}
		k.alg = ES256
		members = map[string]string{"kty": "EC", "crv": "P-256", "x": b64(point[1:33]), "y": b64(point[33:])}
	case ed25519.PublicKey:
		k.alg = EdDSA
		members = map[string]string{"kty": "OKP", "crv": "Ed25519", "x": b64(public)}
	default:
		return nil, errNotOurs
	}
	canonical, err := json.Marshal(members) // sorted by name, without spaces
	if err != nil {
		return nil, err
	}
	thumb := sha256.Sum256(canonical)
	k.kid = b64(thumb[:])
	members["kid"], members["use"], members["alg"] = k.kid, "sig", k.alg
	if k.jwk, err = json.Marshal(members); err != nil {
		return nil, err
	}
	header, err := json.Marshal(map[string]string{"alg": k.alg, "kid": k.kid, "typ": tokenTyp})
	if err != nil {
		return nil, err
	}
	k.header = []byte(b64(header) + ".")
	return k, nil
}

// sign appends to text, which is a JWS signing input (RFC 7515 §5.1), a dot and
// its signature.
func (k *signingKey) sign(text []byte) ([]byte, error) {
	var raw [signatureSize]byte
	switch k.alg {
	case EdDSA:
		signature, err := k.private.Sign(rand.Reader, text, crypto.Hash(0))
		if err != nil {
			return nil, err
		}
		if len(signature) != signatureSize {
			return nil, errors.New("the signature is not one of Ed25519")
		}
		copy(raw[:], signature)
	default:
		digest := sha256.Sum256(text)
		der, err := k.private.Sign(k.random(), digest[:], crypto.SHA256)
		if err != nil {
			return nil, err
		}
		if raw, err = fixedSignature(der); err != nil {
			return nil, err
		}
	}
	return base64.RawURLEncoding.AppendEncode(append(text, '.'), raw[:]), nil
}

// random is nil for a key of our own: ECDSA is then deterministic (RFC 6979, as
// RFC 8725 §3.2 advises), and a third cheaper than with nonces that mix in fresh
// randomness. A key elsewhere may want its randomness.
func (k *signingKey) random() io.Reader {
	if _, ours := k.private.(*ecdsa.PrivateKey); ours {
		return nil
	}
	return rand.Reader
}

// fixedSignature turns an ECDSA signature from DER (RFC 3279 §2.2.3) to the form
// of RFC 7518 §3.4: R and S, 32 bytes each.
func fixedSignature(der []byte) (raw [signatureSize]byte, err error) {
	bad := errors.New("the signature is not a DER sequence of two integers")
	if len(der) < 2 || der[0] != 0x30 || int(der[1]) != len(der)-2 {
		return raw, bad
	}
	rest := der[2:]
	for _, half := range [][]byte{raw[:32], raw[32:]} {
		if len(rest) < 2 || rest[0] != 0x02 || int(rest[1]) > len(rest)-2 {
			return raw, bad
		}
		number := rest[2 : 2+int(rest[1])]
		rest = rest[2+len(number):]
		if len(number) == 33 && number[0] == 0 { // a sign bit's
			number = number[1:]
		}
		if len(number) == 0 || len(number) > 32 {
			return raw, bad
		}
		copy(half[32-len(number):], number)
	}
	if len(rest) != 0 {
		return raw, bad
	}
	return raw, nil
}

func generateKey(alg string) (crypto.Signer, error) {
	if alg == EdDSA {
		_, private, err := ed25519.GenerateKey(rand.Reader)
		return private, err
	}
	return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
}

// parseKeys reads every private key of a PEM text: PKCS #8 ("PRIVATE KEY") or SEC
// 1 ("EC PRIVATE KEY"). What is between and around the blocks is not looked at
// (RFC 7468 §2), and no error quotes the text.
func parseKeys(text []byte) ([]*signingKey, error) {
	var keys []*signingKey
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		var parsed any
		var err error
		switch block.Type {
		case "PRIVATE KEY":
			parsed, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "EC PRIVATE KEY":
			parsed, err = x509.ParseECPrivateKey(block.Bytes)
		case "EC PARAMETERS": // openssl writes them beside the key
			continue
		default:
			return nil, fmt.Errorf("PEM block %.32q is not a private key", block.Type)
		}
		if err != nil {
			return nil, errors.New("the private key cannot be parsed")
		}
		private, ok := parsed.(crypto.Signer)
		if !ok {
			return nil, errNotOurs
		}
		key, err := newSigningKey(private)
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, errors.New("no PEM block")
	}
	return keys, nil
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
