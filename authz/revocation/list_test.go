package revocation

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/authz/session"
	"github.com/sallyport/sallyport/authz/token"
)

const (
	skew  = 2 * time.Second
	alice = "alice"
)

// shelf is a keeper that can be told to fail.
type shelf struct {
	mu    sync.Mutex
	kept  map[Target]Entry
	moved int
	seen  int
	fails error
}

func (s *shelf) String() string { return "the shelf" }

func (s *shelf) Load(context.Context) ([]Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Entry
	for _, e := range s.kept {
		out = append(out, e)
	}
	s.seen = s.moved
	return out, s.fails
}

func (s *shelf) Changed(context.Context) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.moved != s.seen, s.fails
}

func (s *shelf) Put(_ context.Context, entries ...Entry) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range entries {
		if s.kept == nil {
			s.kept = map[Target]Entry{}
		}
		if s.fails == nil {
			s.kept[e.Target] = e
			s.moved++
		}
	}
	return s.fails
}

func (s *shelf) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

func newList(t *testing.T, k Keeper) *List {
	t.Helper()
	l := New(Config{Keeper: k, Skew: skew})
	must(t, l.Open(t.Context()))
	return l
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func revoke(t *testing.T, l *List, target Target) Entry {
	t.Helper()
	e, err := l.Add(t.Context(), target, DefaultKeep)
	must(t, err)
	return e
}

// follow runs l until the test, or stop, ends it.
func follow(t *testing.T, l *List) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- l.Run(ctx) }()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(stop)
	return stop
}

func identity(change func(*token.Identity)) *token.Identity {
	id := &token.Identity{Issuer: "https://a", Subject: alice, ClientID: "agent", JTI: "j-1",
		Issued: time.Now().Add(-time.Minute), Expiry: time.Now().Add(time.Hour)}
	if change != nil {
		change(id)
	}
	return id
}

func TestWhatIsRevoked(t *testing.T) {
	for name, tt := range map[string]struct {
		target Target
		change func(*token.Identity)
		want   bool
	}{
		"a subject":                   {Target{Kind: Subject, Value: alice}, nil, true},
		"another subject":             {Target{Kind: Subject, Value: "bob"}, nil, false},
		"in another case":             {Target{Kind: Subject, Value: "Alice"}, nil, false},
		"a client":                    {Target{Kind: Client, Value: "agent"}, nil, true},
		"a subject is no client":      {Target{Kind: Client, Value: alice}, nil, false},
		"a client is no subject":      {Target{Kind: Subject, Value: "agent"}, nil, false},
		"one token":                   {Target{Kind: JTI, Value: "j-1"}, nil, true},
		"another token":               {Target{Kind: JTI, Value: "j-2"}, nil, false},
		"a token without jti":         {Target{Kind: JTI, Value: "j-1"}, func(id *token.Identity) { id.JTI = "" }, false},
		"one token, whenever issued":  {Target{Kind: JTI, Value: "j-1"}, func(id *token.Identity) { id.Issued = time.Now().Add(time.Hour) }, true},
		"of its issuer":               {Target{Kind: Subject, Value: alice, Issuer: "https://a"}, nil, true},
		"of another issuer":           {Target{Kind: Subject, Value: alice, Issuer: "https://b"}, nil, false},
		"a client of another issuer":  {Target{Kind: Client, Value: "agent", Issuer: "https://b"}, nil, false},
		"a token of its issuer":       {Target{Kind: JTI, Value: "j-1", Issuer: "https://a"}, nil, true},
		"a token of another issuer":   {Target{Kind: JTI, Value: "j-1", Issuer: "https://b"}, nil, false},
		"issued at the last moment":   {Target{Kind: Subject, Value: alice}, func(id *token.Identity) { id.Issued = time.Now().Add(skew) }, true},
		"issued after it":             {Target{Kind: Subject, Value: alice}, func(id *token.Identity) { id.Issued = time.Now().Add(skew + 1) }, false},
		"a client's, issued after it": {Target{Kind: Client, Value: "agent"}, func(id *token.Identity) { id.Issued = time.Now().Add(skew + 1) }, false},
		"not saying when":             {Target{Kind: Subject, Value: alice}, func(id *token.Identity) { id.Issued = time.Time{} }, true},
		"a session is no token":       {Target{Kind: Session, Value: strings.Repeat("a", 32)}, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newList(t, &shelf{})
				id := identity(tt.change)
				if l.Revoked(id) {
					t.Error("before")
				}
				revoke(t, l, tt.target)
				if got := l.Revoked(id); got != tt.want {
					t.Errorf("got %v", got)
				}
				_, err := l.Undo(t.Context(), tt.target)
				must(t, err)
				if l.Revoked(id) {
					t.Error("undone")
				}
				if _, err := l.Undo(t.Context(), tt.target); !errors.Is(err, ErrNone) {
					t.Errorf("undone twice: %v", err)
				}
			})
		})
	}
}

func TestWhatHasEnded(t *testing.T) {
	one, other := strings.Repeat("a", 32), strings.Repeat("b", 32)
	for name, tt := range map[string]struct {
		target Target
		begun  time.Duration // after the command
		want   bool
	}{
		"the session":             {Target{Kind: Session, Value: one}, -time.Hour, true},
		"another session":         {Target{Kind: Session, Value: other}, -time.Hour, false},
		"of a subject":            {Target{Kind: Subject, Value: alice}, -time.Hour, true},
		"of a client":             {Target{Kind: Client, Value: "agent"}, -time.Hour, true},
		"of another":              {Target{Kind: Subject, Value: "bob"}, -time.Hour, false},
		"of another issuer":       {Target{Kind: Subject, Value: alice, Issuer: "https://b"}, -time.Hour, false},
		"begun afterwards":        {Target{Kind: Subject, Value: alice}, time.Minute, false},
		"the token, not a caller": {Target{Kind: JTI, Value: "j-1"}, -time.Hour, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newList(t, &shelf{})
				s := session.Session{ID: one, Issued: time.Now().Add(tt.begun)}
				revoke(t, l, tt.target)
				if got := l.Ended(identity(nil), s); got != tt.want {
					t.Errorf("got %v", got)
				}
				if l.Ended(identity(nil), session.Session{}) {
					t.Error("no session has ended")
				}
			})
		})
	}
}

func TestTargetsThatNothingHas(t *testing.T) {
	for name, target := range map[string]Target{
		"nothing":           {},
		"no kind":           {Value: "x"},
		"another kind":      {Kind: "scope", Value: "x"},
		"empty":             {Kind: Subject},
		"long":              {Kind: Subject, Value: strings.Repeat("x", maxText+1)},
		"a line end":        {Kind: Subject, Value: "a\nb"},
		"a blank":           {Kind: Client, Value: " x"},
		"a long issuer":     {Kind: Client, Value: "x", Issuer: strings.Repeat("x", maxText+1)},
		"a sealed session":  {Kind: Session, Value: "q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQ"},
		"a session too big": {Kind: Session, Value: strings.Repeat("a", 33)},
		"a session's issuer": {Kind: Session, Value: strings.Repeat("a", 32),
			Issuer: "https://a"},
	} {
		l := newList(t, &shelf{})
		if _, err := l.Add(t.Context(), target, time.Hour); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if len(l.Entries()) != 0 {
			t.Errorf("%s: in force", name)
		}
	}
}

func TestEntriesEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		learnt := 0
		l := New(Config{Keeper: &shelf{}, Skew: skew, Learnt: func() { learnt++ }})
		must(t, l.Open(t.Context()))
		id := identity(func(id *token.Identity) { id.Expiry = time.Now().Add(time.Minute) })
		_, err := l.Add(t.Context(), Target{Kind: Subject, Value: alice}, time.Hour)
		must(t, err)
		follow(t, l)
		time.Sleep(time.Hour - time.Nanosecond)
		if !l.Revoked(id) || len(l.Entries()) != 1 {
			t.Error("too early")
		}
		time.Sleep(time.Nanosecond)
		if l.Revoked(id) || len(l.Entries()) != 0 {
			t.Error("still there")
		}
		time.Sleep(lookInterval)
		synctest.Wait()
		if len(l.entries) != 0 || l.found.Load() != nil || learnt != 1 {
			t.Errorf("%d entries in memory, told of %d changes", len(l.entries), learnt)
		}
	})
}

// A token that outlives the entry must not come back to life when it has been seen.
func TestLongLivedTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &shelf{}
		l := newList(t, k)
		follow(t, l)
		id := identity(func(id *token.Identity) { id.Expiry = time.Now().Add(100 * time.Hour) })
		_, err := l.Add(t.Context(), Target{Kind: Subject, Value: alice}, time.Hour)
		must(t, err)
		if !l.Revoked(id) {
			t.Fatal("not revoked")
		}
		synctest.Wait()
		moved := k.moved
		if !l.Revoked(id) || k.moved != moved {
			t.Error("written again")
		}
		time.Sleep(100 * time.Hour)
		if !l.Revoked(id) {
			t.Error("alive again")
		}
		again := newList(t, k) // as after a restart
		if !again.Revoked(id) {
			t.Error("not kept for longer")
		}
		eternal := identity(func(id *token.Identity) { id.Expiry = time.Now().Add(2 * MaxKeep) })
		for range 10 {
			l.Revoked(eternal)
			synctest.Wait()
		}
		if k.moved > moved+1 {
			t.Errorf("%d writes", k.moved-moved)
		}
	})
}

// The longer of two entries decides which one is kept for a token's sake, and revoking anew never shortens.
func TestRevokedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newList(t, &shelf{})
		target := Target{Kind: Subject, Value: alice}
		first := revoke(t, l, target)
		time.Sleep(time.Minute)
		second, err := l.Add(t.Context(), target, time.Hour)
		must(t, err)
		if !second.Until.Equal(first.Until) || !second.IssuedUntil.After(first.IssuedUntil) || len(l.Entries()) != 1 {
			t.Errorf("%+v then %+v", first, second)
		}
		if !l.Revoked(identity(func(id *token.Identity) { id.Issued = time.Now() })) {
			t.Error("the login in between is good")
		}
	})
}

func TestReplicasFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &shelf{}
		learnt := 0
		here := newList(t, k)
		there := New(Config{Keeper: &view{shelf: k}, Learnt: func() { learnt++ }})
		must(t, there.Open(t.Context()))
		follow(t, there)
		target := Target{Kind: Client, Value: "agent"}
		revoke(t, here, target)
		time.Sleep(lookInterval)
		synctest.Wait()
		if !there.Revoked(identity(nil)) || learnt != 1 {
			t.Errorf("not there; told of %d changes", learnt)
		}
		time.Sleep(time.Second)
		_, err := here.Undo(t.Context(), target)
		must(t, err)
		time.Sleep(lookInterval)
		synctest.Wait()
		if there.Revoked(identity(nil)) || learnt != 2 {
			t.Errorf("not undone there; told of %d changes", learnt)
		}
	})
}

// A later command counts, also when it comes from a replica whose clock is behind.
func TestClocksThatDisagree(t *testing.T) {
	k := &shelf{}
	here := newList(t, k)
	target := Target{Kind: Subject, Value: alice}
	first := revoke(t, here, target)
	there := New(Config{Keeper: &view{shelf: k}, Now: func() time.Time { return time.Now().Add(-time.Minute) }})
	must(t, there.Open(t.Context()))
	undone, err := there.Undo(t.Context(), target)
	must(t, err)
	if !undone.supersedes(&first) {
		t.Errorf("%+v does not count after %+v", undone, first)
	}
}

// view is a shelf as another replica looks at it.
type view struct {
	*shelf
	seen int
}

func (v *view) Changed(ctx context.Context) (bool, error) {
	_, err := v.shelf.Changed(ctx)
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.moved != v.seen, err
}

func (v *view) Load(ctx context.Context) ([]Entry, error) {
	v.set(func() { v.seen = v.moved })
	return v.shelf.Load(ctx)
}

// What cannot be kept is in force all the same, is an error, and is kept as soon as it can be. What is lost is put back.
func TestKeeperAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &shelf{}
		l := newList(t, k)
		follow(t, l)
		away := errors.New("away")
		k.set(func() { k.fails = away })
		if _, err := l.Add(t.Context(), Target{Kind: Subject, Value: alice}, time.Hour); !errors.Is(err, away) {
			t.Errorf("error %v", err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if !l.Revoked(identity(nil)) || l.Fresh() {
			t.Errorf("revoked %v, fresh %v", l.Revoked(identity(nil)), l.Fresh())
		}
		if err := New(Config{Keeper: k}).Open(t.Context()); !errors.Is(err, away) {
			t.Errorf("a list that cannot be read: %v", err)
		}
		k.set(func() { k.fails = nil })
		time.Sleep(time.Second)
		synctest.Wait()
		if !l.Fresh() || len(k.kept) != 1 {
			t.Errorf("fresh %v, %d kept", l.Fresh(), len(k.kept))
		}
		k.set(func() { k.kept, k.moved = nil, k.moved+1 })
		time.Sleep(time.Second)
		synctest.Wait()
		if !l.Revoked(identity(nil)) || len(k.kept) != 1 {
			t.Errorf("what was lost: revoked %v, %d kept", l.Revoked(identity(nil)), len(k.kept))
		}
	})
}

func TestFull(t *testing.T) {
	l := newList(t, &shelf{})
	for i := range MaxEntries {
		l.entries[Target{Kind: JTI, Value: fmt.Sprint(i)}] = Entry{Target: Target{Kind: JTI, Value: fmt.Sprint(i)},
			At: time.Now(), Until: time.Now().Add(time.Hour)}
	}
	if _, err := l.Add(t.Context(), Target{Kind: Subject, Value: alice}, time.Hour); !errors.Is(err, ErrFull) {
		t.Errorf("one too many: %v", err)
	}
	if _, err := l.Add(t.Context(), Target{Kind: JTI, Value: "7"}, 2*time.Hour); err != nil {
		t.Errorf("one that is there: %v", err)
	}
	if n := len(l.Entries()); n != MaxEntries {
		t.Errorf("%d entries", n)
	}
}

func TestConcurrently(t *testing.T) {
	l := newList(t, &shelf{})
	follow(t, l)
	id := identity(nil)
	var stop atomic.Bool
	var readers, writers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for !stop.Load() {
				l.Revoked(id)
				l.Ended(id, session.Session{ID: strings.Repeat("a", 32)})
			}
		})
	}
	for w := range 4 {
		writers.Go(func() {
			for i := range 50 {
				target := Target{Kind: Subject, Value: fmt.Sprint(w, i%5)}
				if _, err := l.Add(t.Context(), target, time.Hour); err != nil {
					t.Error(err)
				}
				if _, err := l.Undo(t.Context(), target); err != nil {
					t.Error(err)
				}
				l.Entries()
			}
		})
	}
	writers.Wait()
	revoke(t, l, Target{Kind: JTI, Value: "j-1"})
	stop.Store(true)
	readers.Wait()
	if !l.Revoked(id) || len(l.Entries()) != 1 {
		t.Errorf("%d entries", len(l.Entries()))
	}
}

func BenchmarkRevoked(b *testing.B) {
	id := identity(nil)
	l := New(Config{Keeper: &shelf{}})
	b.Run("empty", func(b *testing.B) {
		for b.Loop() {
			l.Revoked(id)
		}
	})
	for i := range 1000 {
		if _, err := l.Add(b.Context(), Target{Kind: Subject, Value: fmt.Sprint(i)}, time.Hour); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("1000", func(b *testing.B) {
		for b.Loop() {
			l.Revoked(id)
		}
	})
}
