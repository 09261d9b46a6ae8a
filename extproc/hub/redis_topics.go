package hub

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	topicHeartbeat = 3 * time.Second        // the connection for messages is asked for a sign of life
	topicSilence   = 3 * topicHeartbeat     // without any sign it is given up for a new one
	topicRetry     = 200 * time.Millisecond // between attempts at a new one
)

// redisTopics is the part of the Store that hands on messages. One connection serves all topics: read reads it and
// write writes to it, so that neither Subscribe nor its cancel waits for a connection that is being made anew.
type redisTopics struct {
	publisher *redis.Client
	conn      *redis.PubSub
	prefix    string // of channels
	log       *slog.Logger

	local topics // of the subscribers in this process

	mu      sync.Mutex
	changed map[string]bool         // topics that were joined or left since write was last at work
	waiting map[string][]chan error // Subscribe calls by topic, until the server confirms

	wake    chan struct{} // there is something in changed
	life    context.Context
	stop    context.CancelFunc
	running sync.WaitGroup
}

// topicsOptions returns o for a client that listens for messages.
func topicsOptions(o redis.Options) *redis.Options {
	dial := redis.NewDialer(&o)
	o.Dialer = func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &watchedConn{Conn: c, silence: topicSilence}, nil
	}
	return &o
}

func newRedisTopics(publisher, listener *redis.Client, log *slog.Logger) *redisTopics {
	t := &redisTopics{
		publisher: publisher,
		// Channels are common to all databases of a server, and what shares one may use several.
		prefix:  fmt.Sprintf("%stopic:%d:", redisPrefix, publisher.Options().DB),
		log:     log,
		changed: map[string]bool{}, waiting: map[string][]chan error{},
		wake: make(chan struct{}, 1),
	}
	t.life, t.stop = context.WithCancel(context.Background())
	t.conn = listener.Subscribe(t.life)
	t.running.Go(t.read)
	t.running.Go(t.write)
	return t
}

func (t *redisTopics) closeTopics() {
	t.stop()
	_ = t.conn.Close()
	t.running.Wait()
}

func (t *redisTopics) Publish(ctx context.Context, topic string, message []byte) error {
	ctx, cancel := context.WithTimeout(ctx, redisTimeout)
	defer cancel()
	return storeError(t.publisher.Publish(ctx, t.prefix+topic, message).Err())
}

// Subscribe returns once the server has confirmed. What receive has not taken in yet waits in a queue of its own; after
// cancel it is called no more, though a call may still be under way.
func (t *redisTopics) Subscribe(ctx context.Context, topic string, receive func([]byte)) (func(), error) {
	ctx, giveUp := context.WithTimeout(ctx, redisTimeout)
	defer giveUp()
	life, end := context.WithCancel(t.life)
	q := newTopicQueue(receive, t.log)
	go q.run(life)
	leave := t.local.join(topic, q.put)
	cancel := sync.OnceFunc(func() {
		end()
		leave()
		t.change(topic, nil)
	})

	confirmed := make(chan error, 1)
	t.change(topic, confirmed)
	var err error
	select {
	case err = <-confirmed:
	case <-ctx.Done():
		err = ctx.Err()
	case <-t.life.Done():
		err = redis.ErrClosed
	}
	if err != nil {
		cancel()
		return nil, storeError(err)
	}
	return cancel, nil
}

// change has write tell the server about a topic that was joined or left. The outcome goes to confirmed.
func (t *redisTopics) change(topic string, confirmed chan error) {
	t.mu.Lock()
	t.changed[topic] = true
	if confirmed != nil {
		t.waiting[topic] = append(t.waiting[topic], confirmed)
	}
	t.mu.Unlock()
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// settle tells those who wait for a topic how it went.
func (t *redisTopics) settle(topic string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, confirmed := range t.waiting[topic] {
		confirmed <- err
	}
	delete(t.waiting, topic)
}

func (t *redisTopics) settleAll(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for topic, all := range t.waiting {
		for _, confirmed := range all {
			confirmed <- err
		}
		delete(t.waiting, topic)
	}
}

// write tells the server which topics are of interest, and asks it for a sign of life.
func (t *redisTopics) write() {
	beat := time.NewTicker(topicHeartbeat)
	defer beat.Stop()
	for {
		select {
		case <-t.life.Done():
			return
		case <-t.wake:
			t.tellChanges()
		case <-beat.C:
			ctx, cancel := context.WithTimeout(t.life, redisTimeout)
			_ = t.conn.Ping(ctx) // read finds out
			cancel()
		}
	}
}

func (t *redisTopics) tellChanges() {
	t.mu.Lock()
	var joined, left []string
	for topic := range t.changed {
		if t.local.has(topic) {
			joined = append(joined, t.prefix+topic)
		} else {
			left = append(left, t.prefix+topic)
		}
	}
	clear(t.changed)
	t.mu.Unlock()

	ctx, cancel := context.WithTimeout(t.life, redisTimeout)
	defer cancel()
	if len(left) > 0 {
		_ = t.conn.Unsubscribe(ctx, left...) // it is no longer among those to subscribe to on a new connection
	}
	if len(joined) == 0 {
		return
	}
	if err := t.conn.Subscribe(ctx, joined...); err != nil {
		for _, channel := range joined {
			t.settle(strings.TrimPrefix(channel, t.prefix), err)
		}
	}
}

// read hands on what comes in. When the connection is lost, the client makes a new one and subscribes anew.
func (t *redisTopics) read() {
	lost := false
	for {
		m, err := t.conn.Receive(t.life)
		switch {
		case errors.Is(err, redis.ErrClosed) || t.life.Err() != nil:
			return
		case err != nil:
			t.settleAll(err)
			var refused redis.Error // an answer: who asked has it now
			if !lost && !errors.As(err, &refused) {
				t.log.Warn("session store: messages of other replicas do not arrive", "error", err)
				lost = true
			}
			select {
			case <-t.life.Done():
				return
			case <-time.After(topicRetry):
			}
			continue
		case lost:
			t.log.Info("session store: messages of other replicas arrive again")
			lost = false
		}
		switch m := m.(type) {
		case *redis.Subscription:
			if m.Kind == "subscribe" {
				t.settle(strings.TrimPrefix(m.Channel, t.prefix), nil)
			}
		case *redis.Message:
			t.local.deliver(strings.TrimPrefix(m.Channel, t.prefix), []byte(m.Payload))
		}
	}
}

// watchedConn fails a read that has no other deadline once nothing came for long. A connection for messages has none,
// and would wait for ever on a server that went away without a word.
type watchedConn struct {
	net.Conn
	silence time.Duration
	endless bool
}

func (c *watchedConn) SetReadDeadline(d time.Time) error {
	c.endless = d.IsZero()
	return c.Conn.SetReadDeadline(d)
}

func (c *watchedConn) Read(b []byte) (int, error) {
	if c.endless {
		if err := c.Conn.SetReadDeadline(time.Now().Add(c.silence)); err != nil {
			return 0, err
		}
	}
	return c.Conn.Read(b)
}
