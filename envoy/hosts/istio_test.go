package hosts_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/envoy"
	"github.com/sallyport/sallyport/envoy/hosts"
)

const connectionManager = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"

// What an EnvoyFilter holds is opaque to Kubernetes, so the real Envoy looks at it: the patches are put into a gateway's
// listener as Istio would put them.
func TestEnvoyFilterIsValid(t *testing.T) {
	for _, filter := range filters["istio"] {
		t.Run(fmt.Sprint(filter), func(t *testing.T) {
			out, err := hosts.Render("istio", config(filter, appsFor("istio")...))
			if err != nil {
				t.Fatal(err)
			}
			bootstrap := patched(t, documents(t, out))
			if said, err := validate(t, bootstrap); err != nil {
				t.Errorf("%v\n%s", err, said)
			}
			manager := managerOf(bootstrap)
			manager["http_filters"].([]any)[1].(object)["typed_config"].(object)["no_such_field"] = true
			if said, err := validate(t, bootstrap); err == nil {
				t.Errorf("Envoy took a field that does not exist: %s", said)
			}
		})
	}
}

// The filters stand in the order in which they work, and the one that asks fails closed.
func TestEnvoyFilterOrder(t *testing.T) {
	out, err := hosts.Render("istio", config(envoy.FilterExtProc, inside))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range managerOf(patched(t, documents(t, out)))["http_filters"].([]any) {
		filter := f.(object)
		names = append(names, strings.TrimPrefix(filter["name"].(string), "envoy.filters.http."))
		if config := filter["typed_config"].(object); strings.HasSuffix(filter["name"].(string), "ext_proc") &&
			(filter["disabled"] != nil || config["failure_mode_allow"] != nil || config["status_on_error"].(object)["code"] != "ServiceUnavailable") {
			t.Errorf("%v", filter)
		}
	}
	if got := strings.Join(names, " "); got != "custom_response ext_proc rbac header_mutation router" {
		t.Errorf("got %s", got)
	}
}

func managerOf(bootstrap object) object {
	listener := bootstrap["static_resources"].(object)["listeners"].([]any)[0].(object)
	return listener["filter_chains"].([]any)[0].(object)["filters"].([]any)[0].(object)["typed_config"].(object)
}

// patched is a bare gateway with the patches of the EnvoyFilter among docs, and the clusters that Istio would have.
func patched(t *testing.T, docs []object) object {
	t.Helper()
	manager := object{"@type": connectionManager, "stat_prefix": "istio"}
	listener := object{"name": "gateway", "address": object{"socket_address": object{"address": "127.0.0.1", "port_value": 0}},
		"filter_chains": []any{object{"filters": []any{object{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}}}}}
	route := object{"match": object{"prefix": "/"}, "direct_response": object{"status": 503}}
	var filters []any
	for _, doc := range docs {
		if doc["kind"] != "EnvoyFilter" {
			continue
		}
		for _, p := range doc["spec"].(object)["configPatches"].([]any) {
			patch := p.(object)
			value := patch["patch"].(object)["value"].(object)
			switch patch["applyTo"] {
			case "LISTENER":
				merge(listener, value)
			case "NETWORK_FILTER":
				merge(manager, value["typed_config"].(object))
			case "HTTP_FILTER":
				filters = append(filters, value)
			case "HTTP_ROUTE":
				merge(route, value)
			default:
				t.Fatalf("applyTo %v", patch["applyTo"])
			}
		}
	}
	manager["http_filters"] = append(filters, object{"name": "envoy.filters.http.router",
		"typed_config": object{"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}})
	manager["route_config"] = object{"virtual_hosts": []any{object{"name": "gateway", "domains": []any{"*"}, "routes": []any{route}}}}
	return object{"static_resources": object{"listeners": []any{listener}, "clusters": []any{
		object{"name": "outbound|9901||sallyport.agents.svc.cluster.local", "type": "STATIC", "load_assignment": object{
			"cluster_name": "service"}}}}}
}

func merge(into, from object) {
	for k, v := range from {
		into[k] = v
	}
}

func validate(t *testing.T, bootstrap object) (string, error) {
	t.Helper()
	binary := os.Getenv("ENVOY")
	if binary == "" {
		binary = "../../bin/envoy"
	}
	text, err := json.Marshal(bootstrap)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "bootstrap.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(binary, "--mode", "validate", "-c", file, "--log-level", "error").CombinedOutput()
	return string(out), err
}
