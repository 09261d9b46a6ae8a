package e2e

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/sallyport/sallyport/e2e/fixture"
)

// The official conformance suite against one gateway before three servers. It calls tools and prompts by names that
// only the gateway's namespaces make of the servers' own.

// conformanceConfig is a gateway without authorization, as it stands.
const conformanceConfig = configHead + `mcpProvider:
  authorization:
    oauth:
      enabled: false
apps:
  - name: everything
    type: mcpProxy
    toolNamespace:
      name: test_
    upstream:
      transport: stream
      stream:
        url: @EVERYTHING
    authorization: &everybody
      inbound:
        opa:
          name: everything-goes
          rego: |
            package orchestrator

            result["allowed"] := true
      outbound:
        type: unprotected
  - name: schema
    type: mcpProxy
    toolNamespace:
      name: json_
    upstream:
      transport: stream
      stream:
        url: @SCHEMA
    authorization: *everybody
  - name: decoy
    type: mcpProxy
    toolNamespace:
      name: decoy_
    upstream:
      transport: stream
      stream:
        url: @DECOY
    authorization: *everybody
`

// conformanceGateway is a gateway before the fixture's servers, which count the credentials they are sent.
type conformanceGateway struct {
	*world
	credentials atomic.Int64
}

func startConformance(t *testing.T, change ...func(w *world)) *conformanceGateway {
	t.Helper()
	g := &conformanceGateway{}
	g.world = start(t, append([]func(w *world){func(w *world) {
		w.write("sallyport.yaml", strings.NewReplacer("@ADDRESS", w.address, "@ADMIN", w.admin,
			"@EVERYTHING", g.serve(t, fixture.Everything(fixture.Options{})),
			"@SCHEMA", g.serve(t, fixture.Schema(fixture.Options{})),
			"@DECOY", g.serve(t, fixture.Decoy(fixture.Options{})),
		).Replace(conformanceConfig))
	}}, change...)...)
	return g
}

func (g *conformanceGateway) serve(t *testing.T, h http.Handler) string {
	return serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			g.credentials.Add(1)
		}
		h.ServeHTTP(w, r)
	}))
}

// serve gives a handler an address for the time of the test.
func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(func() {
		s.CloseClientConnections() // streams may still be open
		s.Close()
	})
	return s.URL + "/mcp"
}

// withAuthorization demands a token of every agent.
func withAuthorization(w *world) {
	w.edit("sallyport.yaml", "      enabled: false\n", strings.NewReplacer("@PROVIDER", w.provider.URL, "@URL", w.url).Replace(
		`      servers:
        - wellKnownEndpoint: @PROVIDER/.well-known/oauth-authorization-server
          tokenValidation:
            expectedAudiences: ["@URL"]
`))
}

// logIn is an agent's side of authorization for the suite, which knows of none: a proxy that adds a token, and keeps
// Host and Origin, which the suite is particular about.
func (w *world) logIn() string {
	to := &url.URL{Scheme: "http", Host: w.address}
	return serve(w.t, &httputil.ReverseProxy{FlushInterval: -1, Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(to)
		r.Out.Host = r.In.Host
		r.Out.Header.Set("Authorization", "Bearer "+w.token)
	}})
}

// noStreams passes at a server that answers tools/list with a stream. The gateway answers it itself, in JSON.
const noStreams = "server-sse-multiple-streams: server-sse-streams-functional"

// account asserts what holds of any traffic: no server was sent a credential, and each message has its two records.
func (g *conformanceGateway) account(t *testing.T) {
	if n := g.credentials.Load(); n > 0 {
		t.Errorf("%d requests reached the servers with a credential", n)
	}
	if len(g.reconcile()) == 0 {
		t.Error("no records")
	}
	g.verifyAudit()
}

// TestConformance: what the suite finds at the server it finds behind the gateway, too. Nothing that passes there is
// skipped, or left out of what a server declares, here.
func TestConformance(t *testing.T) {
	direct := map[string][]string{} // what passes without a gateway, by revision
	for _, target := range []struct {
		name  string
		start func(t *testing.T) (address string, account func(t *testing.T))
	}{
		{"server", func(t *testing.T) (string, func(*testing.T)) {
			return serve(t, fixture.Everything(fixture.Options{Prefix: "test_", Schema: "json_"})), func(*testing.T) {}
		}},
		{"gateway", func(t *testing.T) (string, func(*testing.T)) {
			g := startConformance(t)
			return g.url, g.account
		}},
		{"gateway with authorization", func(t *testing.T) (string, func(*testing.T)) {
			g := startConformance(t, withAuthorization)
			return g.logIn(), g.account
		}},
	} {
		t.Run(target.name, func(t *testing.T) {
			address, account := target.start(t)
			for _, revision := range revisions {
				t.Run(revision, func(t *testing.T) {
					got := conform(t, address, revision).passed()
					if target.name == "server" {
						direct[revision] = got
					}
					for _, c := range direct[revision] {
						if !slices.Contains(got, c) && c != noStreams {
							t.Errorf("passes at the server itself, and not here: %s", c)
						}
					}
				})
			}
			account(t)
		})
	}
}

// TestConformanceNeedsTheGateway: the same servers without the gateway do not have the names that the suite asks for.
func TestConformanceNeedsTheGateway(t *testing.T) {
	address := serve(t, fixture.Everything(fixture.Options{}))
	for _, scenario := range []string{"tools-call-simple-text", "prompts-get-simple", "completion-complete"} {
		if _, said, ok := runSuite(t, address, "--scenario", scenario); ok {
			t.Errorf("%s passes:\n%s", scenario, said)
		}
	}
}
