package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"
)

// oracle is an authorization server whose tokens say nothing: it has to be asked (RFC 7662).
type oracle struct {
	*httptest.Server
	mu     sync.Mutex
	answer http.HandlerFunc
	asked  []url.Values // the questions
	auths  []string     // their Authorization fields
}

const (
	oracleSecret = "asking:is a secret%/"
	opaque       = "b3BhcXVl-opaque.token_of~an+agent/=="
)

func newOracle(t *testing.T) *oracle {
	i := &oracle{}
	i.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/introspect" {
			w.Header().Set("Content-Type", "application/json")
			_, _ = fmt.Fprintf(w, `{"issuer":%q,"introspection_endpoint":%q}`, i.URL, i.URL+"/introspect")
			return
		}
		body := new(strings.Builder)
		_, _ = copyBounded(body, r.Body)
		form, _ := url.ParseQuery(body.String())
		i.mu.Lock()
		i.asked, i.auths = append(i.asked, form), append(i.auths, r.Header.Get("Authorization"))
		answer := i.answer
		i.mu.Unlock()
		answer(w, r)
	}))
	t.Cleanup(func() {
		i.CloseClientConnections()
		i.Close()
	})
	return i
}

func (i *oracle) says(answer http.HandlerFunc) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.answer = answer
}

func (i *oracle) questions() []url.Values {
	i.mu.Lock()
	defer i.mu.Unlock()
	return append([]url.Values(nil), i.asked...)
}

// about is a good answer with changes; nil removes a member.
func (w *world) about(changes jwt.MapClaims) http.HandlerFunc {
	all := jwt.MapClaims{"active": true, "sub": user, "client_id": agentClient, "aud": w.url, "scope": "one two", "exp": time.Now().Unix() + 600}
	for name, v := range changes {
		if all[name] = v; v == nil {
			delete(all, name)
		}
	}
	text, err := json.Marshal(all)
	must(w.t, err)
	return replyingWith(200, "application/json", string(text))
}

func replyingWith(status int, contentType, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}
}

// asking adds i as a second authorization server.
func asking(i *oracle, more string) func(w *world) {
	return func(w *world) {
		w.edit("secrets.yaml", "secrets:\n", "secrets:\n  gateway.asking: '"+oracleSecret+"'\n")
		w.edit("sallyport.yaml", "              clockSkew: 2s\n", "              clockSkew: 2s\n        - wellKnownEndpoint: "+i.URL+`/.well-known/oauth-authorization-server
          tokenValidation:
            expectedAudiences: [`+w.url+`]
            method: introspection
            introspection:
              clientID: the gateway
              clientSecret: <gateway.asking>
              timeout: 1s
`+more)
	}
}

// What a server says of an opaque token is all that counts, and it has to say all; whatever it says instead, nothing
// reaches an upstream.
func TestIntrospection(t *testing.T) {
	i := newOracle(t)
	w := start(t, asking(i, ""))
	call := modern("open_echo", `{}`)
	call.token = opaque

	i.says(w.about(nil))
	for n := range 2 { // no answer is kept
		if a := w.send(call); a.RPC.Result == nil || len(i.questions()) != n+1 {
			t.Fatalf("%s after %d questions", a, len(i.questions()))
		}
	}
	if d := cmp.Diff(url.Values{"token": {opaque}, "token_type_hint": {"access_token"}}, i.questions()[0]); d != "" {
		t.Error(d)
	}
	asked := http.Request{Header: http.Header{"Authorization": {i.auths[0]}}}
	if id, secret, _ := asked.BasicAuth(); id != url.QueryEscape("the gateway") || secret != url.QueryEscape(oracleSecret) {
		t.Errorf("asked as %q", id)
	}
	listed := modernMethod("tools/list")
	listed.token = opaque
	if a := w.send(listed); a.RPC.Result == nil {
		t.Errorf("at the hub: %s", a)
	}
	if d := w.reconcile()[0][0]; d["subject"] != user || d["issuer"] != i.URL || d["client_id"] != agentClient {
		t.Errorf("recorded: %v", d)
	}

	reached := len(w.open.calls())
	now := time.Now().Unix()
	for _, test := range []struct {
		name   string
		answer http.HandlerFunc
		status int
	}{
		{"revoked", replyingWith(200, "application/json", `{"active":false}`), 401},
		{"active is a string", w.about(jwt.MapClaims{"active": "true"}), 401},
		{"active is a number", w.about(jwt.MapClaims{"active": 1}), 401},
		{"active is missing", w.about(jwt.MapClaims{"active": nil}), 401},
		{"sub is missing", w.about(jwt.MapClaims{"sub": nil}), 401},
		{"sub is empty", w.about(jwt.MapClaims{"sub": ""}), 401},
		{"sub is two lines", w.about(jwt.MapClaims{"sub": "ann\r\nX-User: root"}), 401},
		{"aud is missing", w.about(jwt.MapClaims{"aud": nil}), 401},
		{"aud of another", w.about(jwt.MapClaims{"aud": "https://other.example/"}), 401},
		{"aud is an object", w.about(jwt.MapClaims{"aud": map[string]any{w.url: true}}), 401},
		{"expired", w.about(jwt.MapClaims{"exp": now - 60}), 401},
		{"not valid yet", w.about(jwt.MapClaims{"nbf": now + 600}), 401},
		{"iss of the other server", w.about(jwt.MapClaims{"iss": w.provider.URL}), 401},
		{"a refresh token", w.about(jwt.MapClaims{"token_type": "refresh_token"}), 401},
		{"bound to a key", w.about(jwt.MapClaims{"cnf": map[string]any{"jkt": w.newProver().thumbprint()}}), 401},
		{"an empty object", replyingWith(200, "application/json", `{}`), 401},
		{"active twice", replyingWith(200, "application/json", `{"active":false,"active":true,"sub":"x","aud":"`+w.url+`"}`), 503},
		{"null", replyingWith(200, "application/json", `null`), 503},
		{"a web page", replyingWith(200, "text/html", `<p>active: true</p>`), 503},
		{"cut off", replyingWith(200, "application/json", `{"active":true,"sub":"`), 503},
		{"endless", replyingWith(200, "application/json", `{"active":true,"x":"`+strings.Repeat("x", 1<<20)+`"}`), 503},
		{"500", replyingWith(500, "application/json", `{"active":true}`), 503},
		{"the gateway's secret is wrong", replyingWith(401, "application/json", `{"error":"invalid_client"}`), 503},
		{"elsewhere", func(rw http.ResponseWriter, r *http.Request) {
			http.Redirect(rw, r, w.open.URL, http.StatusTemporaryRedirect)
		}, 503},
		{"never", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, 503},
	} {
		i.says(test.answer)
		var a answer
		asked := len(i.questions())
		await(t, "the server to be asked: "+test.name, func() bool { // it is left alone for a while when it fails
			a = w.send(call)
			return len(i.questions()) > asked
		})
		if a.Status != test.status || a.RPC.Error == nil {
			t.Errorf("%s: %s, want %d", test.name, a, test.status)
		}
		if test.status == 503 && a.Header.Get("Retry-After") == "" {
			t.Errorf("%s: when to come back is not said", test.name)
		}
	}
	if a := w.send(modern("open_echo", `{}`)); a.RPC.Result == nil {
		t.Errorf("a token of the other server, meanwhile: %s", a)
	}
	foreign := modern("open_echo", `{}`)
	foreign.token = w.provider.forge(t, func(_ map[string]any, c jwt.MapClaims) { c["aud"], c["iss"] = w.url, i.URL })
	i.says(replyingWith(200, "application/json", `{"active":false}`))
	await(t, "the server to be asked again", func() bool { return w.send(call).Status == 401 })
	if a := w.send(foreign); a.Status != 401 {
		t.Errorf("signed by one server in the name of the other: %s", a)
	}
	i.says(w.about(nil))
	if a := w.send(call); a.RPC.Result == nil {
		t.Errorf("afterwards: %s", a)
	}
	if n := len(w.open.calls()); n != reached+2 {
		t.Errorf("%d calls arrived, want %d", n, reached+2)
	}
	for _, want := range []string{`sallyport_introspections_total{issuer="` + i.URL + `"} `, `sallyport_introspection_failures_total{issuer="` + i.URL + `"} `} {
		if metrics := w.metrics(); !strings.Contains(metrics, want) || strings.Contains(metrics, want+"0\n") {
			t.Errorf("missing, or nothing: %s", want)
		}
	}
	w.keepsSecrets(opaque, oracleSecret, url.QueryEscape(oracleSecret), w.token)
}

// An answer is used again for as long as it may be, and no longer than that a revoked token works.
func TestIntrospectionAnswersAreKept(t *testing.T) {
	i := newOracle(t)
	w := start(t, asking(i, "              cacheTTL: 2s\n"))
	call := modern("open_echo", `{}`)
	call.token = opaque
	i.says(w.about(nil))
	begun := time.Now()
	for range 5 {
		if a := w.send(call); a.RPC.Result == nil {
			t.Fatal(a)
		}
	}
	if n := len(i.questions()); n > 1+int(time.Since(begun)/(2*time.Second)) {
		t.Errorf("asked %d times", n)
	}
	i.says(replyingWith(200, "application/json", `{"active":false}`))
	await(t, "the token to be refused", func() bool { return w.send(call).Status == http.StatusUnauthorized })
}

// JWTs are verified here, and their server is asked whether they still count.
func TestIntrospectedJWTs(t *testing.T) {
	i := newOracle(t)
	w := start(t, func(w *world) {
		w.edit("secrets.yaml", "secrets:\n", "secrets:\n  gateway.asking: '"+oracleSecret+"'\n")
		w.edit("sallyport.yaml", "            method: jwt\n", `            method: introspection
            introspection: {tokens: jwt, endpoint: "`+i.URL+`/introspect", clientID: gateway, clientSecret: "<gateway.asking>", authMethod: client_secret_post}
`)
	})
	call := modern("open_echo", `{}`)
	i.says(replyingWith(200, "application/json", `{"active":true}`))
	if a := w.send(call); a.RPC.Result == nil {
		t.Fatal(a)
	}
	if q := i.questions()[0]; q.Get("client_id") != "gateway" || q.Get("client_secret") != oracleSecret || i.auths[0] != "" {
		t.Errorf("asked %v", q)
	}
	asked := len(i.questions())
	forged := modern("open_echo", `{}`)
	forged.token = w.token[:len(w.token)-6] + "AAAAAA"
	opaqueCall := modern("open_echo", `{}`)
	opaqueCall.token = opaque
	for name, r := range map[string]request{"a bad signature": forged, "an opaque token": opaqueCall} {
		if a := w.send(r); a.Status != 401 || len(i.questions()) != asked {
			t.Errorf("%s: %s, %d questions", name, a, len(i.questions())-asked)
		}
	}
	for name, test := range map[string]struct {
		answer http.HandlerFunc
		status int
	}{
		"revoked":                 {replyingWith(200, "application/json", `{"active":false}`), 401},
		"about somebody else":     {replyingWith(200, "application/json", `{"active":true,"sub":"mallory"}`), 401},
		"the server is not there": {replyingWith(503, "text/plain", "later"), 503},
	} {
		i.says(test.answer)
		if a := w.send(call); a.Status != test.status {
			t.Errorf("%s: %s", name, a)
		}
	}
	if n := len(w.open.calls()); n != 1 {
		t.Errorf("%d calls arrived", n)
	}
	w.keepsSecrets(oracleSecret, w.token)
}
