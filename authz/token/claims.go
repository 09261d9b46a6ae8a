package token

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/sallyport/sallyport/authz/token/internal/jose"
)

const (
	maxTextBytes = 1 << 10
	maxActors    = 10
)

// claims is a payload (RFC 7519 §4, RFC 9068 §2.2) whose members have the right types.
type claims struct {
	all                                 map[string]any
	issuer, subject, clientID, azp, jti string
	expiry, notBefore, issuedAt         time.Time // zero when absent
	audience, scopes, actors            []string
	binding                             Binding // once checked
}

func readClaims(m map[string]any) (claims, error) {
	r := reader{m: m}
	c := claims{
		all:       m,
		issuer:    r.required("iss"),
		subject:   r.required("sub"),
		clientID:  r.text("client_id"),
		azp:       r.text("azp"),
		jti:       r.text("jti"),
		expiry:    r.date("exp"),
		notBefore: r.date("nbf"),
		issuedAt:  r.date("iat"),
		audience:  r.texts("aud"),
		scopes:    r.scopes(),
		actors:    r.actors(),
	}
	if c.clientID == "" {
		c.clientID = c.azp
	}
	if c.expiry.IsZero() {
		r.fail("exp", "missing")
	}
	return c, r.err
}

func (c *claims) identity() *Identity {
	return &Identity{
		Issuer:     c.issuer,
		Subject:    c.subject,
		ClientID:   c.clientID,
		ClientOnly: c.clientOnly(),
		Actors:     c.actors,
		Scopes:     c.scopes,
		Audience:   c.audience,
		JTI:        c.jti,
		Issued:     c.issuedAt,
		Expiry:     c.expiry,
		Binding:    c.binding,
		Claims:     c.all,
	}
}

// clientOnly reports whether the subject is the client itself: because it is named as such (RFC 9068 §2.2 for the
// client credentials grant, RFC 6749 §4.4), or because the server says so, in gty (Auth0) or idtyp (Microsoft Entra).
func (c *claims) clientOnly() bool {
	gty, idtyp := c.all["gty"], c.all["idtyp"]
	return c.subject == c.clientID || gty == "client-credentials" || gty == "client_credentials" || idtyp == "app"
}

// reader takes typed members out of a payload and keeps the first error.
type reader struct {
	m   map[string]any
	err error
}

func (r *reader) fail(name, what string) {
	if r.err == nil {
		r.err = fmt.Errorf("%s: %s", name, what)
	}
}

// text returns a string member, "" when absent. A member that is there must name something.
func (r *reader) text(name string) string {
	v, ok := r.m[name]
	if !ok {
		return ""
	}
	s, _ := v.(string)
	if err := checkText(s); err != nil {
		r.fail(name, err.Error())
		return ""
	}
	return s
}

func (r *reader) required(name string) string {
	if _, ok := r.m[name]; !ok {
		r.fail(name, "missing")
	}
	return r.text(name)
}

// checkText accepts what can be a name in a log line, a header or a policy without being taken for another: not
// empty, not padded, nothing invisible.
func checkText(s string) error {
	switch {
	case s == "":
		return errors.New("not a non-empty string")
	case len(s) > maxTextBytes:
		return fmt.Errorf("longer than %d bytes", maxTextBytes)
	case strings.TrimSpace(s) != s:
		return errors.New("surrounded by white space")
	case strings.ContainsFunc(s, invisible):
		return errors.New("holds control characters")
	}
	return nil
}

func invisible(r rune) bool {
	return unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp)
}

// date reads a NumericDate, zero when absent.
func (r *reader) date(name string) time.Time {
	v, ok := r.m[name]
	if !ok {
		return time.Time{}
	}
	at, err := jose.Date(v)
	if err != nil {
		r.fail(name, err.Error())
	}
	return at
}

// texts reads a string or an array of strings, nil when absent.
func (r *reader) texts(name string) []string {
	v, ok := r.m[name]
	if !ok {
		return nil
	}
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
	}
	out := make([]string, len(list))
	for i, e := range list {
		s, ok := e.(string)
		if !ok {
			r.fail(name, "not a string or an array of strings")
			return nil
		}
		out[i] = s
	}
	return out
}

// scopes reads scope (RFC 8693 §4.2), else scp, which some servers write as one string and others as an array.
func (r *reader) scopes() []string {
	name := "scope"
	if _, ok := r.m[name]; !ok {
		name = "scp"
	}
	out := r.texts(name)
	if _, array := r.m[name].([]any); array && name == "scope" {
		r.fail(name, "not a string")
	} else if len(out) == 1 {
		out = strings.Split(out[0], " ")
	}
	out = slices.DeleteFunc(out, func(s string) bool { return s == "" })
	for _, s := range out {
		if strings.ContainsFunc(s, notScope) {
			r.fail(name, "not a scope (RFC 6749 §3.3)")
			return nil
		}
	}
	return out
}

// notScope reports what a scope-token may not hold. A space inside one would make it two once joined again.
func notScope(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' }

// actors walks the act chain (RFC 8693 §4.1).
func (r *reader) actors() []string {
	var out []string
	v, more := r.m["act"]
	for more {
		act, _ := v.(map[string]any)
		sub, _ := act["sub"].(string)
		if err := checkText(sub); err != nil || len(out) == maxActors {
			r.fail("act", fmt.Sprintf("not a chain of at most %d actors with a sub", maxActors))
			return nil
		}
		out = append(out, sub)
		v, more = act["act"]
	}
	return out
}
