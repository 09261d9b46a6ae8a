package mcpparse

import (
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"
	"time"
)

// ErrEventTooLarge is returned for an event that exceeds the reader's bound.
var ErrEventTooLarge = errors.New("mcpparse: event too large")

// Event is one event of a text/event-stream (WHATWG HTML §9.2).
type Event struct {
	Type string // "" is a message
	Data []byte // lines joined with \n; empty in the priming events of MCP 2025-11-25
	ID   string // the last event id when the event was dispatched
}

// EventReader reads a text/event-stream as it arrives: an event is returned as soon as the line that ends it is in,
// whichever of CR, LF and CRLF ends lines and however the bytes are split. It is not safe for concurrent use.
type EventReader struct {
	src     io.Reader
	max     int
	chunk   []byte // read and not yet looked at
	room    []byte
	line    []byte // begun and not yet ended
	afterCR bool   // an LF that comes next belongs to the CR before it
	started bool   // past the place where a byte order mark may stand

	kind    string
	data    []byte
	hasData bool
	id      string
	retry   time.Duration
}

// NewEventReader reads events of at most maxBytes, fields and data together, from src.
func NewEventReader(src io.Reader, maxBytes int) *EventReader {
	return &EventReader{src: src, max: maxBytes, room: make([]byte, 4<<10)}
}

// Next returns the next event that carries data. At the end of the stream it returns io.EOF, or io.ErrUnexpectedEOF
// when the stream ends within an event, which is then lost, as the standard has it. After an error the reader is of no
// further use.
func (r *EventReader) Next() (Event, error) {
	for {
		line, err := r.readLine()
		if errors.Is(err, io.EOF) && (r.hasData || len(r.line) > 0) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return Event{}, err
		}
		if len(line) == 0 {
			if ev, ok := r.dispatch(); ok {
				return ev, nil
			}
			continue
		}
		r.field(line)
	}
}

// LastEventID is what a client that resumes sends in Last-Event-ID.
func (r *EventReader) LastEventID() string { return r.id }

// Retry is the reconnection time that the server asked for, 0 when it did not.
func (r *EventReader) Retry() time.Duration { return r.retry }

// readLine returns the next complete line without its end. It is valid until the next call.
func (r *EventReader) readLine() ([]byte, error) {
	r.line = r.line[:0]
	for {
		if err := r.fill(); err != nil {
			return nil, err
		}
		if r.afterCR {
			r.afterCR = false
			r.chunk = bytes.TrimPrefix(r.chunk, []byte("\n"))
			continue
		}
		end := bytes.IndexAny(r.chunk, "\r\n")
		part := r.chunk
		if end >= 0 {
			part = r.chunk[:end]
		}
		if len(r.data)+len(r.line)+len(part) > r.max {
			return nil, ErrEventTooLarge
		}
		r.line = append(r.line, part...)
		if end < 0 {
			r.chunk = nil
			continue
		}
		r.afterCR = r.chunk[end] == '\r'
		r.chunk = r.chunk[end+1:]
		return r.withoutMark(r.line), nil
	}
}

// fill makes sure that there is something to look at.
func (r *EventReader) fill() error {
	for len(r.chunk) == 0 {
		n, err := r.src.Read(r.room)
		r.chunk = r.room[:n]
		if n == 0 && err != nil {
			return err
		}
	}
	return nil
}

// withoutMark removes the byte order mark that a stream may begin with.
func (r *EventReader) withoutMark(line []byte) []byte {
	if r.started {
		return line
	}
	r.started = true
	return bytes.TrimPrefix(line, []byte("\xef\xbb\xbf"))
}

// field takes in one line. Comments, whose name is empty, and unknown fields do nothing.
func (r *EventReader) field(line []byte) {
	name, value, _ := bytes.Cut(line, []byte(":"))
	value = bytes.TrimPrefix(value, []byte(" "))
	switch string(name) {
	case "event":
		r.kind = string(value)
	case "data":
		if r.hasData {
			r.data = append(r.data, '\n')
		}
		r.data, r.hasData = append(r.data, value...), true
	case "id":
		if bytes.IndexByte(value, 0) < 0 {
			r.id = string(value)
		}
	case "retry":
		// ParseUint takes digits only, as the standard does; 32 bits of milliseconds are 49 days.
		if ms, err := strconv.ParseUint(string(value), 10, 32); err == nil {
			r.retry = time.Duration(ms) * time.Millisecond
		}
	}
}

// dispatch ends an event. Without a data field there is none.
func (r *EventReader) dispatch() (Event, bool) {
	ev, ok := Event{Type: r.kind, Data: r.data, ID: r.id}, r.hasData
	r.kind, r.data, r.hasData = "", nil, false
	return ev, ok
}

// AppendEvent appends ev to b in the form of a text/event-stream. Line ends within the data begin another data line;
// a type or an id that contains one is left out, so that no event can smuggle in another.
func AppendEvent(b []byte, ev Event) []byte {
	for _, f := range [...]struct{ name, value string }{{"event", ev.Type}, {"id", ev.ID}} {
		if f.value != "" && !strings.ContainsAny(f.value, "\r\n") {
			b = append(append(append(append(b, f.name...), ": "...), f.value...), '\n')
		}
	}
	data := ev.Data
	for {
		end := bytes.IndexAny(data, "\r\n")
		if end < 0 {
			return append(append(append(b, "data: "...), data...), "\n\n"...)
		}
		b = append(append(append(b, "data: "...), data[:end]...), '\n')
		if bytes.HasPrefix(data[end:], []byte("\r\n")) {
			end++
		}
		data = data[end+1:]
	}
}
