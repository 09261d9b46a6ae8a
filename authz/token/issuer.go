package token

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/authz/token/internal/jose"
)

const (
	defaultSkew     = 15 * time.Second
	defaultInterval = 24 * time.Hour
	defaultMaxStale = 24 * time.Hour
	demandInterval  = 10 * time.Second
	firstRetry      = 200 * time.Millisecond
	lastRetry       = 10 * time.Second
)

// issuer is one authorization server: its metadata and its keys, which are kept apart from every other issuer's.
type issuer struct {
	cfg   IssuerConfig
	docs  *fetcher
	names *registry
	log   *slog.Logger
	now   func() time.Time

	introspection *introspector // nil: the issuer is not asked about its tokens

	meta atomic.Pointer[metadata]
	keys atomic.Pointer[snapshot]

	fetches, failures atomic.Uint64

	mu         sync.Mutex
	life       context.Context // of run; fetches on demand end with it
	flight     *flight         // the fetch of the keys under way, nil when none
	lastDemand time.Time       // when an unknown kid last caused a fetch
}

// snapshot is a key set and when it was last seen to be the current one. A fetch that brings the same keys renews the
// snapshot around the same set.
type snapshot struct {
	set       *keySet
	confirmed time.Time
}

// flight is one fetch of the keys that any number of callers wait for. err and fresh are set before done is closed.
type flight struct {
	done  chan struct{}
	fresh time.Duration
	err   error
}

// IssuerStats is the state of one issuer.
type IssuerStats struct {
	WellKnown string
	Issuer    string        // "" before discovery
	Keys      int           // usable keys, 0 before the first key set
	Age       time.Duration // since the key set was last confirmed; 0 without one
	Fetches   uint64        // documents asked for
	Failures  uint64        // of those, the ones without a usable answer

	Introspections        uint64 // questions asked about tokens
	IntrospectionFailures uint64 // of those, the ones without an answer
}

func newIssuer(cfg IssuerConfig, docs *fetcher, names *registry, log *slog.Logger, now func() time.Time) (*issuer, error) {
	if _, err := docs.check(cfg.WellKnown); err != nil {
		return nil, err
	}
	if len(cfg.Audiences) == 0 || slices.Contains(cfg.Audiences, "") {
		return nil, errors.New("expected audiences are required, and none may be empty")
	}
	if slices.Contains(cfg.Clients, "") {
		return nil, errors.New("no accepted client may be empty")
	}
	if !cfg.Binding.known() {
		return nil, fmt.Errorf("binding %q: want %s, %s or %s", cfg.Binding, BindingNone, BindingOptional, BindingRequired)
	}
	if min(cfg.RefreshInterval, cfg.ClockSkew, cfg.MaxStale, cfg.MaxLifetime) < 0 {
		return nil, errors.New("negative duration")
	}
	cfg.RefreshInterval = orDefault(cfg.RefreshInterval, defaultInterval)
	cfg.ClockSkew = orDefault(cfg.ClockSkew, defaultSkew)
	cfg.MaxStale = orDefault(cfg.MaxStale, defaultMaxStale)
	if cfg.RefreshInterval < time.Second {
		return nil, errors.New("refresh interval below 1 s")
	}
	is := &issuer{
		cfg: cfg, docs: docs, names: names, now: now,
		log: log.With("well_known", cfg.WellKnown),
	}
	if cfg.Introspection != nil {
		asked := *cfg.Introspection
		if err := asked.complete(docs); err != nil {
			return nil, fmt.Errorf("introspection: %w", err)
		}
		is.introspection = newIntrospector(asked, docs.client, now)
	}
	return is, nil
}

func orDefault(d, otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return d
}

// run keeps metadata and keys fresh until ctx ends.
func (is *issuer) run(ctx context.Context) {
	is.mu.Lock()
	is.life = ctx
	is.mu.Unlock()
	retry := firstRetry
	for {
		wait, err := is.refresh(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			is.log.Warn("issuer not refreshed", "error", err, "ready", is.ready())
			wait, retry = retry, min(2*retry, lastRetry)
		} else {
			retry = firstRetry
		}
		if !sleep(ctx, wait-rand.N(wait/10+1)) {
			return
		}
	}
}

// refresh reads what is due and returns how long the keys may be used before the next time.
func (is *issuer) refresh(ctx context.Context) (time.Duration, error) {
	meta := is.meta.Load()
	var stale error
	if meta == nil || is.now().Sub(meta.read) >= is.cfg.RefreshInterval {
		if stale = is.discover(ctx); stale != nil && meta == nil {
			return 0, stale
		}
	}
	if is.keyless() {
		return is.cfg.RefreshInterval, stale
	}
	f := is.fly()
	select {
	case <-f.done:
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	return min(f.fresh, is.cfg.RefreshInterval, is.cfg.MaxStale/2), errors.Join(stale, f.err)
}

// keyless reports whether the issuer is known to publish no keys, so that even its JWTs have to be introspected.
func (is *issuer) keyless() bool {
	m := is.meta.Load()
	return m != nil && m.jwksURI == ""
}

// ready reports whether tokens of the issuer can be judged.
func (is *issuer) ready() bool { return is.keyless() || is.keys.Load() != nil }

// lifetime is the context of run.
func (is *issuer) lifetime() context.Context {
	is.mu.Lock()
	defer is.mu.Unlock()
	if is.life == nil {
		return context.Background()
	}
	return is.life
}

// discover reads the metadata and makes the issuer's identifier known. Once known it never changes: a server that
// comes back under another name is refused until it is configured anew.
func (is *issuer) discover(ctx context.Context) error {
	is.fetches.Add(1)
	m, err := is.readMetadata(ctx)
	if err == nil {
		if old := is.meta.Load(); old == nil {
			err = is.names.add(m.issuer, is)
		} else if old.issuer != m.issuer {
			err = fmt.Errorf("issuer changed from %s to %s", jose.Clip(old.issuer), jose.Clip(m.issuer))
		}
	}
	if err != nil {
		is.failures.Add(1)
		return fmt.Errorf("discovery: %w", err)
	}
	is.meta.Store(m)
	return nil
}

// key returns the key that the issuer calls kid, and the set it is in.
func (is *issuer) key(ctx context.Context, kid string, now time.Time) (jose.Key, *keySet, error) {
	snap := is.keys.Load()
	if snap == nil || is.stale(snap, now) {
		return jose.Key{}, nil, fmt.Errorf("%w: no fresh keys of the issuer", ErrUnavailable)
	}
	k, ok := snap.set.keys[kid]
	if !ok {
		if f := is.demand(now); f != nil {
			select {
			case <-f.done:
			case <-ctx.Done():
				return jose.Key{}, nil, fmt.Errorf("%w: %w", ErrUnavailable, context.Cause(ctx))
			}
			snap = is.keys.Load()
			k, ok = snap.set.keys[kid]
		}
	}
	if !ok {
		return jose.Key{}, nil, fmt.Errorf("%w: kid %s", ErrKey, jose.Clip(kid))
	}
	return k, snap.set, nil
}

func (is *issuer) stale(s *snapshot, now time.Time) bool {
	return now.Sub(s.confirmed) > is.cfg.MaxStale
}

// demand returns the fetch that may bring an unknown key, or nil when one has been made too recently.
func (is *issuer) demand(now time.Time) *flight {
	is.mu.Lock()
	defer is.mu.Unlock()
	if is.flight != nil {
		return is.flight
	}
	if !is.lastDemand.IsZero() && now.Sub(is.lastDemand) < demandInterval {
		return nil
	}
	is.lastDemand = now
	return is.takeOff()
}

// fly returns the fetch of the keys under way, starting one if there is none.
func (is *issuer) fly() *flight {
	is.mu.Lock()
	defer is.mu.Unlock()
	if is.flight != nil {
		return is.flight
	}
	return is.takeOff()
}

// takeOff starts a fetch that outlives the caller who happened to be first. mu is held.
func (is *issuer) takeOff() *flight {
	f := &flight{done: make(chan struct{})}
	is.flight = f
	ctx := is.life
	go func() {
		f.fresh, f.err = is.fetchKeys(ctx)
		is.mu.Lock()
		is.flight = nil
		is.mu.Unlock()
		close(f.done)
	}()
	return f
}

// fetchKeys replaces the key set by the published one. Whatever goes wrong, the last good set stays.
func (is *issuer) fetchKeys(ctx context.Context) (time.Duration, error) {
	is.fetches.Add(1)
	asked := is.now()
	body, cacheControl, err := is.docs.get(ctx, is.meta.Load().jwksURI)
	if err != nil {
		is.failures.Add(1)
		return 0, err
	}
	set, skipped, err := parseKeySet(body)
	if err != nil {
		is.failures.Add(1)
		return 0, err
	}
	if old := is.keys.Load(); old != nil && old.set.equal(set) {
		set = old.set
	} else {
		is.log.Info("key set changed", "keys", len(set.keys), "skipped", skipped)
	}
	is.keys.Store(&snapshot{set: set, confirmed: asked})
	return freshness(cacheControl), nil
}

func (is *issuer) stats(now time.Time) IssuerStats {
	s := IssuerStats{WellKnown: is.cfg.WellKnown, Fetches: is.fetches.Load(), Failures: is.failures.Load()}
	if m := is.meta.Load(); m != nil {
		s.Issuer = m.issuer
	}
	if snap := is.keys.Load(); snap != nil {
		s.Keys, s.Age = len(snap.set.keys), now.Sub(snap.confirmed)
	}
	if in := is.introspection; in != nil {
		s.Introspections, s.IntrospectionFailures = in.questions.Load(), in.failures.Load()
	}
	return s
}

// sleep waits for d and reports whether ctx is still alive.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
