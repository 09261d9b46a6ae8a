package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Tokens that are bound to a key (RFC 9449, RFC 8705), through the real Envoy.

// prover is an agent with a key of its own.
type prover struct {
	*world
	key   *ecdsa.PrivateKey
	token string // bound to the key
}

// newProver makes an agent with a key, and a token that is bound to it.
func (w *world) newProver() *prover {
	w.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(w.t, err)
	p := &prover{world: w, key: key}
	p.token = w.boundTo(jwt.MapClaims{"jkt": p.thumbprint()})
	return p
}

// boundTo is a token of the agent's with this confirmation (RFC 7800).
func (w *world) boundTo(cnf jwt.MapClaims) string {
	return w.provider.forge(w.t, func(_ map[string]any, c jwt.MapClaims) { c["aud"], c["cnf"] = w.url, cnf })
}

func (p *prover) jwk() map[string]any {
	point, err := p.key.PublicKey.Bytes()
	must(p.t, err)
	return map[string]any{"kty": "EC", "crv": "P-256", "x": encoded(point[1:33]), "y": encoded(point[33:])}
}

// thumbprint is that of the key (RFC 7638): encoding/json sorts the members as the standard wants them.
func (p *prover) thumbprint() string {
	text, err := json.Marshal(p.jwk())
	must(p.t, err)
	sum := sha256.Sum256(text)
	return encoded(sum[:])
}

func encoded(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// proof is a new one for a request with a token (RFC 9449 §4.2).
func (p *prover) proof(token, method, url string, change ...func(c jwt.MapClaims)) string {
	sum := sha256.Sum256([]byte(token))
	c := jwt.MapClaims{"jti": rand.Text(), "htm": method, "htu": url, "iat": time.Now().Unix(), "ath": encoded(sum[:])}
	for _, f := range change {
		f(c)
	}
	t := jwt.NewWithClaims(jwt.SigningMethodES256, c)
	t.Header["typ"], t.Header["jwk"] = "dpop+jwt", p.jwk()
	signed, err := t.SignedString(p.key)
	must(p.t, err)
	return signed
}

// proving adds the agent's token and a proof to r.
func (p *prover) proving(r request, change ...func(c jwt.MapClaims)) request {
	method := r.method
	if method == "" {
		method = http.MethodPost
	}
	return presenting(r, "DPoP "+p.token, p.proof(p.token, method, "http://"+p.address+"/mcp", change...))
}

// presenting is r with these fields.
func presenting(r request, authorization, proof string) request {
	header := map[string]string{"Authorization": authorization}
	for k, v := range r.header {
		header[k] = v
	}
	if proof != "" {
		header["DPoP"] = proof
	}
	r.header = header
	return r
}

// binding sets tokenValidation.binding, and more of oauth behind the servers.
func binding(mode, oauth string) func(w *world) {
	return func(w *world) {
		w.edit("sallyport.yaml", "            method: jwt\n", "            method: jwt\n            binding: "+mode+"\n")
		w.edit("sallyport.yaml", "apps:\n", oauth+"apps:\n")
	}
}

// refusedAt demands a 401 whose challenge begins with one of scheme and holds all of parts.
func (w *world) refusedAt(what string, a answer, scheme string, parts ...string) {
	w.t.Helper()
	challenge := a.Header.Get("WWW-Authenticate")
	parts = append(parts, `resource_metadata="http://`+w.address+`/.well-known/oauth-protected-resource/mcp"`)
	missing := slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(challenge, part) })
	if a.Status != http.StatusUnauthorized || a.RPC.Error == nil || !strings.HasPrefix(challenge, scheme+" ") || missing {
		w.t.Errorf("%s: %s\n%s", what, a, challenge)
	}
}

// keepsSecrets demands that none of these is in what the gateway says, or reached an upstream.
func (w *world) keepsSecrets(secrets ...string) {
	w.t.Helper()
	audit, err := os.ReadFile(w.path("audit.jsonl"))
	must(w.t, err)
	var upstreams strings.Builder
	for _, r := range append(w.items.all(), w.open.all()...) {
		_, _ = fmt.Fprintln(&upstreams, r.Header, string(r.Body))
		for name := range r.Header {
			if name == "Dpop" || strings.HasPrefix(name, "X-Sallyport") {
				w.t.Errorf("%s reached an upstream", name)
			}
		}
	}
	places := map[string]string{"the log": w.gateway.output(), "the audit": string(audit), "the metrics": w.metrics(), "an upstream": upstreams.String()}
	for place, content := range places {
		for _, secret := range secrets {
			if strings.Contains(content, secret[strings.LastIndexByte(secret, '.')+1:]) {
				w.t.Errorf("a secret is in %s", place)
			}
		}
	}
}

func TestDPoP(t *testing.T) {
	w := start(t, binding("optional", ""))
	p, thief := w.newProver(), w.newProver()
	url := "http://" + w.address + "/mcp"
	call := modern("open_echo", `{}`)

	t.Run("accepted", func(t *testing.T) {
		session := ""
		for _, step := range []struct {
			name string
			r    func() request
			ok   func(a answer) bool
		}{
			{"a call that Envoy leads", func() request { return call }, nil},
			{"a call whose token is exchanged", func() request { return modern("my_server_listItems", `{}`) }, nil},
			{"a list of the hub's", func() request { return modernMethod("tools/list") }, nil},
			{"a session", func() request {
				return request{body: `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"e2e","version":"1"}}}`}
			}, func(a answer) bool { session = a.Header.Get("Mcp-Session-Id"); return session != "" }},
			{"a call in it", func() request { return legacyCall(session, "my_server_listItems", `{}`) }, nil},
			{"its list", func() request { return legacy(session, `{"jsonrpc":"2.0","id":2,"method":"tools/list"}`) }, nil},
		} {
			a := w.send(p.proving(step.r()))
			if a.Status != http.StatusOK || a.RPC.Result == nil || step.ok != nil && !step.ok(a) {
				t.Errorf("%s: %s %q", step.name, a, a.Header.Get("WWW-Authenticate"))
			}
			if a.Header.Get("DPoP-Nonce") != "" {
				t.Errorf("%s: a nonce that nobody needs", step.name)
			}
		}
		in := map[string]string{"Mcp-Session-Id": session, "MCP-Protocol-Version": "2025-11-25"}
		events := w.events(p.proving(request{method: http.MethodGet, header: in}))
		w.edit("seed.rego", `"getItem"`, `"createItem"`) // lists change with the policy
		if line := <-events; !strings.Contains(line, "notifications/tools/list_changed") {
			t.Errorf("on the stream: %s", line)
		}
		if a := w.send(p.proving(request{method: http.MethodDelete, header: in})); a.Status != http.StatusNoContent {
			t.Errorf("DELETE: %s", a)
		}
	})

	reached := len(w.items.calls()) + len(w.open.calls())
	used := p.proving(call)
	if a := w.send(used); a.RPC.Result == nil {
		t.Fatal(a)
	}
	reached++
	const bad, unbound = `error="invalid_dpop_proof"`, `error="invalid_token"`
	with := func(f func(c jwt.MapClaims)) request { return p.proving(call, f) }
	proofOf := func(r request) string { return r.header["DPoP"] }
	bearer, other := "Bearer "+w.token, w.boundTo(jwt.MapClaims{"jkt": thief.thumbprint()})
	for _, test := range []struct {
		name, scheme, err string
		r                 request
	}{
		{"a replay", "DPoP", bad, used},
		{"a replay with another message", "DPoP", bad, presenting(modern("my_server_listItems", `{}`), "DPoP "+p.token, proofOf(used))},
		{"for another method", "DPoP", bad, with(func(c jwt.MapClaims) { c["htm"] = "GET" })},
		{"for another path", "DPoP", bad, with(func(c jwt.MapClaims) { c["htu"] = url + "/sse" })},
		{"for another host", "DPoP", bad, with(func(c jwt.MapClaims) { c["htu"] = "http://evil.example/mcp" })},
		{"for another scheme", "DPoP", bad, with(func(c jwt.MapClaims) { c["htu"] = "https://" + w.address + "/mcp" })},
		{"for another token", "DPoP", bad, presenting(call, "DPoP "+p.token, p.proof(other, "POST", url))},
		{"of an hour ago", "DPoP", bad, with(func(c jwt.MapClaims) { c["iat"] = time.Now().Unix() - 3600 })},
		{"of the next hour", "DPoP", bad, with(func(c jwt.MapClaims) { c["iat"] = time.Now().Unix() + 3600 })},
		{"without jti", "DPoP", bad, with(func(c jwt.MapClaims) { delete(c, "jti") })},
		{"without a token's hash", "DPoP", bad, with(func(c jwt.MapClaims) { delete(c, "ath") })},
		{"no proof", "DPoP", bad, presenting(call, "DPoP "+p.token, "")},
		{"the token as its proof", "DPoP", bad, presenting(call, "DPoP "+p.token, p.token)},
		{"two proofs in one", "DPoP", bad, presenting(call, "DPoP "+p.token, proofOf(p.proving(call))+","+proofOf(p.proving(call)))},
		{"by the key of a thief", "Bearer", unbound, presenting(call, "DPoP "+p.token, thief.proof(p.token, "POST", url))},
		{"a bound token as bearer", "Bearer", unbound, presenting(call, "Bearer "+p.token, "")},
		{"a bound token as bearer, with its proof", "Bearer", unbound, presenting(call, "Bearer "+p.token, proofOf(p.proving(call)))},
		{"a bearer token as DPoP", "Bearer", unbound, presenting(call, "DPoP "+w.token, p.proof(w.token, "POST", url))},
		{"two schemes", "Bearer", unbound, presenting(call, "DPoP "+p.token+", "+bearer, proofOf(p.proving(call)))},
	} {
		w.refusedAt(test.name, w.send(test.r), test.scheme, test.err, `algs="ES256`)
	}
	if a := w.send(presenting(call, bearer, proofOf(p.proving(call)))); a.RPC.Result == nil {
		t.Errorf("a bearer token, with a proof that nobody asked for: %s", a)
	}
	if n := len(w.items.calls()) + len(w.open.calls()); n != reached+1 {
		t.Errorf("%d calls arrived, want %d", n, reached+1)
	}
	for _, pair := range w.reconcile() {
		d := pair[0]
		if want := map[bool]any{true: "dpop", false: nil}[d["jti"] == claims(t, p.token)["jti"]]; d["binding"] != want {
			t.Errorf("bound by %v: %v", d["binding"], d)
		}
	}
	w.keepsSecrets(p.token, w.token, proofOf(used))
	w.verifyAudit()
}

// events are the data lines of an event stream, as they come.
func (w *world) events(r request) <-chan string {
	out := make(chan string, 16)
	in := w.stream(r)
	go func() {
		defer close(out)
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			if data, ok := strings.CutPrefix(line, "data: "); ok && strings.TrimSpace(data) != "" {
				out <- data
			}
		}
	}()
	return out
}

// What agents are told of how to prove themselves: in the metadata, and when they come without a token.
func TestBoundTokensAreAnnounced(t *testing.T) {
	for _, test := range []struct {
		mode     string
		required bool
		schemes  string
	}{{"optional", false, "Bearer "}, {"required", true, "DPoP "}} {
		w := start(t, binding(test.mode, ""))
		var doc struct {
			Algorithms []string `json:"dpop_signing_alg_values_supported"`
			Required   bool     `json:"dpop_bound_access_tokens_required"`
			TLS        bool     `json:"tls_client_certificate_bound_access_tokens"`
		}
		must(t, json.Unmarshal(w.send(request{method: http.MethodGet, token: "none", path: "/.well-known/oauth-protected-resource/mcp"}).Body, &doc))
		if !slices.Contains(doc.Algorithms, "ES256") || doc.Required != test.required || doc.TLS {
			t.Errorf("%s: %+v", test.mode, doc)
		}
		r := modern("open_echo", `{}`)
		r.token = "none"
		w.refusedAt(test.mode, w.send(r), strings.TrimSpace(test.schemes), `DPoP resource_metadata="`, `algs="`)
		if a := w.send(modern("open_echo", `{}`)); (a.Status == http.StatusUnauthorized) != test.required {
			t.Errorf("%s: a bearer token: %s", test.mode, a)
		}
		if a := w.send(w.newProver().proving(modern("open_echo", `{}`))); a.RPC.Result == nil {
			t.Errorf("%s: a bound token: %s", test.mode, a)
		}
	}
}

// A proof needs a nonce of the gateway's, which comes with the refusal and then with every answer, whoever gives it.
func TestDPoPNonce(t *testing.T) {
	w := start(t, binding("optional", "      dpop:\n        requireNonce: true\n        proofAge: 30s\n"))
	p := w.newProver()
	nonce := ""
	with := func(c jwt.MapClaims) { c["nonce"] = nonce }
	call := modern("open_echo", `{}`)
	a := w.send(p.proving(call))
	w.refusedAt("no nonce", a, "DPoP", `error="use_dpop_nonce"`)
	if nonce = a.Header.Get("DPoP-Nonce"); nonce == "" {
		t.Fatal("no nonce in the refusal")
	}
	for name, r := range map[string]request{"an upstream's answer": call, "the hub's": modernMethod("tools/list"), "the gate's": modern("open_nothing", `{}`)} {
		a := w.send(p.proving(r, with))
		if a.Status != http.StatusOK || len(a.Header.Values("DPoP-Nonce")) != 1 {
			t.Errorf("%s: %s, nonces %q", name, a, a.Header.Values("DPoP-Nonce"))
			continue
		}
		nonce = a.Header.Get("DPoP-Nonce")
	}
	nonce = nonce[:len(nonce)-2] + "AA"
	w.refusedAt("a nonce of nobody's", w.send(p.proving(call, with)), "DPoP", `error="use_dpop_nonce"`)
	if a := w.send(call); a.RPC.Result == nil || a.Header.Get("DPoP-Nonce") != "" {
		t.Errorf("a bearer token: %s, %q", a, a.Header.Get("DPoP-Nonce"))
	}
	if n := len(w.open.calls()); n != 2 {
		t.Errorf("%d calls arrived", n)
	}
}
