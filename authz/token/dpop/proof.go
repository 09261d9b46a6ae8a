package dpop

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/sallyport/sallyport/authz/token/internal/jose"
)

// Algorithms returns the signature algorithms of proofs: for algs in a challenge (RFC 9449 §7.1), and for
// dpop_signing_alg_values_supported in the resource's metadata (RFC 9728 §2).
func Algorithms() []string { return jose.Algorithms() }

// proof is a DPoP proof (RFC 9449 §4.2) whose signature holds.
type proof struct {
	jti, method, url, hash, nonce string
	issuedAt                      time.Time
}

// parse takes the one proof of a request apart, and reads the key that it brings along.
func parse(proofs []string) (*jose.JWT, jose.Key, error) {
	if len(proofs) != 1 {
		return nil, jose.Key{}, fmt.Errorf("%d proofs, want one", len(proofs))
	}
	if len(proofs[0]) > MaxProofBytes {
		return nil, jose.Key{}, fmt.Errorf("longer than %d bytes", MaxProofBytes)
	}
	t, err := jose.Parse(proofs[0])
	if err != nil {
		return nil, jose.Key{}, err
	}
	if t.Typ != "dpop+jwt" {
		return nil, jose.Key{}, fmt.Errorf("typ %s", jose.Clip(t.Typ))
	}
	jwk, ok := t.Header["jwk"].(map[string]any)
	if !ok {
		return nil, jose.Key{}, errors.New("no jwk")
	}
	key, err := jose.ParseKey(jwk)
	if err != nil {
		return nil, jose.Key{}, fmt.Errorf("jwk: %w", err)
	}
	return t, key, nil
}

// read checks the signature and then reads the claims.
func read(t *jose.JWT, key jose.Key) (*proof, error) {
	if !key.Verifies(t) {
		return nil, errors.New("bad signature")
	}
	return claims(t.Claims)
}

func claims(m map[string]any) (*proof, error) {
	var p proof
	for _, c := range []struct {
		name  string
		value *string
		most  int
	}{
		{"jti", &p.jti, maxJTIBytes},
		{"htm", &p.method, 32},
		{"htu", &p.url, maxURLBytes},
		{"ath", &p.hash, 64},
	} {
		*c.value, _ = m[c.name].(string)
		if *c.value == "" || len(*c.value) > c.most {
			return nil, fmt.Errorf("%s is not a string of 1 to %d bytes", c.name, c.most)
		}
	}
	p.nonce, _ = m["nonce"].(string)
	var err error
	if p.issuedAt, err = jose.Date(m["iat"]); err != nil {
		return nil, fmt.Errorf("iat: %w", err)
	}
	return &p, nil
}

// check compares the proof with the request, the token and the time. exp and nbf are not among the claims of a proof:
// its window is ours to set.
func (p *proof) check(r Request, window time.Duration, now time.Time) error {
	sum := sha256.Sum256([]byte(r.Token))
	switch {
	case p.method != r.Method:
		return errors.New("htm: for another method")
	case !sameTarget(p.url, r.URL):
		return errors.New("htu: for another URL")
	case p.hash != base64.RawURLEncoding.EncodeToString(sum[:]):
		return errors.New("ath: for another token")
	case now.Sub(p.issuedAt) > window:
		return errors.New("iat: too old")
	case p.issuedAt.Sub(now) > window:
		return errors.New("iat: from the future")
	}
	return nil
}

// sameTarget compares two http URLs without their queries and fragments (RFC 9449 §4.3), normalised by syntax and by
// scheme (RFC 3986 §6.2.2 and §6.2.3). Dot segments are not resolved, as no client sends them.
func sameTarget(a, b string) bool {
	left, okA := target(a)
	right, okB := target(b)
	return okA && okB && left == right
}

func target(raw string) (string, bool) {
	u, err := url.Parse(raw)
	if err != nil || u.User != nil || u.Hostname() == "" {
		return "", false
	}
	usual, ok := map[string]string{"http": "80", "https": "443"}[u.Scheme]
	if !ok {
		return "", false
	}
	host := strings.ToLower(u.Hostname())
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if port := u.Port(); port != "" && port != usual {
		host += ":" + port
	}
	path := u.EscapedPath()
	if path == "" {
		path = "/"
	}
	return u.Scheme + "://" + host + normalEscapes(path), true
}

// normalEscapes decodes the escapes of unreserved characters, and writes the others in upper case (RFC 3986 §6.2.2.1
// and §6.2.2.2). The escapes are well formed.
func normalEscapes(path string) string {
	var b strings.Builder
	for {
		before, escape, found := strings.Cut(path, "%")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		escape = escape[:min(2, len(escape))]
		if c, err := url.PathUnescape("%" + escape); err == nil && strings.Trim(c, unreserved) == "" {
			b.WriteString(c)
		} else {
			b.WriteString("%" + strings.ToUpper(escape))
		}
		path = path[len(before)+1+len(escape):]
	}
}

const unreserved = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
