package revocation

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
)

const (
	// DefaultKeep is how long an entry is in force when nobody says otherwise: longer than access tokens should live.
	DefaultKeep = 30 * 24 * time.Hour
	// MaxKeep is the longest that an entry can be kept for.
	MaxKeep = 10 * 365 * 24 * time.Hour
	// MaxEntries bounds a list, entries that were undone included until their time is over.
	MaxEntries = 10_000

	maxText = 1 << 10 // bytes; no claim that the verifier accepts is longer
	maxLine = 16 << 10
)

// Kind is what a revocation names.
type Kind string

// The kinds.
const (
	Subject Kind = "subject" // sub: all tokens issued to a user up to a moment, and the sessions begun up to then
	Client  Kind = "client"  // client_id or azp: likewise
	JTI     Kind = "jti"     // one token
	Session Kind = "session" // one session, by the name that the audit has for it
)

// Target is what is revoked.
type Target struct {
	Kind   Kind   `json:"kind"`
	Value  string `json:"value"`
	Issuer string `json:"issuer,omitempty"` // "": of any issuer
}

// Entry is one revocation, or, with Undone, the end of one.
type Entry struct {
	Target
	At          time.Time `json:"at"`          // of the command; of two entries for one target the later counts
	IssuedUntil time.Time `json:"issuedUntil"` // of Subject and Client: what was issued up to then is refused
	Until       time.Time `json:"until"`       // how long the entry is kept
	Undone      bool      `json:"undone,omitempty"`
}

// inForce reports whether e refuses anything at now.
func (e *Entry) inForce(now time.Time) bool { return !e.Undone && now.Before(e.Until) }

// covers reports whether e is about what was issued at a moment; what says none might be of any.
func (e *Entry) covers(issued time.Time) bool { return !issued.After(e.IssuedUntil) }

// supersedes reports whether e counts in place of old: it is later, or is old and kept for longer.
func (e *Entry) supersedes(old *Entry) bool {
	if !e.At.Equal(old.At) {
		return e.At.After(old.At)
	}
	return e.Until.After(old.Until)
}

// Check says what is wrong with a target.
func (t Target) Check() error {
	switch t.Kind {
	case Subject, Client, JTI:
	case Session:
		if len(t.Value) != 32 || strings.Trim(t.Value, "0123456789abcdef") != "" {
			return errors.New("a session is named by 32 hexadecimal digits, as \"session\" in the audit, not by the id that the agent holds")
		}
		if t.Issuer != "" {
			return errors.New("a session has no issuer")
		}
	default:
		return fmt.Errorf("kind %.20q is none of subject, client, jti and session", t.Kind)
	}
	if t.Value == "" {
		return fmt.Errorf("%s is empty", t.Kind)
	}
	for _, text := range []string{t.Value, t.Issuer} {
		if len(text) > maxText || strings.TrimSpace(text) != text || strings.ContainsFunc(text, unicode.IsControl) {
			return fmt.Errorf("%s or issuer is longer than %d bytes, surrounded by white space, or has control characters: no token has such a one", t.Kind, maxText)
		}
	}
	return nil
}

// encode writes e as one line of JSON.
func (e *Entry) encode() []byte {
	b, err := json.Marshal(e)
	if err != nil {
		panic(err) // a plain struct
	}
	return b
}

// decode reads what encode wrote, and nothing else.
func decode(line []byte) (Entry, error) {
	var e Entry
	if len(line) > maxLine {
		return e, fmt.Errorf("longer than %d bytes", maxLine)
	}
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&e); err != nil {
		return e, fmt.Errorf("not a revocation: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return e, errors.New("not a revocation: more than one JSON object")
	}
	if err := e.Check(); err != nil {
		return e, err
	}
	if e.At.IsZero() || e.Until.IsZero() || e.IssuedUntil.IsZero() && (e.Kind == Subject || e.Kind == Client) {
		return e, errors.New("not a revocation: a time is missing")
	}
	return e, nil
}
