// Package token verifies access tokens of configured OAuth authorization servers: JWTs (RFC 9068 and its looser
// relatives) by their signature, and opaque tokens, or revocable JWTs, by asking the server (RFC 7662). Tokens that are
// bound to a key are good only with a proof of possession: DPoP (RFC 9449) or mutual TLS (RFC 8705).
//
// Contract:
//   - an Identity exists only for a token whose signature, issuer, times and audience all hold, or of which its issuer
//     says so now, and whose presenter holds the key that it is bound to; every error comes with a nil Identity;
//   - a key is looked up by (issuer, kid) and carries the algorithms it may be used with, so keys of two issuers
//     never meet and the token's header cannot choose how it is verified;
//   - verifying under a known key takes no lock that outlasts a map access and never touches the network. An
//     unknown kid causes at most one fetch for each issuer in 10 s, which concurrent callers share; the others fail
//     at once;
//   - an authorization server that is down changes nothing until its keys are older than MaxStale; but a token that it
//     has to be asked about is then refused;
//   - errors.Is(err, ErrUnavailable) means that we could not tell (HTTP 503). Every other error is the caller's fault
//     (HTTP 401): of its proof for ErrProof and ErrReplay (invalid_dpop_proof) and for ErrNonce (use_dpop_nonce, with the
//     nonce of the *NonceError), else of the token (invalid_token). No error text holds a token, a proof or a secret, and
//     what it quotes of them is short and escaped.
package token

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/sallyport/sallyport/authz/token/dpop"
	"github.com/sallyport/sallyport/authz/token/internal/jose"
)

// The outcomes of Verify and VerifyRequest other than success.
var (
	ErrInvalidToken = errors.New("malformed token")                     // not a JWT that this package reads, or a claim of the wrong shape
	ErrTokenType    = errors.New("not an access token")                 // an ID token, logout token, refresh token …
	ErrBinding      = errors.New("token without its binding")           // a bound token without its key or certificate, or the reverse
	ErrIssuer       = errors.New("unknown issuer")                      // iss is no configured issuer
	ErrKey          = errors.New("no such key")                         // the issuer has no key of that kid for that alg
	ErrSignature    = errors.New("bad signature")                       // does not verify under the key
	ErrExpired      = errors.New("expired token")                       // exp has passed, or the lifetime is longer than allowed
	ErrNotYetValid  = errors.New("token from the future")               // nbf or iat lies ahead
	ErrAudience     = errors.New("token for another audience")          // no aud is expected here
	ErrClient       = errors.New("token of another client")             // client_id or azp is none of the accepted clients
	ErrInactive     = errors.New("token not active")                    // its issuer says so
	ErrRevoked      = errors.New("revoked token")                       // Config.Revoked says so
	ErrUnavailable  = errors.New("token verification is not available") // our failure: an issuer not discovered yet, no fresh keys or no answer, or ctx ended

	ErrProof  = dpop.ErrProof  // no DPoP proof, or one that is malformed, or not for this request, token and time
	ErrNonce  = dpop.ErrNonce  // one without a nonce of ours, in a *NonceError
	ErrReplay = dpop.ErrReplay // one that has been used before
)

// NonceError is the ErrNonce that holds the nonce to use.
type NonceError = dpop.NonceError

const (
	// MaxBytes is the longest compact token that is looked at.
	MaxBytes = 16 << 10

	defaultCacheSize = 10_000
	sweepInterval    = time.Minute
)

// Verifier verifies tokens of the configured issuers. It is safe for concurrent use.
type Verifier struct {
	issuers []*issuer
	names   *registry
	opaque  *issuer // whose tokens those are that name no issuer; nil when there are none
	cache   *cache
	dpop    *dpop.Verifier // nil when no issuer's tokens can be bound
	revoked func(*Identity) bool
	client  *http.Client
	now     func() time.Time
}

// New checks the configuration. It touches no network; Run does.
func New(cfg Config) (*Verifier, error) {
	if len(cfg.Issuers) == 0 {
		return nil, errors.New("token: no issuer configured")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.CacheSize == 0 {
		cfg.CacheSize = defaultCacheSize
	}
	docs := newFetcher(cfg.HTTP, false)
	v := &Verifier{
		names:   &registry{},
		cache:   newCache(cfg.CacheSize),
		revoked: cfg.Revoked,
		client:  docs.client,
		now:     cfg.Now,
	}
	seen := map[string]bool{}
	for _, ic := range cfg.Issuers {
		if seen[ic.WellKnown] {
			return nil, fmt.Errorf("token: issuer %s is configured twice", ic.WellKnown)
		}
		seen[ic.WellKnown] = true
		is, err := newIssuer(ic, &fetcher{docs.client, ic.AllowPlainHTTP}, v.names, cfg.Log, cfg.Now)
		if err != nil {
			return nil, fmt.Errorf("token: issuer %s: %w", ic.WellKnown, err)
		}
		v.issuers = append(v.issuers, is)
	}
	if err := v.complete(cfg); err != nil {
		return nil, fmt.Errorf("token: %w", err)
	}
	return v, nil
}

// complete sets what the issuers together need.
func (v *Verifier) complete(cfg Config) (err error) {
	bound := false
	for _, is := range v.issuers {
		bound = bound || !is.cfg.Binding.none()
		if is.introspection == nil || !is.introspection.cfg.Tokens.opaque() {
			continue
		}
		if v.opaque != nil {
			return fmt.Errorf("issuers %s and %s: both introspect opaque tokens, which do not say whose they are",
				v.opaque.cfg.WellKnown, is.cfg.WellKnown)
		}
		v.opaque = is
	}
	if !bound {
		return nil
	}
	cfg.DPoP.Now = cfg.Now
	v.dpop, err = dpop.New(cfg.DPoP)
	return err
}

// Run discovers the issuers and keeps their keys fresh until ctx ends; then it returns nil. Call it once. Before it
// has got an issuer's keys, that issuer's tokens are ErrUnavailable.
func (v *Verifier) Run(ctx context.Context) error {
	var loops sync.WaitGroup
	for _, is := range v.issuers {
		loops.Go(func() { is.run(ctx) })
	}
	loops.Go(func() {
		for sleep(ctx, sweepInterval) {
			v.cache.sweep(v.now())
		}
	})
	loops.Wait()
	v.client.CloseIdleConnections()
	return nil
}

// Ready reports whether every issuer has metadata and, unless its tokens are all introspected, a key set.
func (v *Verifier) Ready() bool { return len(v.Lacks()) == 0 }

// Lacks returns the well-known addresses of the issuers that keep Ready from being true.
func (v *Verifier) Lacks() (wellKnown []string) {
	for _, is := range v.issuers {
		if !is.ready() {
			wellKnown = append(wellKnown, is.cfg.WellKnown)
		}
	}
	return wellKnown
}

// Issuers returns the issuer identifiers known so far, in configured order.
func (v *Verifier) Issuers() []string {
	var ids []string
	for _, is := range v.issuers {
		if m := is.meta.Load(); m != nil {
			ids = append(ids, m.issuer)
		}
	}
	return ids
}

// Stats returns the state of each issuer, in configured order.
func (v *Verifier) Stats() []IssuerStats {
	out := make([]IssuerStats, len(v.issuers))
	for i, is := range v.issuers {
		out[i] = is.stats(v.now())
	}
	return out
}

// Verify returns whom a token speaks for that was presented as a bearer token, with nothing else: see VerifyRequest.
func (v *Verifier) Verify(ctx context.Context, raw string) (*Identity, error) {
	return v.VerifyRequest(ctx, Presented{Token: raw})
}

// VerifyRequest returns whom the token of a request speaks for. The Identity is shared between calls: it must not be
// changed. ctx bounds the wait for a key set or an introspection answer that is being fetched, and for the memory of
// used proofs; nothing else waits.
func (v *Verifier) VerifyRequest(ctx context.Context, p Presented) (*Identity, error) {
	id, err := v.identify(ctx, p.Token)
	if err != nil {
		return nil, err
	}
	if v.revoked != nil && v.revoked(id) {
		return nil, ErrRevoked
	}
	if err := v.possession(ctx, &p, id.Binding); err != nil {
		return nil, err
	}
	return id, nil
}

// Drop forgets the verified tokens whose identities match, and returns how many that were. They are verified, and their
// issuers are asked, anew; what a change of the world makes refused for good, Config.Revoked must refuse.
func (v *Verifier) Drop(match func(*Identity) bool) int { return v.cache.drop(match) }

// identify verifies a token, or remembers it.
func (v *Verifier) identify(ctx context.Context, raw string) (*Identity, error) {
	if len(raw) > MaxBytes {
		return nil, fmt.Errorf("%w: longer than %d bytes", ErrInvalidToken, MaxBytes)
	}
	now := v.now()
	sum := digest(raw)
	if id := v.cache.get(sum, now); id != nil {
		return id, nil
	}
	round := v.cache.round.Load()
	e, err := v.verify(ctx, raw, sum, round, now)
	if err != nil {
		return nil, err
	}
	v.cache.put(sum, e, v.now(), round)
	return e.identity, nil
}

// verify does the work that a cache hit saves.
func (v *Verifier) verify(ctx context.Context, raw string, sum [sha256.Size]byte, round uint64, now time.Time) (*entry, error) {
	if v.opaque != nil && !jwtShaped(raw) {
		if err := checkOpaque(raw); err != nil {
			return nil, err
		}
		if v.opaque.meta.Load() == nil {
			return nil, fmt.Errorf("%w: the issuer of opaque tokens has not been discovered yet", ErrUnavailable)
		}
		return v.opaque.introspect(ctx, raw, sum, round, nil)
	}
	t, err := parse(raw)
	if err != nil {
		return nil, err
	}
	is, err := v.issuer(t.claims.issuer)
	switch {
	case err != nil:
		return nil, err
	case is.keyless():
		return is.introspect(ctx, raw, sum, round, nil)
	}
	e, err := is.verify(ctx, t, now)
	if err != nil || is.introspection == nil || !is.introspection.cfg.Tokens.jwts() {
		return e, err
	}
	return is.introspect(ctx, raw, sum, round, e)
}

// verify checks a JWT. Nothing of it is believed before its signature has been checked; what is read earlier only
// selects the key.
func (is *issuer) verify(ctx context.Context, t *parsed, now time.Time) (*entry, error) {
	k, set, err := is.key(ctx, t.kid, now)
	switch {
	case err != nil:
		return nil, err
	case !k.Permits(t.Alg):
		return nil, fmt.Errorf("%w: kid %s is not for %s", ErrKey, jose.Clip(t.kid), t.Alg)
	case !k.Verifies(t.JWT):
		return nil, ErrSignature
	}
	if err := t.claims.check(&is.cfg, t.Typ, now); err != nil {
		return nil, err
	}
	return &entry{
		identity: t.claims.identity(),
		issuer:   is,
		set:      set,
		stored:   now,
		until:    t.claims.expiry.Add(is.cfg.ClockSkew),
	}, nil
}

func (v *Verifier) issuer(id string) (*issuer, error) {
	if is := v.names.find(id); is != nil {
		return is, nil
	}
	if v.names.count() < len(v.issuers) {
		return nil, fmt.Errorf("%w: an issuer has not been discovered yet", ErrUnavailable)
	}
	return nil, fmt.Errorf("%w: %s", ErrIssuer, jose.Clip(id))
}
