package e2e

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/modelcontextprotocol/go-sdk/auth"
	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/modelcontextprotocol/go-sdk/oauthex"

	"github.com/sallyport/sallyport/exchange/sts"
)

// stepUpRego asks for a scope of its own, beside those that the configuration requires.
const stepUpRego = `package orchestrator

default result["allowed"] := false

result["allowed"] := true if input.request.mcp.tool.params.name in {"listItems", "getItem"}
result["allowed"] := true if may_create
result["required_scopes"] := ["item:Confirm"] if {
	input.request.mcp.tool.params.name == "createItem"
	not may_create
}
may_create if {
	input.request.mcp.tool.params.name == "createItem"
	"item:Confirm" in input.identity.scopes
}
`

// startStepUp is a gateway at which a first login gives little, before a server of the SDK's.
func startStepUp(t *testing.T) *sdkWorld {
	t.Helper()
	s := &sdkWorld{}
	s.world = start(t, func(w *world) {
		all := []string{"items", "item:Own", "item:Confirm"}
		w.provider.change(t, func(c *sts.Config) {
			c.Scopes, c.Users[0].Scopes, c.Clients[0].Scopes = all, all, all
		})
		s.guarded = newSDKServer(t, guardedTools(), mcp.StreamableHTTPOptions{Stateless: true}, w.provider.bearerGuard(t, "https://items.example/"))
		w.edit("sallyport.yaml", w.items.addr(), s.guarded.addr())
		w.edit("sallyport.yaml", "      servers:\n", "      scopesSupported: [items]\n      servers:\n")
		w.edit("sallyport.yaml", "                - name: item:List\n", "                - name: item:List\n              requires: [items]\n")
		w.edit("sallyport.yaml", "                - name: item:Get\n", "                - name: item:Get\n              requires: [item:Own]\n"+
			"            - name: create*\n              ttl: 5s\n              scopes: [item:Create]\n              requires: [item:Own]\n")
		w.write("seed.rego", stepUpRego)
	})
	return s
}

// ups is what an agent does: calls, of which some take a login more; what comes is the same as with the scopes from the start.
type ups struct {
	tools  []string
	scopes []string // of each login
}

var stepUps = []struct {
	name string
	ups
}{
	{"one by one", ups{[]string{"my_server_listItems", "my_server_getItem", "my_server_createItem", "my_server_listItems"},
		[]string{"items", "item:Own items", "item:Confirm item:Own items"}}},
	{"all in one", ups{[]string{"my_server_createItem", "my_server_getItem", "my_server_listItems"},
		[]string{"items", "item:Confirm item:Own items"}}},
}

// An agent logs in with few scopes, is told what a call takes beside them, logs in once more by itself, and goes on with
// all that it had: the SDKs' own clients, in both eras.
func TestStepUp(t *testing.T) {
	for _, client := range []struct {
		name string
		run  func(ctx context.Context, t *testing.T, s *sdkWorld, tools []string) (listed, said []string)
	}{
		{"Go SDK, " + legacyVersion, goStepUp(legacyVersion, registered)},
		{"Go SDK, " + modernVersion, goStepUp(modernVersion, registered)},
		{"Go SDK, " + modernVersion + ", registering itself", goStepUp(modernVersion)},
		{"TypeScript SDK 1, " + legacyVersion, nodeStepUp(map[string]any{"sdk": 1, "grants": []string{"authorization_code"}})},
		{"TypeScript SDK 2, " + legacyVersion, nodeStepUp(map[string]any{"sdk": 2, "era": "legacy"})},
		{"TypeScript SDK 2, " + modernVersion, nodeStepUp(map[string]any{"sdk": 2, "era": "auto"})},
	} {
		for _, test := range stepUps {
			t.Run(client.name+", "+test.name, func(t *testing.T) {
				s := startStepUp(t)
				ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
				defer cancel()
				s.provider.forgetLogins()
				listed, said := client.run(ctx, t, s, test.tools)
				slices.Sort(listed)
				if d := cmp.Diff([]string{"my_server_createItem", "my_server_getItem", "my_server_listItems", "open_admin", "open_echo", "open_spend"}, listed); d != "" {
					t.Errorf("listed (-want +got):\n%s", d)
				}
				for i, tool := range test.tools {
					want, _ := json.Marshal(caller{Sub: user, Scopes: []string{scopes[strings.TrimPrefix(tool, "my_server_")]}, N: 1})
					if said[i] != string(want) {
						t.Errorf("%s: %s", tool, said[i])
					}
				}
				if d := cmp.Diff(test.scopes, s.provider.loginScopes()); d != "" {
					t.Errorf("logins (-want +got):\n%s", d)
				}
				s.checkStepUps(t, len(test.tools), len(test.scopes)-1)
			})
		}
	}
}

// checkStepUps asserts that what was refused for want of scope reached nobody.
func (s *sdkWorld) checkStepUps(t *testing.T, calls, refusals int) {
	t.Helper()
	outcomes := map[any]int{}
	for _, p := range s.reconcile() {
		if p[0]["method"] == "tools/call" {
			outcomes[p[0]["outcome"]]++
			if m, _ := p[0]["message"].(string); p[0]["outcome"] == "denied" && !strings.HasPrefix(m, "insufficient scope: ") {
				t.Errorf("denied: %s", m)
			}
		}
	}
	if outcomes["allowed"] != calls || outcomes["denied"] != refusals || s.guarded.calls.Load() != int64(calls) {
		t.Errorf("%v, and %d calls arrived", outcomes, s.guarded.calls.Load())
	}
	if n := len(s.provider.exchanges()); n != calls {
		t.Errorf("%d exchanges for %d calls", n, calls)
	}
}

// registered has the client be one that the authorization server knows. The SDK otherwise registers a new one for each
// login, and another client's session of a legacy protocol is not its own: it would have to initialize again.
func registered(cfg *auth.AuthorizationCodeHandlerConfig) {
	cfg.DynamicClientRegistrationConfig, cfg.PreregisteredClient = nil, &oauthex.ClientCredentials{ClientID: agentClient}
}

func goStepUp(version string, how ...func(*auth.AuthorizationCodeHandlerConfig)) func(context.Context, *testing.T, *sdkWorld, []string) (listed, said []string) {
	return func(ctx context.Context, t *testing.T, s *sdkWorld, tools []string) (listed, said []string) {
		cs, err := s.agent(ctx, user, version, how...)
		must(t, err)
		list, err := cs.ListTools(ctx, nil)
		must(t, err)
		for _, tool := range list.Tools {
			listed = append(listed, tool.Name)
		}
		for _, tool := range tools {
			got, err := ask(ctx, cs, tool, number{1})
			must(t, err)
			b, _ := json.Marshal(got)
			said = append(said, string(b))
		}
		must(t, cs.Close())
		return listed, said
	}
}

// nodeStepUp is e2e/node/stepup.mjs. Of itself the TypeScript SDK goes to the browser, and the program that uses it hands
// in what comes back. Version 1 does not do that while it has a refresh token, which brings it the same scopes once more:
// here it has none.
func nodeStepUp(how map[string]any) func(context.Context, *testing.T, *sdkWorld, []string) (listed, said []string) {
	return func(ctx context.Context, t *testing.T, s *sdkWorld, tools []string) (listed, said []string) {
		cmd := stepUpProgram(ctx, t, s, tools, how)
		cmd.Stderr = &testWriter{t}
		out, err := cmd.Output()
		must(t, err)
		var report struct{ Listed, Steps []string }
		must(t, json.Unmarshal(out, &report))
		return report.Listed, report.Steps
	}
}

func stepUpProgram(ctx context.Context, t *testing.T, s *sdkWorld, tools []string, how map[string]any) *exec.Cmd {
	t.Helper()
	cmd := nodeProgram(ctx, t, "node")
	dir := t.TempDir()
	must(t, os.CopyFS(dir, os.DirFS("node")))
	must(t, os.Symlink(filepath.Dir(filepath.Dir(cmd.Path)), filepath.Join(dir, "node_modules")))
	plan := map[string]any{"url": s.url, "user": user, "tools": tools}
	maps.Copy(plan, how)
	argument, err := json.Marshal(plan)
	must(t, err)
	cmd.Args = []string{cmd.Path, filepath.Join(dir, "stepup.mjs"), string(argument)}
	return cmd
}

// With a refresh token version 1 of the TypeScript SDK gets itself the same scopes once more, and gives up: a second refusal
// in a row is the end of it, not of the gateway's patience.
func TestStepUpWithRefreshToken(t *testing.T) {
	s := startStepUp(t)
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	s.provider.forgetLogins()
	cmd := stepUpProgram(ctx, t, s, []string{"my_server_getItem"}, map[string]any{"sdk": 1})
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "Server returned 403 after trying upscoping") {
		t.Errorf("%v\n%s", err, out)
	}
	if d := cmp.Diff([]string{"items"}, s.provider.loginScopes()); d != "" {
		t.Errorf("logins (-want +got):\n%s", d)
	}
	s.checkStepUps(t, 0, 2)
}

// testWriter shows what a program says about itself.
type testWriter struct{ t *testing.T }

func (w *testWriter) Write(b []byte) (int, error) {
	w.t.Logf("%s", b)
	return len(b), nil
}

// What to ask for first is where clients look: in the metadata, and in the challenge.
func TestScopesSupported(t *testing.T) {
	w := start(t, func(w *world) {
		w.edit("sallyport.yaml", "      servers:\n", "      scopesSupported: [items, \"item:Look\"]\n      servers:\n")
	})
	var metadata struct {
		Scopes []string `json:"scopes_supported"`
	}
	a := w.send(request{method: http.MethodGet, path: "/.well-known/oauth-protected-resource/mcp", token: "none"})
	must(t, json.Unmarshal(a.Body, &metadata))
	if !slices.Equal(metadata.Scopes, []string{"items", "item:Look"}) {
		t.Errorf("%s", a)
	}
	r := modern("my_server_listItems", `{}`)
	r.token = "none"
	if a := w.send(r); a.Status != http.StatusUnauthorized || !strings.Contains(a.Header.Get("WWW-Authenticate"), `scope="items item:Look"`) {
		t.Errorf("%s %s", a, a.Header.Get("WWW-Authenticate"))
	}
	w.edit("sallyport.yaml", "[items, \"item:Look\"]", "[items]")
	await(t, "a reload", func() bool { return strings.Contains(w.send(r).Header.Get("WWW-Authenticate"), `scope="items"`) })
}

// forgetLogins and loginScopes: the scopes of each login since, sorted.
func (p *provider) forgetLogins() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.logins = nil
}

func (p *provider) loginScopes() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []string
	for _, login := range p.logins {
		list := strings.Fields(login)
		slices.Sort(list)
		out = append(out, strings.Join(list, " "))
	}
	return out
}
