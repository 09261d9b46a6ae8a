package service

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/cmd/sallyport/internal/config"
)

// A canary is alive only when this service refused it.
func TestCanary(t *testing.T) {
	var c *canary
	answer := map[string]http.HandlerFunc{
		"refused by the service": func(w http.ResponseWriter, r *http.Request) {
			nonce := r.Header.Get(authz.CanaryHeader)
			echo, ok := c.Echo(nonce)
			if _, again := c.Echo(nonce); !ok || again {
				t.Error("a nonce is good once")
			}
			w.Header().Set(authz.CanaryHeader, echo)
			w.WriteHeader(http.StatusUnauthorized)
		},
		"let through":        func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{}") },
		"refused by another": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) },
		"sent back": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set(authz.CanaryHeader, r.Header.Get(authz.CanaryHeader))
			w.WriteHeader(http.StatusUnauthorized)
		},
		"let through with the echo": func(w http.ResponseWriter, r *http.Request) {
			echo, _ := c.Echo(r.Header.Get(authz.CanaryHeader))
			w.Header().Set(authz.CanaryHeader, echo)
		},
		"turned away": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTooManyRequests) },
		"redirected":  func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) },
	}
	for name, handler := range answer {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(handler)
			defer server.Close()
			c = makeCanary(t, server.URL, nil, slog.New(slog.DiscardHandler))
			want, known := map[string]error{"refused by the service": nil, "turned away": errCrowded}[name]
			if !known {
				want = errNotRefused
			}
			if err := c.send(t.Context()); !errors.Is(err, want) {
				t.Error(err)
			}
			if _, ok := c.Echo(""); ok {
				t.Error("an empty nonce is taken")
			}
		})
	}
}

func makeCanary(t *testing.T, url string, profile *config.TLS, log *slog.Logger) *canary {
	t.Helper()
	cfg := newFiles(t).config()
	cfg.Service.Canary = url
	if profile != nil {
		cfg.HTTP.TLS, cfg.TLS = "agents", map[string]*config.TLS{"agents": profile}
	}
	c, err := newCanary(Options{Config: cfg, Log: log})
	must(t, err)
	return c
}

// Our own certificate is trusted whatever it names, and no other.
func TestCanaryPinsTheListener(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	ours, other := httptest.NewUnstartedServer(handler), httptest.NewTLSServer(handler)
	f := newFiles(t)
	cert, key := keyPair(t)
	f.write("cert.pem", cert)
	f.write("key.pem", key)
	pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	must(t, err)
	ours.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	ours.StartTLS()
	defer ours.Close()
	defer other.Close()
	profile := &config.TLS{CertFile: f.path("cert.pem"), KeyFile: f.path("key.pem")}
	log := slog.New(slog.DiscardHandler)
	if err := makeCanary(t, ours.URL, profile, log).send(t.Context()); !errors.Is(err, errNotRefused) {
		t.Errorf("ours: %v, want an answer", err)
	}
	if err := makeCanary(t, other.URL, profile, log).send(t.Context()); !errors.Is(err, errNoAnswer) {
		t.Errorf("another's: %v, want none", err)
	}
	profile.ClientAuth, profile.ClientCAFiles = "RequireAndVerifyClientCert", []string{"ca.pem"}
	var said bytes.Buffer
	if c := makeCanary(t, ours.URL, profile, slog.New(slog.NewTextHandler(&said, nil))); c != nil || !strings.Contains(said.String(), "no canary") {
		t.Errorf("without a certificate to show: %v, log %q", c, said.String())
	}
}

func keyPair(t *testing.T) (cert, key string) {
	t.Helper()
	der, private := selfSigned(t)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
}

// Each change is said, and nothing twice.
func TestCanaryTells(t *testing.T) {
	var said bytes.Buffer
	c := makeCanary(t, "http://127.0.0.1:1", nil, slog.New(slog.NewTextHandler(&said, nil)))
	for _, step := range []struct {
		err   error
		level string
	}{{errNoAnswer, ""}, {nil, "INFO"}, {nil, ""}, {errNoAnswer, "ERROR"}, {errNoAnswer, ""}, {errNotRefused, "ERROR"}, {nil, "INFO"}} {
		said.Reset()
		c.tell(step.err)
		if got := said.String(); c.alive.Load() != (step.err == nil) || (got == "") != (step.level == "") || !strings.Contains(got, step.level) {
			t.Errorf("%v: said %q", step.err, got)
		}
	}
}

func selfSigned(t *testing.T) (der, private []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err = x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	private, err = x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	return der, private
}
