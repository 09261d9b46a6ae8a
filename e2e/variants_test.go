package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// The configuration's switches, each seen working.

// with starts a gateway whose file was changed: pairs of old and new text.
func with(t *testing.T, pairs ...string) *world {
	t.Helper()
	return start(t, func(w *world) {
		for i := 0; i < len(pairs); i += 2 {
			w.edit("sallyport.yaml", pairs[i], pairs[i+1])
		}
	})
}

func TestOAuthOff(t *testing.T) {
	w := start(t, func(w *world) {
		w.edit("sallyport.yaml", "    oauth:\n      enabled: true", "    oauth:\n      enabled: false")
		w.edit("sallyport.yaml", "type: tokenExchange", "type: unprotected")
	})
	r := modern("my_server_listItems", `{}`)
	r.token = "none"
	if a := w.send(r); a.RPC.Result == nil {
		t.Fatal(a)
	}
	withToken := modern("open_echo", `{}`)
	withToken.token = "somebody-elses-token"
	if a := w.send(withToken); a.RPC.Result == nil {
		t.Fatal(a)
	}
	for _, got := range append(w.items.calls(), w.open.calls()...) {
		if got.Header.Get("Authorization") != "" {
			t.Error("a token reached the upstream")
		}
	}
	if a := w.send(request{method: http.MethodGet, token: "none", path: "/.well-known/oauth-protected-resource"}); a.Status != http.StatusNotFound {
		t.Errorf("metadata of no authorization: %s", a)
	}
}

func TestBareNames(t *testing.T) {
	w := newWorld(t)
	w.open.behave(func(b *behaviour) { b.tools = []string{"echo", "spend", "listItems"} })
	for range 2 {
		w.edit("sallyport.yaml", "    toolNamespace:\n      name: ", "    toolNamespace:\n      disabled: true\n      name: ")
	}
	w.run()
	want := []string{"getItem", "echo", "spend"}
	if got := toolNames(t, w.send(modernMethod("tools/list"))); !slices.Equal(got, want) {
		t.Errorf("listed %v, want %v: a name that two apps claim is nobody's", got, want)
	}
	if a := w.send(modern("getItem", `{}`)); a.RPC.Result == nil || len(w.items.calls()) != 1 {
		t.Errorf("getItem: %s", a)
	}
	if a := w.send(modern("echo", `{}`)); a.RPC.Result == nil || len(w.open.calls()) != 1 {
		t.Errorf("echo: %s", a)
	}
	if a := w.send(modern("listItems", `{}`)); !unknownTool(a) {
		t.Errorf("a name that two apps claim: %s", a)
	}
}

func TestBigNumbersByConfiguration(t *testing.T) {
	w := with(t, "  - name: open\n", "  - name: open\n    allowBigNumbers: true\n")
	if a := w.send(modern("open_echo", `{"n":9007199254740993}`)); a.RPC.Result == nil {
		t.Fatal(a)
	}
	if got := string(w.open.calls()[0].RPC.Params.Arguments); got != `{"n":9007199254740993}` {
		t.Errorf("upstream got %s", got)
	}
}

func TestListAll(t *testing.T) {
	w := with(t, "  - name: my-mcp-server-proxy\n", "  - name: my-mcp-server-proxy\n    toolList: all\n")
	names := toolNames(t, w.send(modernMethod("tools/list")))
	if !slices.Contains(names, "my_server_createItem") || slices.Contains(names, "open_secretTool") {
		t.Errorf("%v", names)
	}
	if a := w.send(modern("my_server_createItem", `{}`)); !toolError("denied by policy")(a) {
		t.Errorf("a listed tool that is denied: %s", a)
	}
}

func TestUnlistedTools(t *testing.T) {
	allowAll := func(w *world) { w.write("seed.rego", "package orchestrator\nresult[\"allowed\"] := true\n") }
	w := start(t, allowAll)
	if a := w.send(modern("my_server_createItem", `{}`)); !unknownTool(a) {
		t.Errorf("denied by default: %s", a)
	}
	if got := toolNames(t, w.send(modernMethod("tools/list"))); slices.Contains(got, "my_server_createItem") {
		t.Errorf("listed: %v", got)
	}
	w = start(t, allowAll, func(w *world) {
		w.edit("sallyport.yaml", "          timeout: 2s\n", "          timeout: 2s\n          unlistedTools: allow\n")
	})
	if a := w.send(modern("my_server_createItem", `{}`)); a.RPC.Result == nil {
		t.Errorf("allowed by configuration: %s", a)
	}
	if form := w.provider.exchanges()[0]; form.Has("scope") || form.Has("requested_expires_in") {
		t.Errorf("asked for scope %q and lifetime %q", form.Get("scope"), form.Get("requested_expires_in"))
	}
}

func TestExchangeSettings(t *testing.T) {
	w := with(t, "          timeout: 2s\n", "          timeout: 2s\n          actorToken: clientCredentials\n          requireAct: true\n          ttlParameter: expires_in_seconds\n",
		"    oauthClientID: ai", "    tokenEndpointAuthMethod: client_secret_post\n    oauthClientID: ai")
	a := w.send(modern("my_server_listItems", `{}`))
	form := w.provider.exchanges()[0]
	if form.Get("actor_token") == "" || form.Get("expires_in_seconds") != "5" || form.Get("client_secret") != gatewaySecret || form.Has("requested_expires_in") {
		t.Errorf("exchange request %v", len(form))
	}
	// This server knows no expires_in_seconds and gives its own lifetime, which is longer: refused.
	w.refusedByEnvoy("a token that lives too long", a, http.StatusServiceUnavailable)
}

// What the authorization server answers is believed in nothing.
func TestBadExchangeAnswers(t *testing.T) {
	w := start(t)
	for name, answer := range map[string]func(rw http.ResponseWriter, r *http.Request){
		"the agent's own token": func(rw http.ResponseWriter, _ *http.Request) { tokenAnswer(rw, w.token) },
		"somebody else's": func(rw http.ResponseWriter, _ *http.Request) {
			tokenAnswer(rw, w.provider.forge(t, func(_ map[string]any, c jwt.MapClaims) {
				c["sub"], c["aud"], c["scope"], c["exp"] = "mallory", "https://items.example/", "item:List", time.Now().Unix()+5
			}))
		},
		"more scope": func(rw http.ResponseWriter, _ *http.Request) {
			tokenAnswer(rw, w.provider.forge(t, func(_ map[string]any, c jwt.MapClaims) {
				c["aud"], c["scope"], c["exp"] = "https://items.example/", "item:List item:Delete", time.Now().Unix()+5
			}))
		},
		"another audience": func(rw http.ResponseWriter, _ *http.Request) {
			tokenAnswer(rw, w.provider.forge(t, func(_ map[string]any, c jwt.MapClaims) {
				c["aud"], c["scope"], c["exp"] = "https://other.example/", "item:List", time.Now().Unix()+5
			}))
		},
		"500": func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusInternalServerError) },
		"redirect": func(rw http.ResponseWriter, r *http.Request) {
			http.Redirect(rw, r, w.open.URL, http.StatusTemporaryRedirect)
		},
		"html": func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Type", "text/html")
			_, _ = rw.Write([]byte("<p>maintenance</p>"))
		},
	} {
		w.provider.setOverride(func(rw http.ResponseWriter, r *http.Request) bool { answer(rw, r); return true })
		w.refusedByEnvoy(name, w.send(modern("my_server_listItems", `{}`)), http.StatusServiceUnavailable)
	}
	w.provider.setOverride(func(rw http.ResponseWriter, _ *http.Request) bool {
		rw.Header().Set("Content-Type", "application/json")
		rw.WriteHeader(http.StatusBadRequest)
		_, _ = rw.Write([]byte(`{"error":"invalid_scope","error_description":"no item:List for you"}`))
		return true
	})
	a := w.send(modern("my_server_listItems", `{}`))
	if text, ok := a.isError(); !ok || a.Status != http.StatusOK || strings.Contains(text, "item:List") {
		t.Errorf("refused by the authorization server: %s", a)
	}
	if !slices.ContainsFunc(w.audit(), func(r record) bool {
		return r["message"] == "refused: token exchange refused (invalid_scope), status 400; it says: no item:List for you"
	}) {
		t.Error("the audit does not say why")
	}
	w.provider.setOverride(nil)
	if a := w.send(modern("my_server_listItems", `{}`)); a.RPC.Result == nil {
		t.Errorf("afterwards: %s", a)
	}
}

func tokenAnswer(w http.ResponseWriter, token string) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write([]byte(`{"access_token":"` + token + `","issued_token_type":"urn:ietf:params:oauth:token-type:access_token","token_type":"Bearer","expires_in":5}`))
}

func TestTLSListenerAndUpstream(t *testing.T) {
	w := newWorld(t)
	ca, caKey := authority(t)
	w.write("ca.pem", certPEM(ca.Raw))
	cert, key := leaf(t, ca, caKey)
	w.write("cert.pem", cert)
	w.write("key.pem", key)
	pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	must(t, err)
	secure := newRecorder(t, "echo")
	front := &http.Server{Handler: secure, TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	go func() { _ = front.ServeTLS(l, "", "") }()
	t.Cleanup(func() { _ = front.Close() })
	w.edit("sallyport.yaml", "http://"+w.open.addr()+"/mcp", "https://"+l.Addr().String()+"/mcp\n        tls: inside")
	w.edit("sallyport.yaml", "http:\n", "tls:\n  inside:\n    caFile: ca.pem\n  outside:\n    certFile: cert.pem\n    keyFile: key.pem\nhttp:\n  tls: outside\n")
	w.edit("sallyport.yaml", "- http://"+w.address+"/mcp", "- https://"+w.address+"/mcp\n              - http://"+w.address+"/mcp")
	w.url = "https://" + w.address + "/mcp"
	w.run()
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	tlsClient := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}}
	defer tlsClient.CloseIdleConnections()
	r := modern("open_echo", `{}`)
	req, err := http.NewRequest(http.MethodPost, w.url, strings.NewReader(r.body))
	must(t, err)
	for k, v := range r.header {
		req.Header.Set(k, v)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := tlsClient.Do(req)
	must(t, err)
	_ = resp.Body.Close()
	if c := resp.Header.Get("WWW-Authenticate"); resp.StatusCode != http.StatusUnauthorized || !strings.Contains(c, `"https://`+w.address) {
		t.Errorf("%s %q", resp.Status, c)
	}
	req.Body = readCloser(r.body)
	req.Header.Set("Authorization", "Bearer "+w.token)
	resp, err = tlsClient.Do(req)
	must(t, err)
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.ProtoMajor != 2 || len(secure.calls()) != 1 {
		t.Errorf("%s over %s, %d calls", resp.Status, resp.Proto, len(secure.calls()))
	}
}

func authority(t *testing.T) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	return cert, key
}

func leaf(t *testing.T, ca *x509.Certificate, caKey *ecdsa.PrivateKey) (certificate, key string) {
	t.Helper()
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, ca, own.Public(), caKey)
	must(t, err)
	keyDER, err := x509.MarshalECPrivateKey(own)
	must(t, err)
	return certPEM(der), string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}))
}

func certPEM(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}
