package envoy_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/envoy"
)

// control is a control plane at a gateway's service socket.
type control struct {
	*envoy.Server
	t    *testing.T
	grpc *grpc.Server
}

func newControl(t *testing.T, g envoy.Gateway) *control {
	t.Helper()
	c := &control{Server: envoy.NewServer(slog.New(slog.DiscardHandler)), t: t, grpc: grpc.NewServer()}
	c.Register(c.grpc)
	_ = os.Remove(g.ServiceSocket)
	l, err := net.Listen("unix", g.ServiceSocket)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = c.grpc.Serve(l) }()
	t.Cleanup(c.stop)
	return c
}

func (c *control) stop() {
	c.Stop()
	c.grpc.Stop()
}

func (c *control) push(g envoy.Gateway, within time.Duration) error {
	c.t.Helper()
	r, err := envoy.Generate(g)
	if err == nil {
		r, err = r.Inline(os.ReadFile)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(c.t.Context(), within)
	defer cancel()
	return c.Push(ctx, r)
}

func (c *control) must(g envoy.Gateway) {
	c.t.Helper()
	if err := c.push(g, 20*time.Second); err != nil {
		c.t.Fatal(err)
	}
}

// awaitEnvoy waits until an Envoy has what was pushed.
func (c *control) awaitEnvoy() {
	c.t.Helper()
	for begun := time.Now(); !c.Served(); time.Sleep(10 * time.Millisecond) {
		if time.Since(begun) > 20*time.Second {
			c.t.Fatal("no Envoy has what was pushed")
		}
	}
}

// routes are what an Envoy has of one table.
func routes(t *testing.T, admin string) string {
	t.Helper()
	resp, err := unixClient(admin, false).Get("http://admin/config_dump?resource=dynamic_route_configs")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// serial is the serial number of the certificate that a listener shows.
func serial(t *testing.T, address string) string {
	t.Helper()
	conn, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	content, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, content, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// What is pushed is in force in a real Envoy when Push returns, or nothing of it is.
func TestPush(t *testing.T) {
	a := newAuthority(t)
	certFile, keyFile := filepath.Join(a.dir, "listener.crt"), filepath.Join(a.dir, "listener.key")
	issue := func(name string) {
		cert, key := a.issue(t, name, "127.0.0.1")
		copyFile(t, cert, certFile)
		copyFile(t, key, keyFile)
	}
	issue("one")
	g := sockets(t)
	g.Dynamic = true
	g.TLS = &envoy.ListenerTLS{CertFile: certFile, KeyFile: keyFile}
	g.Apps = []envoy.App{{Name: "first", Route: "app/first@1", URL: "http://127.0.0.1:1/mcp"}}
	c := newControl(t, g)
	c.must(g) // nobody is there yet
	if c.Served() {
		t.Error("somebody is served")
	}
	address := start(t, g)
	c.awaitEnvoy()
	if n := c.Stats().Envoys; n != 1 {
		t.Fatalf("%d Envoys", n)
	}
	if dump := routes(t, g.AdminSocket); !strings.Contains(dump, "app/first@1") {
		t.Fatal(dump)
	}
	added := g
	added.Apps = append(slices.Clone(g.Apps), envoy.App{Name: "second", Route: "app/second@1", URL: "https://localhost:2/mcp",
		TLS: &envoy.UpstreamTLS{CAFile: a.file, CertFile: certFile, KeyFile: keyFile}}, envoy.App{Name: "first", Route: "app/first@2", URL: "http://127.0.0.1:3/mcp"})
	c.must(added)
	if dump := routes(t, g.AdminSocket); !strings.Contains(dump, "app/first@1") || !strings.Contains(dump, "app/second@1") || !strings.Contains(dump, "app/first@2") {
		t.Error(dump)
	}
	before := serial(t, address)
	issue("two")
	c.must(added)
	after := serial(t, address)
	if after == before {
		t.Error("the listener shows the old certificate")
	}
	weak(t, certFile, keyFile)
	err := c.push(g, 20*time.Second)
	if !errors.Is(err, envoy.ErrRejected) || !strings.Contains(err.Error(), "TLS secret listener") {
		t.Errorf("a certificate that Envoy refuses: %v", err)
	}
	if dump := routes(t, g.AdminSocket); !strings.Contains(dump, "app/second@1") || serial(t, address) != after || c.Stats().Rejections == 0 {
		t.Errorf("what was in force is not: %s", dump)
	}
	issue("three")
	c.must(g)
	if dump := routes(t, g.AdminSocket); strings.Contains(dump, "app/second@1") || serial(t, address) == after {
		t.Errorf("the cure is not in force: %s", dump)
	}
}

// A control plane that was restarted changes nothing, and Envoy asks it again.
func TestPushAfterARestart(t *testing.T) {
	g := sockets(t)
	g.Dynamic = true
	g.Apps = []envoy.App{{Name: "first", Route: "app/first@1", URL: "http://127.0.0.1:1/mcp"}}
	c := newControl(t, g)
	c.must(g)
	address := start(t, g)
	c.stop()
	if conn, err := net.Dial("tcp", address); err != nil {
		t.Errorf("Envoy does not keep what it has: %v", err)
	} else {
		_ = conn.Close()
	}
	c = newControl(t, g)
	c.must(g)
	c.awaitEnvoy()
	g.Apps = append(g.Apps, envoy.App{Name: "second", Route: "app/second@1", URL: "http://127.0.0.1:2/mcp"})
	c.must(g)
	if dump := routes(t, g.AdminSocket); !strings.Contains(dump, "app/second@1") {
		t.Error(dump)
	}
	stats, err := unixClient(g.AdminSocket, false).Get("http://admin/stats?filter=listener_manager.listener_modified|listener_manager.listener_added")
	if err != nil {
		t.Fatal(err)
	}
	defer stats.Body.Close()
	if text, _ := io.ReadAll(stats.Body); !strings.Contains(string(text), "listener_added: 2") || !strings.Contains(string(text), "listener_modified: 0") {
		t.Errorf("listeners changed: %s", text)
	}
}

// An Envoy that does not answer is not waited for without end, and is not believed to have what it was sent. One that has
// gone is not waited for at all.
func TestPushWithoutAnAnswer(t *testing.T) {
	g := sockets(t)
	g.Dynamic = true
	c := newControl(t, g)
	c.must(g)
	conn, err := grpc.NewClient("unix:"+g.ServiceSocket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err == nil {
		err = stream.Send(&discoveryv3.DeltaDiscoveryRequest{Node: &corev3.Node{Id: "silent"}, TypeUrl: "type.googleapis.com/envoy.config.cluster.v3.Cluster"})
	}
	if err == nil {
		_, err = stream.Recv()
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := c.push(g, 100*time.Millisecond); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "at silent") {
		t.Errorf("%v", err)
	}
	time.AfterFunc(50*time.Millisecond, leave)
	c.must(g)
}

// Whatever the files and the apps are, the listeners stay the same.
func TestListenersStay(t *testing.T) {
	g := sockets(t)
	g.Dynamic = true
	g.TLS = &envoy.ListenerTLS{CertFile: "/a/cert", KeyFile: "/a/key", ClientCAFile: "/a/ca"}
	one, err := envoy.Generate(g)
	if err != nil {
		t.Fatal(err)
	}
	g.Apps = []envoy.App{{Name: "first", URL: "https://first.example/mcp"}}
	for _, authorities := range []envoy.ListenerTLS{{ClientCAFile: "/b/ca"}, {ClientCAs: "of several files"}} {
		authorities.CertFile, authorities.KeyFile = "/b/cert", "/b/key"
		g.TLS = &authorities
		two, err := envoy.Generate(g)
		if err != nil {
			t.Fatal(err)
		}
		if len(one.Listeners) != 2 || len(two.Listeners) != 2 {
			t.Fatal("no listeners")
		}
		for i := range one.Listeners {
			if !proto.Equal(one.Listeners[i], two.Listeners[i]) {
				t.Errorf("listener %s changes", one.Listeners[i].GetName())
			}
		}
	}
}

// A route is another one when anything about its app is.
func TestVersionedRoute(t *testing.T) {
	plain := envoy.App{Name: "a", URL: "http://a.example/mcp"}
	seen := map[string]bool{}
	for _, app := range []envoy.App{
		plain,
		{Name: "a", URL: "http://b.example/mcp"},
		{Name: "a", URL: plain.URL, EndpointEvents: true},
		{Name: "a", URL: plain.URL, DialTimeout: time.Second},
		{Name: "a", URL: plain.URL, KeepAlive: time.Second},
		{Name: "a", URL: plain.URL, TLS: &envoy.UpstreamTLS{CAFile: "/ca"}},
		{Name: "b", URL: plain.URL},
	} {
		route := envoy.VersionedRoute(app)
		if seen[route] || !strings.HasPrefix(route, "app/"+app.Name+"@") {
			t.Errorf("%+v: %s", app, route)
		}
		seen[route] = true
	}
	plain.Route = "app/a@1"
	if !seen[envoy.VersionedRoute(plain)] {
		t.Error("the route depends on the one before")
	}
}

// weak writes a certificate of a curve that Go takes and Envoy does not.
func weak(t *testing.T, certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "weak"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, certFile, "CERTIFICATE", der)
	writePEM(t, keyFile, "EC PRIVATE KEY", keyDER)
	if _, err := tls.LoadX509KeyPair(certFile, keyFile); err != nil {
		t.Fatal(err)
	}
}
