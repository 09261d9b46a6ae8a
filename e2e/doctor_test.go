package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

// An Envoy that is configured wrongly on purpose: `sallyport doctor` names what is wrong and nothing else, and of the
// messages that the policy denies none gets through.

// breakage is one difference from what `sallyport render` writes.
type breakage struct {
	name     string
	filter   string // "" for extProc
	patch    func(b map[string]any)
	rule     string
	severity string
}

// clinic is one service, before which one Envoy after another is set.
type clinic struct {
	*apart
	rendered map[string]string // by filter
}

func newClinic(t *testing.T) *clinic {
	t.Helper()
	c := &clinic{apart: splitWorld(t, true, nil), rendered: map[string]string{}}
	c.gateway.stop()
	ca, caKey := authority(t)
	cert, key := leaf(t, ca, caKey)
	c.write("ca.pem", certPEM(ca.Raw))
	c.write("cert.pem", cert)
	c.write("key.pem", key)
	for _, filter := range []string{"extProc", "extProcDuplex", "extAuthz"} {
		name := filter + ".yaml"
		c.write(name, contents(t, c.path("sallyport.yaml"))+"  filter: "+filter+"\n")
		render := exec.Command(sallyport, "render", "-config", c.path(name))
		render.Env = append(render.Environ(), c.env()...)
		out, err := render.Output()
		must(t, err)
		c.rendered[filter] = string(out)
	}
	return c
}

// admit starts an Envoy with the rendering for filter, changed by patch, and ends it with the test.
func (c *clinic) admit(t *testing.T, filter string, patch func(b map[string]any)) {
	t.Helper()
	if filter == "" {
		filter = "extProc"
	}
	var b map[string]any
	must(t, yaml.Unmarshal([]byte(c.rendered[filter]), &b))
	before, err := yaml.Marshal(b)
	must(t, err)
	if patch != nil {
		patch(b)
	}
	text, err := yaml.Marshal(b)
	must(t, err)
	if patch != nil && string(before) == string(text) {
		t.Fatal("nothing was broken")
	}
	c.write("envoy.yaml", string(text))
	p := spawn(t, nil, nil, envoyBinary, "-c", c.path("envoy.yaml"), "--disable-hot-restart", "--concurrency", "1", "--log-level", "error")
	await(t, "envoy", func() bool {
		select {
		case <-p.end:
			t.Fatal("Envoy does not take the configuration")
		default:
		}
		conn, err := net.Dial("tcp", c.address)
		return err == nil && conn.Close() == nil
	})
}

// finding is one of the doctor's.
type finding struct{ Severity, Rule, Where, What, Cure string }

// examine runs the doctor on the Envoy that runs, and returns its findings worse than info and its exit code.
func (c *clinic) examine(t *testing.T, args ...string) ([]finding, int) {
	t.Helper()
	cmd := exec.Command(sallyport, append([]string{"doctor", "-json"}, args...)...)
	cmd.Env = append(cmd.Environ(), c.env()...)
	out, err := cmd.Output()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	var all, bad []finding
	if err := json.Unmarshal(out, &all); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, f := range all {
		if f.Severity != "info" {
			bad = append(bad, f)
		}
	}
	return bad, cmd.ProcessState.ExitCode()
}

// besiege sends what no upstream may get.
func (c *clinic) besiege(t *testing.T) {
	t.Helper()
	before := len(c.open.calls()) + len(c.items.calls())
	denied := modern("open_spend", `{"amount":500}`)
	forged := modern("open_spend", `{"amount":500}`)
	forged.header["x-sallyport-route"] = "app/open"
	tokenless := modern("open_echo", `{}`)
	tokenless.token = "none"
	for what, r := range map[string]request{"denied": denied, "denied, with a route of its own": forged, "without a token": tokenless} {
		a, err := c.try(r)
		if err == nil && a.Status == http.StatusOK && a.RPC.Result != nil {
			if _, refused := a.isError(); !refused {
				t.Errorf("%s: %s", what, a)
			}
		}
	}
	if n := len(c.open.calls()) + len(c.items.calls()) - before; n != 0 {
		t.Errorf("%d calls got through", n)
	}
}

func TestDoctor(t *testing.T) {
	c := newClinic(t)
	for _, filter := range []string{"extProc", "extProcDuplex", "extAuthz"} {
		t.Run("as rendered: "+filter, func(t *testing.T) {
			c.admit(t, filter, nil)
			if bad, code := c.examine(t, "-config", c.path("sallyport.yaml")); len(bad) != 0 || code != 0 {
				t.Errorf("exit code %d: %v", code, bad)
			}
			if a := c.send(modern("open_echo", `{}`)); a.RPC.Result == nil {
				t.Errorf("a call: %s", a)
			}
			c.besiege(t)
		})
	}
	for _, b := range c.breakages() {
		t.Run(strings.TrimSpace(b.filter+" "+b.name), func(t *testing.T) {
			c.admit(t, b.filter, b.patch)
			bad, code := c.examine(t, "-config", c.path("sallyport.yaml"))
			if code != 1 || len(bad) == 0 {
				t.Errorf("exit code %d", code)
			}
			for _, f := range bad {
				if f.Rule != b.rule || f.Severity != b.severity || f.Where == "" || f.What == "" || f.Cure == "" {
					t.Errorf("found %+v, want %s %s", f, b.severity, b.rule)
				}
			}
			c.besiege(t)
			c.account(t)
		})
	}
}

// account sends what is allowed, which may fail, and holds all that has arrived to the audit.
func (c *clinic) account(t *testing.T) {
	t.Helper()
	_, _ = c.try(modern("open_echo", `{}`))
	allowed := 0
	for _, r := range c.audit() {
		if r["outcome"] == "allowed" && r["method"] == "tools/call" && r["tool"] == "echo" {
			allowed++
		}
	}
	if n := len(c.open.calls()); n > allowed {
		t.Errorf("%d calls arrived, %d are on record as allowed", n, allowed)
	}
	for _, r := range append(c.open.all(), c.items.all()...) {
		if strings.Contains(fmt.Sprint(r.Path, r.Header, string(r.Body)), c.token) {
			t.Errorf("the agent's token arrived: %s %v", r.Path, r.Header)
		}
	}
}

// A second listener beside the door: the doctor is all that tells.
func TestDoctorAWayBeside(t *testing.T) {
	c := newClinic(t)
	beside := freePort(t)
	c.admit(t, "", func(b map[string]any) {
		var listener map[string]any
		must(t, yaml.Unmarshal([]byte(`
name: beside
address: {socket_address: {address: 127.0.0.1, port_value: `+portOf(beside)+`}}
filter_chains:
- filters:
  - name: envoy.filters.network.http_connection_manager
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
      stat_prefix: beside
      route_config: {virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: app/open}}]}]}
      http_filters: [{name: envoy.filters.http.router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
`), &listener))
		static := b["static_resources"].(map[string]any)
		static["listeners"] = append(static["listeners"].([]any), listener)
	})
	bad, code := c.examine(t, "-config", c.path("sallyport.yaml"))
	if code != 1 || len(bad) != 1 || bad[0].Rule != "no-filter" || bad[0].Severity != "critical" || bad[0].Where != "listener beside" {
		t.Errorf("exit code %d: %+v", code, bad)
	}
	c.besiege(t)
	resp, err := http.Post("http://"+beside+"/mcp", "application/json", strings.NewReader(modern("echo", `{}`).body))
	must(t, err)
	must(t, resp.Body.Close())
	if len(c.open.calls()) != 1 {
		t.Error("the danger is not real")
	}
}

// An admin interface that other machines can reach, asked over HTTP; and the same from a file.
func TestDoctorAdmin(t *testing.T) {
	c := newClinic(t)
	admin := freePort(t)
	c.admit(t, "", func(b map[string]any) {
		put(b, "admin.address", map[string]any{"socket_address": map[string]any{"address": "0.0.0.0", "port_value": portOf(admin)}})
	})
	resp, err := http.Get("http://" + admin + "/config_dump?include_eds")
	must(t, err)
	defer func() { _ = resp.Body.Close() }()
	dump, err := io.ReadAll(resp.Body)
	must(t, err)
	c.write("dump.json", string(dump))
	for _, source := range [][]string{{"-envoy", "http://" + admin}, {"-dump", c.path("dump.json")}, {"-dump", c.path("dump.json"), "-service", "service"}} {
		bad, code := c.examine(t, source...)
		if code != 1 || len(bad) != 1 || bad[0].Rule != "admin" || bad[0].Severity != "critical" {
			t.Errorf("%v: exit code %d: %+v", source, code, bad)
		}
	}
	if bad, code := c.examine(t, "-dump", c.path("dump.json"), "-service", "another"); code != 1 || len(bad) < 2 || bad[1].Rule != "no-filter" {
		t.Errorf("of a service that nobody asks: exit code %d: %+v", code, bad)
	}
}

// An Envoy that would let everything pass without its service, whose service is away: the other locks hold.
func TestDoctorFailsOpen(t *testing.T) {
	c := newClinic(t)
	c.service.stop()
	for _, b := range []breakage{
		{"", "extProc", sets(proc, "failure_mode_allow", true), "failure-mode-allow", "critical"},
		{"", "extAuthz", sets(authz, "failure_mode_allow", true), "failure-mode-allow", "critical"},
	} {
		t.Run(b.filter, func(t *testing.T) {
			c.admit(t, b.filter, b.patch)
			if bad, code := c.examine(t, "-config", c.path("sallyport.yaml")); code != 1 || len(bad) != 1 || bad[0].Rule != b.rule || bad[0].Severity != b.severity {
				t.Errorf("exit code %d: %+v", code, bad)
			}
			c.besiege(t)
			if a := c.send(modern("open_echo", `{}`)); a.Status != http.StatusForbidden || a.RPC.Error == nil || len(c.open.calls()) != 0 {
				t.Errorf("a call: %s", a)
			}
		})
	}
}

// What the doctor cannot do, it says.
func TestDoctorUsage(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(dir+"/no.json", []byte(`{"a":1}`), 0o600))
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{nil, 2, "-config"},
		{[]string{"-envoy", "http://127.0.0.1:1", "-dump", "x"}, 2, "exclude"},
		{[]string{"-dump", dir + "/absent.json"}, 1, "absent.json"},
		{[]string{"-dump", dir + "/no.json"}, 1, "not a configuration dump"},
		{[]string{"-envoy", "unix:" + dir + "/absent.sock"}, 1, "absent.sock"},
	} {
		cmd := exec.Command(sallyport, append([]string{"doctor"}, c.args...)...)
		cmd.Env = append(cmd.Environ(), "SALLYPORT_CONFIG=")
		out, _ := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); code != c.code || !strings.Contains(string(out), c.says) {
			t.Errorf("%v: exit code %d: %s", c.args, code, out)
		}
	}
}

func portOf(address string) string {
	_, port, _ := net.SplitHostPort(address)
	return port
}
