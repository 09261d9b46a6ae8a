package authz_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/authz/token"
	"github.com/sallyport/sallyport/authz/token/dpop"
)

// bound takes tokens that are bound to a proof's key, as agentToken then is, or to a certificate.
func bound(w *world) {
	w.cfg.Bound = authz.Bound{DPoP: true, Certificates: true}
	w.tokens.known[agentToken].Binding = token.Binding{Method: token.MethodDPoP, Thumbprint: "t"}
}

var algs = `algs="` + strings.Join(dpop.Algorithms(), " ") + `"`

// The verifier is shown what the request proves possession by, and the address that the agent used; of a bearer token
// nothing but the certificate of the connection.
func TestPresented(t *testing.T) {
	look := func(w *world, r authz.Request) token.Presented { w.judge(r, "{}"); return w.tokens.last }
	certified := func(r authz.Request) authz.Request { r.Certificate = "ab12"; return r }
	for name, test := range map[string]struct {
		r    authz.Request
		want token.Presented
	}{
		"bearer": {post("dpop", "p"), token.Presented{Scheme: "Bearer", Token: agentToken}},
		"a certificate": {certified(post("x-sallyport-cert", "6666")),
			token.Presented{Scheme: "Bearer", Token: agentToken, Certificate: "ab12"}},
		"a claimed certificate": {post("x-sallyport-cert", "6666"), token.Presented{Scheme: "Bearer", Token: agentToken}},
		"DPoP": {certified(post("authorization", "dpop "+agentToken, "dpop", "p")), token.Presented{Scheme: "DPoP", Token: agentToken,
			Proofs: []string{"p"}, Method: "POST", URL: "http://" + host + "/mcp", Certificate: "ab12"}},
		"several proofs": {post("authorization", "DPoP "+agentToken, "dpop", "p|q"), token.Presented{Scheme: "DPoP", Token: agentToken,
			Proofs: []string{"p", "q"}, Method: "POST", URL: "http://" + host + "/mcp"}},
		"no proof": {post("authorization", "DPOP "+agentToken), token.Presented{Scheme: "DPoP", Token: agentToken,
			Method: "POST", URL: "http://" + host + "/mcp"}},
	} {
		diff(t, name, test.want, look(newWorld(t, bound), test.r))
	}
	https := post("authorization", "DPoP "+agentToken)
	https.Scheme, https.Host, https.RawQuery = "https", "gateway.example", "a=b"
	diff(t, "URL", "https://gateway.example/mcp", look(newWorld(t, bound), https).URL)
}

// How often a request is looked at decides whether its proof has to be new.
func TestLooks(t *testing.T) {
	w := newWorld(t, bound)
	r, body := modernCall("my_server_listItems", `{}`)
	w.judge(r, body)
	diff(t, "a new request", token.LookFirst, w.tokens.last.Look)
	if _, refusal := w.gate.Identify(t.Context(), r); refusal != nil {
		t.Error(refusal)
	}
	diff(t, "at the hub", token.LookRelayed, w.tokens.last.Look)
	w.gate.Again(t.Context(), r, ownSession, []byte(body))
	diff(t, "held at the hub", token.LookHeld, w.tokens.last.Look)
}

// One scheme, one space, one token; DPoP only where proofs are verified.
func TestSchemes(t *testing.T) {
	for _, test := range []struct {
		value string
		bound bool
		want  string
	}{
		{"DPoP " + agentToken, false, "401 -32600 the Authorization header is not one bearer token"},
		{"DPoP " + agentToken, true, listed},
		{"dPOP " + agentToken, true, listed},
		{"DPoP  " + agentToken, true, "401 -32600 the Authorization header is not one bearer token"},
		{"DPoP " + agentToken + ", Bearer " + agentToken, true, "401 -32600 the Authorization header is not one bearer token"},
		{"DPoP " + agentToken + "|Bearer " + agentToken, true, "401 -32600 the Authorization header is not one bearer token"},
		{"DPoP", true, "401 -32600 the Authorization header is not one bearer token"},
		{"DPoP+Bearer " + agentToken, true, "401 -32600 the Authorization header is not one bearer token"},
	} {
		w := newWorld(t)
		if test.bound {
			w = newWorld(t, bound)
		}
		r, body := modernList("authorization", test.value)
		if got := outcome(w.judge(r, body)); got != test.want {
			t.Errorf("%q, bound %v: %s, want %s", test.value, test.bound, got, test.want)
		}
	}
}

func TestChallengesOfBoundTokens(t *testing.T) {
	const at = `resource_metadata="http://` + host + `/.well-known/oauth-protected-resource/mcp"`
	const unbound = `error="invalid_token", error_description="the token is not presented in the way in which it is bound"`
	both := authz.Bound{DPoP: true}
	only := authz.Bound{DPoP: true, DPoPOnly: true}
	for _, test := range []struct {
		name  string
		bound authz.Bound
		value string
		err   error
		want  string
	}{
		{"nothing sent", both, "-", nil, "Bearer " + at + ", DPoP " + at + ", " + algs},
		{"nothing sent, bearer tokens are not taken", only, "-", nil, "DPoP " + at + ", " + algs},
		{"certificates only", authz.Bound{Certificates: true}, "-", nil, "Bearer " + at},
		{"bound, as bearer", both, "Bearer x", token.ErrBinding, "Bearer " + at + ", " + unbound + ", DPoP " + at + ", " + algs},
		{"not bound, as DPoP", both, "DPoP x", token.ErrBinding, "Bearer " + at + ", DPoP " + at + ", " + unbound + ", " + algs},
		{"bearer tokens are not taken", only, "Bearer x", token.ErrBinding, "DPoP " + at + ", " + unbound + ", " + algs},
		{"expired", both, "DPoP x", token.ErrExpired, "Bearer " + at + ", DPoP " + at + `, error="invalid_token", error_description="the token has expired", ` + algs},
		{"no good proof", both, "DPoP x", token.ErrProof, "DPoP " + at + `, error="invalid_dpop_proof", error_description="the DPoP proof is missing, or not for this request", ` + algs},
		{"replay", both, "DPoP x", token.ErrReplay, "DPoP " + at + `, error="invalid_dpop_proof", error_description="the DPoP proof has been used before", ` + algs},
		{"nonce", both, "DPoP x", &token.NonceError{Nonce: "fresh"}, "DPoP " + at + `, error="use_dpop_nonce", error_description="the DPoP proof needs the nonce of this answer", ` + algs},
	} {
		w := newWorld(t, func(w *world) {
			w.cfg.Bound = test.bound
			w.tokens.err["x"] = fmt.Errorf("%w: details for the audit", test.err)
		})
		r, body := modernList("authorization", test.value)
		v := w.judge(r, body)
		if v.Reply == nil || v.Reply.Status != 401 {
			t.Fatalf("%s: %+v", test.name, v)
		}
		diff(t, test.name, test.want, header(t, v.Reply, "www-authenticate"))
		nonce := ""
		if errors.Is(test.err, token.ErrNonce) {
			nonce = "fresh"
		}
		diff(t, test.name+": nonce", nonce, header(t, v.Reply, "dpop-nonce"))
		if rec := w.only(); test.err != nil && !strings.Contains(rec.Message, "details") {
			t.Errorf("%s: %+v", test.name, rec)
		}
	}
	w := newWorld(t, bound)
	r, body := modernCall("my_server_purgeItem", `{}`)
	v := w.judge(with(r, "authorization", "DPoP "+agentToken), body)
	diff(t, "scope", `DPoP error="insufficient_scope", scope="item:Admin item:Purge", `+at+", "+algs, header(t, v.Reply, "www-authenticate"))
}

// The next nonce comes with every answer to a proof, whoever gives the answer, and with no other.
func TestNonceOfAnswers(t *testing.T) {
	for _, test := range []struct {
		name    string
		change  func(w *world)
		tool    string
		verdict string
		reply   string
	}{
		{"forwarded", func(*world) {}, "my_server_listItems", "next", ""},
		{"refused", func(*world) {}, "my_server_mondayItem", "", "next"},
		{"proofs need none", func(w *world) { w.tokens.nonce = "" }, "my_server_mondayItem", "", ""},
		{"a bearer token", func(w *world) { w.tokens.known[agentToken].Binding = token.Binding{} }, "my_server_listItems", "", ""},
		{"a certificate", func(w *world) { w.tokens.known[agentToken].Binding.Method = token.MethodMTLS }, "my_server_listItems", "", ""},
	} {
		w := newWorld(t, bound, func(w *world) { w.tokens.nonce = "next" }, test.change)
		r, body := modernCall(test.tool, `{}`)
		v := w.judge(r, body)
		diff(t, test.name+": verdict", test.verdict, v.Nonce)
		if v.Reply != nil {
			diff(t, test.name+": reply", test.reply, header(t, v.Reply, "dpop-nonce"))
		}
	}
}

func TestMetadataOfBoundTokens(t *testing.T) {
	for _, test := range []struct {
		bound authz.Bound
		want  map[string]any
	}{
		{authz.Bound{}, map[string]any{}},
		{authz.Bound{DPoP: true}, map[string]any{"dpop_signing_alg_values_supported": true}},
		{authz.Bound{DPoP: true, DPoPOnly: true}, map[string]any{"dpop_signing_alg_values_supported": true, "dpop_bound_access_tokens_required": true}},
		{authz.Bound{Certificates: true}, map[string]any{"tls_client_certificate_bound_access_tokens": true}},
	} {
		w := newWorld(t, func(w *world) { w.cfg.Bound = test.bound })
		v := w.judge(authz.Request{Method: "GET", Path: "/.well-known/oauth-protected-resource", Scheme: "http", Host: host, EndOfStream: true}, "")
		var got map[string]any
		if err := json.Unmarshal(v.Reply.Body, &got); err != nil {
			t.Fatal(err)
		}
		for _, usual := range []string{"resource", "authorization_servers", "bearer_methods_supported"} {
			delete(got, usual)
		}
		if list, ok := got["dpop_signing_alg_values_supported"].([]any); ok {
			got["dpop_signing_alg_values_supported"] = slices.Contains(list, any("ES256")) && !slices.Contains(list, any("HS256"))
		}
		diff(t, fmt.Sprint(test.bound), test.want, got)
	}
}

// The proof ends at the gate, the certificate at the hub; neither is an upstream's to see.
func TestProofsGoNoFurther(t *testing.T) {
	w := newWorld(t, bound)
	r, body := modernCall("my_server_listItems", `{}`)
	r = with(r, "authorization", "DPoP "+agentToken, "dpop", "proof")
	r.Certificate = "ab12"
	v := w.judge(r, body)
	if !slices.Contains(v.Remove, "dpop") || slices.Contains(v.Set, [2]string{authz.CertHeader, "ab12"}) {
		t.Errorf("%+v", v)
	}
	r, body = modernList("authorization", "DPoP "+agentToken, "dpop", "proof")
	r.Certificate = "ab12"
	if v = w.judge(r, body); v.Route != authz.HubRoute || !slices.Contains(v.Set, [2]string{authz.CertHeader, "ab12"}) {
		t.Errorf("%+v", v)
	}
	if got := w.audit.records[0].Binding; got != "dpop" {
		t.Errorf("recorded as %q", got)
	}
}
