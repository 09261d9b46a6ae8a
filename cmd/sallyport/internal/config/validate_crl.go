package config

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"slices"
	"time"
)

// revocations checks that a profile's lists are there, one at least of each of its authorities, and that they are theirs:
// whoever verifies refuses everything that an authority without a list has issued.
func (c *checker) revocations(t *TLS) {
	src, ok := c.contents(&t.CRLFile, "crlFile")
	if !ok {
		return
	}
	lists, err := RevocationLists(src)
	if err != nil {
		c.errorf(c.place(&t.CRLFile), "crlFile: %s holds no PEM certificate revocation list (X509 CRL)", c.show(&t.CRLFile))
		return
	}
	for _, file := range slices.Concat([]string{t.CAFile}, t.ClientCAFiles) {
		pem, err := c.sources.read(file)
		if err != nil {
			continue // none, or reported already
		}
		for _, issuer := range certificates(pem) {
			i := slices.IndexFunc(lists, func(l *x509.RevocationList) bool { return l.CheckSignatureFrom(issuer) == nil })
			switch {
			case i < 0:
				c.errorf(c.place(&t.CRLFile), "crlFile: %s has no list of the authority %q, so that all it has issued would be refused; add one", c.show(&t.CRLFile), issuer.Subject)
			case time.Now().After(lists[i].NextUpdate):
				c.warnf(c.place(&t.CRLFile), "crlFile: the list of the authority %q in %s is past its nextUpdate, so that all it has issued is refused; get a new one", issuer.Subject, c.show(&t.CRLFile))
			}
		}
	}
}

// RevocationLists are the certificate revocation lists (RFC 5280 §5) that PEM text holds. One that is none, or none at all, is
// an error.
func RevocationLists(src []byte) (out []*x509.RevocationList, err error) {
	for block, rest := pem.Decode(src); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "X509 CRL" {
			continue
		}
		list, err := x509.ParseRevocationList(block.Bytes)
		if err != nil {
			return nil, err
		}
		out = append(out, list)
	}
	if out == nil {
		return nil, errors.New("no PEM certificate revocation list (X509 CRL)")
	}
	return out, nil
}
