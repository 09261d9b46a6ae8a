package hub

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const idleTimeout = time.Minute

// storeTest is what a test of a Store is given: two replicas, which for memory are one.
type storeTest struct {
	*testing.T
	a, b    Store
	clock   *storeClock
	restart func() Store // a replica that starts anew
}

// eachStore runs a test against every Store: they must not differ but where Store says so.
func eachStore(t *testing.T, test func(t *storeTest)) {
	t.Run("memory", func(t *testing.T) {
		c := newStoreClock()
		s := NewMemory(idleTimeout, c.now)
		test(&storeTest{T: t, a: s, b: s, clock: c, restart: func() Store { return NewMemory(idleTimeout, c.now) }})
	})
	t.Run("redis", func(t *testing.T) {
		url, c := limitedUser(t), newStoreClock()
		open := func() Store { return openRedis(t, url, c) }
		test(&storeTest{T: t, a: open(), b: open(), clock: c, restart: open})
	})
}

// limitedUser returns the address of a clean server for a user who may touch only what is the product's.
func limitedUser(t *testing.T) (url string) {
	t.Helper()
	server := cleanRedis(t)
	server.do(t, "ACL", "SETUSER", "gateway", "reset", "resetchannels", "on", ">"+redisPassword,
		"~sallyport:*", "&sallyport:*", "+@all", "-@dangerous")
	return fmt.Sprintf("redis://gateway:%s@%s/3", redisPassword, server.addr)
}

const redisPassword = "hunter2hunter2"

func openRedis(t *testing.T, url string, c *storeClock) *Redis {
	t.Helper()
	s, err := NewRedis(t.Context(), url, idleTimeout, c.now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// storeClock is a time that tests set.
type storeClock struct {
	mu sync.Mutex
	at time.Time
}

func newStoreClock() *storeClock { return &storeClock{at: time.Unix(1_800_000_000, 0)} }

func (c *storeClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *storeClock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// gives fails the test unless the answer of a Store method is want.
func gives[T any](t *storeTest, want T) func(got T, err error) {
	t.Helper()
	return func(got T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
}

// givesIDs fails the test unless the upstream sessions have exactly these ids.
func givesIDs(t *storeTest, ids ...string) func(got []UpstreamSession, err error) {
	t.Helper()
	return func(got []UpstreamSession, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		have := make([]string, 0, len(got))
		for _, s := range got {
			have = append(have, s.ID)
		}
		slices.Sort(have)
		if diff := cmp.Diff(append([]string{}, ids...), have); diff != "" {
			t.Error(diff)
		}
	}
}

// upstream fails the test unless owner's session at app has this id, "" for none.
func (t *storeTest) upstream(s Store, owner, app, id string) {
	t.Helper()
	got, ok, err := s.Upstream(t.Context(), owner, app)
	if err != nil || ok != (id != "") || got.ID != id {
		t.Errorf("%s's session at %s: %+v %v %v, want %q", owner, app, got, ok, err, id)
	}
}

func (t *storeTest) begin(owner string) {
	t.Helper()
	gives(t, true)(t.a.Begin(t.Context(), owner, "alice"))
}

func sessionAt(app, id string) UpstreamSession {
	return UpstreamSession{App: app, Route: "route-" + app, ID: id, Version: "2025-06-18", Logging: true}
}

func TestStoreEndsWhatIsIdle(t *testing.T) {
	eachStore(t, func(t *storeTest) {
		ctx := t.Context()
		t.begin("used")
		t.begin("idle")
		t.begin("seen") // but not used
		for i, owner := range []string{"used", "idle", "seen", "principal-p"} {
			givesIDs(t)(t.b.PutUpstream(ctx, owner, sessionAt("app", fmt.Sprint("s", i))))
		}
		gives(t, true)(t.a.Touch(ctx, "principal-p"))

		t.clock.pass(idleTimeout)
		gives(t, true)(t.b.Touch(ctx, "used"))
		givesIDs(t, "s2")(t.a.Upstreams(ctx, "seen"))
		gives(t, map[string]string(nil))(t.a.Facts(ctx, "seen"))
		givesIDs(t)(t.a.Expire(ctx))

		t.clock.pass(time.Millisecond)
		gives(t, false)(t.a.Touch(ctx, "idle"))
		gives(t, false)(t.b.Touch(ctx, "idle"))
		t.upstream(t.a, "idle", "app", "")
		givesIDs(t)(t.a.Upstreams(ctx, "seen"))
		t.upstream(t.a, "principal-p", "app", "") // a principal starts anew
		gives(t, true)(t.b.Touch(ctx, "principal-p"))
		t.upstream(t.b, "used", "app", "s0")
		givesIDs(t, "s1", "s2", "s3")(t.b.Expire(ctx))
		givesIDs(t)(t.a.Expire(ctx))
		gives(t, false)(t.a.Touch(ctx, "seen"))
	})
}

func TestStoreEnd(t *testing.T) {
	eachStore(t, func(t *storeTest) {
		ctx := t.Context()
		t.begin("s")
		givesIDs(t)(t.a.PutUpstream(ctx, "s", sessionAt("one", "1")))
		givesIDs(t)(t.b.PutUpstream(ctx, "s", sessionAt("two", "2")))
		givesIDs(t, "1", "2")(t.b.End(ctx, "s"))
		givesIDs(t)(t.a.End(ctx, "s"))
		givesIDs(t)(t.a.Expire(ctx))

		gives(t, false)(t.a.Touch(ctx, "s"))
		t.upstream(t.a, "s", "one", "")
		givesIDs(t)(t.b.Upstreams(ctx, "s"))
		gives(t, false)(t.a.Once(ctx, "s", "mark"))
		if err := t.a.Remember(ctx, "s", "fact", "x"); err != nil {
			t.Error(err)
		}
		gives(t, map[string]string(nil))(t.b.Facts(ctx, "s"))
		gives(t, []UpstreamSession{sessionAt("one", "3")})(t.b.PutUpstream(ctx, "s", sessionAt("one", "3")))

		givesIDs(t)(t.a.End(ctx, "never seen"))
		gives(t, false)(t.a.Touch(ctx, "never seen"))
	})
}

// A principal is never over: what is ended is forgotten, and the next use is the first.
func TestStorePrincipals(t *testing.T) {
	eachStore(t, func(t *storeTest) {
		ctx := t.Context()
		t.upstream(t.a, "principal-p", "app", "")
		givesIDs(t)(t.a.PutUpstream(ctx, "principal-p", sessionAt("app", "1")))
		gives(t, true)(t.a.Once(ctx, "principal-p", "mark"))
		givesIDs(t, "1")(t.b.End(ctx, "principal-p"))
		gives(t, true)(t.a.Touch(ctx, "principal-p"))
		t.upstream(t.a, "principal-p", "app", "")
		gives(t, true)(t.a.Once(ctx, "principal-p", "mark"))
	})
}

func TestStoreUpstreams(t *testing.T) {
	eachStore(t, func(t *storeTest) {
		ctx := t.Context()
		t.begin("s")
		t.begin("other")
		full, none := sessionAt("app", "1"), UpstreamSession{App: "none", Route: "r", Version: "2025-03-26"}
		givesIDs(t)(t.a.PutUpstream(ctx, "s", full))
		givesIDs(t)(t.a.PutUpstream(ctx, "s", none))
		for app, want := range map[string]UpstreamSession{"app": full, "none": none} {
			if got, ok, err := t.b.Upstream(ctx, "s", app); got != want || !ok || err != nil {
				t.Errorf("%+v %v %v", got, ok, err)
			}
		}
		t.upstream(t.b, "other", "app", "")

		givesIDs(t, "1")(t.b.PutUpstream(ctx, "s", sessionAt("app", "2")))
		givesIDs(t)(t.a.PutUpstream(ctx, "s", sessionAt("app", "2"))) // itself
		givesIDs(t)(t.a.PutUpstream(ctx, "s", none))
		t.upstream(t.a, "s", "app", "2")

		remove := func(app, id string) {
			t.Helper()
			if err := t.b.RemoveUpstream(ctx, "s", app, id); err != nil {
				t.Error(err)
			}
		}
		remove("app", "1")
		remove("gone", "1")
		t.upstream(t.a, "s", "app", "2")
		remove("app", "2")
		remove("none", "")
		givesIDs(t)(t.a.Upstreams(ctx, "s"))
	})
}

func TestStoreFacts(t *testing.T) {
	eachStore(t, func(t *storeTest) {
		ctx := t.Context()
		t.begin("s")
		remember := func(key, value string) {
			t.Helper()
			if err := t.a.Remember(ctx, "s", key, value); err != nil {
				t.Fatal(err)
			}
		}
		gives(t, map[string]string(nil))(t.b.Facts(ctx, "s"))
		remember("a", "1")
		remember("b", "\x00 \xff")
		remember("a", "2")
		remember("b2", "x")
		remember("b2", "")
		remember("never", "")
		gives(t, map[string]string{"a": "2", "b": "\x00 \xff"})(t.b.Facts(ctx, "s"))

		for i := range maxFacts - 2 {
			remember(fmt.Sprint("f", i), "x")
		}
		remember("one too many", "x")
		remember("a", "3") // is none more
		facts, err := t.b.Facts(ctx, "s")
		if len(facts) != maxFacts || facts["one too many"] != "" || facts["a"] != "3" || err != nil {
			t.Errorf("%d facts, %v", len(facts), err)
		}
		remember("f0", "")
		remember("room again", "x")
		if facts, _ := t.b.Facts(ctx, "s"); len(facts) != maxFacts || facts["room again"] == "" {
			t.Errorf("%d facts", len(facts))
		}
	})
}

func TestStoreOnce(t *testing.T) {
	eachStore(t, func(t *storeTest) {
		ctx := t.Context()
		t.begin("s")
		t.begin("other")
		gives(t, true)(t.a.Once(ctx, "s", "m"))
		gives(t, false)(t.b.Once(ctx, "s", "m"))
		gives(t, true)(t.b.Once(ctx, "other", "m"))
		for i := range maxMarks { // the last one makes it forget
			gives(t, true)(t.a.Once(ctx, "s", fmt.Sprint(i)))
		}
		gives(t, false)(t.b.Once(ctx, "s", fmt.Sprint(maxMarks-1)))
		gives(t, true)(t.b.Once(ctx, "s", "m"))
	})
}

func TestStoreCapsSessionsOfOnePrincipal(t *testing.T) {
	eachStore(t, func(t *storeTest) {
		ctx := t.Context()
		most := maxSessionsPrincipal
		for _, s := range []Store{t.a, t.b} {
			if r, ok := s.(*Redis); ok { // for the sake of time
				most = 20
				r.maxSessions = most
			}
		}
		var begun sync.Map
		var all sync.WaitGroup
		for i := range most + 10 { // at the same time
			all.Go(func() {
				owner := fmt.Sprint("s", i)
				ok, err := []Store{t.a, t.b}[i%2].Begin(ctx, owner, "alice")
				if err != nil {
					t.Error(err)
				}
				if ok {
					begun.Store(owner, true)
				}
			})
		}
		all.Wait()
		var owners []string
		begun.Range(func(k, _ any) bool { owners = append(owners, k.(string)); return true })
		if len(owners) != most {
			t.Fatalf("%d sessions, want %d", len(owners), most)
		}
		gives(t, true)(t.a.Begin(ctx, "of another", "bob"))

		givesIDs(t)(t.a.End(ctx, owners[0]))
		gives(t, true)(t.b.Begin(ctx, "room again", "alice"))
		gives(t, false)(t.b.Begin(ctx, "one more", "alice"))
		gives(t, false)(t.b.Touch(ctx, owners[0]))

		t.clock.pass(idleTimeout)
		gives(t, true)(t.a.Touch(ctx, owners[1]))
		t.clock.pass(time.Second) // which all but one have not survived
		for i := range min(most, 20) - 1 {
			gives(t, true)(t.b.Begin(ctx, fmt.Sprint("new", i), "alice"))
		}
		if most == 20 {
			gives(t, false)(t.b.Begin(ctx, "one more", "alice"))
		}
	})
}

// What is kept has a bound in all. The owner used longest ago makes room, and its upstream sessions are closed.
func TestStoreIsBounded(t *testing.T) {
	eachStore(t, func(t *storeTest) {
		ctx := t.Context()
		bound := func(s Store) {
			switch s := s.(type) {
			case *memory:
				s.live, s.ended = newLRU[string, *owned](3), newLRU[string, struct{}](3)
			case *Redis:
				s.maxOwners = 3
			}
		}
		bound(t.a)
		bound(t.b)
		var lost []UpstreamSession
		for i := range 20 {
			owner := fmt.Sprint("s", i)
			gives(t, true)(t.a.Begin(ctx, owner, fmt.Sprint("principal", i)))
			givesIDs(t)(t.b.PutUpstream(ctx, owner, sessionAt("app", fmt.Sprintf("u%02d", i))))
			givesIDs(t)(t.b.End(ctx, fmt.Sprint("ended", i)))
			t.clock.pass(time.Second)
			gives(t, true)(t.a.Touch(ctx, "principal-busy")) // so never the oldest
			open, err := t.a.Expire(ctx)
			if err != nil {
				t.Fatal(err)
			}
			lost = append(lost, open...)
			t.clock.pass(time.Second)
		}
		if len(lost) != 18 || lost[0].ID != "u00" || lost[17].ID != "u17" {
			t.Errorf("lost %+v", lost)
		}
		if m, ok := t.a.(*memory); ok && (len(m.live.byKey) != 3 || len(m.ended.byKey) != 3 || len(m.count) != 2) {
			t.Errorf("%d live, %d ended, %d counted", len(m.live.byKey), len(m.ended.byKey), len(m.count))
		}
	})
}

func TestStoreAfterARestart(t *testing.T) {
	eachStore(t, func(t *storeTest) {
		ctx := t.Context()
		t.begin("s")
		t.begin("ended")
		givesIDs(t)(t.a.PutUpstream(ctx, "s", sessionAt("app", "1")))
		givesIDs(t)(t.a.End(ctx, "ended"))
		s := t.restart()
		gives(t, true)(s.Touch(ctx, "s"))
		gives(t, true)(s.Touch(ctx, "principal-p"))
		if _, ok := s.(*memory); ok { // which knows nothing, and takes a session at its word
			gives(t, true)(s.Touch(ctx, "unknown"))
			t.upstream(s, "s", "app", "")
			return
		}
		gives(t, false)(s.Touch(ctx, "ended"))
		gives(t, false)(s.Touch(ctx, "unknown"))
		t.upstream(s, "s", "app", "1")
	})
}

// Whatever happens at once, each upstream session is handed out to be closed by exactly one caller.
func TestStoreHandsOutOnce(t *testing.T) {
	eachStore(t, func(t *storeTest) {
		ctx := t.Context()
		const owners = 600 // more than one batch
		for i := range owners {
			owner := fmt.Sprint("s", i)
			t.begin(owner)
			givesIDs(t)(t.a.PutUpstream(ctx, owner, sessionAt("app", owner)))
		}
		t.clock.pass(idleTimeout + time.Second)
		var mu sync.Mutex
		handed := map[string]int{}
		take := func(open []UpstreamSession, err error) {
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
			}
			for _, s := range open {
				handed[s.ID]++
			}
		}
		var all sync.WaitGroup
		for replica, s := range []Store{t.a, t.b} {
			all.Go(func() { take(s.Expire(ctx)) })
			all.Go(func() { take(s.Expire(ctx)) })
			all.Go(func() {
				for i := range owners / 10 {
					take(s.End(ctx, fmt.Sprint("s", i)))
					take(s.PutUpstream(ctx, fmt.Sprint("s", owners-1-i), sessionAt("app", fmt.Sprintf("late %d of %d", i, replica))))
				}
			})
		}
		all.Wait()
		take(t.a.Expire(ctx))
		if want := owners + 2*(owners/10); len(handed) != want {
			t.Errorf("%d were handed out, want %d", len(handed), want)
		}
		for id, times := range handed {
			if times != 1 {
				t.Errorf("%s was handed out %d times", id, times)
			}
		}
	})
}

// Owners and apps may be called anything.
func TestStoreKeepsOddNamesApart(t *testing.T) {
	eachStore(t, func(t *storeTest) {
		ctx := context.Background()
		names := []string{"a", "a:b", "a}", "{a", "", "*", "a b", "a\x00", strings.Repeat("a", 1000)}
		for i, n := range names {
			t.begin(n)
			givesIDs(t)(t.a.PutUpstream(ctx, n, sessionAt(n, fmt.Sprint(i))))
		}
		for i, n := range names {
			t.upstream(t.b, n, n, fmt.Sprint(i))
			givesIDs(t, fmt.Sprint(i))(t.b.Upstreams(ctx, n))
		}
	})
}
