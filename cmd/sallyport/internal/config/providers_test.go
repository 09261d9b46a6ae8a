package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestProviderPages: every configuration in docs/providers loads without a problem. What a piece leaves out comes from the
// reference's example.
func TestProviderPages(t *testing.T) {
	pages, err := filepath.Glob("../../../../docs/providers/*.md")
	if err != nil {
		t.Fatal(err)
	}
	key, certificate := credentials(t)
	files := map[string]string{"/secrets.yaml": exampleSecrets, "/items.rego": examplePolicy, "/files.rego": examplePolicy,
		"/client.pem": key + certificate, "/key.pem": key, "/cert.pem": certificate, "/ca.pem": certificate}
	rest := regexp.MustCompile(`(?ms)^(\w+):\n.*?\n\n`).FindAllStringSubmatch(example+"\n", -1)
	loaded := 0
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
			files["/sallyport.yaml"] = m[1]
			for _, section := range rest {
				if !strings.Contains("\n"+m[1], "\n"+section[1]+":\n") || section[1] == "connectors" && !strings.Contains(m[1], "\napps:\n") {
					files["/sallyport.yaml"] += "---\n" + section[0]
				}
			}
			cfg, problems := Load("/sallyport.yaml", Options{SecretProvider: "secretfile:///secrets.yaml", ReadFile: func(path string) ([]byte, error) {
				if content, ok := files[path]; ok {
					return []byte(content), nil
				}
				return nil, os.ErrNotExist
			}})
			for _, p := range problems {
				t.Errorf("%s: %s, in\n%s", filepath.Base(page), p, m[1])
			}
			if loaded++; len(cfg.Apps) != 1 {
				t.Errorf("%s: %d apps", filepath.Base(page), len(cfg.Apps))
			}
		}
	}
	if loaded < 9 {
		t.Errorf("%d configurations", loaded)
	}
}

// credentials are a private key and a certificate for it, as PEM.
func credentials(t *testing.T) (key, certificate string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}))
}
