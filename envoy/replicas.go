package envoy

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	previousv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// What is different when several services, each able to judge every message, stand behind one Envoy.

// Replica is where one of several services is: paths of unix sockets, or host:port.
type Replica struct {
	Service, Hub string // as Gateway.ServiceSocket and Gateway.HubSocket
}

func (g Gateway) several() bool { return len(g.Replicas) > 0 }

// services are all services that Envoy may ask.
func (g Gateway) services() []Replica {
	if g.several() {
		return g.Replicas
	}
	return []Replica{{Service: g.ServiceSocket, Hub: g.HubSocket}}
}

// replicas leads to every service, and by its own name to each: all hear how
// every exchange ended, and each records what it decided.
func (g Gateway) replicas(ping time.Duration) []*clusterv3.Cluster {
	var services, hubs []string
	var each []*clusterv3.Cluster
	for i, r := range g.services() {
		services, hubs = append(services, r.Service), append(hubs, r.Hub)
		if g.several() {
			each = append(each, g.ownCluster(replicaCluster(i), ServiceCluster, ping, r.Service))
		}
	}
	service, hub := g.ownCluster(ServiceCluster, ServiceCluster, ping, services...), g.ownCluster(HubRoute, HubRoute, 30*time.Second, hubs...)
	if g.several() {
		watch(service, &corev3.HealthCheck{HealthChecker: &corev3.HealthCheck_GrpcHealthCheck_{GrpcHealthCheck: &corev3.HealthCheck_GrpcHealthCheck{}}})
		watch(hub, &corev3.HealthCheck{HealthChecker: &corev3.HealthCheck_TcpHealthCheck_{TcpHealthCheck: &corev3.HealthCheck_TcpHealthCheck{}}}) // it is there
	}
	return append([]*clusterv3.Cluster{service, hub}, each...)
}

func replicaCluster(i int) string { return ServiceCluster + "/" + strconv.Itoa(i) }

// watch asks each server how it is, and asks nothing else of one that is not
// well. Where none is well all are asked: who is there can refuse.
func watch(c *clusterv3.Cluster, check *corev3.HealthCheck) {
	check.Interval = durationpb.New(500 * time.Millisecond)
	check.NoTrafficInterval = check.Interval
	check.Timeout = durationpb.New(2 * time.Second)
	check.UnhealthyThreshold = wrapperspb.UInt32(2) // of silence; a no counts at once
	check.HealthyThreshold = wrapperspb.UInt32(1)
	c.HealthChecks = []*corev3.HealthCheck{check}
	c.CommonLbConfig = &clusterv3.Cluster_CommonLbConfig{HealthyPanicThreshold: &typev3.Percent{Value: 1}}
}

// orAnother has another service asked when one cannot be reached. A service
// that has answered once has judged: what is broken off after that is refused.
func orAnother(s *corev3.GrpcService) *corev3.GrpcService {
	s.RetryPolicy = &corev3.RetryPolicy{
		RetryOn:      "connect-failure,refused-stream,reset,unavailable",
		NumRetries:   wrapperspb.UInt32(3),
		RetryBackOff: &corev3.BackoffStrategy{BaseInterval: durationpb.New(10 * time.Millisecond)},
		RetryHostPredicate: []*corev3.RetryPolicy_RetryHostPredicate{{
			Name: previousHosts, ConfigType: &corev3.RetryPolicy_RetryHostPredicate_TypedConfig{TypedConfig: typed(&previousv3.PreviousHostsPredicate{})},
		}},
		HostSelectionRetryMaxAttempts: 3,
	}
	return s
}

const previousHosts = "envoy.retry_host_predicates.previous_hosts"

// unheard has another hub asked when one has not seen anything of the request,
// which may be a call that is not to be made twice.
func unheard() *routev3.RetryPolicy {
	return &routev3.RetryPolicy{
		RetryOn:      "connect-failure,refused-stream,reset-before-request",
		NumRetries:   wrapperspb.UInt32(3),
		RetryBackOff: &routev3.RetryPolicy_RetryBackOff{BaseInterval: durationpb.New(10 * time.Millisecond)},
		RetryHostPredicate: []*routev3.RetryPolicy_RetryHostPredicate{{
			Name: previousHosts, ConfigType: &routev3.RetryPolicy_RetryHostPredicate_TypedConfig{TypedConfig: typed(&previousv3.PreviousHostsPredicate{})},
		}},
		HostSelectionRetryMaxAttempts: 3,
	}
}

// endpoints are where a cluster's servers are, and how Envoy learns that. hosts are those of TCP addresses.
func endpoints(cluster string, where []string) (discovery clusterv3.Cluster_DiscoveryType, to *endpointv3.ClusterLoadAssignment, hosts []string) {
	discovery = clusterv3.Cluster_STATIC
	all := &endpointv3.LocalityLbEndpoints{}
	for _, w := range where {
		address := pipe(w, 0)
		if host, port, ok := splitAddress(w); ok {
			address, hosts = socketAddress(host, port), append(hosts, host)
			if _, err := netip.ParseAddr(host); err != nil {
				discovery = clusterv3.Cluster_STRICT_DNS
			}
		}
		one := endpoint(cluster, "", address).GetEndpoints()[0]
		all.LbEndpoints = append(all.LbEndpoints, one.GetLbEndpoints()...)
	}
	return discovery, &endpointv3.ClusterLoadAssignment{ClusterName: cluster, Endpoints: []*endpointv3.LocalityLbEndpoints{all}}, hosts
}

func (g Gateway) checkReplicas() (errs []error) {
	if !g.several() {
		return nil
	}
	if g.Dynamic || g.EgressSocket != "" {
		errs = append(errs, errors.New("envoy: replicas need a static configuration, and hubs that reach the upstreams by themselves"))
	}
	seen := map[string]bool{}
	for _, r := range g.Replicas {
		for _, where := range []string{r.Service, r.Hub} {
			_, _, isAddress := splitAddress(where)
			if _, _, first := splitAddress(g.Replicas[0].Service); where == "" || isAddress != first || !isAddress && len(where) > maxSocketPath {
				errs = append(errs, fmt.Errorf("envoy: replica at %q: want host:port for all, or a path of 1 to %d bytes for all", where, maxSocketPath))
			}
			if seen[where] {
				errs = append(errs, fmt.Errorf("envoy: replica at %q given twice", where))
			}
			seen[where] = true
		}
	}
	return errs
}
