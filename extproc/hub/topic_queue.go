package hub

import (
	"context"
	"log/slog"
	"sync/atomic"
)

const maxQueued = 256 // messages that wait for one receiver

// topicQueue keeps a slow receiver from holding up the others: it has a goroutine of its own, and messages beyond
// maxQueued are lost.
type topicQueue struct {
	receive func([]byte)
	waiting chan []byte
	losing  atomic.Bool // said so already
	log     *slog.Logger
}

func newTopicQueue(receive func([]byte), log *slog.Logger) *topicQueue {
	return &topicQueue{receive: receive, waiting: make(chan []byte, maxQueued), log: log}
}

func (q *topicQueue) put(message []byte) {
	select {
	case q.waiting <- message:
	default:
		if !q.losing.Swap(true) {
			q.log.Warn("session store: a receiver is too slow, messages to it are lost")
		}
	}
}

func (q *topicQueue) run(life context.Context) {
	for {
		select {
		case <-life.Done():
			return
		case m := <-q.waiting:
			if life.Err() != nil { // select has no preference
				return
			}
			q.receive(m)
			if len(q.waiting) == 0 {
				q.losing.Store(false)
			}
		}
	}
}
