package e2e

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// A pod of the chart as processes of this machine: its volumes in a directory, its ports at free ones, its containers'
// words as they are written.

// testSecrets are for every reference in the values that the tests render.
const testSecrets = `secrets:
  gateway.clientSecret: a-secret-of-the-tests
  sallyport.sessionKey: 0123456789abcdef0123456789abcdef
  sallyport.sessionStore: rediss://:a-password@store.example.svc:6379
  sallyport.storePassword: a-password
`

type pod struct {
	objects
	t     *testing.T
	dir   string
	ports map[string]string // by name: where this one listens
	moved *strings.Replacer // from the pod's paths and addresses to ours
}

// newPod makes the volumes of a rendered pod.
func newPod(t *testing.T, o objects, secrets string) *pod {
	t.Helper()
	dir, err := os.MkdirTemp("", "pod") // short, since socket paths are bounded
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	p := &pod{objects: o, t: t, dir: dir, ports: map[string]string{"agents": freePort(t), "admin": freePort(t), "grpc": freePort(t), "hub": freePort(t)}}
	p.moved = strings.NewReplacer("/etc/sallyport-tls", p.path("tls"), "/etc/sallyport", p.path("config"), "/run/sallyport", p.path("run"),
		"0.0.0.0:8080", p.ports["agents"], "127.0.0.1:8080", p.ports["agents"], "0.0.0.0:9902", p.ports["admin"], "0.0.0.0:9000", p.ports["grpc"], "0.0.0.0:9001", p.ports["hub"])
	for _, v := range o.deployment.Spec.Template.Spec.Volumes {
		must(t, os.Mkdir(p.path(v.Name), 0o700))
		switch {
		case v.Projected != nil:
			p.project(v.Name, *v.Projected, secrets)
		case v.EmptyDir != nil:
			must(t, os.Chmod(p.path(v.Name), 0o777)) //nolint:gosec // so it is in Kubernetes
		case v.Secret != nil:
			p.protect(*v.Secret.DefaultMode)
			ca, caKey := authority(t)
			certificate, key := leaf(t, ca, caKey)
			p.write(v.Name, "tls.crt", certificate)
			p.write(v.Name, "tls.key", key)
		}
	}
	return p
}

func (p *pod) path(name ...string) string { return filepath.Join(append([]string{p.dir}, name...)...) }

func (p *pod) write(volume, name, content string) {
	must(p.t, os.WriteFile(p.path(volume, name), []byte(p.moved.Replace(content)), 0o440)) //nolint:gosec // so it is in the chart
}

func (p *pod) protect(mode int32) {
	if mode != 0o440 {
		p.t.Errorf("secrets are mounted with mode %#o", mode)
	}
}

func (p *pod) project(volume string, v corev1.ProjectedVolumeSource, secrets string) {
	p.t.Helper()
	p.protect(*v.DefaultMode)
	for _, s := range v.Sources {
		if s.Secret != nil {
			p.write(volume, s.Secret.Items[0].Path, secrets)
			continue
		}
		found := false
		for _, m := range p.configMaps {
			if m.Name == s.ConfigMap.Name {
				found = true
				for name, text := range m.Data {
					p.write(volume, name, text)
				}
			}
		}
		if !found {
			p.t.Errorf("no ConfigMap %s", s.ConfigMap.Name)
		}
	}
}

// words are the program of a container, its arguments and its environment, with nothing of ours beside it.
func (p *pod) words(c corev1.Container) (program string, args, env []string) {
	switch {
	case c.Command == nil: // the image's entry point
		program = sallyport
	case len(c.Command) == 1 && c.Command[0] == "/usr/local/bin/envoy":
		program = envoyBinary
	default:
		p.t.Fatalf("%s: %s", c.Name, c.Command)
	}
	for _, a := range c.Args {
		args = append(args, p.moved.Replace(a))
	}
	env = []string{"TMPDIR=/nonexistent", "HOME=/nonexistent", "XDG_RUNTIME_DIR=/nonexistent"} // nothing else can be written
	for _, e := range c.Env {
		env = append(env, e.Name+"="+p.moved.Replace(e.Value))
	}
	return program, args, env
}

// run runs a container to its end.
func (p *pod) run(c corev1.Container, args ...string) (string, bool) {
	p.t.Helper()
	program, own, env := p.words(c)
	if args == nil {
		args = own
	}
	cmd := exec.CommandContext(p.t.Context(), program, args...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	return string(out), err == nil
}

// start starts a container and waits until it has started as its probe sees it.
func (p *pod) start(name string) *process {
	p.t.Helper()
	c := p.container(name)
	program, args, env := p.words(c)
	started := spawn(p.t, env, nil, program, args...)
	p.awaitProbe(name+" to start", c.StartupProbe)
	return started
}

func (p *pod) awaitProbe(what string, probe *corev1.Probe) {
	p.t.Helper()
	var err error
	defer func() {
		if p.t.Failed() {
			p.t.Log(err)
		}
	}()
	await(p.t, what, func() bool { err = p.probe(probe); return err == nil })
}

// probe asks as a kubelet does: by the address of the pod, with whatever certificate it shows.
func (p *pod) probe(probe *corev1.Probe) error {
	ctx, cancel := context.WithTimeout(p.t.Context(), time.Duration(max(probe.TimeoutSeconds, 1))*time.Second)
	defer cancel()
	if probe.TCPSocket != nil {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", p.ports[probe.TCPSocket.Port.StrVal])
		if err != nil {
			return err
		}
		return conn.Close()
	}
	get := probe.HTTPGet
	scheme := "http"
	if get.Scheme != "" {
		scheme = strings.ToLower(string(get.Scheme))
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+p.ports[get.Port.StrVal]+get.Path, nil)
	if err != nil {
		return err
	}
	req.Host = "10.1.2.3:8080"
	transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // as kubelets do
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return err
	}
	if resp.StatusCode >= 400 {
		err = fmt.Errorf("%s: %s", req.URL, resp.Status)
	}
	_ = resp.Body.Close()
	return err
}

// check holds what is in the volumes to the program, and what an init container makes of it to Envoy.
func (p *pod) check(t *testing.T) {
	t.Helper()
	out, ok := p.run(p.container("service"), "check")
	for line := range strings.Lines(out) {
		if !strings.HasSuffix(line, ": ok, 1 app(s)\n") {
			t.Errorf("check: %s", line)
		}
	}
	if !ok {
		t.Fatal("the configuration has problems")
	}
	render := p.container("render")
	if render.Name == "" {
		return
	}
	if out, ok := p.run(render); !ok {
		t.Fatalf("render: %s", out)
	}
	_, args, _ := p.words(p.container("envoy"))
	if out, ok := outputOf(t, envoyBinary, append(args, "--mode", "validate")...); !ok {
		t.Errorf("envoy: %s", out)
	}
}

// podOf renders the chart with the configuration of a world, and makes the pod's ports that world's.
func podOf(t *testing.T, more ...string) (*world, *pod) {
	t.Helper()
	w := newWorld(t)
	w.write("chart.yaml", "# one document\n--- # begins\n"+strings.Replace(w.config(), "audit:\n  file: audit.jsonl\n", "", 1))
	args := append([]string{"--set", "existingSecret=theirs", "--set-file", "config=" + w.path("chart.yaml"),
		"--set-file", `policies.seed\.rego=` + w.path("seed.rego"), "--set-file", `policies.open\.rego=` + w.path("open.rego")}, more...)
	p := newPod(t, decodeObjects(t, template(t, args...)), contents(t, w.path("secrets.yaml")))
	return w, p
}

// TestChartRuns starts the containers of a gateway's pod in their order, restarts each, and ends them as a kubelet does.
func TestChartRuns(t *testing.T) {
	w, p := podOf(t)
	allowed := "http://" + w.address // expected in tokens, and so a Host that is answered
	w.address, w.admin = p.ports["agents"], p.ports["admin"]
	call := func(after string) {
		t.Helper()
		p.awaitProbe("the service to be ready "+after, p.container("service").ReadinessProbe)
		p.awaitProbe("Envoy to be ready "+after, p.container("envoy").ReadinessProbe)
		for _, c := range []string{"service", "envoy"} {
			must(t, p.probe(p.container(c).LivenessProbe))
		}
		r := modern("my_server_getItem", `{"id":"x"}`)
		r.header["Host"] = strings.TrimPrefix(allowed, "http://")
		if a := w.send(r); a.RPC.Result == nil {
			t.Errorf("%s: %s", after, a)
		}
	}
	if out, ok := p.run(p.container("render")); !ok {
		t.Fatal(out)
	}
	service := p.start("service")
	if err := p.probe(p.container("service").ReadinessProbe); err == nil {
		t.Error("the service is ready without an Envoy")
	}
	envoy := p.start("envoy")
	call("at first")
	if got := w.items.calls(); len(got) != 1 || got[0].Header.Get("Authorization") == "Bearer "+w.token {
		t.Errorf("the upstream got %v", got)
	}

	await(t, "the canary", func() bool { return strings.Contains(w.metrics(), "\nsallyport_canary_successful 1\n") })

	service.stop()
	if err := p.probe(p.container("envoy").ReadinessProbe); err == nil {
		t.Error("Envoy is ready without the service")
	}
	service = p.start("service")
	call("after a restart of the service")
	envoy.stop()
	envoy = p.start("envoy")
	call("after a restart of Envoy")

	envoy.stop()
	service.stop()
	if code := service.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("the service ended with %d", code)
	}
	for _, kind := range []string{`"kind":"decision"`, `"kind":"completion"`} {
		if !strings.Contains(service.output(), kind) {
			t.Errorf("no %s in the log", kind)
		}
	}
}

// TestChartRunsWithTLS: with a certificate the probes still reach Envoy.
func TestChartRunsWithTLS(t *testing.T) {
	_, p := podOf(t, "--set", "tls.existingSecret=theirs-too")
	if out, ok := p.run(p.container("render")); !ok {
		t.Fatal(out)
	}
	p.start("service")
	p.start("envoy")
	p.awaitProbe("Envoy to be ready", p.container("envoy").ReadinessProbe)
	if get := p.container("envoy").ReadinessProbe.HTTPGet; get.Scheme != corev1.URISchemeHTTPS {
		t.Errorf("it is asked over %s", get.Scheme)
	}
}

// TestChartWithoutGateway starts the service alone, and asks it through an Envoy that is somebody else's.
func TestChartWithoutGateway(t *testing.T) {
	w, p := podOf(t, "--set", "gateway=false", "--set", "networkPolicy.ingress[0].podSelector.matchLabels.app=ingress")
	p.start("service")
	p.awaitProbe("the service", p.container("service").ReadinessProbe)
	bootstrap := p.path("envoy.yaml")
	if out, ok := p.run(p.container("service"), "render", "-o", bootstrap); !ok {
		t.Fatal(out)
	}
	spawn(t, nil, nil, envoyBinary, "--config-path", bootstrap, "--disable-hot-restart", "--concurrency", "1", "--log-level", "error")
	awaitListener(t, w.address)
	if a := w.send(modern("my_server_getItem", `{"id":"x"}`)); a.RPC.Result == nil {
		t.Error(a)
	}
	session := w.initialize() // which the hub answers
	if a := w.send(legacyCall(session, "open_echo", `{}`)); a.RPC.Result == nil {
		t.Error(a)
	}
}
