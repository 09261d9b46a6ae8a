package exchange

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

type response struct {
	accessToken, issuedTokenType string
	scope                        string
	expiresIn                    time.Duration
	hasScope, hasExpiresIn       bool
}

// parseResponse reads a successful response of any grant (RFC 6749 §5.1).
func parseResponse(body []byte) (response, error) {
	var doc struct {
		AccessToken     string         `json:"access_token"`
		IssuedTokenType string         `json:"issued_token_type"`
		TokenType       string         `json:"token_type"`
		ExpiresIn       jsontext.Value `json:"expires_in"`
		Scope           *string        `json:"scope"`
	}
	if err := unmarshal(body, &doc); err != nil {
		return response{}, err
	}
	res := response{accessToken: doc.AccessToken, issuedTokenType: doc.IssuedTokenType}
	switch {
	case !visibleASCII(doc.AccessToken) || len(doc.AccessToken) > maxToken:
		return response{}, ErrToken
	case !strings.EqualFold(doc.TokenType, "Bearer"):
		return response{}, fmt.Errorf("%w: token_type is not Bearer", ErrTokenType)
	}
	if doc.Scope != nil {
		res.scope, res.hasScope = *doc.Scope, true
	}
	if doc.ExpiresIn != nil {
		n, err := strconv.ParseInt(string(doc.ExpiresIn), 10, 64)
		if err != nil || n <= 0 || n > int64(maxLife/time.Second) {
			return response{}, fmt.Errorf("%w: expires_in", ErrLifetime)
		}
		res.expiresIn, res.hasExpiresIn = time.Duration(n)*time.Second, true
	}
	return res, nil
}
