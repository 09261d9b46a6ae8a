package e2e

import (
	"encoding/json"
	"errors"
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
		})
	}
}

// Patches of the rendered bootstrap.

// typedAs visits each extension of a type.
func typedAs(b map[string]any, suffix string, visit func(map[string]any)) {
	walk(b, func(m map[string]any) {
		if kind, _ := m["@type"].(string); strings.HasSuffix(kind, suffix) {
			visit(m)
		}
	})
}

// sets returns a patch that sets a member, or with nil deletes it, of each extension of a type.
func sets(suffix, member string, value any) func(map[string]any) {
	return func(b map[string]any) { typedAs(b, suffix, func(m map[string]any) { put(m, member, value) }) }
}

// put sets a member by its dotted path, or with nil deletes it.
func put(m map[string]any, path string, value any) {
	for {
		first, rest, deeper := strings.Cut(path, ".")
		if !deeper {
			break
		}
		inner, _ := m[first].(map[string]any)
		if inner == nil {
			inner = map[string]any{}
			m[first] = inner
		}
		m, path = inner, rest
	}
	if value == nil {
		delete(m, path)
	} else {
		m[path] = value
	}
}

func hcm(member string, value any) func(map[string]any) {
	return func(b map[string]any) { ingress(b, func(m map[string]any) { put(m, member, value) }) }
}

// hosts is the one virtual host of a manager.
func hosts(hcm map[string]any) map[string]any {
	return hcm["route_config"].(map[string]any)["virtual_hosts"].([]any)[0].(map[string]any)
}

// toOpen visits the routes to the open app.
func toOpen(visit func(route map[string]any)) func(map[string]any) {
	return func(b map[string]any) {
		ingress(b, func(m map[string]any) {
			walk(m["route_config"], func(r map[string]any) {
				if action, _ := r["route"].(map[string]any); action["cluster"] == "app/open" {
					visit(r)
				}
			})
		})
	}
}

func routeTo(member string, value any) func(map[string]any) {
	return toOpen(func(r map[string]any) { put(r, member, value) })
}

func cluster(name string, visit func(map[string]any)) func(map[string]any) {
	return func(b map[string]any) {
		for _, c := range b["static_resources"].(map[string]any)["clusters"].([]any) {
			if c := c.(map[string]any); c["name"] == name {
				visit(c)
			}
		}
	}
}

// insert puts a filter into the chain: before index at, or with -1 before the router.
func insert(at int, name, kind string, settings map[string]any) func(map[string]any) {
	return func(b map[string]any) {
		ingress(b, func(m map[string]any) {
			chain := m["http_filters"].([]any)
			i := at
			if i < 0 {
				i = len(chain) - 1
			}
			config := map[string]any{"@type": "type.googleapis.com/envoy.extensions.filters.http." + kind}
			for k, v := range settings {
				config[k] = v
			}
			changed := append([]any{}, chain[:i]...)
			changed = append(changed, map[string]any{"name": name, "typed_config": config})
			m["http_filters"] = append(changed, chain[i:]...)
		})
	}
}

const (
	proc  = ".ext_proc.v3.ExternalProcessor"
	authz = ".ext_authz.v3.ExtAuthz"
)

// fileLog is an access log with one line for each request.
func fileLog(path, format string) []any {
	return []any{map[string]any{"name": "envoy.access_loggers.file", "typed_config": map[string]any{
		"@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog", "path": path,
		"log_format": map[string]any{"text_format_source": map[string]any{"inline_string": format}}}}}
}

func perRoute(filter, kind string, settings map[string]any) func(map[string]any) {
	config := map[string]any{"@type": "type.googleapis.com/" + kind}
	for k, v := range settings {
		config[k] = v
	}
	return toOpen(func(r map[string]any) { r["typed_per_filter_config"].(map[string]any)[filter] = config })
}

const procPerRoute = "envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute"

func (c *clinic) breakages() []breakage {
	all := append(c.ofTheFilter(), c.ofExtAuthz()...)
	all = append(all, c.ofTheManager()...)
	all = append(all, c.ofRoutes()...)
	return append(all, c.ofTheServer()...)
}

func (c *clinic) ofTheFilter() []breakage {
	return []breakage{
		{"fails open", "", sets(proc, "failure_mode_allow", true), "failure-mode-allow", "critical"},
		{"fails open on a route", "", perRoute("envoy.filters.http.ext_proc", procPerRoute, map[string]any{"overrides": map[string]any{"failure_mode_allow": true}}), "failure-mode-allow", "critical"},
		{"body not sent", "", sets(proc, "processing_mode.request_body_mode", "NONE"), "body-mode", "warning"},
		{"body streamed", "", sets(proc, "processing_mode.request_body_mode", "STREAMED"), "body-mode", "warning"},
		{"part of the body", "", sets(proc, "processing_mode.request_body_mode", "BUFFERED_PARTIAL"), "body-mode", "warning"},
		{"body not sent on a route", "", perRoute("envoy.filters.http.ext_proc", procPerRoute, map[string]any{"overrides": map[string]any{"processing_mode": map[string]any{"request_body_mode": "NONE"}}}), "body-mode", "warning"},
		{"headers not sent", "", sets(proc, "processing_mode.request_header_mode", "SKIP"), "header-mode", "critical"},
		{"answers buffered", "", sets(proc, "processing_mode.response_body_mode", "BUFFERED"), "response-buffered", "warning"},
		{"body before the answer", "", sets(proc, "send_body_without_waiting_for_header_response", true), "body-mode", "warning"},
		{"off on a route", "", perRoute("envoy.filters.http.ext_proc", procPerRoute, map[string]any{"disabled": true}), "filter-disabled", "critical"},
		{"off on a route, in general terms", "", perRoute("envoy.filters.http.ext_proc", "envoy.config.route.v3.FilterConfig", map[string]any{"disabled": true}), "filter-disabled", "critical"},
		{"nowhere on", "", func(b map[string]any) {
			ingress(b, func(m map[string]any) { put(hosts(m), "typed_per_filter_config", nil) })
		}, "filter-disabled", "critical"},
		{"200 ms", "", sets(proc, "message_timeout", nil), "timeout", "warning"},
		{"no status", "", sets(proc, "status_on_error", nil), "status-on-error", "warning"},
		{"no overrides", "", sets(proc, "allow_mode_override", nil), "mode-override", "warning"},
		{"any override", "", sets(proc, "allowed_override_modes", nil), "mode-override", "warning"},
		{"may not route", "", sets(proc, "mutation_rules.disallow_expression.regex", "x-sallyport-.*"), "mutation-rules", "warning"},
		{"may not bound", "", sets(proc, "mutation_rules.allow_envoy", nil), "mutation-rules", "warning"},
		{"mutations dropped", "", sets(proc, "mutation_rules.disallow_is_error", nil), "mutation-rules", "warning"},
		{"route kept", "", sets(proc, "route_cache_action", "RETAIN"), "route-cache", "warning"},
		{"no metadata", "", sets(proc, "metadata_options", nil), "metadata", "warning"},
		{"lengths", "", sets(proc, "allow_content_length_header", true), "content-length", "warning"},
		{"hidden headers", "", sets(proc, "forward_rules", map[string]any{"disallowed_headers": map[string]any{"patterns": []any{map[string]any{"exact": "x-secret"}}}}), "hidden-headers", "critical"},
		{"fails open", "extProcDuplex", sets(proc, "failure_mode_allow", true), "failure-mode-allow", "critical"},
		{"refusals ignored", "", sets(proc, "disable_immediate_response", true), "disable-immediate-response", "critical"},
		{"verdicts ignored", "", sets(proc, "observability_mode", true), "observability-mode", "critical"},
	}
}

func (c *clinic) ofExtAuthz() []breakage {
	return []breakage{
		{"fails open", "extAuthz", sets(authz, "failure_mode_allow", true), "failure-mode-allow", "critical"},
		{"no body", "extAuthz", sets(authz, "with_request_body", nil), "body-mode", "warning"},
		{"part of the body", "extAuthz", sets(authz, "with_request_body.allow_partial_message", true), "body-mode", "warning"},
		{"body as text", "extAuthz", sets(authz, "with_request_body.pack_as_bytes", nil), "body-mode", "warning"},
		{"less of a body", "extAuthz", sets(authz, "with_request_body.max_request_bytes", 1000), "body-limit", "warning"},
		{"headers joined", "extAuthz", sets(authz, "encode_raw_headers", nil), "raw-headers", "warning"},
		{"half of the requests", "extAuthz", sets(authz, "filter_enabled", map[string]any{"default_value": map[string]any{"numerator": 50}}), "not-enforced", "critical"},
		{"in the shadow", "extAuthz", sets(authz, "shadow_mode", true), "not-enforced", "critical"},
		{"200 ms", "extAuthz", sets(authz, "grpc_service.timeout", nil), "timeout", "warning"},
		{"no status", "extAuthz", sets(authz, "status_on_error", nil), "status-on-error", "warning"},
		{"route kept", "extAuthz", sets(authz, "clear_route_cache", nil), "route-cache", "warning"},
		{"mutations dropped", "extAuthz", sets(authz, "validate_mutations", nil), "mutation-rules", "warning"},
		{"hidden headers", "extAuthz", sets(authz, "disallowed_headers", map[string]any{"patterns": []any{map[string]any{"exact": "x-secret"}}}), "hidden-headers", "critical"},
		{"off on a route", "extAuthz", perRoute("envoy.filters.http.ext_authz", "envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute", map[string]any{"disabled": true}), "filter-disabled", "critical"},
		{"no body on a route", "extAuthz", perRoute("envoy.filters.http.ext_authz", "envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute",
			map[string]any{"check_settings": map[string]any{"disable_request_body_buffering": true}}), "body-mode", "warning"},
	}
}

func (c *clinic) ofTheManager() []breakage {
	lua := map[string]any{"default_source_code": map[string]any{"inline_string": "function envoy_on_request(h) h:headers():replace('x-a', 'b') end"}}
	return []breakage{
		{"Lua behind", "", insert(-1, "script", "lua.v3.Lua", lua), "filter-order", "critical"},
		{"headers changed behind", "", insert(-1, "change", "header_mutation.v3.HeaderMutation", map[string]any{"mutations": map[string]any{
			"request_mutations": []any{map[string]any{"remove": "x-a"}}}}), "filter-order", "critical"},
		{"buffer before", "", insert(0, "buffer", "buffer.v3.Buffer", map[string]any{"max_request_bytes": 100}), "filter-order", "warning"},
		{"lock 3 away", "", dropRBAC, "lock-3", "critical"},
		{"lock 3 before", "", func(b map[string]any) {
			ingress(b, func(m map[string]any) {
				f := m["http_filters"].([]any)
				f[1], f[2] = f[2], f[1]
			})
		}, "lock-3", "critical"},
		{"lock 3 of any message", "", func(b map[string]any) {
			typedAs(b, ".rbac.v3.RBAC", func(m map[string]any) {
				walk(m, func(m map[string]any) {
					if m["principals"] != nil {
						m["principals"] = []any{map[string]any{"any": true}}
					}
				})
			})
		}, "lock-3", "critical"},
		{"lock 3 off on a route", "", perRoute("envoy.filters.http.rbac", "envoy.extensions.filters.http.rbac.v3.RBACPerRoute", nil), "lock-3", "critical"},
		{"lock 2 away", "", keepPrivateHeaders, "lock-2", "critical"},
		{"upgrades", "", hcm("upgrade_configs", []any{map[string]any{"upgrade_type": "websocket"}}), "upgrades", "critical"},
		{"paths as they come", "", hcm("normalize_path", nil), "normalize-path", "warning"},
		{"slashes merged", "", hcm("merge_slashes", true), "merge-slashes", "warning"},
		{"slashes escaped", "", hcm("path_with_escaped_slashes_action", nil), "escaped-slashes", "warning"},
		{"underscores", "", hcm("common_http_protocol_options.headers_with_underscores_action", nil), "underscores", "warning"},
		{"clients believed", "", hcm("use_remote_address", nil), "remote-address", "warning"},
		{"slow headers", "", hcm("request_headers_timeout", nil), "slow-senders", "warning"},
		{"slow bodies", "", hcm("request_timeout", nil), "slow-senders", "warning"},
		{"small bodies", "", func(b map[string]any) {
			walk(b, func(m map[string]any) {
				if m["name"] == "ingress" && m["filter_chains"] != nil {
					m["per_connection_buffer_limit_bytes"] = 1000
				}
			})
		}, "body-limit", "warning"},
		{"endless bodies", "", func(b map[string]any) {
			walk(b, func(m map[string]any) {
				if m["name"] == "ingress" && m["filter_chains"] != nil {
					m["per_connection_buffer_limit_bytes"] = 0
				}
			})
		}, "body-limit", "warning"},
	}
}

func (c *clinic) ofRoutes() []breakage {
	return []breakage{
		{"a default route", "", func(b map[string]any) {
			defaultRoute(b)
			typedAs(b, ".HttpConnectionManager", func(m map[string]any) {
				walk(m["route_config"], func(r map[string]any) {
					if r["name"] == "none" {
						put(r, "route.timeout", "0s")
					}
				})
			})
		}, "lock-1", "critical"},
		{"any word", "", toOpen(func(r map[string]any) {
			r["match"].(map[string]any)["headers"].([]any)[0].(map[string]any)["invert_match"] = true
		}), "lock-1", "critical"},
		{"again", "", routeTo("route.retry_policy", map[string]any{"retry_on": "5xx"}), "retry", "warning"},
		{"again, for all", "", func(b map[string]any) {
			ingress(b, func(m map[string]any) {
				hosts(m)["retry_policy"] = map[string]any{"retry_on": "5xx"}
			})
		}, "retry", "warning"},
		{"hedged", "", routeTo("route.hedge_policy", map[string]any{"hedge_on_per_try_timeout": true}), "hedge", "warning"},
		{"mirrored", "", routeTo("route.request_mirror_policies", []any{map[string]any{"cluster": "app/my-mcp-server-proxy"}}), "mirror", "critical"},
		{"redirected", "", routeTo("route.internal_redirect_policy", map[string]any{"max_internal_redirects": 1}), "internal-redirect", "critical"},
		{"upgraded", "", routeTo("route.upgrade_configs", []any{map[string]any{"upgrade_type": "websocket"}}), "upgrades", "critical"},
		{"cut", "", routeTo("route.timeout", nil), "route-timeout", "warning"},
		{"cut in the end", "", routeTo("route.max_stream_duration", map[string]any{"max_stream_duration": "60s"}), "route-timeout", "warning"},
	}
}

func (c *clinic) ofTheServer() []breakage {
	validated := map[string]any{"trusted_ca": map[string]any{"filename": c.path("ca.pem")}}
	tls := func(validation map[string]any) func(map[string]any) {
		return cluster("app/open", func(m map[string]any) {
			m["transport_socket"] = map[string]any{"name": "envoy.transport_sockets.tls", "typed_config": map[string]any{
				"@type":              "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
				"common_tls_context": map[string]any{"validation_context": validation}}}
		})
	}
	return []breakage{
		{"few streams", "", cluster("app/open", func(m map[string]any) { delete(m, "circuit_breakers") }), "circuit-breakers", "warning"},
		{"few streams to the service", "", cluster("service", func(m map[string]any) { delete(m, "circuit_breakers") }), "circuit-breakers", "warning"},
		{"any certificate", "", tls(nil), "upstream-tls", "critical"},
		{"any name", "", tls(validated), "upstream-tls", "critical"},
		{"the token logged", "", hcm("access_log", fileLog("/dev/null", "%REQ(:PATH)% %REQ(AUTHORIZATION):20%\n")), "logged-secret", "critical"},
		{"the token logged second", "", hcm("access_log", fileLog("/dev/null", "%REQ(x-a?Authorization)%\n")), "logged-secret", "critical"},
		{"tapped", "", insert(-1, "tap", "tap.v3.Tap", map[string]any{"common_config": map[string]any{"admin_config": map[string]any{"config_id": "x"}}}), "tap", "critical"},
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
		{"body not sent", sets(proc, "processing_mode.request_body_mode", "NONE"), false},
	} {
		t.Run(when.name, func(t *testing.T) {
			filter := map[string]string{"ext_authz": "extAuthz", "FULL_DUPLEX_STREAMED": "extProcDuplex"}[when.name]
			c.admit(t, filter, when.patch)
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
