package hub

import (
	"context"
	"encoding/json"
	"sync"
	"time"
)

// note is what a replica tells the others, and itself, about one owner: whoever has the stream, the waiting call or the
// connection that it concerns acts on it. It may be lost.
type note struct {
	Opened     string          `json:"opened,omitempty"`     // a session at this app has been opened
	Subscribed bool            `json:"subscribed,omitempty"` // its subscriptions have changed
	Ended      bool            `json:"ended,omitempty"`      // it has ended
	Cancelled  json.RawMessage `json:"cancelled,omitempty"`  // it cancelled the request with this id
	Answer     json.RawMessage `json:"answer,omitempty"`     // it answered a request of ours:
	Waiter     string          `json:"waiter,omitempty"`     // … this one
	Message    json.RawMessage `json:"message,omitempty"`    // to be sent on its 2024-11-05 stream
}

const tellDeadline = time.Second

func (h *Hub) tell(ctx context.Context, owner string, n note) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tellDeadline)
	defer cancel()
	if err := h.store.Publish(ctx, "owner/"+owner, encode(n)); err != nil {
		h.cfg.Log.Warn("replicas could not be told of a change in a session", "error", err)
	}
}

// hear calls each for every note about owner, until stop is called.
func (h *Hub) hear(ctx context.Context, owner string, each func(note)) (stop func(), err error) {
	return h.store.Subscribe(ctx, "owner/"+owner, func(message []byte) {
		var n note
		if err := json.Unmarshal(message, &n); err == nil {
			each(n)
		}
	})
}

// changes tells whoever waits that some caller may now see other lists: an upstream's have changed, or policies have.
type changes struct {
	mu   sync.Mutex
	wait chan struct{}
}

// next returns a channel that is closed at the next change.
func (c *changes) next() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.wait == nil {
		c.wait = make(chan struct{})
	}
	return c.wait
}

func (c *changes) announce() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.wait != nil {
		close(c.wait)
		c.wait = nil
	}
}
