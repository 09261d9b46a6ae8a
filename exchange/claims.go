package exchange

import (
	"encoding/base64"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

type jwtParts struct{ header, payload []byte }

// splitJWT tells a JWT (JWS compact serialization) from an opaque token. What
// begins like one must then be one in every detail.
func splitJWT(token string) (jwtParts, bool) {
	part := strings.Split(token, ".")
	if len(part) != 3 {
		return jwtParts{}, false
	}
	header, err := base64.RawURLEncoding.DecodeString(part[0])
	if err != nil || len(header) == 0 || header[0] != '{' {
		return jwtParts{}, false
	}
	payload, err := base64.RawURLEncoding.DecodeString(part[1])
	if err != nil || part[2] == "" {
		payload = nil // a JWT with no readable claims: refused when decoded
	}
	return jwtParts{header: header, payload: payload}, true
}

// checkHeader refuses an unsigned JWT, and one whose typ is that of another kind
// of token, such as a logout token or a proof of possession (RFC 8725 §3.11).
func checkHeader(header []byte, atJWT bool) error {
	var head struct {
		Alg string `json:"alg"`
		Typ string `json:"typ"`
	}
	if err := unmarshal(header, &head); err != nil {
		return err
	}
	if head.Alg == "" || strings.EqualFold(head.Alg, "none") {
		return ErrUnsigned
	}
	switch strings.ToLower(head.Typ) {
	case "at+jwt", "application/at+jwt":
		return nil
	case "jwt", "application/jwt", "":
		if !atJWT {
			return nil
		}
	}
	return ErrTyp
}

// claims are the claims that the checks read (RFC 9068 §2.2). Expiry and the
// other times are numbers that may have a fraction (RFC 7519 §2).
type claims struct {
	Issuer    string         `json:"iss"`
	Subject   string         `json:"sub"`
	Audience  jsontext.Value `json:"aud"`
	Expiry    *float64       `json:"exp"`
	IssuedAt  *float64       `json:"iat"`
	NotBefore *float64       `json:"nbf"`
	JTI       string         `json:"jti"`
	Scope     jsontext.Value `json:"scope"`
	Scp       jsontext.Value `json:"scp"`
	Act       *act           `json:"act"`
}

type act struct {
	Subject  string `json:"sub"`
	ClientID string `json:"client_id"`
	Act      *act   `json:"act"`
}

// textClaim reads one claim by its name; "" if it is absent or no string.
func textClaim(payload []byte, name string) string {
	var all map[string]jsontext.Value
	var s string
	if unmarshal(payload, &all) != nil || all[name] == nil || unmarshal(all[name], &s) != nil {
		return ""
	}
	return s
}

// oneOrMany reads a string or an array of strings; nothing for an absent claim.
func oneOrMany(v jsontext.Value) ([]string, error) {
	if v == nil {
		return nil, nil
	}
	if v.Kind() == '"' {
		var s string
		err := unmarshal(v, &s)
		return []string{s}, err
	}
	var list []string
	if v.Kind() != '[' || unmarshal(v, &list) != nil {
		return nil, ErrMalformed
	}
	return list, nil
}

// numericDate reads a claim that is a time.
func numericDate(name string, v float64) (time.Time, error) {
	const year9999 = 253402300799
	if math.IsNaN(v) || v < 0 || v > year9999 {
		return time.Time{}, fmt.Errorf("%w: %s", ErrLifetime, name)
	}
	whole, fraction := math.Modf(v)
	return time.Unix(int64(whole), int64(fraction*1e9)), nil
}
