package envoy

import (
	"fmt"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// Resources are one gateway in Envoy's terms. The same Gateway always gives
// the same bytes.
type Resources struct {
	// Listeners are "ingress" and, unless the hub has a way of its own, "egress",
	// each with its route table inlined, or the name of it where the gateway is
	// Dynamic.
	Listeners []*listenerv3.Listener
	// Routes are the route tables of the same names.
	Routes []*routev3.RouteConfiguration
	// Clusters are the service's, the hub's, and one for each app.
	Clusters []*clusterv3.Cluster
	// Secrets are the certificates that a Dynamic gateway asks the service for, as the names of files.
	Secrets []*tlsv3.Secret
}

// Generate returns the resources of g, or everything that is wrong with it.
func Generate(g Gateway) (*Resources, error) {
	g, err := g.withDefaults()
	if err != nil {
		return nil, err
	}
	return generate(g), nil
}

func generate(g Gateway) *Resources {
	in := ingressRoutes(g)
	ping := 30 * time.Second
	if g.Filter == FilterExtProcDuplex {
		ping = 5 * time.Second // that mode knows no message_timeout
	}
	clusters := g.replicas(ping)
	for _, a := range g.Apps {
		clusters = append(clusters, appCluster(g, a))
	}
	r := &Resources{
		Listeners: []*listenerv3.Listener{ingress(g, in)},
		Routes:    []*routev3.RouteConfiguration{in},
		Clusters:  clusters,
		Secrets:   g.served(),
	}
	if g.EgressSocket != "" {
		out := egressRoutes(g)
		r.Listeners, r.Routes = append(r.Listeners, egress(g, out)), append(r.Routes, out)
	}
	return r
}

// Bootstrap returns the file that runs g in one Envoy (envoy -c FILE): YAML,
// every resource static, or, if g is Dynamic, where to ask for them. Start Envoy with --disable-hot-restart when a parent
// process looks after it.
func Bootstrap(g Gateway) ([]byte, error) {
	g, err := g.withDefaults()
	if err != nil {
		return nil, err
	}
	r := generate(g)
	b := &bootstrapv3.Bootstrap{
		OverloadManager: overload(g),
		Node:            &corev3.Node{Id: g.NodeID, Cluster: "sallyport"},
		Admin:           &bootstrapv3.Admin{Address: pipe(g.AdminSocket, 0o600)},
		StaticResources: &bootstrapv3.Bootstrap_StaticResources{Listeners: r.Listeners, Clusters: r.Clusters},
	}
	if g.Dynamic {
		b.StaticResources = &bootstrapv3.Bootstrap_StaticResources{Clusters: r.Clusters[:1]} // the service's
		b.DynamicResources = dynamicResources()
	}
	text, err := render(b)
	if err != nil {
		return nil, fmt.Errorf("envoy: bootstrap: %w", err)
	}
	return text, nil
}

// typed wraps an extension's configuration. Packing fails only for a message
// that holds invalid UTF-8, which withDefaults has excluded.
func typed(m proto.Message) *anypb.Any {
	a := new(anypb.Any)
	if err := anypb.MarshalFrom(a, m, proto.MarshalOptions{Deterministic: true}); err != nil {
		panic(err)
	}
	return a
}

func extension(name string, m proto.Message) *corev3.TypedExtensionConfig {
	return &corev3.TypedExtensionConfig{Name: name, TypedConfig: typed(m)}
}

func pipe(path string, mode uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: path, Mode: mode}}}
}

func socketAddress(host string, port uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: host, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
	}}}
}

func file(name string) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_Filename{Filename: name}}
}

func overwrite(name, value string) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{
		Header:       &corev3.HeaderValue{Key: name, Value: value},
		AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
	}
}
