package envoy

import (
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
)

var (
	// internalHeaders are for Envoy and the hub: no upstream sees them. The
	// last one is Envoy's own addition to an outside request.
	internalHeaders = []string{RouteHeader, SourceHeader, "x-envoy-external-address"}

	// withheldHeaders stay between the gateway and an upstream: its sessions,
	// cookies, challenges, redirections, and what names its software.
	withheldHeaders = []string{
		"mcp-session-id", "set-cookie", "www-authenticate", "proxy-authenticate", "location", "refresh",
		"alt-svc", "server", "x-powered-by", "x-envoy-upstream-service-time",
	}
)

// ingressRoutes leads a judged message to the hub or to one app. There is no
// retry (a tool call may not be repeatable), no mirror and no internal redirect.
func ingressRoutes(g Gateway) *routev3.RouteConfiguration {
	var routes []*routev3.Route
	for _, path := range g.Paths {
		for _, a := range g.Apps {
			r := appRoute(a, path, g)
			r.ResponseHeadersToRemove = withheldHeaders
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
		extProcName: typed(&routev3.FilterConfig{Config: &anypb.Any{}}),
	}
	return table
}

// egressRoutes leads the hub's requests, all for "/", to the app they name. An
// unknown name finds no route: 404.
func egressRoutes(g Gateway) *routev3.RouteConfiguration {
	var routes []*routev3.Route
	for _, a := range g.Apps {
		routes = append(routes, appRoute(a, "/", g))
	}
	return routeTable("egress", routes)
}

func appRoute(a App, path string, g Gateway) *routev3.Route {
	up, _ := parseUpstream(a.URL) // checked by withDefaults
	action := longStream(AppRoute(a.Name), g)
	action.PrefixRewrite = up.path // the match is exact, so this is the whole path
	action.HostRewriteSpecifier = &routev3.RouteAction_HostRewriteLiteral{HostRewriteLiteral: up.authority}
	return &routev3.Route{
		Name:                   AppRoute(a.Name),
		Match:                  match(path, AppRoute(a.Name)),
		Action:                 &routev3.Route_Route{Route: action},
		RequestHeadersToRemove: internalHeaders,
	}
}

// hubRoute leaves SourceHeader in place: the hub judges lists by it.
func hubRoute(path string, g Gateway) *routev3.Route {
	return &routev3.Route{
		Name:                   HubRoute,
		Match:                  match(path, HubRoute),
		Action:                 &routev3.Route_Route{Route: longStream(HubRoute, g)},
		RequestHeadersToRemove: []string{RouteHeader},
	}
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
