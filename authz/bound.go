package authz

import (
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/authz/token"
	"github.com/sallyport/sallyport/authz/token/dpop"
	"github.com/sallyport/sallyport/mcpparse"
)

// Tokens that are bound to a key, and how their senders prove that they hold it: DPoP (RFC 9449), mutual TLS (RFC 8705).

// Bound says which tokens that are bound to a key are taken.
type Bound struct {
	DPoP         bool // those bound to the key of a DPoP proof
	DPoPOnly     bool // … and no others
	Certificates bool // those bound to a TLS client certificate, for which the host asks
}

// schemes are those under which tokens may be presented. A token that is bound to a certificate is a bearer token to HTTP.
func (b Bound) schemes() []string {
	switch {
	case b.DPoPOnly:
		return []string{token.SchemeDPoP}
	case b.DPoP:
		return []string{token.SchemeBearer, token.SchemeDPoP}
	}
	return []string{token.SchemeBearer}
}

// boundMetadata are the members of the protected resource metadata about bound tokens (RFC 9728 §2).
type boundMetadata struct {
	DPoPAlgorithms []string `json:"dpop_signing_alg_values_supported,omitempty"`
	DPoPRequired   bool     `json:"dpop_bound_access_tokens_required,omitempty"`
	Certificates   bool     `json:"tls_client_certificate_bound_access_tokens,omitempty"`
}

func (b Bound) metadata() boundMetadata {
	m := boundMetadata{DPoPRequired: b.DPoPOnly, Certificates: b.Certificates}
	if b.DPoP {
		m.DPoPAlgorithms = dpop.Algorithms()
	}
	return m
}

// schemeOf is the scheme under which the token of id was presented.
func schemeOf(id *token.Identity) string {
	if id != nil && id.Binding.Method == token.MethodDPoP {
		return token.SchemeDPoP
	}
	return token.SchemeBearer
}

// presented reads the token of r, and what its sender proves possession by: the proof of a DPoP token, and the certificate
// of the connection, which is no header's to claim. The proof is for the address that the agent used.
func (g *Gate) presented(r Request, look token.Look) (token.Presented, bool) {
	scheme, raw, ok := credentials(r.Header["authorization"])
	p := token.Presented{Scheme: token.SchemeBearer, Token: raw, Certificate: r.Certificate, Look: look}
	switch {
	case !ok:
		return p, false
	case strings.EqualFold(scheme, token.SchemeBearer):
		return p, true
	case g.cfg.Bound.DPoP && strings.EqualFold(scheme, token.SchemeDPoP):
		p.Scheme, p.Proofs, p.Method, p.URL = token.SchemeDPoP, r.Header["dpop"], r.Method, r.origin()+r.Path
		return p, true
	}
	return p, false
}

// credentials takes a single "<scheme> <token>" value apart: one scheme, one space, one token (RFC 6750 §2.1).
func credentials(values []string) (scheme, raw string, ok bool) {
	if len(values) != 1 {
		return "", "", false
	}
	scheme, raw, ok = strings.Cut(values[0], " ")
	return scheme, raw, ok && raw != "" && !strings.ContainsAny(raw, " \t,")
}

// unverified is the answer to a token, presented under scheme, that was not accepted.
func (g *Gate) unverified(r Request, scheme string, err error) *rejection {
	var ask *token.NonceError
	switch {
	case errors.Is(err, token.ErrUnavailable):
		return failed(503, "tokens cannot be verified at the moment", err.Error()).retryAfter(5 * time.Second)
	case errors.As(err, &ask):
		return g.unproven(r, "use_dpop_nonce", "the DPoP proof needs the nonce of this answer", err).with(nonceHeader, ask.Nonce)
	case errors.Is(err, token.ErrReplay):
		return g.unproven(r, "invalid_dpop_proof", "the DPoP proof has been used before", err)
	case errors.Is(err, token.ErrProof):
		return g.unproven(r, "invalid_dpop_proof", "the DPoP proof is missing, or not for this request", err)
	}
	return g.tokenRefused(r, scheme, err)
}

// unproven is a 401 about a proof, not about its token (RFC 9449 §7.1 and §9).
func (g *Gate) unproven(r Request, errorCode, public string, err error) *rejection {
	challenge := challengeOf(token.SchemeDPoP, g.metadataParam(r), `error="`+errorCode+`"`, `error_description="`+public+`"`)
	return denied(401, mcpparse.CodeInvalidRequest, public, err.Error()).with("www-authenticate", challenge)
}

// publicTokenError says which check failed and nothing about how.
func publicTokenError(err error) string {
	switch {
	case errors.Is(err, token.ErrExpired):
		return "the token has expired"
	case errors.Is(err, token.ErrRevoked):
		return "the token has been revoked"
	case errors.Is(err, token.ErrAudience):
		return "the token is not meant for this server"
	case errors.Is(err, token.ErrIssuer):
		return "the token's issuer is not trusted here"
	case errors.Is(err, token.ErrBinding):
		return "the token is not presented in the way in which it is bound"
	}
	return "the token is not valid"
}

const nonceHeader = "dpop-nonce"

// renew hands the agent its next nonce with the answer, whoever gives it: an agent that always uses the last one is never
// refused for an old one (RFC 9449 §8.2).
func (c *Call) renew(v *Verdict) {
	if c.identity == nil || c.identity.Binding.Method != token.MethodDPoP {
		return
	}
	nonce := c.gate.cfg.Tokens.Nonce()
	switch {
	case nonce == "":
	case v.Reply != nil:
		v.Reply.Header = append(slices.Clip(v.Reply.Header), [2]string{nonceHeader, nonce})
	default:
		v.Nonce = nonce
	}
}
