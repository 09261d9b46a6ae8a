// Package token verifies bearer access tokens: JWTs (RFC 9068 and its looser relatives) of configured OAuth
// authorization servers.
//
// Contract:
//   - an Identity exists only for a token whose signature, issuer, times and audience all hold; every error comes
//     with a nil Identity;
//   - a key is looked up by (issuer, kid) and carries the algorithms it may be used with, so keys of two issuers
//     never meet and the token's header cannot choose how it is verified;
//   - verifying under a known key takes no lock that outlasts a map access and never touches the network. An
//     unknown kid causes at most one fetch for each issuer in 10 s, which concurrent callers share; the others fail
//     at once;
//   - an authorization server that is down changes nothing until its keys are older than MaxStale;
//   - errors.Is(err, ErrUnavailable) means that we could not tell (HTTP 503); every other error is the token's fault
//     (HTTP 401, invalid_token). No error text holds the token, and what it quotes from it is short and escaped.
package token

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"
)

// The outcomes of Verify other than success.
var (
	ErrInvalidToken = errors.New("malformed token")                     // not a JWT that this package reads, or a claim of the wrong shape
	ErrTokenType    = errors.New("not an access token")                 // an ID token, logout token, refresh token …
	ErrBound        = errors.New("sender-constrained token")            // cnf (RFC 7800): the binding is not verified here
	ErrIssuer       = errors.New("unknown issuer")                      // iss is no configured issuer
	ErrKey          = errors.New("no such key")                         // the issuer has no key of that kid for that alg
	ErrSignature    = errors.New("bad signature")                       // does not verify under the key
	ErrExpired      = errors.New("expired token")                       // exp has passed, or the lifetime is longer than allowed
	ErrNotYetValid  = errors.New("token from the future")               // nbf or iat lies ahead
	ErrAudience     = errors.New("token for another audience")          // no aud is expected here
	ErrUnavailable  = errors.New("token verification is not available") // our failure: an issuer not discovered yet, no fresh keys, or ctx ended
)

const (
	// MaxBytes is the longest compact token that is looked at.
	MaxBytes = 16 << 10

	defaultCacheSize = 10_000
	sweepInterval    = time.Minute
)

// IssuerConfig is one trusted authorization server.
type IssuerConfig struct {
	// WellKnown is the URL of its metadata: RFC 8414 or OpenID Connect Discovery. Required.
	WellKnown string
	// Audiences are the accepted values of aud, compared byte for byte; one match is enough. Required.
	Audiences []string
	// RefreshInterval is how often the metadata is read again, and the longest time between two reads of the keys
	// (which follow their Cache-Control, 5 minutes without one). Default 24 h, at least 1 s.
	RefreshInterval time.Duration
	// ClockSkew is the tolerance for exp, nbf and iat. Default 15 s.
	ClockSkew time.Duration
	// MaxStale is how long the last good key set is trusted while no newer one can be had. Default 24 h.
	MaxStale time.Duration
	// MaxLifetime refuses tokens with a longer time from iat to exp, or without iat. 0: no limit.
	MaxLifetime time.Duration
	// AllowPlainHTTP permits http:// for this issuer's documents beyond the loopback interface.
	AllowPlainHTTP bool
}

// Config is what a Verifier is made of.
type Config struct {
	Issuers []IssuerConfig
	// HTTP reaches the authorization servers. Its redirect policy is not used: redirects are never followed.
	HTTP *http.Client
	Log  *slog.Logger
	Now  func() time.Time
	// CacheSize bounds the verified tokens that are remembered, for at most 60 s. Default 10,000; negative: none.
	CacheSize int
}

// Verifier verifies tokens of the configured issuers. It is safe for concurrent use.
type Verifier struct {
	issuers []*issuer
	names   *registry
	cache   *cache
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
		names:  &registry{},
		cache:  newCache(cfg.CacheSize),
		client: docs.client,
		now:    cfg.Now,
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
	return v, nil
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

// Ready reports whether every issuer has metadata and a key set.
func (v *Verifier) Ready() bool {
	for _, is := range v.issuers {
		if is.keys.Load() == nil {
			return false
		}
	}
	return true
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

// Verify returns whom a compact JWT speaks for. The Identity is shared between calls: it must not be changed. ctx
// bounds the wait for a key set that is being fetched; nothing else in Verify waits.
func (v *Verifier) Verify(ctx context.Context, raw string) (*Identity, error) {
	if len(raw) > MaxBytes {
		return nil, fmt.Errorf("%w: longer than %d bytes", ErrInvalidToken, MaxBytes)
	}
	now := v.now()
	sum := digest(raw)
	if id := v.cache.get(sum, now); id != nil {
		return id, nil
	}
	e, err := v.verify(ctx, raw, now)
	if err != nil {
		return nil, err
	}
	v.cache.put(sum, e, now)
	return e.identity, nil
}

// verify does the work that a cache hit saves. Nothing of the token is believed before its signature has been
// checked; what is read earlier only selects the key.
func (v *Verifier) verify(ctx context.Context, raw string, now time.Time) (*entry, error) {
	t, err := parse(raw)
	if err != nil {
		return nil, err
	}
	is, err := v.issuer(t.claims.issuer)
	if err != nil {
		return nil, err
	}
	k, set, err := is.key(ctx, t.header.kid, now)
	if err != nil {
		return nil, err
	}
	if err := k.verify(t); err != nil {
		return nil, err
	}
	if err := t.check(&is.cfg, now); err != nil {
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
	return nil, fmt.Errorf("%w: %s", ErrIssuer, clip(id))
}
