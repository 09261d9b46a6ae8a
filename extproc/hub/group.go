package hub

import (
	"log/slog"
	"runtime/debug"
	"sync"
)

// group runs goroutines and waits for them. They read what upstreams sent; should that ever make one panic, it ends, as a
// request to net/http would, and the process goes on.
type group struct {
	sync.WaitGroup
	log *slog.Logger
}

// Go runs f.
func (g *group) Go(f func()) {
	g.WaitGroup.Go(func() {
		defer func() {
			if p := recover(); p != nil {
				g.log.Error("panic; what it was doing has ended", "panic", p, "stack", string(debug.Stack()))
			}
		}()
		f()
	})
}
