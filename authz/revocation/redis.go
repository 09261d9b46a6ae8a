package revocation

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// The keys are in the slot of a cluster that the session store's are in, and under the same prefix, for access lists.
const (
	redisEntries = "sallyport:{store}:revocations"         // a hash: by target
	redisVersion = "sallyport:{store}:revocations:version" // another text after each change
)

// Redis keeps entries in a Redis (6 or later) or Valkey, which replicas share. Both keys expire with the last entry. Of what
// the server forgets, each replica puts back what it knows.
type Redis struct {
	client  *redis.Client
	version string // of what was loaded last
}

var _ Keeper = (*Redis)(nil)

// NewRedis returns the keeper at the server of client, which bounds what is asked of it in time, and whose errors hold no
// secret.
func NewRedis(client *redis.Client) *Redis { return &Redis{client: client} }

func (r *Redis) String() string { return "session.store" }

// Changed asks for the version.
func (r *Redis) Changed(ctx context.Context) (bool, error) {
	version, err := r.client.Get(ctx, redisVersion).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return false, storeError(err)
	}
	return version != r.version, nil
}

// Load reads all entries, and removes those that have ended.
func (r *Redis) Load(ctx context.Context) ([]Entry, error) {
	version, err := r.client.Get(ctx, redisVersion).Result() // before the entries: a change in between is seen next time
	if err != nil && !errors.Is(err, redis.Nil) {
		return nil, storeError(err)
	}
	all, err := r.client.HGetAll(ctx, redisEntries).Result()
	if err != nil {
		return nil, storeError(err)
	}
	var entries []Entry
	for field, value := range all {
		_, text, _ := strings.Cut(value, " ")
		e, err := decode([]byte(text))
		if err != nil || fieldOf(e.Target) != field {
			return nil, fmt.Errorf("session store: %s holds something that is not a revocation of ours, under %.80q", redisEntries, field)
		}
		if time.Now().After(e.Until.Add(time.Minute)) {
			if err := scriptRemove.Run(ctx, r.client, []string{redisEntries}, field, value).Err(); err != nil {
				return nil, storeError(err)
			}
			continue
		}
		entries = append(entries, e)
	}
	r.version = version
	return entries, nil
}

// Put changes everything in one step, unless there is no room for some.
func (r *Redis) Put(ctx context.Context, entries ...Entry) error {
	for len(entries) > 0 { // in steps, during each of which the server does nothing else
		batch := entries[:min(len(entries), putBatch)]
		entries = entries[len(batch):]
		args := []any{rand.Text(), MaxEntries}
		for _, e := range batch {
			left := max(time.Until(e.Until)+time.Hour, time.Hour)
			args = append(args, fieldOf(e.Target), rank(&e)+" "+string(e.encode()), left.Milliseconds())
		}
		done, err := scriptPut.Run(ctx, r.client, []string{redisEntries, redisVersion}, args...).Bool()
		switch {
		case err != nil:
			return storeError(err)
		case !done:
			return ErrFull
		}
	}
	return nil
}

const putBatch = 200

// fieldOf is where the entry of a target is.
func fieldOf(t Target) string { return string(t.Kind) + "\x00" + t.Issuer + "\x00" + t.Value }

// rank orders the entries of a target as supersedes does, for a server that compares text.
func rank(e *Entry) string {
	return fmt.Sprintf("%020d%020d", max(e.At.UnixNano(), 0), max(e.Until.UnixNano(), 0))
}

func storeError(err error) error { return fmt.Errorf("session store: %w", err) }

var (
	// It is told the new version, the most entries that there may be, and of each entry its field, rank and text, and the
	// milliseconds that it is to be kept for.
	scriptPut = redis.NewScript(`
local entries, version, most = KEYS[1], KEYS[2], tonumber(ARGV[2])
local more = 0
for i = 3, #ARGV, 3 do
	if redis.call('HEXISTS', entries, ARGV[i]) == 0 then more = more + 1 end
end
if more > 0 and redis.call('HLEN', entries) + more > most then return 0 end
local keep = 0
for i = 3, #ARGV, 3 do
	local old = redis.call('HGET', entries, ARGV[i])
	if not old or old:sub(1, 40) < ARGV[i + 1]:sub(1, 40) then redis.call('HSET', entries, ARGV[i], ARGV[i + 1]) end
	keep = math.max(keep, tonumber(ARGV[i + 2]))
end
keep = math.max(keep, redis.call('PTTL', entries))
redis.call('SET', version, ARGV[1])
for _, key in ipairs({entries, version}) do redis.call('PEXPIRE', key, string.format('%.0f', keep)) end
return 1
`)

	// It removes what has ended, unless it has changed.
	scriptRemove = redis.NewScript(`
if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then redis.call('HDEL', KEYS[1], ARGV[1]) end
return 1
`)
)
