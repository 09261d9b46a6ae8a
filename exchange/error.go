package exchange

import (
	"context"
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
	// redirect, timeout, broken connection, a web page; or no metadata yet; or the
	// server was not asked at all ([ErrCircuitOpen], [ErrBusy]).
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
	ErrRequest     = errors.New("the exchange request is not valid")
	ErrNoMetadata  = errors.New("no authorization server metadata yet")
	ErrCircuitOpen = errors.New("the authorization server failed, and is left alone for now")
	ErrBusy        = errors.New("too many exchanges at once")
	ErrCredential  = errors.New("the client assertion cannot be signed")
	ErrRedirect    = errors.New("the token endpoint redirects")
	ErrTooLarge    = errors.New("the answer is too large")
	ErrStatus      = errors.New("the answer is not from a token endpoint")
	ErrAddress     = errors.New("address not allowed")

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

// Finer causes, each of which is also the one that it wraps.
var (
	ErrUnsigned       = fmt.Errorf("%w: a JWT without signature", ErrToken)
	ErrTyp            = fmt.Errorf("%w: typ", ErrTokenType)
	ErrScopeWider     = fmt.Errorf("%w: more than asked for", ErrScope)
	ErrScopeNarrower  = fmt.Errorf("%w: less than asked for", ErrScope)
	ErrLifetimeLonger = fmt.Errorf("%w: longer than asked for", ErrLifetime)
	ErrExpired        = fmt.Errorf("%w: expired", ErrLifetime)
	ErrActorMissing   = fmt.Errorf("%w: none", ErrActor)
	ErrActorOther     = fmt.Errorf("%w: not this client", ErrActor)
	ErrActorUnwanted  = fmt.Errorf("%w: one, under impersonation", ErrActor)
)

// reasons name the causes, the finer ones before what they wrap.
var reasons = []struct {
	cause error
	name  string
}{
	{ErrRequest, "request"}, {ErrNoMetadata, "no_metadata"}, {ErrCircuitOpen, "circuit_open"}, {ErrBusy, "busy"},
	{ErrCredential, "credential"}, {ErrRedirect, "redirect"}, {ErrTooLarge, "too_large"}, {ErrStatus, "status"}, {ErrAddress, "address"},
	{ErrUnsigned, "unsigned"}, {ErrTyp, "typ"}, {ErrScopeWider, "scope_wider"}, {ErrScopeNarrower, "scope_narrower"},
	{ErrLifetimeLonger, "lifetime_longer"}, {ErrExpired, "expired"},
	{ErrActorMissing, "actor_missing"}, {ErrActorOther, "actor_other"}, {ErrActorUnwanted, "actor_unwanted"},
	{ErrMalformed, "malformed"}, {ErrToken, "token"}, {ErrSameToken, "same_token"}, {ErrTokenType, "token_type"}, {ErrOpaque, "opaque"},
	{ErrIssuer, "issuer"}, {ErrSubject, "subject"}, {ErrAudience, "audience"}, {ErrScope, "scope"}, {ErrLifetime, "lifetime"}, {ErrActor, "actor"},
	{context.DeadlineExceeded, "timeout"}, {context.Canceled, "canceled"},
}

// Error is the failure of an exchange. Its text holds no secret and nothing
// that the authorization server wrote, apart from an error code.
type Error struct {
	Kind Kind
	// Code is the OAuth error code (RFC 6749 §5.2, RFC 8693 §2.2.2), if any.
	Code string
	// Status is the HTTP status of the answer, 0 if there was none.
	Status int
	// Detail is the server's error_description: at most 200 bytes of printable
	// ASCII with everything that looks like a token blotted out, and none of it if
	// it repeats a secret that was sent, or a piece of one. For log and audit;
	// never for the agent.
	Detail string
	// RetryAfter is how long the server asked to be left alone, at most an hour, or
	// after how long it will be asked again here. 0 if nobody knows.
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

// Reason is one of some thirty words, for a metric's label and the audit: the
// cause, such as scope_wider or timeout; "network" for one that is not of this
// package; "refused" for an OAuth error, whose Code says more.
func (e *Error) Reason() string {
	for _, r := range reasons {
		if errors.Is(e.Err, r.cause) {
			return r.name
		}
	}
	if e.Kind == Unavailable {
		return "network"
	}
	return e.Kind.String()
}
