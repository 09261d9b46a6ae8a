// Package envoyproc runs an Envoy as a child process: found, started, logged, drained, and never outliving us.
package envoyproc

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Config says which Envoy to run, and how.
type Config struct {
	Binary      string // path; see Find
	Bootstrap   string // path of the bootstrap file
	AdminSocket string // the bootstrap's admin socket, for draining
	Concurrency int    // worker threads; 0 means half the cores, since the service needs the other half
	Log         *slog.Logger
}

// Find returns the Envoy to run: the named one, $ENVOY, one beside our own binary, or one on PATH.
func Find(named string) (string, error) {
	if named == "" {
		named = os.Getenv("ENVOY")
	}
	if named != "" {
		return exec.LookPath(named)
	}
	if self, err := os.Executable(); err == nil {
		if path, err := exec.LookPath(filepath.Join(filepath.Dir(self), "envoy")); err == nil {
			return path, nil
		}
	}
	path, err := exec.LookPath("envoy")
	if err != nil {
		return "", errors.New("no envoy on PATH; name one with -envoy or ENVOY, or run `make build`, which fetches one")
	}
	return path, nil
}

// Process is a running Envoy.
type Process struct {
	cfg  Config
	cmd  *exec.Cmd
	done chan struct{}
	err  error
}

// Start starts Envoy. The caller must call Stop, or wait for Done.
func Start(cfg Config) (*Process, error) {
	if cfg.Concurrency == 0 {
		cfg.Concurrency = max(1, runtime.NumCPU()/2)
	}
	//nolint:noctx // it ends by draining, not when a context does
	cmd := exec.Command(cfg.Binary, "-c", cfg.Bootstrap, "--concurrency", strconv.Itoa(cfg.Concurrency),
		"--disable-hot-restart", "--log-format", "%l\t%n\t%v", "--log-level", "warning")
	// If we die, however suddenly, Envoy dies with us rather than serve alone.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	out, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = in, in
	p := &Process{cfg: cfg, cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The kernel ties the death signal to the thread that forked, so this thread must live as long as Envoy.
		runtime.LockOSThread()
		err := cmd.Start()
		_ = in.Close()
		started <- err
		if err == nil {
			relog(out, cfg.Log)
			p.err = cmd.Wait()
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		_ = out.Close()
		return nil, fmt.Errorf("start %s: %w", cfg.Binary, err)
	}
	return p, nil
}

// Done is closed when Envoy has ended; Err then says why.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err is how Envoy ended. Call it after Done is closed.
func (p *Process) Err() error { return p.err }

// Listening reports whether Envoy has its listeners up.
func (p *Process) Listening(ctx context.Context) bool {
	client := adminClient(p.cfg.AdminSocket)
	defer client.CloseIdleConnections()
	state, err := admin(ctx, client, http.MethodGet, "/ready")
	return err == nil && strings.HasPrefix(state, "LIVE")
}

// Stop lets calls in flight finish until ctx ends, and then ends Envoy.
func (p *Process) Stop(ctx context.Context) {
	p.drain(ctx)
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(2 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// drain stops accepting and waits until no request is active.
func (p *Process) drain(ctx context.Context) {
	client := adminClient(p.cfg.AdminSocket)
	defer client.CloseIdleConnections()
	if _, err := admin(ctx, client, http.MethodPost, "/drain_listeners?graceful&skip_exit"); err != nil {
		p.cfg.Log.Warn("envoy was not drained", "error", err)
		return
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
wait:
	for {
		stats, err := admin(ctx, client, http.MethodGet, "/stats?filter=http.ingress.downstream_rq_active")
		if err != nil {
			return
		}
		if strings.HasSuffix(strings.TrimSpace(stats), ": 0") {
			break wait
		}
		select {
		case <-ctx.Done():
			return
		case <-p.done:
			return
		case <-tick.C:
		}
	}
	// The access log is sent in batches; the last one must still go out.
	select {
	case <-ctx.Done():
	case <-time.After(accessLogFlush):
	}
}

// accessLogFlush is longer than the interval at which the bootstrap makes Envoy send its access log.
const accessLogFlush = 500 * time.Millisecond

func adminClient(socket string) *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
}

func admin(ctx context.Context, client *http.Client, method, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://envoy"+path, nil)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	return string(body), err
}

// relog re-emits Envoy's lines as our own structured log.
func relog(r io.ReadCloser, log *slog.Logger) {
	defer func() { _ = r.Close() }()
	lines := bufio.NewReaderSize(r, maxLogLine)
	for {
		line, err := lines.ReadSlice('\n')
		if len(line) > 0 { // a longer line comes in pieces
			level, component, text := split(strings.TrimSuffix(string(line), "\n"))
			log.LogAttrs(context.Background(), level, text, slog.String("source", "envoy"), slog.String("component", component))
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

const maxLogLine = 64 << 10

func split(line string) (slog.Level, string, string) {
	parts := strings.SplitN(line, "\t", 3)
	if len(parts) != 3 {
		return slog.LevelInfo, "", line
	}
	if strings.Contains(parts[2], "marked as work-in-progress") {
		return slog.LevelDebug, parts[1], parts[2] // said of custom_response once for each route; see envoy/filters.go
	}
	levels := map[string]slog.Level{"warning": slog.LevelWarn, "error": slog.LevelError, "critical": slog.LevelError,
		"debug": slog.LevelDebug, "trace": slog.LevelDebug}
	return levels[parts[0]], parts[1], parts[2]
}
