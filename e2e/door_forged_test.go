package e2e

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Tokens that are not what they claim to be, and key sets that are not there, through the real Envoy.

// mint is an authorization server of which everything can be had wrong.
type mint struct {
	*httptest.Server
	t         *testing.T
	ec        *ecdsa.PrivateKey
	rsa, weak *rsa.PrivateKey
	fetches   atomic.Int64 // of the keys

	mu   sync.Mutex
	keys http.HandlerFunc
}

func newMint(t *testing.T) *mint {
	m := &mint{t: t}
	var err error
	m.ec, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	m.rsa, err = rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	m.weak, err = rsa.GenerateKey(rand.Reader, 1024)
	must(t, err)
	m.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/jwks" {
			w.Header().Set("Content-Type", "application/json")
			_, _ = fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q}`, m.URL, m.URL+"/jwks")
			return
		}
		m.fetches.Add(1)
		m.mu.Lock()
		keys := m.keys
		m.mu.Unlock()
		keys(w, r)
	}))
	t.Cleanup(func() {
		m.CloseClientConnections()
		m.Close()
	})
	m.publish(replyingWith(200, "application/json", m.set()))
	return m
}

func (m *mint) publish(h http.HandlerFunc) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.keys = h
}

// set is the key set, with kids that say what a key is. A secret has no business there, and short keys none anywhere.
func (m *mint) set() string {
	rsaKey := func(kid string, k *rsa.PublicKey) map[string]any {
		return map[string]any{"kty": "RSA", "kid": kid, "n": encoded(k.N.Bytes()), "e": encoded(big.NewInt(int64(k.E)).Bytes())}
	}
	ec := (&prover{world: &world{t: m.t}, key: m.ec}).jwk()
	ec["kid"] = "ec"
	text, err := json.Marshal(map[string]any{"keys": []any{ec, rsaKey("rsa", &m.rsa.PublicKey), rsaKey("weak", &m.weak.PublicKey),
		map[string]any{"kty": "oct", "kid": "oct", "k": encoded([]byte("secret"))}}})
	must(m.t, err)
	return string(text)
}

// signed makes a token of any header and payload; text goes in as it is, another signature replaces the good one.
func (m *mint) signed(alg string, key crypto.PrivateKey, header, payload any, signature ...[]byte) string {
	m.t.Helper()
	part := func(v any) string {
		if text, ok := v.(string); ok {
			return encoded([]byte(text))
		}
		text, err := json.Marshal(v)
		must(m.t, err)
		return encoded(text)
	}
	input := part(header) + "." + part(payload)
	if len(signature) > 0 {
		return input + "." + encoded(signature[0])
	}
	sig, err := jwt.GetSigningMethod(alg).Sign(input, key)
	must(m.t, err)
	return input + "." + encoded(sig)
}

// issuedBy replaces the authorization server.
func issuedBy(m *mint, refresh string) func(w *world) {
	return func(w *world) {
		w.edit("sallyport.yaml", "wellKnownEndpoint: "+w.provider.URL+"/", "wellKnownEndpoint: "+m.URL+"/")
		w.edit("sallyport.yaml", "refreshInterval: 24h", "refreshInterval: "+refresh)
		w.edit("sallyport.yaml", "            method: jwt\n", "            method: jwt\n            clients: ["+agentClient+"]\n            maxLifetime: 1h\n")
	}
}

const groupsRego = `package orchestrator

default result["allowed"] := false

result["allowed"] := true if input.request.mcp.tool.params.name == "echo"
result["allowed"] := true if {
	input.request.mcp.tool.params.name == "spend"
	"finance" in input.identity.claims.groups
	every actor in input.identity.actors { actor == "bookkeeper" }
}
`

func TestForgedTokens(t *testing.T) {
	m := newMint(t)
	fetched := atomic.Int64{}
	evil := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fetched.Add(1)
		_, _ = w.Write([]byte(m.set()))
	}))
	w := start(t, issuedBy(m, "24h"), func(w *world) { w.write("open.rego", groupsRego) })
	now := time.Now().Unix()
	header := map[string]any{"alg": "ES256", "kid": "ec", "typ": "at+jwt"}
	good := map[string]any{"iss": m.URL, "sub": user, "aud": w.url, "client_id": agentClient, "iat": now, "exp": now + 600, "jti": "j"}
	with := func(base map[string]any, changes ...any) map[string]any {
		out := maps.Clone(base)
		for i := 0; i < len(changes); i += 2 {
			if out[changes[i].(string)] = changes[i+1]; changes[i+1] == nil {
				delete(out, changes[i].(string))
			}
		}
		return out
	}
	sign := func(h, p any) string { return m.signed("ES256", m.ec, h, p) }
	saying := func(changes ...any) string { return sign(header, with(good, changes...)) }
	headed := func(changes ...any) string { return sign(with(header, changes...), good) }
	twice := func(member string) string {
		text, err := json.Marshal(good)
		must(t, err)
		return sign(header, string(text[:len(text)-1])+","+member+"}")
	}
	hs256 := func(kid string, secret []byte) string {
		unsigned := m.signed("", nil, with(header, "alg", "HS256", "kid", kid), good, nil)
		mac := hmac.New(sha256.New, secret)
		_, _ = mac.Write([]byte(strings.TrimSuffix(unsigned, ".")))
		return unsigned + encoded(mac.Sum(nil))
	}
	public, err := x509.MarshalPKIXPublicKey(&m.rsa.PublicKey)
	must(t, err)
	sum := sha256.Sum256([]byte("another message"))
	der, err := ecdsa.SignASN1(rand.Reader, m.ec, sum[:])
	must(t, err)
	valid := saying()
	input := valid[:strings.LastIndexByte(valid, '.')]
	sum = sha256.Sum256([]byte(input))
	r, s, err := ecdsa.Sign(rand.Reader, m.ec, sum[:])
	must(t, err)
	derOfThis, err := asn1.Marshal(struct{ R, S *big.Int }{r, s})
	must(t, err)
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	deep := strings.Repeat("[", 4000) + strings.Repeat("]", 4000)
	n := elliptic.P256().Params().N.Bytes()

	if a := w.send(request{token: valid, body: modern("open_echo", `{}`).body, header: modern("open_echo", `{}`).header}); a.RPC.Result == nil {
		t.Fatalf("the good one, from which all others differ: %s", a)
	}
	forged := map[string]string{
		"no algorithm":                        m.signed("", nil, with(header, "alg", "none"), good, nil),
		"HMAC without a key":                  hs256("ec", nil),
		"HMAC with the public key":            hs256("rsa", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})),
		"HMAC with a published secret":        hs256("oct", []byte("secret")),
		"RSA in the name of an EC key":        m.signed("RS256", m.rsa, with(header, "alg", "RS256"), good),
		"EC in the name of an RSA key":        sign(with(header, "kid", "rsa"), good),
		"a key that is too short":             m.signed("RS256", m.weak, with(header, "alg", "RS256", "kid", "weak"), good),
		"a signature of zeros":                m.signed("", nil, header, good, make([]byte, 64)),
		"a signature of the curve's order":    m.signed("", nil, header, good, append(n, n...)),
		"a signature in DER":                  input + "." + encoded(derOfThis),
		"the signature of another message":    input + "." + encoded(der),
		"another key":                         m.signed("ES256", other, header, good),
		"expired, and badly signed":           m.signed("ES256", other, header, with(good, "exp", now-60)),
		"kid a path":                          headed("kid", "../../dev/null"),
		"kid SQL":                             headed("kid", "' OR 1=1--"),
		"kid an address":                      headed("kid", evil),
		"kid of 10 KiB":                       headed("kid", strings.Repeat("k", 10<<10)),
		"kid a number":                        headed("kid", 1),
		"no kid":                              headed("kid", nil),
		"a key set in the header":             m.signed("ES256", other, with(header, "jku", evil, "x5u", evil), good),
		"a key in the header":                 m.signed("ES256", other, with(header, "jwk", (&prover{world: w, key: other}).jwk()), good),
		"crit, known":                         headed("crit", []string{"exp"}),
		"crit, unknown":                       headed("crit", []string{"x"}),
		"b64":                                 headed("b64", false, "crit", []string{"b64"}),
		"zip":                                 headed("zip", "DEF"),
		"encrypted":                           encoded([]byte(`{"alg":"dir","enc":"A256GCM","kid":"ec"}`)) + "..AAAA.AAAA.AAAA",
		"a password, a billion times hashed":  headed("alg", "PBES2-HS256+A128KW", "p2c", 1_000_000_000),
		"a token in a token":                  sign(with(header, "cty", "JWT"), valid),
		"JSON with two signatures":            `{"payload":"x","signatures":[{},{}]}`,
		"20 KiB":                              saying("x", strings.Repeat("x", 15<<10)),
		"thousands of dots":                   strings.Repeat(".", 20_000),
		"deep claims":                         sign(header, `{"iss":"`+m.URL+`","x":`+deep+`}`),
		"aud twice":                           twice(`"aud":"` + w.url + `"`),
		"sub twice":                           twice(`"sub":"root"`),
		"iss twice":                           twice(`"iss":"` + m.URL + `"`),
		"exp twice":                           twice(`"exp":99999999999`),
		"padding":                             valid + "==",
		"the other alphabet":                  strings.NewReplacer("-", "+", "_", "/").Replace(withBoth(sign, header, good)),
		"exp missing":                         saying("exp", nil),
		"expired":                             saying("exp", now-60, "iat", now-600),
		"a month":                             saying("exp", now+30*24*3600),
		"issued nobody knows when":            saying("iat", nil),
		"not valid yet":                       saying("nbf", now+600),
		"aud missing":                         saying("aud", nil),
		"aud empty":                           saying("aud", ""),
		"aud an empty list":                   saying("aud", []string{}),
		"aud a list in a list":                saying("aud", [][]string{{w.url}}),
		"aud an object":                       saying("aud", map[string]int{w.url: 1}),
		"aud a number":                        saying("aud", 5),
		"aud a list in text":                  saying("aud", w.url+" https://other.example/"),
		"aud of another":                      saying("aud", "https://other.example/"),
		"iss missing":                         saying("iss", nil),
		"iss with a slash":                    saying("iss", m.URL+"/"),
		"iss in capitals":                     saying("iss", strings.ToUpper(m.URL)),
		"iss https":                           saying("iss", strings.Replace(m.URL, "http:", "https:", 1)),
		"iss with dots":                       saying("iss", m.URL+"/realms/a/../b"),
		"iss in other letters":                saying("iss", strings.Replace(m.URL, "http", "httр", 1)), // a Cyrillic r
		"an ID token":                         sign(with(header, "typ", "JWT"), with(good, "nonce", "n", "at_hash", "h")),
		"a logout token":                      sign(with(header, "typ", "logout+jwt"), with(good, "events", map[string]any{})),
		"a logout token without a type":       sign(with(header, "typ", nil), with(good, "events", map[string]any{})),
		"a client's assertion":                sign(with(header, "typ", "client-authentication+jwt"), good),
		"a DPoP proof":                        headed("typ", "dpop+jwt"),
		"a transaction token":                 headed("typ", "txntoken+jwt"),
		"a refresh token":                     saying("typ", "Refresh"),
		"no client":                           saying("client_id", nil),
		"another client":                      saying("client_id", "another"),
		"another client behind":               saying("azp", "another"),
		"sub missing":                         saying("sub", nil),
		"sub empty":                           saying("sub", ""),
		"sub blank":                           saying("sub", "  "),
		"sub with NUL":                        saying("sub", "ann\x00"),
		"sub of two lines":                    saying("sub", "ann\r\nX-User: root"),
		"sub of 10 KiB":                       saying("sub", strings.Repeat("a", 10<<10)),
		"bound to a DPoP key":                 saying("cnf", map[string]any{"jkt": encoded(sum[:])}),
		"bound to a certificate":              saying("cnf", map[string]any{"x5t#S256": encoded(sum[:])}),
		"bound to something":                  saying("cnf", map[string]any{}),
		"a chain of actors that does not end": saying("act", actors(11)),
		"a chain of actors in another form":   saying("act", []string{"a"}),
		"nothing":                             ".",
		"not a token":                         "x.y.z",
	}
	fetches := m.fetches.Load()
	var secrets []string
	for name, token := range forged {
		call := modern("open_echo", `{}`)
		call.token = token
		a := w.send(call)
		if c := a.Header.Get("WWW-Authenticate"); a.Status != 401 || a.RPC.Error == nil || !strings.Contains(c, `error="invalid_token"`) {
			t.Errorf("%s: %s %q", name, a, c)
		}
		if at := strings.LastIndexByte(token, '.'); len(token)-at > 40 {
			secrets = append(secrets, token)
		}
	}
	if extra := m.fetches.Load() - fetches; extra > 1 {
		t.Errorf("unknown kids caused %d fetches", extra)
	}
	if fetched.Load() != 0 {
		t.Errorf("keys were fetched from where a token said: %d times", fetched.Load())
	}
	call := modern("open_echo", `{}`)
	call.token = strings.Repeat(".", 100_000)
	if a := w.send(call); a.Status != 431 && a.Status != 401 {
		t.Errorf("a hundred thousand dots: %s", a)
	}
	if n := len(w.open.calls()); n != 1 {
		t.Errorf("%d calls arrived", n)
	}
	w.keepsSecrets(append(secrets, valid)...)

	// What is good as a token is still the policy's to judge.
	for name, test := range map[string]struct {
		token string
		ok    bool
	}{
		"groups":                {saying("groups", []string{"finance"}), true},
		"groups kept elsewhere": {saying("_claim_names", map[string]any{"groups": "src1"}, "_claim_sources", map[string]any{"src1": map[string]any{"endpoint": evil}}), false},
		"an actor":              {saying("groups", []string{"finance"}, "act", map[string]any{"sub": "bookkeeper"}), true},
		"an actor behind it":    {saying("groups", []string{"finance"}, "act", map[string]any{"sub": "bookkeeper", "act": map[string]any{"sub": "mallory"}}), false},
	} {
		r := modern("open_spend", `{}`)
		r.token = test.token
		if a := w.send(r); (a.RPC.Result != nil) != test.ok {
			t.Errorf("%s: %s", name, a)
		}
	}
	if fetched.Load() != 0 {
		t.Error("claims were fetched from where a token said")
	}

	// A flood of unknown kids costs the issuer next to nothing, and the others no call.
	fetches = m.fetches.Load()
	var flood sync.WaitGroup
	for n := range 4 {
		flood.Go(func() {
			for k := range 50 {
				r := modern("open_echo", `{}`)
				r.token = headed("kid", fmt.Sprint("unknown-", n, "-", k))
				if a, err := w.try(r); err != nil || a.Status != 401 {
					t.Errorf("in the flood: %s, %v", a, err)
				}
			}
		})
	}
	flood.Wait()
	if extra := m.fetches.Load() - fetches; extra > 2 {
		t.Errorf("the flood caused %d fetches", extra)
	}
	call.token = valid
	if a := w.send(call); a.RPC.Result == nil {
		t.Errorf("after the flood: %s", a)
	}
}

// withBoth is a token whose text has both characters in which the alphabets differ.
func withBoth(sign func(h, p any) string, header, payload any) string {
	for {
		if token := sign(header, payload); strings.Contains(token, "-") && strings.Contains(token, "_") {
			return token
		}
	}
}

// actors is a chain of so many (RFC 8693 §4.1).
func actors(n int) map[string]any {
	if n == 1 {
		return map[string]any{"sub": "a"}
	}
	return map[string]any{"sub": "a", "act": actors(n - 1)}
}

// Keys that were withdrawn verify nothing, at once after the next reading; a key set that cannot be read changes nothing
// for the keys that are known, and opens nothing for others.
func TestKeysThatGo(t *testing.T) {
	m := newMint(t)
	w := start(t, issuedBy(m, "1s"))
	now := time.Now().Unix()
	call := modern("open_echo", `{}`)
	call.token = m.signed("ES256", m.ec, map[string]any{"alg": "ES256", "kid": "ec"},
		map[string]any{"iss": m.URL, "sub": user, "aud": w.url, "client_id": agentClient, "iat": now, "exp": now + 600})
	unknown := call
	unknown.token = m.signed("ES256", m.ec, map[string]any{"alg": "ES256", "kid": "new"}, map[string]any{"iss": m.URL, "sub": user,
		"aud": w.url, "client_id": agentClient, "iat": now, "exp": now + 600})
	for _, broken := range []struct {
		name   string
		answer http.HandlerFunc
	}{
		{"no keys", replyingWith(200, "application/json", `{"keys":[]}`)},
		{"500", replyingWith(500, "application/json", m.set())},
		{"elsewhere", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://169.254.169.254/latest", http.StatusFound)
		}},
	} {
		m.publish(broken.answer)
		read := m.fetches.Load()
		await(t, "the keys to be read again: "+broken.name, func() bool { return m.fetches.Load() > read })
		if a := w.send(call); a.RPC.Result == nil {
			t.Errorf("%s: a known key: %s", broken.name, a)
		}
		if a := w.send(unknown); a.Status != 401 && a.Status != 503 {
			t.Errorf("%s: an unknown key: %s", broken.name, a)
		}
	}
	reached := len(w.open.calls())
	m.publish(replyingWith(200, "application/json", strings.Replace(m.set(), `"kid":"ec"`, `"kid":"new"`, 1)))
	await(t, "the withdrawn key to die", func() bool { return w.send(call).Status == http.StatusUnauthorized })
	if a := w.send(unknown); a.RPC.Result == nil {
		t.Errorf("the new key: %s", a)
	}
	if n := len(w.open.calls()); n < reached+1 {
		t.Errorf("%d calls arrived", n)
	}
}
