package exchange

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	typeClientAssertion = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
	maxAssertionLife    = time.Minute
	minRSABits          = 2048
)

// Whom a client assertion is addressed to, see [ClientKey].
const (
	AssertionToIssuer        = "issuer"
	AssertionToTokenEndpoint = "token_endpoint"
)

// ClientKey is the key with which this client signs a new assertion for every
// request to the token endpoint (private_key_jwt, RFC 7523 §2.2). With ECDSA on
// P-256 or Ed25519 that takes some 50 µs, with RSA a millisecond.
type ClientKey struct {
	// Private is RSA of at least 2048 bits, ECDSA on P-256, P-384 or P-521, or
	// Ed25519. See [ParseClientKey].
	Private crypto.Signer

	// ID is the assertion's `kid`: how the server knows the public key. Default:
	// none, which is enough where the client has one key.
	ID string

	// Certificate, if there is one, is named in the header by its SHA-256
	// (x5t#S256, RFC 7515 §4.1.8). Microsoft Entra ID wants that.
	Certificate *x509.Certificate

	// Algorithm is the `alg`. Default: the first that fits the key, and that the
	// metadata's token_endpoint_auth_signing_alg_values_supported offers: RS256 or
	// PS256, ES256, ES384 or ES512 after the curve, EdDSA or Ed25519.
	Algorithm string

	// Audience is the `aud`: AssertionToIssuer or AssertionToTokenEndpoint. The
	// default is the issuer, as one string: so does an assertion stay worthless at
	// any other server (draft-ietf-oauth-rfc7523bis §4). Keycloak and oidc-provider
	// take either; Microsoft Entra ID wants the token endpoint.
	Audience string

	// Lifetime is how long an assertion is good for, at most and by default 60 s.
	Lifetime time.Duration
}

// ParseClientKey reads a private key in PEM: PKCS #8 ("PRIVATE KEY"), SEC 1 ("EC
// PRIVATE KEY") or PKCS #1 ("RSA PRIVATE KEY"). A CERTIFICATE beside it becomes
// the Certificate. Its errors do not quote the text.
func ParseClientKey(text []byte) (*ClientKey, error) {
	var key ClientKey
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			if key.Certificate != nil {
				continue // the first is the client's own, the others its chain
			}
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, errors.New("exchange: the certificate cannot be parsed")
			}
			key.Certificate = cert
			continue
		}
		private, err := parsePrivateKey(block)
		switch {
		case err != nil:
			return nil, fmt.Errorf("exchange: %w", err)
		case private == nil:
			continue // EC PARAMETERS, which openssl writes
		case key.Private != nil:
			return nil, errors.New("exchange: more than one private key")
		}
		key.Private = private
	}
	if key.Private == nil {
		return nil, errors.New("exchange: no private key in PEM")
	}
	if _, err := algorithms(key.Private); err != nil {
		return nil, fmt.Errorf("exchange: %w", err)
	}
	if key.Certificate != nil && !sameKey(key.Certificate.PublicKey, key.Private.Public()) {
		return nil, errors.New("exchange: the certificate is not that of the private key")
	}
	return &key, nil
}

// parsePrivateKey returns nil for a block that is no key at all.
func parsePrivateKey(block *pem.Block) (crypto.Signer, error) {
	var parsed any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		parsed, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		parsed, err = x509.ParseECPrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		parsed, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PARAMETERS":
		return nil, nil
	default:
		return nil, fmt.Errorf("PEM block %.32q is neither a private key nor a certificate", block.Type)
	}
	if err != nil {
		return nil, errors.New("the private key cannot be parsed")
	}
	signer, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, errors.New("the private key cannot sign")
	}
	return signer, nil
}

func sameKey(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}

// algorithms are those that fit a key, the preferred one first.
func algorithms(key crypto.Signer) ([]string, error) {
	switch k := key.(type) {
	case *rsa.PrivateKey:
		if k.N.BitLen() < minRSABits {
			return nil, fmt.Errorf("an RSA key of less than %d bits", minRSABits)
		}
		return []string{"RS256", "PS256"}, nil
	case *ecdsa.PrivateKey:
		switch k.Curve {
		case elliptic.P256():
			return []string{"ES256"}, nil
		case elliptic.P384():
			return []string{"ES384"}, nil
		case elliptic.P521():
			return []string{"ES512"}, nil
		}
	case ed25519.PrivateKey:
		// RFC 9864 calls it Ed25519; servers of before know only EdDSA.
		return []string{"EdDSA", "Ed25519"}, nil
	}
	return nil, errors.New("the key is neither RSA nor ECDSA on P-256, P-384 or P-521 nor Ed25519")
}

func (k *ClientKey) complete() (*ClientKey, error) {
	own := *k
	fitting, err := algorithms(own.Private)
	switch {
	case err != nil:
		return nil, err
	case own.Algorithm != "" && !slices.Contains(fitting, own.Algorithm):
		return nil, fmt.Errorf("algorithm %q does not fit the key: want one of %q", own.Algorithm, fitting)
	case own.Audience != "" && own.Audience != AssertionToIssuer && own.Audience != AssertionToTokenEndpoint:
		return nil, fmt.Errorf("assertion audience %q: want %s or %s", own.Audience, AssertionToIssuer, AssertionToTokenEndpoint)
	case own.Lifetime < 0 || own.Lifetime > maxAssertionLife || own.Lifetime > 0 && own.Lifetime < time.Second:
		return nil, fmt.Errorf("an assertion must live from one second to %s", maxAssertionLife)
	}
	orDefault(&own.Audience, AssertionToIssuer)
	orDefault(&own.Lifetime, maxAssertionLife)
	return &own, nil
}

// pickAlgorithm returns "" if the server takes none of the key's.
func (k *ClientKey) pickAlgorithm(offered []string) string {
	if k.Algorithm != "" {
		return k.Algorithm
	}
	fitting, err := algorithms(k.Private)
	if err != nil {
		return ""
	}
	if len(offered) == 0 {
		return fitting[0]
	}
	for _, a := range fitting {
		if slices.Contains(offered, a) {
			return a
		}
	}
	return ""
}

// assertion is a JWT that says who we are, to one server, once (RFC 7523 §3).
func (k *ClientKey) assertion(clientID string, md *metadata, now time.Time) (string, error) {
	jti := make([]byte, 16)
	if _, err := rand.Read(jti); err != nil {
		return "", fmt.Errorf("%w: %w", ErrCredential, err)
	}
	audience := md.issuer
	if k.Audience == AssertionToTokenEndpoint {
		audience = md.tokenEndpoint
	}
	token := jwt.NewWithClaims(signingMethod(md.assertionAlg), jwt.MapClaims{
		"iss": clientID, "sub": clientID, "aud": audience, "jti": base64.RawURLEncoding.EncodeToString(jti),
		"iat": now.Unix(), "exp": now.Add(k.Lifetime).Unix(),
	})
	token.Header["alg"] = md.assertionAlg
	if k.ID != "" {
		token.Header["kid"] = k.ID
	}
	if k.Certificate != nil {
		sum := sha256.Sum256(k.Certificate.Raw)
		token.Header["x5t#S256"] = base64.RawURLEncoding.EncodeToString(sum[:])
	}
	signed, err := token.SignedString(k.Private)
	if err != nil {
		return "", ErrCredential
	}
	return signed, nil
}

func signingMethod(alg string) jwt.SigningMethod {
	if alg == "Ed25519" {
		return jwt.SigningMethodEdDSA
	}
	return jwt.GetSigningMethod(alg)
}
