// Package jose reads what access tokens and proofs of possession have in common: signed compact JWTs (RFC 7515,
// RFC 7519) and public keys (RFC 7517). It is stricter than the standards where they leave room for two readings, and
// its errors quote little of what they are about, and that escaped.
package jose

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

const maxHeaderBytes = 8 << 10

// JWT is a compact JWS (RFC 7515 §7.1) with JSON objects in it, taken apart; nothing of it is verified.
type JWT struct {
	Alg       string         // one of Algorithms
	Typ       string         // lower case, without the "application/" that it may omit (RFC 7515 §4.1.9); "" when absent
	Header    map[string]any // the JOSE header, with the keys that it may bring along: whoever reads those must know why
	Claims    map[string]any
	signed    string // header.payload as transmitted: the JWS signing input (RFC 7515 §5.1)
	signature []byte
}

// Parse takes a compact JWS apart. The caller has bounded its length.
func Parse(raw string) (*JWT, error) {
	if strings.Count(raw, ".") != 2 {
		return nil, errors.New("not three segments")
	}
	dot := strings.LastIndexByte(raw, '.')
	signed, sig := raw[:dot], raw[dot+1:]
	head, payload, _ := strings.Cut(signed, ".")

	t := &JWT{signed: signed}
	b, err := Segment(head)
	if err == nil {
		err = t.readHeader(b)
	}
	if err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	if t.signature, err = Segment(sig); err != nil {
		return nil, fmt.Errorf("signature: %w", err)
	}
	if b, err = Segment(payload); err == nil {
		t.Claims, err = Object(b)
	}
	if err != nil {
		return nil, fmt.Errorf("claims: %w", err)
	}
	return t, nil
}

func (t *JWT) readHeader(b []byte) (err error) {
	if len(b) > maxHeaderBytes {
		return fmt.Errorf("longer than %d bytes", maxHeaderBytes)
	}
	if t.Header, err = Object(b); err != nil {
		return err
	}
	// crit names extensions that must be understood (RFC 7515 §4.1.11); none is. b64 and zip change what was signed.
	for _, name := range []string{"crit", "b64", "zip"} {
		if _, ok := t.Header[name]; ok {
			return fmt.Errorf("%s is not supported", name)
		}
	}
	if typ, ok := t.Header["typ"]; ok {
		text, _ := typ.(string)
		t.Typ = strings.TrimPrefix(strings.ToLower(text), "application/")
		if t.Typ == "" {
			return errors.New("typ is not a media type")
		}
	}
	t.Alg, _ = t.Header["alg"].(string)
	if methods[t.Alg] == nil {
		return errors.New("alg is not an accepted signature algorithm")
	}
	return nil
}

var strictBase64 = base64.RawURLEncoding.Strict()

// Segment decodes base64url without padding (RFC 7515 §2). The standard decoder skips CR and LF, which would give one
// token many spellings.
func Segment(s string) ([]byte, error) {
	if s == "" || strings.ContainsAny(s, "\r\n") {
		return nil, errors.New("not base64url")
	}
	b, err := strictBase64.DecodeString(s)
	if err != nil {
		return nil, errors.New("not base64url")
	}
	return b, nil
}

// Clip quotes text of a stranger for an error message: short, and only printable ASCII.
func Clip(s string) string {
	const most = 64
	if len(s) > most {
		return strconv.QuoteToASCII(s[:most]) + "…"
	}
	return strconv.QuoteToASCII(s)
}
