package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"
)

// A real Keycloak, as docs/providers/keycloak.md has it: its users log in at its pages, its tokens open both doors.

const keycloakPassword = "a-password-for-tests-only"

// keycloak is a server with one realm, e2e/testdata/keycloak/realm.json.
type keycloak struct {
	issuer, https string // the realm, by http and by https
	endpoints
}

// keycloakHome is where `make keycloak` put the program. Without Java there is none, and no way for us to bring it.
func keycloakHome(t *testing.T) string {
	t.Helper()
	home := os.Getenv("KEYCLOAK_HOME")
	if home == "" {
		if found, _ := filepath.Glob(filepath.Join("..", "build", "keycloak-*")); len(found) == 1 {
			home = found[0]
		}
	}
	if _, err := os.Stat(filepath.Join(home, ".done")); home == "" || err != nil {
		version, _ := exec.CommandContext(t.Context(), "java", "-version").CombinedOutput()
		_, err := exec.LookPath("mvn")
		if !regexp.MustCompile(`version "(1[7-9]|[2-9][0-9])`).Match(version) || err != nil {
			t.Skipf("KEYCLOAK IS NOT TESTED: it needs Java 17 and Maven, which this machine lacks (%v)", err)
		}
		t.Fatal("there is no Keycloak; run `make keycloak` first")
	}
	abs, err := filepath.Abs(home)
	must(t, err)
	return abs
}

// newKeycloak starts a server that keeps everything in memory and in w's directory.
func newKeycloak(t *testing.T, w *world, publicKey *ecdsa.PublicKey) *keycloak {
	t.Helper()
	program, home := keycloakHome(t), w.path("keycloak")
	must(t, os.MkdirAll(filepath.Join(home, "data", "import"), 0o700))
	must(t, mkdir(filepath.Join(home, "bin")))
	for _, shared := range []string{"lib", "conf", "providers", "themes"} {
		must(t, os.Symlink(filepath.Join(program, shared), filepath.Join(home, shared)))
	}
	w.write("keycloak/bin/kc.sh", contents(t, program, "bin", "kc.sh"))
	w.write("keycloak/data/import/realm.json", strings.NewReplacer("@GATEWAY", w.url, "@SECRET", gatewaySecret, "@PASSWORD", keycloakPassword,
		"@JWKS", strings.ReplaceAll(jwks(t, publicKey), `"`, `\"`)).Replace(contents(t, "testdata", "keycloak", "realm.json")))
	plain, secure := freePort(t), freePort(t)
	_, plainPort, _ := strings.Cut(plain, ":")
	_, securePort, _ := strings.Cut(secure, ":")
	spawn(t, []string{"JAVA_OPTS_APPEND=-XX:TieredStopAtLevel=1"}, nil, "sh", filepath.Join(home, "bin", "kc.sh"), "start", "--optimized", "--import-realm",
		"--cache=local", "--hostname=http://"+plain, "--hostname-backchannel-dynamic=true", "--http-enabled=true", "--http-host=127.0.0.1",
		"--http-port="+plainPort, "--https-port="+securePort, "--https-certificate-file="+w.path("cert.pem"),
		"--https-certificate-key-file="+w.path("key.pem"), "--truststore-paths="+w.path("ca.pem"))
	k := &keycloak{issuer: "http://" + plain + "/realms/acme", https: "https://" + secure + "/realms/acme"}
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(200 * time.Millisecond) {
		if resp, err := client.Get(k.issuer + "/.well-known/openid-configuration"); err == nil {
			err := json.NewDecoder(resp.Body).Decode(&k.endpoints)
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK && err == nil {
				return k
			}
		}
		if time.Now().After(deadline) {
			t.Fatal("Keycloak did not start")
		}
	}
}

// jwks is a set of one key, key-1 (RFC 7517).
func jwks(t *testing.T, key *ecdsa.PublicKey) string {
	t.Helper()
	point, err := key.Bytes()
	must(t, err)
	half := base64.RawURLEncoding.EncodeToString
	return fmt.Sprintf(`{"keys":[{"kty":"EC","crv":"P-256","use":"sig","alg":"ES256","kid":"key-1","x":%q,"y":%q}]}`, half(point[1:33]), half(point[33:]))
}

// variants are apps in front of the same server, each with one setting that is not the page's.
var variants = []struct{ name, settings, tools string }{
	{"loose", "requireSubjectScopes: false", "{name: getItem, ttl: 60s, scopes: [item:Get]}, {name: createItem, ttl: 60s, scopes: [item:Create]}"},
	{"brief", `ttlParameter: requested_expires_in`, "{name: listItems, ttl: 5s, scopes: [item:List]}"},
	{"longer", "longerLifetimes: accept", "{name: listItems, ttl: 5s, scopes: [item:List]}"},
	{"elsewhere", "audience: https://elsewhere.example.com/", "{name: listItems, ttl: 60s, scopes: [item:List]}"},
	{"resource", "resource: https://items.example.com/", "{name: listItems, ttl: 60s, scopes: [item:List]}"},
	{"key", "idp: with-a-key", "{name: listItems, ttl: 60s, scopes: [item:List]}"},
	{"certificate", "idp: with-a-certificate", "{name: listItems, ttl: 60s, scopes: [item:List]}"},
}

// keycloakVariants are those as pieces of configuration.
func keycloakVariants(k *keycloak) string {
	out := "tls:\n  acme:\n    caFile: ca.pem\n    certFile: cert.pem\n    keyFile: key.pem\nconnectors:\n" +
		"  - name: with-a-key\n    type: oidc\n    oidcWellKnownURL: " + k.issuer + "/.well-known/openid-configuration\n" +
		"    oauthClientID: gateway-with-a-key\n    privateKeyFile: client.pem\n    keyID: key-1\n" +
		"  - name: with-a-certificate\n    type: oidc\n    oidcWellKnownURL: " + k.https + "/.well-known/openid-configuration\n" +
		"    oauthClientID: gateway-with-a-certificate\n    tokenEndpointAuthMethod: tls_client_auth\n    tls: acme\napps:\n"
	for _, v := range variants {
		settings := "          " + v.settings + "\n"
		for key, value := range map[string]string{"idp": "keycloak", "audience": "https://items.example.com/", "ttlParameter": `""`} {
			if !strings.HasPrefix(v.settings, key+":") {
				settings += "          " + key + ": " + value + "\n"
			}
		}
		out += "  - name: " + v.name + "\n    type: mcpProxy\n    toolNamespace:\n      name: " + v.name + "_\n" +
			"    upstream:\n      stream:\n        url: http://@ITEMS/mcp\n    authorization:\n      inbound:\n        opa:\n          file: all.rego\n" +
			"      outbound:\n        type: tokenExchange\n        tokenExchange:\n" + settings + "          tools: [" + v.tools + "]\n"
	}
	return out
}

func TestKeycloak(t *testing.T) {
	w := newWorld(t)
	keycloakHome(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	w.write("client.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	w.write("all.rego", "package orchestrator\nresult[\"allowed\"] := true\n")
	w.certificates()
	k := newKeycloak(t, w, &key.PublicKey)
	w.pageConfig("keycloak.md", []string{"https://login.example.com/realms/acme", k.issuer}, keycloakVariants(k))
	w.edit("sallyport.yaml", "seed.rego", "all.rego")
	w.run()
	wile := newBrowser(user, keycloakPassword)
	w.token = wile.tokens(t, k.endpoints, agentClient, "", "item:List")["access_token"].(string)

	t.Run("an exchanged token", func(t *testing.T) { k.exchanged(t, w) })
	t.Run("scopes", func(t *testing.T) { k.scopes(t, w) })
	t.Run("lifetimes", func(t *testing.T) { k.lifetimes(t, w) })
	t.Run("audiences", func(t *testing.T) { k.audiences(t, w) })
	t.Run("client authentication", func(t *testing.T) { k.clientAuthentication(t, w) })
	t.Run("agents", func(t *testing.T) { k.agents(t, w, wile) })
}

// upstreamToken calls a tool, and returns the claims of the token that arrived with the call.
func (w *world) upstreamToken(t *testing.T, tool string) jwt.MapClaims {
	t.Helper()
	before := len(w.items.calls())
	a := w.send(modern(tool, `{}`))
	calls := w.items.calls()
	if a.RPC.Result == nil || len(calls) != before+1 {
		t.Fatalf("%s: %s, %d calls arrived", tool, a, len(calls)-before)
	}
	return claims(t, bearerOf(calls[before]))
}

// lastDecision is the newest decision in the audit.
func (w *world) lastDecision() record {
	var last record
	for _, r := range w.audit() {
		if r["kind"] == "decision" {
			last = r
		}
	}
	return last
}

func (k *keycloak) exchanged(t *testing.T, w *world) {
	agent, got := claims(t, w.token), w.upstreamToken(t, "items_listItems")
	if life := got["exp"].(float64) - got["iat"].(float64); life != 60 {
		t.Errorf("it lives for %v s", life)
	}
	for _, varying := range []string{"exp", "iat", "jti", "sid"} {
		delete(got, varying)
	}
	want := jwt.MapClaims{"iss": k.issuer, "sub": agent["sub"], "azp": w.url, "aud": "https://items.example.com/", "typ": "Bearer",
		"scope": "item:List", "act": map[string]any{"sub": w.url}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if agent["azp"] != agentClient || agent["sub"] == "" {
		t.Errorf("the agent's token: %v", agent)
	}
}

func (k *keycloak) scopes(t *testing.T, w *world) {
	before := len(w.items.calls())
	a := w.send(modern("items_getItem", `{}`))
	if challenge := a.Header.Get("WWW-Authenticate"); a.Status != http.StatusForbidden || !strings.Contains(challenge, `scope="item:Get"`) {
		t.Errorf("a scope that the agent's token lacks: %s, %s", a, challenge)
	}
	if n := len(w.items.calls()); n != before {
		t.Errorf("%d calls went on", n-before)
	}
	// Keycloak alone would have given it.
	if got := w.upstreamToken(t, "loose_getItem"); got["scope"] != "item:Get" {
		t.Errorf("without requireSubjectScopes: %v", got)
	}
	// To whoever has the role behind a scope, at least.
	runner := newBrowser(otherUser, keycloakPassword).tokens(t, k.endpoints, agentClient, "", "item:List item:Create")["access_token"].(string)
	if got := claims(t, runner)["scope"]; got != "item:List" {
		t.Errorf("a login without the role: %v", got)
	}
	r := modern("loose_createItem", `{}`)
	r.token = runner
	if a := w.send(r); a.Status != http.StatusServiceUnavailable || w.lastDecision()["outcome"] == "allowed" {
		t.Errorf("a call without the role: %s, %v", a, w.lastDecision())
	}
}

func (k *keycloak) lifetimes(t *testing.T, w *world) {
	before := len(w.items.calls())
	a := w.send(modern("brief_listItems", `{}`)) // Keycloak does not read requested_expires_in
	message, _ := w.lastDecision()["message"].(string)
	if a.Status != http.StatusServiceUnavailable || !strings.Contains(message, "lifetime_longer") || len(w.items.calls()) != before {
		t.Errorf("a token that lives longer: %s, %q", a, message)
	}
	w.upstreamToken(t, "longer_listItems")
	if message, _ = w.lastDecision()["message"].(string); !strings.Contains(message, "longer") {
		t.Errorf("the audit of a token that lives longer: %q", message)
	}
}

func (k *keycloak) audiences(t *testing.T, w *world) {
	before := len(w.items.calls())
	a := w.send(modern("elsewhere_listItems", `{}`))
	decision := w.lastDecision()
	message, _ := decision["message"].(string)
	if text, _ := a.isError(); text == "" || strings.Contains(text, "Audience") || len(w.items.calls()) != before {
		t.Errorf("an audience that Keycloak does not have: %s", a)
	}
	if !strings.Contains(message, "invalid_client") {
		t.Errorf("the audit: %v", decision)
	}
	// resource says nothing to Keycloak; audience, beside it, does.
	if got := w.upstreamToken(t, "resource_listItems"); got["aud"] != "https://items.example.com/" {
		t.Errorf("with resource: %v", got)
	}
}

func (k *keycloak) clientAuthentication(t *testing.T, w *world) {
	for tool, azp := range map[string]string{"key_listItems": "gateway-with-a-key", "certificate_listItems": "gateway-with-a-certificate"} {
		if got := w.upstreamToken(t, tool); got["azp"] != azp || got["act"] != nil {
			t.Errorf("%s: %v", tool, got)
		}
	}
}

// agents log in by themselves: the first token has no scope, and the 403 of the first call says what to ask for.
func (k *keycloak) agents(t *testing.T, w *world, wile *userAgent) {
	ids := map[string]string{"registration": "", "metadata document": metadataDocument(t, w)}
	for name, document := range ids {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			cs, call := wile.logsInAndCalls(ctx, t, w, document)
			defer func() { _ = cs.Close() }()
			if got := claims(t, bearerOf(call)); got["sub"] != claims(t, w.token)["sub"] || got["scope"] != "item:List" {
				t.Errorf("the upstream got %v", got)
			}
			id, _ := w.lastDecision()["client_id"].(string)
			if document != "" && id != document || document == "" && !regexp.MustCompile(`^[0-9a-f-]{36}$`).MatchString(id) {
				t.Errorf("the client is %q", id)
			}
		})
	}
}
