// Package exchange is an OAuth 2.0 Token Exchange client (RFC 8693): one call,
// one fresh token.
//
// [Client.Exchange] trades the token of a caller for a token that is good for
// one audience, the scopes asked for and a few seconds. Nothing is cached and
// identical calls are not merged: every call is its own request, so that every
// token has one use. Only the client's own actor token is kept while it lives.
//
// No answer is believed. A token is returned only if everything that can be
// read of it keeps what was asked: its issuer, subject, audience, scopes,
// lifetime and actor (see [Request]). The signature is not verified, for the
// token comes straight from its issuer over TLS (the reasoning of OpenID
// Connect Core §3.1.3.7, item 6); the upstream that receives it verifies it.
//
// Every failure is an [*Error], whose Kind says whose failure it is. There is no
// fall-back: on failure there is no token. Nothing is retried either, except
// that net/http sends a request again which met a pooled connection that the
// server was just closing. There is no circuit breaker: Timeout bounds each
// call, and the first call after an outage succeeds.
package exchange

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"
)

// Config says which authorization server is asked, and as whom.
type Config struct {
	// WellKnown is the URL of the authorization server's metadata, RFC 8414 or
	// OpenID Connect Discovery 1.0. https, or http on loopback. It names both
	// the issuer that tokens must have and the token endpoint.
	WellKnown string

	// ClientID and ClientSecret authenticate this client at the token endpoint.
	// Both are required: token exchange is for confidential clients here.
	ClientID, ClientSecret string

	// AuthMethod is client_secret_basic or client_secret_post. Empty picks from
	// the metadata's token_endpoint_auth_methods_supported, basic if offered or
	// if the metadata says nothing.
	AuthMethod string

	// TTLParameter names the form parameter that carries the lifetime asked for,
	// in seconds. RFC 8693 has none; the default is requested_expires_in. "-"
	// sends none; the lifetime of the answer is checked all the same.
	TTLParameter string

	// Timeout is the deadline of one Exchange, connecting and the actor token
	// included, and of one metadata fetch. Default 5 s.
	Timeout time.Duration

	// TLS is the client's TLS configuration: trusted roots, client certificates.
	// Versions below 1.2 are never spoken, whatever it says, and one that skips
	// verification is refused: tokens are trusted for where they came from.
	TLS *tls.Config

	// AllowPlainHTTP permits http:// to hosts other than loopback. The client
	// secret and every token then cross the network in the clear.
	AllowPlainHTTP bool

	// AllowNetworks are non-public networks (private, loopback, shared address
	// space) in which a token endpoint may be whose host is not that of
	// WellKnown. The host in WellKnown is the operator's own word and may be in
	// any of them. Link-local addresses, where clouds keep their metadata
	// services, are never dialled.
	AllowNetworks []netip.Prefix

	Now func() time.Time // default time.Now
	Log *slog.Logger     // default: no log
}

const (
	defaultTimeout      = 5 * time.Second
	defaultTTLParameter = "requested_expires_in"
	noTTLParameter      = "-"

	authBasic = "client_secret_basic"
	authPost  = "client_secret_post"
)

// Client exchanges tokens at one authorization server. It is safe for
// concurrent use.
type Client struct {
	cfg   Config
	http  *http.Client
	meta  atomic.Pointer[metadata]
	actor actorTokens
}

// New checks the configuration. It touches no network: see [Client.Run].
func New(cfg Config) (*Client, error) {
	if err := cfg.complete(); err != nil {
		return nil, fmt.Errorf("exchange: %w", err)
	}
	wellKnown, err := checkURL(cfg.WellKnown, cfg.AllowPlainHTTP)
	if err != nil {
		return nil, fmt.Errorf("exchange: well-known URL: %w", err)
	}
	return &Client{cfg: cfg, http: newHTTPClient(cfg, wellKnown.Hostname())}, nil
}

func (cfg *Config) complete() error {
	switch {
	case cfg.ClientID == "":
		return errors.New("a client id is required")
	case cfg.ClientSecret == "":
		return errors.New("a client secret is required")
	case cfg.AuthMethod != "" && cfg.AuthMethod != authBasic && cfg.AuthMethod != authPost:
		return fmt.Errorf("client authentication method %q: want %s or %s", cfg.AuthMethod, authBasic, authPost)
	case cfg.Timeout < 0:
		return errors.New("a negative timeout")
	case cfg.TLS != nil && cfg.TLS.InsecureSkipVerify:
		return errors.New("a TLS configuration that does not verify the server")
	case reserved[cfg.TTLParameter]:
		return fmt.Errorf("the lifetime parameter cannot be %q", cfg.TTLParameter)
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	if cfg.TTLParameter == "" {
		cfg.TTLParameter = defaultTTLParameter
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Ready reports whether the metadata has been fetched, that is, whether
// Exchange has an endpoint to ask.
func (c *Client) Ready() bool { return c.meta.Load() != nil }

// Exchange asks for one token (RFC 8693 §2.1) and checks it against r. It needs
// [Client.Run] to have fetched the metadata; until then it is Unavailable. The
// error is always an [*Error].
func (c *Client) Exchange(ctx context.Context, r Request) (*Token, error) {
	token, err := c.exchange(ctx, r)
	if err != nil {
		return nil, err
	}
	return token, nil
}

func (c *Client) exchange(ctx context.Context, r Request) (*Token, *Error) {
	if err := r.validate(); err != nil {
		return nil, &Error{Kind: Refused, Code: "invalid_request", Err: fmt.Errorf("%w: %w", ErrRequest, err)}
	}
	md := c.meta.Load()
	if md == nil {
		return nil, &Error{Kind: Unavailable, Err: ErrNoMetadata}
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()

	var actor actorToken
	if r.Delegation && r.ActorToken {
		var err *Error
		if actor, err = c.actor.get(ctx, c, md); err != nil {
			return nil, err
		}
	}
	body, err := c.post(ctx, md, r.form(c.cfg.TTLParameter, actor.value), r.SubjectToken, actor.value)
	if err != nil {
		if err.Kind == Refused {
			// It may be the actor token that was refused, revoked before its
			// time; the next call then brings a new one.
			c.actor.forget(actor)
		}
		return nil, err
	}
	token, bad := check(body, r, expectation{
		issuer: md.issuer, now: c.cfg.Now(), actors: []string{c.cfg.ClientID, actor.subject},
	})
	if bad != nil {
		return nil, &Error{Kind: Unacceptable, Status: http.StatusOK, Err: bad}
	}
	return token, nil
}
