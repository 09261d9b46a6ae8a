package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// streamKind is one way to have an event stream that stays open.
type streamKind struct {
	text  string
	era   string
	tool  string // the call that is answered by one; without it the hub answers
	begun string // what says that it is open; without it the end of the headers
	files int    // of Envoy, for each
}

var streamKinds = []streamKind{
	{"calls answered by an event stream", modernEra, "0_hold", ": open", 2},
	{"subscriptions/listen", modernEra, "", "notifications/subscriptions/acknowledged", 1},
	{"GET, 2025-11-25", legacyEra, "", "", 1},
}

const (
	manyStreams = 10_000
	otherFiles  = 500 // that a process needs besides
)

// streams opens as many as the limit of open files lets Envoy have, on a gateway of their own.
func (w *world) streams(ctx context.Context, kind streamKind, f feature, brief bool) ([]extra, error) {
	files, err := raiseFiles()
	if err != nil {
		return nil, err
	}
	n := min(manyStreams, (files-otherFiles)/kind.files)
	if brief {
		n = min(n, 1000)
	}
	g, err := w.gateway(ctx, "streams", "", kind.era, f)
	if err != nil {
		return nil, err
	}
	defer g.close()
	time.Sleep(time.Second) // the work of a start
	routines, rss := gauge(ctx, g.admin, "go_goroutines"), memory(g.svc, "VmRSS")
	g.load.tool = f.name + kind.tool
	open, err := w.open(ctx, g.load, kind, n)
	defer open.close()
	if err != nil {
		return nil, fmt.Errorf("after %d: %w: %s", len(open), err, g.log)
	}
	if kind.tool != "" {
		if err := await(ctx, "streams", func() bool { return w.held() >= int64(n) }); err != nil {
			return nil, err
		}
	}
	time.Sleep(2 * time.Second) // the garbage of opening them
	figure := func(name string, value float64, unit, aim string) extra {
		return extra{kind.text + ": " + name, value, unit, aim}
	}
	now := memory(g.svc, "VmRSS")
	return []extra{
		figure("streams open", float64(n), "", "10000"),
		figure("RSS of the service", now, "MiB", "≤ 256"),
		figure("of that, for each stream", (now-rss)*1024/float64(n), "KiB", ""),
		figure("goroutines of the service for each stream", (gauge(ctx, g.admin, "go_goroutines")-routines)/float64(n), "", ""),
		figure("gRPC streams from Envoy", envoyStat(ctx, g.envoy, "cluster.service.upstream_rq_active"), "", "a handful"),
	}, nil
}

// raiseFiles lets this process and those that it starts have as many open files as they may, and returns how many.
func raiseFiles() (int, error) {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return 0, err
	}
	if more := uint64(3 * manyStreams); files.Max < more {
		if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: more, Max: more}) == nil { // a privilege
			return int(more), nil
		}
	}
	files.Cur = min(files.Max, 1<<20) // set explicitly, or what is started gets the limit that this process began with
	return int(files.Cur), syscall.Setrlimit(syscall.RLIMIT_NOFILE, &files)
}

// open opens n streams, a few at a time.
func (w *world) open(ctx context.Context, l load, kind streamKind, n int) (agents, error) {
	var (
		next  atomic.Int64
		mu    sync.Mutex
		out   agents
		first error
		wg    sync.WaitGroup
	)
	for range 8 {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(n); i = next.Add(1) {
				k, err := l.dial(ctx, int(i))
				if err == nil {
					err = k.begin(kind, w.sequence.Add(1))
				}
				mu.Lock()
				if k != nil {
					out = append(out, k)
				}
				if err != nil && first == nil {
					first = err
					next.Store(int64(n)) // for all
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return out, first
}

// begin asks for a stream, and waits until it has begun.
func (k *conn) begin(kind streamKind, n int64) error {
	var err error
	switch {
	case kind.tool != "":
		_, err = k.send(n)
	case kind.era == legacyEra:
		_, err = fmt.Fprintf(k.c, "GET %s HTTP/1.1\r\nHost: %s\r\nAccept: text/event-stream\r\nMCP-Protocol-Version: %s\r\nAuthorization: Bearer %s\r\nMcp-Session-Id: %s\r\n\r\n",
			k.path, k.host, k.era, k.tokens[k.nth%len(k.tokens)], k.session)
	default:
		body := fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"subscriptions/listen","params":{"notifications":{"toolsListChanged":true},`+
			`"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}`, n)
		_, err = fmt.Fprintf(k.c, "%s%d\r\n\r\n%s", k.headers(k.nth, "subscriptions/listen"), len(body), body)
	}
	if err != nil {
		return err
	}
	_ = k.c.SetReadDeadline(time.Now().Add(20 * time.Second))
	var seen []byte
	for {
		line, err := k.in.ReadString('\n')
		if err != nil {
			return fmt.Errorf("%w: %.500s", err, seen)
		}
		if len(seen) == 0 && !strings.HasPrefix(line, "HTTP/1.1 200 ") {
			return fmt.Errorf("%w: %s", errWrong, line)
		}
		seen = append(seen, line...)
		if kind.begun == "" && line == "\r\n" || kind.begun != "" && strings.Contains(line, kind.begun) {
			return nil
		}
	}
}

func (w *world) held() (n int64) {
	for _, u := range w.ups {
		n += u.open.Load()
	}
	return n
}
