package service

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	encodepem "encoding/pem"
	"errors"
	"net/http/httptest"
	"strings"
	"testing"
)

// What a reload puts in force, and what it leaves to a restart. A change that it does neither with, that is one which
// looks as if it were in force and is not, is the mistake to catch.
func TestReload(t *testing.T) {
	for _, test := range []struct {
		name, file, old, changed string
		restart                  bool
	}{
		{"policy file", "items.rego", "true", "false", false},
		{"inline policy", "c.yaml", `result["allowed"] := true`, `result["allowed"] := false`, false},
		{"policy name", "c.yaml", "items-authz", "items-authz-2", false},
		{"a tool", "c.yaml", "name: get\n", "name: fetch\n", false},
		{"a lifetime", "c.yaml", "ttl: 5s", "ttl: 6s", false},
		{"a scope", "c.yaml", "item:Get", "item:Read", false},
		{"a scope of the agent's own", "c.yaml", "name: item:Get\n", "name: item:Get\n              requires: [item:Own]\n", false},
		{"scopes to log in with", "c.yaml", "    oauth:\n", "    oauth:\n      scopesSupported: [items]\n", false},
		{"unlisted tools", "c.yaml", "          timeout: 9s", "          timeout: 9s\n          unlistedTools: allow", false},
		{"require act", "c.yaml", "          timeout: 9s", "          timeout: 9s\n          requireAct: true", false},
		{"opaque tokens", "c.yaml", "          timeout: 9s", "          timeout: 9s\n          opaqueTokens: true", false},
		{"longer lifetimes", "c.yaml", "          timeout: 9s", "          timeout: 9s\n          longerLifetimes: accept", false},
		{"narrower scopes", "c.yaml", "          timeout: 9s", "          timeout: 9s\n          narrowerScopes: accept", false},
		{"subject claim", "c.yaml", "          timeout: 9s", "          timeout: 9s\n          subjectClaim: oid", false},
		{"subject scopes", "c.yaml", "          timeout: 9s", "          timeout: 9s\n          requireSubjectScopes: true", false},
		{"big numbers", "c.yaml", "  - name: open\n", "  - name: open\n    allowBigNumbers: true\n", false},
		{"list", "c.yaml", "  - name: open\n", "  - name: open\n    toolList: all\n", false},
		{"a prompt", "c.yaml", "          timeout: 9s", "          timeout: 9s\n          prompts: [{name: ask, ttl: 5s, scopes: [item:Ask]}]", false},
		{"a resource", "c.yaml", "          timeout: 9s", "          timeout: 9s\n          resources: [{uri: \"item://*\", ttl: 5s, scopes: [item:Read]}]", false},
		{"the token of sessions", "c.yaml", "          timeout: 9s", "          timeout: 9s\n          session: {ttl: 60s, scopes: [item:Listen]}", false},
		{"discovery", "c.yaml", "          timeout: 9s", "          timeout: 9s\n          discovery: {type: clientCredentials, ttl: 60s, scopes: [item:Look]}", false},
		{"time of a call", "c.yaml", "  - name: open\n", "  - name: open\n    timeout: 30s\n", false},
		{"time of a tool", "c.yaml", "  - name: open\n", "  - name: open\n    toolTimeouts: [{name: slow*, timeout: 1h}]\n", false},
		{"hosts", "c.yaml", "one.example]", "one.example, two.example]", false},
		{"origins", "c.yaml", "  allowedHosts", "  allowedOrigins: [https://one.example]\n  allowedHosts", false},
		{"client secret", "secrets.yaml", "first-secret-of-gateway", "other-secret-of-gateway", false},
		{"a comment", "c.yaml", "http:", "# a comment\nhttp:", false},

		{"address", "c.yaml", "127.0.0.1:8080", "127.0.0.1:8081", true},
		{"admin", "c.yaml", "127.0.0.1:9902", "127.0.0.1:9903", true},
		{"audit", "c.yaml", "audit.jsonl", "other.jsonl", true},
		{"audience of the gateway", "c.yaml", "[https://gateway.example/mcp]", "[https://gateway.example/two]", true},
		{"issuer", "c.yaml", "https://two.example", "https://three.example", true},
		{"audience of an app", "c.yaml", "audience: https://items.example/", "audience: https://other.example/", true},
		{"exchange's deadline", "c.yaml", "timeout: 9s", "timeout: 8s", true},
		{"reuse", "c.yaml", "timeout: 9s", "timeout: 9s\n          reuse: 1m", true},
		{"breaker", "c.yaml", "    oauthClientID: gateway\n", "    oauthClientID: gateway\n    breaker:\n      failures: 2\n", true},
		{"additional parameter", "c.yaml", "    oauthClientID: gateway\n", "    oauthClientID: gateway\n    additionalParameters:\n      tenant: one\n", true},
		{"upstream", "c.yaml", "http://open.internal/mcp", "http://other.internal/mcp", true},
		{"upstream's era", "c.yaml", "      stream:\n        url: http://open", "      era: legacy\n      stream:\n        url: http://open", true},
		{"upstream's transport", "c.yaml", "      stream:\n        url: http://open", "      transport: sse\n      sse:\n        url: http://open", true},
		{"the old transport", "c.yaml", "    sse:\n      enabled: true", "    sse:\n      enabled: false", true},
		{"namespace", "c.yaml", "name: open_", "name: other_", true},
		{"session header", "c.yaml", "X-Session-Id", "X-Other", true},
		{"secret for questions", "secrets.yaml", "first-secret-for-questions", "other-secret-for-questions", true},
		{"binding", "c.yaml", "            method: introspection\n", "            method: introspection\n            binding: optional\n", true},
		{"session key", "secrets.yaml", "0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210", true},
		{"a client of the embedded server", "secrets.yaml", "first-secret-of-client", "other-secret-of-client", true},
		{"users of the embedded server", "c.yaml", "subject: ann", "subject: bob", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFiles(t)
			s := f.service()
			before := s.gate.Load()
			f.edit(test.file, test.old, test.changed)
			if !s.Config.Changed() {
				t.Fatal("the change is not noticed")
			}
			_, err := s.reload()
			changed := s.gate.Load() != before
			if test.restart && (!errors.Is(err, errRestart) || changed) {
				t.Errorf("looks as if it were in force: error %v, gate changed %v", err, changed)
			}
			if !test.restart && (err != nil || !changed) {
				t.Errorf("not in force: error %v, gate changed %v", err, changed)
			}
		})
	}
}

// A client secret may become another, but whether there is one settles how the gateway proves itself.
func TestClientSecretComesOrGoes(t *testing.T) {
	cfg := newFiles(t).config()
	before := fixed(cfg)
	cfg.Connectors[0].OAuthClientSecret = "other"
	if fixed(cfg) != before {
		t.Error("another secret takes a restart")
	}
	cfg.Connectors[0].OAuthClientSecret = ""
	if fixed(cfg) == before {
		t.Error("a secret that goes looks as if that were in force")
	}
}

// Trust that is read once at the start is not renewed by a reload that says it was successful.
func TestReloadOfCertificates(t *testing.T) {
	f := newFiles(t)
	f.edit("c.yaml", "    oauthClientID: gateway\n", "    oauthClientID: gateway\n    tls: client\n")
	s := f.service()
	other := newFiles(t)
	content, err := readFile(other.path("ca.pem"))
	must(t, err)
	f.write("ca.pem", content)
	if !s.Config.Changed() {
		t.Fatal("the change is not noticed")
	}
	if _, err := s.reload(); !errors.Is(err, errRestart) {
		t.Errorf("looks as if it were in force: %v", err)
	}
}

// Keys in the secret store follow each other without a restart; where keys come from does not change without one.
func TestReloadOfSigningKeys(t *testing.T) {
	pem := func() string {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(t, err)
		der, err := x509.MarshalPKCS8PrivateKey(key)
		must(t, err)
		return string(encodepem.EncodeToMemory(&encodepem.Block{Type: "PRIVATE KEY", Bytes: der}))
	}
	one, two := pem(), pem()
	f := newFiles(t)
	f.edit("c.yaml", "mcpProvider:", "  - name: mint\n    type: sts\n    oauthClientID: gateway\n    issuer: https://tokens.example\n    keys: |\n      "+
		strings.ReplaceAll(strings.TrimSpace(one), "\n", "\n      ")+"\nmcpProvider:")
	s := f.service()
	first := s.mints["mint"].keys.Current()
	f.edit("c.yaml", strings.ReplaceAll(strings.TrimSpace(one), "\n", "\n      "), strings.ReplaceAll(strings.TrimSpace(two), "\n", "\n      "))
	_, err := s.reload()
	must(t, err)
	if s.mints["mint"].keys.Current() == first {
		t.Error("the old key signs")
	}
	set := httptest.NewRecorder()
	s.mints["mint"].keys.ServeHTTP(set, nil)
	if n := strings.Count(set.Body.String(), `"kid"`); n != 2 || !strings.Contains(set.Body.String(), first) {
		t.Errorf("%d keys are published", n)
	}
	f.edit("c.yaml", "    keys: |\n      "+strings.ReplaceAll(strings.TrimSpace(two), "\n", "\n      "), "    keyDir: keys")
	if _, err := s.reload(); !errors.Is(err, errRestart) {
		t.Errorf("other keys altogether: %v", err)
	}
}

func TestReloadOfWhatDoesNotLoad(t *testing.T) {
	f := newFiles(t)
	s := f.service()
	before := s.gate.Load()
	for name, spoil := range map[string]func(){
		"policy":    func() { f.write("items.rego", "package orchestrator\nresult[") },
		"structure": func() { f.write("c.yaml", "apps: 1") },
		"empty":     func() { f.write("c.yaml", "") },
	} {
		spoil()
		cfg, err := s.reload()
		if err == nil || s.gate.Load() != before || cfg == nil {
			t.Errorf("%s: %v", name, err)
		}
		if !cfg.Changed() && len(cfg.Files()) == 0 {
			t.Errorf("%s: the cure would not be noticed", name)
		}
	}
	f.write("c.yaml", twoApps)
	f.write("items.rego", "package orchestrator\nresult[\"allowed\"] := false\n")
	if _, err := s.reload(); err != nil || s.gate.Load() == before {
		t.Errorf("the cure: %v", err)
	}
}

func TestReloadErrorsSayWhere(t *testing.T) {
	f := newFiles(t)
	s := f.service()
	f.edit("c.yaml", "allowedHosts", "allowedHots")
	if _, err := s.reload(); err == nil || !strings.Contains(err.Error(), "c.yaml:3:") {
		t.Errorf("%v", err)
	}
}
