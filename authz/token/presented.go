package token

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/sallyport/sallyport/authz/token/dpop"
)

// The authentication schemes of access tokens.
const (
	SchemeBearer = "Bearer" // RFC 6750
	SchemeDPoP   = "DPoP"   // RFC 9449 §7.1
)

// Presented is a token with all that its presenter proves possession by. Everything but the scheme, the token and the
// proofs is what we have established ourselves, never what a header says.
type Presented struct {
	Scheme string // of the Authorization field, in any case; "" counts as SchemeBearer
	Token  string

	Proofs []string // the values of all DPoP fields
	Method string   // of HTTP
	URL    string   // absolute, as the client knows it; its query does not matter

	// Certificate is the SHA-256 of the client certificate of the TLS connection, in hex; "" without one. Envoy calls it
	// connection.sha256_peer_certificate_digest.
	Certificate string

	Look Look
}

// Look says how often a request is looked at. The token itself, its revocation included, is checked at every look.
type Look int

const (
	// LookFirst is for a request that has just come: everything is checked, and its proof is used up.
	LookFirst Look = iota
	// LookRelayed is for one that has been through a first look on its way here, by somebody whose word is not taken:
	// everything is checked but that the proof is new.
	LookRelayed
	// LookHeld is for one that has had its look here, and has been held since: possession was proven when it came, and
	// a proof does not last.
	LookHeld
)

// possession checks that p comes from who may present the token (RFC 9449 §7.1 and §7.2, RFC 8705 §3). That a bearer
// token will do at all has been checked with the token.
func (v *Verifier) possession(ctx context.Context, p *Presented, b Binding) error {
	byDPoP := strings.EqualFold(p.Scheme, SchemeDPoP)
	switch {
	case !byDPoP && p.Scheme != "" && !strings.EqualFold(p.Scheme, SchemeBearer):
		return fmt.Errorf("%w: not a scheme of access tokens", ErrInvalidToken)
	case byDPoP && b.Method != MethodDPoP:
		return fmt.Errorf("%w: under the DPoP scheme without cnf.jkt", ErrBinding)
	case !byDPoP && b.Method == MethodDPoP:
		return fmt.Errorf("%w: a DPoP-bound token under another scheme", ErrBinding)
	case p.Look == LookHeld:
		return nil
	case b.Method == MethodMTLS:
		return b.holdsCertificate(p.Certificate)
	case !byDPoP:
		return nil
	}
	err := v.dpop.Verify(ctx, dpop.Request{Proofs: p.Proofs, Method: p.Method, URL: p.URL, Token: p.Token,
		Thumbprint: b.Thumbprint, Relayed: p.Look == LookRelayed})
	switch {
	case errors.Is(err, dpop.ErrKey):
		return fmt.Errorf("%w: %w", ErrBinding, err)
	case errors.Is(err, dpop.ErrUnavailable):
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return err
}

// Nonce returns a value for DPoP-Nonce that any answer may carry (RFC 9449 §8.2); "" when none is asked for.
func (v *Verifier) Nonce() string {
	if v.dpop == nil {
		return ""
	}
	return v.dpop.Nonce()
}
