package doctor

import (
	"os"
	"strings"
	"testing"
)

// One setting of a foreign proxy is changed, and the doctor has one more thing to say.
func TestOneSetting(t *testing.T) {
	const (
		any     = `"@type": "type.googleapis.com/`
		tls     = any + `envoy.extensions.transport_sockets.tls.v3.`
		node    = `"metadata": {"PASSWORD": "hunter2"}`
		admin   = `"socket_address": {"address": "127.0.0.1", "port_value": 15000}`
		chain   = `"filter_chains": [{`
		logged  = `{` + any + `vendor.example.Log", "format": "%REQ(COOKIE)%", "password": "hunter2"}`
		wasm    = `{` + any + `envoy.extensions.filters.http.wasm.v3.Wasm", "config": {"name": "vendor"}}`
		service = `"grpc_service": {"envoy_grpc": {"cluster_name": "outbound|9001||sallyport.mcp.svc"}}`
		mode    = `{"request_body_mode": "BUFFERED"}`
		sni     = `"sni": "items"`
		tap     = any + `envoy.extensions.transport_sockets.tap.v3.Tap"`
	)
	version := func(minor, patch string) string {
		return node + `, "user_agent_build_version": {"version": {"major_number": 1, "minor_number": ` + minor + `, "patch": ` + patch + `}}`
	}
	for name, c := range map[string]struct{ from, to, want string }{
		"a log that cannot be read":   {logged, `{}`, "info access-log listener 0.0.0.0_8080"},
		"HTTP/3":                      {chain, `"udp_listener_config": {"quic_options": {}}, ` + chain, "warning http3 listener 0.0.0.0_8080"},
		"an agent's keys written":     {chain, chain + `"transport_socket": {"name": "tls", "typed_config": {` + tls + `DownstreamTlsContext", "common_tls_context": {"key_log": {"path": "/k"}}}}, `, "critical key-log listener 0.0.0.0_8080"},
		"a server's keys written":     {sni, sni + `, "common_tls_context": {"key_log": {"path": "/k"}}`, "critical key-log cluster items"},
		"agents tapped":               {chain, chain + `"transport_socket": {"name": "tap", "typed_config": {` + tap + `}}, `, "critical tap listener 0.0.0.0_8080"},
		"servers tapped":              {tls + `UpstreamTlsContext", ` + sni, tap, "critical tap cluster items"},
		"over HTTP":                   {service, `"http_service": {"http_service": {"http_uri": {"uri": "http://x/", "cluster": "x", "timeout": "1s"}}}`, "critical no-service listener 0.0.0.0_8080, filter sallyport"},
		"two that ask":                {wasm, `{` + any + `envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor"}`, "warning which-filter listener 0.0.0.0_8080"},
		"anybody's admin socket":      {admin, `"pipe": {"path": "/a", "mode": 438}`, "critical admin admin"},
		"anybody's, by Envoy's umask": {admin, `"pipe": {"path": "/a", "mode": 2}`, "critical admin admin"},
		"answers not sent":            {mode, `{"request_body_mode": "BUFFERED", "response_header_mode": "SKIP"}`, "warning response-hidden listener 0.0.0.0_8080, filter sallyport"},
		"an hour":                     {service, service + `, "message_timeout": "3600s"`, "warning timeout listener 0.0.0.0_8080, filter sallyport a message waits up to 1h0m0s"},
		"a version without fixes":     {node, version("38", "8"), "warning envoy-version envoy"},
		"one that gets none":          {node, version("35", "99"), "warning envoy-version envoy"},
	} {
		t.Run(name, func(t *testing.T) {
			healthy, changed := said(t, "", ""), said(t, c.from, c.to)
			if n := count(changed, c.want) - count(healthy, c.want); n != 1 {
				t.Errorf("%d more %q in\n%s", n, c.want, strings.Join(changed, "\n"))
			}
		})
	}
	for name, to := range map[string]string{"the first patch": version("38", "9"), "this minor version": version("40", "0"), "a later one": version("41", "0")} {
		if got := said(t, node, to); count(got, "warning envoy-version") != 0 || count(got, "info envoy-version") != 0 {
			t.Errorf("%s: %s", name, strings.Join(got, "\n"))
		}
	}
	if count(said(t, "", ""), "info envoy-version envoy") != 1 {
		t.Error("a version that is not in the dump is taken for good")
	}
	if got := said(t, admin, `"pipe": {"path": "/a", "mode": 384}`); count(got, "critical admin") != 0 {
		t.Errorf("an admin socket of its user: %s", strings.Join(got, "\n"))
	}
}

func count(findings []string, begin string) int {
	n := 0
	for _, f := range findings {
		if strings.HasPrefix(f, begin) {
			n++
		}
	}
	return n
}

// said is what the doctor says of the foreign proxy with one text in its dump in place of another.
func said(t *testing.T, from, to string) []string {
	t.Helper()
	dump, err := os.ReadFile("testdata/mesh.json")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(dump), from) {
		t.Fatalf("no %s in the dump", from)
	}
	findings, err := Examine([]byte(strings.Replace(string(dump), from, to, 1)), Options{})
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range findings {
		out = append(out, string(f.Severity)+" "+f.Rule+" "+f.Where+" "+f.What)
	}
	return out
}
