package main

import (
	"fmt"
	"net"
	"runtime"
	"strings"
)

// workers is how many threads `sallyport run` gives Envoy.
func workers() int { return max(1, runtime.NumCPU()/2) }

// bootstrap is an Envoy as sallyport's is, in what costs time: the same HTTP connection manager, clusters, pools and limits,
// and the same filter settings, without what only a verdict makes sense of.
func bootstrap(port, base string, ups []*upstream, messages int) string {
	filter, clusters := "", ""
	response := "SKIP"
	if messages > 2 {
		response = "SEND"
	}
	if messages > 0 {
		filter = strings.ReplaceAll(processor, "@RESPONSE", response)
		clusters = fmt.Sprintf(service, base+".sock")
	}
	for i, u := range ups[:2] {
		host, port, _ := net.SplitHostPort(u.address)
		clusters += fmt.Sprintf(cluster, i, host, port)
	}
	return strings.NewReplacer("@PORT", port, "@FILTER", filter, "@CLUSTERS", clusters, "@ADMIN", base+".admin").Replace(plain)
}

const plain = `
node: {id: bench, cluster: bench}
admin: {address: {pipe: {path: "@ADMIN", mode: 384}}}
static_resources:
  listeners:
  - name: ingress
    address: {socket_address: {address: 127.0.0.1, port_value: @PORT}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: ingress
          route_config:
            name: ingress
            virtual_hosts:
            - name: ingress
              domains: ["*"]
              routes:
              - match: {path: /mcp, headers: [{name: x-sallyport-route, string_match: {exact: app1}}]}
                route: {cluster: app1, prefix_rewrite: /mcp, timeout: 0s, idle_timeout: 900s}
              - match: {path: /mcp}
                route: {cluster: app0, prefix_rewrite: /mcp, timeout: 0s, idle_timeout: 900s}
          http_filters:@FILTER
          - name: envoy.filters.http.router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
              suppress_envoy_headers: true
          common_http_protocol_options: {idle_timeout: 3600s, max_headers_count: 100, headers_with_underscores_action: REJECT_REQUEST}
          server_header_transformation: PASS_THROUGH
          stream_idle_timeout: 300s
          request_timeout: 30s
          request_headers_timeout: 10s
          use_remote_address: true
          generate_request_id: true
          normalize_path: true
          path_with_escaped_slashes_action: REJECT_REQUEST
  clusters:@CLUSTERS
`

const processor = `
          - name: envoy.filters.http.ext_proc
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor
              grpc_service: {envoy_grpc: {cluster_name: service, max_receive_message_length: 2097152}}
              processing_mode: {request_header_mode: SEND, response_header_mode: @RESPONSE, request_body_mode: BUFFERED, request_trailer_mode: SKIP, response_trailer_mode: SKIP}
              request_attributes: [source.address, request.id]
              message_timeout: 10s`

const service = `
  - name: service
    type: STATIC
    connect_timeout: 1s
    load_assignment: {cluster_name: service, endpoints: [{lb_endpoints: [{endpoint: {address: {pipe: {path: "%s"}}}}]}]}
    circuit_breakers: {thresholds: [{max_connections: 100000, max_pending_requests: 100000, max_requests: 100000}]}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {max_concurrent_streams: 1000, connection_keepalive: {interval: 30s, timeout: 5s}}}`

const cluster = `
  - name: app%[1]d
    type: STATIC
    connect_timeout: 5s
    load_assignment: {cluster_name: app%[1]d, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: %[2]s, port_value: %[3]s}}}}]}]}
    circuit_breakers: {thresholds: [{max_connections: 100000, max_pending_requests: 100000, max_requests: 100000}]}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        common_http_protocol_options: {idle_timeout: 4s}
        explicit_http_config: {http_protocol_options: {}}`
