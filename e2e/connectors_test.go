package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"
)

// bearerOf is the token that came with a call.
func bearerOf(r received) string { return strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ") }

// The gateway mints by itself, and whoever gets a token can verify it with what the gateway publishes.
func TestMintedToken(t *testing.T) {
	var issuer string
	w := start(t, func(w *world) {
		address := freePort(t)
		issuer = "http://" + address + "/tokens"
		w.edit("sallyport.yaml", "    type: oidc\n    oidcWellKnownURL: "+w.provider.URL+"/.well-known/openid-configuration\n",
			"    type: sts\n    keyDir: keys\n    address: "+address+"\n    issuer: "+issuer+"\n")
		w.edit("sallyport.yaml", "    oauthClientSecret: <gateway.clientSecret>\n", "")
		w.edit("sallyport.yaml", "          timeout: 2s\n", "")
	})
	for range 2 {
		if a := w.send(modern("my_server_listItems", `{}`)); a.RPC.Result == nil {
			t.Fatal(a)
		}
	}
	calls := w.items.calls()
	if len(calls) != 2 || bearerOf(calls[0]) == bearerOf(calls[1]) {
		t.Fatalf("%d calls, or one token for both", len(calls))
	}
	got := verified(t, issuer, bearerOf(calls[0]))
	issued, expiry := got["iat"].(float64), got["exp"].(float64)
	if life := expiry - issued; life <= 0 || life > 5 {
		t.Errorf("it lives for %v s", life)
	}
	for _, varying := range []string{"iat", "exp", "nbf", "jti"} {
		delete(got, varying)
	}
	want := jwt.MapClaims{"iss": issuer, "sub": user, "client_id": gatewayClient, "aud": "https://items.example/", "scope": "item:List",
		"act": map[string]any{"sub": gatewayClient, "act": map[string]any{"sub": agentClient}}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if n := len(w.provider.exchanges()); n != 0 {
		t.Errorf("the authorization server saw %d exchanges", n)
	}
	if want := `sallyport_connector_exchanges_total{app="my-mcp-server-proxy",outcome="minted"} 2`; !strings.Contains(w.metrics(), want) {
		t.Errorf("missing: %s", want)
	}
}

// verified are the claims of a token, found good by what its issuer publishes (RFC 8414, RFC 7517).
func verified(t *testing.T, issuer, token string) jwt.MapClaims {
	t.Helper()
	get := func(address string, into any) {
		resp, err := client.Get(address)
		must(t, err)
		defer func() { _ = resp.Body.Close() }()
		must(t, json.NewDecoder(resp.Body).Decode(into))
	}
	at, err := url.Parse(issuer)
	must(t, err)
	var metadata struct {
		Issuer string `json:"issuer"`
		Keys   string `json:"jwks_uri"`
	}
	get(at.Scheme+"://"+at.Host+"/.well-known/oauth-authorization-server"+at.Path, &metadata)
	var set struct {
		Keys []struct{ Kid, X, Y string }
	}
	get(metadata.Keys, &set)
	out := jwt.MapClaims{}
	_, err = jwt.ParseWithClaims(token, out, func(parsed *jwt.Token) (any, error) {
		for _, k := range set.Keys {
			if k.Kid != parsed.Header["kid"] {
				continue
			}
			point := []byte{4} // uncompressed, as SEC 1 has it
			for _, coordinate := range []string{k.X, k.Y} {
				b, err := base64.RawURLEncoding.DecodeString(coordinate)
				if err != nil {
					return nil, err
				}
				point = append(point, b...)
			}
			return ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
		}
		return nil, jwt.ErrTokenUnverifiable
	}, jwt.WithValidMethods([]string{"ES256"}), jwt.WithIssuer(metadata.Issuer), jwt.WithExpirationRequired(), jwt.WithLeeway(time.Minute))
	must(t, err)
	return out
}

// The gateway proves who it is with a key of its own, by a new assertion each time.
func TestPrivateKeyJWT(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	w := start(t, func(w *world) {
		w.write("client.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
		w.edit("sallyport.yaml", "    oauthClientSecret: <gateway.clientSecret>\n",
			"    tokenEndpointAuthMethod: private_key_jwt\n    privateKeyFile: client.pem\n    keyID: key-1\n")
		// The embedded server knows secrets only: what verifies the assertion goes on with the secret.
		w.provider.setOverride(func(rw http.ResponseWriter, r *http.Request) bool {
			return w.provider.assertion(t, &key.PublicKey, rw, r)
		})
	})
	for range 2 {
		if a := w.send(modern("my_server_listItems", `{}`)); a.RPC.Result == nil {
			t.Fatal(a)
		}
	}
	forms := w.provider.exchanges()
	if len(forms) != 2 || forms[0].Get("client_assertion") == forms[1].Get("client_assertion") {
		t.Errorf("%d exchanges, or one assertion for both", len(forms))
	}
	for _, f := range forms {
		if f.Has("client_secret") {
			t.Error("a secret was sent")
		}
	}
}

// assertion verifies a client assertion (RFC 7523 §3) and lets the embedded server answer.
func (p *provider) assertion(t *testing.T, key *ecdsa.PublicKey, w http.ResponseWriter, r *http.Request) bool {
	if err := r.ParseForm(); err != nil {
		t.Error(err)
	}
	form := r.PostForm
	parsed, err := jwt.Parse(form.Get("client_assertion"), func(*jwt.Token) (any, error) { return key, nil },
		jwt.WithValidMethods([]string{"ES256"}), jwt.WithAudience(p.URL), jwt.WithIssuer(gatewayClient), jwt.WithSubject(gatewayClient),
		jwt.WithExpirationRequired())
	if err != nil || parsed.Header["kid"] != "key-1" || form.Get("client_assertion_type") != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" {
		t.Errorf("assertion: %v", err)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
	rest := url.Values{}
	for name, values := range form {
		if !strings.HasPrefix(name, "client_") {
			rest[name] = values
		}
	}
	body := rest.Encode()
	out := r.Clone(r.Context())
	out.Form, out.PostForm, out.Body, out.ContentLength = nil, nil, readCloser(body), int64(len(body))
	out.SetBasicAuth(gatewayClient, gatewaySecret)
	p.sts.ServeHTTP(w, out)
	return true
}

// With reuse, calls that need the very same token share one; nobody gets what was made for another.
func TestReuse(t *testing.T) {
	w := start(t, func(w *world) {
		w.edit("sallyport.yaml", "          timeout: 2s\n", "          timeout: 2s\n          reuse: 1m\n")
		w.edit("sallyport.yaml", "ttl: 5s", "ttl: 60s")
		w.edit("sallyport.yaml", "ttl: 5s", "ttl: 60s")
	})
	const calls = 10
	send := func(tool, token string) {
		r := modern(tool, `{}`)
		r.token = token
		if a := w.send(r); a.RPC.Result == nil {
			t.Error(a)
		}
	}
	for range calls {
		send("my_server_listItems", w.token)
	}
	if n := len(w.provider.exchanges()); n != 1 {
		t.Errorf("%d exchanges for %d calls, want 1", n, calls)
	}
	send("my_server_getItem", w.token) // other scopes
	other := w.provider.loginAs(t, w.url, otherUser)
	send("my_server_listItems", other)
	if n := len(w.provider.exchanges()); n != 3 {
		t.Errorf("%d exchanges, want one for each tool and subject", n)
	}
	got := w.items.calls()
	for i, r := range got {
		want := user
		if i == len(got)-1 {
			want = otherUser
		}
		if sub := claims(t, bearerOf(r))["sub"]; sub != want {
			t.Errorf("call %d came with a token of %v, want %s", i, sub, want)
		}
	}
	noted := 0
	for _, r := range w.audit() {
		if m, _ := r["message"].(string); strings.Contains(m, "the token was made for an earlier call") {
			noted++
		}
	}
	if noted != calls-1 {
		t.Errorf("%d calls are on record as reusing a token, want %d", noted, calls-1)
	}
}

// No scope is asked for that the agent's own token lacks.
func TestRequireSubjectScopes(t *testing.T) {
	w := start(t, func(w *world) {
		w.edit("sallyport.yaml", "          timeout: 2s\n", "          timeout: 2s\n          requireSubjectScopes: true\n")
	})
	r := modern("my_server_listItems", `{}`)
	a := w.send(r)
	if challenge := a.Header.Get("WWW-Authenticate"); a.Status != http.StatusForbidden || !strings.Contains(challenge, `error="insufficient_scope", scope="item:List"`) {
		t.Errorf("%s\n%s", a, challenge)
	}
	if n := len(w.provider.exchanges()) + len(w.items.calls()); n != 0 {
		t.Errorf("%d requests went on", n)
	}
	r.token = w.provider.forge(t, func(_ map[string]any, c jwt.MapClaims) { c["aud"], c["scope"] = w.url, "item:List" })
	if a := w.send(r); a.RPC.Result == nil {
		t.Errorf("with the scope: %s", a)
	}
}

// An authorization server that is down is left alone: calls fail at once, other apps do not notice, and it is asked again.
func TestBreaker(t *testing.T) {
	w := start(t, func(w *world) {
		w.edit("sallyport.yaml", "    oauthClientSecret: <gateway.clientSecret>\n",
			"    oauthClientSecret: <gateway.clientSecret>\n    breaker:\n      failures: 3\n      backOff: 2s\n")
	})
	w.provider.setOverride(func(rw http.ResponseWriter, _ *http.Request) bool {
		rw.WriteHeader(http.StatusBadGateway)
		return true
	})
	for i := range 3 {
		if a := w.send(modern("my_server_listItems", `{}`)); a.Status != http.StatusServiceUnavailable {
			t.Errorf("call %d: %s", i, a)
		}
	}
	before := len(w.provider.exchanges())
	var group sync.WaitGroup
	took := make([]time.Duration, 8)
	for i := range took {
		group.Go(func() {
			begun := time.Now()
			a, err := w.try(modern("my_server_listItems", `{}`))
			took[i] = time.Since(begun)
			if err != nil || a.Status != http.StatusServiceUnavailable || a.Header.Get("Retry-After") == "" {
				t.Errorf("%v, %s, Retry-After %q", err, a, a.Header.Get("Retry-After"))
			}
		})
	}
	group.Wait()
	if slowest := slices.Max(took); slowest > time.Second {
		t.Errorf("an open circuit took %v", slowest)
	}
	if n := len(w.provider.exchanges()); n != before {
		t.Errorf("%d requests reached a server that is to be left alone", n-before)
	}
	if a := w.send(modern("open_echo", `{}`)); a.RPC.Result == nil {
		t.Errorf("the other app must not suffer: %s", a)
	}
	for _, want := range []string{`sallyport_connector_circuit_open{app="my-mcp-server-proxy"} 1`,
		`sallyport_connector_unsent_total{app="my-mcp-server-proxy",reason="circuit_open"} 8`} {
		if !strings.Contains(w.metrics(), want) {
			t.Errorf("missing: %s", want)
		}
	}
	w.provider.setOverride(nil)
	await(t, "recovery", func() bool { return w.send(modern("my_server_listItems", `{}`)).RPC.Result != nil })
	if want := `sallyport_connector_circuit_open{app="my-mcp-server-proxy"} 0`; !strings.Contains(w.metrics(), want) {
		t.Errorf("missing: %s", want)
	}
	if !slices.ContainsFunc(w.audit(), func(r record) bool {
		m, _ := r["message"].(string)
		return strings.HasPrefix(m, "circuit_open: ")
	}) {
		t.Error("the audit does not say why")
	}
}
