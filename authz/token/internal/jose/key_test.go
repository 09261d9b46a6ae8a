package jose

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"math/big"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/authz/token/internal/josetest"
)

type jsonObject = josetest.Object

var (
	rsaKey, ecKey, ec384Key, ec521Key, ed25519Key = josetest.RSA, josetest.EC, josetest.EC384, josetest.EC521, josetest.Ed25519

	toJWK, with, encode, text = josetest.JWK, josetest.With, josetest.Encode, josetest.Text
)

// parse reads a JWK from an object or from its text.
func parse(jwk any) (Key, error) {
	m, err := Object([]byte(text(jwk)))
	if err != nil {
		return Key{}, err
	}
	return ParseKey(m)
}

func TestParseKey(t *testing.T) {
	rsaJWK, ecJWK, edJWK := toJWK("k", rsaKey()), toJWK("k", ecKey()), toJWK("k", ed25519Key())
	// The smallest keys of their kind need no private half.
	modulus := func(bits int) string {
		n := new(big.Int).Lsh(big.NewInt(1), uint(bits-1))
		return encode(n.SetBit(n, 0, 1).Bytes())
	}
	point := josetest.Must(ecKey().Public().(*ecdsa.PublicKey).Bytes())[1:]
	splitAt := func(i int) jsonObject { return jsonObject{"x": encode(point[:i]), "y": encode(point[i:])} }
	p384, p521 := toJWK("k", ec384Key()), toJWK("k", ec521Key())
	tests := map[string]struct {
		jwk  any
		algs []string // nil: refused
	}{
		"RSA":                      {rsaJWK, rsaAlgs},
		"RSA for one alg":          {with(rsaJWK, jsonObject{"alg": "PS384"}), []string{"PS384"}},
		"RSA for signatures":       {with(rsaJWK, jsonObject{"use": "sig", "key_ops": []string{"verify"}}), rsaAlgs},
		"RSA 2048":                 {with(rsaJWK, jsonObject{"n": modulus(2048)}), rsaAlgs},
		"RSA 8192":                 {with(rsaJWK, jsonObject{"n": modulus(8192)}), rsaAlgs},
		"EC":                       {ecJWK, []string{"ES256"}},
		"EC P-384":                 {p384, []string{"ES384"}},
		"EC P-521":                 {p521, []string{"ES512"}},
		"Ed25519":                  {edJWK, okpAlgs},
		"null where a name may be": {with(ecJWK, jsonObject{"use": json.RawMessage("null"), "alg": json.RawMessage("null"), "key_ops": json.RawMessage("null")}), []string{"ES256"}},
		"without kid":              {with(ecJWK, jsonObject{"kid": nil}), []string{"ES256"}},
		"certificate beside it":    {with(ecJWK, jsonObject{"x5c": []string{"AAAA"}, "x5t": "x"}), []string{"ES256"}},

		"F-006 RSA 512":             {with(rsaJWK, jsonObject{"n": modulus(512)}), nil},
		"RSA 2047":                  {with(rsaJWK, jsonObject{"n": modulus(2047)}), nil},
		"RSA 8193":                  {with(rsaJWK, jsonObject{"n": modulus(8193)}), nil},
		"RSA even modulus":          {with(rsaJWK, jsonObject{"n": encode(new(big.Int).Lsh(big.NewInt(1), 2047).Bytes())}), nil},
		"F-006 RSA exponent 3":      {with(rsaJWK, jsonObject{"e": "Aw"}), nil},
		"RSA exponent 1":            {with(rsaJWK, jsonObject{"e": "AQ"}), nil},
		"RSA even exponent":         {with(rsaJWK, jsonObject{"e": "AQAC"}), nil},
		"RSA exponent 2^31+1":       {with(rsaJWK, jsonObject{"e": "gAAAAQ"}), nil},
		"RSA exponent past 64 bits": {with(rsaJWK, jsonObject{"e": encode([]byte{1, 0, 0, 0, 0, 0, 1, 0, 1})}), nil},
		"RSA without modulus":       {with(rsaJWK, jsonObject{"n": nil}), nil},
		"RSA with padding":          {with(rsaJWK, jsonObject{"e": "AQAB=="}), nil},
		"RSA modulus a number":      {with(rsaJWK, jsonObject{"n": 5}), nil},
		"EC not on the curve":       {with(ecJWK, jsonObject{"x": ecJWK["y"]}), nil},
		"EC point of another size":  {with(ecJWK, jsonObject{"x": p384["x"], "y": p384["y"]}), nil},
		"EC short coordinate":       {with(ecJWK, jsonObject{"x": "AQ", "y": "AQ"}), nil},
		"EC shifted coordinates":    {with(ecJWK, jsonObject{"x": encode(make([]byte, 31)), "y": encode(make([]byte, 33))}), nil},
		"EC point split elsewhere":  {with(ecJWK, splitAt(31)), nil},
		"EC secp256k1":              {with(ecJWK, jsonObject{"crv": "secp256k1"}), nil},
		"EC without curve":          {with(ecJWK, jsonObject{"crv": nil}), nil},
		"EC for RS256":              {with(ecJWK, jsonObject{"alg": "RS256"}), nil},
		"EC for ES384":              {with(ecJWK, jsonObject{"alg": "ES384"}), nil},
		"Ed25519 too short":         {with(edJWK, jsonObject{"x": "AAAA"}), nil},
		"X25519":                    {with(edJWK, jsonObject{"crv": "X25519"}), nil},
		"oct":                       {jsonObject{"kty": "oct", "kid": "k", "k": "AAAA"}, nil},
		"kty unknown":               {with(ecJWK, jsonObject{"kty": "AKP"}), nil},
		"kty in lower case":         {with(ecJWK, jsonObject{"kty": "ec"}), nil},
		"private":                   {with(ecJWK, jsonObject{"d": "AAAA"}), nil},
		"private, d null":           {with(ecJWK, jsonObject{"d": json.RawMessage("null")}), nil},
		"for encryption":            {with(rsaJWK, jsonObject{"use": "enc"}), nil},
		"for RSA-OAEP":              {with(rsaJWK, jsonObject{"alg": "RSA-OAEP"}), nil},
		"for HS256":                 {with(rsaJWK, jsonObject{"alg": "HS256"}), nil},
		"for none":                  {with(rsaJWK, jsonObject{"alg": "none"}), nil},
		"for signing only":          {with(rsaJWK, jsonObject{"key_ops": []string{"sign"}}), nil},
		"for nothing":               {with(rsaJWK, jsonObject{"key_ops": []string{}}), nil},
		"private, RSA by halves":    {with(rsaJWK, jsonObject{"p": "AAAA"}), nil},
		"a secret beside it":        {with(ecJWK, jsonObject{"k": "AAAA"}), nil},
		"kty missing":               {with(ecJWK, jsonObject{"kty": nil}), nil},
		"kty a list":                {with(ecJWK, jsonObject{"kty": []string{"EC"}}), nil},
		"crv a list":                {with(edJWK, jsonObject{"crv": []string{"Ed25519"}}), nil},
		"use a number":              {with(ecJWK, jsonObject{"use": 1}), nil},
		"alg a number":              {with(ecJWK, jsonObject{"alg": 1}), nil},
		"key_ops a string":          {with(ecJWK, jsonObject{"key_ops": "verify"}), nil},
		"not an object":             {`"k"`, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			k, err := parse(tt.jwk)
			if (err == nil) != (tt.algs != nil) {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.algs, k.algs); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestParsedKeyIsTheKey(t *testing.T) {
	r, _ := parse(toJWK("k", rsaKey()))
	e, _ := parse(toJWK("k", ec521Key()))
	d, _ := parse(toJWK("k", ed25519Key()))
	if !r.public.(*rsa.PublicKey).Equal(rsaKey().Public()) || !e.public.(*ecdsa.PublicKey).Equal(ec521Key().Public()) ||
		!d.public.(ed25519.PublicKey).Equal(ed25519Key().Public()) {
		t.Error("a key changed on its way")
	}
}

// The example of RFC 7638 §3.1 and that of RFC 8037 §A.3.
func TestThumbprint(t *testing.T) {
	for want, jwk := range map[string]jsonObject{
		"NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs": {"kty": "RSA", "e": "AQAB", "alg": "RS256", "kid": "2011-04-29",
			"n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMs" +
				"tn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n9" +
				"1CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"},
		"kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k": {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
	} {
		k, err := parse(jwk)
		if err != nil || k.Thumbprint() != want {
			t.Errorf("%s, %v; want %s", k.Thumbprint(), err, want)
		}
	}
	for _, signer := range josetest.Signers() { // of the members as they are
		j := toJWK("", signer)
		k, err := parse(j)
		if err != nil || k.Thumbprint() != josetest.Thumbprint(signer) {
			t.Errorf("%s: %v", j["kty"], err)
		}
	}
	if got := (Key{}).Thumbprint(); got != "" {
		t.Errorf("no key has the thumbprint %s", got)
	}
}

// An RSA key for one algorithm verifies no other, although it could.
func TestVerifiesWhatItPermits(t *testing.T) {
	signer := rsaKey()
	k, err := parse(with(toJWK("", signer), jsonObject{"alg": "PS256"}))
	if err != nil {
		t.Fatal(err)
	}
	for alg, want := range map[string]bool{"PS256": true, "PS384": false, "RS256": false} {
		j, err := Parse(josetest.Sign(alg, signer, jsonObject{"alg": alg}, jsonObject{}))
		if err != nil || k.Verifies(j) != want {
			t.Errorf("%s: want %v, %v", alg, want, err)
		}
	}
}

// A number written with a zero in front is another spelling of the same key, and no other thumbprint.
func TestThumbprintIsOfTheKey(t *testing.T) {
	j := toJWK("", rsaKey())
	n := rsaKey().Public().(*rsa.PublicKey).N.Bytes()
	k, err := parse(with(j, jsonObject{"n": encode(append([]byte{0}, n...))}))
	if err != nil || k.Thumbprint() != josetest.Thumbprint(rsaKey()) {
		t.Errorf("%s, %v", k.Thumbprint(), err)
	}
}

func TestVerifies(t *testing.T) {
	for alg, signer := range josetest.Signers() {
		k, err := parse(toJWK("", signer))
		if err != nil {
			t.Fatal(err)
		}
		raw := josetest.Sign(alg, signer, jsonObject{"alg": alg}, jsonObject{})
		j, err := Parse(raw)
		if err != nil || !k.Verifies(j) {
			t.Errorf("%s: refused, %v", alg, err)
			continue
		}
		if (Key{}).Verifies(j) {
			t.Errorf("%s: the zero key verifies", alg)
		}
		j.signed += "x"
		if k.Verifies(j) {
			t.Errorf("%s: verifies something else", alg)
		}
	}
}
