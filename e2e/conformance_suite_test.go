package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"
)

// The suite, run and read. It writes a file for each scenario, with the outcome of each of its checks.

// expectedFailures lists the scenarios that may fail, for the suite and for us.
const expectedFailures = "testdata/conformance.yaml"

// check is one thing that a scenario looks at.
type check struct {
	ID, Description, Status, ErrorMessage string
	Details                               json.RawMessage
}

func (c check) failed() bool { return c.Status == "FAILURE" || c.Status == "WARNING" }

func (c check) String() string {
	const enough = 4000
	details := string(c.Details)
	if len(details) > enough {
		details = details[:enough] + "…"
	}
	return fmt.Sprintf("%s %s: %s\n  %s\n  %s", c.Status, c.ID, c.Description, c.ErrorMessage, details)
}

// scenarios are the checks of each scenario that ran, by its name.
type scenarios map[string][]check

// passed are the checks that went well whenever they were made, each behind the name of its scenario.
func (s scenarios) passed() []string {
	var out []string
	for scenario, checks := range s {
		well := map[string]bool{}
		for _, c := range checks {
			before, seen := well[c.ID]
			well[c.ID] = c.Status == "SUCCESS" && (before || !seen)
		}
		for id, ok := range well {
			if ok {
				out = append(out, scenario+": "+id)
			}
		}
	}
	slices.Sort(out)
	return out
}

// revisions are those that the suite has scenarios for, and the gateway speaks.
var revisions = []string{"2025-06-18", legacyVersion, modernVersion}

// unscored are the scenarios that a revision's set runs without counting them. We count them.
var unscored = map[string][]string{
	legacyVersion: {"server-session-lifecycle", "server-sse-polling", "json-schema-2020-12"},
	modernVersion: {"http-header-validation", "http-custom-header-server-validation", "json-schema-2020-12"},
}

// conform runs what a revision requires against url, a subtest for each scenario telling how it went. Less can be asked
// for: CONFORMANCE_SCENARIO names one scenario.
func conform(t *testing.T, url, revision string) scenarios {
	t.Helper()
	one := os.Getenv("CONFORMANCE_SCENARIO")
	got, said, ok := runSuite(t, url, selection(revision, one)...)
	if !ok && one == "" {
		_, summary, _ := strings.Cut(said, "=== SUMMARY ===")
		t.Errorf("the suite is not satisfied:%s", summary)
	}
	expected := readExpectedFailures(t)
	for _, scenario := range slices.Sorted(maps.Keys(got)) {
		t.Run(scenario, func(t *testing.T) { judge(t, got[scenario], slices.Contains(expected, scenario)) })
	}
	for _, scenario := range unscored[revision] {
		if got[scenario] == nil && one == "" {
			t.Errorf("%s did not run", scenario)
		}
	}
	return got
}

// selection are the suite's arguments for what a revision requires, or for one scenario of it. Of revisions before
// 2025-11-25 the suite has no frozen set, and everything it knows is required.
func selection(revision, scenario string) []string {
	switch {
	case scenario != "":
		return []string{"--spec-version", revision, "--scenario", scenario}
	case revision < legacyVersion:
		return []string{"--spec-version", revision, "--suite", "all"}
	default:
		return []string{"--requirements", revision, "--expected-failures", expectedFailures}
	}
}

// judge fails the test of a scenario for its failed checks, or for want of one that was to be expected.
func judge(t *testing.T, checks []check, expected bool) {
	t.Helper()
	failed := 0
	for _, c := range checks {
		if !c.failed() {
			continue
		}
		if failed++; !expected {
			t.Error(c)
		}
	}
	if expected && failed == 0 {
		t.Errorf("passes, and is still listed in %s", expectedFailures)
	}
}

// runSuite runs the suite and reads what it found. It also returns what it said, and whether it was satisfied.
func runSuite(t *testing.T, url string, args ...string) (scenarios, string, bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	dir := t.TempDir()
	args = append([]string{"server", "--url", url, "--output-dir", dir}, args...)
	said, err := nodeProgram(ctx, t, "conformance", args...).CombinedOutput()
	if ctx.Err() != nil {
		t.Fatalf("the suite did not end: %v\n%s", err, said)
	}
	files, globErr := filepath.Glob(filepath.Join(dir, "server-*", "checks.json"))
	must(t, globErr)
	got := scenarios{}
	for _, file := range files {
		var checks []check
		content, err := os.ReadFile(file)
		must(t, err)
		must(t, json.Unmarshal(content, &checks))
		got[scenarioOf(t, file)] = checks
	}
	return got, string(said), err == nil
}

// resultDir is the name of a directory with results: the scenario and the time.
var resultDir = regexp.MustCompile(`^server-(.+)-\d{4}-\d{2}-\d{2}T[0-9-]+Z$`)

func scenarioOf(t *testing.T, file string) string {
	t.Helper()
	m := resultDir.FindStringSubmatch(filepath.Base(filepath.Dir(file)))
	if m == nil {
		t.Fatalf("%s is not where results are expected", file)
	}
	return m[1]
}

func readExpectedFailures(t *testing.T) []string {
	t.Helper()
	var list struct{ Server []string }
	must(t, yaml.Unmarshal([]byte(contents(t, expectedFailures)), &list))
	for _, scenario := range list.Server {
		if !strings.HasPrefix(scenario, "tasks-") {
			t.Errorf("%s: %s is not about tasks", expectedFailures, scenario)
		}
	}
	return list.Server
}
