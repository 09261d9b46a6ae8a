package mcpparse_test

import (
	"errors"
	"io"
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

func message(data, id string) mcpparse.Event {
	return mcpparse.Event{Data: []byte(data), ID: id}
}

func TestEventReader(t *testing.T) {
	tests := []struct {
		name, stream string
		want         []mcpparse.Event
		lastID       string
		retry        time.Duration
		err          error
	}{
		{"one", "event: message\nid: 1\ndata: {}\n\n", []mcpparse.Event{{Type: "message", ID: "1", Data: []byte("{}")}}, "1", 0, io.EOF},
		{"endpoint", "event: endpoint\r\ndata: /message?sessionId=1\r\n\r\n", []mcpparse.Event{{Type: "endpoint", Data: []byte("/message?sessionId=1")}}, "", 0, io.EOF},
		{"several lines", "data: a\ndata:  b\ndata\ndata:c\n\n", []mcpparse.Event{message("a\n b\n\nc", "")}, "", 0, io.EOF},
		{"CR", "data: a\r\rdata: b\r\r", []mcpparse.Event{message("a", ""), message("b", "")}, "", 0, io.EOF},
		{"CRLF", "data: a\r\n\r\ndata: b\r\n\r\n", []mcpparse.Event{message("a", ""), message("b", "")}, "", 0, io.EOF},
		{"mixed", "data: a\r\ndata: b\n\rdata: c\r\r\n", []mcpparse.Event{message("a\nb", ""), message("c", "")}, "", 0, io.EOF},
		{"priming", "id: p\nretry: 1500\ndata:\n\n", []mcpparse.Event{message("", "p")}, "p", 1500 * time.Millisecond, io.EOF},
		{"id without data", "id: p\n\n", nil, "p", 0, io.EOF},
		{"id stays", "id: 1\ndata: a\n\ndata: b\n\n", []mcpparse.Event{message("a", "1"), message("b", "1")}, "1", 0, io.EOF},
		{"id taken back", "id: 1\ndata: a\n\nid\ndata: b\n\n", []mcpparse.Event{message("a", "1"), message("b", "")}, "", 0, io.EOF},
		{"id with NUL", "id: 1\x002\ndata: a\n\n", []mcpparse.Event{message("a", "")}, "", 0, io.EOF},
		{"type does not stay", "event: x\n\ndata: a\n\n", []mcpparse.Event{message("a", "")}, "", 0, io.EOF},
		{"comments", ": ping\n\n:\ndata: a\n:x\n\n", []mcpparse.Event{message("a", "")}, "", 0, io.EOF},
		{"unknown fields", "foo: bar\ndata : x\nDATA: y\ndata: a\n\n", []mcpparse.Event{message("a", "")}, "", 0, io.EOF},
		{"colon in data", "data: a: b\n\n", []mcpparse.Event{message("a: b", "")}, "", 0, io.EOF},
		{"byte order mark", "\xef\xbb\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\n", []mcpparse.Event{message("a", "")}, "", 0, io.EOF},
		{"bad retry", "retry: 1s\nretry: -1\nretry: +1\nretry: 99999999999999999999\nretry:\n", nil, "", 0, io.EOF},
		{"unfinished event", "data: a\n\ndata: b\n", []mcpparse.Event{message("a", "")}, "", 0, io.ErrUnexpectedEOF},
		{"unfinished line", "data: a\n\ndat", []mcpparse.Event{message("a", "")}, "", 0, io.ErrUnexpectedEOF},
		{"nothing", "", nil, "", 0, io.EOF},
		{"as large as may be", "data:" + strings.Repeat("x", 59) + "\n\n", []mcpparse.Event{message(strings.Repeat("x", 59), "")}, "", 0, io.EOF},
		{"line too large", "data:" + strings.Repeat("x", 60) + "\n\n", nil, "", 0, mcpparse.ErrEventTooLarge},
		{"lines too large", strings.Repeat("data: x\n", 100) + "\n", nil, "", 0, mcpparse.ErrEventTooLarge},
		{"comment too large", ":" + strings.Repeat("x", 64), nil, "", 0, mcpparse.ErrEventTooLarge},
		{"many small comments", strings.Repeat(": ping\n", 100) + "data: a\n\n", []mcpparse.Event{message("a", "")}, "", 0, io.EOF},
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

func TestAppendEvent(t *testing.T) {
	tests := []struct {
		ev   mcpparse.Event
		want string
	}{
		{message("{}", ""), "data: {}\n\n"},
		{mcpparse.Event{Type: "message", ID: "1", Data: []byte("a\nb\r\nc\rd\n")}, "event: message\nid: 1\ndata: a\ndata: b\ndata: c\ndata: d\ndata: \n\n"},
		{mcpparse.Event{}, "data: \n\n"},
		{mcpparse.Event{Type: "a\ndata: evil", ID: "1\r\n\r\ndata: evil"}, "data: \n\n"},
	}
	for _, tt := range tests {
		if got := string(mcpparse.AppendEvent([]byte(nil), tt.ev)); got != tt.want {
			t.Errorf("%v: got %q, want %q", tt.ev, got, tt.want)
		}
	}
}
