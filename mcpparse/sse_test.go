package mcpparse_test

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sallyport/sallyport/mcpparse"
)

// events reads everything that src yields.
func events(src io.Reader, maxBytes int) (all []mcpparse.Event, last *mcpparse.EventReader, err error) {
	r := mcpparse.NewEventReader(src, maxBytes)
	for {
		ev, err := r.Next()
		if err != nil {
			return all, r, err
		}
		all = append(all, ev)
	}
}

// blocks reads everything that src yields.
func blocks(src io.Reader, maxBytes int) (all []mcpparse.Event, err error) {
	r := mcpparse.NewEventReader(src, maxBytes)
	for {
		ev, err := r.NextBlock()
		if err != nil {
			return all, err
		}
		all = append(all, ev)
	}
}

func message(data string) mcpparse.Event {
	return mcpparse.Event{Data: []byte(data), HasData: true}
}

// with sets the id of ev; later leaves it to the event after the one that set it.
func with(id string, ev mcpparse.Event) mcpparse.Event {
	ev.ID, ev.HasID = id, true
	return ev
}

func later(id string, ev mcpparse.Event) mcpparse.Event {
	ev.ID = id
	return ev
}

func TestEventReader(t *testing.T) {
	tests := []struct {
		name, stream string
		want         []mcpparse.Event
		lastID       string
		retry        time.Duration
		err          error
	}{
		{"one", "event: message\nid: 1\ndata: {}\n\n", []mcpparse.Event{with("1", mcpparse.Event{Type: "message", Data: []byte("{}"), HasData: true})}, "1", 0, io.EOF},
		{"endpoint", "event: endpoint\r\ndata: /message?sessionId=1\r\n\r\n", []mcpparse.Event{{Type: "endpoint", Data: []byte("/message?sessionId=1"), HasData: true}}, "", 0, io.EOF},
		{"several lines", "data: a\ndata:  b\ndata\ndata:c\n\n", []mcpparse.Event{message("a\n b\n\nc")}, "", 0, io.EOF},
		{"CR", "data: a\r\rdata: b\r\r", []mcpparse.Event{message("a"), message("b")}, "", 0, io.EOF},
		{"CRLF", "data: a\r\n\r\ndata: b\r\n\r\n", []mcpparse.Event{message("a"), message("b")}, "", 0, io.EOF},
		{"mixed", "data: a\r\ndata: b\n\rdata: c\r\r\n", []mcpparse.Event{message("a\nb"), message("c")}, "", 0, io.EOF},
		{"priming", "id: p\nretry: 1500\ndata:\n\n", []mcpparse.Event{with("p", mcpparse.Event{HasData: true, Retry: 1500 * time.Millisecond, HasRetry: true})}, "p", 1500 * time.Millisecond, io.EOF},
		{"id without data", "id: p\n\n", nil, "p", 0, io.EOF},
		{"id stays", "id: 1\ndata: a\n\ndata: b\n\n", []mcpparse.Event{with("1", message("a")), later("1", message("b"))}, "1", 0, io.EOF},
		{"id taken back", "id: 1\ndata: a\n\nid\ndata: b\n\n", []mcpparse.Event{with("1", message("a")), with("", message("b"))}, "", 0, io.EOF},
		{"id with NUL", "id: 1\x002\ndata: a\n\n", []mcpparse.Event{message("a")}, "", 0, io.EOF},
		{"id of a lost event", "id: 1\ndata: a\n\nid: 2\ndata: b\n", []mcpparse.Event{with("1", message("a"))}, "1", 0, io.ErrUnexpectedEOF},
		{"type does not stay", "event: x\n\ndata: a\n\n", []mcpparse.Event{message("a")}, "", 0, io.EOF},
		{"comments", ": ping\n\n:\ndata: a\n:x\n\n", []mcpparse.Event{message("a")}, "", 0, io.EOF},
		{"unknown fields", "foo: bar\ndata : x\nDATA: y\ndata: a\n\n", []mcpparse.Event{message("a")}, "", 0, io.EOF},
		{"colon in data", "data: a: b\n\n", []mcpparse.Event{message("a: b")}, "", 0, io.EOF},
		{"byte order mark", "\xef\xbb\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\n", []mcpparse.Event{message("a")}, "", 0, io.EOF},
		{"bad retry", "retry: 1s\nretry: -1\nretry: +1\nretry: 99999999999999999999\nretry:\n", nil, "", 0, io.EOF},
		{"retry counts at once", "retry: 5\n", nil, "", 5 * time.Millisecond, io.EOF},
		{"unfinished event", "data: a\n\ndata: b\n", []mcpparse.Event{message("a")}, "", 0, io.ErrUnexpectedEOF},
		{"unfinished line", "data: a\n\ndat", []mcpparse.Event{message("a")}, "", 0, io.ErrUnexpectedEOF},
		{"nothing", "", nil, "", 0, io.EOF},
		{"as large as may be", "data:" + strings.Repeat("x", 59) + "\n\n", []mcpparse.Event{message(strings.Repeat("x", 59))}, "", 0, io.EOF},
		{"line too large", "data:" + strings.Repeat("x", 60) + "\n\n", nil, "", 0, mcpparse.ErrEventTooLarge},
		{"lines too large", strings.Repeat("data: x\n", 100) + "\n", nil, "", 0, mcpparse.ErrEventTooLarge},
		{"fields too large", "event:" + strings.Repeat("x", 20) + "\nid:" + strings.Repeat("x", 20) + "\ndata:" + strings.Repeat("x", 20) + "\n\n", nil, "", 0, mcpparse.ErrEventTooLarge},
		{"each small enough", strings.Repeat("id:"+strings.Repeat("x", 40)+"\n\ndata:"+strings.Repeat("x", 40)+"\n\n", 2), []mcpparse.Event{
			later(strings.Repeat("x", 40), message(strings.Repeat("x", 40))), later(strings.Repeat("x", 40), message(strings.Repeat("x", 40))),
		}, strings.Repeat("x", 40), 0, io.EOF},
		{"comment too large", ":" + strings.Repeat("x", 64), nil, "", 0, mcpparse.ErrEventTooLarge},
		{"many small comments", strings.Repeat(": ping\n", 100) + "data: a\n\n", []mcpparse.Event{message("a")}, "", 0, io.EOF},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for name, src := range map[string]io.Reader{
				"at once":      strings.NewReader(tt.stream),
				"byte by byte": iotest.OneByteReader(strings.NewReader(tt.stream)),
				"err at once":  iotest.DataErrReader(strings.NewReader(tt.stream)),
			} {
				got, r, err := events(src, 64)
				if diff := cmp.Diff(tt.want, got, cmpopts.EquateEmpty()); diff != "" || !errors.Is(err, tt.err) {
					t.Errorf("%s: %v %s", name, err, diff)
				}
				if r.LastEventID() != tt.lastID || r.Retry() != tt.retry {
					t.Errorf("%s: last id %q, retry %v", name, r.LastEventID(), r.Retry())
				}
			}
		})
	}
}

// An event is out as soon as the line that ends it is in, even if that line ends in a CR that an LF may follow.
func TestEventReaderDoesNotWait(t *testing.T) {
	for _, stream := range []string{"data: a\n\n", "data: a\r\r", "data: a\r\n\r"} {
		blocked := errors.New("read past the event")
		r := mcpparse.NewEventReader(io.MultiReader(iotest.OneByteReader(strings.NewReader(stream)), iotest.ErrReader(blocked)), 64)
		if ev, err := r.Next(); err != nil || string(ev.Data) != "a" {
			t.Errorf("%q: %v, %v", stream, ev, err)
		}
		if _, err := r.Next(); err != blocked {
			t.Errorf("%q: then %v", stream, err)
		}
	}
}

// Whoever passes a stream on sees what no listener does.
func TestNextBlock(t *testing.T) {
	stream := "\n: ping\n\n\n\nid: 1\n\nretry: 5\n\nevent: x\n\nfoo\nid: \x00\nretry: soon\n\nid\n\ndata\n\n: lost\n"
	want := []mcpparse.Event{
		{},
		with("1", mcpparse.Event{}),
		later("1", mcpparse.Event{Retry: 5 * time.Millisecond, HasRetry: true}),
		later("1", mcpparse.Event{Type: "x"}),
		later("1", mcpparse.Event{}),
		with("", mcpparse.Event{}),
		message(""),
	}
	got, err := blocks(iotest.OneByteReader(strings.NewReader(stream)), 64)
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" || !errors.Is(err, io.EOF) {
		t.Error(err, diff)
	}
}

func TestEventParser(t *testing.T) {
	p := mcpparse.NewEventParser(64)
	chunk := []byte("data: a\r")
	for _, tt := range []struct {
		fed     string
		want    []string
		partial bool
	}{
		{"", nil, false},
		{"data: a\r", nil, true},
		{"\n", nil, true}, // belongs to the CR
		{"data: b", nil, true},
		{"\n\ndata: c\n\n\nda", []string{"a\nb", "c"}, true},
		{"ta: d\n\r", []string{"d"}, false},
		{"\n\n", nil, false},
		{":", nil, true},
		{"\n", nil, true},
		{"\n", []string{""}, false},
	} {
		chunk = append(chunk[:0], tt.fed...)
		p.Feed(chunk)
		clear(chunk) // the parser keeps a copy
		var got []string
		for {
			ev, ok, err := p.Next()
			if err != nil {
				t.Fatalf("%q: %v", tt.fed, err)
			}
			if !ok {
				break
			}
			got = append(got, string(ev.Data))
		}
		if diff := cmp.Diff(tt.want, got); diff != "" || p.Partial() != tt.partial {
			t.Errorf("%q: partial %v %s", tt.fed, p.Partial(), diff)
		}
	}
}

func TestEventParserStaysFailed(t *testing.T) {
	p := mcpparse.NewEventParser(8)
	p.Feed([]byte("data: a\n\ndata: abc\n\n"))
	if ev, ok, err := p.Next(); !ok || err != nil || string(ev.Data) != "a" {
		t.Fatalf("before: %v, %v, %v", ev, ok, err)
	}
	for range 2 {
		if ev, ok, err := p.Next(); ok || !errors.Is(err, mcpparse.ErrEventTooLarge) {
			t.Errorf("%v, %v, %v", ev, ok, err)
		}
		p.Feed([]byte("\n\ndata: b\n\n"))
	}
}

// Blocks that are not fetched at once stay in order, and events stay what they were.
func TestEventParserBehind(t *testing.T) {
	p := mcpparse.NewEventParser(64)
	var got []string
	fed := 0
	for len(got) < 200 {
		for range 3 {
			p.Feed(fmt.Appendf(nil, "data: %d\n\n", fed))
			fed++
		}
		for range 2 {
			ev, ok, err := p.Next()
			if !ok || err != nil {
				t.Fatal(ok, err)
			}
			got = append(got, string(ev.Data))
		}
	}
	for ev, ok, _ := p.Next(); ok; ev, ok, _ = p.Next() {
		got = append(got, string(ev.Data))
	}
	for i, data := range got {
		if data != strconv.Itoa(i) {
			t.Fatalf("%d: %q", i, data)
		}
	}
	if len(got) != fed {
		t.Fatal(len(got))
	}
}

func TestEventParserLarge(t *testing.T) {
	large := strings.Repeat("x", 1<<20)
	got, _, err := events(strings.NewReader("data: "+large+"\n\ndata: a\n\ndata: "+large+"\n\n"), 2<<20)
	if !errors.Is(err, io.EOF) || len(got) != 3 || string(got[0].Data) != large || string(got[1].Data) != "a" || string(got[2].Data) != large {
		t.Error(err, len(got))
	}
}

func TestAppendEvent(t *testing.T) {
	tests := []struct {
		ev   mcpparse.Event
		want string
	}{
		{message("{}"), "data: {}\n\n"},
		{with("1", mcpparse.Event{Type: "message", Data: []byte("a\nb\r\nc\rd\n"), HasData: true}), "event: message\nid: 1\ndata: a\ndata: b\ndata: c\ndata: d\ndata: \n\n"},
		{message(""), "data: \n\n"},
		{later("1", message("a")), "data: a\n\n"},
		{with("", mcpparse.Event{}), "id: \n\n"},
		{with("p", mcpparse.Event{HasData: true, Retry: 1500 * time.Millisecond, HasRetry: true}), "id: p\nretry: 1500\ndata: \n\n"},
		{mcpparse.Event{HasRetry: true}, "retry: 0\n\n"},
		{mcpparse.Event{Retry: -time.Second, HasRetry: true}, ":\n\n"},
		{mcpparse.Event{Type: "x"}, "event: x\n\n"},
		{mcpparse.Event{}, ":\n\n"},
		{with("1\r\n\r\ndata: evil", mcpparse.Event{Type: "a\ndata: evil", HasData: true}), "data: \n\n"},
		{with("1\x00", mcpparse.Event{Type: "a\x00"}), ":\n\n"},
	}
	for _, tt := range tests {
		if got := string(mcpparse.AppendEvent([]byte(nil), tt.ev)); got != tt.want {
			t.Errorf("%v: got %q, want %q", tt.ev, got, tt.want)
		}
	}
}

func BenchmarkEventParser(b *testing.B) {
	small := strings.Repeat("event: message\nid: 1\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\"}\n\n", 1<<14)
	for _, bb := range []struct {
		name, stream string
		chunk        int
	}{
		{"many events in one chunk", small, len(small)},
		{"many small chunks", "data: " + strings.Repeat("x", len(small)) + "\n\n", 16},
		{"many short lines", strings.Repeat("data: x\r", len(small)/8) + "\r", 16 << 10},
		{"large event", "data: " + strings.Repeat("x", len(small)) + "\n\n", 16 << 10},
	} {
		b.Run(bb.name, func(b *testing.B) {
			stream := []byte(bb.stream)
			var out []byte
			b.ReportAllocs()
			b.SetBytes(int64(len(stream)))
			for b.Loop() {
				p := mcpparse.NewEventParser(16 << 20)
				out = out[:0]
				for chunk := range slices.Chunk(stream, bb.chunk) {
					p.Feed(chunk)
					for ev, ok, err := p.Next(); ok || err != nil; ev, ok, err = p.Next() {
						if err != nil {
							b.Fatal(err)
						}
						out = mcpparse.AppendEvent(out, ev)
					}
				}
			}
		})
	}
}
