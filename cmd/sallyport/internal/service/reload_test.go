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
	"time"
)

// What a reload puts in force, and what it leaves to a restart. A change that it does neither with, that is one which
// looks as if it were in force and is not, is the mistake to catch.
func TestReload(t *testing.T) {
	for _, test := range []struct {
		name, file, old, changed string
		restart                  string // the key that a restart is needed for; "" when none is
	}{
		{"policy file", "items.rego", "true", "false", ""},
		{"inline policy", "c.yaml", `result["allowed"] := true`, `result["allowed"] := false`, ""},
		{"policy name", "c.yaml", "items-authz", "items-authz-2", ""},
		{"a tool", "c.yaml", "name: get\n", "name: fetch\n", ""},
		{"a lifetime", "c.yaml", "ttl: 5s", "ttl: 6s", ""},
		{"a scope", "c.yaml", "item:Get", "item:Read", ""},
		{"a scope of the agent's own", "c.yaml", "name: item:Get\n", "name: item:Get\n              requires: [item:Own]\n", ""},
		{"scopes to log in with", "c.yaml", "    oauth:\n", "    oauth:\n      scopesSupported: [items]\n", ""},
		{"unlisted tools", "c.yaml", "          timeout: 9s", "          timeout: 9s\n          unlistedTools: allow", ""},
		{"require act", "c.yaml", "          timeout: 9s", "          timeout: 9s\n          requireAct: true", ""},
		{"opaque tokens", "c.yaml", "          timeout: 9s", "          timeout: 9s\n          opaqueTokens: true", ""},
		{"longer lifetimes", "c.yaml", "          timeout: 9s", "          timeout: 9s\n          longerLifetimes: accept", ""},
		{"narrower scopes", "c.yaml", "          timeout: 9s", "          timeout: 9s\n          narrowerScopes: accept", ""},
		{"subject claim", "c.yaml", "          timeout: 9s", "          timeout: 9s\n          subjectClaim: oid", ""},
		{"subject scopes", "c.yaml", "          timeout: 9s", "          timeout: 9s\n          requireSubjectScopes: true", ""},
		{"big numbers", "c.yaml", "  - name: open\n", "  - name: open\n    allowBigNumbers: true\n", ""},
		{"list", "c.yaml", "  - name: open\n", "  - name: open\n    toolList: all\n", ""},
		{"a prompt", "c.yaml", "          timeout: 9s", "          timeout: 9s\n          prompts: [{name: ask, ttl: 5s, scopes: [item:Ask]}]", ""},
		{"a resource", "c.yaml", "          timeout: 9s", "          timeout: 9s\n          resources: [{uri: \"item://*\", ttl: 5s, scopes: [item:Read]}]", ""},
		{"the token of sessions", "c.yaml", "          timeout: 9s", "          timeout: 9s\n          session: {ttl: 60s, scopes: [item:Listen]}", ""},
		{"discovery", "c.yaml", "          timeout: 9s", "          timeout: 9s\n          discovery: {type: clientCredentials, ttl: 60s, scopes: [item:Look]}", ""},
		{"time of a call", "c.yaml", "  - name: open\n", "  - name: open\n    timeout: 30s\n", ""},
		{"time of a tool", "c.yaml", "  - name: open\n", "  - name: open\n    toolTimeouts: [{name: slow*, timeout: 1h}]\n", ""},
		{"hosts", "c.yaml", "one.example]", "one.example, two.example]", ""},
		{"origins", "c.yaml", "  allowedHosts", "  allowedOrigins: [https://one.example]\n  allowedHosts", ""},
		{"client secret", "secrets.yaml", "first-secret-of-gateway", "other-secret-of-gateway", ""},
		{"a comment", "c.yaml", "http:", "# a comment\nhttp:", ""},

		{"audience of the gateway", "c.yaml", "[https://gateway.example/mcp]", "[https://gateway.example/two]", ""},
		{"issuer", "c.yaml", "https://two.example", "https://three.example", ""},
		{"binding", "c.yaml", "            method: introspection\n", "            method: introspection\n            binding: optional\n", ""},
		{"secret for questions", "secrets.yaml", "first-secret-for-questions", "other-secret-for-questions", ""},
		{"audience of an app", "c.yaml", "audience: https://items.example/", "audience: https://other.example/", ""},
		{"exchange's deadline", "c.yaml", "timeout: 9s", "timeout: 8s", ""},
		{"reuse", "c.yaml", "timeout: 9s", "timeout: 9s\n          reuse: 1m", ""},
		{"breaker", "c.yaml", "    oauthClientID: gateway\n", "    oauthClientID: gateway\n    breaker:\n      failures: 2\n", ""},
		{"additional parameter", "c.yaml", "    oauthClientID: gateway\n", "    oauthClientID: gateway\n    additionalParameters:\n      tenant: one\n", ""},
		{"upstream's era", "c.yaml", "      stream:\n        url: http://open", "      era: legacy\n      stream:\n        url: http://open", ""},
		{"namespace", "c.yaml", "name: open_", "name: other_", ""},

		{"address", "c.yaml", "127.0.0.1:8080", "127.0.0.1:8081", "http.address"},
		{"admin", "c.yaml", "127.0.0.1:9902", "127.0.0.1:9903", "admin.address"},
		{"audit", "c.yaml", "audit.jsonl", "other.jsonl", "audit.file"},
		{"a deadline beyond Envoy's", "c.yaml", "timeout: 9s", "timeout: 10s", "apps.items.authorization.outbound.tokenExchange.timeout"},
		{"the old transport", "c.yaml", "    sse:\n      enabled: true", "    sse:\n      enabled: false", "mcpProvider.transports"},
		{"session header", "c.yaml", "X-Session-Id", "X-Other", "mcpProvider.transports"},
		{"clock skew", "c.yaml", "            method: introspection\n", "            method: introspection\n            jwt: {clockSkew: 1m}\n", "clockSkew"},
		{"proofs", "c.yaml", "    oauth:\n", "    oauth:\n      dpop: {proofAge: 10s}\n", "oauth.dpop"},
		{"session key", "secrets.yaml", "0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210", "session.key"},
		{"a client of the embedded server", "secrets.yaml", "first-secret-of-client", "other-secret-of-client", "authProvider"},
		{"users of the embedded server", "c.yaml", "subject: ann", "subject: bob", "authProvider"},
		{"the size of a message", "c.yaml", "  allowedHosts", "  maxRequestBytes: 2048\n  allowedHosts", "http.maxRequestBytes"},
		{"the hub's way", "c.yaml", "authProvider:", "service:\n  upstreams: direct\nauthProvider:", "service"},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFiles(t)
			s := f.service()
			before := s.now()
			f.edit(test.file, test.old, test.changed)
			f.checkReload(s, before, test.restart)
		})
	}
}

// checkReload reloads: the change is in force, or, where a key is given, refused with its name.
func (f files) checkReload(s *Service, before *state, restart string) {
	f.t.Helper()
	if !before.cfg.Changed() {
		f.t.Fatal("the change is not noticed")
	}
	_, err := s.reload(f.t.Context())
	changed := s.now() != before
	var refused restartError
	if restart != "" && (!errors.As(err, &refused) || len(refused) != 1 || !strings.Contains(refused[0], restart) || changed) {
		f.t.Errorf("looks as if it were in force: error %v, changed %v", err, changed)
	}
	if restart == "" && (err != nil || !changed) {
		f.t.Errorf("not in force: error %v, changed %v", err, changed)
	}
}

// With what Envoy has from a file a reload has to keep to that; what Envoy asks for can change.
func TestReloadOfWhatEnvoyHas(t *testing.T) {
	const third = "  - name: third\n    type: mcpProxy\n    toolNamespace: {name: third_}\n    upstream: {stream: {url: \"http://third.internal/mcp\"}}\n" +
		"    authorization:\n      inbound: {opa: {rego: \"package orchestrator\"}}\n      outbound: {type: unprotected}\n"
	for _, test := range []struct{ name, old, changed, restart string }{
		{"another server", "http://open.internal/mcp", "http://other.internal/mcp", "apps.open.upstream"},
		{"its transport", "      stream:\n        url: http://open", "      transport: sse\n      sse:\n        url: http://open", "apps.open.upstream"},
		{"its connections", "dialTimeout: 3s", "dialTimeout: 4s", "apps.items.upstream"},
		{"its trust", "minVersion: 1.3", "minVersion: 1.2", "apps.items.upstream"},
		{"one more app", "tls:\n  client:", third + "tls:\n  client:", "apps.third.upstream"},
		{"another name", "  - name: open\n", "  - name: opened\n", "apps.open.upstream, apps.opened.upstream"},
	} {
		for _, dynamic := range []bool{true, false} {
			f := newFiles(t)
			s := f.serviceFor(dynamic)
			before := s.now()
			f.edit("c.yaml", test.old, test.changed)
			if dynamic {
				f.checkReload(s, before, "")
				continue
			}
			if _, err := s.reload(t.Context()); s.now() != before || err == nil || err.Error() != test.restart+": a change takes effect on a restart only" {
				t.Errorf("%s: %v", test.name, err)
			}
		}
	}
}

// Trust that has been renewed is in force: a connector with it has a new client.
func TestReloadOfCertificates(t *testing.T) {
	f := newFiles(t)
	f.edit("c.yaml", "    oauthClientID: gateway\n", "    oauthClientID: gateway\n    tls: client\n")
	s := f.serviceFor(true)
	before := s.now()
	other := newFiles(t)
	content, err := readFile(other.path("ca.pem"))
	must(t, err)
	f.write("ca.pem", content)
	f.checkReload(s, before, "")
	if s.now().clients["items"] == before.clients["items"] {
		t.Error("the connector trusts whom it did before")
	}
}

// What has not changed stays: connections, circuits, caches and counters with it.
func TestReloadKeepsWhatHasNotChanged(t *testing.T) {
	f := newFiles(t)
	s := f.serviceFor(true)
	before := s.now()
	f.edit("c.yaml", "http://open.internal/mcp", "http://other.internal/mcp")
	f.edit("secrets.yaml", "first-secret-of-gateway", "other-secret-of-gateway")
	f.checkReload(s, before, "")
	after := s.now()
	if after.verifier != before.verifier || after.clients["items"] != before.clients["items"] {
		t.Error("something was made anew")
	}
	if a, b := before.gate.Apps(), after.gate.Apps(); a[0].Route != b[0].Route || a[1].Route == b[1].Route {
		t.Errorf("routes %s %s, before %s %s", b[0].Route, b[1].Route, a[0].Route, a[1].Route)
	}
	retired := after.retired()
	if len(retired) != 1 || retired[0] != before.gate.Apps()[1] || len(after.everyApp()) != 3 {
		t.Errorf("leaving: %v", retired)
	}
	f.edit("c.yaml", "https://two.example", "https://three.example")
	f.checkReload(s, after, "")
	if s.now().verifier == after.verifier {
		t.Error("the verifier is the one before")
	}
	if n := len(s.now().leaving); n != 2 {
		t.Errorf("%d are leaving", n)
	}
	s.dismiss(t.Context(), time.Now())
	if n := len(s.now().leaving); n != 2 {
		t.Errorf("%d are leaving, some too soon", n)
	}
	s.dismiss(t.Context(), time.Now().Add(s.grace()+time.Second))
	if len(s.now().leaving) != 0 || len(s.now().everyApp()) != 2 {
		t.Error("something stays for ever")
	}
}

// An app that comes back while it is leaving is one app.
func TestReloadThereAndBack(t *testing.T) {
	f := newFiles(t)
	s := f.serviceFor(true)
	for range 3 {
		before := s.now()
		f.edit("c.yaml", "http://open.internal/mcp", "http://other.internal/mcp")
		f.checkReload(s, before, "")
		before = s.now()
		f.edit("c.yaml", "http://other.internal/mcp", "http://open.internal/mcp")
		f.checkReload(s, before, "")
	}
	if n := len(s.now().everyApp()); n != 3 {
		t.Errorf("%d apps", n)
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
	first := s.now().mints["mint"].keys.Current()
	f.edit("c.yaml", strings.ReplaceAll(strings.TrimSpace(one), "\n", "\n      "), strings.ReplaceAll(strings.TrimSpace(two), "\n", "\n      "))
	_, err := s.reload(t.Context())
	must(t, err)
	if s.now().mints["mint"].keys.Current() == first {
		t.Error("the old key signs")
	}
	set := httptest.NewRecorder()
	s.now().mints["mint"].keys.ServeHTTP(set, nil)
	if n := strings.Count(set.Body.String(), `"kid"`); n != 2 || !strings.Contains(set.Body.String(), first) {
		t.Errorf("%d keys are published", n)
	}
	f.edit("c.yaml", "    keys: |\n      "+strings.ReplaceAll(strings.TrimSpace(two), "\n", "\n      "), "    keyDir: keys")
	keys := s.now().mints["mint"].keys
	_, err = s.reload(t.Context())
	must(t, err)
	if s.now().mints["mint"].keys == keys {
		t.Error("other keys altogether are not in force")
	}
}

func TestReloadOfWhatDoesNotLoad(t *testing.T) {
	f := newFiles(t)
	s := f.service()
	before := s.now().gate
	for name, spoil := range map[string]func(){
		"policy":    func() { f.write("items.rego", "package orchestrator\nresult[") },
		"structure": func() { f.write("c.yaml", "apps: 1") },
		"empty":     func() { f.write("c.yaml", "") },
	} {
		spoil()
		cfg, err := s.reload(t.Context())
		if err == nil || s.now().gate != before || cfg == nil {
			t.Errorf("%s: %v", name, err)
		}
		if !cfg.Changed() && len(cfg.Files()) == 0 {
			t.Errorf("%s: the cure would not be noticed", name)
		}
	}
	f.write("c.yaml", twoApps)
	f.write("items.rego", "package orchestrator\nresult[\"allowed\"] := false\n")
	if _, err := s.reload(t.Context()); err != nil || s.now().gate == before {
		t.Errorf("the cure: %v", err)
	}
}

func TestReloadErrorsSayWhere(t *testing.T) {
	f := newFiles(t)
	s := f.service()
	f.edit("c.yaml", "allowedHosts", "allowedHots")
	if _, err := s.reload(t.Context()); err == nil || !strings.Contains(err.Error(), "c.yaml:3:") {
		t.Errorf("%v", err)
	}
}
