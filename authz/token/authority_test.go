package token

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/authz/token/internal/josetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	issuerA  = "https://as.example"
	issuerB  = "https://other.example/tenants/b"
	audience = "https://gateway.example/"
)

type jsonObject = josetest.Object

var (
	rsaKey, ecKey, otherRSA, otherEC = josetest.RSA, josetest.EC, josetest.OtherRSA, josetest.OtherEC
	ed25519Key                       = josetest.Ed25519

	toJWK, with, sign, encode, text = josetest.JWK, josetest.With, josetest.Sign, josetest.Encode, josetest.Text
)

func must[T any](v T, err error) T { return josetest.Must(v, err) }

// authority is an authorization server: it publishes metadata and keys, and counts who asks.
type authority struct {
	issuer string
	fetches,
	discoveries atomic.Int64

	mu      sync.Mutex
	meta    any              // default: issuer and jwks_uri
	keys    []any            // of the JWK Set
	answer  http.HandlerFunc // replaces the key set's
	control string           // Cache-Control of the key set
}

func newAuthority(issuer string, keys ...any) *authority {
	return &authority{issuer: issuer, keys: keys}
}

func (a *authority) wellKnown() string { return a.issuer + "/.well-known/openid-configuration" }

func (a *authority) jwksURI() string { return a.issuer + "/jwks" }

func (a *authority) publish(keys ...any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.keys, a.answer = keys, nil
}

func (a *authority) respond(h http.HandlerFunc) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answer = h
}

func (a *authority) setMeta(v any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.meta = v
}

func (a *authority) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	meta, answer, body := a.meta, a.answer, text(jsonObject{"keys": a.keys})
	w.Header().Set("Cache-Control", a.control)
	a.mu.Unlock()
	if jwks, _ := url.Parse(a.jwksURI()); r.URL.Path != jwks.Path {
		a.discoveries.Add(1)
		if meta == nil {
			meta = jsonObject{"issuer": a.issuer, "jwks_uri": a.jwksURI()}
		}
		fmt.Fprint(w, text(meta))
		return
	}
	a.fetches.Add(1)
	if answer != nil {
		answer(w, r)
		return
	}
	fmt.Fprint(w, body)
}

// wire brings requests to handlers by host, without sockets, so that a bubble's clock can move while one waits.
type wire map[string]http.Handler

func (t wire) RoundTrip(r *http.Request) (*http.Response, error) {
	h, ok := t[r.URL.Host]
	if !ok {
		return nil, fmt.Errorf("no host %s", r.URL.Host)
	}
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, r)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return rec.Result(), nil
}

func connect(as ...*authority) *http.Client {
	t := wire{}
	for _, a := range as {
		t[must(url.Parse(a.issuer)).Host] = a
	}
	return &http.Client{Transport: t}
}

func configFor(as ...*authority) Config {
	cfg := Config{HTTP: connect(as...)}
	for _, a := range as {
		cfg.Issuers = append(cfg.Issuers, IssuerConfig{WellKnown: a.wellKnown(), Audiences: []string{audience}})
	}
	return cfg
}

// start runs a verifier until the test ends, and returns once it waits for the clock. Only within a bubble.
func start(t *testing.T, cfg Config) *Verifier {
	t.Helper()
	v, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	go v.Run(t.Context())
	synctest.Wait()
	return v
}

// advance lets the bubble's clock run.
func advance(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// The token that every test starts from.
var baseHeader = jsonObject{"alg": "ES256", "typ": "at+jwt", "kid": "k1"}

func baseClaims() jsonObject {
	return jsonObject{
		"iss": issuerA, "sub": "alice", "aud": audience, "client_id": "agent", "scope": "tools:read tools:call",
		"jti": "j-1", "iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(),
	}
}

// tokenWith signs the base token with changes, by ecKey as k1.
func tokenWith(header, payload jsonObject) string {
	return sign("ES256", ecKey(), with(baseHeader, header), with(baseClaims(), payload))
}
