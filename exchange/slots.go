package exchange

import (
	"context"
	"time"
)

// busyRetry is when a caller that found no place may come again.
const busyRetry = time.Second

// slots bounds how many requests are at the token endpoint at once. The nil slots
// bound nothing.
type slots struct {
	taken chan struct{}
	wait  time.Duration
}

func newSlots(n int, wait time.Duration) *slots {
	if n == 0 {
		return nil
	}
	return &slots{taken: make(chan struct{}, n), wait: wait}
}

// take waits a little for a place, in the order of arrival.
func (s *slots) take(ctx context.Context) *Error {
	if s == nil {
		return nil
	}
	select {
	case s.taken <- struct{}{}:
		return nil
	default:
	}
	timer := time.NewTimer(s.wait)
	defer timer.Stop()
	select {
	case s.taken <- struct{}{}:
		return nil
	case <-timer.C:
		return &Error{Kind: Unavailable, RetryAfter: busyRetry, Err: ErrBusy}
	case <-ctx.Done():
		return &Error{Kind: Unavailable, Err: ctx.Err()}
	}
}

func (s *slots) put() {
	if s != nil {
		<-s.taken
	}
}
