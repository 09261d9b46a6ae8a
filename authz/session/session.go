// Package session names the sessions of the stateful protocol revisions (2024-11-05 to 2025-11-25) without storing
// them: a session id is its own sealed record.
//
// Contract:
//   - an id opens only under the key that sealed it and only for the owner it was sealed to; every other id is
//     ErrInvalid, with nothing in the error to tell a forged id from somebody else's;
//   - an id is a name, not a credential: it says which session is meant, never who is calling;
//   - ids are visible ASCII, unpredictable, and hold no secret;
//   - whether a session has ended is not written in its id. That is soft state and kept elsewhere, under Session.ID.
//
// All functions and methods are safe for concurrent use.
package session

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
)

// MinKeyBytes is the least key material that NewSealer accepts.
const MinKeyBytes = 32

const (
	keyInfo    = "sallyport session id v1" // separates this use of the key from all others (RFC 5869 §3.2)
	idBytes    = 16
	maxVersion = 32 // bytes of a protocol version
	maxSealed  = 12 + idBytes + 8 + maxVersion + 16
)

// ErrInvalid is the answer to every id that this sealer did not seal for this owner.
var ErrInvalid = errors.New("session: invalid id")

// ErrShortKey refuses a key of less than MinKeyBytes.
var ErrShortKey = errors.New("session: key too short")

// Owner is who a session belongs to: the verified caller, and the path on which it was opened.
type Owner struct {
	Issuer, Subject, ClientID string
	Route                     string // the MCP path
}

// Session is what an id says.
type Session struct {
	ID      string    // 32 hexadecimal digits; the key under which soft state is kept
	Version string    // negotiated protocol version
	Issued  time.Time // to the second
}

// NewID returns a fresh Session.ID of 128 random bits.
func NewID() string {
	var b [idBytes]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

// Sealer turns sessions into ids and back.
type Sealer struct {
	aead cipher.AEAD
}

// NewSealer derives the sealing key from key (HKDF-SHA256, RFC 5869). The key must be random, not a password: there
// is no stretching. AES-256-GCM with random nonces is safe for 2^32 ids under one key (NIST SP 800-38D §8.3).
func NewSealer(key []byte) (*Sealer, error) {
	if len(key) < MinKeyBytes {
		return nil, fmt.Errorf("%w: %d bytes, need %d", ErrShortKey, len(key), MinKeyBytes)
	}
	derived, err := hkdf.Key(sha256.New, key, nil, keyInfo, 32)
	if err != nil {
		return nil, fmt.Errorf("session: derive key: %w", err)
	}
	block, err := aes.NewCipher(derived)
	if err != nil {
		return nil, fmt.Errorf("session: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("session: %w", err)
	}
	return &Sealer{aead: aead}, nil
}

// Seal returns the id of s for o. It fails when s.ID is not 32 hexadecimal digits or s.Version is over 32 bytes.
func (s *Sealer) Seal(o Owner, sess Session) (string, error) {
	id, err := hex.DecodeString(sess.ID)
	if err != nil || len(id) != idBytes {
		return "", errors.New("session: malformed session ID")
	}
	if len(sess.Version) > maxVersion {
		return "", errors.New("session: protocol version too long")
	}
	plain := make([]byte, 0, idBytes+8+maxVersion)
	plain = append(plain, id...)
	plain = binary.BigEndian.AppendUint64(plain, uint64(sess.Issued.Unix()))
	plain = append(plain, sess.Version...)
	return encoding.EncodeToString(s.aead.Seal(nil, nil, plain, o.label())), nil
}

// Open returns the session that id names, or ErrInvalid.
func (s *Sealer) Open(id string, o Owner) (Session, error) {
	// The decoder skips line breaks, which would give one session many spellings.
	if len(id) > encoding.EncodedLen(maxSealed) || strings.ContainsAny(id, "\r\n") {
		return Session{}, ErrInvalid
	}
	sealed, err := encoding.DecodeString(id)
	if err != nil {
		return Session{}, ErrInvalid
	}
	plain, err := s.aead.Open(nil, nil, sealed, o.label())
	if err != nil || len(plain) < idBytes+8 {
		return Session{}, ErrInvalid
	}
	return Session{
		ID:      hex.EncodeToString(plain[:idBytes]),
		Issued:  time.Unix(int64(binary.BigEndian.Uint64(plain[idBytes:])), 0).UTC(),
		Version: string(plain[idBytes+8:]),
	}, nil
}

// encoding is strict so that unused bits of the last character cannot vary.
var encoding = base64.RawURLEncoding.Strict()

// label is the associated data. Lengths keep ("ab","c") apart from ("a","bc").
func (o Owner) label() []byte {
	fields := [...]string{o.Issuer, o.Subject, o.ClientID, o.Route}
	b := make([]byte, 0, 256)
	for _, f := range fields {
		b = binary.BigEndian.AppendUint64(b, uint64(len(f)))
		b = append(b, f...)
	}
	return b
}
