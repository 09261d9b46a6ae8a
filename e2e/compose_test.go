package e2e

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// stack is deploy/compose, running.
type stack struct {
	*sdkWorld // of which only the gateway's address is there, for its agents
	dir       string
	issuer    string
}

const (
	composeGateway = "http://127.0.0.1:7420"
	composeIssuer  = "http://127.0.0.1:7421"
	composeProject = "sallyport-test"
)

// startStack starts a copy of deploy/compose whose policies may be edited. The images are those that `make compose-test`
// has built.
func startStack(t *testing.T) *stack {
	t.Helper()
	s := &stack{&sdkWorld{world: &world{t: t, url: composeGateway + "/mcp"}}, t.TempDir(), composeIssuer}
	must(t, os.CopyFS(s.dir, os.DirFS(filepath.Join("..", "deploy", "compose"))))
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(s.compose("logs", "--no-color"))
		}
		s.compose("down", "--volumes", "--timeout", "5")
	})
	s.compose("up", "--detach", "--wait", "--no-build", "--pull", "never")
	return s
}

// docker runs a command of the engine's client, in the directory of the stack, and returns what it prints.
func (s *stack) docker(args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.Command("docker", args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.dir, &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), errors.Join(err, errors.New(stderr.String()))
	}
	return stdout.String(), nil
}

// compose runs `docker compose …`, which must succeed.
func (s *stack) compose(args ...string) string {
	s.t.Helper()
	out, err := s.docker(append([]string{"compose", "--project-name", composeProject}, args...)...)
	if err != nil {
		s.t.Errorf("docker compose %s: %v", args[0], err)
	}
	return out
}

// entries are the names of a directory in a container's volume, with what they are.
func (s *stack) entries(service, dir string) (map[string]*tar.Header, map[string]string) {
	s.t.Helper()
	headers, contents := map[string]*tar.Header{}, map[string]string{}
	archive := tar.NewReader(strings.NewReader(s.compose("cp", service+":"+dir, "-")))
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return headers, contents
		}
		must(s.t, err)
		content, err := io.ReadAll(archive)
		must(s.t, err)
		name := strings.TrimSuffix(h.Name, "/")
		headers[name], contents[name] = h, string(content)
	}
}

// knock posts a call without a token.
func (s *stack) knock(ctx context.Context) *http.Response {
	s.t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"tools/list"}`))
	must(s.t, err)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	resp, err := http.DefaultClient.Do(req)
	must(s.t, err)
	must(s.t, resp.Body.Close())
	return resp
}

// TestCompose is a newcomer's session with `docker compose up`, and an operator's questions after it. It needs a
// container engine: `make compose-test` runs it.
func TestCompose(t *testing.T) {
	if os.Getenv("COMPOSE_TEST") == "" {
		t.Skip("needs a container engine: make compose-test")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	s := startStack(t)
	if t.Failed() {
		t.FailNow()
	}

	resp := s.knock(ctx)
	if want := `resource_metadata="` + composeGateway + `/.well-known/oauth-protected-resource/mcp"`; resp.StatusCode != http.StatusUnauthorized ||
		!strings.Contains(resp.Header.Get("WWW-Authenticate"), want) {
		t.Errorf("without a token: %s %q", resp.Status, resp.Header)
	}

	agent, err := s.agent(ctx, "wile.e@acme.example", "")
	must(t, err)
	s.listsAndCalls(ctx, agent)
	s.edits(ctx, agent)
	s.isClosed()
	s.keepsSecrets()
	if log := s.compose("logs", "--no-color", "sallyport"); !strings.Contains(log, "the canary is refused, as it must be") {
		t.Error("no canary was sent")
	}

	t.Log("the service stops: Envoy lets nothing through")
	s.compose("stop", "sallyport")
	if resp := s.knock(ctx); resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("without the service, without a token: %s", resp.Status)
	}
	if r, err := agent.CallTool(ctx, &mcp.CallToolParams{Name: "mirror_whoami"}); err == nil {
		t.Errorf("without the service, a call was answered: %v", r)
	}

	t.Log("it starts again: the embedded authorization server has new keys, and the agent logs in again")
	s.compose("up", "--detach", "--wait", "--no-build", "--pull", "never")
	again, err := s.agent(ctx, "wile.e@acme.example", "")
	must(t, err)
	s.listsAndCalls(ctx, again)

	if out := s.compose("exec", "-T", "sallyport", "/sallyport", "audit", "verify", "-file", "/var/lib/sallyport/audit/audit.jsonl"); out == "" {
		t.Error("the audit is not whole")
	}
}

// listsAndCalls asserts what an agent sees, and what the MCP server behind the gateway was given for its call.
func (s *stack) listsAndCalls(ctx context.Context, agent *mcp.ClientSession) {
	s.t.Helper()
	await(s.t, "the tools of both servers", func() bool { // one that starts late is asked again after a second
		tools, err := agent.ListTools(ctx, nil)
		must(s.t, err)
		var names []string
		for _, tool := range tools.Tools {
			names = append(names, tool.Name)
		}
		slices.Sort(names)
		return strings.Join(names, " ") == "items_createItem items_getItem items_listItems mirror_whoami"
	})
	if text, refused := s.call(ctx, agent, "items_listItems", map[string]any{}); refused || !strings.Contains(text, "anvil") {
		s.t.Errorf("items_listItems: %s", text)
	}
	text, refused := s.call(ctx, agent, "mirror_whoami", map[string]any{})
	var given struct {
		Iss, Sub, Aud, Scope string
		Act                  struct{ Sub string }
		Iat, Exp             int64
	}
	if err := json.Unmarshal([]byte(text), &given); err != nil || refused {
		s.t.Fatalf("mirror_whoami: %s: %v", text, err)
	}
	if given.Iss != s.issuer || given.Sub != "wile.e@acme.example" || given.Aud != "http://mirror.demo/" || given.Scope != "mirror:Look" ||
		given.Act.Sub != "ai-identity-gateway" || given.Exp-given.Iat != 5 {
		s.t.Errorf("the second server was given %s", text)
	}
}

// edits changes one line of the policy on the host, after which a call that was allowed is refused.
func (s *stack) edits(ctx context.Context, agent *mcp.ClientSession) {
	s.t.Helper()
	order := map[string]any{"name": "rocket skates", "quantity": 5}
	if text, refused := s.call(ctx, agent, "items_createItem", order); refused {
		s.t.Fatalf("before the edit: %s", text)
	}
	file := filepath.Join(s.dir, "gateway", "items.rego")
	policy := contents(s.t, file)
	edited := strings.Replace(policy, "limit := 10", "limit := 3", 1)
	if edited == policy {
		s.t.Fatal("the policy has another limit")
	}
	must(s.t, os.WriteFile(file, []byte(edited), 0o600))
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if text, refused := s.call(ctx, agent, "items_createItem", order); refused {
			if !strings.Contains(text, "Orders of more than 3 need a human.") {
				s.t.Errorf("refused: %s", text)
			}
			return
		}
	}
	s.t.Error("the edited policy did not take effect")
}

// call returns what a tool says, or the reason why it was not asked.
func (s *stack) call(ctx context.Context, agent *mcp.ClientSession, tool string, arguments any) (text string, refused bool) {
	r, err := agent.CallTool(ctx, &mcp.CallToolParams{Name: tool, Arguments: arguments})
	if err != nil {
		return err.Error(), true
	}
	for _, c := range r.Content {
		if part, ok := c.(*mcp.TextContent); ok {
			text += part.Text
		}
	}
	return text, r.IsError
}

// isClosed asserts that nobody reaches the MCP servers past the gateway, and that a web page whose name resolves to
// loopback cannot log in.
func (s *stack) isClosed() {
	s.t.Helper()
	for network, reachable := range map[string]bool{"front": false, "monitoring": false, "back": true} {
		_, err := s.docker("run", "--rm", "--network", composeProject+"_"+network, "sallyport:local", "ready", "-address", "mirror:8080")
		if (err == nil) != reachable {
			s.t.Errorf("from the network %s the MCP servers are reachable: %t, want %t", network, err == nil, reachable)
		}
	}
	req, err := http.NewRequest(http.MethodGet, composeIssuer+"/.well-known/openid-configuration", nil)
	must(s.t, err)
	req.Host = "rebound.example"
	resp, err := http.DefaultClient.Do(req)
	must(s.t, err)
	must(s.t, resp.Body.Close())
	if resp.StatusCode != http.StatusForbidden {
		s.t.Errorf("the authorization server answers another host's name: %s", resp.Status)
	}
}

// keepsSecrets asserts who can read what, and that nothing secret is where it does not belong.
func (s *stack) keepsSecrets() {
	s.t.Helper()
	headers, files := s.entries("sallyport", "/var/lib/sallyport/secrets")
	sockets, _ := s.entries("sallyport", "/run/sallyport")
	for name, h := range map[string]*tar.Header{"secrets": headers["secrets"], "sallyport": sockets["sallyport"]} {
		if h == nil || h.Uid != 65532 || h.Gid != 65532 || h.Mode&0o777 != 0o700 {
			s.t.Errorf("the directory %s: %+v", name, h)
		}
	}
	for name, h := range map[string]*tar.Header{"secrets.yaml": headers["secrets/secrets.yaml"], "envoy.yaml": sockets["sallyport/envoy.yaml"]} {
		if h == nil || h.Uid != 65532 || h.Mode&0o777 != 0o600 {
			s.t.Errorf("the file %s: %+v", name, h)
		}
	}
	var secrets []string
	for line := range strings.Lines(files["secrets/secrets.yaml"]) {
		if _, value, _ := strings.Cut(strings.TrimSpace(line), ": "); value != "" {
			secrets = append(secrets, value)
		}
	}
	if len(secrets) != 3 {
		s.t.Fatalf("%d secrets", len(secrets))
	}
	containers := strings.Fields(s.compose("ps", "--all", "--quiet"))
	inspected, err := s.docker(append([]string{"inspect"}, containers...)...)
	must(s.t, err)
	logs := s.compose("logs", "--no-color")
	for _, secret := range append(secrets, "eyJ") { // what every token begins with
		if strings.Contains(logs, secret) {
			s.t.Errorf("the logs show a secret, or a token")
		}
		if strings.Contains(inspected, secret) {
			s.t.Errorf("the engine knows a secret, or a token")
		}
	}
	if !strings.Contains(logs, "ready: "+s.url) {
		s.t.Error("the logs do not give the gateway's address")
	}
}
