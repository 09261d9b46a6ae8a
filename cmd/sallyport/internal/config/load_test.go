package config_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/config"
)

// lines are problems as a user sees them, without the name of the file.
func lines(file string, problems []config.Problem) []string {
	var all []string
	for _, p := range problems {
		all = append(all, strings.TrimPrefix(strings.TrimPrefix(p.String(), file), ":"))
	}
	return all
}

// TestProblems loads every file in testdata. Those named *.bad.yaml must fail.
func TestProblems(t *testing.T) {
	opts := options(t)
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		seen[name] = true
		t.Run(name, func(t *testing.T) {
			cfg, got := config.Load(file, opts)
			if diff := cmp.Diff(problems[name], lines(file, got)); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
			if failed := config.Failed(got); failed != strings.HasSuffix(name, ".bad") {
				t.Errorf("Failed = %t", failed)
			} else if failed != (len(cfg.Apps) == 0) {
				t.Errorf("failed %t, yet %d apps", failed, len(cfg.Apps))
			}
			for _, p := range got {
				if strings.Contains(p.String(), clientSecret) || strings.Contains(p.String(), storePassword) {
					t.Errorf("a secret is shown: %s", p)
				}
			}
		})
	}
	for name := range problems {
		if !seen[name] {
			t.Errorf("testdata lacks %s.yaml", name)
		}
	}
}

func TestSeedPageLoadsUnchanged(t *testing.T) {
	opts := options(t)
	cfg, problems := config.Load("testdata/seed.yaml", opts)
	if config.Failed(problems) {
		t.Fatal(problems)
	}
	if len(cfg.Apps) != 1 || cfg.Apps[0].Authorization.Outbound.TokenExchange == nil {
		t.Fatalf("the page restates its app with more keys, which must replace the first: %+v", cfg.Apps)
	}
	exchange := cfg.Apps[0].Authorization.Outbound.TokenExchange
	want := []config.Tool{
		{Name: "listItems", TTL: 5 * time.Second, Scopes: []config.Scope{{Name: "item:List"}}},
		{Name: "getItem", TTL: 5 * time.Second, Scopes: []config.Scope{{Name: "item:Get"}}},
		{Name: "createItem", TTL: 5 * time.Second, Scopes: []config.Scope{{Name: "item:Create"}}},
		{Name: "updateItem", TTL: 5 * time.Second, Scopes: []config.Scope{{Name: "item:Update"}}},
	}
	if diff := cmp.Diff(want, exchange.Tools); diff != "" {
		t.Error(diff)
	}
	if got := cfg.Connectors[0].OAuthClientSecret.Reveal(); got != clientSecret {
		t.Errorf("client secret %q", got)
	}
	if !bytes.Contains(cfg.Apps[0].Authorization.Inbound.OPA.Source, []byte(`"getItem"`)) {
		t.Error("the policy's source is missing")
	}
}

func TestDefaults(t *testing.T) {
	cfg, problems := config.Load("testdata/minimal.yaml", options(t))
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	p, a := cfg.MCPProvider, cfg.Apps[0]
	o := p.Authorization.OAuth
	x := a.Authorization.Outbound.TokenExchange
	got := map[string]any{
		"http.address": cfg.HTTP.Address, "http.maxRequestBytes": cfg.HTTP.MaxRequestBytes,
		"health.location": cfg.Health.Location, "admin.address": cfg.Admin.Address,
		"service.address": cfg.Service.Address, "session.store": cfg.Session.Store.Reveal(), "logger.level": cfg.Logger.Level,
		"enabled": p.Enabled, "sse.enabled": p.Transports.SSE.Enabled, "stream": p.Transports.Stream,
		"oauth.enabled": o.Enabled, "metadataPath": o.MetadataPath,
		"refreshInterval": o.Servers[0].RefreshInterval, "method": o.Servers[0].TokenValidation.Method,
		"clockSkew": o.Servers[0].TokenValidation.JWT.ClockSkew,
		"era":       a.Upstream.Era, "transport": a.Upstream.Transport, "connection": a.Upstream.Stream.Connection,
		"app.timeout": a.Timeout, "toolTimeouts": a.ToolTimeouts, "exchange.session": x.Session,
		"allowBigNumbers": a.AllowBigNumbers, "toolList": a.ToolList, "opa.name": a.Authorization.Inbound.OPA.Name,
		"type": x.Type, "timeout": x.Timeout, "ttlParameter": x.TTLParameter, "unlistedTools": x.UnlistedTools,
		"actorToken": x.ActorToken, "requireAct": x.RequireAct, "opaqueTokens": x.OpaqueTokens,
	}
	want := map[string]any{
		"http.address": "127.0.0.1:8080", "http.maxRequestBytes": int64(1 << 20),
		"health.location": "/status", "admin.address": "127.0.0.1:9902",
		"service.address": "", "session.store": "memory", "logger.level": "info",
		"enabled": true, "sse.enabled": false,
		"stream": config.Stream{Enabled: true, Path: "/mcp", Session: config.StreamSession{
			Enabled: true, HeaderName: "Mcp-Session-Id", AllowClientTermination: true, Timeout: time.Hour,
		}},
		"oauth.enabled": true, "metadataPath": "/.well-known/oauth-protected-resource",
		"refreshInterval": 24 * time.Hour, "method": "jwt", "clockSkew": 15 * time.Second,
		"era": "auto", "transport": "stream", "connection": config.Connection{
			DialTimeout: 10 * time.Second, KeepAlive: config.ConnectionKeepAlive{Interval: 15 * time.Second},
			MaxRequests: 100_000, Pool: config.Pool{MaxIdleConns: 100, MaxIdleConnsPerHost: 100},
		},
		"app.timeout": 10 * time.Minute, "toolTimeouts": []config.ToolTimeout(nil), "exchange.session": (*config.SessionToken)(nil),
		"allowBigNumbers": false, "toolList": "policy", "opa.name": "files",
		"type": "delegation", "timeout": 5 * time.Second, "ttlParameter": "requested_expires_in", "unlistedTools": "deny",
		"actorToken": "", "requireAct": false, "opaqueTokens": false,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestEveryKey loads a file that sets every key to something else than its
// default and compares all that came of it.
func TestEveryKey(t *testing.T) {
	opts := options(t)
	cfg, problems := config.Load("testdata/complete.yaml", opts)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	want := complete(opts.Env("CERTS"))
	diff := cmp.Diff(want, cfg, cmpopts.IgnoreUnexported(config.Config{}), ignoreNotes)
	if diff != "" {
		t.Error(diff)
	}
}

func TestEndpointIsThatOfTheTransport(t *testing.T) {
	cfg, _ := config.Load("testdata/complete.yaml", options(t))
	for i, want := range []string{"https://files.example.com:8443/mcp", "https://open.internal/sse"} {
		if got := cfg.Apps[i].Upstream.Endpoint().URL; got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func TestRedis(t *testing.T) {
	for store, want := range map[config.Secret]bool{
		"": false, "memory": false, "redis://127.0.0.1:6379": true, "rediss://:pw@sessions.internal:6380/3": true,
	} {
		if got, ok := (config.Session{Store: store}).Redis(); ok != want || ok && got != store.Reveal() {
			t.Errorf("%s: %q, %t", store.Reveal(), got, ok)
		}
	}
}

// ignoreNotes skips the fields of keys without effect.
var ignoreNotes = cmp.FilterPath(func(p cmp.Path) bool {
	return p.Last().Type() != nil && p.Last().Type().Name() == "ignored"
}, cmp.Ignore())

func TestFilesOfAConfiguration(t *testing.T) {
	opts := options(t)
	certs := opts.Env("CERTS")
	cfg, _ := config.Load("testdata/complete.yaml", opts)
	want := []string{
		filepath.Join(certs, "ca.crl"), filepath.Join(certs, "ca.crt"), filepath.Join(certs, "secrets.yaml"), filepath.Join(certs, "server.crt"), filepath.Join(certs, "server.key"),
		"testdata/complete.yaml", "testdata/policy.rego",
	}
	if diff := cmp.Diff(want, cfg.Files(), cmpopts.SortSlices(strings.Compare)); diff != "" {
		t.Error(diff)
	}
}

func TestChangesAreNoticed(t *testing.T) {
	opts := options(t)
	dir := t.TempDir()
	file, policy := filepath.Join(dir, "gateway.yaml"), filepath.Join(dir, "absent.rego")
	src, err := os.ReadFile("testdata/policy-file-missing.bad.yaml")
	if err != nil {
		t.Fatal(err)
	}
	write(t, file, src)

	broken, problems := config.Load(file, opts)
	if !config.Failed(problems) || broken.Changed() {
		t.Fatalf("problems %v, changed %t", problems, broken.Changed())
	}
	write(t, policy, []byte("package orchestrator\n"))
	if !broken.Changed() {
		t.Error("the missing policy appeared unnoticed")
	}

	cfg, problems := config.Load(file, opts)
	if len(problems) > 0 || cfg.Changed() || cfg.Digest() == broken.Digest() {
		t.Fatalf("problems %v, changed %t, digest %s", problems, cfg.Changed(), cfg.Digest())
	}
	write(t, policy, []byte("package orchestrator\n# edited\n"))
	if !cfg.Changed() {
		t.Error("an edited policy went unnoticed")
	}
	edited, _ := config.Load(file, opts)
	if edited.Digest() == cfg.Digest() {
		t.Error("an edited policy left the digest as it was")
	}
}

func TestUnreadableFile(t *testing.T) {
	big := bytes.Repeat([]byte("#"), 4<<20+1)
	for name, c := range map[string]struct {
		src  []byte
		err  error
		want string
	}{
		"absent":    {nil, fs.ErrNotExist, "gateway.yaml: the file does not exist"},
		"forbidden": {nil, &fs.PathError{Op: "open", Path: "gateway.yaml", Err: fs.ErrPermission}, "gateway.yaml: the file cannot be read: permission denied"},
		"broken":    {nil, errors.New("input/output error"), "gateway.yaml: the file cannot be read: input/output error"},
		"too large": {big, nil, "gateway.yaml: the file cannot be read: it is larger than 4 MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			_, problems := config.Load("gateway.yaml", config.Options{ReadFile: func(string) ([]byte, error) { return c.src, c.err }})
			if len(problems) != 1 || problems[0].String() != c.want {
				t.Errorf("got %v, want %s", problems, c.want)
			}
		})
	}
}

func TestFileSystemIsReadBounded(t *testing.T) {
	file := filepath.Join(t.TempDir(), "gateway.yaml")
	write(t, file, bytes.Repeat([]byte("#"), 5<<20))
	_, problems := config.Load(file, config.Options{})
	if len(problems) != 1 || !strings.Contains(problems[0].Message, "larger than 4 MiB") {
		t.Error(problems)
	}
}

func FuzzLoad(f *testing.F) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(src)
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		opts := config.Options{
			Env:            func(name string) string { return name },
			SecretProvider: "secretfile:///secrets.yaml",
			ReadFile: func(path string) ([]byte, error) {
				switch path {
				case "gateway.yaml":
					return src, nil
				case "/secrets.yaml":
					return []byte(secretFile), nil
				}
				return nil, fs.ErrNotExist
			},
		}
		cfg, problems := config.Load("gateway.yaml", opts)
		if !config.Failed(problems) && len(cfg.Apps) == 0 {
			t.Error("a configuration without apps was accepted")
		}
		for _, p := range problems {
			if strings.Contains(p.String(), "\n") || strings.Contains(p.String(), clientSecret) && !bytes.Contains(src, []byte(clientSecret)) {
				t.Errorf("problem %q", p)
			}
		}
	})
}
