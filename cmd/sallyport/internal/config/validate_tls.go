package config

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"slices"
	"strings"
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
		if len(t.ClientCAFiles) > 1 {
			c.errorf(c.place(&t.ClientCAFiles[1], t), "clientCAFiles: Envoy reads one file; put all certificates into it")
		}
		for i := range t.ClientCAFiles {
			c.authorities(&t.ClientCAFiles[i], "clientCAFiles")
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
	count := 0
	for block, rest := pem.Decode(src); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		if _, err := x509.ParseCertificate(block.Bytes); err == nil {
			count++
		}
	}
	if count == 0 {
		c.errorf(c.place(field), "%s: %s holds no PEM certificate", name, c.show(field))
	}
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
	if t := c.profile(field); t != nil && t.CertFile == "" && t.KeyFile == "" {
		c.errorf(c.place(field), "tls profile %s has no certFile and keyFile, which a listener needs; add them", c.show(field))
	}
}
