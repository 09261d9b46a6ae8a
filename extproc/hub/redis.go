package hub

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
)

// redisTimeout bounds each thing that is asked of the server.
const redisTimeout = time.Second

// Redis is a Store in a Redis (6 or later) or Valkey, which replicas share. An owner that it does not know has ended,
// unless it is a principal: all live sessions are there, and they survive a restart of the replicas.
//
// What is kept there expires by itself a little after the idle timeout, should no replica be left to expire it.
type Redis struct {
	*redisOwners
	*redisTopics
	clients []*redis.Client
}

var _ Store = (*Redis)(nil)

// NewRedis returns a Store at url, whose owners end after timeout without use by the clock now; the clocks of the
// replicas must therefore agree to well within timeout. It fails when the server does not answer soon, or before ctx
// ends. Close ends it.
func NewRedis(ctx context.Context, url string, timeout time.Duration, now func() time.Time, log *slog.Logger) (*Redis, error) {
	opts, err := redisOptions(url)
	if err != nil {
		return nil, err
	}
	return newRedis(ctx, opts, timeout, now, log)
}

func newRedis(ctx context.Context, opts *redis.Options, timeout time.Duration, now func() time.Time, log *slog.Logger) (*Redis, error) {
	logging.Disable() // it would print what is returned as an error
	forTopics := topicsOptions(*opts)
	client := redis.NewClient(opts)
	ctx, cancel := context.WithTimeout(ctx, redisTimeout)
	defer cancel()
	if err := client.Ping(ctx).Err(); err != nil {
		return nil, errors.Join(storeError(err), client.Close())
	}
	listener := redis.NewClient(forTopics)
	return &Redis{
		redisOwners: &redisOwners{
			client: client, timeout: timeout, now: now, maxOwners: maxShared, maxSessions: maxSessionsPrincipal,
		},
		redisTopics: newRedisTopics(client, listener, log),
		clients:     []*redis.Client{client, listener},
	}, nil
}

// Client returns the connections to the server, for what else is kept there. Close closes them.
func (r *Redis) Client() *redis.Client { return r.clients[0] }

// Close lets go of the server. What is kept there stays for the other replicas, and for the next start.
func (r *Redis) Close() error {
	r.closeTopics()
	var errs []error
	for _, c := range r.clients {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// redisOptions is how the server at url is spoken to. The url may carry a password, so that no error repeats any of it.
func redisOptions(url string) (*redis.Options, error) {
	opts, err := redis.ParseURL(url)
	if err != nil || opts.Network != "tcp" || strings.ContainsAny(url, "?#") { // options would weaken what follows
		return nil, errors.New("session store: the address is not redis://[user:password@]host:port[/db], nor rediss:// for TLS")
	}
	// Nothing that servers push is of use here, and the older protocol goes through every proxy.
	opts.Protocol = 2
	opts.DisableIdentity = true
	opts.ContextTimeoutEnabled = true
	opts.DialTimeout, opts.ReadTimeout, opts.WriteTimeout, opts.PoolTimeout = redisTimeout, redisTimeout, redisTimeout, redisTimeout
	// Neither dialled nor asked again: who waits learns soon that the server is away, and a command whose answer was
	// lost may have been carried out, after which Once and End have another answer.
	opts.DialerRetries, opts.MaxRetries = 1, -1
	// Shorter than what networks forget a silent connection after.
	opts.ConnMaxIdleTime = time.Minute
	return opts, nil
}

func storeError(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("session store: %w", err)
}
