package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// outputOf runs a program to its end and returns what it printed, and whether it succeeded.
func outputOf(t *testing.T, name string, args ...string) (string, bool) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		t.Fatal(err)
	}
	return string(out), err == nil
}

func contents(t *testing.T, path ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(path...))
	must(t, err)
	return string(text)
}

// TestExampleConfiguration: what an operator is to begin with has no problem, and no warning.
func TestExampleConfiguration(t *testing.T) {
	dir := t.TempDir()
	for from, to := range map[string]string{"sallyport.yaml": "sallyport.yaml", "items.rego": "items.rego", "secrets.example.yaml": "secrets.yaml"} {
		must(t, os.WriteFile(filepath.Join(dir, to), []byte(contents(t, "..", "deploy", "example", from)), 0o600))
	}
	file := filepath.Join(dir, "sallyport.yaml")
	secrets := "secretfile://" + filepath.Join(dir, "secrets.yaml")
	if out, ok := outputOf(t, sallyport, "check", "-config", file, "-secretProvider", secrets); !ok || out != file+": ok, 1 app(s)\n" {
		t.Errorf("check: ok %t\n%s", ok, out)
	}
	if out, ok := outputOf(t, sallyport, "render", "-config", file, "-secretProvider", secrets); !ok || !strings.Contains(out, "items.internal.example.com") {
		t.Errorf("render: ok %t\n%s", ok, out)
	}
}

// TestAuditPage: the records and the scripts of docs/audit.md are true of a real audit.
func TestAuditPage(t *testing.T) {
	page, example := contents(t, "..", "docs", "audit.md"), contents(t, "..", "docs", "audit-example.jsonl")
	shown := 0
	for _, record := range fenced(page, "json") {
		body, tail, _ := strings.Cut(record, `,"hash":"`)
		if sum := sha256.Sum256([]byte(body)); tail != hex.EncodeToString(sum[:])+`"}` {
			t.Errorf("hash does not match: %s", record)
		}
		if strings.Contains(record, `"kind":"gap"`) {
			continue // it takes a full disk to make one
		}
		if shown++; !strings.Contains(example, record) {
			t.Errorf("not in the example: %s", record)
		}
	}
	scripts := fenced(page, "python")
	if shown < 3 || len(scripts) != 2 {
		t.Fatalf("%d records and %d scripts", shown, len(scripts))
	}
	dir := t.TempDir()
	for name, script := range map[string]string{"verify.py": scripts[0], "reconcile.py": scripts[1]} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(script), 0o600))
	}
	for name, test := range map[string]struct {
		change func(lines []string) []string
		whole  bool
		left   string // what reconciling finds
	}{
		"as it is":        {func(l []string) []string { return l }, true, ""},
		"changed":         {func(l []string) []string { l[3] = strings.Replace(l[3], "allowed", "denied", 1); return l }, false, ""},
		"a line removed":  {func(l []string) []string { return append(l[:3:3], l[4:]...) }, false, "completion without a decision"},
		"lines exchanged": {func(l []string) []string { l[3], l[4] = l[4], l[3]; return l }, false, ""},
		"the end removed": {func(l []string) []string { return l[:len(l)-1] }, true, "no completion"},
		"torn at the end": {func(l []string) []string { return append(l, l[3][:40]+"\n") }, false, "Error"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "audit.jsonl")
			lines := test.change(slices.Collect(strings.Lines(example)))
			must(t, os.WriteFile(file, []byte(strings.Join(lines, "")), 0o600))
			if out, ok := outputOf(t, sallyport, "audit", "verify", "-file", file); ok != test.whole {
				t.Errorf("audit verify: ok %t\n%s", ok, out)
			}
			if out, ok := outputOf(t, "python3", filepath.Join(dir, "verify.py"), file); ok != test.whole {
				t.Errorf("verify.py: ok %t\n%s", ok, out)
			}
			if out, _ := outputOf(t, "python3", filepath.Join(dir, "reconcile.py"), file); !strings.Contains(out, test.left) || test.left == "" && out != "" {
				t.Errorf("reconcile.py, want %q:\n%s", test.left, out)
			}
		})
	}
}

// TestProtocolPage sends every method of the table in docs/protocol.md in both eras.
func TestProtocolPage(t *testing.T) {
	g := startConformance(t)
	session := g.initialize()
	rows := regexp.MustCompile("(?m)^\\| `([a-z]+[/a-zA-Z_]*)` \\| (\\w+) \\| (\\w+) \\|$").FindAllStringSubmatch(contents(t, "..", "docs", "protocol.md"), -1)
	if len(rows) != 24 {
		t.Fatalf("%d methods", len(rows))
	}
	const uri = "test://static-text"
	for _, row := range rows {
		method, id, name := row[1], `"id":7,`, "test_simple_text"
		if strings.HasPrefix(method, "notifications/") {
			id = ""
		}
		if method == "prompts/get" {
			name = "test_simple_prompt"
		}
		params := `"name":"` + name + `","uri":"` + uri + `","arguments":{},"ref":{"type":"ref/prompt","name":"test_prompt_with_arguments"},` +
			`"argument":{"name":"arg1","value":""},"level":"info","notifications":{},"requestId":1,"protocolVersion":"2025-11-25"`
		mirrored := modernMethod(method)
		mirrored.body = `{"jsonrpc":"2.0",` + id + `"method":"` + method + `","params":{` + params + `,` + modernMeta + `}}`
		mirrored.header["Mcp-Name"] = name
		if method == "resources/read" {
			mirrored.header["Mcp-Name"] = uri
		}
		for era, r := range map[string]request{
			row[2] + " in the legacy era": legacy(session, `{"jsonrpc":"2.0",`+id+`"method":"`+method+`","params":{`+params+`}}`),
			row[3] + " in the modern era": mirrored,
		} {
			if method == "subscriptions/listen" && strings.HasPrefix(era, "hub") { // its answer does not end
				if line, err := g.stream(r).ReadString('\n'); err != nil || !strings.Contains(line, "acknowledged") {
					t.Errorf("%s: %q, %v", method, line, err)
				}
				continue
			}
			a := g.send(r)
			refused := a.RPC.Error != nil && a.RPC.Error.Code == -32601
			if refused != strings.HasPrefix(era, "refused") || !refused && (a.Status > 202 || a.RPC.Error != nil) {
				t.Errorf("%s is documented as %s: %s", method, era, a)
			}
		}
	}
}

// TestPagesLinkToWhatExists follows the relative links of the pages.
func TestPagesLinkToWhatExists(t *testing.T) {
	pages, err := filepath.Glob("../docs/*.md")
	must(t, err)
	if len(pages) < 5 {
		t.Fatalf("only %v", pages)
	}
	link := regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)
	for _, page := range pages {
		for _, m := range link.FindAllStringSubmatch(contents(t, page), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), m[1])); err != nil {
				t.Errorf("%s: %v", page, err)
			}
		}
	}
}

// fenced returns the fenced blocks of a language, without the fences.
func fenced(page, language string) []string {
	var out []string
	for _, m := range regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllStringSubmatch(page, -1) {
		out = append(out, strings.TrimSuffix(m[1], "\n"))
	}
	return out
}
