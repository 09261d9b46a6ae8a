package hub

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
)

// redisServer is a Redis or Valkey of this test binary's own.
type redisServer struct {
	addr string
	cmd  *exec.Cmd
	life io.Closer // the server ends when this is closed, if only because this process has ended
}

// sharedRedis is started by the first test that needs it. It ends with the process.
var sharedRedis = sync.OnceValues(func() (*redisServer, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	return startRedis(port)
})

// startRedis runs a server on a port of the loopback, without a file of its own.
func startRedis(port int) (*redisServer, error) {
	program, err := redisProgram()
	if err != nil {
		return nil, err
	}
	const guarded = `"$@" & read -r _; kill -9 $! && wait $!`
	cmd := exec.Command("sh", "-c", guarded+" 2>/dev/null", "sh", program,
		"--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--loglevel", "warning")
	cmd.Dir = os.TempDir()
	life, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &redisServer{addr: fmt.Sprintf("127.0.0.1:%d", port), cmd: cmd, life: life}
	if err := s.awaitReady(); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

func redisProgram() (string, error) {
	if path := os.Getenv("REDIS_SERVER"); path != "" {
		return path, nil
	}
	for _, name := range []string{"redis-server", "valkey-server"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("no redis-server or valkey-server on PATH; `make test` fetches one, or set REDIS_SERVER=/path/to/it")
}

func (s *redisServer) stop() {
	s.life.Close()
	s.cmd.Wait()
}

func (s *redisServer) awaitReady() (err error) {
	logging.Disable()
	c := redis.NewClient(&redis.Options{Addr: s.addr, MaxRetries: -1, DialerRetries: 1})
	defer c.Close()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if err = c.Ping(context.Background()).Err(); err == nil {
			return nil
		}
	}
	return fmt.Errorf("%s does not answer: %w", s.cmd.Args[4], err)
}

// do sends the server a command.
func (s *redisServer) do(t *testing.T, command ...any) any {
	t.Helper()
	c := redis.NewClient(&redis.Options{Addr: s.addr})
	defer c.Close()
	v, err := c.Do(context.Background(), command...).Result()
	if err != nil {
		t.Fatalf("%v: %v", command, err)
	}
	return v
}

// cleanRedis returns the shared server without any data.
func cleanRedis(t *testing.T) *redisServer {
	t.Helper()
	s, err := sharedRedis()
	if err != nil {
		t.Fatal(err)
	}
	s.do(t, "FLUSHALL")
	return s
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// redisProxy stands between a store and its server.
type redisProxy struct {
	net.Listener
	to string

	mu   sync.Mutex
	free chan struct{} // closed when what is held may go on; nil when nothing is held
}

func newRedisProxy(t *testing.T, to string) *redisProxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &redisProxy{Listener: l, to: to}
	p.run(t)
	return p
}

func (p *redisProxy) addr() string { return p.Addr().String() }

func (p *redisProxy) run(t *testing.T) {
	var all sync.WaitGroup
	var open sync.Map
	all.Go(func() {
		for {
			c, err := p.Accept()
			if err != nil {
				return
			}
			s, err := net.Dial("tcp", p.to)
			if err != nil {
				c.Close()
				continue
			}
			open.Store(c, nil)
			open.Store(s, nil)
			for _, way := range [][2]net.Conn{{c, s}, {s, c}} {
				all.Go(func() {
					p.copy(way[0], way[1])
					c.Close()
					s.Close()
				})
			}
		}
	})
	t.Cleanup(func() {
		p.hold(false)
		p.Close()
		open.Range(func(c, _ any) bool { c.(net.Conn).Close(); return true })
		all.Wait()
	})
}

func (p *redisProxy) copy(from, to net.Conn) {
	b := make([]byte, 4096)
	for {
		n, err := from.Read(b)
		p.mu.Lock()
		free := p.free
		p.mu.Unlock()
		if free != nil {
			<-free
		}
		if _, werr := to.Write(b[:n]); err != nil || werr != nil {
			return
		}
	}
}

// hold keeps back whatever comes in, until it is called with false.
func (p *redisProxy) hold(held bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if held {
		p.free = make(chan struct{})
	} else if p.free != nil {
		close(p.free)
		p.free = nil
	}
}
