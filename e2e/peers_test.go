package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// Peers that others wrote, and that know nothing of a gateway: the agents of the SDKs and the tools that people put in
// between, each logging in by itself; behind the gateway the reference server, FastMCP and a server of the Go SDK's.

// plan is what an agent is told to do. The programs in e2e/node and e2e/python get it as JSON.
type plan struct {
	URL     string         `json:"url"`
	Era     string         `json:"era"` // legacy, auto, modern, or sse: legacy over HTTP+SSE
	User    string         `json:"user"`
	Answers map[string]any `json:"answers"` // to whatever the user is asked
	Steps   []step         `json:"steps"`   // after a look at each list
}

// step is a call of a tool, the getting of a prompt, the reading of a resource, or the completion of a prompt's argument.
type step struct {
	Tool      string         `json:"tool,omitempty"`
	Prompt    string         `json:"prompt,omitempty"`
	Resource  string         `json:"resource,omitempty"`
	Complete  string         `json:"complete,omitempty"`
	Arguments map[string]any `json:"arguments,omitempty"`

	want     string   // what is to be said; what follows "…" does not matter
	asked    []string // what the user or the model is to be asked
	progress int      // how often progress is to be reported
}

// report is what came of a plan.
type report struct {
	Version  string   `json:"version"`  // of the protocol
	Steps    []string `json:"steps"`    // what was said
	Asked    []string `json:"asked"`    // what the user and the model were asked
	Progress *int     `json:"progress"` // how often it was reported; nil if nobody counts
	lists
}

// lists are the names in each.
type lists struct {
	Tools     []string `json:"tools"`
	Prompts   []string `json:"prompts"`
	Resources []string `json:"resources"`
	Templates []string `json:"templates"`
}

func (l lists) sorted() lists {
	for _, names := range [][]string{l.Tools, l.Prompts, l.Resources, l.Templates} {
		slices.Sort(names)
	}
	return l
}

type args = map[string]any

// answers fit each of the forms.
var answers = args{"name": "Wile", "username": "wile", "email": "wile@acme.example"}

// What an agent does at each server, in any era.
var everyday = []step{
	{Tool: "node_get-sum", Arguments: args{"a": 2, "b": 3}, want: "The sum of 2 and 3 is 5."},
	{Tool: "python_add", Arguments: args{"a": 2, "b": 3}, want: "5"},
	{Tool: "go_simple_text", want: "Plain words, as asked."},
	{Tool: "go_error_handling", want: "failed: failed, as it always does"},
	{Tool: "node_trigger-long-running-operation", Arguments: args{"duration": 0.1, "steps": 2},
		want: "Long running operation completed. Duration: 0.1 seconds, Steps: 2.", progress: 2},
	{Tool: "go_tool_with_progress", want: "done", progress: 3},
	{Tool: "node_get-env", want: "error -32602"}, // the policy hides it
	{Prompt: "node_args-prompt", Arguments: args{"city": "Tucson"}, want: "What's weather in Tucson?"},
	{Prompt: "python_review", Arguments: args{"code": "x = 1"}, want: "Please review: x = 1"},
	{Prompt: "go_prompt_with_arguments", Arguments: args{"arg1": "a", "arg2": "b"}, want: `arg1 is "a", arg2 is "b"`},
	{Resource: "demo://resource/static/document/features.md", want: "# Everything Server - Features…"},
	{Resource: "demo://resource/dynamic/text/7", want: "Resource 7: This is a plaintext resource…"},
	{Resource: "python://motto", want: "Beautiful is better than ugly."},
	{Resource: "python://squares/7", want: "49"},
	{Resource: "test://static-text", want: "What test://static-text says."},
	{Complete: "node_completable-prompt", Arguments: args{"department": "Eng"}, want: "Engineering"},
	{Complete: "go_prompt_with_arguments", Arguments: args{"arg1": "par"}, want: "paris park party"},
}

// Tools that ask the client something: by a request, as only the legacy era has it …
var (
	nodeAsks = []step{
		{Tool: "node_trigger-elicitation-request", want: "✅ User provided the requested information!…",
			asked: []string{"Please provide inputs for the following fields:"}},
		{Tool: "node_trigger-sampling-request", Arguments: args{"prompt": "Say it."}, want: "LLM sampling result:…",
			asked: []string{"Resource trigger-sampling-request context: Say it."}},
		{Tool: "node_get-roots-list", want: "Current MCP Roots (1 total):…"}, // outside of the call, on the session's stream
	}
	goAsks = []step{
		{Tool: "go_elicitation", Arguments: args{"message": "Who are you?"}, asked: []string{"Who are you?"},
			want: `User response: action=accept, content={"email":"wile@acme.example","name":"Wile","username":"wile"}`},
		{Tool: "go_sampling", Arguments: args{"prompt": "Say it."}, want: "LLM response: as you say", asked: []string{"Say it."}},
	}
	pythonAsks = []step{{Tool: "python_greet", want: "Hello, Wile!", asked: []string{"Who are you?"}}}
)

// … or by their result, as the modern era has it.
var (
	goNeeds = []step{
		{Tool: "go_input_required_result_elicitation", want: "Hello, Wile!", asked: []string{"What is your name?"}},
		{Tool: "go_input_required_result_sampling", want: "as you say", asked: []string{"What is the capital of France?"}},
	}
	pythonNeeds = []step{{Tool: "python_meet", want: "Hello, Wile!", asked: []string{"Who are you?"}}}
)

// brief is what the inspectors do.
var brief = []step{everyday[0], everyday[9], everyday[12]}

// TestPeers: everybody finds everything, and gets what he would get at the servers themselves.
func TestPeers(t *testing.T) {
	for _, c := range []struct {
		name           string
		servers        peerServers
		inspectors     []agent
		legacy, modern [][]step // that ask something
	}{
		{"each in its own era", peerServers{goEra: "auto", pythonEra: "auto", node: "stream"}, inspectors,
			[][]step{nodeAsks, goAsks, goNeeds, pythonAsks}, [][]step{goNeeds, pythonNeeds}},
		{"across eras and transports", peerServers{goEra: "legacy", pythonEra: "modern", node: "sse"}, nil,
			[][]step{nodeAsks, goAsks, goNeeds, pythonNeeds}, [][]step{pythonNeeds}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := startPeers(t, c.servers)
			want := p.lists(t)
			steps := map[string][]step{
				legacyVersion: slices.Concat(everyday, slices.Concat(c.legacy...)),
				modernVersion: slices.Concat(everyday, slices.Concat(c.modern...)),
			}
			t.Run("agents", func(t *testing.T) {
				for _, a := range agents {
					t.Run(a.name+", "+a.era, func(t *testing.T) {
						t.Parallel()
						p.check(t, a, want, steps[a.version])
					})
				}
				for _, a := range c.inspectors {
					t.Run(a.name+", "+a.era, func(t *testing.T) {
						t.Parallel()
						p.check(t, a, want, brief)
					})
				}
			})
			p.account(t, slices.Concat(agents, c.inspectors))
		})
	}
}

// check lets an agent carry out steps, and compares what came of them.
func (p *peers) check(t *testing.T, a agent, want lists, steps []step) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	plan := plan{URL: p.url, Era: a.era, User: user, Answers: answers, Steps: steps}
	if a.era == "sse" {
		plan.URL += "/sse"
	}
	got := a.run(ctx, t, p, plan)
	if got.Version != a.version && got.Version != "" {
		t.Errorf("it speaks %s", got.Version)
	}
	if diff := cmp.Diff(want, got.sorted()); diff != "" {
		t.Errorf("the lists:\n%s", diff)
	}
	var asked []string
	progress := 0
	for i, s := range steps {
		asked = append(asked, s.asked...)
		progress += s.progress
		if start, open := strings.CutSuffix(s.want, "…"); got.Steps[i] != s.want && (!open || !strings.HasPrefix(got.Steps[i], start)) {
			t.Errorf("%s%s%s%s %v says %q, not %q", s.Tool, s.Prompt, s.Resource, s.Complete, s.Arguments, got.Steps[i], s.want)
		}
	}
	if diff := cmp.Diff(asked, got.Asked, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("what was asked:\n%s", diff)
	}
	if got.Progress != nil && *got.Progress != progress {
		t.Errorf("progress was reported %d times, not %d", *got.Progress, progress)
	}
}

// account asserts that each agent came as a client of its own, in the user's name and the version that it is to speak, and
// that no call went to the Go server without its token.
func (p *peers) account(t *testing.T, agents []agent) {
	versions := map[any][]any{} // of calls, by client
	for _, pair := range p.reconcile() {
		d := pair[0]
		client, version := d["client_id"], d["protocol_version"]
		if d["outcome"] != "allowed" || d["method"] != "tools/call" {
			continue
		}
		if d["subject"] != user {
			t.Errorf("a call in nobody's name: %v", d)
		}
		if !slices.Contains(versions[client], version) {
			versions[client] = append(versions[client], version)
		}
	}
	var want, got []string
	for _, a := range agents {
		version := a.version
		if a.era == "sse" { // whose messages name no version
			version = "<nil>"
		}
		want = append(want, version)
	}
	for _, v := range versions {
		got = append(got, fmt.Sprint(v...))
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the versions in which clients called:\n%s", diff)
	}
	if n := p.bare.Load(); n > 0 {
		t.Errorf("%d calls came without a token for them", n)
	}
	p.verifyAudit()
}
