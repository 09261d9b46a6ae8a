package envoy

import (
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
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

// verifies reports whether clients are asked for a certificate.
func (t *ListenerTLS) verifies() bool { return t.ClientCAFile != "" || t.ClientCAs != "" }

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

// present has a connection show a certificate.
func (g Gateway) present(c *tlsv3.CommonTlsContext, secret, certFile, keyFile string) {
	if g.Dynamic {
		c.TlsCertificateSdsSecretConfigs = []*tlsv3.SdsSecretConfig{{Name: secret, SdsConfig: fromService()}}
		return
	}
	c.TlsCertificates = []*tlsv3.TlsCertificate{certificate(certFile, keyFile)}
}

// trust has a connection demand what rules say, which are those of the secret, and one of the names besides.
func (g Gateway) trust(c *tlsv3.CommonTlsContext, secret string, rules *tlsv3.CertificateValidationContext, names []*tlsv3.SubjectAltNameMatcher) {
	if g.Dynamic {
		c.ValidationContextType = &tlsv3.CommonTlsContext_CombinedValidationContext{
			CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
				DefaultValidationContext:         &tlsv3.CertificateValidationContext{MatchTypedSubjectAltNames: names},
				ValidationContextSdsSecretConfig: &tlsv3.SdsSecretConfig{Name: secret, SdsConfig: fromService()},
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
