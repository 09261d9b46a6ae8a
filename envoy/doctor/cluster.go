package doctor

import (
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
)

// examineClusters examines the MCP servers' and the service's.
func (x *exam) examineClusters() {
	for _, c := range x.clusters {
		if !x.upstreams[c.GetName()] && c.GetName() != x.service {
			continue
		}
		where := "cluster " + c.GetName()
		x.breakers(c, where)
		x.sockets(c, where)
	}
}

// breakers: open event streams count as requests, and Envoy's default is 1024 of them.
func (x *exam) breakers(c *clusterv3.Cluster, where string) {
	for _, t := range c.GetCircuitBreakers().GetThresholds() {
		if t.GetPriority() == corev3.RoutingPriority_DEFAULT && t.GetMaxRequests() != nil {
			return
		}
	}
	x.add(Warning, "circuit-breakers", where, "takes 1024 requests at a time, open event streams included", "set circuit_breakers.thresholds.max_requests")
}

// sockets: a token goes to whoever the TLS handshake lets pass.
func (x *exam) sockets(c *clusterv3.Cluster, where string) {
	all := []*corev3.TransportSocket{c.GetTransportSocket()}
	for _, m := range c.GetTransportSocketMatches() {
		all = append(all, m.GetTransportSocket())
	}
	protocol := as[httpv3.HttpProtocolOptions](c.GetTypedExtensionProtocolOptions()["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"])
	auto := protocol.GetUpstreamHttpProtocolOptions().GetAutoSanValidation()
	for _, s := range all {
		x.tapped(s, where)
		if context := as[tlsv3.UpstreamTlsContext](s.GetTypedConfig()); context != nil {
			x.upstreamTLS(context, auto, where)
		}
	}
}

func (x *exam) upstreamTLS(c *tlsv3.UpstreamTlsContext, auto bool, where string) {
	common := c.GetCommonTlsContext()
	validation := common.GetValidationContext()
	trusted := validation.GetTrustedCa() != nil || validation.GetSystemRootCerts() != nil || validation.GetCaCertificateProviderInstance() != nil ||
		len(validation.GetVerifyCertificateSpki())+len(validation.GetVerifyCertificateHash()) > 0
	if combined := common.GetCombinedValidationContext(); combined != nil {
		validation, trusted = combined.GetDefaultValidationContext(), true
	}
	named := auto || c.GetAutoSniSanValidation() || len(validation.GetMatchTypedSubjectAltNames()) > 0 ||
		len(validation.GetVerifyCertificateSpki())+len(validation.GetVerifyCertificateHash()) > 0
	switch {
	case common.GetValidationContextSdsSecretConfig() != nil:
		x.add(Info, "upstream-tls", where, "what its certificate is checked against comes from a secret that is not in the dump", "see that it names the server")
	case !trusted || validation.GetTrustChainVerification() == tlsv3.CertificateValidationContext_ACCEPT_UNTRUSTED:
		x.add(Critical, "upstream-tls", where, "its certificate is not checked: anybody in between gets the calls and their tokens", "set common_tls_context.validation_context.trusted_ca")
	case !named:
		x.add(Critical, "upstream-tls", where, "any certificate of a trusted authority will do", "set match_typed_subject_alt_names, or auto_sni_san_validation: true")
	}
	if common.GetKeyLog() != nil {
		x.add(Critical, "key-log", where, "the keys of its TLS connections are written to a file", "remove key_log")
	}
}

func (x *exam) tapped(s *corev3.TransportSocket, where string) {
	if kindOf(s.GetTypedConfig()) == "envoy.extensions.transport_sockets.tap.v3.Tap" {
		x.add(Critical, "tap", where, "a copy of everything, tokens included, is written elsewhere", "remove the tap transport socket")
	}
}
