package hub

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// A proof that one replica has seen is a replay at every other, whoever asks first, until its time is over.
func TestProofsAreShared(t *testing.T) {
	url, c, ctx := limitedUser(t), newStoreClock(), t.Context()
	replicas := []*Redis{openRedis(t, url, c), openRedis(t, url, c)}
	until := c.now().Add(time.Minute)
	var first atomic.Int32
	var all sync.WaitGroup
	for n := range 20 {
		all.Go(func() {
			ok, err := replicas[n%2].Proofs().Use(ctx, "key", "proof", until)
			if err != nil {
				t.Error(err)
			}
			if ok {
				first.Add(1)
			}
		})
	}
	all.Wait()
	if first.Load() != 1 {
		t.Errorf("%d were first", first.Load())
	}
	for _, other := range [][2]string{{"other key", "proof"}, {"key", "other proof"}, {"key p", "roof"}} {
		if ok, err := replicas[0].Proofs().Use(ctx, other[0], other[1], until); !ok || err != nil {
			t.Errorf("%v: %v %v", other, ok, err)
		}
	}
	server, _ := sharedRedis()
	operator := redis.NewClient(&redis.Options{Addr: server.addr, DB: 3})
	defer operator.Close()
	keys := operator.Keys(ctx, redisPrefix+"proof:*").Val()
	if len(keys) != 4 {
		t.Fatalf("keys %q", keys)
	}
	for _, k := range keys {
		if life := operator.PTTL(ctx, k).Val(); life <= time.Minute || life > 2*time.Minute {
			t.Errorf("%s lives for %v", k, life)
		}
		if strings.Contains(k, "key") {
			t.Errorf("%s holds a stranger's text", k)
		}
	}
}

// Without the server nobody knows whether a proof is new.
func TestProofsWithoutTheServer(t *testing.T) {
	port, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	server, err := startRedis(port)
	if err != nil {
		t.Fatal(err)
	}
	c := newStoreClock()
	r := openRedis(t, "redis://"+server.addr, c)
	server.stop()
	begun := time.Now()
	if ok, err := r.Proofs().Use(t.Context(), "key", "proof", c.now()); ok || err == nil || !strings.HasPrefix(err.Error(), "session store: ") {
		t.Errorf("%v, %v", ok, err)
	}
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
}
