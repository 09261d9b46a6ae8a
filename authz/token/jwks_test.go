package token

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"testing"
)

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
