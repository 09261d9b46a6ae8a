package e2e

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"
)

// clientCertificate is one that the listener trusts, and its digest.
func clientCertificate(t *testing.T, ca *x509.Certificate, caKey *ecdsa.PrivateKey) (tls.Certificate, [sha256.Size]byte) {
	t.Helper()
	cert, key := leaf(t, ca, caKey)
	pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	must(t, err)
	block, _ := pem.Decode([]byte(cert))
	return pair, sha256.Sum256(block.Bytes)
}

const boundRego = `package orchestrator

default result["allowed"] := false

result["allowed"] := true if input.request.mcp.tool.params.name == "echo"

# Money is spent with proof of who spends it.
result["allowed"] := true if {
	input.request.mcp.tool.params.name == "spend"
	input.identity.binding in {"mtls", "dpop"}
}
result["external_message"] := "spending needs a bound token" if {
	input.request.mcp.tool.params.name == "spend"
	input.identity.binding == ""
}

# A program has no user whose secret it could be told.
result["allowed"] := true if {
	input.request.mcp.tool.params.name == "secretTool"
	not input.identity.client_only
}
`

// A token that is bound to a certificate works on a connection with that certificate and on no other, over either version
// of HTTP, at the gate and at the hub; what a header says of a certificate counts for nothing.
func TestCertificateBoundTokens(t *testing.T) {
	for _, files := range []string{"ca.pem", "other.pem, ca.pem"} {
		t.Run(files, func(t *testing.T) { testCertificateBoundTokens(t, files) })
	}
}

func testCertificateBoundTokens(t *testing.T, authorities string) {
	w := newWorld(t)
	other, _ := authority(t)
	w.write("other.pem", certPEM(other.Raw))
	ca, caKey := authority(t)
	cert, key := leaf(t, ca, caKey)
	w.write("ca.pem", certPEM(ca.Raw))
	w.write("cert.pem", cert)
	w.write("key.pem", key)
	w.write("open.rego", boundRego)
	binding("optional", "")(w)
	w.edit("sallyport.yaml", "http:\n", "tls:\n  outside:\n    certFile: cert.pem\n    keyFile: key.pem\n    clientAuth: VerifyClientCertIfGiven\n    clientCAFiles: ["+authorities+"]\nhttp:\n  tls: outside\n")
	w.edit("sallyport.yaml", "- http://"+w.address+"/mcp", "- https://"+w.address+"/mcp\n              - http://"+w.address+"/mcp")
	w.url = "https://" + w.address + "/mcp"
	w.run()

	pool := x509.NewCertPool()
	pool.AddCert(ca)
	mine, digest := clientCertificate(t, ca, caKey)
	others, otherDigest := clientCertificate(t, ca, caKey)
	bound := w.boundTo(jwt.MapClaims{"x5t#S256": encoded(digest[:])})
	dial := func(http2 bool, certificates ...tls.Certificate) *http.Client {
		c := &http.Client{Transport: &http.Transport{ForceAttemptHTTP2: http2,
			TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: certificates, ClientSessionCache: tls.NewLRUClientSessionCache(4)}}}
		t.Cleanup(c.CloseIdleConnections)
		return c
	}
	send := func(c *http.Client, token string, r request) answer {
		req, err := http.NewRequest(http.MethodPost, w.url, strings.NewReader(r.body))
		must(t, err)
		req.Header.Set("Authorization", "Bearer "+token)
		req.Header.Set("Content-Type", "application/json")
		for k, v := range r.header {
			req.Header.Set(k, v)
		}
		resp, err := c.Do(req)
		must(t, err)
		defer func() { _ = resp.Body.Close() }()
		out := answer{Status: resp.StatusCode, Header: resp.Header}
		out.Body, err = io.ReadAll(resp.Body)
		must(t, err)
		return out
	}
	forged := map[string]string{"X-Sallyport-Cert": hex.EncodeToString(digest[:]), "X-Forwarded-Client-Cert": "Hash=" + hex.EncodeToString(digest[:])}
	lying := func(r request) request {
		r = presenting(r, "Bearer "+bound, "")
		for k, v := range forged {
			r.header[k] = v
		}
		return r
	}
	call, list := modern("open_spend", `{}`), modernMethod("tools/list")
	for _, http2 := range []bool{true, false} {
		own, none, another := dial(http2, mine), dial(http2), dial(http2, others)
		for _, test := range []struct {
			name   string
			client *http.Client
			token  string
			r      request
			status int
		}{
			{"its certificate", own, bound, call, 200},
			{"its certificate, at the hub", own, bound, list, 200},
			{"no certificate", none, bound, call, 401},
			{"no certificate, at the hub", none, bound, list, 401},
			{"a claimed one", none, bound, lying(call), 401},
			{"a claimed one, at the hub", none, bound, lying(list), 401},
			{"another certificate", another, bound, call, 401},
			{"another certificate and a claimed one", another, bound, lying(call), 401},
			{"a bearer token, with a certificate", own, w.token, modern("open_echo", `{}`), 200},
			{"a bearer token, without", none, w.token, modern("open_echo", `{}`), 200},
		} {
			a := send(test.client, test.token, test.r)
			if a.Status != test.status || a.Status == 200 && !strings.Contains(string(a.Body), `"result"`) {
				t.Errorf("HTTP/2 %v, %s: %s", http2, test.name, a)
			}
			if c := a.Header.Get("WWW-Authenticate"); a.Status == 401 && (!strings.Contains(c, `error="invalid_token"`) || !strings.HasPrefix(c, "Bearer ")) {
				t.Errorf("%s: %q", test.name, c)
			}
		}
		own.CloseIdleConnections() // the next connection resumes the TLS session
		if a := send(own, bound, call); a.Status != 200 {
			t.Errorf("HTTP/2 %v, resumed: %s", http2, a)
		}
	}
	if a := send(dial(true), w.token, call); !strings.Contains(string(a.Body), "spending needs a bound token") {
		t.Errorf("a bearer token may not spend: %s", a)
	}
	if n := len(w.open.calls()); n != 8 {
		t.Errorf("%d calls arrived", n)
	}
	how := map[any]int{}
	for _, pair := range w.reconcile() {
		how[pair[0]["binding"]]++
	}
	if how["mtls"] != 6 {
		t.Errorf("recorded: %v", how)
	}
	w.keepsSecrets(bound, hex.EncodeToString(otherDigest[:]), hex.EncodeToString(digest[:]))
}

// A policy tells bound tokens from bearer tokens, and a program that acts for itself from one that acts for a user; lists
// and calls agree.
func TestPolicyOnIdentity(t *testing.T) {
	w := start(t, binding("optional", ""), func(w *world) { w.write("open.rego", boundRego) })
	program := w.provider.forge(t, func(_ map[string]any, c jwt.MapClaims) { c["aud"], c["sub"] = w.url, c["client_id"] })
	p := w.newProver()
	as := func(token string) func(request) request {
		return func(r request) request { r.token = token; return r }
	}
	for name, test := range map[string]struct {
		as                   func(request) request
		spends, knowsSecrets bool
	}{
		"a user's bearer token": {as(w.token), false, true},
		"a user's bound token":  {func(r request) request { return p.proving(r) }, true, true},
		"a program":             {as(program), false, false},
	} {
		listed := string(w.send(test.as(modernMethod("tools/list"))).Body)
		for tool, want := range map[string]struct{ called, listed bool }{
			"open_spend":      {test.spends, true}, // who may not is told why
			"open_secretTool": {test.knowsSecrets, test.knowsSecrets},
		} {
			a := w.send(test.as(modern(tool, `{}`)))
			_, refused := a.isError()
			if called := a.RPC.Result != nil && !refused; called != want.called {
				t.Errorf("%s: %s: %s", name, tool, a)
			}
			if strings.Contains(listed, `"`+tool+`"`) != want.listed {
				t.Errorf("%s: %s: %s", name, tool, listed)
			}
		}
	}
}
