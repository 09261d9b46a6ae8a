package sts

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/asn1"
	"math/big"
	"testing"
)

// The fixed form is what a general ASN.1 decoder reads in the DER.
func TestFixedSignature(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 500 { // some numbers are short, some have a sign bit
		digest := sha256.Sum256([]byte{byte(i), byte(i >> 8)})
		der, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
		if err != nil {
			t.Fatal(err)
		}
		raw, err := fixedSignature(der)
		if err != nil {
			t.Fatal(err)
		}
		if !ecdsa.Verify(&key.PublicKey, digest[:], new(big.Int).SetBytes(raw[:32]), new(big.Int).SetBytes(raw[32:])) {
			t.Fatalf("%x is not %x", raw, der)
		}
	}
}

func TestFixedSignatureRefuses(t *testing.T) {
	for name, der := range map[string][]byte{
		"nothing": nil, "one byte": {0x30}, "empty": {0x30, 0}, "no sequence": {0x31, 6, 2, 1, 1, 2, 1, 1},
		"wrong length": {0x30, 7, 2, 1, 1, 2, 1, 1}, "no integer": {0x30, 6, 3, 1, 1, 2, 1, 1}, "one integer": {0x30, 3, 2, 1, 1},
		"empty integer": {0x30, 5, 2, 0, 2, 1, 1}, "integer too long": {0x30, 6, 2, 9, 1, 2, 1, 1}, "three": {0x30, 9, 2, 1, 1, 2, 1, 1, 2, 1, 1},
		"33 bytes": append(append([]byte{0x30, 38, 2, 33, 1}, make([]byte, 32)...), 2, 1, 1),
	} {
		if _, err := fixedSignature(der); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func FuzzFixedSignature(f *testing.F) {
	f.Add([]byte{0x30, 6, 2, 1, 1, 2, 1, 1})
	f.Fuzz(func(t *testing.T, der []byte) {
		raw, err := fixedSignature(der)
		if err != nil {
			return
		}
		var sig struct{ R, S *big.Int }
		if _, err := asn1.Unmarshal(der, &sig); err != nil {
			return // not minimal, which no signer of ours writes
		}
		if sig.R.Sign() < 0 || sig.S.Sign() < 0 {
			return
		}
		if sig.R.Cmp(new(big.Int).SetBytes(raw[:32])) != 0 || sig.S.Cmp(new(big.Int).SetBytes(raw[32:])) != 0 {
			t.Fatalf("%x from %x", raw, der)
		}
	})
}

// RFC 8725 §3.2: no nonce is drawn that a weak source could repeat.
func TestOwnKeySignsDeterministically(t *testing.T) {
	for _, alg := range []string{ES256, EdDSA} {
		private, err := generateKey(alg)
		if err != nil {
			t.Fatal(err)
		}
		key, err := newSigningKey(private)
		if err != nil {
			t.Fatal(err)
		}
		first, err := key.sign([]byte("header.claims"))
		if err != nil {
			t.Fatal(err)
		}
		if again, err := key.sign([]byte("header.claims")); err != nil || !bytes.Equal(first, again) {
			t.Errorf("%s: %s, then %s, %v", alg, first, again, err)
		}
	}
}
