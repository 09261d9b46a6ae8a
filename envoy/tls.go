package envoy

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"strings"
	"unicode/utf8"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// spiffeID is the id of a workload: a trust domain and a path without empty segments (SPIFFE-ID §2; relative ones are checked beside).
var spiffeID = regexp.MustCompile(`^spiffe://[a-z0-9._-]{1,255}(/[A-Za-z0-9._-]+)+$`)

// IsSPIFFEID reports whether id is `spiffe://trust-domain/path` as SPIFFE-ID §2 has it.
func IsSPIFFEID(id string) bool {
	return len(id) <= 2048 && spiffeID.MatchString(id) && !strings.Contains(id+"/", "/./") && !strings.Contains(id+"/", "/../")
}

func checkIDs(who string, ids []string) (errs []error) {
	for _, id := range ids {
		if !IsSPIFFEID(id) {
			errs = append(errs, fmt.Errorf("envoy: %s: %q is no SPIFFE id", who, id))
		}
	}
	return errs
}

func (t *UpstreamTLS) check(who string) []error {
	errs := checkTLS(who, t.MinVersion, t.CertFile, t.KeyFile, t.CAFile, t.CRLFile)
	if (t.CertFile == "") != (t.KeyFile == "") {
		errs = append(errs, fmt.Errorf("envoy: %s: a client certificate needs both its file and its key's", who))
	}
	return append(errs, checkIDs(who, t.SPIFFEIDs)...)
}

func checkTLS(who, minVersion string, texts ...string) []error {
	var errs []error
	if minVersion != "1.2" && minVersion != "1.3" {
		errs = append(errs, fmt.Errorf("envoy: %s: TLS version %q: want 1.2 or 1.3", who, minVersion))
	}
	for _, text := range texts {
		if !utf8.ValidString(text) {
			errs = append(errs, fmt.Errorf("envoy: %s: file name %q is not UTF-8", who, text))
		}
	}
	return errs
}

// Verifies reports whether clients are asked for a certificate. There need be no TLS.
func (t *ListenerTLS) Verifies() bool { return t != nil && (t.ClientCAFile != "" || t.ClientCAs != "") }

// clients is what clients' certificates are held to. All of it is in the secret, so that the listener stays when it changes.
func (t *ListenerTLS) clients() *tlsv3.CertificateValidationContext {
	rules := authorities(t.ClientCAFile, t.ClientCAs, t.ClientCRLFile)
	rules.MatchTypedSubjectAltNames = uriNames(t.ClientSPIFFEIDs)
	return rules
}

// authorities demands a certificate of theirs, given as a file or as text, that no list of crlFile revokes.
func authorities(caFile, pem, crlFile string) *tlsv3.CertificateValidationContext {
	rules := &tlsv3.CertificateValidationContext{TrustedCa: file(caFile)}
	if pem != "" {
		rules.TrustedCa = &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: pem}}
	}
	if crlFile != "" {
		rules.Crl = file(crlFile)
	}
	return rules
}

// uriNames are names of which a certificate must carry one.
func uriNames(ids []string) (out []*tlsv3.SubjectAltNameMatcher) {
	for _, id := range ids {
		out = append(out, &tlsv3.SubjectAltNameMatcher{
			SanType: tlsv3.SubjectAltNameMatcher_URI,
			Matcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: id}},
		})
	}
	return out
}

// clientTLS connects to hosts, of which a certificate must carry a name, as a DNS name or an address, or one of t's ids in place of
// it: a chain to a public authority alone proves nothing.
func (g Gateway) clientTLS(t *UpstreamTLS, trustSecret, certificateSecret string, hosts ...string) *tlsv3.UpstreamTlsContext {
	var names []*tlsv3.SubjectAltNameMatcher
	sni := hosts[0]
	for _, host := range hosts {
		kind := tlsv3.SubjectAltNameMatcher_DNS
		if _, err := netip.ParseAddr(host); err == nil {
			kind, sni = tlsv3.SubjectAltNameMatcher_IP_ADDRESS, "" // RFC 6066 §3: no literal addresses
		}
		names = append(names, &tlsv3.SubjectAltNameMatcher{
			SanType: kind,
			Matcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: host}},
		})
	}
	if len(t.SPIFFEIDs) > 0 {
		names = uriNames(t.SPIFFEIDs)
	}
	common := &tlsv3.CommonTlsContext{TlsParams: tlsParams(t.MinVersion)}
	g.trust(common, trustSecret, authorities(cmp.Or(t.CAFile, g.CAFile), "", t.CRLFile), names)
	if t.CertFile != "" {
		g.present(common, certificateSecret, t.CertFile, t.KeyFile)
	}
	return &tlsv3.UpstreamTlsContext{Sni: sni, CommonTlsContext: common}
}

// source is where Envoy gets a secret: from the service, or, which it must for the way to the service, from a file of
// SecretsDir. Nil: from nowhere, since it is written where it is needed.
func (g Gateway) source(secret string) *corev3.ConfigSource {
	switch {
	case g.Dynamic && secret != ServiceCluster && secret != ownTrust(ServiceCluster):
		return fromService()
	case g.SecretsDir == "":
		return nil
	}
	return &corev3.ConfigSource{
		ConfigSourceSpecifier: &corev3.ConfigSource_PathConfigSource{PathConfigSource: &corev3.PathConfigSource{Path: g.secretFile(secret)}},
		ResourceApiVersion:    corev3.ApiVersion_V3,
	}
}

func (g Gateway) secretFile(secret string) string {
	sum := sha256.Sum256([]byte(secret)) // which may hold any character
	return filepath.Join(g.SecretsDir, "secret-"+hex.EncodeToString(sum[:6])+".yaml")
}

// SecretFiles returns, by path, the files of g.SecretsDir. They hold names of files, and nothing that is secret.
func SecretFiles(g Gateway) (map[string][]byte, error) {
	g, err := g.withDefaults()
	if err != nil {
		return nil, err
	}
	out := map[string][]byte{}
	for _, s := range g.secrets() {
		if g.source(s.GetName()).GetPathConfigSource() == nil {
			continue
		}
		text, err := render(&discoveryv3.DiscoveryResponse{Resources: []*anypb.Any{typed(s)}})
		if err != nil {
			return nil, fmt.Errorf("envoy: secret %q: %w", s.GetName(), err)
		}
		out[g.secretFile(s.GetName())] = text
	}
	return out, nil
}

// present has a connection show a certificate.
func (g Gateway) present(c *tlsv3.CommonTlsContext, secret, certFile, keyFile string) {
	if from := g.source(secret); from != nil {
		c.TlsCertificateSdsSecretConfigs = []*tlsv3.SdsSecretConfig{{Name: secret, SdsConfig: from}}
		return
	}
	c.TlsCertificates = []*tlsv3.TlsCertificate{certificate(certFile, keyFile)}
}

// trust has a connection demand what rules say, which are those of the secret, and one of the names besides.
func (g Gateway) trust(c *tlsv3.CommonTlsContext, secret string, rules *tlsv3.CertificateValidationContext, names []*tlsv3.SubjectAltNameMatcher) {
	if from := g.source(secret); from != nil {
		c.ValidationContextType = &tlsv3.CommonTlsContext_CombinedValidationContext{
			CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
				DefaultValidationContext:         &tlsv3.CertificateValidationContext{MatchTypedSubjectAltNames: names},
				ValidationContextSdsSecretConfig: &tlsv3.SdsSecretConfig{Name: secret, SdsConfig: from},
			},
		}
		return
	}
	if names != nil {
		rules.MatchTypedSubjectAltNames = names
	}
	c.ValidationContextType = &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: rules}
}

func tlsSocket(context proto.Message) *corev3.TransportSocket {
	return &corev3.TransportSocket{
		Name:       "envoy.transport_sockets.tls",
		ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: typed(context)},
	}
}

func tlsParams(minVersion string) *tlsv3.TlsParameters {
	params := &tlsv3.TlsParameters{
		TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_2,
		TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_3, // Envoy's default for upstreams is 1.2
	}
	if minVersion == "1.3" {
		params.TlsMinimumProtocolVersion = tlsv3.TlsParameters_TLSv1_3
	}
	return params
}

func certificate(certFile, keyFile string) *tlsv3.TlsCertificate {
	return &tlsv3.TlsCertificate{CertificateChain: file(certFile), PrivateKey: file(keyFile)}
}
