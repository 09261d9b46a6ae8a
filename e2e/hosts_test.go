package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The program renders for every host that it names, from one file and its service section, and says what is missing.
func TestRenderForOtherHosts(t *testing.T) {
	file, secrets := seed(t)
	content, err := os.ReadFile(file)
	must(t, err)
	render := func(host, service string, args ...string) ran {
		t.Helper()
		inCluster := strings.ReplaceAll(string(content), "http://mcp-server.example.com:8080/mcp", "http://items.agents.svc:8080/mcp")
		must(t, os.WriteFile(file, []byte(inCluster+service), 0o600))
		return command(t, []string{"XDG_RUNTIME_DIR=" + filepath.Dir(file)},
			append([]string{"render", "-config", file, "-secretProvider", "secretfile://" + secrets, "-for", host}, args...)...)
	}
	for host, filter := range map[string]string{
		"istio": "extProc", "envoy-gateway": "extProc", "kgateway": "extProc", "contour": "extAuthz", "consul": "extAuthz", "gcp": "extProcDuplex",
	} {
		if got := render(host, ""); got.code != 1 || got.stdout != "" || !strings.Contains(got.stderr, "set service.address to host:port") ||
			!strings.Contains(got.stderr, "set service.upstreams to direct") {
			t.Errorf("%s without a service section: %s", host, got)
		}
		service := "\nservice:\n  address: 0.0.0.0:9901\n  hub: 0.0.0.0:9903\n  upstreams: direct\n  filter: " + filter + "\n"
		got := render(host, service, "-namespace", "agents", "-gateway", "front", "-service", "gate")
		if got.code != 0 {
			t.Errorf("%s: %s", host, got)
		}
		for _, want := range []string{`namespace: "agents"`, `"front"`, `name: "gate"`, "x-sallyport-route"} {
			if !strings.Contains(got.stdout, want) {
				t.Errorf("%s: no %s", host, want)
			}
		}
		if strings.Contains(got.stdout, "a-secret-nobody-may-see") {
			t.Errorf("%s: no host has need of the secret", host)
		}
	}
}
