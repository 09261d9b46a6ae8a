package doctor

import (
	"encoding/json"
	"os"
	"slices"
	"testing"
)

// Routes that the dump does not hold may lead anywhere: whoever's they are, the doctor says that it has not seen them.
func TestRoutesUnread(t *testing.T) {
	const (
		pipe = `{"pipe":{"path":"/run/side.sock","mode":438}}`
		port = `{"socket_address":{"address":"0.0.0.0","port_value":9000}}`
	)
	for name, c := range map[string]struct {
		address, routes string
		unread          bool
	}{
		"scoped":            {port, `"scoped_routes":{"name":"s","scoped_rds":{"scoped_rds_config_source":{"ads":{}}}}`, true},
		"scoped, on a pipe": {pipe, `"scoped_routes":{"name":"s"}`, true},
		"not sent yet":      {port, `"rds":{"route_config_name":"none","config_source":{"ads":{}}}`, true},
		"hosts on demand":   {port, `"route_config":{"name":"r","vhds":{"config_source":{"ads":{}}}}`, true},
		"of a matcher":      {port, `"route_config":{"name":"r","virtual_hosts":[{"name":"v","domains":["*"],"matcher":{}}]}`, true},
		"there, and none":   {port, `"route_config":{"name":"r"}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			findings, err := Examine(withListener(t, c.address, c.routes), Options{Service: "outbound|9001||sallyport.mcp.svc"})
			if err != nil {
				t.Fatal(err)
			}
			told := slices.ContainsFunc(findings, func(f Finding) bool {
				return f.Rule == "routes-unread" && f.Where == "listener side" && f.Severity == Warning
			})
			if told != c.unread {
				t.Errorf("told: %t, want %t: %v", told, c.unread, findings)
			}
		})
	}
}

// withListener is the dump of a foreign proxy with one listener more, that asks nobody.
func withListener(t *testing.T, address, routes string) []byte {
	t.Helper()
	dump, err := os.ReadFile("testdata/mesh.json")
	if err != nil {
		t.Fatal(err)
	}
	var tree struct {
		Configs []json.RawMessage `json:"configs"`
	}
	if err := json.Unmarshal(dump, &tree); err != nil {
		t.Fatal(err)
	}
	tree.Configs = append(tree.Configs, json.RawMessage(`{"@type":"type.googleapis.com/envoy.admin.v3.ListenersConfigDump","static_listeners":[{"listener":{
		"@type":"type.googleapis.com/envoy.config.listener.v3.Listener","name":"side","address":`+address+`,"filter_chains":[{"filters":[{"name":"hcm","typed_config":{
		"@type":"type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager","stat_prefix":"side",`+routes+`}}]}]}}]}`))
	dump, err = json.Marshal(tree)
	if err != nil {
		t.Fatal(err)
	}
	return dump
}
