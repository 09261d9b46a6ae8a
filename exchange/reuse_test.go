package exchange

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// reusing makes a client that reuses, with a clock, of a server that numbers its
// tokens, which live for a minute.
func reusing(t *testing.T, change ...func(*Config)) (*server, *Client, *clock) {
	t.Helper()
	s, now := serve(t, (*httptest.Server).Start), &clock{}
	var issued atomic.Int64
	s.answer = func(w http.ResponseWriter, form url.Values) {
		answer, claims := good(s.URL), goodClaims(s.URL)
		claims["iat"], claims["exp"], claims["jti"] = now.now().Unix(), now.now().Unix()+60, fmt.Sprint(issued.Add(1))
		claims["scope"], claims["aud"] = form.Get("scope"), form.Get("audience")
		answer["access_token"], answer["expires_in"], answer["scope"] = sign(claims), 60, form.Get("scope")
		writeJSON(w, 200, answer)
	}
	c := s.client(t, append([]func(*Config){func(c *Config) { c.Now, c.Reuse = now.now, 30*time.Second }}, change...)...)
	return s, c, now
}

func reusable() Request {
	r := request()
	r.Lifetime, r.Agent, r.SubjectJTI = time.Minute, "agent", "jti-1"
	return r
}

func mustExchange(t *testing.T, c *Client, r Request) *Token {
	t.Helper()
	token, err := c.Exchange(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestReuse(t *testing.T) {
	s, c, now := reusing(t)
	first := mustExchange(t, c, reusable())
	if first.Reused {
		t.Error("the first is a fresh one")
	}
	again := reusable()
	again.Scopes = []string{"item:Read", "item:List", "item:Read"} // the same set
	second := mustExchange(t, c, again)
	if second.Value != first.Value || !second.Reused || s.asked() != 1 {
		t.Errorf("got %+v after %d requests", second, s.asked())
	}
	now.advance(29 * time.Second)
	if mustExchange(t, c, reusable()).JTI != "1" {
		t.Error("forgotten too soon")
	}
	now.advance(time.Second)
	if got := mustExchange(t, c, reusable()); got.JTI != "2" || got.Reused {
		t.Errorf("got %+v", got)
	}
	if got := c.Stats(); got.Exchanged != 2 || got.Reused != 2 || got.Cached != 1 {
		t.Errorf("got %+v", got)
	}
}

// Nothing is reused beyond its own expiry, or that of the agent's token.
func TestReuseEnds(t *testing.T) {
	tests := []struct {
		name   string
		change func(*Request)
		reuse  time.Duration
		last   time.Duration // the last moment of its reuse
	}{
		{"longest", func(*Request) {}, 10 * time.Second, 10 * time.Second},
		{"expiry less a margin", func(*Request) {}, time.Hour, 55 * time.Second},
		{"subject's expiry", func(r *Request) { r.SubjectExpiry = epoch.Add(20 * time.Second) }, time.Hour, 20 * time.Second},
		{"subject expired within the skew", func(r *Request) { r.SubjectExpiry = epoch.Add(-time.Second) }, time.Hour, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, c, now := reusing(t, func(c *Config) { c.Reuse = tt.reuse })
			r := reusable()
			tt.change(&r)
			mustExchange(t, c, r)
			if tt.last > 0 {
				now.advance(tt.last - 1)
				if !mustExchange(t, c, r).Reused {
					t.Error("not reused")
				}
				now.advance(1)
			}
			if mustExchange(t, c, r).Reused {
				t.Error("reused")
			}
		})
	}
}

// An opaque token of unknown life has one use.
func TestReuseOfUnknownLife(t *testing.T) {
	s, c, _ := reusing(t)
	s.answer = func(w http.ResponseWriter, _ url.Values) {
		writeJSON(w, 200, map[string]any{"access_token": "opaque", "issued_token_type": typeAccessToken, "token_type": "Bearer"})
	}
	r := reusable()
	r.AllowOpaque, r.Lifetime = true, 0
	for range 2 {
		if mustExchange(t, c, r).Reused {
			t.Error("reused")
		}
	}
}

// TestReuseKey changes every field of a request: none may find what was made for
// another value of it. The exceptions only say when and by what name it ends.
func TestReuseKey(t *testing.T) {
	md := &metadata{issuer: "https://as", tokenEndpoint: "https://as/token"}
	base := reusable().key(md)
	exceptions := map[string]bool{"SubjectExpiry": true, "SubjectJTI": true}
	for i := range reflect.TypeFor[Request]().NumField() {
		name := reflect.TypeFor[Request]().Field(i).Name
		r := reusable()
		switch field := reflect.ValueOf(&r).Elem().Field(i); field.Interface().(type) {
		case string:
			field.SetString("another")
		case bool:
			field.SetBool(!field.Bool())
		case time.Duration:
			field.SetInt(int64(time.Second))
		case []string:
			field.Set(reflect.ValueOf([]string{"item:List"}))
		case []byte:
			field.SetBytes([]byte("{}"))
		case time.Time:
			field.Set(reflect.ValueOf(epoch))
		default:
			t.Fatalf("%s has a new type", name)
		}
		if (r.key(md) == base) != exceptions[name] {
			t.Errorf("%s: same key %v", name, !exceptions[name])
		}
	}
	for _, other := range []*metadata{{issuer: "https://as2", tokenEndpoint: md.tokenEndpoint}, {issuer: md.issuer, tokenEndpoint: "https://as/token2"}} {
		if reusable().key(other) == base {
			t.Errorf("same key at %v", other)
		}
	}
	joined, split := reusable(), reusable()
	joined.Agent, split.Agent = "ab", "a"
	joined.Binding, split.Binding = "", "b"
	if joined.key(md) == split.key(md) {
		t.Error("fields run into each other")
	}
}

func TestReuseAcrossRequests(t *testing.T) {
	s, c, _ := reusing(t)
	for name, change := range map[string]func(*Request){
		"":           func(*Request) {},
		"scope":      func(r *Request) { r.Scopes = r.Scopes[:1] },
		"audience":   func(r *Request) { r.Audience = "https://bank.example/" },
		"token":      func(r *Request) { r.SubjectToken = "another" },
		"proof key":  func(r *Request) { r.Binding = "jkt" },
		"short life": func(r *Request) { r.Lifetime, r.AcceptLonger = time.Second, true },
	} {
		r := reusable()
		change(&r)
		before := s.asked()
		if mustExchange(t, c, r).Reused || s.asked() != before+1 {
			t.Errorf("another %s: reused", name)
		}
	}
}

// A thousand that come at once share one exchange; one that gives up does not
// take it from the others (G-020).
func TestReuseSingleFlight(t *testing.T) {
	s, c, _ := reusing(t)
	begun, release := make(chan struct{}), make(chan struct{})
	issue := s.answer
	s.answer = func(w http.ResponseWriter, form url.Values) {
		close(begun) // twice would panic
		<-release
		issue(w, form)
	}
	ctx, giveUp := context.WithCancel(t.Context())
	first := make(chan error)
	go func() {
		_, err := c.Exchange(ctx, reusable())
		first <- err
	}()
	<-begun
	var wg sync.WaitGroup
	for range 1000 {
		wg.Go(func() {
			token, err := c.Exchange(t.Context(), reusable())
			if err != nil || token.JTI != "1" || !token.Reused {
				t.Errorf("got %+v, %v", token, err)
			}
		})
	}
	giveUp()
	wantKind(t, nil, <-first, Unavailable, context.Canceled)
	close(release)
	wg.Wait()
	if n := s.asked(); n != 1 {
		t.Errorf("%d requests", n)
	}
}

// A failure is not kept.
func TestReuseOfFailure(t *testing.T) {
	s, c, _ := reusing(t)
	works := s.answer
	s.answer = func(w http.ResponseWriter, _ url.Values) { writeJSON(w, 400, map[string]any{"error": "invalid_scope"}) }
	token, err := c.Exchange(t.Context(), reusable())
	wantKind(t, token, err, Refused, nil)
	s.answer = works
	mustExchange(t, c, reusable())
}

// What is kept serves on while the server is away.
func TestReuseWhileAway(t *testing.T) {
	s, c, _ := reusing(t, func(c *Config) { c.Breaker.Failures = 1 })
	mustExchange(t, c, reusable())
	s.answer = func(w http.ResponseWriter, _ url.Values) { writeJSON(w, 500, nil) }
	other := reusable()
	other.Audience = "https://bank.example/"
	for range 2 {
		token, err := c.Exchange(t.Context(), other)
		wantKind(t, token, err, Unavailable, nil)
	}
	if !mustExchange(t, c, reusable()).Reused {
		t.Error("not reused")
	}
}

func TestReuseIsBounded(t *testing.T) {
	_, c, _ := reusing(t, func(c *Config) { c.ReuseEntries = 3 })
	of := func(subject string) Request {
		r := reusable()
		r.SubjectToken = subject
		return r
	}
	for _, subject := range []string{"a", "b", "c", "a", "d"} {
		mustExchange(t, c, of(subject))
	}
	for subject, kept := range map[string]bool{"a": true, "c": true, "d": true} {
		if mustExchange(t, c, of(subject)).Reused != kept {
			t.Errorf("%s: kept %v", subject, !kept)
		}
	}
	if mustExchange(t, c, of("b")).Reused || c.Stats().Cached != 3 {
		t.Error("the one longest unused was kept")
	}
}

func TestDrop(t *testing.T) {
	_, c, _ := reusing(t)
	of := func(subject, agent, jti string) Request {
		r := reusable()
		r.Agent, r.SubjectJTI, r.SubjectToken = agent, jti, subject+agent+jti
		return r
	}
	all := []Request{of("alice", "agent", "1"), of("alice", "agent", "2"), of("alice", "other", "3")}
	for name, tt := range map[string]struct {
		match func(Reusable) bool
		want  int
	}{
		"subject": {func(e Reusable) bool { return e.Subject == "alice" }, 3},
		"agent":   {func(e Reusable) bool { return e.Agent == "agent" }, 2},
		"jti":     {func(e Reusable) bool { return e.JTI == sha256.Sum256([]byte("2")) }, 1},
		"token":   {func(e Reusable) bool { return e.SubjectToken == sha256.Sum256([]byte("aliceother3")) }, 1},
		"nothing": {func(Reusable) bool { return false }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			for _, r := range all {
				mustExchange(t, c, r)
			}
			if got := c.Drop(tt.match); got != tt.want || c.Stats().Cached != 3-tt.want {
				t.Errorf("dropped %d, kept %d", got, c.Stats().Cached)
			}
		})
	}
	s := serve(t, (*httptest.Server).Start)
	if s.client(t).Drop(func(Reusable) bool { return true }) != 0 {
		t.Error("dropped what was never kept")
	}
}

// What is under way at a revocation is neither kept nor waited for.
func TestDropOfFlight(t *testing.T) {
	s, c, _ := reusing(t)
	issue := s.answer
	begun, release := make(chan struct{}), make(chan struct{})
	s.answer = func(w http.ResponseWriter, form url.Values) {
		close(begun)
		<-release
		issue(w, form)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := c.Exchange(t.Context(), reusable()); err != nil {
			t.Error(err)
		}
	})
	<-begun
	c.Drop(func(Reusable) bool { return true })
	s.set(issue)
	if got := mustExchange(t, c, reusable()); got.Reused {
		t.Errorf("got %+v", got)
	}
	close(release)
	wg.Wait()
	if n := c.Stats().Cached; n != 1 {
		t.Errorf("%d kept", n)
	}
	if got := mustExchange(t, c, reusable()); got.JTI != "1" {
		t.Error("the token of before the revocation was kept")
	}
}

func TestReuseConcurrently(t *testing.T) {
	_, c, now := reusing(t, func(c *Config) { c.ReuseEntries = 4 })
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 50 {
				r := reusable()
				r.SubjectToken = fmt.Sprint("token-", (i+j)%6)
				if _, err := c.Exchange(t.Context(), r); err != nil {
					t.Error(err)
					return
				}
				if j%10 == 0 {
					c.Drop(func(e Reusable) bool { return e.SubjectToken[0]%2 == 0 })
					now.advance(time.Second)
				}
			}
		})
	}
	wg.Wait()
	if n := c.Stats().Cached; n > 4 {
		t.Errorf("%d kept", n)
	}
}

func BenchmarkReuse(b *testing.B) {
	c := newCache(time.Minute, 1000)
	md := &metadata{issuer: "https://as", tokenEndpoint: "https://as/token"}
	r := reusable()
	client := &Client{cfg: Config{Now: time.Now, Reuse: time.Minute}, cache: c}
	client.keep(r.key(md), r, &Token{Value: "x", Expiry: time.Now().Add(time.Hour)}, 0)
	b.ReportAllocs()
	for b.Loop() {
		if t, err := client.reuse(b.Context(), md, r); err != nil || !t.Reused {
			b.Fatal(err)
		}
	}
}
