package hub

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sallyport/sallyport/authz"
)

const (
	maxShared   = 10 * maxOwners   // owners in the store, of all replicas
	redisGrace  = 10 * time.Minute // what an unused owner is kept for beyond the idle timeout, for Expire to find
	expireBatch = 256              // owners ended by one script, during which the server does nothing else
)

// redisOwners is the part of the Store that keeps owners. Each method is one script, see redis_scripts.go: one round
// trip, and nothing comes between.
type redisOwners struct {
	client  *redis.Client
	timeout time.Duration // idle
	now     func() time.Time

	maxOwners, maxSessions int
}

func (r *redisOwners) Begin(ctx context.Context, owner, principal string) (bool, error) {
	return asBool(r.run(ctx, scriptBegin, owner, principal, r.maxSessions))
}

func (r *redisOwners) Touch(ctx context.Context, owner string) (bool, error) {
	return asBool(r.run(ctx, scriptTouch, owner))
}

func (r *redisOwners) End(ctx context.Context, owner string) ([]UpstreamSession, error) {
	return asSessions(r.run(ctx, scriptEnd, owner))
}

func (r *redisOwners) Expire(ctx context.Context) ([]UpstreamSession, error) {
	var all []UpstreamSession
	for {
		reply, err := r.run(ctx, scriptExpire, "", expireBatch).StringSlice()
		if err != nil {
			if len(all) > 0 { // these are no longer in the store, and the next call will fail, too
				return all, nil
			}
			return nil, storeError(err)
		}
		for _, s := range reply[1:] {
			if open, err := decodeSession(s); err == nil {
				all = append(all, open)
			}
		}
		if reply[0] == "0" {
			return all, nil
		}
	}
}

func (r *redisOwners) Upstream(ctx context.Context, owner, app string) (UpstreamSession, bool, error) {
	return asSession(r.run(ctx, scriptUpstream, owner, app))
}

func (r *redisOwners) Upstreams(ctx context.Context, owner string) ([]UpstreamSession, error) {
	return asSessions(r.run(ctx, scriptUpstreams, owner))
}

func (r *redisOwners) PutUpstream(ctx context.Context, owner string, s UpstreamSession) ([]UpstreamSession, error) {
	b, err := json.Marshal(s)
	if err != nil {
		return nil, storeError(err)
	}
	displaced, ok, err := asSession(r.run(ctx, scriptPutUpstream, owner, s.App, b))
	if err != nil || !ok {
		return nil, err
	}
	return []UpstreamSession{displaced}, nil
}

func (r *redisOwners) RemoveUpstream(ctx context.Context, owner, app, id string) error {
	return storeError(r.run(ctx, scriptRemoveUpstream, owner, app, id).Err())
}

func (r *redisOwners) Remember(ctx context.Context, owner, key, value string) error {
	return storeError(r.run(ctx, scriptRemember, owner, key, value, maxFacts).Err())
}

func (r *redisOwners) Facts(ctx context.Context, owner string) (map[string]string, error) {
	flat, err := r.run(ctx, scriptFacts, owner).StringSlice()
	if err != nil || len(flat) == 0 {
		return nil, storeError(err)
	}
	facts := make(map[string]string, len(flat)/2)
	for i := 0; i+1 < len(flat); i += 2 {
		facts[flat[i]] = flat[i+1]
	}
	return facts, nil
}

func (r *redisOwners) Once(ctx context.Context, owner, mark string) (bool, error) {
	return asBool(r.run(ctx, scriptOnce, owner, mark, maxMarks))
}

// run carries out a script. What every script is told comes before args.
func (r *redisOwners) run(ctx context.Context, s *redis.Script, owner string, args ...any) *redis.Cmd {
	ctx, cancel := context.WithTimeout(ctx, redisTimeout)
	defer cancel()
	keep := r.timeout + redisGrace
	common := []any{
		r.now().UnixMilli(), r.timeout.Milliseconds(), keep.Milliseconds(), r.maxOwners, owner, authz.IsPrincipal(owner),
	}
	return s.Run(ctx, r.client, []string{redisPrefix + "used", redisPrefix + "lost"}, append(common, args...)...)
}

func asBool(c *redis.Cmd) (bool, error) {
	yes, err := c.Bool()
	return yes, storeError(err)
}

// asSession reads a reply of one session or none.
func asSession(c *redis.Cmd) (UpstreamSession, bool, error) {
	text, err := c.Text()
	if errors.Is(err, redis.Nil) {
		return UpstreamSession{}, false, nil
	}
	if err != nil {
		return UpstreamSession{}, false, storeError(err)
	}
	s, err := decodeSession(text)
	return s, err == nil, err
}

func asSessions(c *redis.Cmd) ([]UpstreamSession, error) {
	texts, err := c.StringSlice()
	if err != nil {
		return nil, storeError(err)
	}
	var out []UpstreamSession
	for _, text := range texts {
		s, err := decodeSession(text)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

func decodeSession(text string) (s UpstreamSession, err error) {
	return s, storeError(json.Unmarshal([]byte(text), &s))
}
