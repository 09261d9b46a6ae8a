package sts

import (
	"crypto"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"regexp"
	"slices"
	"time"
)

// Config is the whole authorization server.
type Config struct {
	// Issuer is the issuer identifier and the base of every endpoint: an http or
	// https URL without query, fragment or slash at the end. Its path, if any, is
	// served too, and inserted into the metadata's path (RFC 8414 §3.1).
	Issuer string

	// AllowNonLoopback permits an Issuer on a host other than loopback. Everyone
	// who reaches that host can then sign in as any of Users.
	AllowNonLoopback bool

	// Key signs the tokens: ECDSA on P-256, see [ParseKey]. Default: a new key,
	// which makes the tokens of an earlier process worthless.
	Key crypto.Signer

	// Users can be signed in. /authorize takes the one whose Subject is the
	// login_hint, or the first.
	Users []User

	// Clients are registered beforehand. Only they can use client credentials or
	// exchange tokens.
	Clients []Client

	// Scopes may be granted to clients that register themselves, and are
	// published as scopes_supported.
	Scopes []string

	// DefaultAudience is the audience of a token for which no resource was named.
	// Required.
	DefaultAudience string

	// Resources are the audiences, besides DefaultAudience, that a client may ask
	// for by itself (RFC 8707). What only an exchange may reach does not belong
	// here.
	Resources []string

	// AccessTokenLifetime is how long access tokens live, default 10 minutes;
	// RefreshTokenLifetime how long an unused refresh token does, default 24
	// hours. Both in whole seconds.
	AccessTokenLifetime, RefreshTokenLifetime time.Duration

	// AllowWiderScopes lets an exchanged token carry scopes that the subject token
	// lacks, within those of the client that exchanges. By default a token never
	// gets wider on its way. Where agents' tokens only say who calls, and each
	// tool's scopes are a matter between gateway and upstream, it has to.
	AllowWiderScopes bool

	// MaxRegistrations bounds the clients that register themselves, default 1000.
	// They are forgotten after 24 hours.
	MaxRegistrations int

	Now  func() time.Time // default time.Now
	Rand io.Reader        // codes, refresh tokens, ids; default crypto/rand
	Log  *slog.Logger     // default: no log
}

// User is somebody who can be signed in.
type User struct {
	// Subject is the `sub` of the user's tokens.
	Subject string
	// Claims are put into every token of the user, the exchanged ones too, except
	// may_act (RFC 8693 §4.4), which ends with the first exchange. Claims that the
	// server sets itself cannot be set here.
	Claims map[string]any
	// Scopes are the most that a client may be granted on behalf of the user.
	Scopes []string
}

// Client is a client known beforehand.
type Client struct {
	ID string
	// Secret authenticates the client, by client_secret_basic or
	// client_secret_post. There is none by default; only a Public client goes
	// without.
	Secret string
	// Public clients have no secret and may use only the authorization code and
	// refresh token grants.
	Public bool
	// Redirects are its redirect URIs, matched exactly, but for the port of a
	// loopback URI (RFC 8252 §7.3).
	Redirects []string
	// Grants are the grant types it may use, see the Grant constants.
	Grants []string
	// Scopes are the most that any of its tokens may carry.
	Scopes []string
	// Exchange rules the token exchange grant.
	Exchange Exchange
}

// Exchange says which tokens a client may exchange for which (RFC 8693).
type Exchange struct {
	// Audiences are the targets it may ask for, by audience or resource.
	Audiences []string
	// SubjectAudiences are the audiences whose tokens it may exchange, usually
	// its own URL: a token that was meant for somebody else is not its to use.
	SubjectAudiences []string
	// Impersonate issues tokens without `act`: the upstream cannot tell the client
	// from the subject.
	Impersonate bool
	// MaxLifetime bounds the tokens it gets. Default: AccessTokenLifetime.
	MaxLifetime time.Duration
}

// Grant types.
const (
	GrantCode        = "authorization_code"
	GrantRefresh     = "refresh_token"
	GrantCredentials = "client_credentials"
	GrantExchange    = "urn:ietf:params:oauth:grant-type:token-exchange"
)

const (
	defaultAccessLife  = 10 * time.Minute
	defaultRefreshLife = 24 * time.Hour
	codeLife           = time.Minute
	maxForm            = 64 << 10
	maxGrants          = 10_000 // codes, and refresh tokens, that are alive at once
)

var plainPath = regexp.MustCompile(`^(/[A-Za-z0-9._~-]+)*$`)

func (cfg *Config) complete() (*url.URL, error) {
	issuer, err := parseIssuer(cfg.Issuer)
	switch {
	case err != nil:
		return nil, err
	case !cfg.AllowNonLoopback && !isLoopback(issuer.Hostname()):
		return nil, fmt.Errorf("the issuer's host %q is not loopback; this server signs in anybody who reaches it", issuer.Hostname())
	case cfg.DefaultAudience == "":
		return nil, errors.New("a default audience is required")
	case cfg.AccessTokenLifetime < 0 || cfg.RefreshTokenLifetime < 0 || cfg.MaxRegistrations < 0:
		return nil, errors.New("a negative limit")
	case !allScopes(cfg.Scopes):
		return nil, errors.New("not a scope")
	}
	orDefault(&cfg.AccessTokenLifetime, defaultAccessLife)
	orDefault(&cfg.RefreshTokenLifetime, defaultRefreshLife)
	orDefault(&cfg.MaxRegistrations, 1000)
	if cfg.AccessTokenLifetime < time.Second || cfg.RefreshTokenLifetime < time.Second {
		return nil, errors.New("a lifetime under one second")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.Reader
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return issuer, nil
}

func orDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// ownClaims are set by the server alone.
var ownClaims = []string{"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "client_id", "scope", "scp", "act"}

func (s *Server) addUser(u User) error {
	switch _, known := s.users[u.Subject]; {
	case u.Subject == "":
		return errors.New("no subject")
	case known:
		return fmt.Errorf("%q twice", u.Subject)
	case !allScopes(u.Scopes):
		return errors.New("not a scope")
	}
	for _, name := range ownClaims {
		if _, set := u.Claims[name]; set {
			return fmt.Errorf("the claim %q is the server's", name)
		}
	}
	if _, err := json.Marshal(u.Claims); err != nil {
		return fmt.Errorf("claims: %w", err)
	}
	s.users[u.Subject] = u
	return nil
}

func (s *Server) addClient(c Client) error {
	orDefault(&c.Exchange.MaxLifetime, s.cfg.AccessTokenLifetime)
	switch _, known := s.clients[c.ID]; {
	case c.ID == "":
		return errors.New("no id")
	case known:
		return fmt.Errorf("%q twice", c.ID)
	case s.users[c.ID].Subject != "":
		return fmt.Errorf("%q is a user; its tokens could not be told apart", c.ID)
	case c.Public && c.Secret != "":
		return fmt.Errorf("%q is public and has a secret", c.ID)
	case !c.Public && c.Secret == "":
		return fmt.Errorf("%q has no secret; there is no default", c.ID)
	case len(c.Grants) == 0:
		return fmt.Errorf("%q has no grant", c.ID)
	case !allScopes(c.Scopes):
		return fmt.Errorf("%q: not a scope", c.ID)
	case c.Exchange.MaxLifetime < time.Second:
		return fmt.Errorf("%q: a lifetime under one second", c.ID)
	case slices.Contains(c.Grants, GrantCode) && len(c.Redirects) == 0:
		return fmt.Errorf("%q signs users in but has no redirect URI", c.ID)
	case slices.Contains(c.Grants, GrantExchange) && (len(c.Exchange.Audiences) == 0 || len(c.Exchange.SubjectAudiences) == 0):
		return fmt.Errorf("%q exchanges tokens but has no audiences to take them from or to", c.ID)
	}
	for _, g := range c.Grants {
		switch {
		case g != GrantCode && g != GrantRefresh && g != GrantCredentials && g != GrantExchange:
			return fmt.Errorf("%q: unknown grant %q", c.ID, g)
		case c.Public && (g == GrantCredentials || g == GrantExchange):
			return fmt.Errorf("%q is public, so it cannot use %s", c.ID, g)
		}
	}
	for _, r := range c.Redirects {
		if err := checkRedirect(r); err != nil {
			return fmt.Errorf("%q: %w", c.ID, err)
		}
	}
	s.clients[c.ID] = c
	return nil
}
