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

// What a key is derived for, to separate its uses from each other (RFC 5869 §3.2).
const (
	purposeID     = "sallyport session id v2"
	purposeName   = "sallyport name v1"
	purposeNonce  = "sallyport name nonce v1"
	purposeTicket = "sallyport ticket v1"
)

const (
	idBytes    = 16
	maxVersion = 32 // bytes of a protocol version
	maxClient  = 64 // bytes of a client's name, and of its version
	maxSealed  = 12 + idBytes + 8 + 2 + 3 + maxVersion + 2*maxClient + 16
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

// Session is what an id says: all that must outlive a restart.
type Session struct {
	ID           string    // 32 hexadecimal digits; the key under which soft state is kept
	Version      string    // negotiated protocol version
	Issued       time.Time // to the second
	Capabilities Capabilities
	ClientName   string // as the client calls itself; cut to 64 bytes
	ClientVer    string // likewise
}

// NewID returns a fresh Session.ID of 128 random bits.
func NewID() string {
	var b [idBytes]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

// Sealer turns sessions, and names within them, into text that only it can read.
type Sealer struct {
	ids, tickets cipher.AEAD
	names        cipher.AEAD
	nonces       []byte // key of the names' nonces
}

// NewSealer derives the sealing keys from key (HKDF-SHA256, RFC 5869). The key must be random, not a password: there
// is no stretching. AES-256-GCM with random nonces is safe for 2^32 ids under one key (NIST SP 800-38D §8.3).
func NewSealer(key []byte) (*Sealer, error) {
	if len(key) < MinKeyBytes {
		return nil, fmt.Errorf("%w: %d bytes, need %d", ErrShortKey, len(key), MinKeyBytes)
	}
	var derived [4][]byte
	for i, purpose := range [...]string{purposeID, purposeTicket, purposeName, purposeNonce} {
		k, err := hkdf.Key(sha256.New, key, nil, purpose, 32)
		if err != nil {
			return nil, fmt.Errorf("session: derive key: %w", err)
		}
		derived[i] = k
	}
	s := &Sealer{nonces: derived[3]}
	for i, use := range []struct {
		aead *cipher.AEAD
		mode func(cipher.Block) (cipher.AEAD, error)
	}{{&s.ids, cipher.NewGCMWithRandomNonce}, {&s.tickets, cipher.NewGCMWithRandomNonce}, {&s.names, cipher.NewGCM}} {
		block, err := aes.NewCipher(derived[i])
		if err != nil {
			return nil, fmt.Errorf("session: %w", err)
		}
		if *use.aead, err = use.mode(block); err != nil {
			return nil, fmt.Errorf("session: %w", err)
		}
	}
	return s, nil
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
	plain := make([]byte, 0, maxSealed)
	plain = append(plain, id...)
	plain = binary.BigEndian.AppendUint64(plain, uint64(sess.Issued.Unix()))
	plain = binary.BigEndian.AppendUint16(plain, uint16(sess.Capabilities))
	for _, text := range []string{sess.Version, cut(sess.ClientName), cut(sess.ClientVer)} {
		plain = append(append(plain, byte(len(text))), text...)
	}
	return encoding.EncodeToString(s.ids.Seal(nil, nil, plain, o.label())), nil
}

// cut bounds what a client calls itself, whole characters only.
func cut(s string) string {
	if len(s) > maxClient {
		s = s[:maxClient]
	}
	return strings.ToValidUTF8(s, "")
}

// Open returns the session that id names, or ErrInvalid.
func (s *Sealer) Open(id string, o Owner) (Session, error) {
	plain, err := open(s.ids, id, maxSealed, o.label())
	if err != nil || len(plain) < idBytes+8+2 {
		return Session{}, ErrInvalid
	}
	out := Session{
		ID:           hex.EncodeToString(plain[:idBytes]),
		Issued:       time.Unix(int64(binary.BigEndian.Uint64(plain[idBytes:])), 0).UTC(),
		Capabilities: Capabilities(binary.BigEndian.Uint16(plain[idBytes+8:])),
	}
	rest := plain[idBytes+8+2:]
	for _, text := range []*string{&out.Version, &out.ClientName, &out.ClientVer} {
		if len(rest) == 0 || len(rest) < 1+int(rest[0]) {
			return Session{}, ErrInvalid
		}
		*text, rest = string(rest[1:1+rest[0]]), rest[1+rest[0]:]
	}
	return out, nil
}

// open decodes and opens a text of at most limit sealed bytes, whose nonce stands in front.
func open(aead cipher.AEAD, text string, limit int, label []byte) ([]byte, error) {
	// The decoder skips line breaks, which would give one text many spellings.
	if len(text) > encoding.EncodedLen(limit) || strings.ContainsAny(text, "\r\n") {
		return nil, ErrInvalid
	}
	sealed, err := encoding.DecodeString(text)
	if err != nil {
		return nil, ErrInvalid
	}
	n := aead.NonceSize() // 0 where the mode carries its own
	if len(sealed) < n {
		return nil, ErrInvalid
	}
	plain, err := aead.Open(nil, sealed[:n], sealed[n:], label)
	if err != nil {
		return nil, ErrInvalid
	}
	return plain, nil
}

// encoding is strict so that unused bits of the last character cannot vary.
var encoding = base64.RawURLEncoding.Strict()

// label is the associated data. Lengths keep ("ab","c") apart from ("a","bc").
func (o Owner) label() []byte { return label(o.Issuer, o.Subject, o.ClientID, o.Route) }

func label(fields ...string) []byte {
	b := make([]byte, 0, 256)
	for _, f := range fields {
		b = binary.BigEndian.AppendUint64(b, uint64(len(f)))
		b = append(b, f...)
	}
	return b
}
