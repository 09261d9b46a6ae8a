package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sallyport/sallyport/exchange/sts"
)

// The second door: token endpoints that lie, break, stall or are not who they should be. Whatever they answer, an upstream
// is called with a token that is good for this call, or not at all.

// grant is the members of an answer; a nil one is left out.
type grant map[string]any

// made is the good answer to an exchange, changed: c are the claims of its token, f its own members.
func (w *world) made(change func(header map[string]any, c jwt.MapClaims), f grant) grant {
	token := w.provider.forge(w.t, func(header map[string]any, c jwt.MapClaims) {
		c["client_id"], c["aud"], c["scope"], c["exp"] = gatewayClient, "https://items.example/", "item:List", time.Now().Unix()+5
		c["act"] = map[string]any{"sub": gatewayClient, "act": map[string]any{"sub": agentClient}}
		if change != nil {
			change(header, c)
		}
	})
	out := grant{"access_token": token, "issued_token_type": "urn:ietf:params:oauth:token-type:access_token", "token_type": "Bearer", "expires_in": 5}
	maps.Copy(out, f)
	maps.DeleteFunc(out, func(_ string, v any) bool { return v == nil })
	return out
}

func claim(name string, value any) func(map[string]any, jwt.MapClaims) {
	return func(_ map[string]any, c jwt.MapClaims) {
		c[name] = value
		if value == nil {
			delete(c, name)
		}
	}
}

// inJSON writes v as JSON.
func inJSON(rw http.ResponseWriter, status int, v any) {
	b, _ := json.Marshal(v)
	raw(rw, status, "application/json", string(b))
}

func raw(rw http.ResponseWriter, status int, media, body string) {
	rw.Header().Set("Content-Type", media)
	rw.WriteHeader(status)
	_, _ = rw.Write([]byte(body))
}

// falsehood is one answer of the token endpoint, and the word for it in the audit; "" for an answer that is good.
type falsehood struct {
	name, reason string
	answer       func(w *world, rw http.ResponseWriter, r *http.Request)
}

func plainly(status int, media, body string) func(*world, http.ResponseWriter, *http.Request) {
	return func(_ *world, rw http.ResponseWriter, _ *http.Request) { raw(rw, status, media, body) }
}

// member changes a member of the good answer, bears a claim of its token.
func member(name string, value any) func(*world, http.ResponseWriter, *http.Request) {
	return func(w *world, rw http.ResponseWriter, _ *http.Request) {
		inJSON(rw, http.StatusOK, w.made(nil, grant{name: value}))
	}
}

func bears(name string, value any) func(*world, http.ResponseWriter, *http.Request) {
	return func(w *world, rw http.ResponseWriter, _ *http.Request) {
		inJSON(rw, http.StatusOK, w.made(claim(name, value), nil))
	}
}

// numbered writes expires_in as it stands, which not everything that could be there survives in a Go value.
func numbered(expiresIn string) func(*world, http.ResponseWriter, *http.Request) {
	return func(w *world, rw http.ResponseWriter, _ *http.Request) {
		inJSON(rw, http.StatusOK, w.made(nil, grant{"expires_in": json.RawMessage(expiresIn)}))
	}
}

var falsehoods = []falsehood{
	{"the truth", "", member("scope", "item:List")},

	{"G-001 no token", "token", member("access_token", nil)},
	{"G-001 an empty token", "token", member("access_token", "")},
	{"G-001 a token that is null", "token", func(w *world, rw http.ResponseWriter, _ *http.Request) {
		inJSON(rw, http.StatusOK, w.made(nil, grant{"access_token": json.RawMessage("null")}))
	}},
	{"G-001 a number", "malformed", member("access_token", 7)},
	{"G-001 a line end", "token", member("access_token", "a.b.c\r\nX-Admin: 1")},
	{"G-001 64 KiB", "token", member("access_token", strings.Repeat("a", 64<<10))},
	{"G-001 another's member", "malformed", func(w *world, rw http.ResponseWriter, _ *http.Request) {
		b, _ := json.Marshal(w.made(nil, nil))
		raw(rw, http.StatusOK, "application/json", `{"access_token":"x",`+string(b[1:]))
	}},
	{"G-002 no issued_token_type", "token_type", member("issued_token_type", nil)},
	{"G-002 a refresh token", "token_type", member("issued_token_type", "urn:ietf:params:oauth:token-type:refresh_token")},
	{"G-002 an ID token", "token_type", member("issued_token_type", "urn:ietf:params:oauth:token-type:id_token")},
	{"G-002 SAML", "token_type", member("issued_token_type", "urn:ietf:params:oauth:token-type:saml2")},
	{"G-003 N_A", "token_type", member("token_type", "N_A")},
	{"G-003 DPoP", "token_type", member("token_type", "DPoP")},
	{"G-003 mac", "token_type", member("token_type", "mac")},
	{"G-003 no token_type", "token_type", member("token_type", nil)},
	{"G-003 bearer and a space", "token_type", member("token_type", "bearer ")},
	{"G-003 BEARER", "", member("token_type", "BEARER")},
	{"G-005 fewer scopes", "scope_narrower", bears("scope", "")},
	{"G-005 other scopes, it says", "scope_wider", member("scope", "other")},
	{"G-005 more scopes", "scope_wider", bears("scope", "item:List item:Delete")},
	{"G-007 a day", "lifetime_longer", member("expires_in", 86400)},
	{"G-007 a token of a day", "lifetime_longer", bears("exp", time.Now().Unix()+86400)},
	{"G-008 no expires_in", "", member("expires_in", nil)},
	{"G-008 zero", "lifetime", numbered("0")},
	{"G-008 negative", "lifetime", numbered("-1")},
	{"G-008 text", "lifetime", numbered(`"300"`)},
	{"G-008 1e400", "lifetime", numbered("1e400")},
	{"G-008 expired", "expired", bears("exp", time.Now().Unix()-60)},
	{"G-009 another audience", "audience", bears("aud", "https://other.example/")},
	{"G-009 no audience", "audience", bears("aud", nil)},
	{"G-010 another subject", "subject", bears("sub", otherUser)},
	{"G-010 the gateway itself", "subject", bears("sub", gatewayClient)},
	{"G-010 no subject", "subject", bears("sub", nil)},
	{"G-011 no act", "actor_missing", bears("act", nil)},
	{"G-011 another actor", "actor_other", bears("act", map[string]any{"sub": "mallory"})},
	{"G-012 the agent's own", "same_token", func(w *world, rw http.ResponseWriter, _ *http.Request) {
		inJSON(rw, http.StatusOK, w.made(nil, grant{"access_token": w.token}))
	}},
	{"another issuer", "issuer", bears("iss", "https://evil.example")},
	{"no signature", "unsigned", func(w *world, rw http.ResponseWriter, _ *http.Request) {
		good := w.made(nil, nil)
		_, rest, _ := strings.Cut(good["access_token"].(string), ".")
		claims, _, _ := strings.Cut(rest, ".")
		good["access_token"] = "eyJhbGciOiJub25lIiwidHlwIjoiYXQrand0In0." + claims + "."
		inJSON(rw, http.StatusOK, good)
	}},
	{"an ID token by its typ", "typ", func(w *world, rw http.ResponseWriter, _ *http.Request) {
		inJSON(rw, http.StatusOK, w.made(func(h map[string]any, _ jwt.MapClaims) { h["typ"] = "id_token+jwt" }, nil))
	}},
	{"opaque", "opaque", member("access_token", "opaque-token")},

	{"a web page", "status", plainly(http.StatusOK, "text/html", "<form>log in</form>")},
	{"JSON by another name", "malformed", plainly(http.StatusOK, "text/plain", `{}`)},
	{"nothing", "malformed", plainly(http.StatusOK, "application/json", "")},
	{"not JSON", "malformed", plainly(http.StatusOK, "application/json", "access_token=x")},
	{"two documents", "malformed", func(w *world, rw http.ResponseWriter, _ *http.Request) {
		b, _ := json.Marshal(w.made(nil, nil))
		raw(rw, http.StatusOK, "application/json", string(b)+"{}")
	}},
	{"201", "malformed", plainly(http.StatusCreated, "application/json", "{}")},
	{"2 MiB", "too_large", plainly(http.StatusOK, "application/json", `{"x":"`+strings.Repeat("x", 2<<20)+`"}`)},
	{"500 with a code", "status", plainly(http.StatusInternalServerError, "application/json", `{"error":"invalid_grant"}`)},
	{"403 of a proxy", "status", plainly(http.StatusForbidden, "text/html", "no")},
	{"G-027 a redirect", "redirect", func(w *world, rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Location", w.open.URL+"/stolen")
		rw.WriteHeader(http.StatusTemporaryRedirect)
	}},
	{"the line is cut", "network", func(_ *world, rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Length", "1000")
		raw(rw, http.StatusOK, "application/json", `{"access_token":"`)
		panic(http.ErrAbortHandler)
	}},
}

// second is a gateway whose second door is the strictest, and which never leaves the authorization server alone.
func second(t *testing.T) *world {
	t.Helper()
	return start(t, func(w *world) {
		w.edit("sallyport.yaml", "          timeout: 2s\n", "          timeout: 2s\n          requireAct: true\n")
		w.edit("sallyport.yaml", "    oauthClientSecret: <gateway.clientSecret>\n", "    oauthClientSecret: <gateway.clientSecret>\n    breaker: {failures: 0}\n")
	})
}

// No answer is believed: the agent hears one sentence, the audit a word, the upstream nothing.
func TestLyingTokenEndpoint(t *testing.T) {
	w := second(t)
	session := w.initialize()
	for _, l := range falsehoods {
		w.provider.setOverride(func(rw http.ResponseWriter, r *http.Request) bool { l.answer(w, rw, r); return true })
		for era, r := range map[string]request{"modern": modern("my_server_listItems", `{}`), "legacy": legacyCall(session, "my_server_listItems", `{}`)} {
			before, seen := len(w.items.calls()), len(w.audit())
			a := w.send(r)
			if l.reason == "" {
				if a.RPC.Result == nil || len(w.items.calls()) != before+1 {
					t.Errorf("%s, %s: %s", l.name, era, a)
				}
				continue
			}
			if a.Status != http.StatusServiceUnavailable || a.RPC.Error == nil || a.RPC.Error.Message != "no token could be obtained for this call" || a.RPC.Error.Code != -32603 {
				t.Errorf("%s, %s: %s", l.name, era, a)
			}
			if n := len(w.items.calls()) - before; n != 0 {
				t.Errorf("%s, %s: the upstream saw %d calls", l.name, era, n)
			}
			w.decided(seen, l.name+", "+era, "error", l.reason+": ")
		}
	}
	if a := w.send(modern("open_echo", `{}`)); a.RPC.Result == nil {
		t.Errorf("the other app must not suffer: %s", a)
	}
	for _, got := range w.open.all() {
		if got.Path != "/mcp" || got.Header.Get("Authorization") != "" {
			t.Errorf("a redirect was followed: %s", got.Path)
		}
	}
	for _, got := range w.items.calls() {
		checkUpstreamToken(t, w, got, "item:List")
	}
	w.provider.setOverride(nil)
	if a := w.send(modern("my_server_listItems", `{}`)); a.RPC.Result == nil {
		t.Errorf("afterwards: %s", a)
	}
}

// decided asserts the outcome of the only call since the first seen records, and how its reason begins.
func (w *world) decided(seen int, what, outcome, reason string) {
	w.t.Helper()
	var got []record
	for _, r := range w.audit()[seen:] {
		if r["kind"] == "decision" && r["method"] == "tools/call" {
			got = append(got, r)
		}
	}
	if len(got) != 1 || got[0]["outcome"] != outcome || !strings.HasPrefix(fmt.Sprint(got[0]["message"]), reason) || got[0]["exchanged"] != nil {
		w.t.Errorf("%s: want %s because of %q, records %v", what, outcome, reason, got)
	}
}

// A token endpoint that drips has as long as an exchange may take, and no longer.
func TestDrippingTokenEndpoint(t *testing.T) {
	w := second(t)
	w.provider.setOverride(func(rw http.ResponseWriter, r *http.Request) bool {
		rw.Header().Set("Content-Type", "application/json")
		for range 300 {
			if _, err := rw.Write([]byte(" ")); err != nil || r.Context().Err() != nil {
				return true
			}
			rw.(http.Flusher).Flush()
			time.Sleep(50 * time.Millisecond)
		}
		return true
	})
	begun, seen := time.Now(), len(w.audit())
	w.refusedByEnvoy("drips", w.send(modern("my_server_listItems", `{}`)), http.StatusServiceUnavailable)
	if took := time.Since(begun); took > 6*time.Second {
		t.Errorf("took %v", took)
	}
	w.decided(seen, "drips", "error", "timeout: ")
	if a := w.send(modern("open_echo", `{}`)); a.RPC.Result == nil {
		t.Errorf("the other app must not suffer: %s", a)
	}
}

// A server that asks to be left alone is, and the agent is told for how long.
func TestBusyTokenEndpoint(t *testing.T) {
	w := start(t)
	w.provider.setOverride(func(rw http.ResponseWriter, _ *http.Request) bool {
		rw.Header().Set("Retry-After", "2")
		raw(rw, http.StatusTooManyRequests, "application/json", `{"error":"slow_down"}`)
		return true
	})
	a := w.send(modern("my_server_listItems", `{}`))
	w.refusedByEnvoy("busy", a, http.StatusServiceUnavailable)
	if a.Header.Get("Retry-After") != "2" {
		t.Errorf("Retry-After %q", a.Header.Get("Retry-After"))
	}
	w.provider.setOverride(nil)
	if a = w.send(modern("my_server_listItems", `{}`)); a.Status != http.StatusServiceUnavailable || len(w.provider.exchanges()) != 1 {
		t.Errorf("it was asked again at once: %s", a)
	}
	await(t, "its time", func() bool { return w.send(modern("my_server_listItems", `{}`)).RPC.Result != nil })
}

// A subject token that a server drops for its length, so that it answers with a token of the gateway's own: the very
// request is carried, and the answer is looked at (CVE-2026-9704).
func TestLongSubjectToken(t *testing.T) {
	w := second(t)
	r := modern("my_server_listItems", `{}`)
	r.token = w.provider.forge(t, func(_ map[string]any, c jwt.MapClaims) { c["aud"], c["groups"] = w.url, strings.Repeat("g", 4000) })
	w.provider.setOverride(func(rw http.ResponseWriter, r *http.Request) bool {
		if err := r.ParseForm(); err != nil || len(r.PostForm.Get("subject_token")) < 4000 {
			t.Errorf("a subject token of %d characters", len(r.PostForm.Get("subject_token")))
		}
		inJSON(rw, http.StatusOK, w.made(claim("sub", gatewayClient), nil))
		return true
	})
	seen := len(w.audit())
	w.refusedByEnvoy("long", w.send(r), http.StatusServiceUnavailable)
	w.decided(seen, "long", "error", "subject: ")
}

// With reuse, a thousand calls at once that need the same token are one request, which does not end with the caller that
// happened to be the first.
func TestOneExchangeForAll(t *testing.T) {
	w := start(t, func(w *world) {
		w.edit("sallyport.yaml", "          timeout: 2s\n", "          timeout: 20s\n          reuse: 1m\n")
		w.edit("sallyport.yaml", "ttl: 5s", "ttl: 60s")
		w.edit("sallyport.yaml", "    oauthClientID: ai", "    maxConcurrent: 4\n    oauthClientID: ai")
	})
	release := make(chan struct{})
	w.provider.setOverride(func(http.ResponseWriter, *http.Request) bool { <-release; return false })
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan error, 1)
	r := modern("my_server_listItems", `{}`)
	go func() { left <- w.abandon(ctx, r) }()
	await(t, "the first exchange", func() bool { return len(w.provider.exchanges()) == 1 })
	const calls = 1000
	var group sync.WaitGroup
	var failed, sent atomic.Int64
	for range calls {
		group.Go(func() {
			sent.Add(1)
			if a, err := w.try(r); err != nil || a.RPC.Result == nil {
				failed.Add(1)
				t.Logf("%v %s", err, a)
			}
		})
	}
	await(t, "the others", func() bool { return sent.Load() == calls })
	leave()
	if err := <-left; err == nil {
		t.Error("the first caller was answered")
	}
	w.abandoned()
	close(release)
	group.Wait()
	if n := len(w.provider.exchanges()); n != 1 || failed.Load() != 0 || len(w.items.calls()) != calls {
		t.Errorf("%d exchanges, %d calls of %d arrived, %d failed", n, len(w.items.calls()), calls, failed.Load())
	}
	pairs := w.reconcile()
	for _, p := range pairs {
		if p[0]["method"] == "tools/call" && p[0]["outcome"] == "allowed" && p[1]["outcome"] != "ok" {
			t.Errorf("%v", p)
		}
	}
}

// abandon sends a call, and gives it up when ctx ends.
func (w *world) abandon(ctx context.Context, r request) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url, strings.NewReader(r.body))
	if err != nil {
		return err
	}
	for name, value := range r.header {
		req.Header.Set(name, value)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+w.token)
	resp, err := http.DefaultClient.Do(req)
	if err == nil {
		err = resp.Body.Close()
	}
	return err
}

// abandoned waits until the gateway has heard that a call was given up: that it went no further is on record.
func (w *world) abandoned() {
	w.t.Helper()
	await(w.t, "a record of the call that was given up", func() bool {
		return slices.ContainsFunc(w.audit(), func(r record) bool {
			return r["kind"] == "decision" && r["method"] == "tools/call" && r["outcome"] == "error"
		})
	})
}

// A caller that leaves while its token is fetched leaves a record, and the token, if there is one, goes nowhere.
func TestCallerLeavesDuringExchange(t *testing.T) {
	w := start(t)
	release := make(chan struct{})
	w.provider.setOverride(func(http.ResponseWriter, *http.Request) bool { <-release; return false })
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() { left <- w.abandon(ctx, modern("my_server_listItems", `{}`)) }()
	await(t, "the exchange", func() bool { return len(w.provider.exchanges()) == 1 })
	leave()
	<-left
	w.abandoned()
	close(release)
	w.reconcile()
	if a := w.send(modern("open_echo", `{}`)); a.RPC.Result == nil || len(w.items.calls()) != 0 {
		t.Errorf("%s; the upstream saw %d calls", a, len(w.items.calls()))
	}
}

// A client secret that was changed at the server is taken from the secret provider without a restart.
func TestClientSecretIsRotated(t *testing.T) {
	w := start(t)
	if a := w.send(modern("my_server_listItems", `{}`)); a.RPC.Result == nil {
		t.Fatal(a)
	}
	const changed = "another-secret-for-tests"
	w.provider.change(t, func(c *sts.Config) { c.Clients[1].Secret = changed })
	seen := len(w.audit())
	if text, ok := w.send(modern("my_server_listItems", `{}`)).isError(); !ok {
		t.Errorf("with the old secret: %s", text)
	}
	w.decided(seen, "the old secret", "denied", "refused: token exchange refused (invalid_client), status 401")
	w.edit("secrets.yaml", gatewaySecret, changed)
	await(t, "the new secret", func() bool {
		_, failed := w.send(modern("my_server_listItems", `{}`)).isError()
		return !failed
	})
	if n := len(w.items.calls()); n != 2 {
		t.Errorf("%d calls arrived, want the first and the last", n)
	}
	if log := w.gateway.output(); strings.Contains(log, changed) || strings.Contains(log, gatewaySecret) {
		t.Error("a secret is in the log")
	}
}

// A gateway that cannot prove who acts sends nothing on.
func TestNoActorToken(t *testing.T) {
	w := start(t, func(w *world) {
		w.edit("sallyport.yaml", "          timeout: 2s\n", "          timeout: 2s\n          actorToken: clientCredentials\n")
		w.provider.change(t, func(c *sts.Config) { c.Clients[1].Grants = []string{sts.GrantExchange} })
	})
	seen := len(w.audit())
	if text, ok := w.send(modern("my_server_listItems", `{}`)).isError(); !ok || text != "the authorization server refused a token for this tool" {
		t.Errorf("%s", text)
	}
	w.decided(seen, "no actor token", "denied", "refused: ")
	if n := len(w.items.calls()) + len(w.provider.exchanges()); n != 0 {
		t.Errorf("%d requests went on", n)
	}
}

// elsewhere has the connector's metadata name another token endpoint than the provider's.
func (w *world) elsewhere(endpoint string) {
	mux := http.NewServeMux()
	metadata := httptest.NewServer(mux)
	w.t.Cleanup(metadata.Close)
	mux.HandleFunc("GET /.well-known/openid-configuration", func(rw http.ResponseWriter, _ *http.Request) {
		inJSON(rw, http.StatusOK, grant{"issuer": metadata.URL, "token_endpoint": endpoint})
	})
	w.edit("sallyport.yaml", "oidcWellKnownURL: "+w.provider.URL, "tokenIssuer: "+w.provider.URL+"\n    oidcWellKnownURL: "+metadata.URL)
}

// Where a metadata document must not send secrets.
func TestTokenEndpointAddresses(t *testing.T) {
	for _, endpoint := range []string{
		"https://169.254.169.254/token", "https://[::ffff:169.254.169.254]/token", "https://[fe80::1]/token",
		"https://[64:ff9b::a9fe:a9fe]/token", "https://[64:ff9b::a00:1]/token", "https://10.0.0.1/token", "https://[fd00::1]/token",
	} {
		t.Run(endpoint, func(t *testing.T) {
			w := start(t, func(w *world) { w.elsewhere(endpoint) })
			seen := len(w.audit())
			w.refusedByEnvoy(endpoint, w.send(modern("my_server_listItems", `{}`)), http.StatusServiceUnavailable)
			w.decided(seen, endpoint, "error", "address: ")
		})
	}
}

// A token endpoint that cannot prove who it is gets no secret and no token.
func TestTokenEndpointCertificates(t *testing.T) {
	trusted, key := authority(t)
	stranger, strangersKey := authority(t)
	template := func(change func(c *x509.Certificate)) *x509.Certificate {
		c := &x509.Certificate{SerialNumber: trusted.SerialNumber, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: time.Now().Add(-2 * time.Hour),
			NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
		change(c)
		return c
	}
	as := func(*x509.Certificate) {}
	for _, test := range []struct {
		name   string
		signer *x509.Certificate
		key    *ecdsa.PrivateKey
		change func(c *x509.Certificate)
		max    uint16 // version of TLS
		good   bool
	}{
		{"good", trusted, key, as, tls.VersionTLS13, true},
		{"of a stranger", stranger, strangersKey, as, tls.VersionTLS13, false},
		{"of another host", trusted, key, func(c *x509.Certificate) { c.IPAddresses = nil; c.DNSNames = []string{"auth.example"} }, tls.VersionTLS13, false},
		{"expired", trusted, key, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Hour) }, tls.VersionTLS13, false},
		{"TLS 1.1", trusted, key, as, tls.VersionTLS11, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			der, err := x509.CreateCertificate(rand.Reader, template(test.change), test.signer, test.key.Public(), test.key)
			must(t, err)
			asked := atomic.Int64{}
			w := start(t, func(w *world) {
				endpoint := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
					asked.Add(1)
					w.provider.ServeHTTP(rw, r)
				}))
				endpoint.TLS = &tls.Config{MaxVersion: test.max, MinVersion: tls.VersionTLS10, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: test.key}}}
				endpoint.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
				endpoint.StartTLS()
				t.Cleanup(endpoint.Close)
				w.elsewhere(endpoint.URL + "/token")
				w.write("ca.pem", certPEM(trusted.Raw))
				w.edit("sallyport.yaml", "http:\n", "tls:\n  authority:\n    caFile: ca.pem\nhttp:\n")
				w.edit("sallyport.yaml", "    oauthClientID: ai", "    tls: authority\n    oauthClientID: ai")
			})
			seen := len(w.audit())
			a := w.send(modern("my_server_listItems", `{}`))
			if test.good {
				if a.RPC.Result == nil || asked.Load() != 1 {
					t.Errorf("%s", a)
				}
				return
			}
			w.refusedByEnvoy(test.name, a, http.StatusServiceUnavailable)
			w.decided(seen, test.name, "error", "network: ")
			if asked.Load() != 0 {
				t.Error("it was told a secret")
			}
		})
	}
}
