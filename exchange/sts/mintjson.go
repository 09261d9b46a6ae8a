package sts

import (
	"encoding/base64"
	"strconv"
	"sync"

	"github.com/go-json-experiment/json/jsontext"
)

// claims are those of one minted token (RFC 9068 §2.2) that differ from the next
// one's.
type claims struct {
	subject, audience string
	scopes            []string
	iat, exp          int64
	id                [16]byte
	act               [2][]byte // the agent's name, quoted, and the agent's own act; either may be nil
	delegated         bool
}

// buffer is where a token is written. A large one is not kept.
type buffer struct{ json, token []byte }

const keptBuffer = 8 << 10

var buffers = sync.Pool{New: func() any { return &buffer{} }}

func (b *buffer) free() {
	if cap(b.json) <= keptBuffer && cap(b.token) <= keptBuffer {
		buffers.Put(b)
	}
}

// appendClaims writes the claims by hand: a map and a marshaller would cost as
// much as a quarter of the signature. It fails on text that is not UTF-8.
func (m *Minter) appendClaims(b []byte, c *claims) ([]byte, error) {
	var err error
	b = append(append(b, m.prefix...), `,"sub":`...)
	if b, err = jsontext.AppendQuote(b, c.subject); err != nil {
		return b, err
	}
	b = append(b, `,"aud":`...)
	if b, err = jsontext.AppendQuote(b, c.audience); err != nil {
		return b, err
	}
	b = append(append(b, `,"client_id":`...), m.client...)
	if len(c.scopes) > 0 {
		b = append(b, `,"scope":"`...) // of characters that need no escape (RFC 6749 §3.3)
		for i, s := range c.scopes {
			if i > 0 {
				b = append(b, ' ')
			}
			b = append(b, s...)
		}
		b = append(b, '"')
	}
	b = strconv.AppendInt(append(b, `,"iat":`...), c.iat, 10)
	b = strconv.AppendInt(append(b, `,"exp":`...), c.exp, 10)
	b = base64.RawURLEncoding.AppendEncode(append(b, `,"jti":"`...), c.id[:])
	b = append(b, '"')
	if c.delegated {
		b = m.appendAct(append(b, `,"act":`...), c.act)
	}
	return append(b, '}'), nil
}

// appendAct nests this party, the agent, and those who acted for it.
func (m *Minter) appendAct(b []byte, act [2][]byte) []byte {
	b = append(append(b, `{"sub":`...), m.client...)
	if act[0] != nil {
		b = append(append(b, `,"act":{"sub":`...), act[0]...)
	}
	if act[1] != nil {
		b = append(append(b, `,"act":`...), act[1]...)
	}
	if act[0] != nil {
		b = append(b, '}')
	}
	return append(b, '}')
}

// appendToken writes a JWS signing input (RFC 7515 §5.1); the header is encoded.
func appendToken(b, header, payload []byte) []byte {
	return base64.RawURLEncoding.AppendEncode(append(b, header...), payload)
}
