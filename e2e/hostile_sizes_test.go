package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// Answers without an end. What the gateway reads it bounds, and what passes it passes without keeping it.

const (
	mega  = 1 << 20
	giant = 64 * mega
)

// flood writes head and then filling until it is cut off, or enough, and returns how much that was.
func flood(t turn, head, filling string, enough int) (sent int) {
	if !t.say(strings.ReplaceAll(head, "@ID", t.id)) {
		return 0
	}
	chunk := strings.Repeat(filling, 64<<10/len(filling))
	for sent < enough && t.say(chunk) {
		sent += len(chunk)
	}
	return sent
}

// memory is how much a process and its children hold now, and have held at most, in bytes.
func memoryOf(t *testing.T, pid int) (now, most int) {
	t.Helper()
	pids := []int{pid}
	children, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, file := range children {
		for _, child := range strings.Fields(contents(t, file)) {
			n, err := strconv.Atoi(child)
			must(t, err)
			pids = append(pids, n)
		}
	}
	for _, pid := range pids {
		for line := range strings.Lines(contents(t, fmt.Sprintf("/proc/%d/status", pid))) {
			name, value, _ := strings.Cut(line, ":")
			kilobytes, _ := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(value), " kB"))
			switch name {
			case "VmRSS":
				now += kilobytes << 10
			case "VmHWM":
				most += kilobytes << 10
			}
		}
	}
	return now, most
}

// endless is an answer that goes on and on: head, and then filling.
type endless struct {
	name, contentType, head, filling string
	most                             int      // bytes that the server sends
	want                             outcomes // the end of what the agent gets; "": all that there is
}

// overflown: an event is bounded, and what goes beyond is no event. Straight from Envoy a modern answer passes unread.
var overflown = outcomes{"modern": "", "legacy": failedEvent + cut, "up": noAnswer, "down": noAnswer, "sse": noAnswer, "modern sse": noAnswer}

// unread: a text passes straight from Envoy. The hub reads it, and it is too long.
var unread = outcomes{"modern": "", "legacy": "", "up": noAnswer, "down": noAnswer}

var endlessLies = []endless{
	{"a line", "text/event-stream", "data: ", "x", giant, overflown},
	{"an event of lines", "text/event-stream", event(note), "data: x\n", giant, overflown.but("up", failedEvent, "sse", failedEvent)},
	{"a comment", "text/event-stream", event(note) + ":", "x", giant, overflown.but("up", failedEvent, "sse", failedEvent)},
	{"an id", "text/event-stream", "id: ", "x", giant, overflown},
	{"events", "text/event-stream", event(note), event(note), 4 * mega, outcomes{"modern": "", "legacy": failedEvent, "up": failedEvent, "down": noAnswer}},
	{"blank lines", "text/event-stream", event(note), "\n", 16 * mega, outcomes{"modern": "", "legacy": failedEvent, "up": failedEvent, "down": noAnswer}},
	{"a text", "application/json", `{"jsonrpc":"2.0","id":@ID,"result":{"evil":"`, "x", giant, unread},
	{"spaces", "application/json", "", " ", giant, unread},
}

// TestHostileSizes: 64 MiB on every way. What is bounded is cut off before that, and of what is not nothing is kept.
func TestHostileSizes(t *testing.T) {
	sent := map[string]chan int{}
	var all []lie
	for _, c := range endlessLies {
		for way := range c.want {
			name := c.name + ", " + way
			told := make(chan int, 1)
			sent[name] = told
			all = append(all, lie{name: name, header: []string{"Content-Type: " + c.contentType}, want: outcomes{way: ""},
				tell: func(t turn) { told <- flood(t, c.head, c.filling, c.most) }})
		}
	}
	h := startLair(t, all...)
	h.wellAfterwards()
	pid := h.gateway.cmd.Process.Pid
	before, _ := memoryOf(t, pid)
	var group sync.WaitGroup
	turns := make(chan struct{}, 4)
	for _, c := range endlessLies {
		for way, want := range c.want {
			name := c.name + ", " + way
			r, id := h.ask(lie{name: name}, way)
			turns <- struct{}{}
			group.Go(func() {
				defer func() { <-turns }()
				length, tail, err := h.swallow(r)
				n := <-sent[name]
				if err != nil {
					tail += cut
				}
				want = strings.ReplaceAll(want, "@ID", id)
				switch {
				case want == "" && (err != nil || n < c.most || length < c.most):
					t.Errorf("%s: %d of %d sent, %d received: %s", name, n, c.most, length, tail)
				case want != "" && !strings.HasSuffix(tail, want), want != "" && c.most == giant && n >= giant:
					t.Errorf("%s: %d sent, %d received: %s", name, n, length, tail)
				}
			})
		}
	}
	group.Wait()
	_, most := memoryOf(t, pid)
	t.Logf("the gateway and its Envoy took %d MiB before, and %d MiB at the most", before/mega, most/mega)
	if most > before+256*mega {
		t.Errorf("%d MiB more than before", (most-before)/mega)
	}
	h.wellAfterwards()
}

// swallow sends r and reads the answer without keeping it: its length, and its end.
func (h *lair) swallow(r request) (length int, tail string, err error) {
	req, err := http.NewRequest(http.MethodPost, h.url, strings.NewReader(r.body))
	must(h.t, err)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	req.Header.Set("Authorization", "Bearer "+r.token)
	for name, value := range r.header {
		req.Header.Set(name, value)
	}
	resp, err := client.Do(req)
	must(h.t, err)
	defer func() { _ = resp.Body.Close() }()
	var end bytes.Buffer
	buffer := make([]byte, 64<<10)
	for {
		n, err := resp.Body.Read(buffer)
		length += n
		end.Write(buffer[:n])
		if end.Len() > 200 {
			end.Next(end.Len() - 200)
		}
		if err != nil {
			if err == io.EOF {
				err = nil
			}
			return length, strconv.Itoa(resp.StatusCode) + " " + end.String(), err
		}
	}
}
