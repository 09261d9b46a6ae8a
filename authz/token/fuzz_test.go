package token

import (
	"context"
	"crypto"
	"errors"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/lestrrat-go/jwx/v3/jwk"
	jwx "github.com/lestrrat-go/jwx/v3/jwt"

	"github.com/sallyport/sallyport/authz/token/internal/jose"
)

var fuzzNow = time.Unix(1_800_000_000, 0)

func fuzzClock() time.Time { return fuzzNow }

// fuzzKeys is a key set of several types. Signing with the RSA key is too slow to be fuzzed.
var fuzzKeys = sync.OnceValue(func() string {
	return text(jsonObject{"keys": []any{
		with(toJWK("k1", ecKey()), jsonObject{"alg": "ES256"}),
		with(toJWK("k2", ed25519Key()), jsonObject{"alg": "EdDSA"}),
		with(toJWK("k3", rsaKey()), jsonObject{"alg": "PS256"}),
	}})
})

// still returns a verifier that is ready without a background loop: one issuer with the fuzz keys, a clock that stands
// still, no network.
func still(change ...func(*Config)) *Verifier {
	cfg := configFor(newAuthority(issuerA))
	cfg.Now = fuzzClock
	cfg.HTTP = &http.Client{Transport: wire{}}
	cfg.CacheSize = -1
	for _, f := range change {
		f(&cfg)
	}
	v := must(New(cfg))
	set, _, err := parseKeySet([]byte(fuzzKeys()))
	is := v.issuers[0]
	is.meta.Store(&metadata{issuer: issuerA, jwksURI: issuerA + "/jwks", read: fuzzNow})
	is.keys.Store(&snapshot{must(set, err), fuzzNow})
	is.lastDemand = fuzzNow
	if err := v.names.add(issuerA, is); err != nil {
		panic(err)
	}
	return v
}

var fuzzVerifier = sync.OnceValue(func() *Verifier { return still() })

// reading is what two verifiers must agree on.
type reading struct {
	subject string
	expiry  int64
}

// golangJWT verifies with the parser of golang-jwt, as strictly as it can be told to.
func golangJWT(raw string) (reading, error) {
	claims := jwt.MapClaims{}
	keys := map[any]crypto.PublicKey{"k1": ecKey().Public(), "k2": ed25519Key().Public(), "k3": rsaKey().Public()}
	_, err := jwt.ParseWithClaims(raw, claims,
		func(t *jwt.Token) (any, error) {
			if k := keys[t.Header["kid"]]; k != nil {
				return k, nil
			}
			return nil, jwt.ErrTokenUnverifiable
		},
		jwt.WithValidMethods([]string{"ES256", "EdDSA", "PS256"}), jwt.WithIssuer(issuerA), jwt.WithAudience(audience),
		jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithStrictDecoding(), jwt.WithLeeway(defaultSkew),
		jwt.WithTimeFunc(fuzzClock),
	)
	if err != nil {
		return reading{}, err
	}
	subject, err := claims.GetSubject()
	exp, errExp := claims.GetExpirationTime()
	if err := errors.Join(err, errExp); err != nil {
		return reading{}, err
	}
	return reading{subject, exp.Unix()}, nil
}

var jwxKeys = sync.OnceValue(func() jwk.Set { return must(jwk.Parse([]byte(fuzzKeys()))) })

// lestrratJWX verifies with jwx, which shares no code with us: neither JOSE, nor JSON, nor claims.
func lestrratJWX(raw string) (reading, error) {
	t, err := jwx.Parse([]byte(raw), jwx.WithKeySet(jwxKeys()), jwx.WithIssuer(issuerA), jwx.WithAudience(audience),
		jwx.WithRequiredClaim("exp"), jwx.WithRequiredClaim("sub"), jwx.WithAcceptableSkew(defaultSkew),
		jwx.WithClock(jwx.ClockFunc(fuzzClock)))
	if err != nil {
		return reading{}, err
	}
	subject, _ := t.Subject()
	exp, _ := t.Expiration()
	return reading{subject, exp.Unix()}, nil
}

// FuzzVerify holds the verifier against two others (FZ-05): what we accept, both accept, and they read the same in it.
// We refuse more, so the other direction does not hold. With a signer, the input's header and payload get a good
// signature, so that the fuzzer reaches the claims.
func FuzzVerify(f *testing.F) {
	header, claims := text(baseHeader), `{"iss":"`+issuerA+`","sub":"alice","aud":"`+audience+`","exp":1800000100}`
	more := func(s string) string { return claims[:len(claims)-1] + "," + s + "}" }
	f.Add(header, claims, "", uint8(1))
	f.Add(header, claims, "AAAA", uint8(0))
	f.Add(`{"alg":"EdDSA","kid":"k2"}`, claims, "", uint8(2))
	f.Add(`{"alg":"EdDSA","kid":"k1"}`, claims, "", uint8(2))
	f.Add(`{"alg":"PS256","kid":"k3"}`, claims, "AAAA", uint8(0))
	f.Add(header, `{"iss":"`+issuerA+`","sub":"a","sub":"b","aud":["`+audience+`"],"exp":1800000000.5}`, "", uint8(1))
	f.Add(header, more(`"nbf":1800000015,"iat":1.8e9,"scope":"a b","act":{"sub":"x"}`), "", uint8(1))
	f.Add(header, more(`"nbf":1800000015.9,"jti":"j","client_id":"alice"`), "", uint8(1))
	f.Add(`{"alg":"none","kid":"k1"}`, claims, "", uint8(1))
	f.Add(`{"alg":"ES256","alg":"HS256","kid":"k1"}`, claims, "", uint8(1))
	f.Add(`{"alg":"ES256","kid":"k1","typ":"JWT","crit":[]}`, more(`"exp":"9"`), "", uint8(1))
	f.Add(header, claims, "", uint8(3))
	f.Fuzz(func(t *testing.T, header, claims, rest string, signer uint8) {
		raw := encode([]byte(header)) + "." + encode([]byte(claims)) + "." + rest
		switch signer % 4 {
		case 1:
			raw = sign("ES256", ecKey(), header, claims) + rest
		case 2:
			raw = sign("EdDSA", ed25519Key(), header, claims) + rest
		case 3:
			raw = sign("ES256", otherEC(), header, claims) + rest
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
		if id.Issuer != issuerA || id.Subject == "" {
			t.Fatalf("%+v", id)
		}
		ours := reading{id.Subject, id.Expiry.Unix()}
		for name, verify := range map[string]func(string) (reading, error){"golang-jwt": golangJWT, "jwx": lestrratJWX} {
			if theirs, err := verify(raw); err != nil || theirs != ours {
				t.Fatalf("we accept %+v, %s says %+v, %v", ours, name, theirs, err)
			}
		}
	})
}

// The seeds that are meant to pass do, here and in the references; otherwise the fuzz test would compare nothing.
func TestFuzzVerifierAccepts(t *testing.T) {
	claims := `{"iss":"` + issuerA + `","sub":"alice","aud":"` + audience + `","exp":1800000100}`
	for _, raw := range []string{
		sign("ES256", ecKey(), baseHeader, claims),
		sign("EdDSA", ed25519Key(), jsonObject{"alg": "EdDSA", "kid": "k2"}, claims),
		sign("PS256", rsaKey(), jsonObject{"alg": "PS256", "kid": "k3"}, claims),
	} {
		accepted(t, fuzzVerifier(), raw)
		if got, err := golangJWT(raw); err != nil || got != (reading{"alice", 1800000100}) {
			t.Errorf("golang-jwt: %+v, %v", got, err)
		}
		if got, err := lestrratJWX(raw); err != nil || got != (reading{"alice", 1800000100}) {
			t.Errorf("jwx: %+v, %v", got, err)
		}
	}
}

// FuzzKeySet: any document gives a bounded set of usable keys, or an error (FZ-06).
func FuzzKeySet(f *testing.F) {
	for _, k := range []jsonObject{toJWK("a", ecKey()), toJWK("b", rsaKey()), toJWK("c", ed25519Key())} {
		f.Add([]byte(text(jsonObject{"keys": []any{k, k, 1}})))
		f.Add([]byte(text(jsonObject{"keys": []any{k}})))
	}
	nothing := map[string]*jose.JWT{}
	for _, alg := range jose.Algorithms() {
		nothing[alg] = must(jose.Parse(encode([]byte(`{"alg":"`+alg+`"}`)) + "." + encode([]byte("{}")) + "." + encode(make([]byte, 64))))
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
			if kid == "" || !k.Equal(k) || len(k.Thumbprint()) != 43 {
				t.Fatalf("%q: %+v", kid, k)
			}
			permits := 0
			for alg, j := range nothing {
				if k.Permits(alg) {
					permits++
				}
				// A key of the wrong type would be an error of its own, and some methods panic on one.
				if k.Verifies(j) {
					t.Fatalf("%q verifies nothing", kid)
				}
			}
			if permits == 0 {
				t.Fatalf("%q is for nothing", kid)
			}
		}
	})
}
