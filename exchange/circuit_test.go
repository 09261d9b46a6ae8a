package exchange

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// clock is a time that tests move by hand.
type clock struct{ offset atomic.Int64 }

var epoch = time.Unix(1_800_000_000, 0)

func (c *clock) now() time.Time          { return epoch.Add(time.Duration(c.offset.Load())) }
func (c *clock) advance(d time.Duration) { c.offset.Add(int64(d)) }

// TestCircuit plays scripts of calls, one after the other, against a breaker of
// three failures, 1 s to 4 s.
func TestCircuit(t *testing.T) {
	type step struct {
		after time.Duration
		do    outcome
		pause time.Duration
		want  time.Duration // to be refused for that long; 0 to be let through
	}
	const s = time.Second
	let := func(o outcome) step { return step{do: o} }
	fails, works, vanishes := let(failing), let(alive), let(unclear)
	refused := func(wait time.Duration) step { return step{want: wait} }
	after := func(d time.Duration, next step) step { next.after = d; return next }
	pausing := func(d time.Duration) step { return step{do: failing, pause: d} }
	tests := []struct {
		name  string
		steps []step
		state Circuit
	}{
		{"stays closed", []step{fails, fails, works, fails, fails, vanishes, works, fails}, CircuitClosed},
		{"opens", []step{fails, fails, fails, refused(s), after(s/2, refused(s/2))}, CircuitOpen},
		{"a caller that gives up proves nothing", []step{fails, fails, vanishes, fails, refused(s)}, CircuitOpen},
		{"half-open after the back-off", []step{fails, fails, fails, after(s, vanishes)}, CircuitHalfOpen},
		{"closes", []step{fails, fails, fails, after(s, works), fails, fails, works}, CircuitClosed},
		{"back-off grows to its bound", []step{
			fails, fails, fails, after(s, fails), refused(2 * s), after(2*s, fails), refused(4 * s), after(4*s, fails), refused(4 * s),
		}, CircuitOpen},
		{"back-off starts again", []step{fails, fails, fails, after(s, fails), after(2*s, works), fails, fails, fails, refused(s)}, CircuitOpen},
		{"a probe that vanishes leaves its place", []step{fails, fails, fails, after(s, vanishes), works, works}, CircuitClosed},
		{"Retry-After opens at once", []step{pausing(7 * s), refused(7 * s), after(7*s, works)}, CircuitClosed},
		{"Retry-After is bounded", []step{pausing(time.Hour), refused(20 * s)}, CircuitOpen},
		{"Retry-After of a probe", []step{fails, fails, fails, after(s, pausing(3*s)), refused(3 * s)}, CircuitOpen},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := Breaker{Failures: 3, MaxPause: 20 * s}
			if err := cfg.complete(); err != nil {
				t.Fatal(err)
			}
			c, now := newCircuit(cfg, func(Circuit, time.Duration) {}), epoch
			for i, step := range tt.steps {
				now = now.Add(step.after)
				era, wait, ok := c.enter(now)
				if wait != step.want || ok != (step.want == 0) {
					t.Fatalf("step %d: let through %v, wait %s; want %s", i, ok, wait, step.want)
				}
				if ok {
					c.leave(era, now, step.do, step.pause)
				}
			}
			if state, _ := c.stats(now); state != tt.state {
				t.Errorf("it is %s, want %s", state, tt.state)
			}
		})
	}
}

// While one call looks whether the server is back, the others fail; what calls
// show that began before does not count.
func TestCircuitOverlap(t *testing.T) {
	cfg := Breaker{Failures: 1}
	if err := cfg.complete(); err != nil {
		t.Fatal(err)
	}
	c := newCircuit(cfg, func(Circuit, time.Duration) {})
	slow, _, _ := c.enter(epoch)
	slower, _, _ := c.enter(epoch)
	first, _, _ := c.enter(epoch)
	c.leave(first, epoch, failing, 0)
	c.leave(slow, epoch, alive, 0)
	if state, _ := c.stats(epoch); state != CircuitOpen {
		t.Errorf("an old success made it %s", state)
	}
	now := epoch.Add(time.Second)
	probe, _, ok := c.enter(now)
	if !ok {
		t.Fatal("no probe")
	}
	if _, wait, ok := c.enter(now); ok || wait != time.Second {
		t.Errorf("a second probe: %v, %s", ok, wait)
	}
	c.leave(slower, now, failing, 0)
	if _, _, ok := c.enter(now); ok {
		t.Error("an old failure ended the probe")
	}
	c.leave(probe, now, alive, 0)
	if _, _, ok := c.enter(now); !ok {
		t.Error("it did not close")
	}
	if _, opened := c.stats(now); opened != 1 {
		t.Errorf("opened %d times", opened)
	}
}

func TestNoBreaker(t *testing.T) {
	var c *circuit
	era, _, ok := c.enter(epoch)
	c.leave(era, epoch, failing, time.Hour)
	if _, _, again := c.enter(epoch); !ok || !again {
		t.Error("refused")
	}
}

func TestBreakerRefuses(t *testing.T) {
	for name, b := range map[string]Breaker{
		"failures": {Failures: -1}, "slow": {Failures: 1, SlowerThan: -1}, "back-off": {Failures: 1, BackOff: -1}, "pause": {Failures: 1, MaxPause: -1},
		"longest back-off": {Failures: 1, BackOff: 2 * time.Second, MaxBackOff: time.Second},
	} {
		cfg := Config{WellKnown: "https://as.example/x", ClientID: "gate", ClientSecret: "x", Breaker: b}
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// breaking makes a client with a breaker of two failures and a clock.
func breaking(t *testing.T, s *server, change ...func(*Config)) (*Client, *clock) {
	t.Helper()
	now := &clock{}
	return s.client(t, append([]func(*Config){func(c *Config) {
		c.Now, c.Breaker = now.now, Breaker{Failures: 2}
	}}, change...)...), now
}

// goodAt is an answer without fault at another time than now.
func goodAt(issuer string, now time.Time) map[string]any {
	claims := goodClaims(issuer)
	claims["iat"], claims["exp"] = now.Unix(), now.Unix()+5
	answer := good(issuer)
	answer["access_token"] = sign(claims)
	return answer
}

// What the server answers decides whether it is left alone.
func TestBreakerCounts(t *testing.T) {
	status := func(code int, header ...string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			for i := 0; i+1 < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			writeJSON(w, code, map[string]any{"error": "invalid_target"})
		}
	}
	tests := []struct {
		name   string
		answer func(http.ResponseWriter)
		wait   time.Duration // after two of them; 0 for a closed circuit
	}{
		{"OAuth error", status(400), 0},
		{"invalid client", status(401), 0},
		{"a token that fails a check", func(w http.ResponseWriter) { writeJSON(w, 200, map[string]any{"access_token": "x"}) }, 0},
		{"500", status(500), time.Second},
		{"503", status(503), time.Second},
		{"redirect", status(307, "Location", "/elsewhere"), time.Second},
		{"web page", func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "text/html")
			_, _ = w.Write([]byte("<html>"))
		}, time.Second},
		{"hangs up", func(http.ResponseWriter) { panic(http.ErrAbortHandler) }, time.Second},
		{"429", status(429), time.Second},
		{"429 with seconds", status(429, "Retry-After", "9"), 9 * time.Second},
		{"503 with a date", status(503, "Retry-After", epoch.Add(8*time.Second).UTC().Format(http.TimeFormat)), 8 * time.Second},
		{"503 with a day", status(503, "Retry-After", strconv.Itoa(86400)), time.Minute},
		{"500 with seconds", status(500, "Retry-After", "9"), time.Second}, // nobody gave it a meaning
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := serve(t, (*httptest.Server).Start)
			c, now := breaking(t, s)
			s.set(func(w http.ResponseWriter, _ url.Values) { tt.answer(w) })
			for range 2 {
				_, _ = c.Exchange(t.Context(), request())
			}
			sent := s.asked()
			s.set(func(w http.ResponseWriter, _ url.Values) { writeJSON(w, 200, goodAt(s.URL, now.now())) })
			token, err := c.Exchange(t.Context(), request())
			if tt.wait == 0 {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if e := wantKind(t, token, err, Unavailable, ErrCircuitOpen); e.RetryAfter != tt.wait || e.Reason() != "circuit_open" {
				t.Errorf("retry after %s, %s; want %s", e.RetryAfter, e.Reason(), tt.wait)
			}
			if s.asked() != sent {
				t.Error("the server was asked")
			}
			now.advance(tt.wait)
			if _, err := c.Exchange(t.Context(), request()); err != nil || c.Stats().Circuit != CircuitClosed {
				t.Errorf("%v, %s", err, c.Stats().Circuit)
			}
		})
	}
}

func TestSlowIsFailure(t *testing.T) {
	s := serve(t, (*httptest.Server).Start)
	c, now := breaking(t, s, func(c *Config) { c.Breaker.SlowerThan = time.Second })
	s.answer = func(w http.ResponseWriter, _ url.Values) {
		now.advance(1100 * time.Millisecond)
		writeJSON(w, 200, goodAt(s.URL, now.now()))
	}
	for range 2 {
		if _, err := c.Exchange(t.Context(), request()); err != nil {
			t.Fatal(err) // slow, but a token
		}
	}
	token, err := c.Exchange(t.Context(), request())
	wantKind(t, token, err, Unavailable, ErrCircuitOpen)
}

// Callers that give up do not open the circuit, unless it had taken too long.
func TestCancelledCalls(t *testing.T) {
	for slow, want := range map[time.Duration]Circuit{0: CircuitClosed, time.Second: CircuitOpen} {
		s := serve(t, (*httptest.Server).Start)
		c, now := breaking(t, s, func(c *Config) { c.Breaker.SlowerThan = time.Second / 2 })
		release := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		s.set(func(http.ResponseWriter, url.Values) { now.advance(slow); cancel(); <-release })
		for range 3 {
			token, err := c.Exchange(ctx, request())
			wantKind(t, token, err, Unavailable, nil)
			ctx, cancel = context.WithCancel(t.Context())
		}
		cancel()
		close(release)
		if got := c.Stats().Circuit; got != want {
			t.Errorf("after %s it is %s, want %s", slow, got, want)
		}
	}
}

// A server that answers byte by byte ends at the deadline, and is a failure.
func TestSlowDrip(t *testing.T) {
	s := serve(t, (*httptest.Server).Start)
	c, _ := breaking(t, s, func(c *Config) { c.Timeout = 50 * time.Millisecond })
	s.answer = func(w http.ResponseWriter, _ url.Values) {
		w.Header().Set("Content-Type", "application/json")
		for range 1000 {
			if _, err := w.Write([]byte(" ")); err != nil {
				return
			}
			w.(http.Flusher).Flush()
			time.Sleep(5 * time.Millisecond)
		}
	}
	for range 2 {
		token, err := c.Exchange(t.Context(), request())
		if e := wantKind(t, token, err, Unavailable, context.DeadlineExceeded); e.Reason() != "timeout" {
			t.Errorf("reason %s", e.Reason())
		}
	}
	if got := c.Stats(); got.Circuit != CircuitOpen || got.InFlight != 0 || got.Opened != 1 {
		t.Errorf("got %+v", got)
	}
}

// A server that is away for ten minutes is asked at most once a second or so, and
// serves again within five seconds of its return (RL-13).
func TestTenMinutesAway(t *testing.T) {
	s := serve(t, (*httptest.Server).Start)
	var log bytes.Buffer
	c, now := breaking(t, s, func(c *Config) { c.Log = slog.New(slog.NewJSONHandler(&log, nil)) })
	s.set(func(w http.ResponseWriter, _ url.Values) { writeJSON(w, 502, nil) })
	for range 600 * 4 {
		token, err := c.Exchange(t.Context(), request())
		wantKind(t, token, err, Unavailable, nil)
		now.advance(250 * time.Millisecond)
	}
	if n := s.asked(); n > 200 {
		t.Errorf("asked %d times", n)
	}
	s.set(func(w http.ResponseWriter, _ url.Values) { writeJSON(w, 200, goodAt(s.URL, now.now())) })
	back := now.now()
	for {
		if _, err := c.Exchange(t.Context(), request()); err == nil {
			break
		}
		now.advance(100 * time.Millisecond)
	}
	if took := now.now().Sub(back); took > 5*time.Second {
		t.Errorf("back after %s", took)
	}
	if !strings.Contains(log.String(), "left alone") || !strings.Contains(log.String(), "answers again") || strings.Contains(log.String(), c.cfg.ClientSecret) {
		t.Error(log.String())
	}
}

// However many callers come at once when the back-off is over, one is let through.
func TestSingleProbe(t *testing.T) {
	s := serve(t, (*httptest.Server).Start)
	c, now := breaking(t, s)
	s.set(func(w http.ResponseWriter, _ url.Values) { writeJSON(w, 500, nil) })
	for range 2 {
		_, _ = c.Exchange(t.Context(), request())
	}
	now.advance(time.Second)
	begun, release := make(chan struct{}), make(chan struct{})
	s.answer = func(w http.ResponseWriter, _ url.Values) {
		close(begun) // twice would panic
		<-release
		writeJSON(w, 200, goodAt(s.URL, now.now()))
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := c.Exchange(t.Context(), request()); err != nil {
			t.Error(err)
		}
	})
	<-begun
	for range 50 {
		token, err := c.Exchange(t.Context(), request())
		wantKind(t, token, err, Unavailable, ErrCircuitOpen)
	}
	if got := c.Stats(); got.Circuit != CircuitHalfOpen || got.InFlight != 1 || got.CircuitOpen != 50 {
		t.Errorf("got %+v", got)
	}
	close(release)
	wg.Wait()
	if got := c.Stats(); got.Circuit != CircuitClosed || got.Exchanged != 1 || got.Unavailable != 52 {
		t.Errorf("got %+v", got)
	}
}

func TestCircuitNames(t *testing.T) {
	got := []string{CircuitClosed.String(), CircuitHalfOpen.String(), CircuitOpen.String(), Circuit(9).String()}
	if !slices.Equal(got, []string{"closed", "half-open", "open", "unknown"}) {
		t.Errorf("got %v", got)
	}
}

// What finds no place fails soon, and says when to come again.
func TestBusy(t *testing.T) {
	s := serve(t, (*httptest.Server).Start)
	c := s.client(t, func(c *Config) { c.MaxConcurrent, c.MaxWait = 2, 20*time.Millisecond })
	begun, release := make(chan struct{}, 2), make(chan struct{})
	works := s.answer
	s.answer = func(w http.ResponseWriter, form url.Values) {
		begun <- struct{}{}
		<-release
		works(w, form)
	}
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			if _, err := c.Exchange(t.Context(), request()); err != nil {
				t.Error(err)
			}
		})
		<-begun
	}
	token, err := c.Exchange(t.Context(), request())
	if e := wantKind(t, token, err, Unavailable, ErrBusy); e.RetryAfter != time.Second || e.Reason() != "busy" {
		t.Errorf("got %+v", e)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	token, err = c.Exchange(ctx, request())
	wantKind(t, token, err, Unavailable, context.Canceled)
	if got := c.Stats(); got.InFlight != 2 || got.Busy == 0 {
		t.Errorf("got %+v", got)
	}
	close(release)
	wg.Wait()
	s.answer = works
	for range 10 {
		if _, err := c.Exchange(t.Context(), request()); err != nil {
			t.Fatalf("a place was not given back: %v", err)
		}
	}
}

// A call that has to wait a little gets the place of one that ends.
func TestShortQueue(t *testing.T) {
	s := serve(t, (*httptest.Server).Start)
	c := s.client(t, func(c *Config) { c.MaxConcurrent, c.MaxWait = 1, 10*time.Second })
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := c.Exchange(t.Context(), request()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}
