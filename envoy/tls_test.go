package envoy_test

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
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sallyport/sallyport/envoy"
)

// authority issues certificates for one test.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string // PEM
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{dir: t.TempDir()}
	a.file, _ = a.issue(t, "ca")
	return a
}

// issue writes a certificate for the hosts, and its key; the first certificate
// is the authority's own.
func (a *authority) issue(t *testing.T, name string, hosts ...string) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		BasicConstraintsValid: true,
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else if id, err := url.Parse(h); err == nil && id.Scheme == "spiffe" {
			template.URIs = append(template.URIs, id)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		template.IsCA, template.KeyUsage = true, x509.KeyUsageCertSign
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert == nil {
		a.cert, _ = x509.ParseCertificate(der)
		a.key = key
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(a.dir, name+".crt"), filepath.Join(a.dir, name+".key")
	writePEM(t, certFile, "CERTIFICATE", der)
	writePEM(t, keyFile, "EC PRIVATE KEY", keyDER)
	return certFile, keyFile
}

func writePEM(t *testing.T, file, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// serve runs an https upstream whose certificate names the hosts.
func (a *authority) serve(t *testing.T, p *peer, name string, clientCAs *x509.CertPool, hosts ...string) *url.URL {
	t.Helper()
	cert, err := tls.LoadX509KeyPair(a.issue(t, name, hosts...))
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(p)
	server.EnableHTTP2 = true
	server.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: clientCAs}
	if clientCAs != nil {
		server.TLS.ClientAuth = tls.RequireAndVerifyClientCert
	}
	server.StartTLS()
	t.Cleanup(server.Close)
	u, _ := url.Parse(server.URL)
	return u
}

func TestTLS(t *testing.T) {
	ours, others := newAuthority(t), newAuthority(t)
	up := new(peer)
	named := ours.serve(t, up, "named", nil, "localhost")
	addressed := ours.serve(t, up, "addressed", nil, "127.0.0.1")
	misnamed := ours.serve(t, up, "misnamed", nil, "other.example")
	foreign := others.serve(t, up, "foreign", nil, "localhost")
	mutual := ours.serve(t, up, "mutual", ours.pool(), "localhost")
	const id = "spiffe://example.org/items"
	workload := ours.serve(t, up, "workload", nil, id)
	clientCert, clientKey := ours.issue(t, "client")
	serverCert, serverKey := ours.issue(t, "server", "localhost")

	g := sockets(t)
	g.CAFile = ours.file
	g.TLS = &envoy.ListenerTLS{CertFile: serverCert, KeyFile: serverKey, ClientCAFile: ours.file}
	local := func(u *url.URL) string { return "https://localhost:" + u.Port() }
	g.Apps = []envoy.App{
		{Name: "named", URL: local(named)},
		{Name: "addressed", URL: addressed.String()},
		{Name: "misnamed", URL: local(misnamed)},
		{Name: "misaddressed", URL: named.String()},
		{Name: "foreign", URL: local(foreign)},
		{Name: "trusted", URL: local(foreign), TLS: &envoy.UpstreamTLS{CAFile: others.file}},
		{Name: "workload", URL: local(workload), TLS: &envoy.UpstreamTLS{SPIFFEIDs: []string{"spiffe://example.org/x", id}}},
		{Name: "otherworkload", URL: local(workload), TLS: &envoy.UpstreamTLS{SPIFFEIDs: []string{id + "/x"}}},
		{Name: "hostonly", URL: local(named), TLS: &envoy.UpstreamTLS{SPIFFEIDs: []string{id}}},
		{Name: "anonymous", URL: local(mutual)},
		{Name: "mutual", URL: local(mutual), TLS: &envoy.UpstreamTLS{CertFile: clientCert, KeyFile: clientKey, MinVersion: "1.3"}},
	}
	scripts := map[string]script{}
	for _, a := range g.Apps {
		scripts[a.Name] = to(envoy.AppRoute(a.Name))
	}
	serve(t, g, scripts)
	pair, err := tls.LoadX509KeyPair(clientCert, clientKey)
	if err != nil {
		t.Fatal(err)
	}
	address := start(t, g)
	config := &tls.Config{RootCAs: ours.pool(), ServerName: "localhost", Certificates: []tls.Certificate{pair}}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}}
	w := &gateway{url: "https://" + address}

	for name, status := range map[string]int{
		"named": 200, "addressed": 200, "trusted": 200, "mutual": 200, "workload": 200, "otherworkload": 502, "hostonly": 502,
		"misnamed": 502, "misaddressed": 502, "foreign": 502, "anonymous": 502,
	} {
		got := do(t, client, w.request(t, name, "/mcp", "x-answer", "content-type: application/json"))
		if got.status != status {
			t.Errorf("%s: got %+v", name, got)
		}
		for _, r := range up.take() {
			if r.proto != "HTTP/2.0" {
				t.Errorf("%s: the upstream got %s", name, r.proto)
			}
		}
	}

	t.Run("client certificate demanded", func(t *testing.T) {
		config := &tls.Config{RootCAs: ours.pool(), ServerName: "localhost"}
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: config}}
		if resp, err := client.Do(w.request(t, "named", "/mcp")); err == nil {
			_ = resp.Body.Close()
			t.Errorf("got %v", resp.Status)
		}
	})
	t.Run("old version refused", func(t *testing.T) {
		conn, err := tls.Dial("tcp", address, &tls.Config{
			RootCAs: ours.pool(), ServerName: "localhost", MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11,
			Certificates: []tls.Certificate{pair},
		})
		if err == nil {
			_ = conn.Close()
			t.Error("TLS 1.1 was accepted")
		}
	})
}
