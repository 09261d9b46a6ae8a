package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The program as a user meets it: words, files, exit codes and signals.

// ran is what a finished command left.
type ran struct {
	code           int
	stdout, stderr string
}

func (r ran) String() string { return fmt.Sprintf("exit %d\n%s%s", r.code, r.stdout, r.stderr) }

// command runs the program to its end. No variable of the caller's that the program knows reaches it.
func command(t *testing.T, env []string, args ...string) ran {
	t.Helper()
	cmd := exec.Command(sallyport, args...)
	for _, pair := range os.Environ() {
		if name, _, _ := strings.Cut(pair, "="); !strings.HasPrefix(name, "SALLYPORT_") && !strings.HasPrefix(name, "MAVERICS_") {
			cmd.Env = append(cmd.Env, pair)
		}
	}
	cmd.Env = append(cmd.Env, env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return ran{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

func TestUsage(t *testing.T) {
	commands := []string{"run", "serve", "check", "render", "doctor", "revoke", "audit", "ready", "secrets", "demo", "version"}
	for _, test := range []struct {
		args   []string
		code   int
		stdout string // parts, "" for silence
		stderr string
	}{
		{nil, 2, "", "Usage: sallyport COMMAND"},
		{[]string{"help"}, 0, "Usage: sallyport COMMAND", ""},
		{[]string{"-h"}, 0, "Usage: sallyport COMMAND", ""},
		{[]string{"--help"}, 0, "Usage: sallyport COMMAND", ""},
		{[]string{"fly"}, 2, "", `unknown command "fly"`},
		{[]string{"check", "-fly"}, 2, "", "-fly"},
		{[]string{"check", "file.yaml"}, 2, "", `unexpected argument "file.yaml"`},
		{[]string{"version", "-fly"}, 2, "", "-fly"},
		{[]string{"version"}, 0, "sallyport ", ""},
		{[]string{"check"}, 2, "", "-config FILE"},
		{[]string{"run"}, 2, "", "-config FILE"},
		{[]string{"serve"}, 2, "", "-config FILE"},
		{[]string{"render"}, 2, "", "-config FILE"},
		{[]string{"render", "-for", "abacus", "-config", "x"}, 2, "", `unknown host "abacus"`},
		{[]string{"revoke"}, 2, "", "name one of -subject"},
		{[]string{"revoke", "-subject", "x"}, 2, "", "-config FILE"},
		{[]string{"revoke", "-list", "-jti", "x", "-config", "x"}, 2, "", "or -list"},
		{[]string{"revoke", "-subject", "x", "-client", "y", "-config", "x"}, 2, "", "name one of -subject"},
		{[]string{"revoke", "-subject", "", "-config", "x"}, 2, "", "subject is empty"},
		{[]string{"revoke", "-session", "q83vEjRWeJCrze8SNFZ4", "-config", "x"}, 2, "", "as \"session\" in the audit"},
		{[]string{"revoke", "-subject", "x", "-for", "soon", "-config", "x"}, 2, "", "-for"},
		{[]string{"audit"}, 2, "", "audit verify -file FILE"},
		{[]string{"audit", "burn"}, 2, "", "audit verify -file FILE"},
		{[]string{"audit", "verify"}, 2, "", "-file is required"},
		{[]string{"audit", "verify", "-file", "/nonexistent"}, 1, "", "/nonexistent"},
		{[]string{"check", "-config", "/nonexistent.yaml"}, 1, "/nonexistent.yaml: ", ""},
		{[]string{"run", "-config", "/nonexistent.yaml"}, 1, "", "/nonexistent.yaml: "},
		{[]string{"demo", "-envoy", "/nonexistent"}, 1, "", "/nonexistent"},
	} {
		got := command(t, nil, test.args...)
		for _, stream := range []struct{ name, want, got string }{{"stdout", test.stdout, got.stdout}, {"stderr", test.stderr, got.stderr}} {
			if !strings.Contains(stream.got, stream.want) || stream.want == "" && stream.got != "" {
				t.Errorf("%q: %s is %q, want %q", test.args, stream.name, stream.got, stream.want)
			}
		}
		if got.code != test.code {
			t.Errorf("%q: exit %d, want %d", test.args, got.code, test.code)
		}
	}
	help := command(t, nil, "help").stdout
	for _, name := range commands {
		if !strings.Contains(help, "\n  "+name+" ") {
			t.Errorf("help does not name %s", name)
		}
		for _, flag := range []string{"-h", "-help", "--help"} {
			if got := command(t, nil, name, flag); got.code != 0 || !strings.Contains(got.stdout+got.stderr, name) {
				t.Errorf("%s %s: %s", name, flag, got)
			}
		}
	}
}

// seed copies the published file, with its secret, into a directory.
func seed(t *testing.T) (file, secrets string) {
	t.Helper()
	dir := t.TempDir()
	content, err := os.ReadFile("../cmd/sallyport/internal/config/testdata/seed.yaml")
	must(t, err)
	file, secrets = filepath.Join(dir, "maverics.yaml"), filepath.Join(dir, "secrets.yaml")
	must(t, os.WriteFile(file, content, 0o600))
	must(t, os.WriteFile(secrets, []byte("secrets:\n  gateway.clientSecret: a-secret-nobody-may-see\n"), 0o600))
	return file, secrets
}

func TestCheckAcceptsThePublishedFile(t *testing.T) {
	file, secrets := seed(t)
	provider := "secretfile://" + secrets
	for _, test := range []struct {
		env  []string
		args []string
	}{
		{nil, []string{"-config", file, "-secretProvider", provider}},
		{[]string{"SALLYPORT_SECRET_PROVIDER=" + provider}, []string{"-config", file}},
		{[]string{"MAVERICS_SECRET_PROVIDER=" + provider}, []string{"-config", file}},
		{[]string{"SALLYPORT_SECRET_PROVIDER=" + provider, "MAVERICS_SECRET_PROVIDER=secretfile:///nonexistent"}, []string{"-config", file}},
		{[]string{"SALLYPORT_CONFIG=" + file, "SALLYPORT_SECRET_PROVIDER=secretfile:///nonexistent"}, []string{"-secretProvider", provider}},
	} {
		got := command(t, test.env, append([]string{"check"}, test.args...)...)
		if got.code != 0 || !strings.HasSuffix(got.stdout, file+": ok, 1 app(s)\n") || got.stderr != "" {
			t.Errorf("%v %v: %s", test.env, test.args, got)
		}
	}
	without := command(t, nil, "check", "-config", file)
	place := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(file) + `:\d+:\d+: .*gateway\.clientSecret`)
	if without.code != 1 || !place.MatchString(without.stdout) || strings.Contains(without.stdout, ": ok") {
		t.Errorf("a missing secret: %s", without)
	}
}

// Each refusal names its place and its cause, and no secret.
func TestCheckRefuses(t *testing.T) {
	for _, test := range []struct {
		name, old, changed string
		line               string // text of the line that must be named
		says               string
	}{
		{"an unknown key", "oidcWellKnownURL", "oidcWellKnownUrl", "oidcWellKnownUrl", "oidcWellKnownURL"},
		{"an unknown connector", "idp: auth-provider", "idp: other-provider", "idp: other-provider", "other-provider"},
		{"plain http", "wellKnownEndpoint: https://", "wellKnownEndpoint: http://", "wellKnownEndpoint: http://", "http"},
		{"no audience", "              - https://your-gateway.example.com/\n            method", "            method", "expectedAudiences", "expectedAudiences"},
		{"a tool named twice", "- name: getItem", "- name: listItems", "", "listItems"},
		{"a faulty policy", "default result", "default resul[t", "", "rego"},
		{"a policy file that is not there", "rego: |", "file: none.rego\n          other: |", "file: none.rego", "none.rego"},
		{"a secret that is not there", "<gateway.clientSecret>", "<gateway.otherSecret>", "<gateway.otherSecret>", "gateway.otherSecret"},
		{"no duration", "ttl: 5s", "ttl: soon", "ttl: soon", "soon"},
		{"a tab", "  enabled: true", "\tenabled: true", "\tenabled: true", "tab"},
	} {
		t.Run(test.name, func(t *testing.T) {
			file, secrets := seed(t)
			content, err := os.ReadFile(file)
			must(t, err)
			if !strings.Contains(string(content), test.old) {
				t.Fatalf("the file does not contain %q", test.old)
			}
			// The last occurrence, since a later piece replaces an earlier app of the same name.
			at := strings.LastIndex(string(content), test.old)
			changed := string(content[:at]) + test.changed + string(content[at+len(test.old):])
			must(t, os.WriteFile(file, []byte(changed), 0o600))
			got := command(t, nil, "check", "-config", file, "-secretProvider", "secretfile://"+secrets)
			problem := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(file) + `:(\d+):(\d+): (.*)$`)
			var said []string
			ok := false
			for _, m := range problem.FindAllStringSubmatch(got.stdout, -1) {
				n, _ := strconv.Atoi(m[1])
				said = append(said, m[0])
				line := strings.Split(changed, "\n")[n-1]
				ok = ok || strings.Contains(m[3], test.says) && strings.Contains(line, test.line)
			}
			if got.code != 1 || !ok {
				t.Errorf("want %q at the line of %q:\n%s", test.says, test.line, got)
			}
			if strings.Contains(got.stdout+got.stderr, "a-secret-nobody-may-see") {
				t.Errorf("a secret is shown: %s", said)
			}
			if run := command(t, []string{"SALLYPORT_SECRET_PROVIDER=secretfile://" + secrets}, "serve", "-config", file); run.code != 1 || !strings.Contains(run.stderr, file+":") {
				t.Errorf("serve starts with it: %s", run)
			}
		})
	}
}

func TestCheckOnline(t *testing.T) {
	w := newWorld(t)
	if got := command(t, w.env(), "check", "-online", "-config", w.path("sallyport.yaml")); got.code != 0 {
		t.Errorf("with everything up: %s", got)
	}
	w.provider.Close()
	if got := command(t, w.env(), "check", "-config", w.path("sallyport.yaml")); got.code != 0 {
		t.Errorf("offline, no network is touched: %s", got)
	}
	if got := command(t, w.env(), "check", "-online", "-config", w.path("sallyport.yaml")); got.code != 1 || !strings.Contains(got.stdout, "connector auth-provider: ") {
		t.Errorf("with nothing up: %s", got)
	}
}

func TestRender(t *testing.T) {
	file, secrets := seed(t)
	args := []string{"-config", file, "-secretProvider", "secretfile://" + secrets}
	env := []string{"XDG_RUNTIME_DIR=" + filepath.Dir(file)}
	printed := command(t, env, append([]string{"render"}, args...)...)
	if printed.code != 0 || !strings.Contains(printed.stdout, "static_resources:") {
		t.Fatal(printed)
	}
	out := filepath.Join(filepath.Dir(file), "envoy.yaml")
	written := command(t, env, append([]string{"render", "-for", "envoy", "-o", out}, args...)...)
	content, err := os.ReadFile(out)
	must(t, err)
	if written.code != 0 || written.stdout != "" || string(content) != printed.stdout {
		t.Errorf("-o: %s", written)
	}
	if strings.Contains(string(content), "a-secret-nobody-may-see") {
		t.Error("Envoy has no need of the secret")
	}
	if got := command(t, env, append([]string{"render", "-o", "/nonexistent/envoy.yaml"}, args...)...); got.code != 1 {
		t.Errorf("an unwritable file: %s", got)
	}
	if report, err := exec.Command(envoyBinary, "--mode", "validate", "-c", out).CombinedOutput(); err != nil {
		t.Errorf("Envoy refuses it: %v\n%s", err, report)
	}
}

func TestAuditVerify(t *testing.T) {
	w := start(t)
	for range 3 {
		w.send(modern("open_echo", `{}`))
	}
	w.reconcile()
	w.gateway.stop()
	good, err := os.ReadFile(w.path("audit.jsonl"))
	must(t, err)
	lines := bytes.SplitAfter(bytes.TrimSuffix(good, []byte("\n")), []byte("\n"))
	n := len(lines)
	for _, test := range []struct {
		name    string
		content []byte
		code    int
		says    string
	}{
		{"as it was written", good, 0, fmt.Sprintf("%d records, chain intact", n)},
		{"empty", nil, 0, "0 records"},
		{"a word changed", bytes.Replace(good, []byte(`"outcome":"allowed"`), []byte(`"outcome":"denied"`), 1), 1, "line"},
		{"a line missing", bytes.Join(append(slices.Clone(lines[:1]), lines[2:]...), nil), 1, "line 2"},
		{"two lines swapped", bytes.Join(append([][]byte{lines[1], lines[0]}, lines[2:]...), nil), 1, "line 1"},
		{"a line twice", bytes.Join(append([][]byte{lines[0], lines[0]}, lines[1:]...), nil), 1, "line 2"},
		{"no JSON", append(slices.Clone(good), "free text\n"...), 1, fmt.Sprintf("line %d", n+1)},
	} {
		w.write("copy.jsonl", string(test.content))
		got := command(t, nil, "audit", "verify", "-file", w.path("copy.jsonl"))
		if got.code != test.code || !strings.Contains(got.stdout+got.stderr, test.says) {
			t.Errorf("%s: want %d, %q: %s", test.name, test.code, test.says, got)
		}
	}
}

// launch starts a gateway's program without waiting for it.
func (w *world) launch(env []string, args ...string) (*process, <-chan string) {
	w.t.Helper()
	lines := make(chan string, 16)
	return spawn(w.t, append(w.env(), env...), lines, sallyport, append(args, "-config", w.path("sallyport.yaml"))...), lines
}

func (w *world) awaitReady(p *process, lines <-chan string) {
	w.t.Helper()
	select {
	case line := <-lines:
		if line != "ready: "+w.url {
			w.t.Fatalf("first line %q", line)
		}
	case <-p.end:
		w.t.Fatal("it ended")
	case <-time.After(30 * time.Second):
		w.t.Fatal("it did not become ready")
	}
}

// ready asks the admin listener.
func (w *world) ready() (status int, checks map[string]bool) {
	resp, err := client.Get("http://" + w.admin + "/ready")
	if err != nil {
		return 0, nil
	}
	defer func() { _ = resp.Body.Close() }()
	var state struct{ Checks map[string]bool }
	if err := json.NewDecoder(resp.Body).Decode(&state); err != nil {
		return 0, nil
	}
	return resp.StatusCode, state.Checks
}

// The second of two processes with one configuration ends, and the first does not notice.
func TestTheSameConfigurationRunsOnce(t *testing.T) {
	for _, kind := range []string{"serve", "run"} {
		for _, auditFile := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/audit file %v", kind, auditFile), func(t *testing.T) {
				w := newWorld(t)
				if !auditFile {
					w.edit("sallyport.yaml", "audit:\n  file: audit.jsonl\n", "")
				}
				args := []string{kind}
				if kind == "run" {
					args = append(args, "-envoy", envoyBinary)
				}
				first, lines := w.launch(nil, args...)
				if kind == "run" {
					w.awaitReady(first, lines)
				} else {
					await(t, "the service", func() bool { status, _ := w.ready(); return status != 0 })
				}
				second := command(t, w.env(), append(args, "-config", w.path("sallyport.yaml"))...)
				if second.code != 1 || !strings.Contains(second.stderr, "in use") && !strings.Contains(second.stderr, "another process") {
					t.Errorf("the second: %s", second)
				}
				if kind == "serve" {
					if status, _ := w.ready(); status == 0 {
						t.Error("the first no longer answers")
					}
					return
				}
				for range 4 { // every worker
					if a := w.send(modern("open_echo", `{}`)); a.RPC.Result == nil {
						t.Errorf("a call to the first: %s", a)
					}
				}
				if a := w.send(modernMethod("tools/list")); len(toolNames(t, a)) == 0 {
					t.Errorf("the first's list: %s", a)
				}
				c, err := net.Dial("unix", w.socket("envoy-admin.sock"))
				if err != nil {
					t.Fatalf("the first's Envoy cannot be drained any more: %v", err)
				}
				_ = c.Close()
			})
		}
	}
}

// socket finds a socket of the gateway's below its runtime directory.
func (w *world) socket(name string) string {
	w.t.Helper()
	found, err := filepath.Glob(filepath.Join(w.dir, "sallyport-*", name))
	must(w.t, err)
	if len(found) != 1 {
		w.t.Fatalf("%s: %v", name, found)
	}
	return found[0]
}

// An issuer that is not there yet delays readiness and ends nothing.
func TestIssuerThatComesLate(t *testing.T) {
	w := newWorld(t)
	address := w.provider.Listener.Addr().String()
	w.provider.CloseClientConnections()
	w.provider.Close()
	p, lines := w.launch(nil, "run", "-envoy", envoyBinary)
	var checks map[string]bool
	await(t, "the admin listener", func() bool {
		var status int
		status, checks = w.ready()
		return status == http.StatusServiceUnavailable && checks["routes"]
	})
	// Lists are not read yet: the connector may be needed for them.
	if checks["keys"] || checks["exchange"] || checks["catalogue"] || !checks["policies"] || !checks["serving"] {
		t.Errorf("checks %v", checks)
	}
	await(t, "health", func() bool {
		a, err := w.try(request{method: http.MethodGet, path: "/status", token: "none"})
		return err == nil && a.Status == http.StatusOK
	})
	if a := w.send(modern("open_echo", `{}`)); a.Status != http.StatusServiceUnavailable || a.RPC.Error == nil || a.RPC.Error.Code != -32603 {
		t.Errorf("a token that nobody can verify yet: %s", a)
	}
	select {
	case line := <-lines:
		t.Fatalf("ready without keys: %q", line)
	case <-p.end:
		t.Fatal("it ended")
	default:
	}
	l, err := net.Listen("tcp", address)
	must(t, err)
	server := &http.Server{Handler: w.provider, ReadHeaderTimeout: time.Second}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	w.awaitReady(p, lines)
	if status, checks := w.ready(); status != http.StatusOK {
		t.Errorf("%d %v", status, checks)
	}
	if a := w.send(modern("my_server_listItems", `{}`)); a.RPC.Result == nil {
		t.Error(a)
	}
}

func TestSIGTERMLetsACallFinish(t *testing.T) {
	w := start(t)
	arrived, release := make(chan struct{}), make(chan struct{})
	w.open.behave(func(b *behaviour) {
		b.answer = func(rw http.ResponseWriter, r *http.Request, got received) bool {
			close(arrived)
			select {
			case <-release:
			case <-r.Context().Done():
			}
			rpcResult(rw, got.RPC.ID, `{"resultType":"complete","content":[{"type":"text","text":"late"}]}`)
			return true
		}
	})
	type result struct {
		answer answer
		err    error
	}
	done := make(chan result, 1)
	go func() {
		a, err := w.try(modern("open_echo", `{}`))
		done <- result{a, err}
	}()
	<-arrived
	must(t, w.gateway.cmd.Process.Signal(syscall.SIGTERM))
	await(t, "not ready any more", func() bool { status, _ := w.ready(); return status == http.StatusServiceUnavailable })
	select {
	case r := <-done:
		t.Fatalf("the call was cut off: %s, %v", r.answer, r.err)
	case <-w.gateway.end:
		t.Fatal("ended with a call in flight")
	default:
	}
	close(release)
	if r := <-done; r.err != nil || r.answer.RPC.Result == nil {
		t.Errorf("the call: %s, %v", r.answer, r.err)
	}
	select {
	case <-w.gateway.end:
	case <-time.After(12 * time.Second):
		t.Fatal("still there")
	}
	if code := w.gateway.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if _, err := net.Dial("tcp", w.address); err == nil {
		t.Error("Envoy is still listening")
	}
	w.reconcile()
	w.verifyAudit()
}

// A call that never ends does not keep the program for longer than it promises.
func TestSIGTERMIsBounded(t *testing.T) {
	w := start(t)
	arrived := make(chan struct{})
	w.open.behave(func(b *behaviour) {
		b.answer = func(_ http.ResponseWriter, r *http.Request, _ received) bool {
			close(arrived)
			<-r.Context().Done()
			return true
		}
	})
	go func() { _, _ = w.try(modern("open_echo", `{}`)) }()
	<-arrived
	begun := time.Now()
	must(t, w.gateway.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case <-w.gateway.end:
	case <-time.After(20 * time.Second):
		t.Fatal("still there")
	}
	if took, code := time.Since(begun), w.gateway.cmd.ProcessState.ExitCode(); took < 5*time.Second || code != 0 {
		t.Errorf("ended after %v with %d", took, code)
	}
	w.reconcile()
	w.verifyAudit()
}

// children are the processes whose parent is pid.
func children(t *testing.T, pid int) []int {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	must(t, err)
	var out []int
	for _, path := range stats {
		state, parent := stat(path)
		if child, _ := strconv.Atoi(filepath.Base(filepath.Dir(path))); parent == pid && state != "Z" {
			out = append(out, child)
		}
	}
	return out
}

// stat returns a process's state and parent, "" when there is none (proc(5)).
func stat(path string) (state string, parent int) {
	content, err := os.ReadFile(path)
	if err != nil {
		return "", 0
	}
	fields := strings.Fields(string(content[bytes.LastIndexByte(content, ')')+1:]))
	parent, _ = strconv.Atoi(fields[1])
	return fields[0], parent
}

func TestSIGKILLTakesEnvoyDown(t *testing.T) {
	w := start(t)
	envoys := children(t, w.gateway.cmd.Process.Pid)
	if len(envoys) != 1 {
		t.Fatalf("children %v", envoys)
	}
	must(t, w.gateway.cmd.Process.Kill())
	<-w.gateway.end
	await(t, "Envoy's end", func() bool {
		state, _ := stat(fmt.Sprintf("/proc/%d/stat", envoys[0]))
		return state == "" || state == "Z" || state == "X"
	})
	if _, err := w.try(modern("open_echo", `{}`)); err == nil {
		t.Error("somebody still answers")
	}
	w.run() // what was left behind is in nobody's way
	if a := w.send(modern("open_echo", `{}`)); a.RPC.Result == nil {
		t.Error(a)
	}
	w.verifyAudit()
}

func TestEnvoysEndIsOurs(t *testing.T) {
	w := start(t)
	envoys := children(t, w.gateway.cmd.Process.Pid)
	if len(envoys) != 1 {
		t.Fatalf("children %v", envoys)
	}
	must(t, syscall.Kill(envoys[0], syscall.SIGKILL))
	select {
	case <-w.gateway.end:
	case <-time.After(15 * time.Second):
		t.Fatal("a gateway without Envoy goes on")
	}
	if code := w.gateway.cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(w.gateway.output(), "envoy ended") {
		t.Errorf("exit %d", code)
	}
}

func TestTwoGatewaysBesideEachOther(t *testing.T) {
	shared, err := os.MkdirTemp("", "e2e")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(shared) })
	worlds := []*world{newWorld(t), newWorld(t)}
	for _, w := range worlds {
		p, lines := w.launch([]string{"XDG_RUNTIME_DIR=" + shared}, "run", "-envoy", envoyBinary)
		w.awaitReady(p, lines)
		w.gateway = p
	}
	for i, w := range worlds {
		if a := w.send(modern("my_server_listItems", `{}`)); a.RPC.Result == nil {
			t.Errorf("gateway %d: %s", i, a)
		}
		if a := w.send(modernMethod("tools/list")); len(toolNames(t, a)) == 0 {
			t.Errorf("gateway %d: %s", i, a)
		}
		if n := len(w.items.calls()); n != 1 {
			t.Errorf("gateway %d: %d calls", i, n)
		}
		if a, err := w.try(request{method: http.MethodPost, token: worlds[1-i].token, body: "{}"}); err != nil || a.Status != http.StatusUnauthorized {
			t.Errorf("gateway %d takes the other's token: %s, %v", i, a, err)
		}
	}
	worlds[0].gateway.stop()
	if a := worlds[1].send(modern("open_echo", `{}`)); a.RPC.Result == nil {
		t.Errorf("the second, after the first's end: %s", a)
	}
}

// A program that waits for its issuer, or for its Envoy, still ends when it is told to.
func TestSIGTERMBeforeReady(t *testing.T) {
	for _, args := range [][]string{{"run", "-envoy", envoyBinary}, {"serve"}} {
		w := newWorld(t)
		w.provider.CloseClientConnections()
		w.provider.Close()
		p, _ := w.launch(nil, args...)
		await(t, "the admin listener", func() bool { status, _ := w.ready(); return status == http.StatusServiceUnavailable })
		must(t, p.cmd.Process.Signal(syscall.SIGTERM))
		select {
		case <-p.end:
		case <-time.After(10 * time.Second):
			t.Errorf("%s: still there", args[0])
			p.stop()
		}
		if code := p.cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("%s: exit %d", args[0], code)
		}
	}
}

// An address that somebody else has is a reason to end, and to say which.
func TestAddressesInUse(t *testing.T) {
	for _, what := range []string{"http", "admin"} {
		w := newWorld(t)
		address := map[string]string{"http": w.address, "admin": w.admin}[what]
		l, err := net.Listen("tcp", address)
		must(t, err)
		t.Cleanup(func() { _ = l.Close() })
		p, _ := w.launch(nil, "run", "-envoy", envoyBinary)
		select {
		case <-p.end:
		case <-time.After(20 * time.Second):
			t.Fatalf("%s: goes on", what)
		}
		if code := p.cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(p.output(), address[strings.LastIndexByte(address, ':'):]) {
			t.Errorf("%s: exit %d: %s", what, code, p.output())
		}
	}
}

// What the program logs is JSON, one object a line, and holds no token.
func TestLogsAreJSON(t *testing.T) {
	w := start(t)
	w.send(modern("my_server_listItems", `{}`))
	w.send(request{token: "forged", body: "{}"})
	w.gateway.stop()
	for line := range strings.Lines(w.gateway.output()) {
		if strings.HasPrefix(line, "ready: ") {
			continue
		}
		var record map[string]any
		if err := json.Unmarshal([]byte(line), &record); err != nil || record["level"] == nil || record["msg"] == nil {
			t.Errorf("%v: %q", err, line)
		}
		for _, secret := range []string{w.token, gatewaySecret, sessionKey} {
			if strings.Contains(line, secret) {
				t.Errorf("a secret in %q", line)
			}
		}
	}
}
