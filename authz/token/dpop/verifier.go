// Package dpop verifies proofs of possession as a resource server does: RFC 9449, OAuth 2.0 Demonstrating Proof of
// Possession.
//
// Contract:
//   - a proof is looked at only together with an access token that has been verified, and only if its key is the one
//     that the token is bound to: nobody without such a token makes this package check a signature, or fill its memory;
//   - nothing of a proof is believed before its signature has been checked, and its jti is used up only when everything
//     else holds;
//   - a proof is good for one request within Config.Window, as far as the Replays reach: one process by default;
//   - errors.Is(err, ErrUnavailable) means that we could not tell; every other error is the proof's fault. No error text
//     holds a proof or a token.
package dpop

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"
)

// The outcomes of Verify other than success.
var (
	ErrProof       = errors.New("invalid DPoP proof")                      // malformed, or for another request, token or time
	ErrKey         = errors.New("DPoP proof by another key")               // than the token is bound to
	ErrNonce       = errors.New("a DPoP proof needs a nonce of ours")      // in a *NonceError, which has it
	ErrReplay      = errors.New("DPoP proof used before")                  // the same jti under the same key
	ErrUnavailable = errors.New("DPoP proofs cannot be told from replays") // our failure: the memory of used proofs is full or away
)

// NonceError asks the client for a proof with a nonce that this server has issued (RFC 9449 §9).
type NonceError struct {
	Nonce string // for the DPoP-Nonce field
}

func (e *NonceError) Error() string { return ErrNonce.Error() }

// Unwrap returns ErrNonce.
func (e *NonceError) Unwrap() error { return ErrNonce }

const (
	// MaxProofBytes is the longest proof that is looked at: it fits one by an RSA key of 8192 bits.
	MaxProofBytes = 8 << 10
	// MinNonceKeyBytes is the shortest nonce key.
	MinNonceKeyBytes = 32

	maxJTIBytes = 256
	maxURLBytes = 2 << 10

	defaultWindow        = time.Minute
	maxWindow            = 10 * time.Minute
	defaultNonceLifetime = 5 * time.Minute
	maxNonceLifetime     = time.Hour
)

// Config is what a Verifier is made of. The zero Config is usable.
type Config struct {
	// Window is how far iat may be from our time, before and after (RFC 9449 §11.1). It also is how long a jti must be
	// remembered. Default 60 s, from 1 s to 10 min.
	Window time.Duration
	// NonceKey makes every proof need a nonce that was issued under it within NonceLifetime (RFC 9449 §9), so that proofs
	// cannot be made ahead of their time. Replicas that share the key accept each other's nonces. At least 32 bytes; it
	// is not used itself, so a key that has other uses will do. Default: no nonce is asked for.
	NonceKey []byte
	// NonceLifetime defaults to 5 min, from 1 s to 1 h.
	NonceLifetime time.Duration
	// Replays remembers used proofs. Default: NewMemory(DefaultMemory, Now), which only this process sees.
	Replays Replays
	Now     func() time.Time // default time.Now
}

// Verifier verifies proofs. It is safe for concurrent use.
type Verifier struct {
	window  time.Duration
	nonces  *nonces // nil: none is asked for
	replays Replays
	now     func() time.Time
}

// New checks the configuration.
func New(cfg Config) (*Verifier, error) {
	if cfg.Window == 0 {
		cfg.Window = defaultWindow
	}
	if cfg.NonceLifetime == 0 {
		cfg.NonceLifetime = defaultNonceLifetime
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Replays == nil {
		cfg.Replays = NewMemory(DefaultMemory, cfg.Now)
	}
	switch {
	case cfg.Window < time.Second || cfg.Window > maxWindow:
		return nil, fmt.Errorf("dpop: window %v is not between 1 s and %v", cfg.Window, maxWindow)
	case cfg.NonceLifetime < time.Second || cfg.NonceLifetime > maxNonceLifetime:
		return nil, fmt.Errorf("dpop: nonce lifetime %v is not between 1 s and %v", cfg.NonceLifetime, maxNonceLifetime)
	case cfg.NonceKey != nil && len(cfg.NonceKey) < MinNonceKeyBytes:
		return nil, fmt.Errorf("dpop: nonce key shorter than %d bytes", MinNonceKeyBytes)
	}
	v := &Verifier{window: cfg.Window, replays: cfg.Replays, now: cfg.Now}
	if cfg.NonceKey != nil {
		key, err := hkdf.Key(sha256.New, cfg.NonceKey, nil, "sallyport dpop nonce", sha256.Size)
		if err != nil {
			return nil, fmt.Errorf("dpop: nonce key: %w", err)
		}
		v.nonces = &nonces{key: key, lifetime: cfg.NonceLifetime}
	}
	return v, nil
}

// Nonce returns a fresh nonce, which any answer may carry in DPoP-Nonce (RFC 9449 §8.2); "" when none is asked for.
func (v *Verifier) Nonce() string {
	if v.nonces == nil {
		return ""
	}
	return v.nonces.issue(v.now())
}

// Request is one request and what it proves possession with.
type Request struct {
	Proofs     []string // values of the DPoP header fields
	Method     string   // of HTTP
	URL        string   // absolute, as the client knows it
	Token      string   // the access token, verified
	Thumbprint string   // of the key that it is bound to: cnf.jkt
	// Relayed is set when this very request has been verified before, on its way here: then its proof cannot be new,
	// and everything else is checked.
	Relayed bool
}

// Verify demands that r comes from who holds the token's key (RFC 9449 §4.3 and §7.1).
func (v *Verifier) Verify(ctx context.Context, r Request) error {
	t, key, err := parse(r.Proofs)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrProof, err)
	}
	if key.Thumbprint() != r.Thumbprint { // before the signature, which costs more
		return ErrKey
	}
	now := v.now()
	p, err := read(t, key)
	if err == nil {
		err = p.check(r, v.window, now)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrProof, err)
	}
	if v.nonces != nil && !v.nonces.valid(p.nonce, now, v.window) {
		return &NonceError{v.nonces.issue(now)}
	}
	if r.Relayed {
		return nil
	}
	fresh, err := v.replays.Use(ctx, r.Thumbprint, p.jti, p.issuedAt.Add(v.window))
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	case !fresh:
		return ErrReplay
	}
	return nil
}
