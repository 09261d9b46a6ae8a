package mcpparse

import (
	"bytes"
	"errors"
	"io"
	"strconv"
	"sync"

	"github.com/go-json-experiment/json/jsontext"
)

// Limits of a message. They bound what one body can cost whatever its size.
const (
	// MaxDepth is the deepest nesting of objects and arrays. The usual parsers give up between 1,000 and 10,000,
	// each at another depth; no tool needs a tenth of that.
	MaxDepth = 64
	// MaxNumberBytes is the longest number. binary64 needs 24 bytes; some readers refuse what is over 4,300 digits.
	MaxNumberBytes = 64
	// MaxMembers is how many members one object has at most. All their names are remembered to find duplicates, which
	// costs many times their size.
	MaxMembers = 10_000
	// MaxValues is how many values, members' and elements', an agent's message has at most. 1 MiB of ordinary
	// arguments stays under it: an element of a list of measured numbers, the densest thing that tools are given,
	// takes some 11 bytes with its comma.
	MaxValues = 100_000
	// MaxUpstreamValues is the same for what a server sends: the lists and results of a server are larger.
	MaxUpstreamValues = 1_000_000
)

var (
	errMembers  = errors.New("too many members in one object")
	errDepth    = errors.New("nested too deep")
	errNumber   = errors.New("number too long")
	errValues   = errors.New("too many values")
	errTrailing = errors.New("data after the message")
	errSyntax   = errors.New("not valid JSON")
)

// scanner walks one body once. jsontext checks grammar, UTF-8, surrogates and duplicate names; the scanner adds the
// rules that jsontext lacks and notes where the protocol's members are.
//
// What breaks I-JSON ends the walk with an error. What is well formed but not an acceptable message is kept in fault
// and the walk goes on, so that the answer carries the id wherever the id stands.
type scanner struct {
	dec    jsontext.Decoder
	src    bytes.Buffer
	body   []byte
	left   int // values that may still come
	found  [slots]span
	fault  fault
	big    string // Message.BigNumber
	unwrap []byte // room for unescaping, reused
}

// fault is why a well-formed body is refused. The zero fault is none.
type fault struct {
	code int
	text string
}

var scanners = sync.Pool{New: func() any { return new(scanner) }}

// scan walks body, whose root is at p. The scanner must be released, also after an error.
func scan(body []byte, p place, maxValues int) (*scanner, error) {
	s := scanners.Get().(*scanner)
	s.src = *bytes.NewBuffer(body)
	s.dec.Reset(&s.src)
	s.body, s.left = body, maxValues
	if _, err := s.value(p, 0); err != nil {
		return s, err
	}
	if _, err := s.dec.ReadToken(); !errors.Is(err, io.EOF) {
		return s, errTrailing
	}
	return s, nil
}

// release returns s to the pool, no longer holding the body.
func (s *scanner) release() {
	s.src = bytes.Buffer{}
	s.dec.Reset(&s.src)
	s.body, s.found, s.fault, s.big = nil, [slots]span{}, fault{}, ""
	if cap(s.unwrap) > 1<<12 {
		s.unwrap = nil
	}
	scanners.Put(s)
}

// refuse notes a fault. The first counts, except that a broken envelope counts more than broken params.
func (s *scanner) refuse(code int, text string) {
	if s.fault.code == 0 || s.fault.code == CodeInvalidParams && code == CodeInvalidRequest {
		s.fault = fault{code, text}
	}
}

// value reads the next value, which stands at p below depth containers.
func (s *scanner) value(p place, depth int) (span, error) {
	if s.left--; s.left < 0 {
		return span{}, errValues
	}
	kind := s.dec.PeekKind()
	if kind == '{' || kind == '[' {
		return s.container(p, depth+1)
	}
	raw, err := s.dec.ReadValue()
	if err != nil {
		return span{}, err
	}
	if kind == '0' {
		if len(raw) > MaxNumberBytes {
			return span{}, errNumber
		}
		if p.belowParams() && s.big == "" && outOfRange(raw) {
			s.big = path(&s.dec)
		}
	}
	end := s.offset()
	return span{end - len(raw), end}, nil
}

func (s *scanner) container(p place, depth int) (span, error) {
	if depth > MaxDepth {
		return span{}, errDepth
	}
	open, err := s.dec.ReadToken()
	if err != nil {
		return span{}, err
	}
	start := s.offset() - 1
	if open.Kind() == '{' {
		err = s.members(p, depth)
	} else {
		err = s.elements(p, depth)
	}
	if err != nil {
		return span{}, err
	}
	_, err = s.dec.ReadToken()
	return span{start, s.offset()}, err
}

func (s *scanner) elements(p place, depth int) error {
	for s.dec.PeekKind() != ']' {
		if _, err := s.value(p.within(), depth); err != nil {
			return err
		}
	}
	return nil
}

func (s *scanner) members(p place, depth int) error {
	for left := MaxMembers; ; left-- {
		switch s.dec.PeekKind() {
		case '}':
			return nil
		case '"':
		default: // ReadToken, unlike ReadValue, reads nothing of what cannot be a name
			if _, err := s.dec.ReadToken(); err != nil {
				return err
			}
			return errSyntax
		}
		if left == 0 {
			return errMembers
		}
		name, err := s.dec.ReadValue()
		if err != nil {
			return err
		}
		slot, child := s.member(p, s.decode(name))
		v, err := s.value(child, depth)
		if err != nil {
			return err
		}
		s.found[slot] = v
	}
}

// offset is the end of what was read last.
func (s *scanner) offset() int { return int(s.dec.InputOffset()) }

// decode returns the text of a checked string token. It is valid until the next call.
func (s *scanner) decode(token []byte) []byte {
	if bytes.IndexByte(token, '\\') < 0 {
		return token[1 : len(token)-1]
	}
	// The token has been checked: unescaping cannot fail.
	s.unwrap, _ = jsontext.AppendUnquote(s.unwrap[:0], token)
	return s.unwrap
}

// explain says what is wrong with a body without repeating any of it.
func explain(err error) string {
	var at *jsontext.SyntacticError
	switch {
	case errors.Is(err, jsontext.ErrDuplicateName):
		err = errors.New("duplicate member name")
	case errors.Is(err, io.EOF):
		err = errors.New("empty body")
	case errors.Is(err, io.ErrUnexpectedEOF):
		err = errors.New("unexpected end")
	case errors.As(err, &at):
		return "parse error: " + errSyntax.Error() + " at byte " + strconv.FormatInt(at.ByteOffset, 10)
	}
	return "parse error: " + err.Error()
}
