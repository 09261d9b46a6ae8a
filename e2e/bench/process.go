package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a program under measurement.
type process struct {
	cmd  *exec.Cmd
	log  *bytes.Buffer // the end of what it said, for when it fails
	done chan struct{}
}

// tail keeps the last of what is written to it.
type tail struct{ b *bytes.Buffer }

func (t tail) Write(p []byte) (int, error) {
	if t.b.Len() > 16<<10 {
		t.b.Reset()
	}
	return t.b.Write(p)
}

// spawn starts a program, which ends with ctx. Each line of its standard output goes to lines, unless nil.
func spawn(ctx context.Context, env []string, lines chan<- string, name string, args ...string) (*process, error) {
	p := &process{cmd: exec.CommandContext(ctx, name, args...), log: new(bytes.Buffer), done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Cancel = func() error { return p.cmd.Process.Signal(syscall.SIGTERM) }
	p.cmd.WaitDelay = 15 * time.Second
	p.cmd.Stderr = tail{p.log}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(p.done)
		for s := bufio.NewScanner(out); s.Scan(); {
			if lines != nil {
				lines <- s.Text()
			}
		}
		_ = p.cmd.Wait()
	}()
	return p, nil
}

func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	<-p.done
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// child is the Envoy that a `sallyport run` has started.
func (p *process) child() (int, error) {
	if below := descendants(p.pid()); len(below) > 0 {
		return below[0], nil
	}
	return 0, errors.New("no Envoy below sallyport")
}

// cpu is the processor time that a process has used, in seconds. Linux counts it in hundredths.
func cpu(pid int) float64 {
	if pid == 0 {
		return 0
	}
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := bytes.Cut(content, []byte(") ")) // past the program's name
	fields := strings.Fields(string(rest))
	user, _ := strconv.ParseFloat(fields[11], 64)
	system, _ := strconv.ParseFloat(fields[12], 64)
	return (user + system) / 100
}

// memory is a line of /proc/PID/status, such as VmHWM, in MiB.
func memory(pid int, line string) float64 {
	content, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	value, _ := between(content, line+":", "kB")
	kib, _ := strconv.ParseFloat(strings.TrimSpace(string(value)), 64)
	return kib / 1024
}

// gauge reads a metric that has no labels.
func gauge(ctx context.Context, address, name string) float64 {
	text := get(ctx, http.DefaultClient, "http://"+address+"/metrics")
	value, _ := between([]byte(text), "\n"+name+" ", "\n")
	f, _ := strconv.ParseFloat(string(value), 64)
	return f
}

// envoyStat reads a counter or gauge of an Envoy that `sallyport run` has started, over its private socket.
func envoyStat(ctx context.Context, pid int, name string) float64 {
	line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	file, _ := between(line, "-c\x00", "\x00")
	sockets, _ := filepath.Glob(filepath.Join(filepath.Dir(string(file)), "*admin*"))
	if len(sockets) == 0 {
		return -1
	}
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", sockets[0])
	}}}
	defer client.CloseIdleConnections()
	_, value, ok := strings.Cut(get(ctx, client, "http://envoy/stats?filter=^"+name+"$"), ": ")
	if !ok {
		return -1
	}
	f, _ := strconv.ParseFloat(strings.TrimSpace(value), 64)
	return f
}

func get(ctx context.Context, client *http.Client, url string) string {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return ""
	}
	resp, err := client.Do(r)
	if err != nil {
		return ""
	}
	defer func() { _ = resp.Body.Close() }()
	body, _ := io.ReadAll(resp.Body)
	return string(body)
}

// freeAddress is a loopback address that nobody listens on.
func freeAddress(ctx context.Context) string {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		panic(err) // a machine without a free port measures nothing
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// await polls until ok.
func await(ctx context.Context, what string, ok func() bool) error {
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) || ctx.Err() != nil {
			return fmt.Errorf("gave up waiting for %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil
}
