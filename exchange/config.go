package exchange

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"time"
)

// Config says which authorization server is asked, as whom, and how it is
// treated when it fails. WellKnown, ClientID and what the way of authentication
// needs are required. Everything else may be left out: then there is no circuit
// breaker, no limit of our own to parallel requests, and nothing is reused.
type Config struct {
	// WellKnown is the URL of the authorization server's metadata, RFC 8414 or
	// OpenID Connect Discovery 1.0. https, or http on loopback. It names both
	// the issuer that tokens must have and the token endpoint.
	WellKnown string

	// ClientID names this client at the token endpoint.
	ClientID string

	// ClientSecret authenticates it there by client_secret_basic or
	// client_secret_post (RFC 6749 §2.3.1). Public clients cannot exchange tokens
	// here: one of ClientSecret, Key and a client certificate is required.
	ClientSecret string

	// Key authenticates it by private_key_jwt (RFC 7523 §2.2) instead.
	Key *ClientKey

	// AuthMethod is one of the Auth constants. Empty: private_key_jwt if there is
	// a Key; otherwise the metadata's token_endpoint_auth_methods_supported picks
	// how the secret is sent, basic if it is offered or if nothing is said. The
	// two ways of mutual TLS (RFC 8705 §2) are never picked: TLS may hold a client
	// certificate for other reasons. They need one, and use the token endpoint in
	// mtls_endpoint_aliases if the metadata has it.
	AuthMethod string

	// TTLParameter names the form parameter that carries the lifetime asked for,
	// in seconds. RFC 8693 has none; the default is requested_expires_in. "-"
	// sends none; the lifetime of the answer is checked all the same.
	TTLParameter string

	// AdditionalParameters are sent with every exchange, for servers that want
	// more than RFC 8693 has. At most 32. They cannot be parameters that the grant
	// or the authentication of the client sets.
	AdditionalParameters map[string]string

	// OnBehalfOf asks with the grant of Microsoft Entra ID, which has no RFC 8693:
	// the agent's token is the assertion of a jwt-bearer grant (RFC 7523 §2.1)
	// with requested_token_use=on_behalf_of. See [Request.Scopes] for what the
	// scopes then are. There is no actor, and no lifetime can be asked for.
	OnBehalfOf bool

	// TokenIssuer is the `iss` that tokens have. Default: the metadata's issuer.
	// Entra ID's first-version tokens have another, https://sts.windows.net/….
	TokenIssuer string

	// Timeout is the deadline of one Exchange, connecting and the actor token
	// included, and of one metadata fetch. Default 5 s.
	Timeout time.Duration

	// Breaker leaves a failing server alone for a while. Default: it does not.
	Breaker Breaker

	// MaxConcurrent bounds the requests that are at the token endpoint at once. A
	// call that gets no place within MaxWait (default 100 ms) fails with
	// [ErrBusy]. Default: as many as there may be connections, 256, and a call
	// waits for one as long as Timeout lets it.
	MaxConcurrent int
	MaxWait       time.Duration

	// Reuse gives a token out again, for at most this long, to calls that ask for
	// the very same thing in the name of the same token of the agent, which then
	// share one exchange. Default 0: every call is an exchange of its own, and
	// every token has one use. See [Client.Drop].
	Reuse time.Duration

	// ReuseEntries bounds the tokens that are kept for it, default 4096; the one
	// longest unused goes first. Each may be 16 KiB long.
	ReuseEntries int

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
	defaultMaxWait      = 100 * time.Millisecond
	defaultReuseEntries = 4096

	maxParameters, maxParameterName, maxParameterValue = 32, 128, 4096
)

func (cfg *Config) complete() error {
	switch {
	case cfg.ClientID == "":
		return errors.New("a client id is required")
	case cfg.Timeout < 0:
		return errors.New("a negative timeout")
	case cfg.MaxConcurrent < 0 || cfg.MaxWait < 0 || cfg.Reuse < 0 || cfg.ReuseEntries < 0:
		return errors.New("a negative limit")
	case cfg.TLS != nil && cfg.TLS.InsecureSkipVerify:
		return errors.New("a TLS configuration that does not verify the server")
	case reserved[strings.ToLower(cfg.TTLParameter)]:
		return fmt.Errorf("the lifetime parameter cannot be %q", cfg.TTLParameter)
	}
	if err := cfg.completeAuth(); err != nil {
		return err
	}
	if err := cfg.Breaker.complete(); err != nil {
		return err
	}
	orDefault(&cfg.Timeout, defaultTimeout)
	orDefault(&cfg.TTLParameter, defaultTTLParameter)
	orDefault(&cfg.MaxWait, defaultMaxWait)
	orDefault(&cfg.ReuseEntries, defaultReuseEntries)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return cfg.checkParameters()
}

func orDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// reserved are the parameters that are set here: by the grants (RFC 8693 §2.1,
// RFC 8707 §2, RFC 7523 §2.1) and by the authentication of the client (RFC 6749
// §2.3.1, RFC 7521 §4.2).
var reserved = map[string]bool{
	"grant_type": true, "subject_token": true, "subject_token_type": true, "requested_token_type": true,
	"audience": true, "scope": true, "actor_token": true, "actor_token_type": true, "resource": true,
	"assertion": true, "requested_token_use": true,
	"client_id": true, "client_secret": true, "client_assertion": true, "client_assertion_type": true,
}

// checkParameters compares without regard to case, as some servers read names so.
func (cfg *Config) checkParameters() error {
	if len(cfg.AdditionalParameters) > maxParameters {
		return fmt.Errorf("more than %d additional parameters", maxParameters)
	}
	for name, value := range cfg.AdditionalParameters {
		switch {
		case !visibleASCII(name) || len(name) > maxParameterName:
			return fmt.Errorf("%.32q cannot be an additional parameter", name)
		case reserved[strings.ToLower(name)], strings.EqualFold(name, cfg.TTLParameter):
			return fmt.Errorf("the additional parameter %q is one that the exchange sets itself", name)
		case len(value) > maxParameterValue:
			return fmt.Errorf("the additional parameter %q is longer than %d bytes", name, maxParameterValue)
		}
	}
	return nil
}
