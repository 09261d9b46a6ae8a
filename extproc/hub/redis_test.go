package hub

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// While the server is away everything fails, and soon. When it is back, so is the store, without what the server lost.
func TestRedisDown(t *testing.T) {
	port, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	server, err := startRedis(port)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { server.stop() }()
	s, c := openRedis(t, "redis://"+server.addr, newStoreClock()), t.Context()
	got := make(chan string, 1)
	if _, err := s.Subscribe(c, "topic", func(m []byte) { got <- string(m) }); err != nil {
		t.Fatal(err)
	}
	if ok, err := s.Begin(c, "s", "alice"); !ok || err != nil {
		t.Fatal(ok, err)
	}

	server.stop()
	for range 3 {
		allFail(t, s)
	}
	if server, err = startRedis(port); err != nil {
		t.Fatal(err)
	}
	untilItWorks(t, func() error { _, err := s.Touch(c, "principal-p"); return err })
	if ok, err := s.Touch(c, "s"); ok || err != nil {
		t.Errorf("touched %v %v", ok, err)
	}
	untilItWorks(t, func() error { // the subscription is back, too
		if err := s.Publish(c, "topic", []byte("m")); err != nil {
			return err
		}
		select {
		case <-got:
			return nil
		case <-time.After(50 * time.Millisecond):
			return errors.New("no message")
		}
	})
	if cancel, err := s.Subscribe(c, "another", func([]byte) {}); err != nil {
		t.Error(err)
	} else {
		cancel()
	}
}

// A server that accepts and says nothing is as good as none.
func TestRedisHangs(t *testing.T) {
	p := newRedisProxy(t, cleanRedis(t).addr)
	s := openRedis(t, "redis://"+p.addr(), newStoreClock())
	if _, err := s.Touch(t.Context(), "principal-p"); err != nil {
		t.Fatal(err)
	}
	p.hold(true)
	allFail(t, s)
	if _, err := NewRedis(t.Context(), "redis://"+p.addr(), idleTimeout, time.Now, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("opened without an answer")
	}
	p.hold(false)
	untilItWorks(t, func() error { _, err := s.Touch(t.Context(), "principal-p"); return err })
}

// allFail asks everything of a store whose server is away, all at the same time.
func allFail(t *testing.T, s Store) {
	t.Helper()
	ctx := context.Background()
	begun := time.Now()
	var all sync.WaitGroup
	for name, ask := range map[string]func() error{
		"Begin":          func() error { _, err := s.Begin(ctx, "s", "p"); return err },
		"Touch":          func() error { _, err := s.Touch(ctx, "s"); return err },
		"End":            func() error { _, err := s.End(ctx, "s"); return err },
		"Expire":         func() error { _, err := s.Expire(ctx); return err },
		"Upstream":       func() error { _, _, err := s.Upstream(ctx, "s", "a"); return err },
		"Upstreams":      func() error { _, err := s.Upstreams(ctx, "s"); return err },
		"PutUpstream":    func() error { _, err := s.PutUpstream(ctx, "s", UpstreamSession{}); return err },
		"RemoveUpstream": func() error { return s.RemoveUpstream(ctx, "s", "a", "") },
		"Remember":       func() error { return s.Remember(ctx, "s", "k", "v") },
		"Facts":          func() error { _, err := s.Facts(ctx, "s"); return err },
		"Once":           func() error { _, err := s.Once(ctx, "s", "m"); return err },
		"Publish":        func() error { return s.Publish(ctx, "topic", nil) },
		"Subscribe":      func() error { _, err := s.Subscribe(ctx, "away", func([]byte) {}); return err },
	} {
		all.Go(func() {
			if err := ask(); err == nil {
				t.Errorf("%s: no error", name)
			} else if !strings.HasPrefix(err.Error(), "session store: ") {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	all.Wait()
	if took := time.Since(begun); took > 2*redisTimeout {
		t.Errorf("it took %v", took)
	}
}

func untilItWorks(t *testing.T, try func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if err = try(); err == nil {
			return
		}
	}
	t.Fatal(err)
}

// No error or log line shows the password, whatever is wrong.
func TestRedisKeepsThePassword(t *testing.T) {
	server := cleanRedis(t)
	limitedUser(t)
	for name, url := range map[string]string{
		"not a URL":      "redis://gateway:" + redisPassword + "@host:port:6379",
		"bad escape":     "redis://gateway:" + redisPassword + "%zz@" + server.addr,
		"another scheme": redisPassword + "://host",
		"a socket":       "unix://gateway:" + redisPassword + "@/tmp/socket",
		"bad database":   "redis://" + server.addr + "/" + redisPassword,
		"options":        "rediss://gateway:" + redisPassword + "@" + server.addr + "?skip_verify=true",
		"wrong password": "redis://gateway:" + redisPassword + "x@" + server.addr,
		"wrong user":     "redis://nobody:" + redisPassword + "@" + server.addr,
		"unreachable":    "redis://gateway:" + redisPassword + "@127.0.0.1:1",
		"no TLS there":   "rediss://gateway:" + redisPassword + "@" + server.addr,
	} {
		t.Run(name, func(t *testing.T) {
			s, err := NewRedis(t.Context(), url, idleTimeout, time.Now, slog.New(slog.DiscardHandler))
			if err == nil {
				s.Close()
				t.Fatal("opened")
			}
			if strings.Contains(err.Error(), redisPassword) || !strings.HasPrefix(err.Error(), "session store: ") {
				t.Error(err)
			}
		})
	}
}

// A user who may not listen is told so, rather than left to wait.
func TestRedisWithoutAccessToChannels(t *testing.T) {
	url := limitedUser(t)
	server := cleanRedis(t)
	server.do(t, "ACL", "SETUSER", "gateway", "resetchannels")
	_, err := openRedis(t, url, newStoreClock()).Subscribe(t.Context(), "topic", func([]byte) {})
	if err == nil || !strings.Contains(err.Error(), "NOPERM") {
		t.Error(err)
	}
}

// Nothing stays in the server for ever, not even when no replica is left.
func TestRedisKeysExpire(t *testing.T) {
	url, ctx := limitedUser(t), t.Context()
	server, _ := sharedRedis()
	clock := newStoreClock()
	s := openRedis(t, url, clock)
	s.Begin(ctx, "s", "alice")
	s.PutUpstream(ctx, "s", sessionAt("app", "1"))
	s.Remember(ctx, "s", "k", "v")
	s.Once(ctx, "s", "m")
	s.PutUpstream(ctx, "principal-p", sessionAt("app", "2"))
	clock.pass(idleTimeout + time.Second)
	s.Touch(ctx, "principal-p") // leaves its session behind as lost
	const script = `
redis.call('SELECT', 3)
local out = {}
for _, k in ipairs(redis.call('KEYS', '*')) do out[#out + 1] = k .. ' ' .. redis.call('PTTL', k) end
return out`
	keys := server.do(t, "EVAL", script, 0).([]any)
	if len(keys) != 8 { // of s: principal, upstreams, facts, marks; of alice: sessions; of p: principal; used, lost
		t.Errorf("%d keys: %v", len(keys), keys)
	}
	for _, k := range keys {
		var ttl int64
		name, _, _ := strings.Cut(k.(string), " ")
		fmt.Sscan(strings.TrimPrefix(k.(string), name), &ttl)
		if max := (idleTimeout + redisGrace).Milliseconds(); ttl < max-10_000 || ttl > max {
			t.Errorf("%s expires in %d ms", name, ttl)
		}
	}
	clock.pass(idleTimeout + time.Second)
	s.Expire(ctx)
	if keys := server.do(t, "EVAL", script, 0).([]any); len(keys) != 0 {
		t.Errorf("still there: %v", keys)
	}
}

// Whoever is slow loses messages, and nobody else does.
func TestRedisSlowReceiver(t *testing.T) {
	var logged bytes.Buffer
	url := limitedUser(t)
	s, err := NewRedis(t.Context(), url, idleTimeout, time.Now, slog.New(slog.NewTextHandler(&logged, nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx := t.Context()
	free, quick := make(chan struct{}), make(chan struct{}, 2*maxQueued)
	cancelSlow, err := s.Subscribe(ctx, "topic", func([]byte) { <-free })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Subscribe(ctx, "topic", func([]byte) { quick <- struct{}{} }); err != nil {
		t.Fatal(err)
	}
	for range 2 * maxQueued {
		if err := s.Publish(ctx, "topic", []byte("m")); err != nil {
			t.Fatal(err)
		}
		<-quick
	}
	cancelSlow()
	close(free)
	s.Close()
	if n := strings.Count(logged.String(), "too slow"); n != 1 {
		t.Errorf("said so %d times: %s", n, &logged)
	}
}

// A server that vanishes without a word is noticed by the connection for messages, too.
func TestRedisTopicsNoticeSilence(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	c := &watchedConn{Conn: a, silence: 50 * time.Millisecond}
	c.SetReadDeadline(time.Time{})
	begun := time.Now()
	var timeout net.Error
	if _, err := c.Read(make([]byte, 1)); !errors.As(err, &timeout) || !timeout.Timeout() || time.Since(begun) > time.Second {
		t.Error(err)
	}
	go b.Write([]byte("x"))
	c.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := c.Read(make([]byte, 1)); err != nil {
		t.Error(err)
	}
}

func TestRedisTLS(t *testing.T) {
	server := cleanRedis(t)
	front := httptest.NewUnstartedServer(nil) // for its certificate
	front.StartTLS()
	defer front.Close()
	trusted := x509.NewCertPool()
	trusted.AddCert(front.Certificate())

	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: front.TLS.Certificates})
	if err != nil {
		t.Fatal(err)
	}
	p := &redisProxy{Listener: l, to: server.addr}
	p.run(t)
	url := "rediss://" + p.addr() + "/1"
	if s, err := NewRedis(t.Context(), url, idleTimeout, time.Now, slog.New(slog.DiscardHandler)); err == nil {
		s.Close()
		t.Error("trusted a stranger")
	}
	opts, err := redisOptions(url)
	if err != nil {
		t.Fatal(err)
	}
	opts.TLSConfig.RootCAs = trusted
	s, err := newRedis(t.Context(), opts, idleTimeout, time.Now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	got := make(chan struct{}, 1)
	if _, err := s.Subscribe(t.Context(), "topic", func([]byte) { got <- struct{}{} }); err != nil {
		t.Fatal(err)
	}
	if err := s.Publish(t.Context(), "topic", nil); err != nil {
		t.Fatal(err)
	}
	<-got
}
