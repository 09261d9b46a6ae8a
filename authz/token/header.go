package token

import (
	"fmt"

	"github.com/sallyport/sallyport/authz/token/internal/jose"
)

const maxKeyIDBytes = 256

// parsed is a JWT access token in its parts, nothing of it verified.
type parsed struct {
	*jose.JWT
	kid    string
	claims claims
}

// parse reads a compact JWS of at most MaxBytes. Header parameters that bring a key along (jku, x5u, x5c, jwk) are not
// read at all.
func parse(raw string) (*parsed, error) {
	j, err := jose.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalidToken, err)
	}
	t := &parsed{JWT: j}
	if t.kid, err = keyID(j.Header); err != nil {
		return nil, fmt.Errorf("%w: header: %w", ErrInvalidToken, err)
	}
	if t.claims, err = readClaims(j.Claims); err != nil {
		return nil, fmt.Errorf("%w: claims: %w", ErrInvalidToken, err)
	}
	return t, nil
}

// keyID reads the kid of a JOSE header or of a JWK. Both must have one here: a key is looked up, not tried.
func keyID(m map[string]any) (string, error) {
	kid, _ := m["kid"].(string)
	if kid == "" || len(kid) > maxKeyIDBytes {
		return "", fmt.Errorf("kid is not a string of 1 to %d bytes", maxKeyIDBytes)
	}
	return kid, nil
}
