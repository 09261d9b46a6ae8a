package e2e

import "strings"

// Each way in which the rendered bootstrap is broken, and what the doctor has to say of it.

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
		{"answers not sent", "", sets(proc, "processing_mode.response_header_mode", "SKIP"), "response-hidden", "warning"},
		{"body before the answer", "", sets(proc, "send_body_without_waiting_for_header_response", true), "body-mode", "warning"},
		{"off on a route", "", perRoute("envoy.filters.http.ext_proc", procPerRoute, map[string]any{"disabled": true}), "filter-disabled", "critical"},
		{"off on a route, in general terms", "", perRoute("envoy.filters.http.ext_proc", "envoy.config.route.v3.FilterConfig", map[string]any{"disabled": true}), "filter-disabled", "critical"},
		{"nowhere on", "", func(b map[string]any) {
			ingress(b, func(m map[string]any) { put(hosts(m), "typed_per_filter_config", nil) })
		}, "filter-disabled", "critical"},
		{"another service on a route", "", perRoute("envoy.filters.http.ext_proc", procPerRoute, map[string]any{"overrides": map[string]any{
			"grpc_service": map[string]any{"envoy_grpc": map[string]any{"cluster_name": "service"}}}}), "other-service", "critical"},
		{"200 ms", "", sets(proc, "message_timeout", nil), "timeout", "warning"},
		{"an hour", "", sets(proc, "message_timeout", "3600s"), "timeout", "warning"},
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
		{"tunnels", "", hcm("upgrade_configs", []any{map[string]any{"upgrade_type": "CONNECT"}}), "upgrades", "critical"},
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
		{"anybody's socket", "", func(b map[string]any) {
			walk(b["static_resources"], func(m map[string]any) {
				if m["name"] == "egress" && m["address"] != nil {
					put(m, "address.pipe.mode", 0o666)
				}
			})
		}, "socket-mode", "critical"},
		{"the token traced", "", hcm("tracing", map[string]any{"custom_tags": []any{map[string]any{"tag": "who",
			"request_header": map[string]any{"name": "Authorization"}}}}), "traced-secret", "critical"},
		{"tapped", "", insert(-1, "tap", "tap.v3.Tap", map[string]any{"common_config": map[string]any{"admin_config": map[string]any{"config_id": "x"}}}), "tap", "critical"},
	}
}
