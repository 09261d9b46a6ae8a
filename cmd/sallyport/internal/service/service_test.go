package service

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/config"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const twoApps = `http:
  address: 127.0.0.1:8080
  allowedHosts: [one.example]
admin:
  address: 127.0.0.1:9902
audit:
  file: audit.jsonl
session:
  key: <sallyport.sessionKey>
connectors:
  - name: idp
    type: oidc
    oidcWellKnownURL: https://idp.example/.well-known/openid-configuration
    oauthClientID: gateway
    oauthClientSecret: <gateway.clientSecret>
mcpProvider:
  transports:
    sse:
      enabled: true
    stream:
      session:
        headerName: X-Session-Id
  authorization:
    oauth:
      servers:
        - wellKnownEndpoint: https://one.example/.well-known/oauth-authorization-server
          tokenValidation:
            expectedAudiences: [https://gateway.example/]
        - wellKnownEndpoint: https://two.example/.well-known/oauth-authorization-server
          tokenValidation:
            expectedAudiences: [https://gateway.example/mcp]
            method: introspection
            introspection: {clientID: gateway, clientSecret: "<gateway.introspection>"}
apps:
  - name: items
    type: mcpProxy
    toolNamespace:
      name: items_
    upstream:
      stream:
        url: https://items.example/mcp
        tls: client
        connection:
          dialTimeout: 3s
          keepAlive:
            interval: 7s
    authorization:
      inbound:
        opa:
          name: items-authz
          file: items.rego
      outbound:
        type: tokenExchange
        tokenExchange:
          type: delegation
          idp: idp
          audience: https://items.example/
          timeout: 9s
          tools:
            - name: get
              ttl: 5s
              scopes:
                - name: item:Get
  - name: open
    type: mcpProxy
    toolNamespace:
      name: open_
    upstream:
      stream:
        url: http://open.internal/mcp
    authorization:
      inbound:
        opa:
          rego: |
            package orchestrator
            result["allowed"] := true
      outbound:
        type: unprotected
tls:
  client:
    caFile: ca.pem
    minVersion: 1.3
authProvider:
  address: 127.0.0.1:7777
  users:
    - subject: ann
  clients:
    - id: gateway
      secret: <sts.secret>
      grants: [client_credentials]
`

// files is a directory with a configuration and what it refers to.
type files struct {
	t   testing.TB
	dir string
}

func newFiles(t testing.TB) files {
	t.Helper()
	f := files{t, t.TempDir()}
	f.write("c.yaml", twoApps)
	f.write("items.rego", "package orchestrator\nresult[\"allowed\"] := true\n")
	f.write("secrets.yaml", "secrets:\n  gateway.clientSecret: first-secret-of-gateway\n  gateway.introspection: first-secret-for-questions\n  sts.secret: first-secret-of-client\n  sallyport.sessionKey: 0123456789abcdef0123456789abcdef\n")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	f.write("ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})))
	return f
}

func (f files) path(name string) string { return filepath.Join(f.dir, name) }

func (f files) write(name, content string) {
	must(f.t, os.WriteFile(f.path(name), []byte(content), 0o600))
}

func (f files) edit(name, old, changed string) {
	f.t.Helper()
	content, err := os.ReadFile(f.path(name))
	must(f.t, err)
	if !strings.Contains(string(content), old) {
		f.t.Fatalf("%s does not contain %q", name, old)
	}
	f.write(name, strings.Replace(string(content), old, changed, 1))
}

func (f files) load() (*config.Config, []config.Problem) {
	return config.Load(f.path("c.yaml"), config.Options{SecretProvider: "secretfile://" + f.path("secrets.yaml")})
}

func (f files) config() *config.Config {
	f.t.Helper()
	cfg, problems := f.load()
	for _, p := range problems {
		if !p.Warning {
			f.t.Fatal(p)
		}
	}
	return cfg
}

func (f files) service() *Service { return f.serviceFor(false) }

func (f files) serviceFor(dynamic bool) *Service {
	f.t.Helper()
	f.t.(*testing.T).Setenv("XDG_RUNTIME_DIR", f.dir)
	s, err := New(Options{Config: f.config(), File: f.path("c.yaml"), Load: f.load, Dynamic: dynamic, Log: slog.New(slog.DiscardHandler), Version: "test"})
	must(f.t, err)
	f.t.Cleanup(func() { _ = s.audit.Close() })
	return s
}

func TestReady(t *testing.T) {
	s := newFiles(t).service()
	ready, checks := s.Ready()
	if ready || checks["keys"] || !checks["policies"] || checks["exchange"] || checks["catalogue"] || !checks["serving"] {
		t.Errorf("before anything runs: %v", checks)
	}
	s.Drain()
	if _, checks := s.Ready(); checks["serving"] {
		t.Error("draining is serving")
	}
}

func TestAdmin(t *testing.T) {
	s := newFiles(t).service()
	get := func(method, path string) (int, string) {
		w := httptest.NewRecorder()
		s.adminHandler().ServeHTTP(w, httptest.NewRequest(method, path, nil))
		body, err := io.ReadAll(w.Result().Body)
		must(t, err)
		return w.Code, string(body)
	}
	status, body := get("GET", "/ready")
	var state struct {
		Ready  bool
		Checks map[string]bool
	}
	must(t, json.Unmarshal([]byte(body), &state))
	if status != 503 || state.Ready || len(state.Checks) == 0 || state.Checks["keys"] {
		t.Errorf("/ready: %d %s", status, body)
	}
	// Two issuers that nobody has reached yet must not spoil the page.
	status, body = get("GET", "/metrics")
	for _, want := range []string{"sallyport_ready_state 0", "sallyport_config_last_reload_successful 1", `sallyport_build_info{`,
		`sallyport_keyset_keys{issuer=`, "go_goroutines"} {
		if status != 200 || !strings.Contains(body, want) {
			t.Errorf("/metrics: %d, %q is missing in %d bytes: %.300s", status, want, len(body), body)
			break
		}
	}
	for _, secret := range []string{"first-secret", "0123456789abcdef"} {
		if strings.Contains(body, secret) {
			t.Errorf("/metrics shows %s", secret)
		}
	}
	for _, r := range [][2]string{{"POST", "/ready"}, {"GET", "/debug/pprof/"}, {"GET", "/"}, {"POST", "/metrics"}} {
		if status, _ := get(r[0], r[1]); status < 400 {
			t.Errorf("%v: %d", r, status)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	for name, breakIt := range map[string]func(f files, c *config.Config){
		"unreadable trust":     func(f files, _ *config.Config) { must(t, os.Remove(f.path("ca.pem"))) },
		"unwritable audit":     func(_ files, c *config.Config) { c.Audit.File = "/nonexistent/audit.jsonl" },
		"a short session key":  func(_ files, c *config.Config) { c.Session.Key = "short" },
		"an app sans policy":   func(_ files, c *config.Config) { c.Apps[0].Authorization.Inbound.OPA = nil },
		"an idp of no name":    func(_ files, c *config.Config) { c.Apps[0].Authorization.Outbound.TokenExchange.IDP = "none" },
		"a socket path's size": func(_ files, c *config.Config) { c.Service.Address = "unix:/" + strings.Repeat("x", 120) + "/s" },
	} {
		f := newFiles(t)
		f.edit("c.yaml", "    oauthClientID: gateway\n", "    oauthClientID: gateway\n    tls: client\n")
		cfg := f.config()
		breakIt(f, cfg)
		s, err := New(Options{Config: cfg, File: f.path("c.yaml"), Load: f.load, Log: slog.New(slog.DiscardHandler)})
		if err == nil {
			t.Errorf("%s: accepted", name)
			_ = s.audit.Close()
		}
	}
}
