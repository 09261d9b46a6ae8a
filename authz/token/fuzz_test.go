package token

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

var fuzzNow = time.Unix(1_800_000_000, 0)

// fuzzVerifier is ready without a background loop: one issuer, ecKey as k1, a clock that stands still, no network.
var fuzzVerifier = sync.OnceValue(func() *Verifier {
	cfg := configFor(newAuthority(issuerA))
	cfg.Now = func() time.Time { return fuzzNow }
	cfg.HTTP = &http.Client{Transport: wire{}}
	cfg.CacheSize = -1
	v := must(New(cfg))
	set, _, err := parseKeySet([]byte(text(jsonObject{"keys": []any{toJWK("k1", ecKey())}})))
	is := v.issuers[0]
	is.meta.Store(&metadata{issuer: issuerA, jwksURI: issuerA + "/jwks", read: fuzzNow})
	is.keys.Store(&snapshot{must(set, err), fuzzNow})
	is.lastDemand = fuzzNow
	if err := v.names.add(issuerA, is); err != nil {
		panic(err)
	}
	return v
})

// reference verifies with the parser of golang-jwt, as strictly as it can be told to.
func reference(raw string) (jwt.MapClaims, error) {
	claims := jwt.MapClaims{}
	_, err := jwt.ParseWithClaims(raw, claims,
		func(t *jwt.Token) (any, error) {
			if t.Header["kid"] != "k1" {
				return nil, jwt.ErrTokenUnverifiable
			}
			return ecKey().Public(), nil
		},
		jwt.WithValidMethods([]string{"ES256"}), jwt.WithIssuer(issuerA), jwt.WithAudience(audience),
		jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithStrictDecoding(), jwt.WithLeeway(defaultSkew),
		jwt.WithTimeFunc(func() time.Time { return fuzzNow }),
	)
	return claims, err
}

// FuzzVerify holds the verifier against another implementation: what we accept, it accepts too, and it reads the same
// subject. We refuse more, so the other direction does not hold. With signed, the input's header and payload get a good
// signature, so that the fuzzer reaches the claims.
func FuzzVerify(f *testing.F) {
	header, claims := text(baseHeader), `{"iss":"`+issuerA+`","sub":"alice","aud":"`+audience+`","exp":1800000100}`
	f.Add(header, claims, "", true)
	f.Add(header, claims, "AAAA", false)
	f.Add(header, `{"iss":"`+issuerA+`","sub":"a","sub":"b","aud":["`+audience+`"],"exp":1800000000.5}`, "", true)
	f.Add(header, claims[:len(claims)-1]+`,"nbf":1800000015,"iat":1.8e9,"scope":"a b","act":{"sub":"x"}}`, "", true)
	f.Add(`{"alg":"none","kid":"k1"}`, claims, "", true)
	f.Add(`{"alg":"ES256","alg":"HS256","kid":"k1"}`, claims, "", true)
	f.Add(`{"alg":"ES256","kid":"k1","typ":"JWT","crit":[]}`, claims[:len(claims)-1]+`,"exp":"9"}`, "", true)
	f.Fuzz(func(t *testing.T, header, claims, rest string, signed bool) {
		raw := encode([]byte(header)) + "." + encode([]byte(claims)) + "." + rest
		if signed {
			raw = sign("ES256", ecKey(), header, claims) + rest
		}
		id, err := fuzzVerifier().Verify(context.Background(), raw)
		if (id == nil) == (err == nil) {
			t.Fatalf("identity %v with error %v", id, err)
		}
		if err != nil {
			if len(err.Error()) > 512 {
				t.Fatalf("an error of %d bytes", len(err.Error()))
			}
			return
		}
		theirs, err := reference(raw)
		if err != nil {
			t.Fatalf("golang-jwt refuses what we accept: %v", err)
		}
		if theirs["sub"] != id.Subject || id.Subject == "" || id.Issuer != issuerA {
			t.Fatalf("they read %v, we %+v", theirs, id)
		}
	})
}

// The seeds that are meant to pass do, here and in the reference; otherwise the fuzz test would compare nothing.
func TestFuzzVerifierAccepts(t *testing.T) {
	raw := sign("ES256", ecKey(), baseHeader, `{"iss":"`+issuerA+`","sub":"alice","aud":"`+audience+`","exp":1800000100}`)
	accepted(t, fuzzVerifier(), raw)
	if _, err := reference(raw); err != nil {
		t.Error(err)
	}
}

// FuzzKeySet: any document gives a bounded set of usable keys, or an error (FZ-06).
func FuzzKeySet(f *testing.F) {
	for _, k := range []jsonObject{toJWK("a", ecKey()), toJWK("b", rsaKey()), toJWK("c", ed25519Key())} {
		f.Add([]byte(text(jsonObject{"keys": []any{k, k, 1}})))
		f.Add([]byte(text(jsonObject{"keys": []any{k}})))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		set, _, err := parseKeySet(body)
		if (set == nil) == (err == nil) {
			t.Fatalf("set %v with error %v", set, err)
		}
		if err != nil {
			return
		}
		if len(set.keys) == 0 || len(set.keys) > maxKeys {
			t.Fatalf("%d keys", len(set.keys))
		}
		for kid, k := range set.keys {
			if kid == "" || len(k.algs) == 0 || !k.equal(k) {
				t.Fatalf("%q: %+v", kid, k)
			}
			for _, alg := range k.algs {
				if methods[alg] == nil {
					t.Fatalf("%q permits %q", kid, alg)
				}
				// A key of the wrong type would be an error of its own, and some methods panic on one.
				if err := methods[alg].Verify("x.y", make([]byte, 64), k.public); err == nil {
					t.Fatalf("%q verifies nothing", kid)
				}
			}
		}
	})
}
