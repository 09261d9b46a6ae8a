package revocation

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
)

// startRedis runs a server of the test's own, and returns a client.
func startRedis(t *testing.T) *redis.Client {
	t.Helper()
	program := os.Getenv("REDIS_SERVER")
	for _, name := range []string{"redis-server", "valkey-server"} {
		if path, err := exec.LookPath(name); program == "" && err == nil {
			program = path
		}
	}
	if program == "" {
		t.Fatal("no redis-server: `make test` fetches one; otherwise set REDIS_SERVER")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	address := l.Addr().String()
	must(t, l.Close())
	_, port, err := net.SplitHostPort(address)
	must(t, err)
	cmd := exec.Command(program, "--bind", "127.0.0.1", "--port", port, "--save", "", "--appendonly", "no", "--dir", t.TempDir())
	must(t, cmd.Start())
	logging.Disable()
	client := redis.NewClient(&redis.Options{Addr: address, MaxRetries: -1, DialerRetries: 1})
	t.Cleanup(func() {
		_ = client.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	soon(t, "the server", func() bool { return client.Ping(context.Background()).Err() == nil })
	return client
}

func TestRedis(t *testing.T) {
	client := startRedis(t)
	here, there := newList(t, NewRedis(client)), newList(t, NewRedis(client))
	follow(t, there)
	target := Target{Kind: Subject, Value: "a \"quoted\" ünï", Issuer: "https://a"}
	begun := time.Now()
	e := revoke(t, here, target)
	soon(t, "the other replica to follow", func() bool { return len(there.Entries()) == 1 })
	t.Logf("the other replica followed after %v", time.Since(begun))
	if got := newList(t, NewRedis(client)).Entries(); len(got) != 1 || got[0] != e {
		t.Errorf("after a restart: %+v, want %+v", got, e)
	}
	for _, key := range []string{redisEntries, redisVersion} {
		if left, err := client.PTTL(t.Context(), key).Result(); err != nil || left < DefaultKeep || left > DefaultKeep+2*time.Hour {
			t.Errorf("%s expires in %v, %v", key, left, err)
		}
	}
	_, err := here.Undo(t.Context(), target)
	must(t, err)
	soon(t, "the other replica to undo it", func() bool { return len(there.Entries()) == 0 })

	revoke(t, here, target)
	soon(t, "the other replica to follow again", func() bool { return len(there.Entries()) == 1 })
	must(t, client.FlushAll(t.Context()).Err())
	soon(t, "what was lost to be back", func() bool {
		all, err := NewRedis(client).Load(t.Context())
		return err == nil && len(all) == 1 && there.Fresh()
	})
}

// An older entry never takes the place of a later one, whoever writes it when.
func TestRedisKeepsTheLater(t *testing.T) {
	client := startRedis(t)
	k, now := NewRedis(client), time.Now().UTC().Round(0)
	target := Target{Kind: Client, Value: "agent"}
	old := Entry{Target: target, At: now, IssuedUntil: now, Until: now.Add(time.Hour)}
	longer := old
	longer.Until = now.Add(2 * time.Hour)
	undone := old
	undone.At, undone.Undone = now.Add(time.Nanosecond), true
	for _, step := range []struct{ put, want Entry }{{old, old}, {longer, longer}, {old, longer}, {undone, undone}, {longer, undone}} {
		must(t, k.Put(t.Context(), step.put))
		if got, err := k.Load(t.Context()); err != nil || len(got) != 1 || got[0] != step.want {
			t.Errorf("put %+v: %+v, %v", step.put, got, err)
		}
	}
}

func TestRedisForgetsWhatHasEnded(t *testing.T) {
	client := startRedis(t)
	k, now := NewRedis(client), time.Now()
	must(t, k.Put(t.Context(), Entry{Target: Target{Kind: JTI, Value: "old"}, At: now.Add(-time.Hour), Until: now.Add(-2 * time.Minute)},
		Entry{Target: Target{Kind: JTI, Value: "new"}, At: now, Until: now.Add(time.Hour)}))
	if got, err := k.Load(t.Context()); err != nil || len(got) != 1 || got[0].Value != "new" {
		t.Errorf("%+v, %v", got, err)
	}
	if n := client.HLen(t.Context(), redisEntries).Val(); n != 1 {
		t.Errorf("%d entries at the server", n)
	}
}

func TestFullRedis(t *testing.T) {
	client := startRedis(t)
	k, now := NewRedis(client), time.Now()
	var all []Entry
	for i := range MaxEntries {
		all = append(all, Entry{Target: Target{Kind: JTI, Value: fmt.Sprint(i)}, At: now, Until: now.Add(time.Hour)})
	}
	must(t, k.Put(t.Context(), all...))
	l := New(Config{Keeper: k})
	if _, err := l.Add(t.Context(), Target{Kind: JTI, Value: "more"}, time.Hour); !errors.Is(err, ErrFull) || len(l.Entries()) != 0 {
		t.Errorf("one too many: %v, %d in force", err, len(l.Entries()))
	}
	must(t, k.Put(t.Context(), all[7]))
}

func TestFaultyRedis(t *testing.T) {
	client := startRedis(t)
	must(t, client.HSet(t.Context(), redisEntries, "x", "y").Err())
	if err := New(Config{Keeper: NewRedis(client)}).Open(t.Context()); err == nil {
		t.Error("accepted what is no revocation")
	}
}
