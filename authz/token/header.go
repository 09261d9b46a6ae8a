package token

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

const (
	maxHeaderBytes = 8 << 10
	maxKeyIDBytes  = 256
)

// parsed is a token in its parts, nothing of it verified.
type parsed struct {
	header    header
	claims    claims
	signed    string // header.payload as transmitted: the JWS signing input (RFC 7515 §5.1)
	signature []byte
}

// header holds the JOSE header parameters that matter. Those that bring a key along (jku, x5u, x5c, jwk) are not
// read at all.
type header struct {
	alg, kid string
	typ      string // lower case, without the "application/" that it may omit (RFC 7515 §4.1.9); "" when absent
}

// parse reads a compact JWS of at most MaxBytes.
func parse(raw string) (*parsed, error) {
	if strings.Count(raw, ".") != 2 {
		return nil, fmt.Errorf("%w: not three segments", ErrInvalidToken)
	}
	dot := strings.LastIndexByte(raw, '.')
	signed, sig := raw[:dot], raw[dot+1:]
	head, payload, _ := strings.Cut(signed, ".")

	t := &parsed{signed: signed}
	b, err := segment(head)
	if err == nil {
		t.header, err = parseHeader(b)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: header: %w", ErrInvalidToken, err)
	}
	if t.signature, err = segment(sig); err != nil {
		return nil, fmt.Errorf("%w: signature: %w", ErrInvalidToken, err)
	}
	if b, err = segment(payload); err == nil {
		t.claims, err = parseClaims(b)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: claims: %w", ErrInvalidToken, err)
	}
	return t, nil
}

var strictBase64 = base64.RawURLEncoding.Strict()

// segment decodes base64url without padding (RFC 7515 §2). The standard decoder skips CR and LF, which would give one
// token many spellings.
func segment(s string) ([]byte, error) {
	if s == "" || strings.ContainsAny(s, "\r\n") {
		return nil, errors.New("not base64url")
	}
	b, err := strictBase64.DecodeString(s)
	if err != nil {
		return nil, errors.New("not base64url")
	}
	return b, nil
}

func parseHeader(b []byte) (header, error) {
	var h header
	if len(b) > maxHeaderBytes {
		return h, fmt.Errorf("longer than %d bytes", maxHeaderBytes)
	}
	m, err := object(b)
	if err != nil {
		return h, err
	}
	// crit names extensions that must be understood (RFC 7515 §4.1.11); none is. b64 and zip change what was signed.
	for _, name := range []string{"crit", "b64", "zip"} {
		if _, ok := m[name]; ok {
			return h, fmt.Errorf("%s is not supported", name)
		}
	}
	if typ, ok := m["typ"]; ok {
		text, _ := typ.(string)
		h.typ = strings.TrimPrefix(strings.ToLower(text), "application/")
		if h.typ == "" {
			return h, errors.New("typ is not a media type")
		}
	}
	alg, _ := m["alg"].(string)
	if methods[alg] == nil {
		return h, errors.New("alg is not an accepted signature algorithm")
	}
	kid, _ := m["kid"].(string)
	if kid == "" || len(kid) > maxKeyIDBytes {
		return h, fmt.Errorf("kid is not a string of 1 to %d bytes", maxKeyIDBytes)
	}
	h.alg, h.kid = alg, kid
	return h, nil
}

// clip quotes text of a stranger for an error message: short, and only printable ASCII.
func clip(s string) string {
	const most = 64
	if len(s) > most {
		return strconv.QuoteToASCII(s[:most]) + "…"
	}
	return strconv.QuoteToASCII(s)
}
