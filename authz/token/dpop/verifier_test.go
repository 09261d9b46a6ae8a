package dpop

import (
	"context"
	"crypto"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/authz/token/internal/josetest"
)

type jsonObject = josetest.Object

const (
	accessToken = "an.access.token"
	method      = "POST"
	endpoint    = "https://gateway.example/mcp"
)

var (
	now = time.Unix(1_800_000_000, 0)

	nonceKey = []byte("a nonce key that is long enough, for once")
)

func clock() time.Time { return now }

// holder is who holds the key of the token.
func holder() crypto.Signer { return josetest.EC() }

func hashOf(token string) string {
	sum := sha256.Sum256([]byte(token))
	return josetest.Encode(sum[:])
}

// The proof that every test starts from.
func baseHeader() jsonObject {
	return jsonObject{"typ": "dpop+jwt", "alg": "ES256", "jwk": josetest.JWK("", holder())}
}

func baseClaims() jsonObject {
	return jsonObject{"jti": "j-1", "htm": method, "htu": endpoint, "iat": now.Unix(), "ath": hashOf(accessToken)}
}

func proofWith(header, claims jsonObject) string {
	return josetest.Sign("ES256", holder(), josetest.With(baseHeader(), header), josetest.With(baseClaims(), claims))
}

// requestWith is the request that every test starts from, with these proofs.
func requestWith(proofs ...string) Request {
	return Request{Proofs: proofs, Method: method, URL: endpoint, Token: accessToken, Thumbprint: josetest.Thumbprint(holder())}
}

func newVerifier(t testing.TB, cfg Config) *Verifier {
	t.Helper()
	if cfg.Now == nil {
		cfg.Now = clock
	}
	v, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// check demands the outcome want, and an error without the proof or the token in it.
func check(t *testing.T, v *Verifier, r Request, want error) {
	t.Helper()
	err := v.Verify(t.Context(), r)
	if !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
	if err == nil {
		return
	}
	for _, proof := range r.Proofs {
		for part := range strings.SplitSeq(proof, ".") {
			if len(part) >= 12 && strings.Contains(err.Error(), part) {
				t.Errorf("the error quotes the proof: %v", err)
			}
		}
	}
	if strings.Contains(err.Error(), r.Token) || len(err.Error()) > 256 {
		t.Errorf("an error of %d bytes: %v", len(err.Error()), err)
	}
}

func TestAccepts(t *testing.T) {
	longJTI := strings.Repeat("j", maxJTIBytes)
	for name, tt := range map[string]struct{ header, claims jsonObject }{
		"as it is":              {nil, nil},
		"typ with prefix":       {jsonObject{"typ": "application/DPoP+JWT"}, nil},
		"kid beside the key":    {jsonObject{"kid": "mine"}, nil},
		"alg in the key":        {jsonObject{"jwk": josetest.With(josetest.JWK("k", holder()), jsonObject{"alg": "ES256", "use": "sig"})}, nil},
		"a long jti":            {nil, jsonObject{"jti": longJTI}},
		"iat a minute ago":      {nil, jsonObject{"iat": now.Unix() - 60}},
		"iat a minute ahead":    {nil, jsonObject{"iat": now.Unix() + 60}},
		"iat with a fraction":   {nil, jsonObject{"iat": float64(now.Unix()) + 0.5}},
		"a nonce nobody wanted": {nil, jsonObject{"nonce": "n"}},
		"htu with a query":      {nil, jsonObject{"htu": endpoint + "?a=b"}},
		"htu with a fragment":   {nil, jsonObject{"htu": endpoint + "#a"}},
		"htu in capitals":       {nil, jsonObject{"htu": "HTTPS://Gateway.Example/mcp"}},
		"htu with its port":     {nil, jsonObject{"htu": "https://gateway.example:443/mcp"}},
		"htu with escapes":      {nil, jsonObject{"htu": "https://gateway.example/%6dc%70"}},
		"claims of one's own":   {nil, jsonObject{"iss": "me", "exp": 1}},
	} {
		t.Run(name, func(t *testing.T) {
			check(t, newVerifier(t, Config{}), requestWith(proofWith(tt.header, tt.claims)), nil)
		})
	}
}

func TestAlgorithms(t *testing.T) {
	signers := josetest.Signers()
	if len(Algorithms()) != len(signers) {
		t.Fatalf("%d algorithms tested of %v", len(signers), Algorithms())
	}
	for alg, signer := range signers {
		header := jsonObject{"typ": "dpop+jwt", "alg": alg, "jwk": josetest.JWK("", signer)}
		r := requestWith(josetest.Sign(alg, signer, header, baseClaims()))
		r.Thumbprint = josetest.Thumbprint(signer)
		if err := newVerifier(t, Config{}).Verify(t.Context(), r); err != nil {
			t.Errorf("%s: %v", alg, err)
		}
	}
}

func TestRefuses(t *testing.T) {
	good := proofWith(nil, nil)
	signed, _, _ := strings.Cut(good, ".")
	other := josetest.OtherEC()
	hs256 := func(secret []byte) string {
		input := josetest.Encode([]byte(josetest.Text(josetest.With(baseHeader(), jsonObject{"alg": "HS256"})))) + "." +
			josetest.Encode([]byte(josetest.Text(baseClaims())))
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(input))
		return input + "." + josetest.Encode(mac.Sum(nil))
	}
	raw := func(header, claims any) string { return josetest.Sign("ES256", holder(), header, claims) }
	for name, proofs := range map[string][]string{
		"no proof":                     nil,
		"an empty proof":               {""},
		"two proofs":                   {good, proofWith(nil, jsonObject{"jti": "j-2"})},
		"two in one field":             {good + ", " + good},
		"not a JWT":                    {"proof"},
		"two segments":                 {signed + "." + signed},
		"padded":                       {good + "="},
		"too long":                     {proofWith(nil, jsonObject{"x": strings.Repeat("x", MaxProofBytes)})},
		"typ missing":                  {proofWith(jsonObject{"typ": nil}, nil)},
		"typ of an access token":       {proofWith(jsonObject{"typ": "at+jwt"}, nil)},
		"typ JWT":                      {proofWith(jsonObject{"typ": "JWT"}, nil)},
		"alg none":                     {proofWith(jsonObject{"alg": "none"}, nil)},
		"alg HS256, secret the key":    {hs256([]byte(josetest.Text(josetest.JWK("", holder()))))},
		"alg HS256, no secret":         {hs256(nil)},
		"alg of another key type":      {proofWith(jsonObject{"alg": "RS256"}, nil)},
		"alg of another curve":         {proofWith(jsonObject{"alg": "ES384"}, nil)},
		"crit":                         {proofWith(jsonObject{"crit": []string{"jwk"}}, nil)},
		"duplicate names in header":    {raw(`{"typ":"dpop+jwt","alg":"ES256","alg":"none","jwk":{}}`, baseClaims())},
		"jwk missing":                  {proofWith(jsonObject{"jwk": nil, "kid": "mine"}, nil)},
		"jwk a string":                 {proofWith(jsonObject{"jwk": josetest.Text(josetest.JWK("", holder()))}, nil)},
		"jwk a list":                   {proofWith(jsonObject{"jwk": []any{josetest.JWK("", holder())}}, nil)},
		"jwk with the private half":    {proofWith(jsonObject{"jwk": josetest.With(josetest.JWK("", holder()), jsonObject{"d": "AAAA"})}, nil)},
		"jwk with an RSA prime":        {proofWith(jsonObject{"jwk": josetest.With(josetest.JWK("", holder()), jsonObject{"p": "AAAA"})}, nil)},
		"jwk a secret":                 {proofWith(jsonObject{"jwk": jsonObject{"kty": "oct", "k": "AAAA"}}, nil)},
		"signed by somebody else":      {josetest.Sign("ES256", other, baseHeader(), baseClaims())},
		"signature of another":         {good[:strings.LastIndexByte(good, '.')+1] + josetest.Encode(make([]byte, 64))},
		"duplicate names in claims":    {raw(baseHeader(), strings.Replace(josetest.Text(baseClaims()), `{`, `{"jti":"other",`, 1))},
		"jti missing":                  {proofWith(nil, jsonObject{"jti": nil})},
		"jti empty":                    {proofWith(nil, jsonObject{"jti": ""})},
		"jti a number":                 {proofWith(nil, jsonObject{"jti": 1})},
		"jti too long":                 {proofWith(nil, jsonObject{"jti": strings.Repeat("j", maxJTIBytes+1)})},
		"htm missing":                  {proofWith(nil, jsonObject{"htm": nil})},
		"htm of another":               {proofWith(nil, jsonObject{"htm": "GET"})},
		"htm in lower case":            {proofWith(nil, jsonObject{"htm": "post"})},
		"htu missing":                  {proofWith(nil, jsonObject{"htu": nil})},
		"htu a list":                   {proofWith(nil, jsonObject{"htu": []string{endpoint}})},
		"htu of another host":          {proofWith(nil, jsonObject{"htu": "https://evil.example/mcp"})},
		"htu of another path":          {proofWith(nil, jsonObject{"htu": endpoint + "/"})},
		"htu in another case":          {proofWith(nil, jsonObject{"htu": "https://gateway.example/MCP"})},
		"htu over http":                {proofWith(nil, jsonObject{"htu": "http://gateway.example/mcp"})},
		"htu of another port":          {proofWith(nil, jsonObject{"htu": "https://gateway.example:8443/mcp"})},
		"htu with the port of http":    {proofWith(nil, jsonObject{"htu": "https://gateway.example:80/mcp"})},
		"htu relative":                 {proofWith(nil, jsonObject{"htu": "/mcp"})},
		"htu with a user":              {proofWith(nil, jsonObject{"htu": "https://me@gateway.example/mcp"})},
		"htu with dots":                {proofWith(nil, jsonObject{"htu": "https://gateway.example/x/../mcp"})},
		"htu with an escaped slash":    {proofWith(nil, jsonObject{"htu": "https://gateway.example%2fmcp"})},
		"htu too long":                 {proofWith(nil, jsonObject{"htu": endpoint + "?" + strings.Repeat("x", maxURLBytes)})},
		"iat missing":                  {proofWith(nil, jsonObject{"iat": nil})},
		"iat a string":                 {proofWith(nil, jsonObject{"iat": "1800000000"})},
		"iat null":                     {proofWith(nil, jsonObject{"iat": json.RawMessage("null")})},
		"iat beyond time":              {proofWith(nil, jsonObject{"iat": 1e18})},
		"iat too old":                  {proofWith(nil, jsonObject{"iat": now.Unix() - 61})},
		"iat too far ahead":            {proofWith(nil, jsonObject{"iat": now.Unix() + 61})},
		"ath missing":                  {proofWith(nil, jsonObject{"ath": nil})},
		"ath of another token":         {proofWith(nil, jsonObject{"ath": hashOf("another.access.token")})},
		"ath padded":                   {proofWith(nil, jsonObject{"ath": hashOf(accessToken) + "="})},
		"ath of the token, not hashed": {proofWith(nil, jsonObject{"ath": josetest.Encode([]byte(accessToken))})},
	} {
		t.Run(name, func(t *testing.T) {
			v := newVerifier(t, Config{})
			check(t, v, requestWith(proofs...), ErrProof)
			if m := v.replays.(*Memory); m.held != 0 {
				t.Error("a refused proof is remembered")
			}
		})
	}
}

// The thumbprint alone decides whose proof it is.
func TestOtherKeys(t *testing.T) {
	other := josetest.OtherEC()
	foreign := jsonObject{"jwk": josetest.JWK("", other)}
	check(t, newVerifier(t, Config{}), requestWith(proofWith(foreign, nil)), ErrKey)
	check(t, newVerifier(t, Config{}), requestWith(josetest.Sign("ES256", other, josetest.With(baseHeader(), foreign), baseClaims())), ErrKey)
	r := requestWith(proofWith(nil, nil))
	for _, thumbprint := range []string{"", strings.ToLower(r.Thumbprint), r.Thumbprint + "="} {
		r.Thumbprint = thumbprint
		check(t, newVerifier(t, Config{}), r, ErrKey)
	}
}

func TestReplay(t *testing.T) {
	at := now
	v := newVerifier(t, Config{Now: func() time.Time { return at }})
	r := requestWith(proofWith(nil, nil))
	check(t, v, r, nil)
	check(t, v, r, ErrReplay)
	check(t, v, requestWith(proofWith(nil, jsonObject{"iat": now.Unix() + 1})), ErrReplay) // the same jti, in another slot
	check(t, v, requestWith(proofWith(nil, jsonObject{"jti": "j-2"})), nil)

	again := r
	again.Relayed = true
	check(t, v, again, nil)
	again.Method = "GET"
	check(t, v, again, ErrProof)

	fresh := requestWith(proofWith(nil, jsonObject{"jti": "j-3"}))
	fresh.Relayed = true
	check(t, v, fresh, nil)
	fresh.Relayed = false
	check(t, v, fresh, nil) // being relayed has not used it up

	later := requestWith(proofWith(nil, jsonObject{"iat": now.Unix() + 17, "jti": "j-17"}))
	check(t, v, later, nil)
	for range 121 { // at no second of their windows, nor after
		at = at.Add(time.Second)
		for _, r := range []Request{r, later} {
			if err := v.Verify(t.Context(), r); !errors.Is(err, ErrReplay) && !errors.Is(err, ErrProof) {
				t.Fatalf("after %v: %v", at.Sub(now), err)
			}
		}
	}
}

func TestConcurrentReplay(t *testing.T) {
	v := newVerifier(t, Config{})
	r := requestWith(proofWith(nil, nil))
	var mu sync.Mutex
	accepted := 0
	var callers sync.WaitGroup
	for range 16 {
		callers.Go(func() {
			err := v.Verify(t.Context(), r)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				accepted++
			} else if !errors.Is(err, ErrReplay) {
				t.Error(err)
			}
		})
	}
	callers.Wait()
	if accepted != 1 {
		t.Errorf("accepted %d times", accepted)
	}
}

// store is a Replays that fails, or remembers what it was asked.
type store struct {
	err   error
	asked []string
}

func (s *store) Use(_ context.Context, thumbprint, jti string, until time.Time) (bool, error) {
	s.asked = append(s.asked, fmt.Sprint(thumbprint, " ", jti, " ", until.Unix()))
	return s.err == nil, s.err
}

func TestSharedStore(t *testing.T) {
	s := &store{}
	v := newVerifier(t, Config{Replays: s, Window: 2 * time.Minute})
	check(t, v, requestWith(proofWith(nil, nil)), nil)
	want := fmt.Sprint(josetest.Thumbprint(holder()), " j-1 ", now.Unix()+120)
	if len(s.asked) != 1 || s.asked[0] != want {
		t.Errorf("asked %q, want %q", s.asked, want)
	}
	check(t, v, requestWith(proofWith(nil, jsonObject{"htm": "GET"})), ErrProof)
	if len(s.asked) != 1 {
		t.Error("asked about a proof that is no good")
	}
	s.err = errors.New("connection refused")
	check(t, v, requestWith(proofWith(nil, nil)), ErrUnavailable)
}

func TestNonce(t *testing.T) {
	at := now
	tick := func() time.Time { return at }
	v := newVerifier(t, Config{NonceKey: nonceKey, Now: tick, NonceLifetime: time.Minute, Window: 10 * time.Minute})
	replica := newVerifier(t, Config{NonceKey: nonceKey, Now: func() time.Time { return at.Add(-30 * time.Second) }})
	runaway := newVerifier(t, Config{NonceKey: nonceKey, Now: func() time.Time { return at.Add(11 * time.Minute) }})
	stranger := newVerifier(t, Config{NonceKey: append([]byte{'x'}, nonceKey...), Now: tick})
	id := 0
	request := func(nonce any) Request {
		id++
		return requestWith(proofWith(nil, jsonObject{"nonce": nonce, "jti": fmt.Sprint(id)}))
	}
	asks := func(r Request) string {
		t.Helper()
		check(t, v, r, ErrNonce)
		var e *NonceError
		if !errors.As(v.Verify(t.Context(), r), &e) || len(e.Nonce) != 32 {
			t.Fatalf("no nonce in %v", e)
		}
		return e.Nonce
	}
	issued := asks(request(nil))
	check(t, v, request(issued), nil)
	check(t, v, request(issued), nil) // it is good for several proofs
	check(t, v, request(v.Nonce()), nil)
	check(t, replica, request(issued), nil) // whose clock is behind
	check(t, v, request(replica.Nonce()), nil)
	for _, nonce := range []any{"", "x", 5, stranger.Nonce(), runaway.Nonce(), issued + "A", issued[:31], strings.ToUpper(issued), strings.Repeat("A", 32)} {
		asks(request(nonce))
	}
	check(t, v, requestWith(proofWith(nil, jsonObject{"htm": "GET"})), ErrProof) // a bad proof is not told the nonce
	at = at.Add(time.Minute)
	check(t, v, request(issued), nil)
	at = at.Add(time.Second)
	check(t, v, request(asks(request(issued))), nil)
	if len(v.replays.(*Memory).slots) == 0 {
		t.Error("proofs with a nonce are not remembered")
	}
}

func TestNoNonce(t *testing.T) {
	if n := newVerifier(t, Config{}).Nonce(); n != "" {
		t.Errorf("a nonce without a key: %s", n)
	}
}

func TestNewRefuses(t *testing.T) {
	for name, cfg := range map[string]Config{
		"a short window":       {Window: time.Millisecond},
		"a long window":        {Window: time.Hour},
		"a negative window":    {Window: -1},
		"a short key":          {NonceKey: []byte("0123456789")},
		"an empty key":         {NonceKey: []byte{}},
		"a long-lived nonce":   {NonceKey: nonceKey, NonceLifetime: 2 * time.Hour},
		"a negative lifetime":  {NonceKey: nonceKey, NonceLifetime: -1},
		"a nonce for an epoch": {NonceLifetime: time.Hour + 1},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		} else if len(cfg.NonceKey) > 0 && strings.Contains(err.Error(), string(cfg.NonceKey)) {
			t.Errorf("%s: the error quotes the key", name)
		}
	}
}

func TestDefaults(t *testing.T) {
	v, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	if v.window != time.Minute || v.nonces != nil || v.replays.(*Memory).most != DefaultMemory || time.Since(v.now()) > time.Minute {
		t.Errorf("%+v", v)
	}
}

func BenchmarkVerify(b *testing.B) {
	for _, alg := range []string{"ES256", "EdDSA", "RS256"} {
		b.Run(alg, func(b *testing.B) {
			signer := josetest.Signers()[alg]
			v := newVerifier(b, Config{NonceKey: nonceKey, Replays: &store{}})
			header := jsonObject{"typ": "dpop+jwt", "alg": alg, "jwk": josetest.JWK("", signer)}
			r := requestWith(josetest.Sign(alg, signer, header, josetest.With(baseClaims(), jsonObject{"nonce": v.Nonce()})))
			r.Thumbprint = josetest.Thumbprint(signer)
			b.ReportAllocs()
			for b.Loop() {
				if err := v.Verify(context.Background(), r); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
