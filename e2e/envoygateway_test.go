package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

// The files of `sallyport render -for envoy-gateway`, in a real Envoy Gateway that runs without Kubernetes. It listens on
// every address, so `make envoy-gateway` runs these tests in a network of their own.

// behindEnvoyGateway makes every gateway of the test one behind Envoy Gateway. Each rendered object is kept if keep, which may
// change it, says so.
func behindEnvoyGateway(t *testing.T, filter string, keep func(object map[string]any) bool) {
	t.Helper()
	binary := os.Getenv("ENVOY_GATEWAY")
	if binary == "" {
		t.Skip("opt-in: `make envoy-gateway`")
	}
	wiring = func(t *testing.T) string {
		return "  address: " + freePort(t) + "\n  hub: " + freePort(t) + "\n  upstreams: direct\n  filter: " + filter + "\n"
	}
	host = func(w *world) { runEnvoyGateway(w, binary, keep) }
	t.Cleanup(func() { wiring, host = nil, nil })
}

func runEnvoyGateway(w *world, binary string, keep func(object map[string]any) bool) {
	w.t.Helper()
	w.gateway = spawn(w.t, w.env(), nil, sallyport, "serve", "-config", w.path("sallyport.yaml"))
	render := exec.Command(sallyport, "render", "-config", w.path("sallyport.yaml"), "-for", "envoy-gateway")
	render.Env = append(render.Environ(), w.env()...)
	stderr := new(strings.Builder)
	render.Stderr = stderr
	out, err := render.Output()
	if err != nil {
		w.t.Fatalf("render: %v\n%s", err, stderr)
	}
	home := w.path("eg")
	version := "1.40.0"
	must(w.t, mkdir(filepath.Join(home, "data", "envoy-versions", version, "bin")))
	must(w.t, mkdir(filepath.Join(home, "files")))
	must(w.t, os.Symlink(envoyBinary, filepath.Join(home, "data", "envoy-versions", version, "bin", "envoy")))
	w.write("eg/files/gateway.yaml", withoutKubernetes(w.t, out, keep, w.address, version))
	w.write("eg/envoy-gateway.yaml", fmt.Sprintf(`
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyGateway
gateway: { controllerName: gateway.envoyproxy.io/gatewayclass-controller }
provider:
  type: Custom
  custom:
    resource: { type: File, file: { paths: [%[1]q] } }
    infrastructure: { type: Host, host: { configHome: %[2]q, dataHome: %[3]q, stateHome: %[4]q, runtimeDir: %[5]q } }
logging: { level: { default: error } }
extensionApis: { enableBackend: true }
`, home+"/files", home+"/config", home+"/data", home+"/state", home+"/run"))
	env := []string{"HOME=" + home}
	certgen := exec.Command(binary, "certgen", "--local", "--config-home", home+"/config")
	certgen.Env = append(certgen.Environ(), env...)
	if out, err := certgen.CombinedOutput(); err != nil {
		w.t.Fatalf("certgen: %v\n%s", err, out)
	}
	spawn(w.t, env, nil, binary, "server", "--config-path", w.path("eg/envoy-gateway.yaml"))
	await(w.t, "Envoy Gateway, its Envoy and the service", func() bool {
		a, err := w.try(request{method: http.MethodGet, token: "none", path: "/status"})
		return err == nil && a.Status == http.StatusOK
	})
}

// withoutKubernetes turns references to the Service of sallyport into references to addresses, and adds what a cluster
// has besides: the Gateway and its class. Nothing else of what was rendered changes.
func withoutKubernetes(t *testing.T, rendered []byte, keep func(object map[string]any) bool, address, envoyVersion string) string {
	t.Helper()
	var docs []map[string]any
	for d := yaml.NewDecoder(bytes.NewReader(rendered)); ; {
		var doc map[string]any
		if err := d.Decode(&doc); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		docs = append(docs, doc)
	}
	ports := map[int]bool{}
	kept := docs[:0]
	for _, doc := range docs {
		switch {
		case doc["kind"] == "Service", !keep(doc):
			continue
		case doc["kind"] == "EnvoyProxy":
			doc["spec"].(map[string]any)["provider"] = map[string]any{"type": "Host", "host": map[string]any{"envoyVersion": envoyVersion}}
		}
		walk(doc, func(m map[string]any) {
			if port, ok := m["port"].(int); ok && m["name"] == "sallyport" && m["kind"] == nil {
				m["group"], m["kind"], m["name"] = "gateway.envoyproxy.io", "Backend", fmt.Sprintf("sallyport-%d", port)
				ports[port] = true
			}
		})
		kept = append(kept, doc)
	}
	for port := range ports {
		kept = append(kept, map[string]any{"apiVersion": "gateway.envoyproxy.io/v1alpha1", "kind": "Backend",
			"metadata": map[string]any{"name": fmt.Sprintf("sallyport-%d", port), "namespace": "default"},
			"spec": map[string]any{"appProtocols": []any{"gateway.envoyproxy.io/h2c"},
				"endpoints": []any{map[string]any{"ip": map[string]any{"address": "127.0.0.1", "port": port}}}}})
	}
	_, port, _ := strings.Cut(address, ":")
	cluster := fmt.Sprintf(`apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: { name: eg }
spec: { controllerName: gateway.envoyproxy.io/gatewayclass-controller }
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: mcp, namespace: default }
spec:
  gatewayClassName: eg
  infrastructure: { parametersRef: { group: gateway.envoyproxy.io, kind: EnvoyProxy, name: sallyport } }
  listeners: [ { name: http, protocol: HTTP, port: %s } ]
`, port)
	for _, doc := range kept {
		text, err := yaml.Marshal(doc)
		must(t, err)
		cluster += "---\n" + string(text)
	}
	return cluster
}

// ofOurEnvoy are the tests of what only an Envoy of our own does, or of what the host has its own words for.
var ofOurEnvoy = map[string]string{
	"time limits":      "its filter drops the header that limits a call",
	"the service dies": "the test starts an Envoy of our own; see the locks",
	"TLS":              "the Gateway's TLS is the host's",
}

func asRendered(map[string]any) bool { return true }

func TestEnvoyGateway(t *testing.T) {
	behindEnvoyGateway(t, "extProc", asRendered)
	storyBehindHost(t)
}

func TestEnvoyGatewayDuplex(t *testing.T) {
	behindEnvoyGateway(t, "extProcDuplex", asRendered)
	storyBehindHost(t, "a call") // a call in a session goes through the hub, which gives it no request id of Envoy's
}

func storyBehindHost(t *testing.T, except ...string) {
	t.Helper()
	for _, c := range onTheWire {
		if ofOurEnvoy[c.name] == "" && !slices.Contains(except, c.name) {
			t.Run(c.name, c.test)
		}
	}
	t.Run("agents in browsers", TestAgentsInBrowsers)
	t.Run("the locks", testForeignLocks)
}

// What a client says of the route is not believed, and without the service nothing passes.
func testForeignLocks(t *testing.T) {
	w := start(t)
	forged := modern("open_echo", `{}`)
	forged.token = "none"
	for _, route := range []string{"app/open", "app/my-mcp-server-proxy", "hub"} {
		forged.header["X-Sallyport-Route"] = route
		if a := w.send(forged); a.Status != http.StatusUnauthorized {
			t.Errorf("forged route %s: %s", route, a)
		}
	}
	denied := modern("open_secretTool", `{}`)
	denied.header["X-Sallyport-Route"] = "app/open"
	if a := w.send(denied); !unknownTool(a) {
		t.Errorf("denied with a forged route: %s", a)
	}
	w.gateway.stop()
	allowed := modern("open_echo", `{}`)
	for _, route := range []string{"", "app/open", "hub"} {
		allowed.header["X-Sallyport-Route"] = route
		if a := w.send(allowed); a.Status != http.StatusServiceUnavailable {
			t.Errorf("without the service, route %q: %s", route, a)
		}
	}
	if n := len(w.open.calls()) + len(w.items.calls()); n != 0 {
		t.Errorf("%d calls reached an upstream", n)
	}
}

// With a filter that fails open and no service, the third lock and the pair of the other two each keep the door shut alone;
// with both taken away it is open, so that this can fail.
func TestEnvoyGatewayLocks(t *testing.T) {
	failOpen := func(doc map[string]any) {
		if doc["kind"] == "EnvoyExtensionPolicy" {
			doc["spec"].(map[string]any)["extProc"].([]any)[0].(map[string]any)["failOpen"] = true
		}
	}
	believeClients := func(doc map[string]any) {
		if doc["kind"] == "ClientTrafficPolicy" {
			delete(doc["spec"].(map[string]any)["headers"].(map[string]any), "earlyRequestHeaders")
		}
	}
	for _, c := range []struct {
		name   string
		keep   func(doc map[string]any) bool
		status int
	}{
		{"all locks", func(doc map[string]any) bool { failOpen(doc); return true }, http.StatusForbidden},
		{"the third alone", func(doc map[string]any) bool { failOpen(doc); believeClients(doc); return true }, http.StatusForbidden},
		{"without the third", func(doc map[string]any) bool { failOpen(doc); return doc["kind"] != "SecurityPolicy" }, http.StatusServiceUnavailable},
		{"none", func(doc map[string]any) bool {
			failOpen(doc)
			believeClients(doc)
			return doc["kind"] != "SecurityPolicy"
		}, http.StatusOK},
	} {
		t.Run(c.name, func(t *testing.T) {
			behindEnvoyGateway(t, "extProc", c.keep)
			w := start(t)
			w.gateway.stop()
			if c.status == http.StatusOK {
				w.tolerate("open", "no lock is left that would keep the agent's token off")
			}
			r := modern("open_echo", `{}`)
			r.header["X-Sallyport-Route"] = "app/open"
			a := w.send(r)
			if passed := len(w.open.calls()) > 0; a.Status != c.status || passed != (c.status == http.StatusOK) {
				t.Errorf("%s; passed %v", a, passed)
			}
		})
	}
}
