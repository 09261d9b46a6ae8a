package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// A server that can be told what to answer.

// turn is its turn to answer.
type turn struct {
	id  string // of the call, as the server got it
	got received
	w   http.ResponseWriter
	r   *http.Request
	say func(text string) bool // sends a part of the answer at once; false when nobody listens
}

// liar is an MCP server that answers a call as the call's arguments say: with a lie or, without one, honestly.
type liar struct {
	*httptest.Server
	speaks  string // both, modern, legacy or sse
	lies    map[string]lie
	instead map[string]func(t turn) // of an honest answer to a method

	mu       sync.Mutex
	stream   func(t turn) // of a session that asks for one; nil: there is none
	sessions int
	lines    map[string]*oldStream // of the 2024-11-05 transport, by session
	newest   *oldStream
	seen     []received
}

// streams sets what the liar says on the streams of its sessions.
func (l *liar) streams(say func(t turn)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stream = say
}

// last is the stream that was opened last.
func (l *liar) last() *oldStream {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.newest
}

// oldStream is a session's stream of the 2024-11-05 transport.
type oldStream struct {
	says chan string
	gone <-chan struct{}
}

func (l *oldStream) push(text string) bool {
	select {
	case l.says <- text:
		return true
	case <-l.gone:
		return false
	}
}

func newLiar(t *testing.T, speaks string, lies map[string]lie) *liar {
	t.Helper()
	l := &liar{speaks: speaks, lies: lies, lines: map[string]*oldStream{}}
	l.Server = httptest.NewServer(l)
	t.Cleanup(func() {
		l.CloseClientConnections()
		l.Close()
	})
	return l
}

func (l *liar) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	got := received{Method: r.Method, Path: r.URL.RequestURI(), Header: r.Header.Clone()}
	got.Body, _ = io.ReadAll(r.Body)
	_ = json.Unmarshal(got.Body, &got.RPC)
	t := turn{id: string(got.RPC.ID), got: got, w: w, r: r, say: sayer(w)}
	l.mu.Lock()
	l.seen = append(l.seen, got)
	own, stream := l.lines[r.URL.Query().Get("s")], l.stream
	l.mu.Unlock()
	switch {
	case r.Method == http.MethodGet && l.speaks == "sse":
		l.connect(w, r)
	case r.Method == http.MethodGet && stream != nil:
		w.Header().Set("Content-Type", "text/event-stream")
		t.say("")
		stream(t)
	case r.Method != http.MethodPost:
		w.WriteHeader(http.StatusMethodNotAllowed)
	case own != nil:
		w.WriteHeader(http.StatusAccepted)
		t.w, t.say = nil, own.push
		go l.answer(t, got)
	default:
		l.answer(t, got)
	}
}

func orElse(s, fallback string) string {
	if s == "" {
		return fallback
	}
	return s
}

func sayer(w http.ResponseWriter) func(string) bool {
	return func(text string) bool {
		_, err := w.Write([]byte(text))
		return err == nil && http.NewResponseController(w).Flush() == nil
	}
}

// connect is a session of the 2024-11-05 transport.
func (l *liar) connect(w http.ResponseWriter, r *http.Request) {
	own := &oldStream{make(chan string), r.Context().Done()}
	l.mu.Lock()
	l.sessions++
	id := strconv.Itoa(l.sessions)
	l.lines[id], l.newest = own, own
	l.mu.Unlock()
	w.Header().Set("Content-Type", "text/event-stream")
	say := sayer(w)
	say("event: endpoint\ndata: /post?s=" + id + "\n\n")
	for {
		select {
		case <-own.gone:
			return
		case text := <-own.says:
			say(text)
		}
	}
}

func (l *liar) answer(t turn, got received) {
	const offered = `"capabilities":{"tools":{},"prompts":{},"completions":{}}`
	isModern := got.Header.Get("MCP-Protocol-Version") >= "2026"
	var arguments struct{ Lie, Mine string }
	_ = json.Unmarshal(got.RPC.Params.Arguments, &arguments)
	var completion struct {
		Params struct{ Argument struct{ Value string } }
	}
	_ = json.Unmarshal(got.Body, &completion)
	lie, lies := l.lies[orElse(arguments.Lie, completion.Params.Argument.Value)]
	switch method := got.RPC.Method; {
	case got.RPC.ID == nil || method == "":
		if t.w != nil {
			t.w.WriteHeader(http.StatusAccepted)
		}
	case isModern && (l.speaks == "legacy" || l.speaks == "sse"), !isModern && l.speaks == "modern":
		t.failure(http.StatusNotFound, -32601, "method not found")
	case lies:
		t.lie(lie)
	case l.instead[method] != nil:
		l.instead[method](t)
	case method == "initialize":
		if t.w != nil {
			l.mu.Lock()
			l.sessions++
			t.w.Header().Set("Mcp-Session-Id", fmt.Sprintf("upstream-session-%d", l.sessions))
			l.mu.Unlock()
		}
		t.result(`{"protocolVersion":"2025-11-25",` + offered + `,"serverInfo":{"name":"liar","version":"1"}}`)
	case method == "server/discover":
		versions := `"2026-07-28"`
		if l.speaks == "both" {
			versions += `,"2025-11-25"`
		}
		t.result(`{"resultType":"complete","supportedVersions":[` + versions + `],` + offered + `,"ttlMs":0,"cacheScope":"public"}`)
	case method == "tools/list":
		t.result(toolList([]string{"call", "slow"}))
	case method == "prompts/list":
		t.result(`{"resultType":"complete","ttlMs":0,"cacheScope":"public","prompts":[{"name":"prompt"}]}`)
	case method == "tools/call":
		t.result(`{"resultType":"complete","content":[{"type":"text","text":"for ` + arguments.Mine + `"}]}`)
	default:
		t.failure(http.StatusNotFound, -32601, "method not found")
	}
}

func (t turn) lie(l lie) {
	if t.w != nil {
		switch {
		case l.events != "":
			t.w.Header().Set("Content-Type", "text/event-stream")
		case l.json != "":
			t.w.Header().Set("Content-Type", "application/json")
		}
		for _, field := range l.header {
			name, value, _ := strings.Cut(field, ": ")
			t.w.Header()[http.CanonicalHeaderKey(name)] = append(t.w.Header()[http.CanonicalHeaderKey(name)], value)
		}
		if l.status != 0 {
			t.w.WriteHeader(l.status)
		}
	}
	text := strings.ReplaceAll(l.json+l.events, "@ID", t.id)
	switch {
	case l.tell != nil:
		l.tell(t)
	case t.w == nil && l.json != "":
		t.say(event(text))
	case t.w == nil:
		t.say(text)
	default:
		_, _ = t.w.Write([]byte(text))
	}
}

func (t turn) result(result string) {
	if t.w != nil {
		rpcResult(t.w, json.RawMessage(t.id), result)
		return
	}
	t.say(event(`{"jsonrpc":"2.0","id":` + t.id + `,"result":` + result + `}`))
}

func (t turn) failure(status, code int, message string) {
	if t.w != nil {
		rpcError(t.w, status, json.RawMessage(t.id), code, message)
		return
	}
	t.say(event(fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"error":{"code":%d,"message":%q}}`, t.id, code, message)))
}

// arrived are the requests of one JSON-RPC method that came.
func (l *liar) arrived(method string) []received {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []received
	for _, r := range l.seen {
		if r.RPC.Method == method {
			out = append(out, r)
		}
	}
	return out
}
