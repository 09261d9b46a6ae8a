package config

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/envoy"
)

var clientAuthTypes = []string{"NoClientCert", "VerifyClientCertIfGiven", "RequireAndVerifyClientCert"}

func (c *checker) profiles() {
	for _, t := range c.cfg.TLS {
		if t == nil {
			continue
		}
		c.certificate(t)
		if t.CAFile != "" {
			c.authorities(&t.CAFile, "caFile")
		}
		c.unique(t.ClientCAFiles, "clientCAFiles")
		for i := range t.ClientCAFiles {
			c.authorities(&t.ClientCAFiles[i], "clientCAFiles")
		}
		c.unique(t.SPIFFEIDs, "spiffeIDs")
		for i := range t.SPIFFEIDs {
			if !envoy.IsSPIFFEID(t.SPIFFEIDs[i]) {
				c.errorf(c.place(&t.SPIFFEIDs[i], t), "spiffeIDs: %s is no SPIFFE id of a workload; write spiffe://trust-domain/path, the domain in lower case, without a port, an escape or an empty segment", c.show(&t.SPIFFEIDs[i]))
			}
		}
		if t.CRLFile != "" {
			c.revocations(t)
		}
		if !slices.Contains(clientAuthTypes, t.ClientAuth) {
			c.errorf(c.place(&t.ClientAuth), "clientAuth: %s proves nothing about a client or is unknown%s", c.show(&t.ClientAuth), suggest(c.written(&t.ClientAuth), clientAuthTypes))
		} else if t.ClientAuth != "NoClientCert" && len(t.ClientCAFiles) == 0 {
			c.errorf(c.place(&t.ClientAuth), "clientAuth: %s needs clientCAFiles; name the certificates to verify against", c.show(&t.ClientAuth))
		}
	}
}

// certificate checks that a profile's certificate and key exist and belong together.
func (c *checker) certificate(t *TLS) {
	switch {
	case t.CertFile == "" && t.KeyFile == "":
		return
	case t.KeyFile == "":
		c.errorf(c.place(&t.CertFile), "certFile needs keyFile beside it")
		return
	case t.CertFile == "":
		c.errorf(c.place(&t.KeyFile), "keyFile needs certFile beside it")
		return
	}
	cert, haveCert := c.contents(&t.CertFile, "certFile")
	key, haveKey := c.contents(&t.KeyFile, "keyFile")
	if !haveCert || !haveKey {
		return
	}
	if _, err := tls.X509KeyPair(cert, key); err != nil {
		c.errorf(c.place(&t.CertFile), "certFile and keyFile: %s", strings.TrimPrefix(err.Error(), "tls: "))
	}
}

// authorities checks that a file holds at least one PEM certificate.
func (c *checker) authorities(field *string, name string) {
	src, ok := c.contents(field, name)
	if !ok {
		return
	}
	if len(certificates(src)) == 0 {
		c.errorf(c.place(field), "%s: %s holds no PEM certificate", name, c.show(field))
	}
}

// certificates are those that PEM text holds.
func certificates(src []byte) (out []*x509.Certificate) {
	for block, rest := pem.Decode(src); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil {
			out = append(out, cert)
		}
	}
	return out
}

// contents reads a file that a field names.
func (c *checker) contents(field *string, name string) ([]byte, bool) {
	src, err := c.sources.read(*field)
	if err != nil {
		c.errorf(c.place(field), "%s: %s %s", name, c.show(field), readFailure(err))
	}
	return src, err == nil
}

// profile finds the TLS profile that a field names.
func (c *checker) profile(field *string) *TLS {
	t, known := c.cfg.TLS[*field]
	if !known {
		names := make([]string, 0, len(c.cfg.TLS))
		for name := range c.cfg.TLS {
			names = append(names, name)
		}
		cure := suggest(c.written(field), names)
		if len(names) == 0 {
			cure = "; add it under the top-level key tls"
		}
		c.errorf(c.place(field), "unknown tls profile %s%s", c.show(field), cure)
	}
	return t
}

func (c *checker) serverProfile(field *string) {
	t := c.profile(field)
	if t == nil {
		return
	}
	if t.CertFile == "" && t.KeyFile == "" {
		c.errorf(c.place(field), "tls profile %s has no certFile and keyFile, which a listener needs; add them", c.show(field))
	}
	if t.rules() && t.ClientAuth == "NoClientCert" {
		c.errorf(c.place(field), "tls profile %s has spiffeIDs or a crlFile, for which a listener has to ask for a certificate; set clientAuth and clientCAFiles", c.show(field))
	}
}

func (c *checker) clientProfile(field *string) *TLS {
	t := c.profile(field)
	if t != nil && t.rules() && t.CAFile == "" {
		c.errorf(c.place(field), "tls profile %s has spiffeIDs or a crlFile, which need the server's own authorities; add caFile", c.show(field))
	}
	return t
}

// serviceTLS checks both sides of the way between Envoy and the service.
func (c *checker) serviceTLS(s *Service) {
	if s.TLS == "" && s.EnvoyTLS == "" {
		return
	}
	if s.TLS == "" {
		c.errorf(c.place(&s.EnvoyTLS), "envoyTLS has no effect without service.tls; set that, or remove it")
		return
	}
	c.serverProfile(&s.TLS)
	if t := c.cfg.TLS[s.TLS]; t != nil && t.ClientAuth != "RequireAndVerifyClientCert" {
		c.errorf(c.place(&s.TLS), "tls profile %s lets in who shows no certificate, and only Envoy may speak to the service; set its clientAuth to RequireAndVerifyClientCert", c.show(&s.TLS))
	}
	isSocket := s.Address == "" || strings.HasPrefix(s.Address, "unix:")
	if isSocket && s.Hub == "" {
		c.errorf(c.place(&s.TLS), "tls has no effect on unix sockets; set service.address to host:port, or remove it")
	}
	if s.EnvoyTLS == "" {
		return
	}
	t := c.clientProfile(&s.EnvoyTLS)
	if t == nil {
		return
	}
	if t.CertFile == "" || t.CAFile == "" {
		c.errorf(c.place(&s.EnvoyTLS), "tls profile %s has no certFile for Envoy to show or no caFile for it to trust; add them", c.show(&s.EnvoyTLS))
	}
	for _, field := range []*string{&s.Address, &s.Hub} {
		host, _, err := net.SplitHostPort(*field)
		if ip, _ := netip.ParseAddr(host); err == nil && (host == "" || ip.IsUnspecified()) && len(t.SPIFFEIDs) == 0 {
			c.errorf(c.place(field), "no certificate names %s; write the address that Envoy connects to and the certificate names, or give profile %s spiffeIDs", c.show(field), c.show(&s.EnvoyTLS))
		}
	}
}

// rules reports whether a certificate is held to more than its authority and a host's name.
func (t *TLS) rules() bool { return len(t.SPIFFEIDs) > 0 || t.CRLFile != "" }
