package e2e

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// suiteScenarios are those of the conformance suite (`conformance list`) that are asked of servers; those that are asked
// of clients are clientScenarios.
var suiteScenarios = strings.Fields(`
	server-initialize server-session-lifecycle server-stateless logging-set-level ping completion-complete tools-list
	tools-call-simple-text tools-call-image tools-call-audio tools-call-embedded-resource tools-call-mixed-content
	tools-call-with-logging tools-call-error tools-call-with-progress tools-call-sampling tools-call-elicitation
	json-schema-2020-12 elicitation-sep1034-defaults server-sse-polling server-sse-multiple-streams elicitation-sep1330-enums
	resources-list resources-read-text resources-read-binary resources-templates-read resources-subscribe
	resources-unsubscribe sep-2164-resource-not-found prompts-list prompts-get-simple prompts-get-with-args
	prompts-get-embedded-resource prompts-get-with-image dns-rebinding-protection caching http-header-validation
	http-custom-header-server-validation tasks-lifecycle tasks-capability-negotiation tasks-wire-fields
	tasks-request-state-removal tasks-mrtr-input tasks-request-headers tasks-dispatch-and-envelope tasks-status-notifications
	tasks-required-task-error tasks-mrtr-composition input-required-result-basic-elicitation
	input-required-result-basic-sampling input-required-result-basic-list-roots input-required-result-request-state
	input-required-result-multiple-input-requests input-required-result-multi-round
	input-required-result-missing-input-response input-required-result-non-tool-request input-required-result-result-type
	input-required-result-unsupported-methods input-required-result-tampered-state input-required-result-capability-check
	input-required-result-ignore-extra-params input-required-result-validate-input`)

// standings are what a row of docs/requirements.md may say of how a requirement stands, and whether it has to say more.
var standings = map[string]bool{"done": false, "partly": true, "refused": true, "not served": true, "elsewhere": true}

// TestRequirementsPage: each row of docs/requirements.md says how it stands, and what it names as its proof exists.
func TestRequirementsPage(t *testing.T) {
	rows := regexp.MustCompile("(?m)^\\| `([a-z]+-[0-9]+)` \\| (.*) \\|$").FindAllStringSubmatch(contents(t, "..", "docs", "requirements.md"), -1)
	if len(rows) < 200 {
		t.Fatalf("%d rows", len(rows))
	}
	p := newProofs(t)
	seen := map[string]bool{}
	for _, row := range rows {
		id, cells := row[1], strings.Split(row[2], " | ")
		if seen[id] || len(cells) != 4 {
			t.Errorf("%s: twice, or %d cells", id, len(cells))
			continue
		}
		seen[id] = true
		standing, reason, _ := strings.Cut(cells[2], ": ")
		if wantsReason, ok := standings[standing]; !ok || wantsReason != (reason != "") {
			t.Errorf("%s: stands %q", id, cells[2])
		}
		if cells[3] == "no test" {
			continue
		}
		for proof := range strings.SplitSeq(cells[3], "`, `") {
			if proof = strings.Trim(proof, "`"); !p.exists(proof) {
				t.Errorf("%s: there is no %s", id, proof)
			}
		}
	}
	for _, m := range regexp.MustCompile("see `([a-z]+-[0-9]+)`").FindAllStringSubmatch(contents(t, "..", "docs", "requirements.md"), -1) {
		if !seen[m[1]] {
			t.Errorf("there is no row %s", m[1])
		}
	}
}

// proofs is what a row may name.
type proofs struct {
	tests     map[string]string // by name: the text from there to the next test
	scenarios []string
	attacks   map[string]bool
}

func newProofs(t *testing.T) proofs {
	t.Helper()
	p := proofs{tests: map[string]string{}, scenarios: slices.Clone(suiteScenarios), attacks: map[string]bool{}}
	for _, s := range clientScenarios {
		p.scenarios = append(p.scenarios, s.name)
	}
	for _, a := range attacks(t) {
		p.attacks[a.ID] = true
	}
	declared := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	must(t, filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && slices.Contains([]string{"build", "bin", ".git", "testdata"}, d.Name()):
			return filepath.SkipDir
		case !strings.HasSuffix(path, "_test.go"):
			return nil
		}
		file, err := os.ReadFile(path)
		end := len(file)
		for _, m := range slices.Backward(declared.FindAllSubmatchIndex(file, -1)) {
			p.tests[string(file[m[2]:m[3]])] += string(file[m[0]:end])
			end = m[0]
		}
		return err
	}))
	return p
}

// exists tells of a test, TestX or TestX/sub, of a conformance scenario, or of a line of testdata/security.jsonl. A test
// with something behind a slash has subtests, and the words somewhere.
func (p proofs) exists(proof string) bool {
	if scenario, ok := strings.CutPrefix(proof, "conformance: "); ok {
		return slices.Contains(p.scenarios, scenario)
	}
	name, sub, deeper := strings.Cut(proof, "/")
	text, ok := p.tests[name]
	return ok && (!deeper || strings.Contains(text, "t.Run(") && strings.Contains(text, sub)) || p.attacks[proof]
}
