package hosts_test

import (
	"fmt"
	"testing"

	"github.com/sallyport/sallyport/envoy"
	"github.com/sallyport/sallyport/envoy/hosts"
)

// at follows member names and indices into a document; nil where there is nothing.
func at(doc any, path ...any) any {
	for _, step := range path {
		switch step := step.(type) {
		case string:
			m, _ := doc.(object)
			doc = m[step]
		case int:
			l, _ := doc.([]any)
			if step >= len(l) {
				return nil
			}
			doc = l[step]
		}
	}
	return doc
}

func list(doc any, path ...any) []any {
	l, _ := at(doc, path...).([]any)
	return l
}

// Lock 1: whatever leads to an upstream demands the service's word, in every host.
func TestEveryRouteDemandsTheHeader(t *testing.T) {
	for _, host := range hosts.Names() {
		out, err := hosts.Render(host, config(filters[host][0], appsFor(host)...))
		if err != nil {
			t.Fatal(err)
		}
		leading := 0
		need := func(what string, ok bool) {
			leading++
			if !ok {
				t.Errorf("%s: %s demands no header", host, what)
			}
		}
		for _, doc := range documents(t, out) {
			name := fmt.Sprint(doc["kind"], " ", at(doc, "metadata", "name"))
			switch doc["kind"] {
			case "HTTPRoute":
				for _, rule := range list(doc, "spec", "rules") {
					if list(rule, "backendRefs") == nil {
						continue
					}
					for _, m := range list(rule, "matches") {
						need(name, at(m, "headers", 0, "name") == envoy.RouteHeader && at(m, "headers", 0, "value") != "" && at(m, "path", "type") == "Exact")
					}
				}
			case "VirtualService":
				for _, r := range list(doc, "spec", "http") {
					if list(r, "route") == nil {
						continue
					}
					if at(r, "retries", "attempts") != 0 {
						t.Errorf("%s: %v is retried", host, at(r, "name"))
					}
					for _, m := range list(r, "match") {
						need(name, at(m, "headers", envoy.RouteHeader, "exact") != nil && at(m, "uri", "exact") != nil)
					}
				}
			case "HTTPProxy":
				for _, r := range list(doc, "spec", "routes") {
					if list(r, "services") != nil {
						need(name, at(r, "conditions", 1, "header", "name") == envoy.RouteHeader && at(r, "conditions", 1, "header", "exact") != nil)
					}
				}
			}
		}
		// Every upstream with a route, and the hub, at each of three paths.
		if want := 3 * len(appsFor(host)); leading != want {
			t.Errorf("%s: %d ways lead to an upstream, want %d", host, leading, want)
		}
	}
}

// The settings without which a host would let pass what nobody judged.
func TestFailsClosed(t *testing.T) {
	for _, c := range []struct {
		host, kind string
		path       []any
		want       any
	}{
		{"envoy-gateway", "EnvoyExtensionPolicy", []any{"spec", "extProc", 0, "failOpen"}, false},
		{"envoy-gateway", "EnvoyExtensionPolicy", []any{"spec", "extProc", 0, "statusOnError"}, 503},
		{"envoy-gateway", "EnvoyExtensionPolicy", []any{"spec", "extProc", 0, "processingMode", "request", "body"}, "Buffered"},
		{"envoy-gateway", "EnvoyExtensionPolicy", []any{"spec", "extProc", 0, "messageTimeout"}, "12500ms"},
		{"envoy-gateway", "ClientTrafficPolicy", []any{"spec", "connection", "bufferLimit"}, 2_000_000},
		{"envoy-gateway", "ClientTrafficPolicy", []any{"spec", "headers", "earlyRequestHeaders", "removeOnMatch", 0, "value"}, envoy.InternalPrefix},
		{"envoy-gateway", "SecurityPolicy", []any{"spec", "authorization", "defaultAction"}, "Deny"},
		{"kgateway", "GatewayExtension", []any{"spec", "extProc", "failOpen"}, false},
		{"kgateway", "GatewayExtension", []any{"spec", "extProc", "processingMode", "requestBodyMode"}, "BUFFERED"},
		{"kgateway", "ListenerPolicy", []any{"spec", "default", "httpSettings", "earlyRequestHeaderModifier", "remove", 0}, envoy.RouteHeader},
		{"contour", "HTTPProxy", []any{"spec", "virtualhost", "authorization", "failOpen"}, false},
		{"contour", "HTTPProxy", []any{"spec", "virtualhost", "authorization", "withRequestBody"},
			object{"maxRequestBytes": 2_000_000, "allowPartialMessage": false, "packAsBytes": true}},
		{"consul", "ServiceDefaults", []any{"spec", "envoyExtensions", 0, "required"}, true},
		{"consul", "ServiceDefaults", []any{"spec", "envoyExtensions", 0, "arguments", "config", "withRequestBody"},
			object{"maxRequestBytes": 2_000_000, "allowPartialMessage": false, "packAsBytes": true}},
		{"gcp", "GCPRoutingExtension", []any{"spec", "extensionChains", 0, "extensions", 0, "failOpen"}, false},
		{"gcp", "GCPRoutingExtension", []any{"spec", "extensionChains", 0, "extensions", 0, "requestBodySendMode"}, "FullDuplexStreamed"},
	} {
		out, err := hosts.Render(c.host, config(filters[c.host][0], inside))
		if err != nil {
			t.Fatal(err)
		}
		found := false
		for _, doc := range documents(t, out) {
			found = found || doc["kind"] == c.kind && fmt.Sprint(at(doc, c.path...)) == fmt.Sprint(c.want)
		}
		if !found {
			t.Errorf("%s: %s %v is not %v", c.host, c.kind, c.path, c.want)
		}
	}
}
