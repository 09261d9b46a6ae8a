package exchange

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	maxDetail     = 200
	maxRead       = 1 << 10 // of a description
	maxCode       = 64
	maxRetryAfter = time.Hour
	minParameter  = 8 // characters of an additional parameter that may be a secret, and not a word such as "true"
)

// post sends one form to the token endpoint, if the circuit lets it and there is a
// place, and returns the body of a 200 with JSON in it. secrets are what must not
// appear in the error's Detail.
func (c *Client) post(ctx context.Context, md *metadata, form url.Values, secrets ...string) ([]byte, *Error) {
	era, wait, ok := c.circuit.enter(c.cfg.Now())
	if !ok {
		c.count.broken.Add(1)
		return nil, &Error{Kind: Unavailable, RetryAfter: wait, Err: ErrCircuitOpen}
	}
	shown, pause := unclear, time.Duration(0)
	defer func() { c.circuit.leave(era, c.cfg.Now(), shown, pause) }()
	if err := c.slots.take(ctx); err != nil {
		c.count.shed.Add(1)
		return nil, err
	}
	defer c.slots.put()
	c.count.inFlight.Add(1)
	defer c.count.inFlight.Add(-1)

	began := c.cfg.Now()
	body, err := c.send(ctx, md, form, secrets)
	shown, pause = c.judge(ctx, err, c.cfg.Now().Sub(began))
	return body, err
}

// judge says what a call shows about the server, and for how long it asks to be
// left alone (RFC 6585 §4, RFC 9110 §15.6.4).
func (c *Client) judge(ctx context.Context, err *Error, took time.Duration) (outcome, time.Duration) {
	slow := c.cfg.Breaker.SlowerThan > 0 && took > c.cfg.Breaker.SlowerThan
	switch {
	case slow:
	case err == nil || err.Kind != Unavailable:
		return alive, 0
	case errors.Is(err, ErrCredential), errors.Is(ctx.Err(), context.Canceled):
		return unclear, 0
	}
	if err != nil && (err.Status == http.StatusTooManyRequests || err.Status == http.StatusServiceUnavailable) {
		return failing, err.RetryAfter
	}
	return failing, 0
}

func (c *Client) send(ctx context.Context, md *metadata, form url.Values, secrets []string) ([]byte, *Error) {
	secret := *c.secret.Load()
	req, err := c.newRequest(ctx, md, form, secret)
	if err != nil {
		return nil, &Error{Kind: Unavailable, Err: err}
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, &Error{Kind: Unavailable, Err: quiet(ctx, err)}
	}
	defer res.Body.Close()
	body, err := readAll(res.Body)
	if err != nil {
		return nil, &Error{Kind: Unavailable, Status: res.StatusCode, Err: quiet(ctx, err)}
	}
	secrets = append(secrets, form.Get("client_assertion"))
	for _, value := range c.cfg.AdditionalParameters {
		if len(value) >= minParameter {
			secrets = append(secrets, value)
		}
	}
	if secret != "" {
		basic := base64.StdEncoding.EncodeToString([]byte(c.cfg.ClientID + ":" + secret))
		secrets = append(secrets, secret, url.QueryEscape(secret), basic)
	}
	return body, classify(res, body, c.cfg.Now(), secrets)
}

func (c *Client) newRequest(ctx context.Context, md *metadata, form url.Values, secret string) (*http.Request, error) {
	authenticate, err := c.authenticate(md, form, secret)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, md.tokenEndpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	authenticate(req)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	// An empty key is not sent; it tells net/http that the request may be sent
	// again if a pooled connection turns out to be closed.
	req.Header["Idempotency-Key"] = nil
	return req, nil
}

// classify says whether an answer is one to be checked; if not, what it is.
func classify(res *http.Response, body []byte, now time.Time, secrets []string) *Error {
	status, media := res.StatusCode, mediaType(res.Header)
	fail := &Error{Kind: Unavailable, Status: status, Err: ErrStatus}
	switch {
	case status == http.StatusOK && media == "application/json":
		return nil
	case status == http.StatusOK && media == "text/html":
		return fail // a login page or a proxy's, not a token endpoint
	case status >= 200 && status < 300:
		return &Error{Kind: Unacceptable, Status: status, Err: ErrMalformed}
	case status >= 300 && status < 400:
		fail.Err = ErrRedirect
		return fail
	}
	fail.RetryAfter = retryAfter(res.Header.Get("Retry-After"), now)
	if media != "application/json" {
		return fail
	}
	fail.Code, fail.Detail = oauthError(body, secrets)
	if refusal(status, fail.Code) {
		fail.Kind, fail.Err = Refused, nil
	}
	return fail
}

// refusal tells a decision about this request (RFC 6749 §5.2) from trouble. A
// 5xx is trouble even with a code in it.
func refusal(status int, code string) bool {
	switch status {
	case http.StatusTooManyRequests, http.StatusRequestTimeout:
		return false
	}
	switch code {
	case "", "temporarily_unavailable", "server_error":
		return false
	}
	return status < 500
}

// oauthError reads an error response. A code that is not one, or is what the server was told in confidence, is dropped.
func oauthError(body []byte, secrets []string) (code, detail string) {
	var doc struct {
		Code        string `json:"error"`
		Description string `json:"error_description"`
	}
	if unmarshal(body, &doc) != nil || len(doc.Code) > maxCode || !scopeToken(doc.Code) || looksSecret.MatchString(doc.Code) {
		return "", ""
	}
	for _, secret := range secrets {
		if secret != "" && strings.Contains(doc.Code, secret) {
			return "", ""
		}
	}
	return doc.Code, sanitise(doc.Description, secrets)
}

// looksSecret matches what may be a token or a part of one.
var looksSecret = regexp.MustCompile(`eyJ[\w.~+/=-]*|[\w.~+/=-]{48,}|[\w-]{40,}`)

// withheld stands for a description that repeats what it was told in confidence.
const withheld = "[withheld: it repeats a part of the request]"

// sanitise makes a foreign text fit for the log: bounded, one line, no secrets. One that has a secret in it, or a piece of
// one, is not worth the risk of mending it.
func sanitise(s string, secrets []string) string {
	s = s[:min(len(s), maxRead)]
	if contains(s, secrets) {
		return withheld
	}
	s = looksSecret.ReplaceAllString(s, "[redacted]")
	s = s[:min(len(s), maxDetail)]
	if repeats(s, secrets) {
		return withheld
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}

// contains reports whether a secret is in s.
func contains(s string, secrets []string) bool {
	return slices.ContainsFunc(secrets, func(secret string) bool { return secret != "" && strings.Contains(s, secret) })
}

// piece is how much of a secret is taken for it: too much to be there by chance.
const piece = 12

// repeats reports whether a piece of a secret is in s.
func repeats(s string, secrets []string) bool {
	for i := range max(0, len(s)-piece+1) {
		for _, secret := range secrets {
			if strings.Contains(secret, s[i:i+piece]) {
				return true
			}
		}
	}
	return false
}

// retryAfter parses RFC 9110 §10.2.3: seconds or a date.
func retryAfter(v string, now time.Time) time.Duration {
	var d time.Duration
	if n, err := strconv.ParseUint(v, 10, 32); err == nil {
		d = time.Duration(n) * time.Second
	} else if at, err := http.ParseTime(v); err == nil {
		d = at.Sub(now)
	}
	return min(max(d, 0), maxRetryAfter)
}
