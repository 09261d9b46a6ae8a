package token

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/sallyport/sallyport/authz/token/internal/jose"
)

// IntrospectionConfig makes an issuer be asked about its tokens (RFC 7662).
type IntrospectionConfig struct {
	// Endpoint is where to ask. Default: introspection_endpoint of the issuer's metadata, if that has the scheme, host
	// and port of WellKnown; the client's secret goes to no other place that is not named here.
	Endpoint string
	// ClientID and ClientSecret authenticate us there. Required.
	ClientID, ClientSecret string
	// AuthMethod is client_secret_basic, the default, or client_secret_post (RFC 6749 §2.3.1).
	AuthMethod string
	// Tokens says which tokens are asked about. Default IntrospectOpaque.
	Tokens IntrospectedTokens
	// CacheTTL is how long an active answer is used again, at most 30 s and never beyond exp: so long a revoked token
	// lives on. Default 0: each message asks.
	CacheTTL time.Duration
	// Timeout is for one question. Default 2 s, at most 10 s.
	Timeout time.Duration
}

// IntrospectedTokens are the tokens that an issuer is asked about.
type IntrospectedTokens string

const (
	// IntrospectOpaque are tokens that are not JWTs, and JWTs if the issuer publishes no keys to verify them with. Nothing
	// in an opaque token names its issuer, so only one issuer can have them.
	IntrospectOpaque IntrospectedTokens = "opaque"
	// IntrospectJWTs are JWTs that have been verified here: whether they still are active.
	IntrospectJWTs IntrospectedTokens = "jwt"
	// IntrospectAll are both.
	IntrospectAll IntrospectedTokens = "all"
)

func (t IntrospectedTokens) opaque() bool { return t == IntrospectOpaque || t == IntrospectAll }
func (t IntrospectedTokens) jwts() bool   { return t == IntrospectJWTs || t == IntrospectAll }

// The ways to authenticate at an introspection endpoint, by their registered names (RFC 8414 §2).
const (
	AuthBasic = "client_secret_basic"
	AuthPost  = "client_secret_post"
)

const (
	defaultAskTimeout = 2 * time.Second
	maxAskTimeout     = 10 * time.Second
	maxAnswerTTL      = 30 * time.Second
	maxAnswerBytes    = 256 << 10
	maxQuestions      = 64 // under way at one issuer
)

// complete checks the configuration and fills in the defaults.
func (c *IntrospectionConfig) complete(docs *fetcher) error {
	if c.Endpoint != "" {
		if _, err := docs.check(c.Endpoint); err != nil {
			return err
		}
	}
	if c.AuthMethod == "" {
		c.AuthMethod = AuthBasic
	}
	if c.Tokens == "" {
		c.Tokens = IntrospectOpaque
	}
	c.Timeout = orDefault(c.Timeout, defaultAskTimeout)
	switch {
	case c.ClientID == "" || c.ClientSecret == "":
		return errors.New("a client id and a client secret are required")
	case c.AuthMethod != AuthBasic && c.AuthMethod != AuthPost:
		return fmt.Errorf("client authentication method %q: want %s or %s", c.AuthMethod, AuthBasic, AuthPost)
	case !c.Tokens.opaque() && !c.Tokens.jwts():
		return fmt.Errorf("tokens %q: want %s, %s or %s", c.Tokens, IntrospectOpaque, IntrospectJWTs, IntrospectAll)
	case c.CacheTTL < 0 || c.CacheTTL > maxAnswerTTL:
		return fmt.Errorf("a cache TTL that is not between 0 and %v", maxAnswerTTL)
	case c.Timeout < 0 || c.Timeout > maxAskTimeout:
		return fmt.Errorf("a timeout that is not between 0 and %v", maxAskTimeout)
	}
	return nil
}

// introspector asks one issuer about tokens. Concurrent questions about one token are one; what a caller who gives up
// has asked goes on for the others.
type introspector struct {
	cfg     IntrospectionConfig
	client  *http.Client
	now     func() time.Time
	places  chan struct{}
	circuit circuit
	flights singleflight.Group

	questions, failures atomic.Uint64
}

func newIntrospector(cfg IntrospectionConfig, client *http.Client, now func() time.Time) *introspector {
	return &introspector{cfg: cfg, client: client, now: now, places: make(chan struct{}, maxQuestions)}
}

// introspect returns what the issuer says of a token; local is what is known of it when it is a JWT that has been
// verified here, else nil. ctx bounds the wait, not the question. round tells the time before the last Drop from the
// time after it, so that nobody gets an answer from before.
func (is *issuer) introspect(ctx context.Context, raw string, sum [sha256.Size]byte, round uint64, local *entry) (*entry, error) {
	key := fmt.Sprintf("%x %d", sum, round)
	flight := is.introspection.flights.DoChan(key, func() (any, error) {
		asked := is.now()
		answer, err := is.introspection.ask(is.lifetime(), is.introspectionEndpoint(), raw)
		if err != nil {
			return nil, err
		}
		return is.judge(answer, local, asked)
	})
	select {
	case r := <-flight:
		e, _ := r.Val.(*entry)
		return e, r.Err
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, context.Cause(ctx))
	}
}

// introspectionEndpoint is the configured one, else the published one. The issuer has been discovered.
func (is *issuer) introspectionEndpoint() string {
	if e := is.introspection.cfg.Endpoint; e != "" {
		return e
	}
	return is.meta.Load().introspection
}

// ask puts one question (RFC 7662 §2.1). Whatever keeps it from an answer is ErrUnavailable.
func (in *introspector) ask(ctx context.Context, endpoint, raw string) (map[string]any, error) {
	ctx, cancel := context.WithTimeout(ctx, in.cfg.Timeout)
	defer cancel()
	select {
	case in.places <- struct{}{}:
		defer func() { <-in.places }()
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: introspection: %w", ErrUnavailable, context.Cause(ctx))
	}
	if !in.circuit.admits(in.now()) {
		return nil, fmt.Errorf("%w: introspection has just failed", ErrUnavailable)
	}
	in.questions.Add(1)
	body, status, err := in.post(ctx, endpoint, raw)
	in.circuit.report(sick(status, err), in.now())
	var answer map[string]any
	if err == nil {
		answer, err = jose.Object(body)
	}
	if err != nil {
		in.failures.Add(1)
		return nil, fmt.Errorf("%w: introspection: %w", ErrUnavailable, err)
	}
	return answer, nil
}

// sick tells trouble of the server, or between us, from trouble with one token: a stranger's token must not be able to
// open the circuit.
func sick(status int, err error) bool {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusTooManyRequests:
		return true
	}
	return status >= 500 || status >= 300 && status < 400 || status == 0 && err != nil
}

// post returns the body of a 200 answer. status is 0 without an answer. The errors hold neither token nor secret.
func (in *introspector) post(ctx context.Context, endpoint, raw string) (body []byte, status int, err error) {
	form := url.Values{"token": {raw}, "token_type_hint": {"access_token"}}
	if in.cfg.AuthMethod == AuthPost {
		form.Set("client_id", in.cfg.ClientID)
		form.Set("client_secret", in.cfg.ClientSecret)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, 0, err
	}
	if in.cfg.AuthMethod == AuthBasic { // both are form-urlencoded first (RFC 6749 §2.3.1)
		req.SetBasicAuth(url.QueryEscape(in.cfg.ClientID), url.QueryEscape(in.cfg.ClientSecret))
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	resp, err := in.client.Do(req)
	if err != nil {
		return nil, 0, silence(ctx, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, resp.StatusCode, fmt.Errorf("status %d", resp.StatusCode)
	}
	body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswerBytes+1))
	switch {
	case err != nil:
		return nil, 0, silence(ctx, err)
	case len(body) > maxAnswerBytes:
		return nil, resp.StatusCode, errors.New("answer too large")
	}
	return body, resp.StatusCode, nil
}

// silence keeps of an error what the server has no hand in: net/http quotes what it cannot read of an answer, and that
// may be the token, or our secret, sent back.
func silence(ctx context.Context, err error) error {
	var network *net.OpError
	var untrusted *tls.CertificateVerificationError
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(err, &network):
		return network
	case errors.As(err, &untrusted):
		return errors.New("the server's certificate is not trusted")
	}
	return errors.New("no answer that can be read")
}
