package sts

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/sallyport/sallyport/exchange"
)

// MinterConfig says in whose name tokens are minted.
type MinterConfig struct {
	// Issuer is the `iss`: an http or https URL without query, fragment or slash at
	// the end. Those who verify find the keys by it, see [Minter.Handler].
	Issuer string

	// ClientID is what this party is called: the `client_id`, and the acting party
	// (`act`) under delegation.
	ClientID string

	// Keys sign. Several minters may share them.
	Keys *KeySet

	// MaxLifetime bounds every token, default 1 hour, and at most the Overlap of
	// Keys without the skew of clocks (1 min). Where no lifetime is asked for it is
	// one minute.
	MaxLifetime time.Duration

	Now  func() time.Time // default time.Now
	Rand io.Reader        // token ids; default crypto/rand
}

const (
	defaultMintLife = time.Minute
	mintSkew        = time.Minute
	maxMinted       = 16 << 10
	maxMintedActors = 10
)

// Minter signs tokens itself where an [exchange.Client] asks a server for them:
// for the same [exchange.Request] it returns the same kind of [exchange.Token],
// without the network. It trusts the request: Subject, Agent, Act and the rest
// must be what a verified token says. It is safe for concurrent use.
//
// A minted token is one of RFC 9068, with the subject unchanged, exactly the
// scopes asked for, the audience (TokenAudience, else Audience, else Resource)
// and, under delegation, this party as the actor, before it the agent, before
// that who acted for the agent. It outlives neither the lifetime asked for nor the
// agent's token. It is a bearer token: a confirmation (`cnf`) of the agent's token
// is not carried over, since the upstream cannot be shown the agent's proof.
type Minter struct {
	cfg      MinterConfig
	prefix   []byte // of the claims, up to the subject
	client   []byte // the client id, quoted
	path     string // of the issuer
	metadata []byte
	minted   atomic.Uint64
}

// NewMinter checks the configuration.
func NewMinter(cfg MinterConfig) (*Minter, error) {
	orDefault(&cfg.MaxLifetime, time.Hour)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.Reader
	}
	issuer, err := parseIssuer(cfg.Issuer)
	switch {
	case err != nil:
		return nil, fmt.Errorf("sts: minter: %w", err)
	case cfg.ClientID == "":
		return nil, errors.New("sts: minter: a client id is required")
	case cfg.Keys == nil:
		return nil, errors.New("sts: minter: keys are required")
	case cfg.MaxLifetime < time.Second:
		return nil, errors.New("sts: minter: a lifetime under one second")
	case cfg.MaxLifetime+mintSkew > cfg.Keys.cfg.Overlap:
		return nil, fmt.Errorf("sts: minter: tokens may live for %s, but keys are published for only %s after they have signed", cfg.MaxLifetime, cfg.Keys.cfg.Overlap)
	}
	m := &Minter{cfg: cfg, path: issuer.Path}
	if m.prefix, err = jsontext.AppendQuote([]byte(`{"iss":`), cfg.Issuer); err == nil {
		m.client, err = jsontext.AppendQuote(nil, cfg.ClientID)
	}
	if err != nil {
		return nil, errors.New("sts: minter: issuer or client id is not UTF-8")
	}
	if m.metadata, err = mintMetadata(cfg.Issuer); err != nil {
		return nil, fmt.Errorf("sts: minter: %w", err)
	}
	return m, nil
}

// Minted counts the tokens.
func (m *Minter) Minted() uint64 { return m.minted.Load() }

// Exchange mints one token. The error is always an [*exchange.Error]: Refused for
// a request that cannot be met, Unavailable if the key cannot sign. ActorToken and
// what would loosen a check have no meaning here.
func (m *Minter) Exchange(ctx context.Context, r exchange.Request) (*exchange.Token, error) {
	if err := ctx.Err(); err != nil {
		return nil, &exchange.Error{Kind: exchange.Unavailable, Err: err}
	}
	if err := r.Validate(); err != nil {
		return nil, err
	}
	if r.SubjectClaim != "" {
		return nil, refused("the subject of a minted token is that of the agent's token")
	}
	token, claims, err := m.plan(r)
	if err != nil {
		return nil, err
	}
	if token.Value, err = m.sign(claims); err != nil {
		return nil, err
	}
	m.minted.Add(1)
	return token, nil
}

// ClientCredentials mints a token of this party's own: its subject is the client
// id, and it names no actor. See [exchange.Client.ClientCredentials].
func (m *Minter) ClientCredentials(ctx context.Context, r exchange.Request) (*exchange.Token, error) {
	r = r.OwnRequest()
	r.SubjectToken, r.Subject = "-", m.cfg.ClientID // there is no agent
	return m.Exchange(ctx, r)
}

func refused(why string) *exchange.Error {
	return &exchange.Error{Kind: exchange.Refused, Code: "invalid_request", Err: fmt.Errorf("%w: %s", exchange.ErrRequest, why)}
}

// plan settles what the token says.
func (m *Minter) plan(r exchange.Request) (*exchange.Token, *claims, error) {
	now := m.cfg.Now()
	iat := now.Unix()
	exp := iat + int64(m.life(r)/time.Second)
	if end := r.SubjectExpiry; !end.IsZero() {
		exp = min(exp, end.Unix())
	}
	if exp <= iat {
		return nil, nil, refused("the agent's token is about to expire")
	}
	c := &claims{subject: r.Subject, audience: audience(r), scopes: r.Scopes, iat: iat, exp: exp, delegated: r.Delegation}
	t := &exchange.Token{
		Audience: []string{c.audience}, Scopes: slices.Clone(r.Scopes), Issuer: m.cfg.Issuer, Subject: r.Subject,
		ExpiresIn: time.Duration(exp-iat) * time.Second, Expiry: time.Unix(exp, 0),
	}
	if r.Delegation {
		var err error
		if c.act, t.Actors, err = m.actors(r); err != nil {
			return nil, nil, err
		}
	}
	if _, err := io.ReadFull(m.cfg.Rand, c.id[:]); err != nil {
		return nil, nil, &exchange.Error{Kind: exchange.Unavailable, Err: errNoID}
	}
	t.JTI = b64(c.id[:])
	return t, c, nil
}

var errNoID = errors.New("no randomness for a token id")

func (m *Minter) life(r exchange.Request) time.Duration {
	asked := defaultMintLife
	if r.Lifetime > 0 {
		asked = max(r.Lifetime, time.Second)
	}
	return min(asked, m.cfg.MaxLifetime)
}

func audience(r exchange.Request) string {
	for _, a := range []string{r.TokenAudience, r.Audience} {
		if a != "" {
			return a
		}
	}
	return r.Resource
}

// chain is who acted before (RFC 8693 §4.1).
type chain struct {
	Subject  string `json:"sub"`
	ClientID string `json:"client_id"`
	Act      *chain `json:"act"`
}

func (c *chain) name() string {
	if c.Subject != "" {
		return c.Subject
	}
	return c.ClientID
}

// actors nests this party, the agent and those before it. The agent is left out
// where the chain begins with it, and where it speaks for itself.
func (m *Minter) actors(r exchange.Request) (act [2][]byte, names []string, err error) {
	var before *chain
	if len(r.Act) > 0 {
		if json.Unmarshal(r.Act, &before) != nil {
			return act, nil, refused("the agent's act is malformed")
		}
		if before != nil {
			act[1] = r.Act
		}
	}
	names = append(make([]string, 0, 2), m.cfg.ClientID)
	if r.Agent != "" && r.Agent != r.Subject && (before == nil || before.Subject != r.Agent && before.ClientID != r.Agent) {
		names = append(names, r.Agent)
		if act[0], err = jsontext.AppendQuote(nil, r.Agent); err != nil {
			return act, nil, refused("the agent's client id is not UTF-8")
		}
	}
	for ; before != nil; before = before.Act {
		names = append(names, before.name())
	}
	if len(names) > maxMintedActors {
		return act, nil, refused("too many actors")
	}
	return act, names, nil
}

func (m *Minter) sign(c *claims) (string, error) {
	b := buffers.Get().(*buffer)
	defer b.free()
	var err error
	if b.json, err = m.appendClaims(b.json[:0], c); err != nil {
		return "", refused("the subject or the audience is not UTF-8")
	}
	key := m.cfg.Keys.now().current
	b.token = appendToken(b.token[:0], key.header, b.json)
	if b.token, err = key.sign(b.token); err != nil {
		return "", &exchange.Error{Kind: exchange.Unavailable, Err: errors.New("the key cannot sign")}
	}
	if len(b.token) > maxMinted {
		return "", refused("the token would be too long")
	}
	return string(b.token), nil
}
