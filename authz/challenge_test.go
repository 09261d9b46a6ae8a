package authz_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/authz"
)

func TestChallenge(t *testing.T) {
	const metadata = `resource_metadata="https://gateway.example/.well-known/oauth-protected-resource`
	for _, test := range []struct{ path, authorization, want string }{
		{"/mcp", "-", `Bearer ` + metadata + `/mcp"`},
		{"/mcp/sse", "-", `Bearer ` + metadata + `/mcp/sse"`},
		{"/mcp/message", "-", `Bearer ` + metadata + `/mcp/message"`},
		{"/mcp", "Bearer unknown", `Bearer ` + metadata + `/mcp", error="invalid_token", error_description="the token is not valid"`},
		{"/mcp", "Basic x", `Bearer ` + metadata + `/mcp", error="invalid_token", error_description="the Authorization header is not one bearer token"`},
	} {
		w := newWorld(t)
		r := post("authorization", test.authorization)
		r.Path, r.Scheme, r.Host = test.path, "https", "gateway.example"
		v := w.judge(r, "{}")
		diff(t, test.path+" "+test.authorization, test.want, header(t, v.Reply, "www-authenticate"))
		diff(t, "type", "application/json", header(t, v.Reply, "content-type"))
		diff(t, "caching", "no-store", header(t, v.Reply, "cache-control"))
	}
}

type metadata struct {
	Resource             string   `json:"resource"`
	AuthorizationServers []string `json:"authorization_servers"`
	Scopes               []string `json:"scopes_supported"`
	Methods              []string `json:"bearer_methods_supported"`
}

func TestMetadata(t *testing.T) {
	const base = "/.well-known/oauth-protected-resource"
	for _, test := range []struct {
		name      string
		path      string // below base
		audiences []string
		resource  string
		want      string
	}{
		{"equal", "/mcp", []string{"https://first.example/", "https://gateway.example/", "https://gateway.example/mcp"}, "", "https://gateway.example/mcp"},
		{"plain path is the stream's", "", []string{"https://first.example/", "https://gateway.example/mcp"}, "", "https://gateway.example/mcp"},
		{"same origin", "/mcp", []string{"https://first.example/", "https://gateway.example/a", "https://gateway.example/b"}, "", "https://gateway.example/a"},
		{"other scheme is another origin", "/mcp", []string{"https://first.example/", "http://gateway.example/mcp"}, "", "https://first.example/"},
		{"first", "/mcp", []string{"urn:first", "https://second.example/"}, "", "urn:first"},
		{"sse endpoint", "/mcp/sse", []string{"https://gateway.example/mcp", "https://gateway.example/mcp/sse"}, "", "https://gateway.example/mcp/sse"},
		{"message endpoint, same origin", "/mcp/message", []string{"https://gateway.example/mcp"}, "", "https://gateway.example/mcp"},
		{"override", "/mcp", []string{"https://gateway.example/mcp"}, "https://named.example/", "https://named.example/"},
	} {
		w := newWorld(t, func(w *world) {
			w.cfg.Audiences, w.cfg.Resource = test.audiences, test.resource
			w.cfg.AllowedHosts = []string{"gateway.example"}
		})
		v := w.judge(authz.Request{Method: "GET", Path: base + test.path, Scheme: "https", Host: "gateway.example", EndOfStream: true}, "")
		var got metadata
		if v.Reply == nil || v.Reply.Status != 200 || json.Unmarshal(v.Reply.Body, &got) != nil {
			t.Fatalf("%s: %+v", test.name, v)
		}
		diff(t, test.name, metadata{test.want, []string{"https://issuer.example"}, nil, []string{"header"}}, got)
		diff(t, "caching", "max-age=300", header(t, v.Reply, "cache-control"))
		diff(t, "browsers", "*", header(t, v.Reply, "access-control-allow-origin"))
		if v.ID != "" || len(w.audit.records) != 0 {
			t.Errorf("%s: a public document is no message: %+v", test.name, w.audit.records)
		}
	}
}

// What to ask for at the first login is said where clients look for it: in the challenge, and in the metadata.
func TestScopesOfTheFirstLogin(t *testing.T) {
	w := newWorld(t, func(w *world) { w.cfg.Scopes = []string{"items", "item:Look"} })
	v := w.judge(authz.Request{Method: "GET", Path: "/.well-known/oauth-protected-resource", Scheme: "http", Host: host, EndOfStream: true}, "")
	var got metadata
	if err := json.Unmarshal(v.Reply.Body, &got); err != nil {
		t.Fatal(err)
	}
	diff(t, "metadata", []string{"items", "item:Look"}, got.Scopes)
	const metadata = `Bearer resource_metadata="http://` + host + `/.well-known/oauth-protected-resource/mcp", scope="items item:Look"`
	diff(t, "no token", metadata, header(t, w.judge(post("authorization", "-"), "{}").Reply, "www-authenticate"))
	diff(t, "a bad token", metadata+`, error="invalid_token", error_description="the token is not valid"`,
		header(t, w.judge(post("authorization", "Bearer unknown"), "{}").Reply, "www-authenticate"))

	v = newWorld(t).judge(authz.Request{Method: "GET", Path: "/.well-known/oauth-protected-resource", Scheme: "http", Host: host, EndOfStream: true}, "")
	if strings.Contains(string(v.Reply.Body), "scopes_supported") {
		t.Errorf("nothing is configured: %s", v.Reply.Body)
	}
}

// What minted tokens are verified with is for everybody who comes to this server by its name, as it is at the moment.
func TestDocuments(t *testing.T) {
	text := `{"keys":[1]}`
	w := newWorld(t, func(w *world) {
		w.cfg.Documents = map[string]authz.Document{"/tokens/jwks": func() ([]byte, time.Duration) { return []byte(text), 90 * time.Second }}
	})
	ask := func(method, host, path string) *authz.Reply {
		v := w.judge(authz.Request{Method: method, Path: path, Scheme: "http", Host: host, EndOfStream: true}, "")
		if v.Forwards() {
			t.Fatalf("%s %s goes on", method, path)
		}
		return v.Reply
	}
	for _, method := range []string{"GET", "HEAD"} {
		text = `{"keys":["` + method + `"]}`
		r := ask(method, host, "/tokens/jwks")
		if r.Status != 200 || string(r.Body) != text || header(t, r, "cache-control") != "max-age=90" || header(t, r, "content-type") != "application/json" {
			t.Errorf("%s: %+v", method, r)
		}
	}
	if n := len(w.audit.records); n != 0 {
		t.Errorf("%d records of what is no message", n)
	}
	for _, test := range []struct {
		method, host, path string
		want               int
	}{
		{"POST", host, "/tokens/jwks", 405}, {"DELETE", host, "/tokens/jwks", 405}, {"GET", "elsewhere.example", "/tokens/jwks", 403},
		{"GET", host, "/tokens", 404}, {"GET", host, "/tokens/jwks/", 404},
	} {
		if r := ask(test.method, test.host, test.path); r.Status != test.want {
			t.Errorf("%s %s%s: %d, want %d", test.method, test.host, test.path, r.Status, test.want)
		}
	}
}

func TestMetadataWithoutAudiences(t *testing.T) {
	w := newWorld(t, func(w *world) { w.cfg.Audiences = nil })
	v := w.judge(authz.Request{Method: "GET", Path: "/.well-known/oauth-protected-resource", Scheme: "http", Host: host, EndOfStream: true}, "")
	if !strings.Contains(string(v.Reply.Body), `"resource":"http://`+host+`/mcp"`) {
		t.Errorf("%s", v.Reply.Body)
	}
}

func TestPublicDocuments(t *testing.T) {
	const base = "/.well-known/oauth-protected-resource"
	off := func(w *world) { w.cfg.Tokens = nil }
	unknown := func(w *world) { w.tokens.issuers = nil }
	for _, test := range []struct {
		name, method, path, host string
		change                   func(w *world)
		status                   int
		record                   bool
	}{
		{name: "head", method: "HEAD", path: base + "/mcp", status: 200},
		{name: "post metadata", method: "POST", path: base, status: 405},
		{name: "not an endpoint", method: "GET", path: base + "/other", status: 404, record: true},
		{name: "suffix without slash", method: "GET", path: base + "mcp", status: 404, record: true},
		{name: "metadata of another host", method: "GET", path: base, host: "evil.example", status: 403, record: true},
		{name: "OAuth is off", method: "GET", path: base, change: off, status: 404},
		{name: "no issuer yet", method: "GET", path: base, change: unknown, status: 503},
		{name: "health", method: "GET", path: "/status", status: 200},
		{name: "health by any name", method: "HEAD", path: "/status", host: "10.1.2.3:8080", status: 200},
		{name: "health of posts", method: "POST", path: "/status", status: 405},
	} {
		w := newWorld(t)
		if test.change != nil {
			w = newWorld(t, test.change)
		}
		r := authz.Request{Method: test.method, Path: test.path, Scheme: "http", Host: host, EndOfStream: true}
		if test.host != "" {
			r.Host = test.host
		}
		v := w.judge(r, "")
		if v.Reply == nil || v.Reply.Status != test.status || (len(w.audit.records) == 1) != test.record || (v.ID != "") != test.record {
			t.Errorf("%s: %+v, %d records", test.name, v, len(w.audit.records))
		}
	}
}
