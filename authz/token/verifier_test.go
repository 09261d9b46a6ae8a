package token

import (
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
	"errors"
	"maps"
	"math/big"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sallyport/sallyport/authz/token/internal/jose"
	"github.com/sallyport/sallyport/authz/token/internal/josetest"
)

// bubble runs f against a verifier of one issuer that publishes ecKey as k1.
func bubble(t *testing.T, f func(t *testing.T, v *Verifier)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f(t, start(t, configFor(newAuthority(issuerA, toJWK("k1", ecKey())))))
	})
}

// refused demands that raw is refused for want, with no identity (F-054) and no token in the error.
func refused(t *testing.T, v *Verifier, raw string, want error, label ...string) {
	t.Helper()
	id, err := v.Verify(t.Context(), raw)
	if id != nil || !errors.Is(err, want) {
		t.Errorf("%v: got %+v, %v, want %v", label, id, err, want)
		return
	}
	for _, part := range strings.Split(raw, ".") {
		if len(part) >= 12 && strings.Contains(err.Error(), part) {
			t.Errorf("the error quotes the token: %v", err)
		}
	}
	if len(err.Error()) > 512 {
		t.Errorf("the error is %d bytes long", len(err.Error()))
	}
}

func accepted(t *testing.T, v *Verifier, raw string) *Identity {
	t.Helper()
	id, err := v.Verify(t.Context(), raw)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestIdentity(t *testing.T) {
	bubble(t, func(t *testing.T, v *Verifier) {
		exp := time.Now().Add(time.Hour)
		got := accepted(t, v, tokenWith(nil, jsonObject{
			"aud":    []string{"https://elsewhere.example/", audience},
			"act":    jsonObject{"sub": "gateway", "act": jsonObject{"sub": "agent"}},
			"groups": []any{"a", json.Number("12345678901234567890"), 1.5, true, nil},
		}))
		want := &Identity{
			Issuer: issuerA, Subject: "alice", ClientID: "agent", JTI: "j-1",
			Actors:   []string{"gateway", "agent"},
			Scopes:   []string{"tools:read", "tools:call"},
			Audience: []string{"https://elsewhere.example/", audience},
			Issued:   time.Unix(time.Now().Unix(), 0),
			Expiry:   time.Unix(exp.Unix(), 0),
			Claims: map[string]any{
				"iss": issuerA, "sub": "alice", "client_id": "agent", "jti": "j-1", "scope": "tools:read tools:call",
				"aud":    []any{"https://elsewhere.example/", audience},
				"act":    map[string]any{"sub": "gateway", "act": map[string]any{"sub": "agent"}},
				"iat":    json.Number(text(time.Now().Unix())),
				"exp":    json.Number(text(exp.Unix())),
				"groups": []any{"a", json.Number("12345678901234567890"), json.Number("1.5"), true, nil},
			},
		}
		if d := cmp.Diff(want, got, cmpopts.IgnoreUnexported(Identity{})); d != "" {
			t.Error(d)
		}
	})
}

// Everything here is an acceptable way to write a token.
func TestAccepts(t *testing.T) {
	type want struct {
		Subject, ClientID string
		Scopes            []string
	}
	base := want{"alice", "agent", []string{"tools:read", "tools:call"}}
	tests := map[string]struct {
		header, claims jsonObject
		want           want
	}{
		"as it is":               {nil, nil, base},
		"typ absent":             {jsonObject{"typ": nil}, nil, base},
		"typ JWT":                {jsonObject{"typ": "JWT"}, nil, base},
		"typ with prefix":        {jsonObject{"typ": "application/AT+jwt"}, nil, base},
		"nonce in an at+jwt":     {nil, jsonObject{"nonce": "n"}, base},
		"Keycloak's typ":         {nil, jsonObject{"typ": "Bearer"}, base},
		"azp":                    {nil, jsonObject{"client_id": nil, "azp": "spa"}, want{"alice", "spa", base.Scopes}},
		"client_id over azp":     {nil, jsonObject{"azp": "spa"}, base},
		"no client":              {nil, jsonObject{"client_id": nil}, want{"alice", "", base.Scopes}},
		"scp array":              {nil, jsonObject{"scope": nil, "scp": []string{"a", "b"}}, want{"alice", "agent", []string{"a", "b"}}},
		"scp string":             {nil, jsonObject{"scope": nil, "scp": "a b"}, want{"alice", "agent", []string{"a", "b"}}},
		"scope over scp":         {nil, jsonObject{"scp": "admin"}, base},
		"no scope":               {nil, jsonObject{"scope": nil}, want{"alice", "agent", nil}},
		"fractional exp":         {nil, jsonObject{"exp": json.Number("2000000000.75")}, base},
		"unicode subject":        {nil, jsonObject{"sub": "Zoë 李"}, want{"Zoë 李", "agent", base.Scopes}},
		"names differ in case":   {nil, jsonObject{"SUB": "admin", "Scope": "all"}, base},
		"F-041 may_act":          {nil, jsonObject{"may_act": jsonObject{"sub": "somebody else"}}, base}, // for the policy to judge
		"F-037 groups elsewhere": {nil, jsonObject{"_claim_names": jsonObject{"groups": "src1"}}, base},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, v *Verifier) {
				id := accepted(t, v, tokenWith(tt.header, tt.claims))
				if d := cmp.Diff(tt.want, want{id.Subject, id.ClientID, id.Scopes}, cmpopts.EquateEmpty()); d != "" {
					t.Error(d)
				}
				if id.Claims["groups"] != nil {
					t.Error("groups out of nowhere")
				}
			})
		})
	}
}

func TestAlgorithms(t *testing.T) {
	keys := josetest.Signers()
	if d := cmp.Diff(jose.Algorithms(), slices.Sorted(maps.Keys(keys))); d != "" {
		t.Fatal("not all algorithms are tested", d)
	}
	for alg, k := range keys {
		t.Run(alg, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := start(t, configFor(newAuthority(issuerA, toJWK("k1", k))))
				raw := sign(alg, k, with(baseHeader, jsonObject{"alg": alg}), baseClaims())
				accepted(t, v, raw)
				refused(t, v, raw[:strings.LastIndexByte(raw, '.')+1]+encode(make([]byte, 64)), ErrSignature)
			})
		})
	}
}

// The header's view of a token: what makes it no JWT of ours before any key is asked for.
func TestRefusesHeaders(t *testing.T) {
	deep := strings.Repeat(`{"a":`, 100) + "1" + strings.Repeat("}", 100)
	tests := map[string]struct {
		header any
		want   error
	}{
		"F-001 alg none":           {with(baseHeader, jsonObject{"alg": "none"}), ErrInvalidToken},
		"F-001 alg nOnE":           {with(baseHeader, jsonObject{"alg": "nOnE"}), ErrInvalidToken},
		"alg missing":              {with(baseHeader, jsonObject{"alg": nil}), ErrInvalidToken},
		"alg in lower case":        {with(baseHeader, jsonObject{"alg": "es256"}), ErrInvalidToken},
		"alg of another type":      {with(baseHeader, jsonObject{"alg": []string{"ES256"}}), ErrInvalidToken},
		"F-002 alg HS256":          {with(baseHeader, jsonObject{"alg": "HS256"}), ErrInvalidToken},
		"F-007 kid a path":         {with(baseHeader, jsonObject{"kid": "../../dev/null"}), ErrKey},
		"F-007 kid SQL":            {with(baseHeader, jsonObject{"kid": "' OR 1=1--"}), ErrKey},
		"F-007 kid a URL":          {with(baseHeader, jsonObject{"kid": "http://evil.example/"}), ErrKey},
		"F-007 kid of 10 KiB":      {with(baseHeader, jsonObject{"kid": strings.Repeat("k", 7<<10)}), ErrInvalidToken},
		"F-007 kid a number":       {with(baseHeader, jsonObject{"kid": 1}), ErrInvalidToken},
		"kid empty":                {with(baseHeader, jsonObject{"kid": ""}), ErrInvalidToken},
		"kid missing":              {with(baseHeader, jsonObject{"kid": nil}), ErrInvalidToken},
		"kid that forges log line": {with(baseHeader, jsonObject{"kid": "x\r\nlevel=INFO\x1b[31m"}), ErrKey},
		"F-011 crit known":         {with(baseHeader, jsonObject{"crit": []string{"exp"}}), ErrInvalidToken},
		"F-011 crit null":          {`{"alg":"ES256","kid":"k1","crit":null}`, ErrInvalidToken},
		"F-011 b64":                {with(baseHeader, jsonObject{"b64": false}), ErrInvalidToken},
		"F-011 zip":                {with(baseHeader, jsonObject{"zip": "DEF"}), ErrInvalidToken},
		"F-012 PBES2":              {with(baseHeader, jsonObject{"alg": "PBES2-HS256+A128KW", "p2c": 1_000_000_000}), ErrInvalidToken},
		"F-013 deep header":        {`{"alg":"ES256","kid":"k1","x":` + deep + `}`, ErrInvalidToken},
		"header over 8 KiB":        {with(baseHeader, jsonObject{"x": strings.Repeat("x", 8<<10)}), ErrInvalidToken},
		"F-014 duplicate alg":      {`{"alg":"none","alg":"ES256","kid":"k1"}`, ErrInvalidToken},
		"F-014 duplicate escaped":  {`{"alg":"ES256","kid":"k2","\u006bid":"k1"}`, ErrInvalidToken},
		"header an array":          {`["ES256"]`, ErrInvalidToken},
		"header with a tail":       {`{"alg":"ES256","kid":"k1"}{}`, ErrInvalidToken},
		"header not UTF-8":         {"{\"alg\":\"ES256\",\"kid\":\"k1\",\"x\":\"\xff\"}", ErrInvalidToken},
		"typ empty":                {with(baseHeader, jsonObject{"typ": ""}), ErrInvalidToken},
		"typ of another type":      {with(baseHeader, jsonObject{"typ": 1}), ErrInvalidToken},
		"F-032 DPoP proof":         {with(baseHeader, jsonObject{"typ": "dpop+jwt"}), ErrTokenType},
		"F-032 logout token":       {with(baseHeader, jsonObject{"typ": "logout+jwt"}), ErrTokenType},
		"F-032 client assertion":   {with(baseHeader, jsonObject{"typ": "client-authentication+jwt"}), ErrTokenType},
		"F-032 transaction token":  {with(baseHeader, jsonObject{"typ": "txntoken+jwt"}), ErrTokenType},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, v *Verifier) {
				refused(t, v, sign("ES256", ecKey(), tt.header, baseClaims()), tt.want)
			})
		})
	}
}

func TestRefusesClaims(t *testing.T) {
	soon := time.Now().Add(1000 * time.Hour).Unix() // literal claims live outside a bubble's clock
	literal := func(more string) string {
		return `{"iss":"` + issuerA + `","sub":"alice","aud":"` + audience + `","exp":` + text(soon) + more + `}`
	}
	deep := strings.Repeat(`{"sub":"a","act":`, maxActors) + `{"sub":"a"}` + strings.Repeat("}", maxActors)
	tests := map[string]struct {
		claims any
		want   error
	}{
		"F-013 deep claims":        {literal(`,"x":` + strings.Repeat("[", 4000) + strings.Repeat("]", 4000)), ErrInvalidToken},
		"F-014 duplicate aud":      {literal(`,"aud":"x"`), ErrInvalidToken},
		"F-014 duplicate sub":      {literal(`,"\u0073ub":"admin"`), ErrInvalidToken},
		"F-014 duplicate iss":      {literal(`,"iss":"x"`), ErrInvalidToken},
		"F-014 duplicate exp":      {literal(`,"exp":1`), ErrInvalidToken},
		"F-014 duplicate, deep":    {literal(`,"act":{"sub":"a","sub":"b"}`), ErrInvalidToken},
		"lone surrogate":           {literal(`,"x":"\ud800"`), ErrInvalidToken},
		"not UTF-8":                {literal(",\"x\":\"\xff\""), ErrInvalidToken},
		"a tail":                   {literal("") + "x", ErrInvalidToken},
		"cut short":                {literal("")[:40], ErrInvalidToken},
		"an array":                 {`[1]`, ErrInvalidToken},
		"F-012 nested JWT":         {tokenWith(nil, nil), ErrInvalidToken},
		"number that explodes":     {literal(`,"x":1e-999999999`), ErrInvalidToken},
		"number of 70 digits":      {literal(`,"x":0.` + strings.Repeat("1", 70)), ErrInvalidToken},
		"number beyond float64":    {literal(`,"x":1e400`), ErrInvalidToken},
		"F-018 exp missing":        {jsonObject{"exp": nil}, ErrInvalidToken},
		"exp a string":             {jsonObject{"exp": "9999999999"}, ErrInvalidToken},
		"exp negative":             {jsonObject{"exp": -1}, ErrInvalidToken},
		"exp beyond time":          {jsonObject{"exp": 1e18}, ErrInvalidToken},
		"exp null":                 {jsonObject{"exp": json.RawMessage("null")}, ErrInvalidToken},
		"nbf a string":             {jsonObject{"nbf": "0"}, ErrInvalidToken},
		"iat a string":             {jsonObject{"iat": "0"}, ErrInvalidToken},
		"F-023 aud missing":        {jsonObject{"aud": nil}, ErrAudience},
		"F-023 aud empty":          {jsonObject{"aud": ""}, ErrAudience},
		"F-023 aud empty array":    {jsonObject{"aud": []string{}}, ErrAudience},
		"F-026 aud nested":         {jsonObject{"aud": [][]string{{audience}}}, ErrInvalidToken},
		"F-026 aud an object":      {jsonObject{"aud": jsonObject{audience: 1}}, ErrInvalidToken},
		"F-026 aud a number":       {jsonObject{"aud": 5}, ErrInvalidToken},
		"F-026 aud mixed":          {jsonObject{"aud": []any{audience, 5}}, ErrInvalidToken},
		"F-026 aud a list in text": {jsonObject{"aud": audience + " x"}, ErrAudience},
		"aud without the slash":    {jsonObject{"aud": strings.TrimSuffix(audience, "/")}, ErrAudience},
		"aud in another case":      {jsonObject{"aud": strings.ToUpper(audience)}, ErrAudience},
		"F-028 iss missing":        {jsonObject{"iss": nil}, ErrInvalidToken},
		"F-028 iss an array":       {jsonObject{"iss": []string{issuerA}}, ErrInvalidToken},
		"F-028 iss with a slash":   {jsonObject{"iss": issuerA + "/"}, ErrIssuer},
		"F-028 iss upper case":     {jsonObject{"iss": "https://AS.example"}, ErrIssuer},
		"F-028 iss http":           {jsonObject{"iss": "http://as.example"}, ErrIssuer},
		"F-028 iss unicode":        {jsonObject{"iss": "https://\u0430s.example"}, ErrIssuer},
		"F-028 iss dots":           {jsonObject{"iss": issuerA + "/realms/a/../b"}, ErrIssuer},
		"F-028 iss with a port":    {jsonObject{"iss": issuerA + ":443"}, ErrIssuer},
		"F-032 logout token":       {jsonObject{"events": jsonObject{"http://schemas.openid.net/event/backchannel-logout": jsonObject{}}}, ErrTokenType},
		"F-032 refresh token":      {jsonObject{"typ": "Refresh"}, ErrTokenType},
		"F-032 offline token":      {jsonObject{"typ": "Offline"}, ErrTokenType},
		"F-032 Cognito's ID token": {jsonObject{"token_use": "id"}, ErrTokenType},
		"token_use a number":       {jsonObject{"token_use": 1}, ErrTokenType},
		"F-032 client assertion":   {jsonObject{"iss": "agent", "sub": "agent"}, ErrIssuer},
		"F-033 client_id a number": {jsonObject{"client_id": 7}, ErrInvalidToken},
		"azp an array":             {jsonObject{"azp": []string{"a"}}, ErrInvalidToken},
		"F-034 sub missing":        {jsonObject{"sub": nil}, ErrInvalidToken},
		"F-034 sub empty":          {jsonObject{"sub": ""}, ErrInvalidToken},
		"F-034 sub blank":          {jsonObject{"sub": "  "}, ErrInvalidToken},
		"F-034 sub padded":         {jsonObject{"sub": "alice "}, ErrInvalidToken},
		"F-034 sub with NUL":       {jsonObject{"sub": "alice\x00"}, ErrInvalidToken},
		"F-034 sub with CRLF":      {jsonObject{"sub": "alice\r\nX-Admin: 1"}, ErrInvalidToken},
		"F-034 sub reordered":      {jsonObject{"sub": "alice\u202etxt"}, ErrInvalidToken},
		"F-034 sub of 10 KiB":      {jsonObject{"sub": strings.Repeat("a", 10<<10)}, ErrInvalidToken},
		"sub a number":             {jsonObject{"sub": 42}, ErrInvalidToken},
		"F-038 cnf.jkt":            {jsonObject{"cnf": jsonObject{"jkt": "x"}}, ErrBinding},
		"F-039 cnf.x5t":            {jsonObject{"cnf": jsonObject{"x5t#S256": "x"}}, ErrBinding},
		"cnf of another kind":      {jsonObject{"cnf": jsonObject{"kid": "x"}}, ErrBinding},
		"F-041 act too long":       {literal(`,"act":` + deep), ErrInvalidToken},
		"act without sub":          {jsonObject{"act": jsonObject{"client_id": "x"}}, ErrInvalidToken},
		"act a string":             {jsonObject{"act": "admin"}, ErrInvalidToken},
		"act nested in a string":   {jsonObject{"act": jsonObject{"sub": "a", "act": "b"}}, ErrInvalidToken},
		"scope an array":           {jsonObject{"scope": []string{"a"}}, ErrInvalidToken},
		"scope null":               {jsonObject{"scope": json.RawMessage("null"), "scp": "a"}, ErrInvalidToken},
		"scp null":                 {jsonObject{"scope": nil, "scp": json.RawMessage("null")}, ErrInvalidToken},
		"scope with a tab":         {jsonObject{"scope": "a\tb"}, ErrInvalidToken},
		"scp with a space inside":  {jsonObject{"scope": nil, "scp": []string{"a admin", "b"}}, ErrInvalidToken},
		"jti a number":             {jsonObject{"jti": 1}, ErrInvalidToken},
	}
	bubble(t, func(t *testing.T, v *Verifier) { accepted(t, v, sign("ES256", ecKey(), baseHeader, literal(""))) })
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, v *Verifier) {
				payload := tt.claims
				if changes, ok := payload.(jsonObject); ok {
					payload = with(baseClaims(), changes)
				}
				refused(t, v, sign("ES256", ecKey(), baseHeader, payload), tt.want)
			})
		})
	}
}

func TestRefusesIDTokens(t *testing.T) { // F-031
	for _, typ := range []any{"JWT", nil} {
		for _, claim := range []string{"nonce", "at_hash", "c_hash"} {
			bubble(t, func(t *testing.T, v *Verifier) {
				refused(t, v, tokenWith(jsonObject{"typ": typ}, jsonObject{claim: "x"}), ErrTokenType)
			})
		}
	}
}

func TestRefusesSpellings(t *testing.T) { // F-012, F-013, F-016, F-017
	bubble(t, func(t *testing.T, v *Verifier) {
		good := tokenWith(nil, nil)
		head, rest, _ := strings.Cut(good, ".")
		body, sig, _ := strings.Cut(rest, ".")
		// The last character of an 86-character signature carries four bits that a lax decoder drops.
		last := strings.IndexByte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", sig[85])
		for name, raw := range map[string]string{
			"empty":               "",
			"two segments":        head + "." + body,
			"JWE":                 head + "." + body + "." + sig + ".x.y",
			"empty signature":     head + "." + body + ".",
			"empty payload":       head + ".." + sig,
			"only dots":           strings.Repeat(".", 100_000),
			"too long":            good + strings.Repeat("A", MaxBytes),
			"JSON serialisation":  `{"payload":"` + body + `","signatures":[{"protected":"` + head + `","signature":"` + sig + `"}]}`,
			"padding":             good + "==",
			"trailing newline":    good + "\n",
			"newline in header":   head[:4] + "\r\n" + head[4:] + "." + rest,
			"newline in body":     head + "." + body[:4] + "\n" + body[4:] + "." + sig,
			"leading space":       " " + good,
			"standard alphabet":   head + "." + body + "." + "+/" + sig[2:],
			"non-canonical bits":  good[:len(good)-1] + string("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[last^1]),
			"NUL":                 good + "\x00",
			"scheme left in":      "Bearer " + good,
			"two tokens, a comma": good + "," + good,
		} {
			refused(t, v, raw, ErrInvalidToken, name)
		}
		accepted(t, v, good)
	})
}

func TestTimes(t *testing.T) {
	const skew = 15 * time.Second
	after := func(d time.Duration) int64 { return time.Now().Add(d).Unix() }
	bubble(t, func(t *testing.T, v *Verifier) {
		for _, tt := range []struct {
			name  string
			claim string
			at    time.Duration
			want  error
		}{
			{"exp just within the skew", "exp", -skew + time.Second, nil},
			{"exp at the skew", "exp", -skew, ErrExpired},
			{"exp long ago", "exp", -time.Hour, ErrExpired},
			{"nbf at the skew", "nbf", skew, nil},
			{"nbf beyond the skew", "nbf", skew + time.Second, ErrNotYetValid},
			{"iat at the skew", "iat", skew, nil},
			{"iat beyond the skew", "iat", skew + time.Second, ErrNotYetValid},
			{"exp zero", "exp", -time.Duration(time.Now().UnixNano()), ErrExpired},
		} {
			raw := tokenWith(nil, jsonObject{tt.claim: after(tt.at)})
			if _, err := v.Verify(t.Context(), raw); !errors.Is(err, tt.want) {
				t.Errorf("%s: got %v, want %v", tt.name, err, tt.want)
			}
		}
	})
}

func TestMaxLifetime(t *testing.T) { // F-021
	synctest.Test(t, func(t *testing.T) {
		cfg := configFor(newAuthority(issuerA, toJWK("k1", ecKey())))
		cfg.Issuers[0].MaxLifetime = time.Hour
		v := start(t, cfg)
		accepted(t, v, tokenWith(nil, nil))
		refused(t, v, tokenWith(nil, jsonObject{"exp": time.Now().Add(30 * 24 * time.Hour).Unix()}), ErrExpired)
		refused(t, v, tokenWith(nil, jsonObject{"iat": nil}), ErrExpired)
	})
}

// F-001 to F-006: signatures that a careless verifier takes.
func TestRefusesSignatures(t *testing.T) {
	bubble(t, func(t *testing.T, v *Verifier) {
		good := tokenWith(nil, nil)
		signed := good[:strings.LastIndexByte(good, '.')]
		sum := sha256.Sum256([]byte(signed))
		r, s, err := ecdsa.Sign(rand.Reader, ecKey().(*ecdsa.PrivateKey), sum[:])
		if err != nil {
			t.Fatal(err)
		}
		der := must(asn1.Marshal(struct{ R, S *big.Int }{r, s}))
		n := elliptic.P256().Params().N
		for name, sig := range map[string][]byte{
			"F-005 zero":       make([]byte, 64),
			"F-005 r = s = n":  append(n.Bytes(), n.Bytes()...),
			"F-005 DER":        der,
			"F-005 too long":   append(r.FillBytes(make([]byte, 33)), s.FillBytes(make([]byte, 33))...),
			"one byte":         {0},
			"of another token": josetest.Signature("ES256", ecKey(), "x.y"),
			"of another key":   josetest.Signature("ES256", otherEC(), signed),
		} {
			refused(t, v, signed+"."+encode(sig), ErrSignature, name)
		}
	})
}

// The other half of an ECDSA signature is valid too (RFC 7518 §3.4 picks none); it must buy nothing new.
func TestMalleatedSignatureIsTheSameToken(t *testing.T) { // F-005
	bubble(t, func(t *testing.T, v *Verifier) {
		good := tokenWith(nil, nil)
		dot := strings.LastIndexByte(good, '.')
		sig := must(jose.Segment(good[dot+1:]))
		s := new(big.Int).Sub(elliptic.P256().Params().N, new(big.Int).SetBytes(sig[32:]))
		other := good[:dot+1] + encode(append(sig[:32:32], s.FillBytes(make([]byte, 32))...))
		if d := cmp.Diff(accepted(t, v, good), accepted(t, v, other), cmpopts.IgnoreUnexported(Identity{})); d != "" {
			t.Error(d)
		}
	})
}

// F-002, F-003, F-004, F-010: the token does not choose how it is verified, nor under which key.
func TestAlgorithmConfusion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAuthority(issuerA,
			toJWK("rsa", rsaKey()), toJWK("ec", ecKey()),
			with(toJWK("pss", rsaKey()), jsonObject{"alg": "PS256"}),
			jsonObject{"kty": "oct", "kid": "oct", "k": encode([]byte("secret")), "alg": "HS256"},
		)
		v := start(t, configFor(as))
		before := as.fetches.Load()
		der := must(x509.MarshalPKIXPublicKey(rsaKey().Public()))
		block := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
		hs256 := func(kid string, secret []byte) string {
			signed := encode([]byte(text(jsonObject{"alg": "HS256", "kid": kid}))) + "." + encode([]byte(text(baseClaims())))
			mac := hmac.New(sha256.New, secret)
			mac.Write([]byte(signed))
			return signed + "." + encode(mac.Sum(nil))
		}
		head := func(alg, kid string, more jsonObject) jsonObject {
			return with(jsonObject{"alg": alg, "kid": kid}, more)
		}
		attacker := jsonObject{
			"jwk": toJWK("ec", otherEC()), "jku": "https://evil.example/jwks", "x5u": "https://evil.example/cert",
			"x5c": []string{"AAAA"},
		}
		for name, tt := range map[string]struct {
			raw  string
			want error
		}{
			"F-002 HS256 under the PEM":  {hs256("rsa", block), ErrInvalidToken},
			"F-002 HS256 under the DER":  {hs256("rsa", der), ErrInvalidToken},
			"F-003 HS256, empty key":     {hs256("rsa", nil), ErrInvalidToken},
			"HS256, published secret":    {hs256("oct", []byte("secret")), ErrInvalidToken},
			"F-004 RS256, EC key":        {sign("RS256", rsaKey(), head("RS256", "ec", nil), baseClaims()), ErrKey},
			"F-004 ES256, RSA key":       {sign("ES256", ecKey(), head("ES256", "rsa", nil), baseClaims()), ErrKey},
			"ES256 in the name of ES384": {sign("ES256", ecKey(), head("ES384", "ec", nil), baseClaims()), ErrKey},
			"RS256, key for PS256":       {sign("RS256", rsaKey(), head("RS256", "pss", nil), baseClaims()), ErrKey},
			"EdDSA, EC key":              {sign("EdDSA", ed25519Key(), head("EdDSA", "ec", nil), baseClaims()), ErrKey},
			"another RSA key":            {sign("RS256", otherRSA(), head("RS256", "rsa", nil), baseClaims()), ErrSignature},
			"F-010 keys in the header":   {sign("ES256", otherEC(), head("ES256", "ec", attacker), baseClaims()), ErrSignature},
		} {
			refused(t, v, tt.raw, tt.want, name)
		}
		accepted(t, v, sign("PS256", rsaKey(), head("PS256", "pss", nil), baseClaims()))
		accepted(t, v, sign("ES256", ecKey(), head("ES256", "ec", attacker), baseClaims()))
		if got := as.fetches.Load(); got != before {
			t.Errorf("%d fetches for known keys", got-before)
		}
	})
}

func TestForgedPKCS1Padding(t *testing.T) { // F-006: a cube root would pass under e = 3 and lax padding
	weak := &rsa.PublicKey{N: rsaKey().Public().(*rsa.PublicKey).N, E: 3}
	j := toJWK("k1", rsaKey())
	j["e"] = encode(big.NewInt(int64(weak.E)).Bytes())
	if _, _, err := parseKey([]byte(text(j))); err == nil {
		t.Error("a key with exponent 3 was taken")
	}
}

// F-055 (CVE-2024-51744): an expired token with a bad signature is first of all forged.
func TestSignatureBeforeClaims(t *testing.T) {
	bubble(t, func(t *testing.T, v *Verifier) {
		for _, changes := range []jsonObject{
			{"exp": time.Now().Add(-time.Hour).Unix()}, {"aud": "x"}, {"cnf": jsonObject{}}, {"events": jsonObject{}},
		} {
			raw := sign("ES256", otherEC(), baseHeader, with(baseClaims(), changes))
			refused(t, v, raw, ErrSignature)
		}
	})
}

func TestIssuerConfusion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newAuthority(issuerA, toJWK("k1", ecKey())), newAuthority(issuerB, toJWK("k1", otherEC()))
		b.publish(toJWK("k1", otherEC()), toJWK("only-b", otherEC()))
		cfg := configFor(a, b)
		cfg.Issuers[1].Audiences = []string{"https://b.example/"}
		v := start(t, cfg)
		fromB := jsonObject{"iss": issuerB, "aud": "https://b.example/"}

		accepted(t, v, tokenWith(nil, nil))
		accepted(t, v, sign("ES256", otherEC(), baseHeader, with(baseClaims(), fromB)))
		for name, tt := range map[string]struct {
			raw  string
			want error
		}{
			"A's key, B's name":      {tokenWith(nil, fromB), ErrSignature},
			"B's key, A's name":      {sign("ES256", otherEC(), baseHeader, baseClaims()), ErrSignature},
			"B's kid, A's name":      {sign("ES256", otherEC(), with(baseHeader, jsonObject{"kid": "only-b"}), baseClaims()), ErrKey},
			"A's audience from B":    {sign("ES256", otherEC(), baseHeader, with(baseClaims(), jsonObject{"iss": issuerB})), ErrAudience},
			"B's audience from A":    {tokenWith(nil, jsonObject{"aud": "https://b.example/"}), ErrAudience},
			"a prefix of B's name":   {tokenWith(nil, jsonObject{"iss": "https://other.example/tenants"}), ErrIssuer},
			"nobody's name, A's key": {tokenWith(nil, jsonObject{"iss": "https://evil.example"}), ErrIssuer},
		} {
			refused(t, v, tt.raw, tt.want, name)
		}
		if d := cmp.Diff([]string{issuerA, issuerB}, v.Issuers()); d != "" {
			t.Error(d)
		}
	})
}

func TestDerivedIsBuiltOnce(t *testing.T) {
	const others = 15
	var id Identity
	var built atomic.Int64
	var callers, arrived sync.WaitGroup
	arrived.Add(others + 1)
	slow := func() any {
		arrived.Wait()
		for range 1000 { // everybody finds it missing while the first is at it
			runtime.Gosched()
		}
		return built.Add(1)
	}
	for range others + 1 {
		callers.Go(func() {
			arrived.Done()
			if got := id.Derived(slow); got != int64(1) {
				t.Errorf("got %v", got)
			}
		})
	}
	callers.Wait()
	if built.Load() != 1 {
		t.Errorf("built %d times", built.Load())
	}
}
