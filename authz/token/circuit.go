package token

import (
	"sync"
	"time"
)

const (
	circuitLimit = 3           // failures in a row that open the circuit
	circuitPause = time.Second // for which it then stays open
)

// circuit leaves a server alone that fails: after a few failures in a row it refuses for a while. Then one call may try
// while the others are still refused.
type circuit struct {
	mu       sync.Mutex
	failures int
	until    time.Time
}

// admits reports whether the server may be asked now.
func (c *circuit) admits(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failures < circuitLimit {
		return true
	}
	if now.Before(c.until) {
		return false
	}
	c.until = now.Add(circuitPause)
	return true
}

// report takes what an admitted call has shown.
func (c *circuit) report(failed bool, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !failed {
		c.failures = 0
		return
	}
	c.failures++
	c.until = now.Add(circuitPause)
}
