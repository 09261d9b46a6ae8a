//nolint:staticcheck // sampling and roots are deprecated since 2026-07-28, and still spoken
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/auth"
	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/modelcontextprotocol/go-sdk/oauthex"
)

// agent is a client that others wrote, in one of the ways in which it connects.
type agent struct {
	name, era string
	version   string // that it comes to speak with the gateway
	run       func(ctx context.Context, t *testing.T, p *peers, plan plan) report
}

var agents = []agent{
	{"TypeScript SDK 1", "legacy", legacyVersion, nodeAgent("agent1.mjs")},
	{"TypeScript SDK 1", "sse", legacyVersion, nodeAgent("agent1.mjs")},
	{"TypeScript SDK 2", "auto", modernVersion, nodeAgent("agent2.mjs")},
	{"TypeScript SDK 2", "legacy", legacyVersion, nodeAgent("agent2.mjs")},
	{"TypeScript SDK 2", "sse", legacyVersion, nodeAgent("agent2.mjs")},
	{"Python SDK", "auto", modernVersion, pythonAgent},
	{"Python SDK", "legacy", legacyVersion, pythonAgent},
	{"Python SDK", "sse", legacyVersion, pythonAgent},
	{"Go SDK", "modern", modernVersion, goAgent},
	{"Go SDK", "legacy", legacyVersion, goAgent},
	{"Go SDK", "sse", legacyVersion, goAgent},
	{"mcp-remote", "auto", modernVersion, mcpRemote},
	{"mcp-remote", "legacy", legacyVersion, mcpRemote},
	{"mcp-remote", "sse", legacyVersion, mcpRemote},
}

// inspectors take a start of their program for each step, and can be asked nothing.
var inspectors = []agent{
	{"Inspector", "auto", modernVersion, inspector},
	{"Inspector", "modern", modernVersion, inspector},
	{"Inspector", "legacy", legacyVersion, inspector},
}

// nodeAgent is a program in e2e/node. It finds its packages beside itself.
func nodeAgent(name string) func(context.Context, *testing.T, *peers, plan) report {
	return func(ctx context.Context, t *testing.T, _ *peers, p plan) report {
		cmd := nodeProgram(ctx, t, "node")
		dir := t.TempDir()
		must(t, os.CopyFS(dir, os.DirFS("node")))
		must(t, os.Symlink(filepath.Dir(filepath.Dir(cmd.Path)), filepath.Join(dir, "node_modules")))
		cmd.Args = []string{cmd.Path, filepath.Join(dir, name)}
		return carriedOut(t, cmd, p)
	}
}

// pythonAgent is e2e/python/agent.py.
func pythonAgent(ctx context.Context, t *testing.T, _ *peers, p plan) report {
	return carriedOut(t, pythonProgram(ctx, t, "agent.py"), p)
}

// pythonProgram is a command that runs one of the programs in e2e/python, with the packages that `make python` installed.
// It gets nothing of our environment.
func pythonProgram(ctx context.Context, t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	root := os.Getenv("PYTHON_TOOLS")
	if root == "" {
		root = filepath.Join("..", "build", "python")
	}
	python, err := filepath.Abs(filepath.Join(root, "bin", "python"))
	must(t, err)
	if _, err := os.Stat(python); err != nil {
		t.Fatalf("%v; run `make python` first", err)
	}
	script, err := filepath.Abs(filepath.Join("python", name))
	must(t, err)
	cmd := exec.CommandContext(ctx, python, append([]string{script}, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "PYTHONDONTWRITEBYTECODE=1"}
	return cmd
}

// carriedOut runs a program with a plan as its argument, and reads its report.
func carriedOut(t *testing.T, cmd *exec.Cmd, p plan) report {
	t.Helper()
	argument, err := json.Marshal(p)
	must(t, err)
	cmd.Args = append(cmd.Args, string(argument))
	cmd.WaitDelay = time.Second
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	var r report
	if err == nil {
		err = json.Unmarshal(out, &r)
	}
	if err != nil {
		t.Fatalf("%v\n%s%s", err, out, said.Bytes())
	}
	return r
}

// goAgent is the Go SDK's. Its older transport leaves logging in, and the choice of the version, to others.
func goAgent(ctx context.Context, t *testing.T, w *peers, p plan) report {
	if p.Era == "sse" {
		return carryOut(ctx, t, &mcp.SSEClientTransport{Endpoint: p.URL, HTTPClient: &http.Client{Transport: withToken(w.token)}}, "", p)
	}
	const redirect = "http://127.0.0.1:7/callback"
	handler, err := auth.NewAuthorizationCodeHandler(&auth.AuthorizationCodeHandlerConfig{
		DynamicClientRegistrationConfig: &auth.DynamicClientRegistrationConfig{Metadata: &oauthex.ClientRegistrationMetadata{
			ClientName: "agent", RedirectURIs: []string{redirect}, TokenEndpointAuthMethod: "none"}},
		RedirectURL: redirect,
		AuthorizationCodeFetcher: func(ctx context.Context, args *auth.AuthorizationArgs) (*auth.AuthorizationResult, error) {
			return signIn(ctx, args.URL+"&login_hint="+url.QueryEscape(p.User))
		},
	})
	must(t, err)
	version := map[string]string{"legacy": legacyVersion, "modern": modernVersion}[p.Era]
	return carryOut(ctx, t, &mcp.StreamableClientTransport{Endpoint: p.URL, OAuthHandler: handler}, version, p)
}

// mcpRemote is the bridge from standard input and output, with the Go SDK's client before it.
func mcpRemote(ctx context.Context, t *testing.T, _ *peers, p plan) report {
	_, port, _ := net.SplitHostPort(freePort(t))
	way := []string{"--protocol", p.Era}
	if p.Era == "sse" {
		way = []string{"--transport", "sse-only"}
	}
	cmd := nodeProgram(ctx, t, "mcp-remote", append([]string{p.URL, port}, way...)...)
	user := atBrowser(t, cmd, p.User)
	r := carryOut(ctx, t, &mcp.CommandTransport{Command: cmd}, legacyVersion, p)
	if m := regexp.MustCompile(`Remote server speaks MCP (\S+);`).FindStringSubmatch(user.read.String()); m != nil {
		r.Version = m[1]
	}
	return r
}

// browser is a user who reads what a program prints, and goes where it says that he can log in.
type browser struct {
	t    *testing.T
	name string
	read bytes.Buffer
	gone bool
}

var loginPage = regexp.MustCompile(`http://\S+/authorize\?\S+\n`)

func (b *browser) Write(text []byte) (int, error) {
	b.read.Write(text)
	if page := loginPage.FindString(b.read.String()); page != "" && !b.gone {
		b.gone = true
		resp, err := http.Get(strings.TrimSpace(page) + "&login_hint=" + url.QueryEscape(b.name))
		if err != nil || resp.StatusCode != http.StatusOK {
			b.t.Errorf("logging in: %v %v", resp, err)
		}
		if err == nil {
			_ = resp.Body.Close()
		}
	}
	return len(text), nil
}

// atBrowser lets a user log in to a program, which finds no browser that it could start by itself.
func atBrowser(t *testing.T, cmd *exec.Cmd, name string) *browser {
	b := &browser{t: t, name: name}
	cmd.Stderr = b
	cmd.WaitDelay = time.Second
	cmd.Env = append(cmd.Env, "PATH="+filepath.Dir(cmd.Path))
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s:\n%s", strings.Join(cmd.Args, " "), b.read.Bytes())
		}
	})
	return b
}

// carryOut carries out a plan with the Go SDK's client.
func carryOut(ctx context.Context, t *testing.T, transport mcp.Transport, version string, p plan) report {
	t.Helper()
	var r report
	progress, count := make(chan struct{}, 16), 0
	client := mcp.NewClient(&mcp.Implementation{Name: "agent", Version: "1"}, &mcp.ClientOptions{
		ElicitationHandler: func(_ context.Context, req *mcp.ElicitRequest) (*mcp.ElicitResult, error) {
			r.Asked = append(r.Asked, req.Params.Message)
			return &mcp.ElicitResult{Action: "accept", Content: maps.Clone(p.Answers)}, nil
		},
		CreateMessageHandler: func(_ context.Context, req *mcp.CreateMessageRequest) (*mcp.CreateMessageResult, error) {
			r.Asked = append(r.Asked, said(req.Params.Messages[0].Content))
			return &mcp.CreateMessageResult{Role: "assistant", Model: "none", Content: &mcp.TextContent{Text: "as you say"}}, nil
		},
		ProgressNotificationHandler: func(context.Context, *mcp.ProgressNotificationClientRequest) { progress <- struct{}{} },
	})
	client.AddRoots(&mcp.Root{URI: "file:///home/wile", Name: "home"})
	cs, err := client.Connect(ctx, transport, &mcp.ClientSessionOptions{ProtocolVersion: version})
	must(t, err)
	r.Version = cs.InitializeResult().ProtocolVersion
	r.lists, err = listAll(ctx, cs)
	must(t, err)
	for _, s := range p.Steps {
		text, err := s.take(ctx, cs)
		var refused *jsonrpc.Error
		switch {
		case errors.As(err, &refused):
			text = fmt.Sprintf("error %d", refused.Code)
		case err != nil:
			text = err.Error()
		}
		r.Steps = append(r.Steps, text)
		for range s.progress { // it may come after the result that it was about
			select {
			case <-progress:
				count++
			case <-time.After(time.Second):
			}
		}
	}
	must(t, cs.Close())
	count += len(progress)
	r.Progress = &count
	return r
}

// listAll reads every list.
func listAll(ctx context.Context, cs *mcp.ClientSession) (lists, error) {
	var all lists
	var errs [4]error
	var list struct {
		tools     *mcp.ListToolsResult
		prompts   *mcp.ListPromptsResult
		resources *mcp.ListResourcesResult
		templates *mcp.ListResourceTemplatesResult
	}
	list.tools, errs[0] = cs.ListTools(ctx, nil)
	list.prompts, errs[1] = cs.ListPrompts(ctx, nil)
	list.resources, errs[2] = cs.ListResources(ctx, nil)
	list.templates, errs[3] = cs.ListResourceTemplates(ctx, nil)
	if err := errors.Join(errs[:]...); err != nil {
		return all, err
	}
	for _, tool := range list.tools.Tools {
		all.Tools = append(all.Tools, tool.Name)
	}
	for _, prompt := range list.prompts.Prompts {
		all.Prompts = append(all.Prompts, prompt.Name)
	}
	for _, resource := range list.resources.Resources {
		all.Resources = append(all.Resources, resource.URI)
	}
	for _, template := range list.templates.ResourceTemplates {
		all.Templates = append(all.Templates, template.URITemplate)
	}
	return all, nil
}

// take takes the step and returns what is said.
func (s step) take(ctx context.Context, cs *mcp.ClientSession) (text string, err error) {
	switch {
	case s.Tool != "":
		params := &mcp.CallToolParams{Name: s.Tool}
		params.SetProgressToken(s.Tool)
		if s.Arguments != nil { // not null, which is no object
			params.Arguments = s.Arguments
		}
		r, err := cs.CallTool(ctx, params)
		if err != nil {
			return "", err
		}
		if r.IsError {
			text = "failed: "
		}
		return text + said(r.Content...), nil
	case s.Prompt != "":
		r, err := cs.GetPrompt(ctx, &mcp.GetPromptParams{Name: s.Prompt, Arguments: s.texts()})
		if err != nil {
			return "", err
		}
		return said(r.Messages[0].Content), nil
	case s.Resource != "":
		r, err := cs.ReadResource(ctx, &mcp.ReadResourceParams{URI: s.Resource})
		if err != nil {
			return "", err
		}
		return r.Contents[0].Text, nil
	}
	for name, value := range s.texts() {
		r, err := cs.Complete(ctx, &mcp.CompleteParams{Ref: &mcp.CompleteReference{Type: "ref/prompt", Name: s.Complete},
			Argument: mcp.CompleteParamsArgument{Name: name, Value: value}})
		if err != nil {
			return "", err
		}
		return strings.Join(r.Completion.Values, " "), nil
	}
	return "", errors.New("nothing to do")
}

// texts are the arguments of a prompt.
func (s step) texts() map[string]string {
	out := map[string]string{}
	for name, value := range s.Arguments {
		out[name] = fmt.Sprint(value)
	}
	return out
}

// said is the text of a content.
func said(content ...mcp.Content) string {
	text := ""
	for _, part := range content {
		if t, ok := part.(*mcp.TextContent); ok {
			text += t.Text
		}
	}
	return text
}

// inspector is the Inspector's command line, which logs in the first time and keeps what it got.
func inspector(ctx context.Context, t *testing.T, _ *peers, p plan) report {
	home, callback := t.TempDir(), "http://"+freePort(t)+"/oauth/callback"
	ask := func(method string, args ...string) (out inspected) {
		cmd := nodeProgram(ctx, t, "mcp-inspector", slices.Concat([]string{"--cli", p.URL, "--transport", "http", "--format", "json",
			"--protocol-era", p.Era, "--callback-url", callback, "--method", method}, args)...)
		atBrowser(t, cmd, p.User)
		cmd.Env = append(cmd.Env, "HOME="+home, "MCP_AUTO_OPEN_ENABLED=true", "MCP_INSPECTOR_SECRET_STORE=file")
		text, err := cmd.Output()
		if err == nil {
			err = json.Unmarshal(text, &out)
		}
		must(t, err)
		return out
	}
	var r report
	for _, tool := range ask("tools/list").Result.Tools {
		r.Tools = append(r.Tools, tool.Name)
	}
	for _, prompt := range ask("prompts/list").Result.Prompts {
		r.Prompts = append(r.Prompts, prompt.Name)
	}
	for _, resource := range ask("resources/list").Result.Resources {
		r.Resources = append(r.Resources, resource.URI)
	}
	for _, template := range ask("resources/templates/list").Result.ResourceTemplates {
		r.Templates = append(r.Templates, template.URITemplate)
	}
	for _, s := range p.Steps {
		var pairs []string
		for name, value := range s.Arguments {
			pairs = append(pairs, fmt.Sprintf("%s=%v", name, value))
		}
		switch {
		case s.Tool != "":
			r.Steps = append(r.Steps, ask("tools/call", append([]string{"--tool-name", s.Tool, "--tool-arg"}, pairs...)...).text())
		case s.Prompt != "":
			r.Steps = append(r.Steps, ask("prompts/get", append([]string{"--prompt-name", s.Prompt, "--prompt-args"}, pairs...)...).text())
		default:
			r.Steps = append(r.Steps, ask("resources/read", "--uri", s.Resource).text())
		}
	}
	return r
}

// inspected is what the Inspector prints, of whatever it was asked.
type inspected struct {
	Result struct {
		Tools, Prompts    []struct{ Name string }
		Resources         []struct{ URI string }
		ResourceTemplates []struct{ URITemplate string }
		Content, Contents []struct{ Text string }
		Messages          []struct{ Content struct{ Text string } }
	}
}

func (i inspected) text() string {
	text := ""
	for _, c := range slices.Concat(i.Result.Content, i.Result.Contents) {
		text += c.Text
	}
	for _, m := range i.Result.Messages {
		text += m.Content.Text
	}
	return text
}
