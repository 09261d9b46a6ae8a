package session

import (
	"crypto/hmac"
	"crypto/sha256"
)

// Kind is what a sealed name stands for.
type Kind byte

// The kinds.
const (
	RequestID     Kind = 'r' // of a request that an upstream sent to the agent
	ProgressToken Kind = 'p' // that an upstream put into such a request
	CallEvent     Kind = 'c' // event id on the stream that answers a call
	StreamEvent   Kind = 's' // event id on the stream of a GET
)

// Tag stands for an app in a name, whose room is small: its name's hash, cut short.
type Tag [8]byte

// TagOf returns the tag of an app, or of whatever else a name must belong to.
func TagOf(app string) (t Tag) {
	sum := sha256.Sum256([]byte(app))
	copy(t[:], sum[:])
	return t
}

// Name is something that an upstream named and that the agent is to send back: it must lead to the upstream that it
// came from, in the upstream session that it came from, and to nothing else.
type Name struct {
	Kind Kind
	App  Tag
	Leg  Tag    // the upstream's session
	Call Tag    // of a CallEvent: the call that the stream answers; otherwise zero
	Raw  []byte // the upstream's own name: a raw JSON token, or the text of an event id
}

// MaxNameBytes is the longest Name.Raw: sealed it still is an id that Parse accepts.
const MaxNameBytes = 128

const (
	nonceBytes    = 12
	maxSealedName = nonceBytes + 1 + 3*len(Tag{}) + 4*MaxNameBytes + 16
)

// SealName returns the text under which the agent with session sees n. The same name gives the same text each time,
// since an upstream may name a thing more than once (a request, and its cancellation). The nonce is therefore derived
// from what is sealed.
func (s *Sealer) SealName(session string, n Name) string {
	plain := make([]byte, 0, maxSealedName)
	plain = append(plain, byte(n.Kind))
	plain = append(append(append(plain, n.App[:]...), n.Leg[:]...), n.Call[:]...)
	plain = append(plain, n.Raw...)
	mac := hmac.New(sha256.New, s.nonces)
	mac.Write(label(session))
	mac.Write(plain)
	nonce := mac.Sum(nil)[:nonceBytes]
	return encoding.EncodeToString(s.names.Seal(nonce, nonce, plain, label(session)))
}

// OpenName returns the name behind text, or ErrInvalid when it is none of this kind that was sealed for session.
func (s *Sealer) OpenName(session string, kind Kind, text string) (Name, error) {
	plain, err := open(s.names, text, maxSealedName, label(session))
	if err != nil || len(plain) < 1+3*len(Tag{}) || Kind(plain[0]) != kind {
		return Name{}, ErrInvalid
	}
	n := Name{Kind: kind, Raw: plain[1+3*len(Tag{}):]}
	copy(n.App[:], plain[1:])
	copy(n.Leg[:], plain[1+len(n.App):])
	copy(n.Call[:], plain[1+len(n.App)+len(n.Leg):])
	return n, nil
}

const maxTicket = 64 << 10

// SealTicket seals what one of our own processes has to tell another through Envoy. It opens only with the same label.
func (s *Sealer) SealTicket(plain []byte, fields ...string) string {
	return encoding.EncodeToString(s.tickets.Seal(nil, nil, plain, label(fields...)))
}

// OpenTicket is the inverse of SealTicket; the error is ErrInvalid.
func (s *Sealer) OpenTicket(text string, fields ...string) ([]byte, error) {
	return open(s.tickets, text, maxTicket, label(fields...))
}
