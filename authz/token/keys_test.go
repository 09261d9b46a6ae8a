package token

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"math/big"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseKey(t *testing.T) {
	rsaJWK, ecJWK, edJWK := toJWK("k", rsaKey()), toJWK("k", ecKey()), toJWK("k", ed25519Key())
	// The smallest keys of their kind need no private half.
	modulus := func(bits int) string {
		n := new(big.Int).Lsh(big.NewInt(1), uint(bits-1))
		return encode(n.SetBit(n, 0, 1).Bytes())
	}
	point := must(ecKey().Public().(*ecdsa.PublicKey).Bytes())[1:]
	splitAt := func(i int) jsonObject { return jsonObject{"x": encode(point[:i]), "y": encode(point[i:])} }
	p384, p521 := toJWK("k", ec384Key()), toJWK("k", ec521Key())
	tests := map[string]struct {
		jwk  any
		algs []string // nil: refused
	}{
		"RSA":                   {rsaJWK, rsaAlgs},
		"RSA for one alg":       {with(rsaJWK, jsonObject{"alg": "PS384"}), []string{"PS384"}},
		"RSA for signatures":    {with(rsaJWK, jsonObject{"use": "sig", "key_ops": []string{"verify"}}), rsaAlgs},
		"RSA 2048":              {with(rsaJWK, jsonObject{"n": modulus(2048)}), rsaAlgs},
		"RSA 8192":              {with(rsaJWK, jsonObject{"n": modulus(8192)}), rsaAlgs},
		"EC":                    {ecJWK, []string{"ES256"}},
		"EC P-384":              {p384, []string{"ES384"}},
		"EC P-521":              {p521, []string{"ES512"}},
		"Ed25519":               {edJWK, okpAlgs},
		"certificate beside it": {with(ecJWK, jsonObject{"x5c": []string{"AAAA"}, "x5t": "x"}), []string{"ES256"}},

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
		"without kid":               {with(ecJWK, jsonObject{"kid": nil}), nil},
		"kid a number":              {with(ecJWK, jsonObject{"kid": 1}), nil},
		"not an object":             {`"k"`, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, k, err := parseKey([]byte(text(tt.jwk)))
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
	_, r, _ := parseKey([]byte(text(toJWK("k", rsaKey()))))
	_, e, _ := parseKey([]byte(text(toJWK("k", ec521Key()))))
	_, d, _ := parseKey([]byte(text(toJWK("k", ed25519Key()))))
	if !r.public.(*rsa.PublicKey).Equal(rsaKey().Public()) || !e.public.(*ecdsa.PublicKey).Equal(ec521Key().Public()) ||
		!d.public.(ed25519.PublicKey).Equal(ed25519Key().Public()) {
		t.Error("a key changed on its way")
	}
}

func TestParseKeySet(t *testing.T) {
	good, other := toJWK("a", ecKey()), toJWK("b", rsaKey())
	tests := map[string]struct {
		keys    []any
		kids    []string
		skipped int
	}{
		"two":                       {[]any{good, other}, []string{"a", "b"}, 0},
		"a bad one among good ones": {[]any{good, 5, jsonObject{"kty": []int{1}}, other}, []string{"a", "b"}, 2},
		"F-004 one kid, two types":  {[]any{good, toJWK("a", rsaKey()), other}, []string{"b"}, 1},
		"one kid, three times":      {[]any{good, good, good, other}, []string{"b"}, 1},
		"one kid for sig and enc":   {[]any{good, with(toJWK("a", rsaKey()), jsonObject{"use": "enc"})}, []string{"a"}, 1},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			set, skipped, err := parseKeySet([]byte(text(jsonObject{"keys": tt.keys})))
			if err != nil || len(skipped) != tt.skipped || len(set.keys) != len(tt.kids) {
				t.Fatalf("%v, skipped %v, %v", set, skipped, err)
			}
			for _, kid := range tt.kids {
				if _, ok := set.keys[kid]; !ok {
					t.Errorf("%s is missing", kid)
				}
			}
		})
	}
}

func TestKeySetEqual(t *testing.T) {
	parse := func(keys ...any) *keySet {
		set, _, err := parseKeySet([]byte(text(jsonObject{"keys": keys})))
		return must(set, err)
	}
	one := parse(toJWK("a", ecKey()), toJWK("b", rsaKey()))
	fresh := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	for name, tt := range map[string]struct {
		other *keySet
		want  bool
	}{
		"another order":          {parse(toJWK("b", rsaKey()), toJWK("a", ecKey())), true},
		"one less":               {parse(toJWK("a", ecKey())), false},
		"same kid, other key":    {parse(toJWK("a", fresh), toJWK("b", rsaKey())), false},
		"same key, other kid":    {parse(toJWK("c", ecKey()), toJWK("b", rsaKey())), false},
		"same key, for less":     {parse(toJWK("a", ecKey()), with(toJWK("b", rsaKey()), jsonObject{"alg": "PS256"})), false},
		"same kid, another type": {parse(toJWK("a", ed25519Key()), toJWK("b", rsaKey())), false},
	} {
		if one.equal(tt.other) != tt.want {
			t.Errorf("%s: want %v", name, tt.want)
		}
	}
}
