package dpop

import (
	"context"
	"encoding/json"
	"net/url"
	"strings"
	"testing"

	"github.com/lestrrat-go/jwx/v3/jwk"
	"github.com/lestrrat-go/jwx/v3/jws"

	"github.com/sallyport/sallyport/authz/token/internal/josetest"
)

// reference checks a proof with jwx and encoding/json: signed by the key that it brings along, which is the holder's
// public one, and for the request.
func reference(t *testing.T, raw string) {
	t.Helper()
	m, err := jws.Parse([]byte(raw), jws.WithCompact())
	if err != nil {
		t.Fatalf("jwx does not read it: %v", err)
	}
	head := m.Signatures()[0].ProtectedHeaders()
	key, _ := head.JWK()
	alg, _ := head.Algorithm()
	private, err := jwk.IsPrivateKey(key)
	if err != nil || private {
		t.Fatalf("jwx says private %v, %v", private, err)
	}
	payload, err := jws.Verify([]byte(raw), jws.WithKey(alg, key))
	if err != nil {
		t.Fatalf("jwx refuses the signature: %v", err)
	}
	own, err := jwk.Import(holder().Public())
	if err != nil || !jwk.Equal(key, own) {
		t.Fatalf("jwx reads another key, %v", err)
	}
	claims := map[string]any{}
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	iat, _ := claims["iat"].(float64)
	age := float64(now.Unix()) - iat
	if claims["jti"] == "" || claims["htm"] != method || claims["ath"] != hashOf(accessToken) || age > 60 || age <= -61 {
		t.Fatalf("they read %v", claims)
	}
	htu, _ := claims["htu"].(string)
	if u, err := url.Parse(htu); err != nil || !strings.EqualFold(u.Hostname(), "gateway.example") || u.Path != "/mcp" {
		t.Fatalf("they read %v", claims)
	}
}

// FuzzVerify holds the verifier against another library: it reads the same in each proof that is accepted. With signed,
// the input gets the holder's signature.
func FuzzVerify(f *testing.F) {
	f.Add(josetest.Text(baseHeader()), josetest.Text(baseClaims()), "", true)
	f.Add(josetest.Text(baseHeader()), josetest.Text(baseClaims()), "AAAA", false)
	f.Add(josetest.Text(josetest.With(baseHeader(), jsonObject{"kid": "k"})), josetest.Text(josetest.With(baseClaims(), jsonObject{"nonce": "n", "iat": now.Unix() + 60})), "", true)
	f.Add(josetest.Text(josetest.With(baseHeader(), jsonObject{"jwk": josetest.JWK("", josetest.OtherEC())})), josetest.Text(baseClaims()), "", true)
	f.Add(josetest.Text(baseHeader()), josetest.Text(josetest.With(baseClaims(), jsonObject{"htu": "HTTPS://GATEWAY.example:443/%6Dcp?x#y"})), "", true)
	f.Fuzz(func(t *testing.T, header, claims, rest string, signed bool) {
		raw := josetest.Encode([]byte(header)) + "." + josetest.Encode([]byte(claims)) + "." + rest
		if signed {
			raw = josetest.Sign("ES256", holder(), header, claims) + rest
		}
		v := newVerifier(t, Config{})
		err := v.Verify(context.Background(), requestWith(raw))
		if err != nil {
			if len(err.Error()) > 256 {
				t.Fatalf("an error of %d bytes", len(err.Error()))
			}
			return
		}
		reference(t, raw)
	})
}

// FuzzTarget: a normalised URL is normal, and has lost nothing but case, port, escapes, query and fragment.
func FuzzTarget(f *testing.F) {
	for _, s := range []string{endpoint, "HTTP://A:80/%7e%2f?q#f", "https://[::1]:443", "https://a/%", "https://a%20b/", "//a/b", "https://a:/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		once, ok := target(raw)
		if !ok {
			return
		}
		if twice, ok := target(once); !ok || twice != once {
			t.Fatalf("%q becomes %q becomes %q", raw, once, twice)
		}
		before, errB := url.Parse(raw)
		after, errA := url.Parse(once)
		if errB != nil || errA != nil || before.Path != after.Path && before.Path != "" || !strings.EqualFold(before.Hostname(), after.Hostname()) {
			t.Fatalf("%q becomes %q", raw, once)
		}
	})
}
