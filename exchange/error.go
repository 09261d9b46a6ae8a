package exchange

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Kind says whose failure an [Error] is.
type Kind uint8

const (
	// Refused says that the authorization server answered with an OAuth error, or the
	// request was one that no server would accept ([ErrRequest]). The same
	// request will be refused again.
	Refused Kind = iota + 1
	// Unavailable says that there was no answer from an authorization server. A 5xx, 429,
	// redirect, timeout, broken connection, a web page; or no metadata yet.
	Unavailable
	// Unacceptable says that there was an answer, and it failed a check. Its token was
	// dropped.
	Unacceptable
)

func (k Kind) String() string {
	switch k {
	case Refused:
		return "refused"
	case Unavailable:
		return "unavailable"
	case Unacceptable:
		return "unacceptable"
	}
	return "unknown"
}

// Causes, found with errors.Is.
var (
	ErrRequest    = errors.New("the exchange request is not valid")
	ErrNoMetadata = errors.New("no authorization server metadata yet")
	ErrRedirect   = errors.New("the token endpoint redirects")
	ErrTooLarge   = errors.New("the answer is too large")
	ErrStatus     = errors.New("the answer is not from a token endpoint")
	ErrAddress    = errors.New("address not allowed")

	ErrMalformed = errors.New("malformed answer")
	ErrToken     = errors.New("no usable access token")
	ErrSameToken = errors.New("the subject token came back")
	ErrTokenType = errors.New("wrong token type")
	ErrOpaque    = errors.New("the token is opaque")
	ErrIssuer    = errors.New("wrong issuer")
	ErrSubject   = errors.New("wrong subject")
	ErrAudience  = errors.New("wrong audience")
	ErrScope     = errors.New("wrong scope")
	ErrLifetime  = errors.New("wrong lifetime")
	ErrActor     = errors.New("wrong actor")
)

// Error is the failure of an exchange. Its text holds no secret and nothing
// that the authorization server wrote, apart from an error code.
type Error struct {
	Kind Kind
	// Code is the OAuth error code (RFC 6749 §5.2, RFC 8693 §2.2.2), if any.
	Code string
	// Status is the HTTP status of the answer, 0 if there was none.
	Status int
	// Detail is the server's error_description: at most 200 bytes of printable
	// ASCII with everything that looks like a token blotted out. For log and
	// audit; never for the agent.
	Detail string
	// RetryAfter is how long the server asked to be left alone, at most an hour.
	RetryAfter time.Duration
	// Err is the cause: one of the errors of this package, or the network's.
	Err error
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("token exchange " + e.Kind.String())
	if e.Code != "" {
		b.WriteString(" (" + e.Code + ")")
	}
	if e.Status != 0 {
		fmt.Fprintf(&b, ", status %d", e.Status)
	}
	if e.Err != nil {
		b.WriteString(": " + e.Err.Error())
	}
	return b.String()
}

func (e *Error) Unwrap() error { return e.Err }
