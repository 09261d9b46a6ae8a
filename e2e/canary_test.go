package e2e

import (
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// A service that Envoy goes around is not ready, whatever else is well: its canary does not come back refused.
func TestCanary(t *testing.T) {
	c := newClinic(t)
	c.service.stop()
	c.edit("sallyport.yaml", "service:\n", "service:\n  canary: http://"+c.address+"\n")
	c.serve()
	for _, when := range []struct {
		name  string
		patch func(b map[string]any)
		ready bool
	}{
		{"as rendered", nil, true},
		{"nobody asks: RBAC", func(b map[string]any) {
			ingress(b, func(m map[string]any) { put(hosts(m), "typed_per_filter_config", nil) })
		}, false},
		{"as rendered, again", nil, true},
		{"nobody asks: an MCP server", func(b map[string]any) {
			ingress(b, func(m map[string]any) { put(hosts(m), "typed_per_filter_config", nil) })
			defaultRoute(b)
			dropRBAC(b)
		}, false},
		{"ext_authz", nil, true},
		{"refusals ignored", sets(proc, "disable_immediate_response", true), false},
		{"FULL_DUPLEX_STREAMED", nil, true},
		{"nobody answers", nil, false},
		{"body not sent", sets(proc, "processing_mode.request_body_mode", "NONE"), false},
	} {
		t.Run(when.name, func(t *testing.T) {
			filter := map[string]string{"ext_authz": "extAuthz", "FULL_DUPLEX_STREAMED": "extProcDuplex"}[when.name]
			if when.name == "nobody answers" {
				deafMute(t, c.address)
			} else {
				c.admit(t, filter, when.patch)
			}
			metric, check := "sallyport_canary_successful 0", `"canary":false`
			if when.ready {
				metric, check = "sallyport_canary_successful 1", `"canary":true`
			}
			await(t, check, func() bool {
				status, body := c.adminGet(t, "/ready")
				return strings.Contains(body, check) && (status == http.StatusOK) == when.ready
			})
			if _, body := c.adminGet(t, "/metrics"); !strings.Contains(body, metric) {
				t.Errorf("no %s", metric)
			}
		})
	}
	if log := c.service.output(); strings.Count(log, `"level":"ERROR"`) < 4 || !strings.Contains(log, "answered by somebody else: 403 Forbidden") {
		t.Error("the log does not say what is wrong")
	}
	if n := len(c.audit()); n != 0 {
		t.Errorf("%d records of canaries in the audit", n)
	}
}

// deafMute takes connections and says nothing. It returns when somebody has given up and come again.
func deafMute(t *testing.T, address string) {
	t.Helper()
	ln, err := net.Listen("tcp", address)
	must(t, err)
	t.Cleanup(func() { _ = ln.Close() })
	for range 2 {
		must(t, ln.(*net.TCPListener).SetDeadline(time.Now().Add(30*time.Second)))
		conn, err := ln.Accept()
		must(t, err)
		t.Cleanup(func() { _ = conn.Close() })
	}
}

func (c *clinic) adminGet(t *testing.T, path string) (int, string) {
	t.Helper()
	resp, err := client.Get("http://" + c.admin + path)
	must(t, err)
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	must(t, err)
	return resp.StatusCode, string(body)
}

// With `run` the service knows where its Envoy listens.
func TestCanaryOfRun(t *testing.T) {
	w := start(t)
	for _, path := range []string{"/ready", "/metrics"} {
		resp, err := client.Get("http://" + w.admin + path)
		must(t, err)
		body, err := io.ReadAll(resp.Body)
		must(t, errors.Join(err, resp.Body.Close()))
		if want := map[string]string{"/ready": `"canary":true`, "/metrics": "sallyport_canary_successful 1"}[path]; !strings.Contains(string(body), want) {
			t.Errorf("%s: %s", path, want)
		}
	}
	// A nonce that is none makes no canary, and goes nowhere.
	r := modern("open_echo", `{}`)
	r.header["Sallyport-Canary"] = "0123456789abcdef0123456789abcdef"
	if a := w.send(r); a.RPC.Result == nil {
		t.Fatal(a)
	}
	if got := w.open.calls(); len(got) != 1 || got[0].Header.Get("Sallyport-Canary") != "" || len(w.reconcile()) != 1 {
		t.Errorf("%d calls, %d records", len(got), len(w.reconcile()))
	}
}
