package e2e

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/exchange/sts"
)

// The commands that a container needs, whose image holds nothing but the program.

func TestReadyCommand(t *testing.T) {
	w := start(t)
	if got := command(t, nil, "ready", "-address", w.admin); got.code != 0 || !strings.Contains(got.stdout, `"ready":true`) {
		t.Errorf("ready: %s", got)
	}
	for name, test := range map[string]struct {
		answer http.HandlerFunc
		stdout string
	}{
		"not ready": {func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, `{"keys":false}`, http.StatusServiceUnavailable)
		}, `{"keys":false}`},
		"somebody else": {http.NotFound, ""},
		"elsewhere": {func(out http.ResponseWriter, r *http.Request) {
			http.Redirect(out, r, "http://"+w.admin+"/ready", http.StatusFound)
		}, ""},
		"silent": {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, ""},
	} {
		server := httptest.NewServer(test.answer)
		if got := command(t, nil, "ready", "-timeout", "300ms", "-address", server.Listener.Addr().String()); got.code != 1 || !strings.Contains(got.stdout, test.stdout) {
			t.Errorf("%s: %s", name, got)
		}
		server.CloseClientConnections()
		server.Close()
	}
	if got := command(t, nil, "ready", "-address", freePort(t)); got.code != 1 || !strings.Contains(got.stderr, "refused") {
		t.Errorf("nobody there: %s", got)
	}
}

func TestSecretsCommand(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secrets.yaml")
	make := func(names ...string) ran {
		return command(t, nil, append([]string{"secrets", "-o", file}, names...)...)
	}
	for _, names := range [][]string{nil, {"plain"}, {"a.b", "a.b"}, {"a.b: c"}} {
		if got := make(names...); got.code != 2 {
			t.Errorf("%q: %s", names, got)
		}
	}
	if got := command(t, nil, "secrets", "a.b"); got.code != 2 {
		t.Errorf("without a file: %s", got)
	}
	if got := make("gateway.clientSecret", "sallyport.sessionKey"); got.code != 0 {
		t.Fatal(got)
	}
	first := contents(t, file)
	made := regexp.MustCompile(`^secrets:\n  gateway\.clientSecret: ([A-Z2-7]{52})\n  sallyport\.sessionKey: ([A-Z2-7]{52})\n$`).FindStringSubmatch(first)
	if made == nil || made[1] == made[2] {
		t.Errorf("not two random values: %q", first)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if got := make("another.one"); got.code != 0 || contents(t, file) != first || !strings.Contains(got.stdout, "left as it is") {
		t.Errorf("again: %s", got)
	}
	if left, err := filepath.Glob(filepath.Join(filepath.Dir(file), ".*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestDemoServerAlone: an MCP server of the demo believes an authorization server that is not where it says it is, and
// nobody without a token.
func TestDemoServerAlone(t *testing.T) {
	const issuer = "http://127.0.0.1:1"
	provider, err := sts.New(sts.Config{Issuer: issuer, DefaultAudience: "x"})
	must(t, err)
	server := httptest.NewServer(provider)
	t.Cleanup(server.Close)
	address, lost := freePort(t), freePort(t)
	args := []string{"demo", "-serve", "mirror", "-wellKnown", issuer + "/.well-known/openid-configuration"}
	spawn(t, nil, nil, sallyport, append(args, "-address", address, "-connect", server.Listener.Addr().String())...)
	spawn(t, nil, nil, sallyport, append(args, "-address", lost)...)
	await(t, "the server", func() bool { return command(t, nil, "ready", "-address", address).code == 0 })
	if got := command(t, nil, "ready", "-address", lost); got.code != 1 || !strings.Contains(got.stdout, "no keys") {
		t.Errorf("without keys: %s", got)
	}
	req, err := http.NewRequest(http.MethodPost, "http://"+address+"/mcp", strings.NewReader(
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"whoami","arguments":{}}}`))
	must(t, err)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	resp, err := http.DefaultClient.Do(req)
	must(t, err)
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	must(t, err)
	if !strings.Contains(string(body), "a bearer token is required") {
		t.Errorf("without a token: %s", body)
	}
	if got := command(t, nil, "demo", "-serve", "other"); got.code != 1 || !strings.Contains(got.stderr, "items and mirror") {
		t.Errorf("unknown server: %s", got)
	}
}
