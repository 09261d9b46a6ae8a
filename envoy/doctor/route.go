package doctor

import (
	"strings"

	rbacconfigv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	authzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/sallyport/sallyport/envoy"
)

// route is one way to one cluster.
type route struct {
	*routev3.Route
	host      *routev3.VirtualHost
	table     *routev3.RouteConfiguration
	cluster   string // "any" where a header or a plugin names it
	perFilter []map[string]*anypb.Any
	where     string
}

// anyCluster stands for the cluster of a route that does not name one.
const anyCluster = "any cluster"

// forwarding returns the routes of m that lead to a cluster.
func (m *manager) forwarding() []route {
	var out []route
	for _, host := range m.routes.GetVirtualHosts() {
		for _, r := range host.GetRoutes() {
			if r.GetRoute() == nil {
				continue
			}
			name := r.GetName()
			if name == "" {
				name = "of virtual host " + host.GetName()
			}
			one := route{Route: r, host: host, table: m.routes, where: m.where + ", route " + name,
				perFilter: []map[string]*anypb.Any{r.GetTypedPerFilterConfig(), host.GetTypedPerFilterConfig(), m.routes.GetTypedPerFilterConfig()}}
			out = append(out, one.ways()...)
		}
	}
	return out
}

// ways are r for each cluster that it can lead to.
func (r route) ways() []route {
	weighted := r.GetRoute().GetWeightedClusters().GetClusters()
	if len(weighted) == 0 {
		r.cluster = r.GetRoute().GetCluster()
		if r.cluster == "" {
			r.cluster = anyCluster
		}
		return []route{r}
	}
	var out []route
	for _, w := range weighted {
		one := r
		one.cluster = w.GetName()
		one.perFilter = append([]map[string]*anypb.Any{w.GetTypedPerFilterConfig()}, r.perFilter...)
		out = append(out, one)
	}
	return out
}

// guarded reports whether only the service's word opens the route.
func (r route) guarded() bool {
	for _, h := range r.GetMatch().GetHeaders() {
		named := strings.EqualFold(h.GetName(), envoy.RouteHeader)
		exact := h.GetStringMatch().GetExact() != "" || h.GetExactMatch() != "" //nolint:staticcheck // an old dump has it
		if named && !h.GetInvertMatch() && !h.GetTreatMissingHeaderAsEmpty() && (exact || h.GetPresentMatch()) {
			return true
		}
	}
	return false
}

// override returns what the most specific level says of a filter, nil for nothing.
func (r route) override(filter string) *anypb.Any {
	for _, level := range r.perFilter {
		if a := level[filter]; a != nil {
			return a
		}
	}
	return nil
}

// on reports whether f acts on r, and the configuration that it has there besides its own.
func (r route) on(f httpFilter) (bool, *anypb.Any) {
	a := r.override(f.GetName())
	if a == nil {
		return !f.GetDisabled(), nil
	}
	if c := as[routev3.FilterConfig](a); c != nil {
		return !c.GetDisabled(), c.GetConfig()
	}
	return true, a
}

// forward examines the routes to MCP servers of a manager that asks the service.
func (x *exam) forward(m *manager) {
	for _, r := range m.forwarding() {
		if !x.upstreams[r.cluster] && r.cluster != anyCluster {
			continue
		}
		x.lock1(r)
		x.judgedHere(m, r)
		x.lock3Here(m, r)
		x.repeated(r)
		x.copied(r)
		x.limits(r)
	}
}

// lock1: what the service did not route must go nowhere.
func (x *exam) lock1(r route) {
	if !r.guarded() {
		x.add(Critical, "lock-1", r.where, "leads to "+r.cluster+" without the service's word", "match the header "+envoy.RouteHeader+", and answer everything else with direct_response: {status: 503}")
	}
}

// judgedHere: the filter must be on, and as it is elsewhere.
func (x *exam) judgedHere(m *manager, r route) {
	on, a := r.on(m.filters[m.at])
	if !on {
		x.add(Critical, "filter-disabled", r.where, "the service is not asked", "enable "+m.filters[m.at].GetName()+" in typed_per_filter_config")
		return
	}
	if o := as[extprocv3.ExtProcPerRoute](a); o != nil {
		x.procHere(o, r)
	}
	if o := as[authzv3.ExtAuthzPerRoute](a); o != nil {
		x.authzHere(o, r)
	}
}

func (x *exam) procHere(o *extprocv3.ExtProcPerRoute, r route) {
	if o.GetDisabled() {
		x.add(Critical, "filter-disabled", r.where, "the service is not asked", "remove disabled from typed_per_filter_config")
	}
	if o.GetOverrides().GetFailureModeAllow().GetValue() {
		x.add(Critical, "failure-mode-allow", r.where, failsOpen, "remove failure_mode_allow from the overrides")
	}
	if mode := o.GetOverrides().GetProcessingMode(); mode != nil {
		x.processingMode(mode, r.where)
	}
	if o.GetOverrides().GetGrpcService() != nil {
		x.add(Critical, "other-service", r.where, "another service is asked", "remove grpc_service from the overrides")
	}
}

func (x *exam) authzHere(o *authzv3.ExtAuthzPerRoute, r route) {
	if o.GetDisabled() {
		x.add(Critical, "filter-disabled", r.where, "the service is not asked", "remove disabled from typed_per_filter_config")
	}
	if s := o.GetCheckSettings(); s.GetDisableRequestBodyBuffering() {
		x.bufferSettings(nil, r.where)
	} else if s.GetWithRequestBody() != nil {
		x.bufferSettings(s.GetWithRequestBody(), r.where)
	}
	if o.GetCheckSettings().GetServiceOverride() != nil {
		x.add(Critical, "other-service", r.where, "another service is asked", "remove the service from check_settings")
	}
}

// lock3: behind the filter, nothing passes that a final verdict did not mark.
func (x *exam) lock3(m *manager) {
	for _, f := range m.filters[m.at+1:] {
		if !f.GetDisabled() && onlyDecided(as[rbacv3.RBAC](f.config), m.judge.namespace()) {
			return
		}
	}
	x.add(Critical, "lock-3", m.where, "a message passes if the service ends its conversation early", "add the filter envoy.filters.http.rbac of `sallyport render` behind the service's")
}

// lock3Here: a route must not switch the lock off.
func (x *exam) lock3Here(m *manager, r route) {
	for _, f := range m.filters[m.at+1:] {
		if !onlyDecided(as[rbacv3.RBAC](f.config), m.judge.namespace()) {
			continue
		}
		on, a := r.on(f)
		if o := as[rbacv3.RBACPerRoute](a); !on || o != nil && !onlyDecided(o.GetRbac(), m.judge.namespace()) {
			x.add(Critical, "lock-3", r.where, "switches off the filter "+f.GetName(), "remove it from typed_per_filter_config")
		}
	}
}

// onlyDecided reports whether r demands the metadata of a final verdict of everybody.
func onlyDecided(r *rbacv3.RBAC, namespace string) bool {
	rules := r.GetRules()
	if rules.GetAction() != rbacconfigv3.RBAC_ALLOW || len(rules.GetPolicies()) == 0 {
		return false
	}
	for _, p := range rules.GetPolicies() {
		for _, principal := range p.GetPrincipals() {
			m := principal.GetSourcedMetadata().GetMetadataMatcher()
			if m == nil {
				m = principal.GetMetadata() //nolint:staticcheck // an old dump has it
			}
			path := m.GetPath()
			decided := m.GetFilter() == namespace && len(path) == 1 && path[0].GetKey() == envoy.DecidedKey && !m.GetInvert() &&
				(m.GetValue().GetPresentMatch() || m.GetValue().GetBoolMatch())
			if !decided {
				return false
			}
		}
	}
	return true
}

// repeated: a call may be no second time, and a token goes to one place.
func (x *exam) repeated(r route) {
	a := r.GetRoute()
	if a.GetRetryPolicy() != nil || a.GetRetryPolicyTypedConfig() != nil || r.host.GetRetryPolicy() != nil || r.host.GetRetryPolicyTypedConfig() != nil {
		x.add(Warning, "retry", r.where, "a call that failed is sent again, though it may have done its work", "remove retry_policy")
	}
	if a.GetHedgePolicy() != nil || r.host.GetHedgePolicy() != nil {
		x.add(Warning, "hedge", r.where, "a slow call is sent a second time", "remove hedge_policy")
	}
	redirects := a.GetInternalRedirectAction() == routev3.RouteAction_HANDLE_INTERNAL_REDIRECT //nolint:staticcheck // an old dump has it
	if a.GetInternalRedirectPolicy() != nil || redirects {
		x.add(Critical, "internal-redirect", r.where, "an MCP server can send a call, and its token, elsewhere", "remove internal_redirect_policy")
	}
}

// copied: a mirror gets the call's token.
func (x *exam) copied(r route) {
	if len(r.GetRoute().GetRequestMirrorPolicies())+len(r.host.GetRequestMirrorPolicies())+len(r.table.GetRequestMirrorPolicies()) > 0 {
		x.add(Critical, "mirror", r.where, "calls are copied to another cluster, with their tokens", "remove request_mirror_policies")
	}
	for _, u := range r.GetRoute().GetUpgradeConfigs() {
		if u.GetEnabled() == nil || u.GetEnabled().GetValue() {
			x.add(Critical, "upgrades", r.where, "upgrades to "+u.GetUpgradeType()+" pass, and what follows is out of the filter's sight", "remove upgrade_configs")
		}
	}
}

// limits: an answer may be a stream that lasts.
func (x *exam) limits(r route) {
	if t := r.GetRoute().GetTimeout(); t == nil || t.AsDuration() != 0 {
		x.add(Warning, "route-timeout", r.where, "answers that stream are cut (by default after 15s)", "set timeout: 0s and idle_timeout")
	}
	if d := r.GetRoute().GetMaxStreamDuration().GetMaxStreamDuration(); d != nil && d.AsDuration() != 0 {
		x.add(Warning, "route-timeout", r.where, "answers that stream are cut", "remove max_stream_duration")
	}
}
