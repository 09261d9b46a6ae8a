package e2e

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// The gateway as a client, judged by the official suite: for each scenario that starts an MCP server and runs a client,
// and looks at what reaches the server. The client is this test program once more (TestConformanceAgent).

// clientScenarios are those of the suite that are not about an agent's own login.
var clientScenarios = []struct {
	revision, name string
	noBridge       bool // an agent of the other era cannot have this
}{
	{revision: modernVersion, name: "tools_call"},
	{revision: modernVersion, name: "request-metadata"},
	{revision: modernVersion, name: "http-standard-headers"},
	{revision: modernVersion, name: "http-custom-headers"},
	{revision: modernVersion, name: "http-invalid-tool-headers"},
	{revision: modernVersion, name: "sep-2322-client-request-state"},
	{revision: modernVersion, name: "json-schema-ref-no-deref"},
	{revision: modernVersion, name: "json-schema-2020-12-preservation"},
	{revision: legacyVersion, name: "initialize"},
	{revision: legacyVersion, name: "tools_call"},
	{revision: legacyVersion, name: "sse-retry"},
	{revision: legacyVersion, name: "elicitation-sep1034-client-defaults", noBridge: true}, // no session is told what it can do
	{revision: legacyVersion, name: "json-schema-2020-12-preservation"},
}

// undeclared are checks of what an agent says that it can do. The only requests of this scenario that come through a
// gateway are the gateway's own.
var undeclared = []string{
	"sep-2575-client-declares-roots-capability: Client declares valid roots capability if present",
	"sep-2575-client-declares-elicitation-capability: Client declares valid elicitation capability if present",
}

// TestConformanceAsClient: what the suite's servers see of an agent they see of the gateway before it, too, whichever
// era the agent speaks.
func TestConformanceAsClient(t *testing.T) {
	turns := make(chan struct{}, 2)
	for _, s := range clientScenarios {
		if one := os.Getenv("CONFORMANCE_SCENARIO"); one != "" && one != s.name {
			continue
		}
		t.Run(s.revision+"/"+s.name, func(t *testing.T) {
			t.Parallel()
			turns <- struct{}{}
			defer func() { <-turns }()
			var direct []string
			t.Run(reachDirect, func(t *testing.T) { direct = conformAsClient(t, s.name, s.revision, reachDirect) })
			for _, reach := range []string{reachThrough, reachAcross} {
				if reach == reachAcross && s.noBridge {
					continue
				}
				t.Run(reach, func(t *testing.T) {
					passed := conformAsClient(t, s.name, s.revision, reach)
					for _, c := range direct {
						if !slices.Contains(passed, c) && !slices.Contains(undeclared, c) {
							t.Errorf("passes without the gateway, and not here: %s", c)
						}
					}
				})
			}
		})
	}
}

// conformAsClient runs one scenario with an agent that reaches the suite's server in the given way. It returns what
// passed; nothing may fail.
func conformAsClient(t *testing.T, scenario, revision, reach string) (passed []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	self, err := os.Executable()
	must(t, err)
	dir := t.TempDir()
	cmd := nodeProgram(ctx, t, "conformance", "client", "--scenario", scenario, "--spec-version", revision, "--output-dir", dir,
		"--command", "'"+self+"' '-test.run=^TestConformanceAgent$' -test.v")
	cmd.Env = append(cmd.Env, "ENVOY="+envoyBinary, "SALLYPORT="+sallyport, reachEnv+"="+reach,
		"GORACE=atexit_sleep_ms=0") // or each exit takes a second
	cmd.WaitDelay = 5 * time.Second
	said, err := cmd.CombinedOutput()
	if err != nil || strings.Contains(string(said), "Client exited with code") { // which some scenarios overlook
		t.Errorf("the suite is not satisfied: %v\n%s", err, said)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*", "checks.json"))
	must(t, err)
	if len(files) != 1 {
		t.Fatalf("results: %v\n%s", files, said)
	}
	var checks []check
	must(t, json.Unmarshal([]byte(contents(t, files[0])), &checks))
	judge(t, checks, false)
	for _, c := range checks {
		if c.Status == "SUCCESS" {
			passed = append(passed, c.ID+": "+c.Description)
		}
	}
	if len(passed) == 0 {
		t.Error("nothing passes")
	}
	if t.Failed() {
		t.Logf("the agent and its gateway:\n%s", contents(t, filepath.Join(filepath.Dir(files[0]), "stdout.txt")))
	}
	return passed
}
