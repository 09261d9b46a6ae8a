package audit

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// What is wrong with a line.
var (
	errRecord = errors.New("not a record")
	errHash   = errors.New("hash does not match the line")
	errSeq    = errors.New("seq does not follow the record before")
	errPrev   = errors.New("prev is not the hash of the record before")
	errTorn   = errors.New("torn line without a gap record after it")
)

// link is what the chain needs of a record.
type link struct {
	Kind string `json:"kind"`
	Torn int    `json:"torn"`
	Seq  uint64 `json:"seq"`
	Prev string `json:"prev"`
	Hash string `json:"hash"`
}

// parse reads one line, without its newline, and checks its hash.
func parse(b []byte) (link, error) {
	const tail = len(`,"hash":""}`) + 2*sha256.Size
	var k link
	if len(b) <= tail || json.Unmarshal(b, &k) != nil {
		return link{}, errRecord
	}
	judged, rest := b[:len(b)-tail], b[len(b)-tail:]
	sum := sha256.Sum256(judged)
	if string(rest) != `,"hash":"`+hex.EncodeToString(sum[:])+`"}` {
		return link{}, errHash
	}
	return k, nil
}

// follows checks that k comes directly after the record with prev's seq and hash.
func (k link) follows(prev link) error {
	switch {
	case k.Seq != prev.Seq+1:
		return errSeq
	case k.Prev != prev.Hash:
		return errPrev
	}
	return nil
}

// Verify reads a whole audit file and returns the number of records in its chain, up to the first bad line, which the
// error names.
func Verify(r io.Reader) (n int, err error) {
	lines := bufio.NewReaderSize(r, maxLine)
	last := link{Hash: genesis}
	torn, tornAt := 0, 0
	var tornErr error
	for number := 1; ; number++ {
		b, err := lines.ReadSlice('\n')
		if errors.Is(err, io.EOF) && len(b) == 0 {
			break
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return n, fmt.Errorf("line %d: %w", number, err)
		}
		k, err := parse(bytes.TrimSuffix(b, []byte{'\n'}))
		if err != nil { // may be torn: the next record tells
			if !bytes.HasSuffix(b, []byte{'\n'}) {
				err = errTorn
			}
			if torn++; torn == 1 {
				tornAt, tornErr = number, err
			}
			continue
		}
		if torn > 0 && (k.Kind != "gap" || k.Torn != torn) {
			return n, fmt.Errorf("line %d: %w", tornAt, tornErr)
		}
		if err := k.follows(last); err != nil {
			return n, fmt.Errorf("line %d: %w", number, err)
		}
		if k.Kind == "gap" && k.Torn != torn {
			return n, fmt.Errorf("line %d: %w", number, errRecord)
		}
		last, torn = k, 0
		n++
	}
	if torn > 0 {
		return n, fmt.Errorf("line %d: %w", tornAt, tornErr)
	}
	return n, nil
}

// end is the state that a file was left in.
type end struct {
	seq     uint64
	hash    string
	torn    int  // lines after the last record
	midline bool // the last of them, or the last record, has no newline
}

// readEnd finds the last record. Only the end of the file is read: a file that ends in more torn lines than that is
// not ours to continue.
func readEnd(f *os.File) (end, error) {
	info, err := f.Stat()
	if err != nil {
		return end{}, err
	}
	size := min(info.Size(), 4*maxLine)
	if size == 0 {
		return end{hash: genesis}, nil
	}
	b := make([]byte, size)
	if _, err := f.ReadAt(b, info.Size()-size); err != nil {
		return end{}, err
	}
	e := end{midline: b[len(b)-1] != '\n'}
	b = bytes.TrimSuffix(b, []byte{'\n'})
	for {
		start := bytes.LastIndexByte(b, '\n') + 1
		if k, err := parse(b[start:]); err == nil {
			e.seq, e.hash = k.Seq, k.Hash
			return e, nil
		}
		e.torn++
		if start == 0 {
			break
		}
		b = b[:start-1]
	}
	if size == info.Size() && e.torn == 1 && e.midline && opens(b) { // the very first write was torn
		e.hash = genesis
		return e, nil
	}
	return end{}, errors.New("does not end in an audit record; run audit verify, then move it away")
}

// opens reports whether b could be the beginning of a record.
func opens(b []byte) bool {
	const first = `{"kind":"`
	n := min(len(b), len(first))
	return string(b[:n]) == first[:n]
}
