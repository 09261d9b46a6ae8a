// Package revocation remembers what has been taken back before its time: the tokens of a subject or of a client, one
// token, one session.
//
// Contract:
//   - Revoked and Ended are asked about every message: they take no lock, touch nothing but memory, and cost one load while
//     the list is empty;
//   - an entry is in force as soon as it is added, and stays so until its time is over or it is undone, whatever becomes of
//     where it is kept. What cannot be kept is an error, and is tried again until it can;
//   - a subject's or client's entry refuses what was issued up to its moment, a token that does not say when it was issued
//     included; later ones are good;
//   - an entry whose tokens live longer than it would be kept is kept for longer when such a token is seen;
//   - a list that cannot be read at the start is an error: nothing may be accepted then. One that cannot be read later stays
//     as it was last known, and says so;
//   - nothing is dropped for want of room: a full list takes no more.
//
// Replicas agree by what is kept: each follows it, and puts back what got lost there. Of two entries for one target the later
// counts, so the order in which replicas learn of them does not matter.
package revocation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/authz/session"
	"github.com/sallyport/sallyport/authz/token"
)

// ErrFull means that a list has no room.
var ErrFull = fmt.Errorf("there are %d revocations already; undo some, or wait until some have ended", MaxEntries)

// Keeper is where entries outlive the process, and where replicas find them. It is used by one goroutine at a time.
type Keeper interface {
	// Load returns all that is kept, in any order. What has ended may be left out.
	Load(ctx context.Context) ([]Entry, error)
	// Changed reports whether Load might say something else than the last time.
	Changed(ctx context.Context) (bool, error)
	// Put keeps entries; an entry that a kept one supersedes changes nothing. It is all done when it returns nil.
	Put(ctx context.Context, entries ...Entry) error
	// String says where that is, for people.
	String() string
}

// Config is what a List is made of.
type Config struct {
	Keeper Keeper
	Skew   time.Duration    // what clocks of issuers may be ahead of ours: tokens from so far in the future are accepted
	Learnt func()           // called when entries have come from other replicas, or times have changed; nil: nobody cares
	Log    *slog.Logger     // nil: nobody reads it
	Now    func() time.Time // nil: time.Now
}

// List is what is revoked. It is safe for concurrent use.
type List struct {
	cfg   Config
	found atomic.Pointer[index] // nil: nothing is in force
	fresh atomic.Bool           // what is kept was read the last time that this was tried
	late  chan lateness

	keeping sync.Mutex // one use of the keeper at a time; taken before mu
	mu      sync.Mutex
	entries map[Target]Entry
	unkept  map[Target]bool // in force in this process alone, as they could not be kept
}

// lateness says that a token of a target's lives longer than its entry is kept.
type lateness struct {
	target Target
	until  time.Time
}

// New returns an empty list. Open reads what is kept.
func New(cfg Config) *List {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Learnt == nil {
		cfg.Learnt = func() {}
	}
	return &List{cfg: cfg, late: make(chan lateness, 64), entries: map[Target]Entry{}, unkept: map[Target]bool{}}
}

// Open reads what is kept. After an error nothing may be accepted.
func (l *List) Open(ctx context.Context) error {
	if _, err := l.read(ctx); err != nil {
		return fmt.Errorf("revocations: %w", err)
	}
	l.fresh.Store(true)
	return nil
}

// Add puts a target's revocation in force for keep, and keeps it. With an error other than ErrFull, or one about the
// target, it is in force here all the same, but not yet kept. What was issued up to now is refused.
func (l *List) Add(ctx context.Context, t Target, keep time.Duration) (Entry, error) {
	now := l.cfg.Now().UTC().Round(0)
	return l.put(ctx, Entry{Target: t, At: now, IssuedUntil: now.Add(l.cfg.Skew), Until: now.Add(keep)})
}

// Undo ends a target's revocation before its time. It reports ErrNone when there is none. What the revocation has ended
// does not come back.
func (l *List) Undo(ctx context.Context, t Target) (Entry, error) {
	l.mu.Lock()
	old, ok := l.entries[t]
	l.mu.Unlock()
	now := l.cfg.Now().UTC().Round(0)
	if !ok || !old.inForce(now) {
		return Entry{}, ErrNone
	}
	old.At, old.Undone = now, true
	return l.put(ctx, old)
}

// ErrNone means that there is no such revocation.
var ErrNone = errors.New("no such revocation is in force")

func (l *List) put(ctx context.Context, e Entry) (Entry, error) {
	if err := e.Check(); err != nil {
		return Entry{}, err
	}
	l.keeping.Lock()
	defer l.keeping.Unlock()
	l.mu.Lock()
	old, known := l.entries[e.Target]
	if !known && len(l.entries) >= MaxEntries {
		l.mu.Unlock()
		return Entry{}, ErrFull
	}
	if known && !e.At.After(old.At) { // another replica's clock is ahead
		e.At = old.At.Add(time.Nanosecond)
	}
	if known && !old.Undone && e.Until.Before(old.Until) {
		e.Until = old.Until
	}
	if known && !e.Undone && e.IssuedUntil.Before(old.IssuedUntil) {
		e.IssuedUntil = old.IssuedUntil
	}
	l.set(e)
	l.mu.Unlock()
	err := l.keep(ctx, e)
	if errors.Is(err, ErrFull) { // other replicas have filled it
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.entries, e.Target)
		delete(l.unkept, e.Target)
		l.rebuild()
		return Entry{}, err
	}
	return e, err
}

// set puts an entry in force that is not kept yet. mu is held.
func (l *List) set(e Entry) {
	l.entries[e.Target], l.unkept[e.Target] = e, true
	l.rebuild()
}

// keep has entries kept. Nobody changes them meanwhile, since keeping is held.
func (l *List) keep(ctx context.Context, entries ...Entry) error {
	if err := l.cfg.Keeper.Put(ctx, entries...); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range entries {
		delete(l.unkept, e.Target)
	}
	return nil
}

// Entries returns what is in force, the latest first.
func (l *List) Entries() []Entry {
	now := l.cfg.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	out := slices.DeleteFunc(slices.Collect(maps.Values(l.entries)), func(e Entry) bool { return !e.inForce(now) })
	slices.SortFunc(out, func(a, b Entry) int {
		if c := b.At.Compare(a.At); c != 0 {
			return c
		}
		return strings.Compare(a.Value, b.Value)
	})
	return out
}

// Fresh reports whether what is kept could be read the last time, and nothing waits to be kept.
func (l *List) Fresh() bool { return l.fresh.Load() }

// Place says where entries are kept.
func (l *List) Place() string { return l.cfg.Keeper.String() }

// index is what is asked about every message: the entries in force, by what they name. It is never changed.
type index struct {
	subjects, clients, jtis, sessions map[name]*Entry
}

type name struct{ issuer, value string }

// rebuild makes the index anew. mu is held.
func (l *List) rebuild() {
	now := l.cfg.Now()
	in := &index{subjects: map[name]*Entry{}, clients: map[name]*Entry{}, jtis: map[name]*Entry{}, sessions: map[name]*Entry{}}
	byKind := map[Kind]map[name]*Entry{Subject: in.subjects, Client: in.clients, JTI: in.jtis, Session: in.sessions}
	some := false
	for _, e := range l.entries {
		if e.inForce(now) {
			byKind[e.Kind][name{e.Issuer, e.Value}] = &e
			some = true
		}
	}
	if !some {
		in = nil
	}
	l.found.Store(in)
}

// Revoked reports whether the token that id was made of has been revoked.
func (l *List) Revoked(id *token.Identity) bool {
	in := l.found.Load()
	if in == nil {
		return false
	}
	e := in.token(id, l.cfg.Now())
	if e != nil && id.Expiry.After(e.Until) {
		select {
		case l.late <- lateness{e.Target, id.Expiry}:
		default: // the next one will do: see Run
		}
	}
	return e != nil
}

// Ended reports whether a session of id's has been revoked: itself, or with all that its subject or client had begun.
func (l *List) Ended(id *token.Identity, s session.Session) bool {
	in := l.found.Load()
	if in == nil || s.ID == "" {
		return false
	}
	now := l.cfg.Now()
	return in.sessions[name{"", s.ID}].counts(now) || in.issued(id, s.Issued, now) != nil
}

func (e *Entry) counts(now time.Time) bool { return e != nil && now.Before(e.Until) }

// token returns an entry that refuses a token: the one that is kept longest.
func (in *index) token(id *token.Identity, now time.Time) *Entry {
	best := in.issued(id, id.Issued, now)
	if id.JTI == "" {
		return best
	}
	for _, issuer := range []string{"", id.Issuer} {
		best = longer(best, in.jtis[name{issuer, id.JTI}], now)
	}
	return best
}

// issued returns an entry about what was issued, or begun, for id at a moment; zero is any.
func (in *index) issued(id *token.Identity, at, now time.Time) (best *Entry) {
	for _, issuer := range []string{"", id.Issuer} {
		for _, e := range []*Entry{in.subjects[name{issuer, id.Subject}], in.clients[name{issuer, id.ClientID}]} {
			if e != nil && e.covers(at) {
				best = longer(best, e, now)
			}
		}
	}
	return best
}

func longer(a, b *Entry, now time.Time) *Entry {
	if !b.counts(now) || a != nil && !b.Until.After(a.Until) {
		return a
	}
	return b
}
