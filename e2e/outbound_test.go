package e2e

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"
)

// The second door in the forms that servers want: other grants, other names for the place, certificates for secrets.

// tokenServer is an authorization server that gives whatever a test wants, and remembers what it was asked.
type tokenServer struct {
	*httptest.Server
	issuer string
	key    *ecdsa.PrivateKey

	mu     sync.Mutex
	forms  []url.Values
	change func(claims jwt.MapClaims)
}

// withTokenServer starts a gateway whose tokens come from one, and whose file was changed: pairs of old and new text.
func withTokenServer(t *testing.T, pairs ...string) (*world, *tokenServer) {
	t.Helper()
	s := &tokenServer{}
	w := start(t, func(w *world) {
		s.issuer, s.key = w.provider.URL, w.provider.key
		s.Server = httptest.NewServer(s)
		t.Cleanup(s.Close)
		w.edit("sallyport.yaml", "oidcWellKnownURL: "+w.provider.URL+"/", "oidcWellKnownURL: "+s.URL+"/")
		for i := 0; i < len(pairs); i += 2 {
			w.edit("sallyport.yaml", pairs[i], pairs[i+1])
		}
	})
	return w, s
}

// gives says how the claims of its tokens differ from what the first tool asks for.
func (s *tokenServer) gives(change func(claims jwt.MapClaims)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.change = change
}

// first is the first request for a token.
func (s *tokenServer) first() url.Values {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.forms[0]
}

func (s *tokenServer) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	rw.Header().Set("Content-Type", "application/json")
	if r.Method == http.MethodGet {
		_, _ = fmt.Fprintf(rw, `{"issuer":%q,"token_endpoint":%q}`, s.issuer, s.URL+"/token")
		return
	}
	_ = r.ParseForm()
	now := time.Now().Unix()
	c := jwt.MapClaims{"iss": s.issuer, "sub": user, "aud": "https://items.example/", "scope": "item:List", "iat": now, "exp": now + 5}
	s.mu.Lock()
	s.forms = append(s.forms, r.PostForm)
	s.change(c)
	s.mu.Unlock()
	token, err := jwt.NewWithClaims(jwt.SigningMethodES256, c).SignedString(s.key)
	if err != nil {
		rw.WriteHeader(http.StatusInternalServerError)
	}
	_, _ = fmt.Fprintf(rw, `{"access_token":%q,"issued_token_type":"urn:ietf:params:oauth:token-type:access_token","token_type":"Bearer"}`, token)
}

// unacceptable calls a tool whose token is to be refused.
func (w *world) unacceptable(t *testing.T, why string) {
	t.Helper()
	before := len(w.items.calls())
	if a := w.send(modern("my_server_listItems", `{}`)); a.Status != http.StatusServiceUnavailable || len(w.items.calls()) != before {
		t.Errorf("%s: %s, %d calls arrived", why, a, len(w.items.calls())-before)
	}
}

// Entra ID's grant: a jwt-bearer assertion (RFC 7523 §2.1), scopes that begin with their audience, and a person who is the
// same by another claim than sub.
func TestOnBehalfOf(t *testing.T) {
	w, s := withTokenServer(t, "    oauthClientSecret: <gateway.clientSecret>\n", "    oauthClientSecret: <gateway.clientSecret>\n    tokenEndpointAuthMethod: client_secret_post\n    grant: onBehalfOf\n    additionalParameters:\n      dc: WEU\n",
		"          audience: https://items.example/\n", "          audience: api://items\n          longerLifetimes: accept\n          subjectClaim: oid\n")
	w.token = w.provider.forge(t, func(_ map[string]any, c jwt.MapClaims) { c["aud"], c["oid"], c["sub"] = w.url, "oid-1", "pairwise-1" })
	var oid atomic.Value
	oid.Store("oid-1")
	s.gives(func(c jwt.MapClaims) {
		delete(c, "scope")
		c["aud"], c["oid"], c["sub"], c["scp"], c["exp"] = "api://items", oid.Load(), "pairwise-2", "item:List", time.Now().Unix()+3600
	})
	if a := w.send(modern("my_server_listItems", `{}`)); a.RPC.Result == nil {
		t.Fatal(a)
	}
	want := url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"}, "assertion": {w.token}, "requested_token_use": {"on_behalf_of"},
		"scope": {"api://items/item:List"}, "client_id": {gatewayClient}, "client_secret": {gatewaySecret}, "dc": {"WEU"}}
	if d := cmp.Diff(want, s.first()); d != "" {
		t.Errorf("the request (-want +got):\n%s", d)
	}
	if got := claims(t, bearerOf(w.items.calls()[0])); got["sub"] != "pairwise-2" || got["oid"] != "oid-1" {
		t.Errorf("the upstream got %v", got)
	}
	if message, _ := w.lastDecision()["message"].(string); !strings.Contains(message, "the token lives longer than asked for") {
		t.Errorf("the audit says %q", message)
	}
	oid.Store("oid-2")
	w.unacceptable(t, "another person")
	if message, _ := w.lastDecision()["message"].(string); !strings.Contains(message, "wrong subject") {
		t.Errorf("the audit says %q", message)
	}
}

// The place may be named by audience (RFC 8693 §2.1), by resource (RFC 8707), or by both.
func TestResourceAndAudience(t *testing.T) {
	for name, c := range map[string]struct {
		setting  string
		want     url.Values
		accepted []string // as the aud of the answer
	}{
		"audience": {"audience: https://items.example/", url.Values{"audience": {"https://items.example/"}}, []string{"https://items.example/"}},
		"resource": {"resource: https://items.example/mcp", url.Values{"resource": {"https://items.example/mcp"}}, []string{"https://items.example/mcp"}},
		"both": {"audience: items\n          resource: https://items.example/mcp", url.Values{"audience": {"items"}, "resource": {"https://items.example/mcp"}},
			[]string{"items", "https://items.example/mcp"}},
	} {
		t.Run(name, func(t *testing.T) {
			w, s := withTokenServer(t, "audience: https://items.example/", c.setting)
			for _, audience := range c.accepted {
				s.gives(func(c jwt.MapClaims) { c["aud"] = audience })
				if a := w.send(modern("my_server_listItems", `{}`)); a.RPC.Result == nil {
					t.Errorf("aud %s: %s", audience, a)
				}
			}
			s.gives(func(c jwt.MapClaims) { c["aud"] = "https://elsewhere.example/" })
			w.unacceptable(t, "another aud")
			got := url.Values{}
			for _, parameter := range []string{"audience", "resource"} {
				if values, ok := s.first()[parameter]; ok {
					got[parameter] = values
				}
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

// A token that is not quite what was asked for is refused, or used and noted.
func TestOtherThanAsked(t *testing.T) {
	for name, c := range map[string]struct {
		accept, reason, note string
		change               func(c jwt.MapClaims)
	}{
		"a longer life": {"longerLifetimes: accept", "longer than asked for", "the token lives longer than asked for",
			func(c jwt.MapClaims) { c["exp"] = time.Now().Unix() + 300 }},
		"fewer scopes": {"narrowerScopes: accept", "less than asked for", "the token lacks scopes that were asked for",
			func(c jwt.MapClaims) { c["scope"] = "item:List" }},
	} {
		t.Run(name, func(t *testing.T) {
			twoScopes := []string{"                - name: item:List\n", "                - name: item:List\n                - name: item:Get\n"}
			change := func(claims jwt.MapClaims) {
				claims["scope"] = "item:List item:Get"
				c.change(claims)
			}
			w, s := withTokenServer(t, twoScopes...)
			s.gives(change)
			w.unacceptable(t, "by default")
			if message, _ := w.lastDecision()["message"].(string); !strings.Contains(message, c.reason) {
				t.Errorf("the audit says %q", message)
			}
			w, s = withTokenServer(t, append(twoScopes, "          timeout: 2s\n", "          timeout: 2s\n          "+c.accept+"\n")...)
			s.gives(change)
			if a := w.send(modern("my_server_listItems", `{}`)); a.RPC.Result == nil || len(w.items.calls()) != 1 {
				t.Errorf("accepted: %s", a)
			}
			if message, _ := w.lastDecision()["message"].(string); !strings.Contains(message, c.note) {
				t.Errorf("the audit says %q", message)
			}
		})
	}
}

// Who acted before stays in the chain (RFC 8693 §4.1), by whichever way the token is made.
func TestActorChain(t *testing.T) {
	before := map[string]any{"sub": "assistant", "act": map[string]any{"sub": "planner"}}
	for name, c := range map[string]struct {
		change func(w *world)
		within map[string]any // the gateway's act
	}{
		"exchanged": {func(*world) {}, before},
		"minted": {func(w *world) { // which also names the client that showed the token

			address := freePort(t)
			w.edit("sallyport.yaml", "    type: oidc\n    oidcWellKnownURL: "+w.provider.URL+"/.well-known/openid-configuration\n",
				"    type: sts\n    keyDir: keys\n    address: "+address+"\n    issuer: http://"+address+"\n")
			w.edit("sallyport.yaml", "    oauthClientSecret: <gateway.clientSecret>\n", "")
			w.edit("sallyport.yaml", "          timeout: 2s\n", "")
		}, map[string]any{"sub": agentClient, "act": before}},
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t, c.change)
			w.token = w.provider.forge(t, func(_ map[string]any, c jwt.MapClaims) { c["aud"], c["act"] = w.url, before })
			got := w.upstreamToken(t, "my_server_listItems")
			if d := cmp.Diff(any(map[string]any{"sub": gatewayClient, "act": c.within}), got["act"]); d != "" {
				t.Errorf("act (-want +got):\n%s", d)
			}
		})
	}
}

// The gateway proves itself by a certificate, at the token endpoint that the metadata names for that (RFC 8705 §2, §5).
func TestMutualTLS(t *testing.T) {
	ca, caKey := authority(t)
	for method, accepts := range map[string]func(shown *x509.Certificate, own string) bool{
		"tls_client_auth":             func(shown *x509.Certificate, _ string) bool { return shown.CheckSignatureFrom(ca) == nil },
		"self_signed_tls_client_auth": func(shown *x509.Certificate, own string) bool { return certPEM(shown.Raw) == own },
	} {
		t.Run(method, func(t *testing.T) {
			w := newWorld(t)
			own, ownKey := leaf(t, ca, caKey)
			w.write("ca.pem", certPEM(ca.Raw))
			w.write("client.pem", own)
			w.write("client.key", ownKey)
			endpoint := w.provider.mutualTLS(t, ca, caKey, func(shown *x509.Certificate) bool { return accepts(shown, own) })
			w.edit("sallyport.yaml", "    oidcWellKnownURL: "+w.provider.URL+"/.well-known/openid-configuration\n",
				"    oidcWellKnownURL: "+endpoint+"/.well-known/openid-configuration\n    tokenEndpointAuthMethod: "+method+"\n    tls: idp\n")
			w.edit("sallyport.yaml", "    oauthClientSecret: <gateway.clientSecret>\n", "")
			w.edit("sallyport.yaml", "http:\n", "tls:\n  idp:\n    caFile: ca.pem\n    certFile: client.pem\n    keyFile: client.key\nhttp:\n")
			w.run()
			if got := w.upstreamToken(t, "my_server_listItems"); got["scope"] != "item:List" {
				t.Errorf("the upstream got %v", got)
			}
			form := w.provider.exchanges()[0]
			if form.Get("client_id") != gatewayClient || form.Has("client_secret") || form.Has("client_assertion") {
				t.Errorf("the request names %q, and more: %v", form.Get("client_id"), form.Has("client_secret"))
			}
			// A certificate that the server does not know opens nothing.
			w.gateway.stop()
			stranger, strangerKey := authority(t)
			other, otherKey := leaf(t, stranger, strangerKey)
			w.write("client.pem", other)
			w.write("client.key", otherKey)
			w.run()
			before := len(w.items.calls())
			a := w.send(modern("my_server_listItems", `{}`))
			if _, refused := a.isError(); !refused || len(w.items.calls()) != before {
				t.Errorf("a certificate that nobody knows: %s", a)
			}
		})
	}
}

// mutualTLS is the provider at an https address: its metadata for everybody, and a token endpoint for those who show a
// certificate that is accepted, and no other proof.
func (p *provider) mutualTLS(t *testing.T, ca *x509.Certificate, caKey *ecdsa.PrivateKey, accepts func(*x509.Certificate) bool) string {
	t.Helper()
	cert, key := leaf(t, ca, caKey)
	pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	must(t, err)
	server := httptest.NewUnstartedServer(nil)
	server.Config.Handler = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/.well-known/openid-configuration":
			rw.Header().Set("Content-Type", "application/json")
			_, _ = fmt.Fprintf(rw, `{"issuer":%q,"token_endpoint":%q,"mtls_endpoint_aliases":{"token_endpoint":%q}}`, p.URL, server.URL+"/nothing", server.URL+"/mtls")
		case r.URL.Path == "/mtls" && len(r.TLS.PeerCertificates) > 0 && accepts(r.TLS.PeerCertificates[0]) && r.Header.Get("Authorization") == "":
			r.SetBasicAuth(gatewayClient, gatewaySecret) // the embedded server knows secrets only
			r.URL.Path = "/token"
			p.ServeHTTP(rw, r)
		default:
			rw.Header().Set("Content-Type", "application/json")
			rw.WriteHeader(http.StatusUnauthorized)
			_, _ = rw.Write([]byte(`{"error":"invalid_client"}`))
		}
	})
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAnyClientCert}
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.URL
}
