package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// reachEnv says how an agent reaches the suite's server, and so that this process is one.
const (
	reachEnv     = "CONFORMANCE_REACH"
	reachDirect  = "direct"
	reachThrough = "through" // a gateway of its own
	reachAcross  = "across"  // … speaking the other era to it
)

// throughConfig is a gateway before one server, whose names it leaves alone.
const throughConfig = configHead + `mcpProvider:
  authorization:
    oauth:
      enabled: false
apps:
  - name: suite
    type: mcpProxy
    toolNamespace:
      disabled: true
    upstream:
      transport: stream
      stream:
        url: @UPSTREAM
    authorization:
      inbound:
        opa:
          name: everything-goes
          rego: |
            package orchestrator

            result["allowed"] := true
      outbound:
        type: unprotected
`

// TestConformanceAgent is the client that the suite runs, with the address of its server as the argument and the rest
// in the environment. In any other run it has nothing to do.
func TestConformanceAgent(t *testing.T) {
	reach, address, version := os.Getenv(reachEnv), flag.Arg(0), os.Getenv("MCP_CONFORMANCE_PROTOCOL_VERSION")
	if reach == "" {
		return
	}
	if reach == reachAcross {
		version = map[string]string{legacyVersion: modernVersion, modernVersion: legacyVersion}[version]
	}
	if reach != reachDirect {
		w := start(t, func(w *world) {
			w.write("sallyport.yaml", strings.NewReplacer("@ADDRESS", w.address, "@ADMIN", w.admin, "@UPSTREAM", address).Replace(throughConfig))
		})
		address = w.url
		defer w.allAllowed()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second) // the suite gives it 30
	defer cancel()
	must(t, act(ctx, address, version, reach != reachDirect))
}

// allAllowed asserts that the gateway has refused nothing, and has records of it all.
func (w *world) allAllowed() {
	w.t.Log(w.gateway.output())
	for _, p := range w.reconcile() {
		if p[0]["outcome"] != "allowed" {
			w.t.Errorf("decided: %v", p[0])
		}
	}
	w.verifyAudit()
}

// act connects and does what the scenario in the environment wants done.
func act(ctx context.Context, address, version string, unsifted bool) error {
	do := scenarioActs[os.Getenv("MCP_CONFORMANCE_SCENARIO")]
	if do == nil {
		return errors.New("no such scenario")
	}
	client := mcp.NewClient(&mcp.Implementation{Name: "agent", Version: "1"}, &mcp.ClientOptions{
		ElicitationHandler: func(_ context.Context, req *mcp.ElicitRequest) (*mcp.ElicitResult, error) { return fillIn(req), nil },
	})
	var listed []*mcp.Tool // before the SDK sifts them
	client.AddSendingMiddleware(func(next mcp.MethodHandler) mcp.MethodHandler {
		return func(ctx context.Context, method string, req mcp.Request) (mcp.Result, error) {
			r, err := next(ctx, method, req)
			if list, ok := r.(*mcp.ListToolsResult); ok && err == nil {
				listed = slices.Clone(list.Tools)
			}
			return r, err
		}
	})
	cs, err := client.Connect(ctx, &mcp.StreamableClientTransport{Endpoint: address}, &mcp.ClientSessionOptions{ProtocolVersion: version})
	if err != nil {
		return err
	}
	defer func() { _ = cs.Close() }()
	list, err := cs.ListTools(ctx, nil)
	if err != nil {
		return err
	}
	if unsifted { // the gateway has to sift them
		list.Tools = listed
	}
	return do(ctx, cs, list.Tools)
}

// fillIn confirms what is to be confirmed, and leaves the rest to its defaults.
func fillIn(req *mcp.ElicitRequest) *mcp.ElicitResult {
	content := map[string]any{}
	if schema, err := json.Marshal(req.Params.RequestedSchema); err == nil && strings.Contains(string(schema), `"confirmed"`) {
		content["confirmed"] = true
	}
	return &mcp.ElicitResult{Action: "accept", Content: content}
}

type scenarioAct func(ctx context.Context, cs *mcp.ClientSession, tools []*mcp.Tool) error

// scenarioActs are what each scenario wants done after the tools have been listed.
var scenarioActs = map[string]scenarioAct{
	"initialize":                          calling(),
	"request-metadata":                    calling(),
	"json-schema-ref-no-deref":            calling(),
	"tools_call":                          calling(mcp.CallToolParams{Name: "add_numbers", Arguments: map[string]int{"a": 5, "b": 3}}),
	"sse-retry":                           calling(mcp.CallToolParams{Name: "test_reconnection"}),
	"elicitation-sep1034-client-defaults": calling(mcp.CallToolParams{Name: "test_client_elicitation_defaults"}),
	"sep-2322-client-request-state": calling(mcp.CallToolParams{Name: "test_mrtr_echo_state"}, mcp.CallToolParams{Name: "test_mrtr_no_state"},
		mcp.CallToolParams{Name: "test_mrtr_unrelated"}, mcp.CallToolParams{Name: "test_mrtr_no_result_type"}),
	"http-custom-headers":              callGiven,
	"http-invalid-tool-headers":        callListed,
	"http-standard-headers":            useEverything,
	"json-schema-2020-12-preservation": echoSchema,
}

func calling(calls ...mcp.CallToolParams) scenarioAct {
	return func(ctx context.Context, cs *mcp.ClientSession, _ []*mcp.Tool) error {
		for _, params := range calls {
			r, err := cs.CallTool(ctx, &params)
			if err == nil && r.IsError {
				err = errors.New("the tool failed")
			}
			if err != nil {
				return fmt.Errorf("%s: %w", params.Name, err)
			}
		}
		return nil
	}
}

// callGiven makes the calls that the suite gives.
func callGiven(ctx context.Context, cs *mcp.ClientSession, tools []*mcp.Tool) error {
	var given struct{ ToolCalls []mcp.CallToolParams }
	if err := json.Unmarshal([]byte(os.Getenv("MCP_CONFORMANCE_CONTEXT")), &given); err != nil {
		return err
	}
	return calling(given.ToolCalls...)(ctx, cs, tools)
}

func callListed(ctx context.Context, cs *mcp.ClientSession, tools []*mcp.Tool) error {
	var calls []mcp.CallToolParams
	for _, tool := range tools {
		calls = append(calls, mcp.CallToolParams{Name: tool.Name, Arguments: map[string]string{"region": "us-west1"}})
	}
	return calling(calls...)(ctx, cs, tools)
}

// useEverything calls, reads and gets what is listed.
func useEverything(ctx context.Context, cs *mcp.ClientSession, tools []*mcp.Tool) error {
	if err := callListed(ctx, cs, tools); err != nil {
		return err
	}
	resources, err := cs.ListResources(ctx, nil)
	if err != nil {
		return err
	}
	for _, r := range resources.Resources {
		if _, err := cs.ReadResource(ctx, &mcp.ReadResourceParams{URI: r.URI}); err != nil {
			return err
		}
	}
	prompts, err := cs.ListPrompts(ctx, nil)
	if err != nil {
		return err
	}
	for _, p := range prompts.Prompts {
		if _, err := cs.GetPrompt(ctx, &mcp.GetPromptParams{Name: p.Name}); err != nil {
			return err
		}
	}
	return nil
}

// echoSchema sends a tool's schema back as it came.
func echoSchema(ctx context.Context, cs *mcp.ClientSession, tools []*mcp.Tool) error {
	at := slices.IndexFunc(tools, func(t *mcp.Tool) bool { return t.Name == "json_schema_2020_12_tool" })
	if at < 0 {
		return errors.New("the tool is not listed")
	}
	return calling(mcp.CallToolParams{Name: "json_schema_echo", Arguments: map[string]any{"schema": tools[at].InputSchema}})(ctx, cs, tools)
}
