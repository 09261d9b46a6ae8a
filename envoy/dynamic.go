package envoy

import (
	"cmp"
	"slices"
	"strings"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

// What is different when Envoy asks the service for its resources: a listener
// names its routes and certificates instead of holding them, so that it stays
// the same when they change.

// The names of secrets. Those of the listener do not depend on where its files
// are, or a listener would change with them.
const (
	listenerSecret = "listener"
	clientsSecret  = "listener/clients"
)

func ownTrust(cluster string) string { return cluster + "/trust" }
func certificateSecret(certFile, keyFile string) string {
	return "certificate:" + certFile + ":" + keyFile
}
func (a App) trustSecret(g Gateway) string {
	if a.TLS.CRLFile != "" {
		return "trust:" + a.caFile(g) + ":" + a.TLS.CRLFile
	}
	return "trust:" + a.caFile(g)
}
func (a App) caFile(g Gateway) string { return cmp.Or(a.TLS.CAFile, g.CAFile) }
func (a App) secure() bool            { return strings.HasPrefix(a.URL, "https:") }

// fromService has Envoy ask the service, on the stream on which it asks for everything.
func fromService() *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
		ResourceApiVersion:    corev3.ApiVersion_V3,
	}
}

// dynamicResources names the service as the place of all resources. A service
// that went away is asked again within a second or two; until then Envoy keeps
// what it has, and, having nobody to ask about messages, refuses them.
func dynamicResources() *bootstrapv3.Bootstrap_DynamicResources {
	service := grpcService(ServiceCluster, 64<<20)
	service.GetEnvoyGrpc().RetryPolicy = &corev3.RetryPolicy{RetryBackOff: &corev3.BackoffStrategy{
		BaseInterval: durationpb.New(100 * time.Millisecond), MaxInterval: durationpb.New(2 * time.Second),
	}}
	return &bootstrapv3.Bootstrap_DynamicResources{
		LdsConfig: fromService(),
		CdsConfig: fromService(),
		AdsConfig: &corev3.ApiConfigSource{
			ApiType:             corev3.ApiConfigSource_DELTA_GRPC,
			TransportApiVersion: corev3.ApiVersion_V3,
			GrpcServices:        []*corev3.GrpcService{service},
		},
	}
}

// route gives a connection manager its route table.
func (g Gateway) route(manager *hcmv3.HttpConnectionManager, table *routev3.RouteConfiguration) {
	manager.RouteSpecifier = &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: table}
	if g.Dynamic {
		manager.RouteSpecifier = &hcmv3.HttpConnectionManager_Rds{
			Rds: &hcmv3.Rds{ConfigSource: fromService(), RouteConfigName: table.GetName()},
		}
	}
}

// served are the secrets that Envoy asks the service for.
func (g Gateway) served() (out []*tlsv3.Secret) {
	for _, s := range g.secrets() {
		if g.source(s.GetName()).GetAds() != nil {
			out = append(out, s)
		}
	}
	return out
}

// secrets are the certificates of all connections, in order of their names.
func (g Gateway) secrets() []*tlsv3.Secret {
	all := map[string]*tlsv3.Secret{}
	certificateIn := func(name, certFile, keyFile string) {
		all[name] = &tlsv3.Secret{Name: name, Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: certificate(certFile, keyFile)}}
	}
	trustIn := func(name string, rules *tlsv3.CertificateValidationContext) {
		all[name] = &tlsv3.Secret{Name: name, Type: &tlsv3.Secret_ValidationContext{ValidationContext: rules}}
	}
	if t := g.TLS; t != nil {
		certificateIn(listenerSecret, t.CertFile, t.KeyFile)
		if t.Verifies() {
			trustIn(clientsSecret, t.clients())
		}
	}
	first := g.services()[0] // all are reached in one way
	for _, own := range [][2]string{{ServiceCluster, first.Service}, {HubRoute, first.Hub}} {
		if _, _, tcp := splitAddress(own[1]); tcp && g.ServiceTLS != nil {
			trustIn(ownTrust(own[0]), authorities(cmp.Or(g.ServiceTLS.CAFile, g.CAFile), "", g.ServiceTLS.CRLFile))
			if g.ServiceTLS.CertFile != "" {
				certificateIn(own[0], g.ServiceTLS.CertFile, g.ServiceTLS.KeyFile)
			}
		}
	}
	for _, a := range g.Apps {
		if !a.secure() {
			continue
		}
		trustIn(a.trustSecret(g), authorities(a.caFile(g), "", a.TLS.CRLFile))
		if a.TLS.CertFile != "" {
			certificateIn(certificateSecret(a.TLS.CertFile, a.TLS.KeyFile), a.TLS.CertFile, a.TLS.KeyFile)
		}
	}
	var out []*tlsv3.Secret
	for _, s := range all {
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b *tlsv3.Secret) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return out
}

// Inline returns r with what the files of its secrets hold in place of their
// names: Envoy then has what read returned, whatever becomes of the files. A
// file of which read returns nil is left to Envoy. The keys travel to whoever
// may ask for r, so the way must be a private one.
func (r *Resources) Inline(read func(file string) ([]byte, error)) (*Resources, error) {
	out := *r
	out.Secrets = nil
	for _, secret := range r.Secrets {
		s := proto.CloneOf(secret)
		for _, source := range []*corev3.DataSource{
			s.GetTlsCertificate().GetCertificateChain(), s.GetTlsCertificate().GetPrivateKey(),
			s.GetValidationContext().GetTrustedCa(), s.GetValidationContext().GetCrl(),
		} {
			if source.GetFilename() == "" {
				continue
			}
			content, err := read(source.GetFilename())
			if err != nil {
				return nil, err
			}
			if content == nil {
				continue
			}
			source.Specifier = &corev3.DataSource_InlineBytes{InlineBytes: content}
		}
		out.Secrets = append(out.Secrets, s)
	}
	return &out, nil
}
