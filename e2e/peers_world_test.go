package e2e

import (
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/sallyport/sallyport/e2e/fixture"
)

// peersConfig is a gateway before three servers, one of which is called with tokens.
const peersConfig = configHead + `connectors:
  - name: auth-provider
    type: oidc
    oidcWellKnownURL: @PROVIDER/.well-known/openid-configuration
    oauthClientID: ai-identity-gateway
    oauthClientSecret: <gateway.clientSecret>
mcpProvider:
  transports:
    sse:
      enabled: true
  authorization:
    oauth:
      servers:
        - wellKnownEndpoint: @PROVIDER/.well-known/oauth-authorization-server
          tokenValidation:
            expectedAudiences: ["@URL"]
apps:
  - name: go
    type: mcpProxy
    toolNamespace:
      name: go_
    upstream: @GO
    authorization:
      inbound: &inbound
        opa:
          rego: |
            package orchestrator

            hidden if input.request.mcp.tool.params.name in {"get-env", "secret"}

            result["allowed"] := true if not hidden
      outbound:
        type: tokenExchange
        tokenExchange:
          idp: auth-provider
          audience: https://items.example/
          session: {ttl: 5s, scopes: [item:List]}
          tools: [{name: "*", ttl: 5s, scopes: [item:Get]}]
          prompts: [{name: "*", ttl: 5s, scopes: [item:Get]}]
          resources: [{uri: "*", ttl: 5s, scopes: [item:Get]}]
  - name: node
    type: mcpProxy
    toolNamespace:
      name: node_
    upstream: @NODE
    authorization:
      inbound: *inbound
      outbound: &open
        type: unprotected
  - name: python
    type: mcpProxy
    toolNamespace:
      name: python_
    upstream: @PYTHON
    authorization:
      inbound: *inbound
      outbound: *open
`

// peers is a gateway before servers that others wrote.
type peers struct {
	*world
	own  map[string]mcp.Transport // the servers themselves, by namespace
	bare atomic.Int64             // calls that reached the Go server without the token for them
}

// peerServers says in which eras two of the servers are spoken to, and over which transport the third.
type peerServers struct{ goEra, pythonEra, node string }

func startPeers(t *testing.T, s peerServers) *peers {
	t.Helper()
	p := &peers{}
	goURL := serve(t, p.guard(t, fixture.Everything(fixture.Options{})))
	nodeAddress, nodeURL := startReferenceServer(t, s.node)
	pythonAddress, pythonURL := startFastMCP(t)
	awaitListener(t, nodeAddress)
	awaitListener(t, pythonAddress)
	p.own = map[string]mcp.Transport{
		"go_":     &mcp.StreamableClientTransport{Endpoint: goURL},
		"node_":   &mcp.StreamableClientTransport{Endpoint: nodeURL},
		"python_": &mcp.StreamableClientTransport{Endpoint: pythonURL},
	}
	if s.node == "sse" {
		p.own["node_"] = &mcp.SSEClientTransport{Endpoint: nodeURL}
	}
	p.world = start(t, func(w *world) {
		w.write("sallyport.yaml", strings.NewReplacer("@ADDRESS", w.address, "@ADMIN", w.admin, "@PROVIDER", w.provider.URL, "@URL", w.url,
			"@GO", fmt.Sprintf(`{era: %s, stream: {url: "%s"}}`, s.goEra, goURL),
			"@NODE", fmt.Sprintf(`{transport: %s, %[1]s: {url: "%s"}}`, s.node, nodeURL),
			"@PYTHON", fmt.Sprintf(`{era: %s, stream: {url: "%s"}}`, s.pythonEra, pythonURL),
		).Replace(peersConfig))
	})
	return p
}

// guard counts the calls that come without a token for them.
func (p *peers) guard(t *testing.T, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch peek(r).Method {
		case "tools/call", "prompts/get", "resources/read":
			c := claims(t, r.Header.Get("Authorization"))
			if aud, _ := c.GetAudience(); !slices.Equal(aud, []string{"https://items.example/"}) || c["scope"] != "item:Get" || c["sub"] != user {
				p.bare.Add(1)
			}
		}
		h.ServeHTTP(w, r)
	})
}

// lists are what an agent is to see: what the servers say themselves, tools and prompts with their namespaces, but for
// what the policy hides.
func (p *peers) lists(t *testing.T) lists {
	t.Helper()
	var all lists
	for namespace, transport := range p.own {
		client := mcp.NewClient(&mcp.Implementation{Name: "lists", Version: "1"}, &mcp.ClientOptions{Capabilities: &mcp.ClientCapabilities{}})
		cs, err := client.Connect(t.Context(), transport, &mcp.ClientSessionOptions{ProtocolVersion: legacyVersion})
		must(t, err)
		own, err := listAll(t.Context(), cs)
		must(t, err)
		must(t, cs.Close())
		for _, name := range own.Tools {
			if name != "get-env" && name != "secret" {
				all.Tools = append(all.Tools, namespace+name)
			}
		}
		for _, name := range own.Prompts {
			all.Prompts = append(all.Prompts, namespace+name)
		}
		all.Resources = append(all.Resources, own.Resources...)
		all.Templates = append(all.Templates, own.Templates...)
	}
	return all.sorted()
}

// startReferenceServer starts @modelcontextprotocol/server-everything. One of its tools shows its environment, in which
// there is next to nothing.
func startReferenceServer(t *testing.T, transport string) (address, endpoint string) {
	t.Helper()
	node := nodeProgram(t.Context(), t, "mcp-server-everything")
	loopback, err := filepath.Abs(filepath.Join("node", "loopback.mjs"))
	must(t, err)
	address = freePort(t)
	_, port, _ := net.SplitHostPort(address)
	mode, path := "streamableHttp", "/mcp"
	if transport == "sse" {
		mode, path = "sse", "/sse"
	}
	spawn(t, nil, nil, "env", "-i", "PORT="+port, node.Path, "--import", loopback, node.Args[1], mode)
	return address, "http://" + address + path
}

// startFastMCP starts e2e/python/server.py.
func startFastMCP(t *testing.T) (address, endpoint string) {
	t.Helper()
	address = freePort(t)
	_, port, _ := net.SplitHostPort(address)
	python := pythonProgram(t.Context(), t, "server.py", port)
	spawn(t, nil, nil, "env", slices.Concat([]string{"-i"}, python.Env, python.Args)...)
	return address, "http://" + address + "/mcp"
}

// awaitListener waits for a program to listen. One that reads many files first takes its time on a busy machine.
func awaitListener(t *testing.T, address string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", address)
		if err == nil {
			_ = c.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("nobody at %s: %v", address, err)
		}
	}
}
