package envoy

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
)

var (
	// internalHeaders are for Envoy and the hub: no upstream sees them. The
	// last one is Envoy's own addition to an outside request.
	internalHeaders = []string{RouteHeader, SourceHeader, CertHeader, TicketHeader, SessionHeader, "x-envoy-external-address"}

	// withheldHeaders stay between the gateway and an upstream: its sessions,
	// cookies, challenges, redirections, what names its software, and what a
	// browser or a proxy would take for the gateway's own word.
	withheldHeaders = []string{
		"mcp-session-id", "set-cookie", "www-authenticate", "proxy-authenticate", "location", "refresh",
		"alt-svc", "server", "x-powered-by", "x-envoy-upstream-service-time",
		"access-control-allow-origin", "access-control-allow-credentials", "access-control-expose-headers",
		"access-control-allow-methods", "access-control-allow-headers", "clear-site-data", "content-security-policy", "link",
		"access-control-max-age", "access-control-allow-private-network", "content-security-policy-report-only",
		"set-cookie2", "authentication-info", "proxy-authentication-info", "strict-transport-security", "public-key-pins",
		"nel", "report-to", "reporting-endpoints", "service-worker-allowed", "sourcemap", "x-sourcemap",
		"speculation-rules", "origin-trial", "timing-allow-origin",
		"x-accel-redirect", "x-sendfile", // orders to a proxy in front
		"dpop-nonce", // an upstream's is about the gateway's proofs
		RouteHeader, SourceHeader, CertHeader, TicketHeader, SessionHeader, "x-envoy-decorator-operation",
	}
)

// ingressRoutes leads a judged message to the hub or to one app. There is no
// retry (a tool call may not be repeatable) of what anybody may have heard, no mirror and no internal redirect.
func ingressRoutes(g Gateway) *routev3.RouteConfiguration {
	var routes []*routev3.Route
	for _, path := range g.Paths {
		for _, a := range g.Apps {
			r := appRoute(a, path, g)
			r.ResponseHeadersToRemove = withheldHeaders
			r.ResponseHeadersToAdd = append(readable(g.namespace()), fromMetadata(g.namespace(), "access-control-expose-headers", ExposeKey))
			r.TypedPerFilterConfig = map[string]*anypb.Any{customResponseName: typed(refusedAnswers())}
			routes = append(routes, r)
		}
		routes = append(routes, hubRoute(path, g))
	}
	// Lock 1: what the service did not route goes nowhere.
	table := routeTable("ingress", append(routes, &routev3.Route{
		Name:   "none",
		Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
		Action: &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{Status: 503}},
	}))
	table.VirtualHosts[0].TypedPerFilterConfig = map[string]*anypb.Any{
		g.filterName(): typed(&routev3.FilterConfig{Config: &anypb.Any{}}),
	}
	if limits := callLimits(g); limits != nil && g.Dynamic {
		table.VirtualHosts[0].TypedPerFilterConfig[callLimitName] = typed(limits)
	}
	return table
}

// egressRoutes leads the hub's requests, all for "/", to the app they name. An
// unknown name finds no route: 404.
func egressRoutes(g Gateway) *routev3.RouteConfiguration {
	var routes []*routev3.Route
	for _, a := range g.Apps {
		routes = append(routes, appRoute(a, "/", g))
		if a.EndpointEvents {
			routes = append(routes, endpointRoute(a, g))
		}
	}
	return routeTable("egress", routes)
}

// endpointRoute keeps the path that the hub chose.
func endpointRoute(a App, g Gateway) *routev3.Route {
	r := appRoute(a, "/", g)
	r.Name = EndpointRoute(a.Route)
	r.Match = match("/", EndpointRoute(a.Route))
	r.Match.PathSpecifier = &routev3.RouteMatch_Prefix{Prefix: "/"}
	r.GetRoute().PrefixRewrite = ""
	return r
}

func appRoute(a App, path string, g Gateway) *routev3.Route {
	up, _ := parseUpstream(a.URL) // checked by withDefaults
	action := longStream(a.Route, g)
	action.PrefixRewrite = up.path // the match is exact, so this is the whole path
	action.HostRewriteSpecifier = &routev3.RouteAction_HostRewriteLiteral{HostRewriteLiteral: up.authority}
	return &routev3.Route{
		Name:                   a.Route,
		Match:                  match(path, a.Route),
		Action:                 &routev3.Route_Route{Route: action},
		RequestHeadersToRemove: internalHeaders,
	}
}

// hubRoute leaves SourceHeader and CertHeader in place: the hub judges lists by
// the one, and tokens that are bound to a certificate by the other.
func hubRoute(path string, g Gateway) *routev3.Route {
	action := longStream(HubRoute, g)
	if g.several() {
		action.RetryPolicy = unheard()
	}
	return &routev3.Route{
		Name:                   HubRoute,
		Match:                  match(path, HubRoute),
		Action:                 &routev3.Route_Route{Route: action},
		RequestHeadersToRemove: []string{RouteHeader},
		ResponseHeadersToAdd: append(readable(g.namespace()),
			overwrite("access-control-expose-headers", "Mcp-Session-Id, MCP-Protocol-Version, WWW-Authenticate, Retry-After, DPoP-Nonce")),
	}
}

// readable lets the page in a browser that asked read the answer (Fetch, "CORS
// protocol"): the one whose origin the service allowed, and no other, whatever
// the upstream says. An agent whose proofs need a nonce gets the next one.
func readable(namespace string) []*corev3.HeaderValueOption {
	return []*corev3.HeaderValueOption{
		fromMetadata(namespace, "access-control-allow-origin", OriginKey),
		fromMetadata(namespace, "dpop-nonce", NonceKey),
	}
}

// fromMetadata is a header that the service decides. Without its word the value
// is empty, and the header not added.
func fromMetadata(namespace, name, key string) *corev3.HeaderValueOption {
	return overwrite(name, "%DYNAMIC_METADATA("+namespace+":"+key+")%")
}

// match wants the exact path and the service's word for it.
func match(path, route string) *routev3.RouteMatch {
	return &routev3.RouteMatch{
		PathSpecifier: &routev3.RouteMatch_Path{Path: path},
		Headers: []*routev3.HeaderMatcher{{
			Name: RouteHeader,
			HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: &matcherv3.StringMatcher{
				MatchPattern: &matcherv3.StringMatcher_Exact{Exact: route},
			}},
		}},
	}
}

// longStream allows an answer to take as long as bytes keep coming.
func longStream(cluster string, g Gateway) *routev3.RouteAction {
	return &routev3.RouteAction{
		ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: cluster},
		Timeout:          durationpb.New(0),
		IdleTimeout:      durationpb.New(g.StreamIdle),
	}
}

func routeTable(name string, routes []*routev3.Route) *routev3.RouteConfiguration {
	return &routev3.RouteConfiguration{
		Name:         name,
		VirtualHosts: []*routev3.VirtualHost{{Name: name, Domains: []string{"*"}, Routes: routes}},
	}
}
