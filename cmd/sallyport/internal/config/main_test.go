package config_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/config"
)

const (
	clientSecret  = "s3cr3t-of-the-gateway"
	sessionKey    = "Zm9yIHRlc3RzIG9ubHksIG5vdCBhIHJlYWwga2V5"
	storePassword = "s3cr3t-of-the-store" // testdata also has it as it is
	audience      = "https://files.example.com/"
)

const secretFile = `secrets:
  gateway.clientSecret: ` + clientSecret + `
  files:
    host: files.example.com
  sallyport.sessionKey: ` + sessionKey + `
  sallyport.storePassword: ` + storePassword + `
`

// options are the surroundings of the files in testdata: secrets, certificates
// and variables.
func options(t testing.TB) config.Options {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "secrets.yaml"), []byte(secretFile))
	keyPair(t, dir, "server")
	keyPair(t, dir, "other")
	authority(t, dir)
	env := map[string]string{"CERTS": dir, "AUDIENCE": audience, "FILES_PORT": "8443"}
	return config.Options{
		Env:            func(name string) string { return env[name] },
		SecretProvider: "secretfile://" + filepath.Join(dir, "secrets.yaml"),
	}
}

func keyPair(t testing.TB, dir, name string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, name+".crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}))
	write(t, filepath.Join(dir, name+".key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// authority writes ca.crt and its revocation lists: ca.crl, and old.crl, which is past its time.
func authority(t testing.TB, dir string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, SubjectKeyId: []byte{1},
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "ca.crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}))
	for name, until := range map[string]time.Duration{"ca.crl": time.Hour, "old.crl": -time.Hour} {
		list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now().Add(-2 * time.Hour), NextUpdate: time.Now().Add(until)}
		der, err := x509.CreateRevocationList(rand.Reader, list, template, key)
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}))
	}
}

func write(t testing.TB, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}
