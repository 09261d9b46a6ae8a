package service

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"testing"
	"time"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/config"
)

// issuer is an authority, with its certificate in ca.pem of a directory of its own.
type issuer struct {
	files
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	i := &issuer{files: files{t, t.TempDir()}}
	i.cert, i.key = i.issue("ca", func(c *x509.Certificate) {
		c.IsCA, c.KeyUsage, c.SubjectKeyId = true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign, []byte{1}
	})
	return i
}

var serials = int64(1)

// issue writes NAME.pem and NAME.key; the first certificate is the authority's own.
func (i *issuer) issue(name string, as func(*x509.Certificate)) (*x509.Certificate, *ecdsa.PrivateKey) {
	i.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(i.t, err)
	serials++
	template := &x509.Certificate{SerialNumber: big.NewInt(serials), Subject: pkix.Name{CommonName: name}, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	as(template)
	parent, signer := i.cert, i.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	must(i.t, err)
	cert, err := x509.ParseCertificate(der)
	must(i.t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	must(i.t, err)
	i.write(name+".pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	i.write(name+".key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
	return cert, key
}

// revoke writes ca.crl.
func (i *issuer) revoke(until time.Time, certs ...*x509.Certificate) {
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now().Add(-2 * time.Hour), NextUpdate: until}
	for _, c := range certs {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: time.Now()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, i.cert, i.key)
	must(i.t, err)
	i.write("ca.crl", string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})))
}

func named(name string) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		if u, err := url.Parse(name); err == nil && u.Scheme != "" {
			c.URIs = []*url.URL{u}
			return
		}
		c.DNSNames = []string{name}
	}
}

// shake is a handshake in which client speaks to server by the name "localhost".
func shake(t *testing.T, client, server *tls.Config) (clientErr, serverErr error) {
	t.Helper()
	near, far := net.Pipe()
	defer func() { _, _ = near.Close(), far.Close() }()
	done := make(chan error, 1)
	s := tls.Server(far, server)
	go func() {
		err := s.Handshake()
		_ = far.Close()
		done <- err
	}()
	client = client.Clone()
	client.ServerName = "localhost"
	c := tls.Client(near, client)
	clientErr = c.Handshake()
	if clientErr == nil {
		_, _ = c.Read(make([]byte, 1)) // TLS 1.3: a server's refusal comes later
	}
	_ = near.Close()
	return clientErr, <-done
}

// A server is held to what its profile says: an authority, an id in place of the host's name, and no place on a list.
func TestClientTLSHoldsServersToTheirProfile(t *testing.T) {
	ours, others := newIssuer(t), newIssuer(t)
	const id = "spiffe://example.org/items"
	hour := time.Now().Add(time.Hour)
	host, _ := ours.issue("host", named("localhost"))
	workload, _ := ours.issue("workload", named(id))
	others.issue("foreign", named(id))
	base := config.TLS{CAFile: ours.path("ca.pem")}
	with := func(change func(*config.TLS)) config.TLS { p := base; change(&p); return p }
	ids := func(ids ...string) config.TLS { return with(func(p *config.TLS) { p.SPIFFEIDs = ids }) }
	lists := with(func(p *config.TLS) { p.CRLFile = ours.path("ca.crl") })
	for _, test := range []struct {
		name    string
		profile config.TLS
		of      *issuer
		shows   string
		revoked []*x509.Certificate
		until   time.Time
		good    bool
	}{
		{"its host's name", base, ours, "host", nil, hour, true},
		{"no host's name", base, ours, "workload", nil, hour, false},
		{"one of the ids", ids("spiffe://example.org/x", id), ours, "workload", nil, hour, true},
		{"another id", ids(id + "/x"), ours, "workload", nil, hour, false},
		{"no id", ids(id), ours, "host", nil, hour, false},
		{"the id of a foreign authority", ids(id), others, "foreign", nil, hour, false},
		{"on no list", lists, ours, "host", []*x509.Certificate{workload}, hour, true},
		{"on the list", lists, ours, "host", []*x509.Certificate{workload, host}, hour, false},
		{"on a list that is old", lists, ours, "host", nil, time.Now().Add(-time.Hour), false},
	} {
		ours.revoke(test.until, test.revoked...)
		client, err := ClientTLS(&test.profile)
		must(t, err)
		pair, err := tls.LoadX509KeyPair(test.of.path(test.shows+".pem"), test.of.path(test.shows+".key"))
		must(t, err)
		if err, _ := shake(t, client, &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}); (err == nil) != test.good {
			t.Errorf("%s: %v", test.name, err)
		}
	}
	if _, err := ClientTLS(&config.TLS{SPIFFEIDs: []string{id}}); err == nil {
		t.Error("ids of any authority")
	}
}
