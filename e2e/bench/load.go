package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// The load generator: HTTP/1.1 over connections that it keeps, written by hand, since it shares the cores with what it measures.

const (
	modernEra = "2026-07-28"
	legacyEra = "2025-11-25"
)

// load says what is sent to whom.
type load struct {
	address  string // host:port
	path     string
	host     string
	era      string
	tool     string   // as the agent names it
	tokens   []string // connections take them in turn; none sends no token
	turns    bool     // calls take the tokens in turn, rather than connections
	pad      int      // bytes of arguments beside the number
	list     int      // tools that a tools/list must show; 0 sends tools/call
	lenient  bool     // of somebody else's gateway, which may write JSON in its own way
	sequence *atomic.Int64
}

// conn is one agent: a connection, and in the legacy era a session.
type conn struct {
	load
	nth     int // of the agents
	c       net.Conn
	in      *bufio.Reader
	heads   [][]byte // up to the length of the body; calls take them in turn
	prefix  []byte   // of the body, up to the id
	middle  []byte   // from there to the number among the arguments
	suffix  []byte
	session string
	out     []byte
	want    []byte
	body    []byte
}

var errWrong = errors.New("the answer is not the one to this call")

func (l load) dial(ctx context.Context, nth int) (*conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", l.address)
	if err != nil {
		return nil, err
	}
	k := &conn{load: l, nth: nth, c: c, in: bufio.NewReaderSize(c, 16<<10)}
	k.prepare(nth)
	if l.era == legacyEra {
		if err := k.initialize(nth); err != nil {
			_ = c.Close()
			return nil, err
		}
		k.prepare(nth)
	}
	return k, nil
}

func (k *conn) prepare(nth int) {
	method := "tools/call"
	if k.list > 0 {
		method = "tools/list"
	}
	k.heads = [][]byte{k.headers(nth, method)}
	if k.turns {
		k.heads = nil
		for i := range k.tokens {
			k.heads = append(k.heads, k.headers(i, method))
		}
	}
	k.prefix = []byte(`{"jsonrpc":"2.0","id":`)
	meta := ""
	if k.era == modernEra {
		meta = `,"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}`
	}
	if k.list > 0 {
		k.middle, k.suffix = nil, []byte(`,"method":"tools/list","params":{`+trimComma(meta)+`}}`)
		return
	}
	pad := string(bytes.Repeat([]byte("x"), k.pad))
	k.middle = []byte(`,"method":"tools/call","params":{"name":"` + k.tool + `","arguments":{"n":`)
	k.suffix = []byte(`,"note":"` + pad + `"}` + meta + `}}`)
}

func trimComma(s string) string {
	if s == "" {
		return s
	}
	return s[1:]
}

func (k *conn) headers(nth int, method string) []byte {
	h := "POST " + k.path + " HTTP/1.1\r\nHost: " + k.host + "\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\n" +
		"MCP-Protocol-Version: " + k.era + "\r\n"
	if len(k.tokens) > 0 {
		h += "Authorization: Bearer " + k.tokens[nth%len(k.tokens)] + "\r\n"
	}
	if k.era == modernEra {
		h += "Mcp-Method: " + method + "\r\n"
		if method == "tools/call" {
			h += "Mcp-Name: " + k.tool + "\r\n"
		}
	}
	if k.session != "" {
		h += "Mcp-Session-Id: " + k.session + "\r\n"
	}
	return []byte(h + "Content-Length: ")
}

func (k *conn) initialize(nth int) error {
	for _, body := range []string{
		`{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}}`,
		`{"jsonrpc":"2.0","method":"notifications/initialized"}`,
	} {
		k.out = fmt.Appendf(k.out[:0], "%s%d\r\n\r\n%s", k.heads[0], len(body), body)
		if _, err := k.c.Write(k.out); err != nil {
			return err
		}
		status, err := k.read()
		if err != nil {
			return err
		}
		if status != 200 && status != 202 {
			return fmt.Errorf("initialize: status %d: %s", status, k.body)
		}
		k.heads = [][]byte{k.headers(nth, "")}
	}
	return nil
}

// call sends the call number n and checks its answer, every byte of it.
func (k *conn) call(n int64) error {
	digits, err := k.send(n)
	if err != nil {
		return err
	}
	status, err := k.read()
	if err != nil {
		return err
	}
	if status != 200 {
		return fmt.Errorf("status %d: %.200s", status, k.body)
	}
	if !k.right(n, digits) {
		return fmt.Errorf("%w: %.300s", errWrong, k.body)
	}
	return nil
}

func (k *conn) send(n int64) (digits []byte, err error) {
	var number [20]byte
	digits = strconv.AppendInt(number[:0], n, 10)
	length := len(k.prefix) + len(digits) + len(k.middle) + len(k.suffix)
	if k.list == 0 {
		length += len(digits)
	}
	b := append(k.out[:0], k.heads[n%int64(len(k.heads))]...)
	b = strconv.AppendInt(b, int64(length), 10)
	b = append(b, "\r\n\r\n"...)
	b = append(append(b, k.prefix...), digits...)
	b = append(b, k.middle...)
	if k.list == 0 {
		b = append(b, digits...)
	}
	k.out = append(b, k.suffix...)
	_, err = k.c.Write(k.out)
	return digits, err
}

func (k *conn) right(n int64, digits []byte) bool {
	switch {
	case k.list > 0:
		return bytes.Contains(k.body, append([]byte(`"id":`), digits...)) && bytes.Count(k.body, []byte(`"inputSchema"`)) == k.list &&
			!bytes.Contains(k.body, []byte("hidden"))
	case k.lenient:
		return bytes.Contains(k.body, append([]byte("call "), append(digits, ' ')...)) && bytes.Contains(k.body, digits)
	default:
		k.want = result(k.want[:0], n)
		return bytes.Equal(k.want, k.body)
	}
}

// read reads one answer into k.body.
func (k *conn) read() (status int, err error) {
	line, err := k.in.ReadSlice('\n')
	if err != nil {
		return 0, err
	}
	if len(line) < 12 {
		return 0, fmt.Errorf("status line %q", line)
	}
	status, _ = strconv.Atoi(string(line[9:12]))
	length, chunked := 0, false
	for {
		line, err := k.in.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		if len(line) <= 2 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		switch value = bytes.TrimSpace(value); {
		case bytes.EqualFold(name, []byte("content-length")):
			length, _ = strconv.Atoi(string(value))
		case bytes.EqualFold(name, []byte("transfer-encoding")):
			chunked = true
		case k.session == "" && bytes.EqualFold(name, []byte("mcp-session-id")):
			k.session = string(value)
		}
	}
	k.body = k.body[:0]
	if !chunked {
		return status, k.take(length)
	}
	for {
		line, err := k.in.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		size, err := strconv.ParseInt(string(bytes.TrimSpace(line)), 16, 32)
		if err != nil {
			return 0, err
		}
		if err := k.take(int(size)); err != nil {
			return 0, err
		}
		if _, err := k.in.Discard(2); err != nil || size == 0 {
			return status, err
		}
	}
}

func (k *conn) take(n int) error {
	start := len(k.body)
	k.body = slices.Grow(k.body, n)[:start+n]
	_, err := io.ReadFull(k.in, k.body[start:])
	return err
}

// run is what one run of a load came to. Latencies are sorted.
type run struct {
	Calls   int
	Errors  int
	First   error
	Seconds float64
	latency []time.Duration
	Behind  int // calls that a fixed rate could not send at all
}

func (r *run) quantile(q float64) float64 {
	if len(r.latency) == 0 {
		return 0
	}
	return float64(r.latency[min(len(r.latency)-1, int(q*float64(len(r.latency))))]) / 1e6
}

// agents are connections that stay open over many runs.
type agents []*conn

func (l load) agents(ctx context.Context, n int) (agents, error) {
	out := make(agents, n)
	for i := range out {
		k, err := l.dial(ctx, i)
		if err != nil {
			out[:i].close()
			return nil, err
		}
		out[i] = k
	}
	return out, nil
}

func (a agents) close() {
	for _, k := range a {
		_ = k.c.Close()
	}
}

// closed has every agent call as fast as it is answered.
func (a agents) closed(d time.Duration) run {
	end := time.Now().Add(d)
	return a.each(func(_ int, k *conn, r *run) {
		for begun := time.Now(); begun.Before(end) && r.Errors < 10; {
			now := k.timed(r, begun)
			begun = now
		}
	})
}

// open sends at a fixed rate. Latency counts from when a call was due, whether or not an agent was free: waiting for a slow
// answer before sending the next would leave out what the slow answer costs others.
func (a agents) open(rate int, d time.Duration) run {
	var next atomic.Int64
	start := time.Now()
	total := int64(float64(rate) * d.Seconds())
	return a.each(func(_ int, k *conn, r *run) {
		for r.Errors < 10 {
			i := next.Add(1) - 1
			if i >= total {
				return
			}
			due := start.Add(time.Duration(float64(i) / float64(rate) * 1e9))
			time.Sleep(time.Until(due))
			if time.Since(start) > 2*d { // hopelessly behind
				r.Behind++
				continue
			}
			k.timed(r, due)
		}
	})
}

func (k *conn) timed(r *run, begun time.Time) time.Time {
	err := k.call(k.sequence.Add(1))
	now := time.Now()
	r.Calls++
	if err != nil {
		r.Errors++
		if r.First == nil {
			r.First = err
		}
		return now
	}
	r.latency = append(r.latency, now.Sub(begun))
	return now
}

func (a agents) each(work func(i int, k *conn, r *run)) run {
	parts := make([]run, len(a))
	start := time.Now()
	var wg sync.WaitGroup
	for i, k := range a {
		wg.Go(func() { work(i, k, &parts[i]) })
	}
	wg.Wait()
	all := run{Seconds: time.Since(start).Seconds()}
	for _, p := range parts {
		all.Calls += p.Calls
		all.Errors += p.Errors
		all.Behind += p.Behind
		all.First = errors.Join(all.First, p.First)
		all.latency = append(all.latency, p.latency...)
	}
	slices.Sort(all.latency)
	return all
}
