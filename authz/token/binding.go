package token

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/sallyport/sallyport/authz/token/internal/jose"
)

// BindingMode says what is made of an issuer's sender-constrained tokens, those with a cnf claim (RFC 7800).
type BindingMode string

const (
	// BindingNone refuses them: without the proof of possession they would be worth less than they claim. It is the
	// default, as is "".
	BindingNone BindingMode = "none"
	// BindingOptional accepts them with their proof, and plain bearer tokens too.
	BindingOptional BindingMode = "optional"
	// BindingRequired accepts them with their proof, and nothing else.
	BindingRequired BindingMode = "required"
)

// none also is the zero value.
func (m BindingMode) none() bool { return m == "" || m == BindingNone }

func (m BindingMode) known() bool { return m.none() || m == BindingOptional || m == BindingRequired }

// The ways in which a token can be bound to a key.
const (
	MethodDPoP = "dpop" // RFC 9449
	MethodMTLS = "mtls" // RFC 8705 §3
)

// Binding is the key that a token is bound to; zero for none.
type Binding struct {
	Method     string // MethodDPoP or MethodMTLS
	Thumbprint string // base64url SHA-256: of the JWK (cnf.jkt), or of the certificate (cnf["x5t#S256"])
}

// String returns "dpop:" or "mtls:" and the thumbprint, or "".
func (b Binding) String() string {
	if b == (Binding{}) {
		return ""
	}
	return b.Method + ":" + b.Thumbprint
}

// confirmations are the registered members of cnf that each name one key, with the method that verifies it; "" where
// none here does.
var confirmations = map[string]string{
	"jkt": MethodDPoP, "x5t#S256": MethodMTLS, "jwk": "", "jwe": "", "jku": "", "kid": "", "osc": "",
}

// bind reads the confirmation (RFC 7800 §3.1): one key, by one method known here. Members that are no registered
// method are ignored, as the standard wants; Keycloak adds one.
func (c *claims) bind(mode BindingMode) (Binding, error) {
	v, ok := c.all["cnf"]
	if ok && mode.none() {
		return Binding{}, fmt.Errorf("%w: cnf, which is not verified for this issuer", ErrBinding)
	}
	var b Binding
	if ok {
		var err error
		if b, err = confirmation(v); err != nil {
			return Binding{}, err
		}
	}
	// Keycloak says in typ, and every server in an answer's token_type (RFC 9449 §6.2), that a token is for DPoP.
	for _, name := range []string{"typ", "token_type"} {
		if s, _ := c.all[name].(string); strings.EqualFold(s, SchemeDPoP) && b.Method != MethodDPoP {
			return Binding{}, fmt.Errorf("%w: %s without cnf.jkt", ErrBinding, name)
		}
	}
	if b == (Binding{}) && mode == BindingRequired {
		return Binding{}, fmt.Errorf("%w: a bearer token where a bound one is required", ErrBinding)
	}
	return b, nil
}

func confirmation(v any) (Binding, error) {
	cnf, _ := v.(map[string]any)
	var b Binding
	keys := 0
	for name, method := range confirmations {
		member, ok := cnf[name]
		if !ok {
			continue
		}
		keys++
		text, _ := member.(string)
		b = Binding{Method: method, Thumbprint: text}
	}
	sum, err := jose.Segment(b.Thumbprint)
	if keys != 1 || b.Method == "" || err != nil || len(sum) != sha256.Size {
		return Binding{}, fmt.Errorf("%w: cnf is not one thumbprint of a kind verified here", ErrBinding)
	}
	return b, nil
}

// CertificateDigest is the digest of a DER certificate in the form of Presented.Certificate.
func CertificateDigest(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// holdsCertificate compares the certificate of the connection with the one that the token is bound to (RFC 8705 §3.1).
func (b Binding) holdsCertificate(digest string) error {
	if digest == "" {
		return fmt.Errorf("%w: no client certificate", ErrBinding)
	}
	sum, err := hex.DecodeString(digest)
	if err != nil || base64.RawURLEncoding.EncodeToString(sum) != b.Thumbprint {
		return fmt.Errorf("%w: another client certificate", ErrBinding)
	}
	return nil
}
