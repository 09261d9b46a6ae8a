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
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"
	"github.com/modelcontextprotocol/go-sdk/auth"
	"github.com/modelcontextprotocol/go-sdk/mcp"
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

// published reads, past any cache, a document that needs no token.
func published(t *testing.T, address string, into any) http.Header {
	t.Helper()
	resp, err := client.Get(address)
	must(t, err)
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", address, resp.Status)
	}
	must(t, json.NewDecoder(resp.Body).Decode(into))
	return resp.Header
}

// signingKey is a new key, as a secret store has it.
func signingKey(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// mintsByItself gives the gateway a connector of type sts whose issuer is at the gateway, with these further lines.
func (w *world) mintsByItself(lines string) (issuer string) {
	issuer = "http://" + w.address + "/tokens"
	w.edit("sallyport.yaml", "    type: oidc\n    oidcWellKnownURL: "+w.provider.URL+"/.well-known/openid-configuration\n",
		"    type: sts\n    issuer: "+issuer+"\n"+lines)
	w.edit("sallyport.yaml", "    oauthClientSecret: <gateway.clientSecret>\n", "")
	w.edit("sallyport.yaml", "          timeout: 2s\n", "")
	return issuer
}

// An issuer at the gateway's own address is published where agents connect, to everybody, and nowhere else.
func TestPublishedWhereAgentsConnect(t *testing.T) {
	var issuer string
	w := start(t, func(w *world) { issuer = w.mintsByItself("    keyDir: keys\n") })
	var metadata map[string]any
	header := published(t, "http://"+w.address+"/.well-known/oauth-authorization-server/tokens", &metadata)
	if metadata["issuer"] != issuer || metadata["jwks_uri"] != issuer+"/jwks" || metadata["token_endpoint"] != nil || header.Get("Content-Type") != "application/json" {
		t.Errorf("%v, %v", metadata, header)
	}
	var set struct{ Keys []map[string]any }
	if header := published(t, issuer+"/jwks", &set); header.Get("Cache-Control") != "max-age=300" {
		t.Errorf("cached for %q", header.Get("Cache-Control"))
	}
	if len(set.Keys) != 1 || set.Keys[0]["d"] != nil {
		t.Errorf("keys %v", set.Keys)
	}
	for _, path := range []string{"/.well-known/openid-configuration/tokens", "/tokens/.well-known/oauth-authorization-server", "/tokens/.well-known/openid-configuration"} {
		published(t, "http://"+w.address+path, &metadata)
	}
	for _, test := range []struct {
		r    request
		want int
	}{
		{request{method: http.MethodHead, path: "/tokens/jwks", token: "none"}, http.StatusOK},
		{request{method: http.MethodPost, path: "/tokens/jwks", token: "none"}, http.StatusMethodNotAllowed},
		{request{method: http.MethodDelete, path: "/tokens/jwks"}, http.StatusMethodNotAllowed},
		{request{method: http.MethodGet, path: "/tokens/jwks", token: "none", header: map[string]string{"Host": "elsewhere.example"}}, http.StatusForbidden},
		{request{method: http.MethodGet, path: "/tokens", token: "none"}, http.StatusNotFound},
		{request{method: http.MethodGet, path: "/tokens/jwks/", token: "none"}, http.StatusNotFound},
		{request{method: http.MethodGet, path: "/.well-known/oauth-authorization-server", token: "none"}, http.StatusNotFound},
	} {
		if a := w.send(test.r); a.Status != test.want {
			t.Errorf("%s %s: %s", test.r.method, test.r.path, a)
		}
	}
	if a := w.send(modern("my_server_listItems", `{}`)); a.RPC.Result == nil {
		t.Fatal(a)
	}
	if got := verified(t, issuer, bearerOf(w.items.calls()[0])); got["sub"] != user {
		t.Errorf("%v", got)
	}
}

// keyReader verifies minted tokens with what it has fetched from their issuer, once for each key that it does not know.
type keyReader struct {
	t      *testing.T
	issuer string

	mu   sync.Mutex
	keys map[string]*ecdsa.PublicKey
	used map[string]int // calls, by key
}

func (k *keyReader) verify(_ context.Context, raw string, _ *http.Request) (*auth.TokenInfo, error) {
	c := jwt.MapClaims{}
	_, err := jwt.ParseWithClaims(raw, c, func(parsed *jwt.Token) (any, error) {
		k.mu.Lock()
		defer k.mu.Unlock()
		kid, _ := parsed.Header["kid"].(string)
		if k.keys[kid] == nil {
			k.fetch()
		}
		if k.keys[kid] == nil {
			return nil, jwt.ErrTokenUnverifiable
		}
		k.used[kid]++
		return k.keys[kid], nil
	}, jwt.WithValidMethods([]string{"ES256"}), jwt.WithIssuer(k.issuer), jwt.WithAudience("https://items.example/"), jwt.WithExpirationRequired())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", auth.ErrInvalidToken, err)
	}
	sub, _ := c.GetSubject()
	exp, _ := c.GetExpirationTime()
	return &auth.TokenInfo{UserID: sub, Expiration: exp.Time}, nil
}

func (k *keyReader) fetch() {
	var set struct {
		Keys []struct{ Kid, X, Y string }
	}
	published(k.t, k.issuer+"/jwks", &set)
	for _, key := range set.Keys {
		x, _ := base64.RawURLEncoding.DecodeString(key.X)
		y, _ := base64.RawURLEncoding.DecodeString(key.Y)
		public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, x, y))
		if err != nil {
			k.t.Error(err)
		}
		k.keys[key.Kid] = public
	}
}

// signers are the keys by which calls have been verified.
func (k *keyReader) signers() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.used)
}

// Keys follow each other while calls go on, from the secret store and from a directory, and no call fails. The server
// knows nothing but what is published through Envoy, and demands a token for everything: the gateway mints one for itself.
func TestKeysFollowEachOther(t *testing.T) {
	one, two := signingKey(t), signingKey(t)
	inSecrets := func(w *world, keys string) {
		w.write("new.yaml", "secrets:\n  gateway.signingKeys: |\n    "+strings.ReplaceAll(strings.TrimSpace(keys), "\n", "\n    ")+
			"\n  sallyport.sessionKey: 0123456789abcdef0123456789abcdef\n")
		must(w.t, os.Rename(w.path("new.yaml"), w.path("secrets.yaml")))
	}
	inDir := func(w *world, name, key string, age time.Duration) {
		w.write("new.pem", key)
		must(w.t, os.Chtimes(w.path("new.pem"), time.Now(), time.Now().Add(-age)))
		must(w.t, os.Rename(w.path("new.pem"), w.path("keys/"+name)))
	}
	publishes := func(w *world, n int) func() bool {
		return func() bool {
			var set struct{ Keys []any }
			published(w.t, "http://"+w.address+"/tokens/jwks", &set)
			return len(set.Keys) == n
		}
	}
	for name, test := range map[string]struct {
		lines  string
		begin  func(w *world)
		rotate func(w *world, k *keyReader)
	}{
		"secret": {"    keys: <gateway.signingKeys>\n", func(w *world) { inSecrets(w, one) }, func(w *world, k *keyReader) {
			inSecrets(w, one+two)
			await(w.t, "both keys", publishes(w, 2))
			inSecrets(w, two+one)
			await(w.t, "the new key to sign", func() bool { return k.signers() == 2 })
			inSecrets(w, two)
			await(w.t, "the reload", func() bool { return strings.Count(w.gateway.output(), `"msg":"configuration reloaded"`) == 3 })
			if !publishes(w, 2)() {
				w.t.Error("the old key is no longer published, though its tokens live")
			}
		}},
		"directory": {"    keyDir: keys\n    rotateEvery: 0s\n", func(w *world) {
			must(w.t, mkdir(w.path("keys")))
			inDir(w, "one.pem", one, time.Hour)
		}, func(w *world, k *keyReader) {
			inDir(w, "two.pem", two, 0)
			time.Sleep(5 * time.Second) // the directory is looked at every ten
			await(w.t, "both keys", publishes(w, 2))
			inDir(w, "two.pem", two, 11*time.Minute) // its time has come
			time.Sleep(5 * time.Second)
			await(w.t, "the new key to sign", func() bool { return k.signers() == 2 })
		}},
	} {
		t.Run(name, func(t *testing.T) {
			k := &keyReader{t: t, keys: map[string]*ecdsa.PublicKey{}, used: map[string]int{}}
			w := start(t, func(w *world) {
				k.issuer = w.mintsByItself(test.lines)
				server := newSDKServer(t, guardedTools(), mcp.StreamableHTTPOptions{Stateless: true, JSONResponse: true}, auth.RequireBearerToken(k.verify, nil))
				w.edit("sallyport.yaml", w.items.addr(), server.addr())
				test.begin(w)
			})
			stop, calls := make(chan struct{}), 0
			var once sync.Once
			defer once.Do(func() { close(stop) })
			var group sync.WaitGroup
			group.Go(func() {
				for ; ; calls++ {
					select {
					case <-stop:
						return
					case <-time.After(10 * time.Millisecond):
					}
					if a, err := w.try(modern("my_server_getItem", `{"n":1}`)); err != nil || a.RPC.Result == nil || strings.Contains(string(a.Body), "isError") {
						t.Errorf("call %d: %v %s", calls, err, a)
						return
					}
				}
			})
			test.rotate(w, k)
			once.Do(func() { close(stop) })
			group.Wait()
			if calls < 20 {
				t.Errorf("%d calls", calls)
			}
			if a := w.send(modernMethod("tools/list")); !strings.Contains(string(a.Body), `"my_server_getItem"`) {
				t.Errorf("not listed: %s", a)
			}
		})
	}
}
