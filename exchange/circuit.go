package exchange

import (
	"errors"
	"sync"
	"time"
)

// Breaker says when an authorization server that fails is left alone. While the
// circuit is open, calls fail at once with [ErrCircuitOpen] and with the time
// after which it is worth asking again.
type Breaker struct {
	// Failures is how many failures in a row open the circuit: no answer, a 5xx,
	// a 429, a redirect, a web page. An OAuth error is an answer, and so is a token
	// that fails a check; a caller that gives up proves nothing. Default 0: there
	// is no breaker.
	Failures int

	// SlowerThan makes a failure of an answer that took longer. Its token is used
	// all the same. Default: nothing is too slow that is within Timeout.
	SlowerThan time.Duration

	// BackOff is how long the circuit stays open. Then one call is let through
	// while the others still fail: its success closes the circuit, its failure
	// opens it for twice as long, up to MaxBackOff. Defaults 1 s and 4 s.
	BackOff, MaxBackOff time.Duration

	// MaxPause bounds the Retry-After of a 429 or 503, which opens the circuit for
	// as long as the server asks. Default 1 min.
	MaxPause time.Duration
}

func (b *Breaker) complete() error {
	switch {
	case b.Failures < 0 || b.SlowerThan < 0 || b.BackOff < 0 || b.MaxBackOff < 0 || b.MaxPause < 0:
		return errors.New("a negative limit of the breaker")
	case b.Failures == 0:
		return nil
	}
	orDefault(&b.BackOff, time.Second)
	orDefault(&b.MaxBackOff, max(4*time.Second, b.BackOff))
	orDefault(&b.MaxPause, time.Minute)
	if b.MaxBackOff < b.BackOff {
		return errors.New("the longest back-off of the breaker is shorter than the first")
	}
	return nil
}

// Circuit is the state of a breaker.
type Circuit uint8

// The states of a breaker, in the order in which it gets worse.
const (
	CircuitClosed   Circuit = iota // calls go through
	CircuitHalfOpen                // one call goes through, to see
	CircuitOpen                    // none does
)

func (c Circuit) String() string {
	switch c {
	case CircuitClosed:
		return "closed"
	case CircuitHalfOpen:
		return "half-open"
	case CircuitOpen:
		return "open"
	}
	return "unknown"
}

// outcome is what a call showed about the server.
type outcome uint8

const (
	unclear outcome = iota // the caller gave up
	alive
	failing
)

// circuit is the breaker at work. The nil circuit is always closed.
type circuit struct {
	cfg     Breaker
	changed func(to Circuit, wait time.Duration) // called with mu held

	mu       sync.Mutex
	state    Circuit
	failures int // in a row, while closed
	backOff  time.Duration
	until    time.Time // while open
	probing  bool      // while half-open
	opened   uint64
	// era counts the changes of state. What a call shows counts only in the era in
	// which it began: an old success must not close a circuit, nor an old failure
	// open one.
	era uint64
}

func newCircuit(cfg Breaker, changed func(Circuit, time.Duration)) *circuit {
	if cfg.Failures == 0 {
		return nil
	}
	return &circuit{cfg: cfg, changed: changed, backOff: cfg.BackOff}
}

// enter admits a call, or says how long it should wait. An admitted call must end
// with leave.
func (c *circuit) enter(now time.Time) (era uint64, wait time.Duration, ok bool) {
	if c == nil {
		return 0, 0, true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == CircuitOpen && !now.Before(c.until) {
		c.become(CircuitHalfOpen, 0)
	}
	switch {
	case c.state == CircuitOpen:
		return 0, c.until.Sub(now), false
	case c.state == CircuitHalfOpen && c.probing:
		return 0, c.cfg.BackOff, false
	}
	c.probing = c.state == CircuitHalfOpen
	return c.era, 0, true
}

// leave reports an admitted call; pause is the Retry-After of its answer.
func (c *circuit) leave(era uint64, now time.Time, o outcome, pause time.Duration) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if era != c.era {
		return
	}
	c.probing = false // of a probe; otherwise nothing is being probed
	switch {
	case o == failing && pause > 0:
		c.open(now, min(pause, c.cfg.MaxPause))
	case o == failing && c.state == CircuitHalfOpen:
		c.backOff = min(2*c.backOff, c.cfg.MaxBackOff)
		c.open(now, c.backOff)
	case o == failing:
		if c.failures++; c.failures >= c.cfg.Failures {
			c.open(now, c.backOff)
		}
	case o == alive && c.state == CircuitHalfOpen:
		c.backOff = c.cfg.BackOff
		c.become(CircuitClosed, 0)
	case o == alive:
		c.failures = 0
	}
}

func (c *circuit) open(now time.Time, wait time.Duration) {
	c.until = now.Add(wait)
	c.opened++
	c.become(CircuitOpen, wait)
}

func (c *circuit) become(state Circuit, wait time.Duration) {
	c.state, c.failures = state, 0
	c.era++
	c.changed(state, wait)
}

func (c *circuit) stats(now time.Time) (state Circuit, opened uint64) {
	if c == nil {
		return CircuitClosed, 0
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == CircuitOpen && !now.Before(c.until) {
		return CircuitHalfOpen, c.opened
	}
	return c.state, c.opened
}
