package mcpparse_test

import (
	"bytes"
	"errors"
	"io"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sallyport/sallyport/mcpparse"
)

// parsed is all that a parser makes of a stream.
type parsed struct {
	Blocks   []mcpparse.Event
	TooLarge bool
	Partial  bool
}

// FuzzEvents holds the parser to the standard's rules, however the stream is split, and to reading back what
// AppendEvent writes.
func FuzzEvents(f *testing.F) {
	for _, stream := range []string{
		"event: a\nid: 1\nretry: 5\ndata: x\r\ndata: y\r\r: c\n\ndata\n\n",
		"\xef\xbb\xbfdata: a\n\n\r\n\rid\x00\n",
		"\xef\xbb\xbf\r\n\xef\xbb\xbfdata: b\n\n",
		"id: 1\n\nid: 2\x00\n\nid\n\n:\n\n\n\nretry: 007\n\nretry: 4294967296\n\nevent: x\x00\n\n",
		"data: a\r\r\ndata: b\n\r\n\r\rdata:c\r\n\n",
		"data:" + strings.Repeat("x", 59) + "\n\ndata:" + strings.Repeat("x", 60) + "\n\n",
		"event:" + strings.Repeat("x", 40) + "\nid:" + strings.Repeat("x", 30) + "\n\n",
		strings.Repeat(":", 65),
		"data:  a\ndata\ndata: \ndata:\tb\n\n",
		"\ufeff\ufeff\xbd\x92\n\n",
		"event:0\xff\xff\x80\n\r0\n:\n\xbf\r00\n",
		"retry:0A\nretry\nretry:00\n\nretry: 1\nretry:A\n\r",
	} {
		f.Add([]byte(stream), []byte{})
		f.Add([]byte(stream), []byte{1})
		f.Add([]byte(stream), []byte{5, 0, 3})
	}
	f.Fuzz(func(t *testing.T, stream, cuts []byte) {
		for _, maxBytes := range []int{64, math.MaxInt} {
			want := standard(stream, maxBytes)
			got := fed(stream, cuts, maxBytes)
			if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Fatalf("at most %d: %s", maxBytes, diff)
			}
			pulled, err := blocks(bytes.NewReader(stream), maxBytes)
			if diff := cmp.Diff(want.Blocks, pulled, cmpopts.EquateEmpty()); diff != "" {
				t.Fatalf("pulled: %s", diff)
			}
			if want.TooLarge != errors.Is(err, mcpparse.ErrEventTooLarge) || !want.Partial && !want.TooLarge && !errors.Is(err, io.EOF) {
				t.Fatalf("pulled: %v, want %+v", err, want)
			}
			rewrites(t, got.Blocks, cuts)
		}
	})
}

// rewrites checks that blocks come back as they were written.
func rewrites(t *testing.T, blocks []mcpparse.Event, cuts []byte) {
	t.Helper()
	var stream []byte
	want := parsed{}
	for _, ev := range blocks {
		stream = mcpparse.AppendEvent(stream, ev)
		if strings.Contains(ev.Type, "\x00") {
			ev.Type = ""
		}
		want.Blocks = append(want.Blocks, ev)
	}
	if diff := cmp.Diff(want, fed(stream, cuts, math.MaxInt), cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("rewritten as %q: %s", stream, diff)
	}
}

// fed feeds the stream in chunks of as many bytes as cuts say, over and over, or at once.
func fed(stream, cuts []byte, maxBytes int) (out parsed) {
	p := mcpparse.NewEventParser(maxBytes)
	for i := 0; ; i++ {
		chunk := stream
		if sum(cuts) > 0 {
			chunk = stream[:min(len(stream), int(cuts[i%len(cuts)]))]
		}
		stream = stream[len(chunk):]
		fresh := bytes.Clone(chunk)
		p.Feed(fresh)
		clear(fresh)
		for {
			ev, ok, err := p.Next()
			if err != nil {
				return parsed{Blocks: out.Blocks, TooLarge: true}
			}
			if !ok {
				break
			}
			out.Blocks = append(out.Blocks, ev)
		}
		if len(stream) == 0 {
			out.Partial = p.Partial()
			return out
		}
	}
}

func sum(b []byte) (n int) {
	for _, c := range b {
		n += int(c)
	}
	return n
}

// standard reads a whole stream by the letter of WHATWG HTML §9.2.5 and §9.2.6. In addition no line may, together with
// what its block has set before it, take more than maxBytes.
func standard(stream []byte, maxBytes int) (out parsed) {
	text := strings.ReplaceAll(strings.ReplaceAll(string(stream), "\r\n", "\n"), "\r", "\n")
	lines := strings.Split(text, "\n")
	var ev mcpparse.Event
	var data []string
	fresh := true // no line in the block
	for i, line := range lines {
		held := len(ev.Type) + len(strings.Join(data, "\n"))
		if ev.HasID {
			held += len(ev.ID)
		}
		if held+len(line) > maxBytes {
			return parsed{Blocks: out.Blocks, TooLarge: true}
		}
		if i == len(lines)-1 { // without an end
			out.Partial = !fresh || line != ""
			return out
		}
		if i == 0 {
			line = strings.TrimPrefix(line, "\ufeff")
		}
		if line == "" {
			if !fresh {
				ev.Data = []byte(strings.Join(data, "\n"))
				out.Blocks = append(out.Blocks, ev)
			}
			ev, data, fresh = mcpparse.Event{ID: ev.ID}, nil, true
			continue
		}
		fresh = false
		name, value := line, ""
		if colon := strings.Index(line, ":"); colon >= 0 {
			name, value = line[:colon], strings.TrimPrefix(line[colon+1:], " ")
		}
		switch {
		case name == "event":
			ev.Type = value
		case name == "data":
			data, ev.HasData = append(data, value), true
		case name == "id" && !strings.Contains(value, "\x00"):
			ev.ID, ev.HasID = value, true
		case name == "retry" && value != "" && strings.Trim(value, "0123456789") == "":
			if ms, err := strconv.Atoi(value); err == nil && ms <= math.MaxUint32 {
				ev.Retry, ev.HasRetry = time.Duration(ms)*time.Millisecond, true
			}
		}
	}
	return out
}
