package mcpparse

import (
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"
	"time"
)

// ErrEventTooLarge is returned for an event that exceeds the parser's bound.
var ErrEventTooLarge = errors.New("mcpparse: event too large")

// keptBytes is the largest buffer that is kept for what comes next: one large event must not cost its size for as long
// as the stream lives.
const keptBytes = 64 << 10

// Event is one block of a text/event-stream: the lines up to a blank one (WHATWG HTML §9.2.6). Only a block with data
// is an event to those who listen. One without may set the id or the reconnection time, or keep the connection alive.
type Event struct {
	Type     string // "" is a message
	Data     []byte // lines joined with \n; empty in the priming events of MCP 2025-11-25
	HasData  bool
	ID       string        // the last event id when the block ended
	HasID    bool          // the block set it, which may have been to ""
	Retry    time.Duration // the reconnection time that the block set
	HasRetry bool
}

// EventParser parses a text/event-stream as its bytes are fed to it, whichever of CR, LF and CRLF ends lines and
// however the bytes are split. It is not safe for concurrent use.
type EventParser struct {
	max     int
	in      []byte // fed
	at      int    // where in it the next line begins
	line    []byte // what was fed before in, of a line that has not ended
	afterCR bool   // an LF that comes next belongs to the CR before it
	started bool   // past the place where a byte order mark may stand
	failed  bool

	block Event // so far
	open  bool  // it has a line
	retry time.Duration
}

// NewEventParser returns a parser of events of at most maxBytes, fields and data together.
func NewEventParser(maxBytes int) *EventParser { return &EventParser{max: maxBytes} }

// Feed takes in what comes next in the stream, and keeps no reference to it. All that Next has not returned yet is
// held in memory, so call Next until it returns no more.
func (p *EventParser) Feed(chunk []byte) {
	if p.failed {
		return
	}
	switch left := len(p.in) - p.at; {
	case left == 0:
		p.in, p.at = emptied(p.in), 0
	case left < p.at: // cheap, compared to what has been read since the last time
		p.in, p.at = p.in[:copy(p.in, p.in[p.at:])], 0
	}
	p.in = append(p.in, chunk...)
}

// Next returns the next block whose last line is in; ok is false when there is none yet. Blank lines that end nothing
// are no block. The error is ErrEventTooLarge, after which the parser is of no further use. The event is the caller's.
func (p *EventParser) Next() (ev Event, ok bool, err error) {
	for {
		line, ok, err := p.readLine()
		switch {
		case !ok:
			return Event{}, false, err
		case len(line) > 0:
			p.field(line)
		case p.open:
			ev, p.block, p.open = p.block, Event{ID: p.block.ID}, false
			return ev, true, nil
		}
	}
}

// Partial reports whether the stream, as far as Next has read it, stops within a block. At the end of the stream such
// a block is lost, as the standard has it.
func (p *EventParser) Partial() bool { return p.open || len(p.line) > 0 }

// readLine returns the next complete line without its end. It is valid until the next call or Feed.
func (p *EventParser) readLine() (line []byte, ok bool, err error) {
	if p.afterCR && p.at < len(p.in) {
		p.afterCR = false
		if p.in[p.at] == '\n' {
			p.at++
		}
	}
	rest := p.in[p.at:]
	end := bytes.IndexAny(rest, "\r\n")
	line = rest
	if end >= 0 {
		line = rest[:end]
	}
	if p.failed || p.held()+len(p.line)+len(line) > p.max {
		*p = EventParser{failed: true, retry: p.retry}
		return nil, false, ErrEventTooLarge
	}
	if end < 0 {
		p.line = append(p.line, line...)
		p.at = len(p.in)
		return nil, false, nil
	}
	p.afterCR = rest[end] == '\r'
	p.at += end + 1
	if len(p.line) > 0 {
		line = append(p.line, line...)
		p.line = emptied(line)
	}
	return p.withoutMark(line), true, nil
}

// held is how much of the block is kept.
func (p *EventParser) held() int {
	n := len(p.block.Type) + len(p.block.Data)
	if p.block.HasID {
		n += len(p.block.ID)
	}
	return n
}

// withoutMark removes the byte order mark that a stream may begin with.
func (p *EventParser) withoutMark(line []byte) []byte {
	if p.started {
		return line
	}
	p.started = true
	return bytes.TrimPrefix(line, []byte("\xef\xbb\xbf"))
}

// field takes in one line. Comments, whose name is empty, and unknown fields do nothing but open the block.
func (p *EventParser) field(line []byte) {
	b := &p.block
	p.open = true
	name, value, _ := bytes.Cut(line, []byte(":"))
	value = bytes.TrimPrefix(value, []byte(" "))
	switch string(name) {
	case "event":
		b.Type = string(value)
	case "data":
		if b.HasData {
			b.Data = append(b.Data, '\n')
		}
		b.Data, b.HasData = append(b.Data, value...), true
	case "id":
		if bytes.IndexByte(value, 0) < 0 {
			b.ID, b.HasID = string(value), true
		}
	case "retry":
		// ParseUint takes digits only, as the standard does; 32 bits of milliseconds are 49 days.
		if ms, err := strconv.ParseUint(string(value), 10, 32); err == nil {
			b.Retry, b.HasRetry = time.Duration(ms)*time.Millisecond, true
			p.retry = b.Retry
		}
	}
}

// emptied returns b without what it holds, to be filled again.
func emptied(b []byte) []byte {
	if cap(b) > keptBytes {
		return nil
	}
	return b[:0]
}

// EventReader reads a text/event-stream as it arrives: an event is returned as soon as the line that ends it is in.
// It is not safe for concurrent use.
type EventReader struct {
	src    io.Reader
	parser *EventParser
	room   []byte
	lastID string
}

// NewEventReader reads events of at most maxBytes, fields and data together, from src.
func NewEventReader(src io.Reader, maxBytes int) *EventReader {
	return &EventReader{src: src, parser: NewEventParser(maxBytes), room: make([]byte, 4<<10)}
}

// Next returns the next event that carries data. At the end of the stream it returns io.EOF, or io.ErrUnexpectedEOF
// when the stream ends within a line or an event, which is then lost, as the standard has it. After an error the
// reader is of no further use.
func (r *EventReader) Next() (Event, error) {
	for {
		if ev, err := r.NextBlock(); err != nil || ev.HasData {
			return ev, err
		}
	}
}

// NextBlock is Next for those who pass a stream on: it also returns the blocks without data.
func (r *EventReader) NextBlock() (Event, error) {
	for {
		ev, ok, err := r.parser.Next()
		if err != nil {
			return Event{}, err
		}
		if ok {
			r.lastID = ev.ID
			return ev, nil
		}
		n, err := r.src.Read(r.room)
		r.parser.Feed(r.room[:n])
		if n > 0 || err == nil {
			continue
		}
		if errors.Is(err, io.EOF) && (r.parser.block.HasData || len(r.parser.line) > 0) {
			err = io.ErrUnexpectedEOF
		}
		return Event{}, err
	}
}

// LastEventID is what a client that resumes sends in Last-Event-ID. The id of an event that was lost does not count.
func (r *EventReader) LastEventID() string { return r.lastID }

// Retry is the reconnection time that the server asked for, 0 when it did not.
func (r *EventReader) Retry() time.Duration { return r.parser.retry }

// AppendEvent appends ev to b in the form of a text/event-stream (WHATWG HTML §9.2.5). Line ends within the data begin
// another data line; a type or an id that contains one, or NUL, is left out, so that no event can smuggle in another.
// Where nothing is left to write, a comment keeps the block's place.
func AppendEvent(b []byte, ev Event) []byte {
	start := len(b)
	if ev.Type != "" && isLine(ev.Type) {
		b = append(append(append(b, "event: "...), ev.Type...), '\n')
	}
	if ev.HasID && isLine(ev.ID) {
		b = append(append(append(b, "id: "...), ev.ID...), '\n')
	}
	if ev.HasRetry && ev.Retry >= 0 {
		b = append(strconv.AppendInt(append(b, "retry: "...), ev.Retry.Milliseconds(), 10), '\n')
	}
	if ev.HasData {
		b = appendData(b, ev.Data)
	}
	if len(b) == start {
		b = append(b, ":\n"...)
	}
	return append(b, '\n')
}

func appendData(b, data []byte) []byte {
	for {
		end := bytes.IndexAny(data, "\r\n")
		if end < 0 {
			return append(append(append(b, "data: "...), data...), '\n')
		}
		b = append(append(append(b, "data: "...), data[:end]...), '\n')
		if bytes.HasPrefix(data[end:], []byte("\r\n")) {
			end++
		}
		data = data[end+1:]
	}
}

// isLine reports whether s can be the value of a field.
func isLine(s string) bool { return !strings.ContainsAny(s, "\r\n\x00") }
