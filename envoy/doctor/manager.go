package doctor

import (
	"fmt"
	"slices"
	"strings"

	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	headerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	earlyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/early_header_mutation/header_mutation/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/sallyport/sallyport/envoy"
)

// manager is one HTTP connection manager, its routes and filters looked up.
type manager struct {
	*hcmv3.HttpConnectionManager
	listener *listenerv3.Listener
	where    string
	routes   *routev3.RouteConfiguration
	filters  []httpFilter
	at       int // index of our filter; -1: none
	judge    judge
}

// httpFilter is a filter with the configuration that is in force.
type httpFilter struct {
	*hcmv3.HttpFilter
	config *anypb.Any
	kind   string // full name of the configuration's type
}

// managers examines every connection manager that leads to an MCP server.
func (x *exam) managers() {
	found := x.findManagers()
	x.upstreams = map[string]bool{}
	guards := anyGuarded(found)
	for _, m := range found {
		for _, r := range m.forwarding() {
			// Where no route has the guard, whatever the service is asked about is an MCP server.
			if r.guarded() || !guards && m.at >= 0 {
				x.upstreams[r.cluster] = true
			}
		}
	}
	asked := false
	for _, m := range found {
		x.routesUnread(m)
		if m.at >= 0 {
			asked = true
			x.manager(m)
		} else if m.public() {
			x.unasked(m)
		} else {
			x.privateSocket(m)
		}
	}
	if !asked {
		x.add(Critical, "no-filter", "listeners", "no connection manager asks the service", "add the ext_proc or ext_authz filter that `sallyport render` writes, or name its cluster with -service")
	}
}

func anyGuarded(all []*manager) bool {
	for _, m := range all {
		for _, r := range m.forwarding() {
			if r.guarded() {
				return true
			}
		}
	}
	return false
}

func (x *exam) findManagers() []*manager {
	var out []*manager
	for _, l := range x.listeners {
		chains := l.GetFilterChains()
		if l.GetDefaultFilterChain() != nil {
			chains = append(chains, l.GetDefaultFilterChain())
		}
		for i, c := range chains {
			for _, f := range c.GetFilters() {
				if h := as[hcmv3.HttpConnectionManager](f.GetTypedConfig()); h != nil {
					where := "listener " + l.GetName()
					if len(chains) > 1 {
						where = fmt.Sprintf("%s, chain %d", where, i)
					}
					out = append(out, x.lookUp(h, l, where))
				}
			}
		}
	}
	for _, m := range out {
		m.at = x.find(m, out)
		if m.at >= 0 {
			m.judge = newJudge(m.filters[m.at])
			x.service = m.judge.service()
		}
	}
	return out
}

func (x *exam) lookUp(h *hcmv3.HttpConnectionManager, l *listenerv3.Listener, where string) *manager {
	m := &manager{HttpConnectionManager: h, listener: l, where: where, at: -1, routes: h.GetRouteConfig()}
	if rds := h.GetRds(); rds != nil {
		m.routes = x.routes[rds.GetRouteConfigName()]
	}
	for _, f := range h.GetHttpFilters() {
		a := f.GetTypedConfig()
		if a == nil && f.GetConfigDiscovery() != nil {
			a = f.GetConfigDiscovery().GetDefaultConfig()
			if sent := x.ecds[f.GetName()]; sent != nil {
				a = sent.GetTypedConfig()
			}
		}
		m.filters = append(m.filters, httpFilter{f, a, kindOf(a)})
	}
	return m
}

// public reports whether others than the owner of a unix socket can connect.
func (m *manager) public() bool { return m.listener.GetAddress().GetPipe() == nil }

// manager examines one that asks the service.
func (x *exam) manager(m *manager) {
	for _, rule := range []func(*manager){
		x.judged, x.order, x.lock2, x.lock3, x.upgrades, x.paths, x.underscores, x.remoteAddress, x.bodyLimit, x.slowSenders,
		x.managerLogs, x.quic, x.forward,
	} {
		rule(m)
	}
}

// routesUnread: routes that cannot be seen may lead to an MCP server, also where nobody is asked.
func (x *exam) routesUnread(m *manager) {
	if m.routes == nil {
		x.add(Warning, "routes-unread", m.where, "its routes are not in the dump (scoped or on demand)", "give it route_config or rds, so that they can be examined")
	}
	matched := func(h *routev3.VirtualHost) bool { return h.GetMatcher() != nil }
	if m.routes.GetVhds() != nil || slices.ContainsFunc(m.routes.GetVirtualHosts(), matched) {
		x.add(Warning, "routes-unread", m.where, "routes of a matcher, or on demand, are not examined", "use a list of routes")
	}
}

// unasked examines a manager that asks nobody, on a listener that others can reach.
func (x *exam) unasked(m *manager) {
	x.managerLogs(m)
	for _, r := range m.forwarding() {
		if x.upstreams[r.cluster] {
			x.add(Critical, "no-filter", m.where, "leads to "+r.cluster+" without asking the service", "remove its route, or add the filter and the guards of `sallyport render`")
		}
	}
}

// privateSocket: who can open the hub's socket can send anything to every upstream.
func (x *exam) privateSocket(m *manager) {
	mode := m.listener.GetAddress().GetPipe().GetMode()
	for _, r := range m.forwarding() {
		if x.upstreams[r.cluster] && mode != 0o600 && mode != 0o660 {
			x.add(Critical, "socket-mode", m.where, fmt.Sprintf("everybody on this machine can open its socket (mode %04o) and reach %s", mode, r.cluster), "set pipe.mode: 384 (0600)")
		}
	}
}

// lock2: no client may send the headers that only the service sets. They must go before the first route is matched.
func (x *exam) lock2(m *manager) {
	for _, e := range m.GetEarlyHeaderMutationExtensions() {
		for _, mutation := range as[earlyv3.HeaderMutation](e.GetTypedConfig()).GetMutations() {
			if removesPrivate(mutation) {
				return
			}
		}
	}
	x.add(Critical, "lock-2", m.where, "a client can send "+envoy.InternalPrefix+"* headers itself, and so choose its route",
		"set early_header_mutation_extensions to remove the prefix "+envoy.InternalPrefix)
}

func removesPrivate(m *mutationv3.HeaderMutation) bool {
	prefix := m.GetRemoveOnMatch().GetKeyMatcher().GetPrefix()
	return prefix != "" && strings.HasPrefix(envoy.InternalPrefix, prefix)
}

func (x *exam) upgrades(m *manager) {
	for _, u := range m.GetUpgradeConfigs() {
		x.add(Critical, "upgrades", m.where, "upgrades to "+u.GetUpgradeType()+" pass, and what follows is out of the filter's sight", "remove upgrade_configs")
	}
}

// paths: the path that is judged must be the path that is matched and forwarded.
func (x *exam) paths(m *manager) {
	if !m.GetNormalizePath().GetValue() {
		x.add(Warning, "normalize-path", m.where, "paths are not normalised", "set normalize_path: true")
	}
	if m.GetMergeSlashes() {
		x.add(Warning, "merge-slashes", m.where, "//mcp is taken for /mcp", "set merge_slashes: false")
	}
	if a := m.GetPathWithEscapedSlashesAction(); a != hcmv3.HttpConnectionManager_REJECT_REQUEST {
		x.add(Warning, "escaped-slashes", m.where, "%2F in a path is not refused, and upstreams differ in what it means", "set path_with_escaped_slashes_action: REJECT_REQUEST")
	}
}

func (x *exam) underscores(m *manager) {
	if m.GetCommonHttpProtocolOptions().GetHeadersWithUnderscoresAction() != corev3.HttpProtocolOptions_REJECT_REQUEST {
		x.add(Warning, "underscores", m.where, "headers with underscores pass: to CGI and WSGI servers x_a is x-a", "set common_http_protocol_options.headers_with_underscores_action: REJECT_REQUEST")
	}
}

func (x *exam) remoteAddress(m *manager) {
	if !m.GetUseRemoteAddress().GetValue() {
		x.add(Warning, "remote-address", m.where, "clients' x-forwarded-for and x-envoy-* are believed", "set use_remote_address: true")
	}
}

// defaultBufferLimit is Envoy's, in bytes, where a listener names none.
const defaultBufferLimit = 1 << 20

// bodyLimit: the listener's limit bounds what Envoy keeps of a request body.
func (x *exam) bodyLimit(m *manager) {
	limit := uint32(defaultBufferLimit)
	if v := m.listener.GetPerConnectionBufferLimitBytes(); v != nil {
		limit = v.GetValue()
	}
	const most = 64 << 20 // the largest http.maxRequestBytes
	const cure = "set per_connection_buffer_limit_bytes to http.maxRequestBytes"
	switch {
	case limit == 0 || limit > most:
		x.add(Warning, "body-limit", m.where, "a request body may take as much memory as it likes", cure)
	case limit < x.MaxRequestBytes:
		x.add(Warning, "body-limit", m.where, fmt.Sprintf("bodies over %d bytes are refused, though http.maxRequestBytes is %d", limit, x.MaxRequestBytes), cure)
	}
}

// slowSenders: a request that never ends holds memory, and Envoy has no limit of its own.
func (x *exam) slowSenders(m *manager) {
	if m.GetRequestHeadersTimeout().AsDuration() == 0 || m.GetRequestTimeout().AsDuration() == 0 {
		x.add(Warning, "slow-senders", m.where, "a request may take for ever to arrive", "set request_headers_timeout: 10s and request_timeout: 30s")
	}
}

func (x *exam) quic(m *manager) {
	if m.listener.GetUdpListenerConfig().GetQuicOptions() != nil {
		x.add(Warning, "http3", m.where, "serves HTTP/3, with which this gateway is not tested", "serve HTTP/1.1 and HTTP/2")
	}
}

// order: what the service judged is what must go on, so nothing behind it may change a request, and nothing before it
// may hold or unpack a body.
func (x *exam) order(m *manager) {
	for _, f := range m.filters[:m.at] {
		if f.GetDisabled() {
			continue
		}
		if why, ok := before[f.kind]; ok {
			x.add(Warning, "filter-order", m.where, "the filter "+f.GetName()+" before the service's "+why, "move it behind, or remove it")
		}
	}
	for _, f := range m.filters[m.at+1:] {
		if why := behind(f); why != "" && !f.GetDisabled() {
			x.add(Critical, "filter-order", m.where, "the filter "+f.GetName()+" behind the service's "+why, "move it before, or remove it")
		} else if !harmless[f.kind] && why == "" {
			x.add(Info, "filter-order", m.where, "the filter "+f.GetName()+" behind the service's is not known here", "see that it changes no request")
		}
	}
}

const filters = "envoy.extensions.filters.http."

var before = map[string]string{
	filters + "buffer.v3.Buffer":                                   "has a body limit of its own",
	filters + "file_system_buffer.v3.FileSystemBufferFilterConfig": "has a body limit of its own",
	filters + "compressor.v3.Compressor":                           "packs answers that the service has to read",
	filters + "decompressor.v3.Decompressor":                       "unpacks bodies beyond the limit, unseen by the sender's length",
	filters + "gzip.v3.Gzip":                                       "packs answers that the service has to read",
}

var harmless = map[string]bool{
	filters + "router.v3.Router": true, filters + "rbac.v3.RBAC": true, filters + "custom_response.v3.CustomResponse": true,
	filters + "header_mutation.v3.HeaderMutation": true, filters + "ratelimit.v3.RateLimit": true,
	filters + "local_ratelimit.v3.LocalRateLimit": true, filters + "fault.v3.HTTPFault": true, filters + "cors.v3.Cors": true,
	filters + "grpc_stats.v3.FilterConfig": true, filters + "set_metadata.v3.Config": true,
	filters + "tap.v3.Tap": true /* named for itself */, filters + "set_filter_state.v3.Config": true, filters + "header_to_metadata.v3.Config": true,
}

// rewriters change what was judged, or pass it to somebody else who may, by the package of their type.
var rewriters = map[string]string{
	"lua": "can change what was judged", "wasm": "can change what was judged", "golang": "can change what was judged",
	"dynamic_modules": "can change what was judged", "composite": "can change what was judged", "transform": "changes what was judged",
	"ext_proc": "can change what was judged", "ext_authz": "can change what was judged",
	"grpc_json_transcoder": "changes what was judged", "grpc_json_reverse_transcoder": "changes what was judged",
	"grpc_http1_bridge": "changes what was judged", "grpc_http1_reverse_bridge": "changes what was judged", "grpc_web": "changes what was judged",
	"connect_grpc_bridge": "changes what was judged", "mcp_json_rest_bridge": "changes what was judged", "mcp_router": "routes by itself",
	"decompressor": "changes what was judged", "proto_api_scrubber": "changes what was judged",
	"credential_injector": "puts in a credential of its own", "aws_request_signing": "puts in a credential of its own",
	"gcp_authn": "puts in a credential of its own", "oauth2": "authorizes by itself", "jwt_authn": "authorizes by itself",
	"basic_auth": "authorizes by itself", "api_key_auth": "authorizes by itself",
	"dynamic_forward_proxy": "chooses where the request goes", "stateful_session": "chooses where the request goes",
	"on_demand": "starts the request again",
}

// behind returns what is wrong with f behind the service's filter, "" for nothing.
func behind(f httpFilter) string {
	if mutation := as[headerv3.HeaderMutation](f.config); mutation != nil {
		if len(mutation.GetMutations().GetRequestMutations())+len(mutation.GetMutations().GetQueryParameterMutations()) > 0 {
			return "changes what was judged"
		}
		return ""
	}
	name, ok := strings.CutPrefix(f.kind, filters)
	if !ok {
		return ""
	}
	name, _, _ = strings.Cut(name, ".")
	return rewriters[name]
}
