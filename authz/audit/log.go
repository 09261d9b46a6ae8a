package audit

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

// ErrClosed is returned for records that come after Close.
var ErrClosed = errors.New("audit: closed")

// genesis is the prev of the first record.
var genesis = strings.Repeat("0", 64)

// Config says where records go: exactly one of Path and Writer.
type Config struct {
	Path   string           // appended to; created with mode 0600
	Writer io.Writer        // gets each record in one Write; its chain begins at Open
	Now    func() time.Time // nil: time.Now
}

// Log appends records to one chain.
type Log struct {
	now  func() time.Time
	file *os.File // nil with Config.Writer

	mu   sync.Mutex
	w    io.Writer // nil once closed
	seq  uint64    // of the last record
	prev string    // its hash
	buf  []byte

	// What a failed write left behind.
	midline bool // the last line has no newline yet
	missing gap  // owed to the chain before the next record, when lost or torn
}

// Open continues the chain of an existing file, or begins one. It fails for a file that does not end in a record of
// ours, and for one that another process has open.
func Open(c Config) (*Log, error) {
	l := &Log{now: c.Now, w: c.Writer, prev: genesis}
	if l.now == nil {
		l.now = time.Now
	}
	if (c.Path == "") == (c.Writer == nil) {
		return nil, errors.New("audit: need either a path or a writer")
	}
	if c.Writer != nil {
		return l, nil
	}
	f, err := os.OpenFile(c.Path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	l.file, l.w = f, f
	if err := l.resume(); err != nil {
		return nil, errors.Join(fmt.Errorf("audit: %s: %w", c.Path, err), f.Close())
	}
	return l, nil
}

func (l *Log) resume() error {
	if err := syscall.Flock(int(l.file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return fmt.Errorf("another process writes it: %w", err)
	}
	end, err := readEnd(l.file)
	if err != nil {
		return err
	}
	l.seq, l.prev, l.midline = end.seq, end.hash, end.midline
	l.missing.lost, l.missing.torn = end.torn, end.torn
	return l.settle()
}

// Decision appends a decision record. When it fails the decision is not on record and must not take effect.
func (l *Log) Decision(d Decision) error {
	if d.Time.IsZero() {
		d.Time = l.now()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.ready(d.Time); err != nil {
		return err
	}
	return l.commit(d.Time, d.encode(l.buf))
}

// Completion appends a completion record.
func (l *Log) Completion(c Completion) error {
	if c.Time.IsZero() {
		c.Time = l.now()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.ready(c.Time); err != nil {
		return err
	}
	return l.commit(c.Time, c.encode(l.buf))
}

// Revocation appends a revocation record.
func (l *Log) Revocation(r Revocation) error {
	if r.Time.IsZero() {
		r.Time = l.now()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.ready(r.Time); err != nil {
		return err
	}
	return l.commit(r.Time, r.encode(l.buf))
}

// Close records what is missing, if it can, and closes the file.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.w == nil {
		return nil
	}
	err := l.settle()
	l.w = nil
	if l.file == nil {
		return err
	}
	return errors.Join(err, l.file.Close())
}

// ready settles what is owed before the record of at. A record for which that fails is lost too.
func (l *Log) ready(at time.Time) error {
	if l.w == nil {
		return ErrClosed
	}
	err := l.settle()
	if err != nil {
		l.lose(at)
	}
	return err
}

func (l *Log) commit(at time.Time, b line) error {
	whole, err := l.append(b)
	if !whole {
		l.lose(at)
	}
	return err
}

func (l *Log) lose(at time.Time) {
	l.missing.lost++
	if l.missing.since.IsZero() {
		l.missing.since = at
	}
}

// settle writes the gap record that is owed.
func (l *Log) settle() error {
	if l.missing.lost == 0 && l.missing.torn == 0 {
		return nil
	}
	l.missing.time = l.now()
	whole, err := l.append(l.missing.encode(l.buf))
	if whole {
		l.missing = gap{}
	}
	return err
}

// append chains b and writes it. It reports whether the record is in the chain, which it is as soon as nothing but its
// newline is missing: whoever reads the file could not tell.
func (l *Log) append(b line) (whole bool, err error) {
	hash := b.end(l.seq+1, l.prev)
	l.buf = b
	out, lead := []byte(b), 0
	if l.midline {
		out, lead = append([]byte{'\n'}, b...), 1
	}
	n, err := l.w.Write(out)
	if err == nil && n < len(out) {
		err = io.ErrShortWrite
	}
	if err != nil {
		err = fmt.Errorf("audit: %w", err)
	}
	switch written := n - lead; {
	case written >= len(b)-1:
		l.midline = written < len(b)
		l.seq, l.prev = l.seq+1, hash
		return true, err
	case written > 0:
		l.midline = true
		l.missing.torn++
	case n > 0:
		l.midline = false
	}
	return false, err
}
