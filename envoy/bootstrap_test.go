package envoy_test

import (
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v4"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/envoy"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// seed is the gateway of the golden file: one plain app, one https app.
func seed() envoy.Gateway {
	return envoy.Gateway{
		Listen:        "127.0.0.1:8080",
		Paths:         []string{"/mcp"},
		ServiceSocket: "/run/sallyport/service.sock",
		HubSocket:     "/run/sallyport/hub.sock",
		EgressSocket:  "/run/sallyport/egress.sock",
		AdminSocket:   "/run/sallyport/admin.sock",
		Apps: []envoy.App{
			{Name: "orders", URL: "http://localhost:9000/mcp"},
			{Name: "tickets", URL: "https://tickets.example.com/v1/mcp"},
		},
	}
}

func bootstrap(t *testing.T, g envoy.Gateway) []byte {
	t.Helper()
	text, err := envoy.Bootstrap(g)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestGolden(t *testing.T) {
	dynamic := seed()
	dynamic.Dynamic = true
	for golden, g := range map[string]envoy.Gateway{"testdata/bootstrap.yaml": seed(), "testdata/dynamic.yaml": dynamic} {
		got := bootstrap(t, g)
		if *update {
			if err := os.WriteFile(golden, got, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("go test ./envoy -update rewrites %s (-want +got):\n%s", golden, diff)
		}
	}
}

// The text must mean what the resources say: YAML has its own ideas about
// strings like "null", "0x1" and "1.2".
func TestRoundTrip(t *testing.T) {
	g := seed()
	g.NodeID = "null"
	for _, name := range []string{"true", "0x1", "1e3", "1.2", "-", "..", "off"} {
		g.Apps = append(g.Apps, envoy.App{Name: name, URL: "http://127.0.0.1:1/" + name})
	}
	text := bootstrap(t, g)
	var generic any
	if err := yaml.Unmarshal(text, &generic); err != nil {
		t.Fatal(err)
	}
	asJSON, err := json.Marshal(generic)
	if err != nil {
		t.Fatal(err)
	}
	var got bootstrapv3.Bootstrap
	if err := protojson.Unmarshal(asJSON, &got); err != nil {
		t.Fatal(err)
	}
	if err := got.ValidateAll(); err != nil {
		t.Error(err)
	}
	r, err := envoy.Generate(g)
	if err != nil {
		t.Fatal(err)
	}
	want := &bootstrapv3.Bootstrap{
		Node: got.GetNode(), Admin: got.GetAdmin(), OverloadManager: got.GetOverloadManager(),
		StaticResources: &bootstrapv3.Bootstrap_StaticResources{Listeners: r.Listeners, Clusters: r.Clusters},
	}
	if len(got.GetOverloadManager().GetResourceMonitors()) != 1 || got.GetNode().GetId() != "null" || !proto.Equal(want, &got) {
		t.Error("the file does not say what the resources say")
	}
	if again := bootstrap(t, g); string(again) != string(text) {
		t.Error("the same gateway gave another file")
	}
}

// The real Envoy must take every kind of gateway.
func TestValidate(t *testing.T) {
	binary := envoyBinary(t)
	ca := newAuthority(t)
	cert, key := ca.issue(t, "server", "localhost")
	for name, change := range map[string]func(*envoy.Gateway){
		"seed":    func(g *envoy.Gateway) { g.CAFile = ca.file },
		"no apps": func(g *envoy.Gateway) { g.Apps = nil },
		"one app": func(g *envoy.Gateway) { g.Apps = g.Apps[:1] },
		"many apps": func(g *envoy.Gateway) {
			g.Apps = nil
			for i := range 100 {
				g.Apps = append(g.Apps, envoy.App{Name: strings.Repeat("a", i%60) + string(rune('a'+i%26)) + strings.Repeat("-", i/26), URL: "http://127.0.0.1:9000"})
			}
		},
		"TLS": func(g *envoy.Gateway) {
			g.TLS = &envoy.ListenerTLS{CertFile: cert, KeyFile: key, MinVersion: "1.3"}
			g.Apps = nil
		},
		"mutual TLS": func(g *envoy.Gateway) {
			g.TLS = &envoy.ListenerTLS{CertFile: cert, KeyFile: key, ClientCAFile: ca.file}
			g.Apps = []envoy.App{{Name: "a", URL: "https://a.example", TLS: &envoy.UpstreamTLS{
				CAFile: ca.file, CertFile: cert, KeyFile: key, MinVersion: "1.3",
			}}}
		},
		"IPv6": func(g *envoy.Gateway) {
			g.Listen = "[::]:8080"
			g.CAFile = ca.file
			g.Apps = []envoy.App{{Name: "a", URL: "http://[::1]:9000/mcp"}, {Name: "b", URL: "https://[2001:db8::1]"}}
		},
		"names": func(g *envoy.Gateway) {
			g.Apps = []envoy.App{
				{Name: "..", URL: "http://127.0.0.1"}, {Name: "true", URL: "http://127.0.0.1"},
				{Name: "a.b_c-D", URL: "http://127.0.0.1"}, {Name: strings.Repeat("x", 64), URL: "http://127.0.0.1"},
			}
		},
		"limits": func(g *envoy.Gateway) {
			g.Apps = nil
			g.Paths = []string{"/mcp", "/sse", "/messages", "/a;b=c/@d"}
			g.MaxRequestBytes, g.EgressMode = 64<<20, 0o660
			g.MessageTimeout, g.StreamIdle = time.Millisecond, 24*time.Hour
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := seed()
			change(&g)
			file := filepath.Join(t.TempDir(), "envoy.yaml")
			if err := os.WriteFile(file, bootstrap(t, g), 0o600); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.CommandContext(t.Context(), binary, "--mode", "validate", "-c", file).CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}
