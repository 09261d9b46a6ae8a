package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"
)

// workload is a certificate for 127.0.0.1 and, unless id is empty, a SPIFFE id.
func workload(t *testing.T, ca *x509.Certificate, caKey *ecdsa.PrivateKey, serial int64, id string) (certificate, key string, pair tls.Certificate) {
	t.Helper()
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	if id != "" {
		u, err := url.Parse(id)
		must(t, err)
		template.URIs = []*url.URL{u}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca, own.Public(), caKey)
	must(t, err)
	keyDER, err := x509.MarshalECPrivateKey(own)
	must(t, err)
	certificate, key = certPEM(der), string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}))
	pair, err = tls.X509KeyPair([]byte(certificate), []byte(key))
	must(t, err)
	return certificate, key, pair
}

// crl is an authority's list of the certificates with these serial numbers.
func crl(t *testing.T, ca *x509.Certificate, caKey *ecdsa.PrivateKey, revoked ...int64) string {
	t.Helper()
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(time.Hour)}
	for _, serial := range revoked {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: big.NewInt(serial), RevocationTime: time.Now()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, ca, caKey)
	must(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}))
}

const tlsProfiles = `tls:
  outside:
    certFile: cert.pem
    keyFile: cert.key
    clientAuth: RequireAndVerifyClientCert
    clientCAFiles: [ca.pem@SECOND]
    crlFile: lists.pem
    minVersion: 1.3
  inside: {caFile: ca.pem, spiffeIDs: ["spiffe://example.org/other", "spiffe://example.org/open"]}
  wrong: {caFile: ca.pem, spiffeIDs: ["spiffe://example.org/other"]}
  service:
    certFile: cert.pem
    keyFile: cert.key
    clientAuth: RequireAndVerifyClientCert
    clientCAFiles: [ca.pem]
    spiffeIDs: ["spiffe://example.org/envoy"]
  envoy: {caFile: ca.pem, certFile: envoy.pem, keyFile: envoy.key}
`

// What TLS profiles ask of peers is asked, on every way that there is: by agents' listener, at an upstream, and between Envoy and
// a service on TCP; and certificates and lists are followed without a restart, whether Envoy asks the service for them or not.
func TestTLSProfiles(t *testing.T) {
	for _, how := range []string{"ads", "static"} {
		t.Run(how, func(t *testing.T) { testTLSProfiles(t, how) })
	}
}

func testTLSProfiles(t *testing.T, how string) {
	w := newWorld(t)
	ca, caKey := authority(t)
	second, secondKey := authority(t)
	replace := func(name, content string) { // as whoever renews certificates does
		w.write(name+".new", content)
		must(t, os.Rename(w.path(name+".new"), w.path(name)))
	}
	show := func(name string, serial int64, id string) tls.Certificate {
		cert, key, pair := workload(t, ca, caKey, serial, id)
		replace(name+".key", key)
		replace(name+".pem", cert)
		return pair
	}
	w.write("ca.pem", certPEM(ca.Raw))
	w.write("second.pem", certPEM(second.Raw))
	w.write("lists.pem", crl(t, ca, caKey)+crl(t, second, secondKey))
	show("cert", 2, "")
	envoysOwn := show("envoy", 3, "spiffe://example.org/envoy")
	_, _, opens := workload(t, ca, caKey, 4, "spiffe://example.org/open")
	front := &http.Server{Handler: w.open, TLSConfig: &tls.Config{Certificates: []tls.Certificate{opens}}, ReadHeaderTimeout: time.Minute}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	go func() { _ = front.ServeTLS(l, "", "") }()
	t.Cleanup(func() { _ = front.Close() })

	upstream, address, hub := "https://"+l.Addr().String()+"/mcp", freePort(t), freePort(t)
	w.edit("sallyport.yaml", "http://"+w.open.addr()+"/mcp", upstream+"\n        tls: inside")
	w.edit("sallyport.yaml", "http:\n", strings.Replace(tlsProfiles, "@SECOND", ", second.pem", 1)+"http:\n  tls: outside\n")
	w.edit("sallyport.yaml", "- http://"+w.address+"/mcp", "- https://"+w.address+"/mcp\n              - http://"+w.address+"/mcp")
	w.write("sallyport.yaml", w.read("sallyport.yaml")+strings.Replace(thirdApp(upstream, ""), "/mcp\n", "/mcp\n        tls: wrong\n", 1)+
		fmt.Sprintf("service:\n  address: %s\n  hub: %s\n  tls: service\n  envoyTLS: envoy\n  envoyConfig: %s\n", address, hub, how))
	w.url = "https://" + w.address + "/mcp"
	w.run()

	roots := x509.NewCertPool()
	roots.AddCert(ca)
	var sessions tls.ClientSessionCache // whose certificate a resumed session has is not asked again
	post := func(r request, maxVersion uint16, pairs ...tls.Certificate) (status int) {
		c := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true,
			TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: pairs, MaxVersion: maxVersion, ClientSessionCache: sessions}}}
		req, err := http.NewRequest(http.MethodPost, w.url, strings.NewReader(r.body))
		must(t, err)
		for k, v := range r.header {
			req.Header.Set(k, v)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Authorization", "Bearer "+w.token)
		resp, err := c.Do(req)
		if err != nil {
			return 0
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	echo := modern("open_echo", `{}`)
	_, _, agents := workload(t, ca, caKey, 10, "")
	_, _, partners := workload(t, second, secondKey, 11, "")
	stranger, strangerKey := authority(t)
	_, _, strangers := workload(t, stranger, strangerKey, 10, "spiffe://example.org/envoy")
	for _, test := range []struct {
		name       string
		r          request
		maxVersion uint16
		pairs      []tls.Certificate
		status     int
	}{
		{"the first authority, the right id at the upstream", echo, 0, []tls.Certificate{agents}, 200},
		{"the second authority", echo, 0, []tls.Certificate{partners}, 200},
		{"the hub", modernMethod("tools/list"), 0, []tls.Certificate{agents}, 200},
		{"TLS 1.2", echo, tls.VersionTLS12, []tls.Certificate{agents}, 0},
		{"no certificate", echo, 0, nil, 0},
		{"another authority", echo, 0, []tls.Certificate{strangers}, 0},
		{"another id at the upstream", modern("third_look", `{}`), 0, []tls.Certificate{agents}, 502},
	} {
		if status := post(test.r, test.maxVersion, test.pairs...); status != test.status {
			t.Errorf("%s: %d, want %d", test.name, status, test.status)
		}
	}
	if n := len(w.open.calls()); n != 2 {
		t.Errorf("%d calls arrived", n)
	}
	for _, at := range []string{address, hub} {
		if plain, err := http.Get("http://" + at + "/"); err == nil && plain.StatusCode != http.StatusBadRequest {
			t.Errorf("%s in plain text: %s", at, plain.Status)
		}
		for name, test := range map[string]struct {
			pairs []tls.Certificate
			good  bool
		}{"Envoy's": {[]tls.Certificate{envoysOwn}, true}, "no": {nil, false}, "an agent's": {[]tls.Certificate{agents}, false}, "a stranger's": {[]tls.Certificate{strangers}, false}} {
			c := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: test.pairs}}}
			resp, err := c.Get("https://" + at + "/")
			if (err == nil) != test.good {
				t.Errorf("%s with %s certificate: %v", at, name, err)
			}
			if err == nil {
				_ = resp.Body.Close()
			}
		}
	}

	sessions = tls.NewLRUClientSessionCache(1)
	if status := post(echo, 0, agents); status != 200 {
		t.Errorf("before the revocation: %d", status)
	}
	replace("lists.pem", crl(t, ca, caKey, 10)+crl(t, second, secondKey))
	await(t, "the revocation", func() bool { return post(echo, 0, agents) == 0 })
	sessions = nil
	if status := post(echo, 0, partners); status != 200 {
		t.Errorf("the other authority's: %d", status)
	}
	shown := func(at string) string {
		conn, err := tls.Dial("tcp", at, &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{partners}})
		must(t, err)
		defer func() { _ = conn.Close() }()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	show("cert", 20, "")
	for _, at := range []string{w.address, address, hub} {
		await(t, "the new certificate at "+at, func() bool { return shown(at) == "20" })
	}
	if status := post(echo, 0, partners); status != 200 {
		t.Errorf("with new certificates: %d", status)
	}
}
