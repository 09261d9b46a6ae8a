package service

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/config"
	"github.com/sallyport/sallyport/envoy"
)

// upstreamTLS is how Envoy connects as profile t says.
func upstreamTLS(t *config.TLS) *envoy.UpstreamTLS {
	return &envoy.UpstreamTLS{CAFile: t.CAFile, CertFile: t.CertFile, KeyFile: t.KeyFile, MinVersion: t.MinVersion, CRLFile: t.CRLFile, SPIFFEIDs: t.SPIFFEIDs}
}

// clientAuthorities are those that clients' certificates are checked against: the one file, or what several hold together.
func clientAuthorities(t *config.TLS) (file, pem string) {
	if len(t.ClientCAFiles) == 1 {
		return t.ClientCAFiles[0], ""
	}
	return "", strings.Join(contents(t.ClientCAFiles...), "\n")
}

// ClientTLS is how a TLS client trusts and shows itself as profile p says; nil for none.
func ClientTLS(p *config.TLS) (*tls.Config, error) {
	if p == nil {
		return nil, nil
	}
	return clientTLS(upstreamTLS(p))
}

// clientTLS connects as Envoy does with p.
func clientTLS(p *envoy.UpstreamTLS) (*tls.Config, error) {
	out := &tls.Config{MinVersion: minVersion(p.MinVersion)}
	var err error
	if p.CAFile != "" {
		if out.RootCAs, err = pool(p.CAFile); err != nil {
			return nil, err
		}
	}
	if p.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(p.CertFile, p.KeyFile)
		if err != nil {
			return nil, err
		}
		out.Certificates = []tls.Certificate{pair}
	}
	rules, err := rulesOf(p.SPIFFEIDs, p.CRLFile)
	if err != nil {
		return nil, err
	}
	if len(rules.ids) > 0 { // an id stands in place of the host's name
		if rules.roots = out.RootCAs; rules.roots == nil {
			return nil, errors.New("SPIFFE ids without caFile: anybody's authority could issue them")
		}
		out.InsecureSkipVerify = true //nolint:gosec // VerifyConnection checks the chain
	}
	if len(rules.ids)+len(rules.lists) > 0 {
		out.VerifyConnection = rules.verify
	}
	return out, nil
}

// serverTLS is how the service shows itself to Envoy, and asks for its certificate; nil for no profile.
func serverTLS(p *config.TLS) (*tls.Config, error) {
	if p == nil {
		return nil, nil
	}
	pair, err := tls.LoadX509KeyPair(p.CertFile, p.KeyFile)
	if err != nil {
		return nil, err
	}
	clients, err := pool(p.ClientCAFiles...)
	if err != nil {
		return nil, err
	}
	rules, err := rulesOf(p.SPIFFEIDs, p.CRLFile)
	if err != nil {
		return nil, err
	}
	return &tls.Config{MinVersion: minVersion(p.MinVersion), Certificates: []tls.Certificate{pair}, ClientCAs: clients, ClientAuth: tls.RequireAndVerifyClientCert,
		VerifyConnection: rules.verify, NextProtos: []string{"h2"},
		SessionTicketsDisabled: true, // connections last; and each is to be checked against what is in force
	}, nil
}

// secure has l, unless it is a unix socket, speak TLS by the profile in force.
func (s *Service) secure(l net.Listener) net.Listener {
	if s.now().own == nil || l.Addr().Network() == "unix" {
		return l
	}
	return tls.NewListener(l, &tls.Config{MinVersion: tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return s.now().own, nil }})
}

func minVersion(name string) uint16 {
	if name == "1.3" {
		return tls.VersionTLS13
	}
	return tls.VersionTLS12
}

// pool are the authorities in PEM files, each of which must hold one.
func pool(files ...string) (*x509.CertPool, error) {
	out := x509.NewCertPool()
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		if !out.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("%s holds no certificate", f)
		}
	}
	return out, nil
}

// rules are what a peer's certificate is held to besides its authority. They are those that Envoy has in its place.
type rules struct {
	ids   []string               // it carries one of them as a URI name; none: any name
	lists []*x509.RevocationList // in one chain at least no certificate is revoked, and each has its authority's list; none: nothing is revoked
	roots *x509.CertPool         // of servers, where nobody has checked the chain yet; nil: somebody has
}

func rulesOf(ids []string, crlFile string) (r rules, err error) {
	r.ids = ids
	if crlFile == "" {
		return r, nil
	}
	text, err := os.ReadFile(crlFile)
	if err != nil {
		return r, err
	}
	if r.lists, err = config.RevocationLists(text); err != nil {
		return r, fmt.Errorf("%s: %w", crlFile, err)
	}
	return r, nil
}

var (
	errNoID    = errors.New("the certificate carries none of the SPIFFE ids")
	errRevoked = errors.New("the certificate is revoked, or its authority has no revocation list in force")
)

// verify is a VerifyConnection of [tls.Config]: it sees resumed connections, too.
func (r rules) verify(s tls.ConnectionState) error {
	leaf, chains := s.PeerCertificates[0], s.VerifiedChains
	if r.roots != nil {
		between := x509.NewCertPool()
		for _, c := range s.PeerCertificates[1:] {
			between.AddCert(c)
		}
		var err error
		if chains, err = leaf.Verify(x509.VerifyOptions{Roots: r.roots, Intermediates: between}); err != nil {
			return err
		}
	}
	if len(r.ids) > 0 && !slices.ContainsFunc(leaf.URIs, func(u *url.URL) bool { return slices.Contains(r.ids, u.String()) }) {
		return errNoID
	}
	if r.lists != nil && !slices.ContainsFunc(chains, r.inForce) {
		return errRevoked
	}
	return nil
}

// inForce reports whether no certificate of a chain is revoked. The last is trusted because it is here.
func (r rules) inForce(chain []*x509.Certificate) bool {
	for i, issuer := range chain[1:] {
		if !r.allows(chain[i], issuer) {
			return false
		}
	}
	return true
}

func (r rules) allows(cert, issuer *x509.Certificate) bool {
	known, now := false, time.Now()
	for _, l := range r.lists {
		if !bytes.Equal(l.RawIssuer, issuer.RawSubject) || l.CheckSignatureFrom(issuer) != nil || now.After(l.NextUpdate) {
			continue
		}
		known = true
		if slices.ContainsFunc(l.RevokedCertificateEntries, func(e x509.RevocationListEntry) bool { return e.SerialNumber.Cmp(cert.SerialNumber) == 0 }) {
			return false
		}
	}
	return known
}
