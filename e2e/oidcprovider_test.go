package e2e

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"
	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// oidc-provider, as docs/providers/oidc-provider.md has it: agents find their way from the gateway's 401 to its login
// pages and register on the way, and their tokens are swapped by resource (RFC 8707).

const itemsResource = "https://items.example.com/mcp"

// newOIDCProvider starts e2e/node/provider.mjs, and returns its issuer.
func newOIDCProvider(t *testing.T, w *world) string {
	t.Helper()
	address := freePort(t)
	_, port, _ := strings.Cut(address, ":")
	arguments, err := json.Marshal(map[string]any{"issuer": "http://" + address, "port": port, "gateway": w.url, "client": "gateway",
		"secret": gatewaySecret, "user": user, "servers": map[string]string{itemsResource: "item:List item:Get"}})
	must(t, err)
	cmd := nodeProgram(t.Context(), t, "node")
	dir := t.TempDir()
	must(t, os.CopyFS(dir, os.DirFS("node")))
	must(t, os.Symlink(filepath.Dir(filepath.Dir(cmd.Path)), filepath.Join(dir, "node_modules")))
	lines := make(chan string, 64)
	server := spawn(t, append(cmd.Env, "NODE_EXTRA_CA_CERTS="+w.path("ca.pem")), lines, cmd.Path, filepath.Join(dir, "provider.mjs"), string(arguments))
	for {
		select {
		case line := <-lines:
			if line == "ready" {
				return "http://" + address
			}
		case <-server.end:
			t.Fatal("oidc-provider ended")
		case <-time.After(20 * time.Second):
			t.Fatal("oidc-provider did not become ready")
		}
	}
}

func TestOIDCProvider(t *testing.T) {
	w := newWorld(t)
	w.certificates()
	issuer := newOIDCProvider(t, w)
	w.pageConfig("oidc-provider.md", []string{"https://login.example.com", issuer})
	w.run()
	wile := newBrowser(user, "any password will do")
	for name, document := range map[string]string{"registration": "", "metadata document": metadataDocument(t, w)} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			cs, call := wile.logsInAndCalls(ctx, t, w, document)
			defer func() { _ = cs.Close() }()
			client, _ := w.lastDecision()["client_id"].(string)
			if document != "" && client != document || client == "" {
				t.Errorf("the client is %q", client)
			}
			checkSwapped(t, claims(t, bearerOf(call)), issuer, client)
			// Another tool needs another scope: the 403 says which, and the agent asks its user for it.
			if result, err := cs.CallTool(ctx, &mcp.CallToolParams{Name: "items_getItem"}); err != nil || result.IsError {
				t.Errorf("the second scope: %v, %v", err, result)
			}
		})
	}
	w.oidcProviderRefuses(t)
}

// checkSwapped compares what the upstream got with what was asked for.
func checkSwapped(t *testing.T, got jwt.MapClaims, issuer, agent string) {
	t.Helper()
	if life := got["exp"].(float64) - got["iat"].(float64); life != 5 {
		t.Errorf("it lives for %v s", life)
	}
	for _, varying := range []string{"exp", "iat", "jti"} {
		delete(got, varying)
	}
	want := jwt.MapClaims{"iss": issuer, "sub": user, "client_id": "gateway", "aud": itemsResource, "scope": "item:List",
		"act": map[string]any{"sub": "gateway", "act": map[string]any{"sub": agent}}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// oidcProviderRefuses: what the server refuses is refused to the agent, who is told nothing of it.
func (w *world) oidcProviderRefuses(t *testing.T) {
	w.edit("sallyport.yaml", "resource: "+itemsResource, "resource: https://elsewhere.example.com/")
	w.edit("sallyport.yaml", "requireSubjectScopes: true", "requireSubjectScopes: false")
	w.gateway.stop()
	w.run()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cs, err := newBrowser(user, "any").sdkAgent(ctx, w.url, "")
	must(t, err)
	defer func() { _ = cs.Close() }()
	before := len(w.items.calls())
	result, err := cs.CallTool(ctx, &mcp.CallToolParams{Name: "items_listItems"})
	must(t, err)
	text, _ := result.Content[0].(*mcp.TextContent)
	if !result.IsError || strings.Contains(text.Text, "target") || len(w.items.calls()) != before {
		t.Errorf("a resource that the server does not have: %v", text.Text)
	}
	d := w.lastDecision()
	if message, _ := d["message"].(string); d["outcome"] != "denied" || !strings.Contains(message, "(invalid_target)") {
		t.Errorf("the audit: %v", d)
	}
}

// TestEmbeddedPage: the gateway of docs/providers/embedded.md, whose authorization server is within it.
func TestEmbeddedPage(t *testing.T) {
	w := newWorld(t)
	address := freePort(t)
	w.pageConfig("embedded.md", []string{"127.0.0.1:7421", address})
	w.run()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cs, err := newBrowser(user, "").sdkAgent(ctx, w.url, "")
	must(t, err)
	defer func() { _ = cs.Close() }()
	result, err := cs.CallTool(ctx, &mcp.CallToolParams{Name: "items_listItems"})
	must(t, err)
	calls := w.items.calls()
	if result.IsError || len(calls) != 1 {
		t.Fatalf("%v, %d calls arrived", result.Content, len(calls))
	}
	got := claims(t, bearerOf(calls[0]))
	for _, varying := range []string{"exp", "iat", "jti"} {
		delete(got, varying)
	}
	want := jwt.MapClaims{"iss": "http://" + address, "sub": user, "client_id": gatewayClient, "aud": "https://items.example.com/", "scope": "item:List",
		"act": map[string]any{"sub": gatewayClient, "act": map[string]any{"sub": w.lastDecision()["client_id"]}}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}
