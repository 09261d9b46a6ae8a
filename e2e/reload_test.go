package e2e

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sallyport/sallyport/exchange/sts"
)

// bystanders are agents of the apps that a reload is not about: their streams stay open and their calls succeed.
type bystanders struct {
	*world
	streams map[string]*transcript
	finish  chan struct{} // ends the streamed call
	stop    chan struct{}
	work    sync.WaitGroup
	calls   atomic.Int64
	lost    chan string
}

const streamedResult = `{"content":[{"type":"text","text":"at last"}]}`

// bystand opens a GET event stream, a modern and an old one and a streamed call, and begins to call both apps, in both eras,
// without a pause.
func (w *world) bystand(callers int) *bystanders {
	w.t.Helper()
	b := &bystanders{world: w, streams: map[string]*transcript{}, finish: make(chan struct{}), stop: make(chan struct{}), lost: make(chan string, 1000)}
	w.open.behave(func(as *behaviour) {
		as.answer = func(rw http.ResponseWriter, r *http.Request, got received) bool {
			if !strings.Contains(string(got.RPC.Params.Arguments), "stream") {
				return false
			}
			rw.Header().Set("Content-Type", "text/event-stream")
			for n := 0; ; n++ {
				_, _ = fmt.Fprintf(rw, "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{\"level\":\"info\",\"data\":%d}}\n\n", n)
				rw.(http.Flusher).Flush()
				select {
				case <-b.finish:
					_, _ = fmt.Fprintf(rw, "data: {\"jsonrpc\":\"2.0\",\"id\":%s,\"result\":%s}\n\n", got.RPC.ID, streamedResult)
					return true
				case <-r.Context().Done():
					return true
				case <-time.After(50 * time.Millisecond):
				}
			}
		}
	})
	hear := (&lair{world: w}).hear
	session := w.initialize()
	streamed := modern("open_echo", `{"stream":true}`)
	streamed.token = w.token
	b.streams["GET"] = hear(request{method: http.MethodGet, token: w.token, header: map[string]string{"Mcp-Session-Id": session}})
	b.streams["listen"] = hear(listening(w.token))
	b.streams["HTTP+SSE"] = hear(request{method: http.MethodGet, path: "/mcp/sse", token: w.token})
	b.streams["call"] = hear(streamed)
	for i := range callers {
		b.work.Go(func() { b.callOn(session, i) })
	}
	w.t.Cleanup(b.leave)
	return b
}

func (b *bystanders) callOn(session string, i int) {
	n := i
	b.until(func() {
		n++
		r := []request{modern("open_echo", `{}`), legacyCall(session, "open_echo", `{}`), modern("my_server_listItems", `{}`),
			legacyCall(session, "my_server_getItem", `{}`), modernMethod("tools/list")}[n%5]
		if a, err := b.try(r); err != nil || a.Status != http.StatusOK || a.RPC.Result == nil {
			b.lose(r, a, err)
		}
		b.calls.Add(1)
	})
}

func (b *bystanders) until(do func()) {
	for {
		select {
		case <-b.stop:
			return
		default:
			do()
		}
	}
}

func (b *bystanders) lose(r request, a answer, err error) {
	select {
	case b.lost <- fmt.Sprintf("%s: %v %s", r.body, err, a):
	default:
	}
}

func (b *bystanders) leave() {
	select {
	case <-b.stop:
	default:
		close(b.stop)
	}
	b.work.Wait()
}

// undisturbed ends the bystanders' work, and says whether they noticed anything.
func (b *bystanders) undisturbed() {
	b.t.Helper()
	for name, s := range b.streams {
		select {
		case <-s.end:
			b.t.Errorf("the stream of %s has ended: %.300s", name, s)
		default:
		}
	}
	close(b.finish)
	await(b.t, "the end of the streamed call", func() bool { return strings.Contains(b.streams["call"].String(), streamedResult) })
	b.leave()
	close(b.lost)
	for what := range b.lost {
		b.t.Errorf("lost: %s", what)
	}
	b.t.Logf("%d calls of bystanders", b.calls.Load())
}

// saved makes a change and waits until it is in force.
func (w *world) saved(what string, change func()) {
	w.t.Helper()
	count := func() int { return strings.Count(w.gateway.output(), `"msg":"configuration reloaded"`) }
	before, begun := count(), time.Now()
	change()
	await(w.t, what, func() bool { return count() > before })
	w.t.Logf("%s: in force after %v", what, time.Since(begun).Round(time.Millisecond))
}

// refused makes a change that is not taken, and returns why.
func (w *world) refused(what string, change func()) string {
	w.t.Helper()
	count := func() int { return strings.Count(w.gateway.output(), `"msg":"configuration not reloaded`) }
	before := count()
	change()
	await(w.t, what, func() bool { return count() > before })
	await(w.t, "the metric", func() bool { return strings.Contains(w.metrics(), "sallyport_config_last_reload_successful 0") })
	resp, err := client.Get("http://" + w.admin + "/ready")
	must(w.t, err)
	defer func() { _ = resp.Body.Close() }()
	var state struct {
		Ready  bool
		Reload struct {
			Successful bool
			Error      string
		}
	}
	must(w.t, json.NewDecoder(resp.Body).Decode(&state))
	if !state.Ready || state.Reload.Successful {
		w.t.Errorf("%s: %+v", what, state)
	}
	return state.Reload.Error
}

// thirdApp is one more app, without a token or with one of a connector's.
func thirdApp(url, idp string) string {
	outbound := "        type: unprotected\n"
	if idp != "" {
		outbound = "        type: tokenExchange\n        tokenExchange:\n          idp: " + idp + "\n          audience: https://other.example/\n          unlistedTools: allow\n"
	}
	return "  - name: third\n    type: mcpProxy\n    toolNamespace:\n      name: third_\n    upstream:\n      stream:\n        url: " + url +
		"\n    authorization:\n      inbound:\n        opa:\n          rego: |\n            package orchestrator\n            result[\"allowed\"] := true\n      outbound:\n" + outbound
}

// Everything that can change without a restart, while others listen and call.
func TestReloads(t *testing.T) {
	w := start(t)
	third, fourth := newRecorder(t, "look"), newRecorder(t, "look")
	whole := w.config()
	rest := strings.TrimPrefix(w.read("sallyport.yaml"), whole) // the wiring
	write := func(apps string) { w.write("sallyport.yaml", whole+apps+rest) }
	b := w.bystand(3)
	reaches := func(what string, u *recorder) {
		t.Helper()
		before := len(u.calls())
		if a := w.send(modern("third_look", `{}`)); a.RPC.Result == nil || len(u.calls()) != before+1 {
			t.Errorf("%s: %s", what, a)
		}
	}

	if a := w.send(modern("third_look", `{}`)); !unknownTool(a) {
		t.Fatal(a)
	}
	w.saved("one more app", func() { write(thirdApp("http://"+third.addr()+"/mcp", "")) })
	reaches("one more app", third)
	if names := toolNames(t, w.send(modernMethod("tools/list"))); !strings.Contains(fmt.Sprint(names), "third_look") {
		t.Errorf("listed: %v", names)
	}
	w.saved("another server", func() { write(thirdApp("http://"+fourth.addr()+"/mcp", "")) })
	reaches("another server", fourth)
	w.saved("its connections", func() {
		w.edit("sallyport.yaml", fourth.addr()+"/mcp\n", fourth.addr()+"/mcp\n        connection: {dialTimeout: 3s}\n")
	})
	reaches("its connections", fourth)

	connector := "  - name: second\n    type: oidc\n    oidcWellKnownURL: " + w.provider.URL + "/.well-known/openid-configuration\n    oauthClientID: " + gatewayClient +
		"\n    oauthClientSecret: <gateway.clientSecret>\n"
	w.saved("a connector", func() {
		whole = strings.Replace(whole, "mcpProvider:\n", connector+"mcpProvider:\n", 1)
		write(thirdApp("http://"+fourth.addr()+"/mcp", "second"))
	})
	reaches("a connector", fourth)
	if calls := fourth.calls(); claims(t, bearerOf(calls[len(calls)-1]))["aud"] != "https://other.example/" {
		t.Error("the connector's token is for somebody else")
	}

	second := newProvider(t, w.url, "https://items.example/", "https://other.example/")
	stranger := modern("open_echo", `{}`)
	stranger.token = second.forge(t, func(_ map[string]any, c jwt.MapClaims) { c["aud"] = w.url })
	if a := w.send(stranger); a.Status != http.StatusUnauthorized {
		t.Fatal(a)
	}
	servers := "      servers:\n"
	w.saved("an authorization server", func() {
		w.edit("sallyport.yaml", servers, servers+"        - wellKnownEndpoint: "+second.URL+"/.well-known/oauth-authorization-server\n          tokenValidation:\n            expectedAudiences: ["+w.url+"]\n            jwt: {clockSkew: 2s}\n")
	})
	if a := w.send(stranger); a.RPC.Result == nil {
		t.Errorf("its token: %s", a)
	}
	w.saved("without it", func() { write(thirdApp("http://"+fourth.addr()+"/mcp", "")) })
	if a := w.send(stranger); a.Status != http.StatusUnauthorized {
		t.Errorf("its token is still good: %s", a)
	}
	w.saved("a policy", func() {
		w.edit("sallyport.yaml", `            result["allowed"] := true`, `            result["allowed"] := false`)
	})
	arrived := len(fourth.calls())
	if a := w.send(modern("third_look", `{}`)); a.RPC.Result != nil || len(fourth.calls()) != arrived {
		t.Errorf("the policy: %s", a)
	}

	w.saved("one app less", func() { write("") })
	if a := w.send(modern("third_look", `{}`)); !unknownTool(a) {
		t.Errorf("a removed app: %s", a)
	}
	if why := w.refused("a broken file", func() { w.edit("sallyport.yaml", "connectors:\n", "conectors:\n") }); !strings.Contains(why, "sallyport.yaml:") || !strings.Contains(why, "conectors") {
		t.Errorf("a broken file: %s", why)
	}
	w.saved("the cure", func() { write(thirdApp("http://"+third.addr()+"/mcp", "")) })
	reaches("the cure", third)
	if why := w.refused("another address", func() { w.edit("sallyport.yaml", w.admin, freePort(t)) }); !strings.Contains(why, "admin.address") {
		t.Errorf("what needs a restart: %s", why)
	}
	if why := w.refused("an authorization server that is away", func() {
		write(thirdApp("http://"+third.addr()+"/mcp", ""))
		w.edit("sallyport.yaml", servers, servers+"        - wellKnownEndpoint: http://"+freePort(t)+"/.well-known/oauth-authorization-server\n          tokenValidation:\n            expectedAudiences: ["+w.url+"]\n            jwt: {clockSkew: 2s}\n")
	}); !strings.Contains(why, "not to be had") {
		t.Errorf("an authorization server that is away: %s", why)
	}
	w.saved("the cure", func() { write(thirdApp("http://"+third.addr()+"/mcp", "")) })
	b.undisturbed()
	w.verifyAudit()
}

func (w *world) read(name string) string {
	w.t.Helper()
	content, err := os.ReadFile(w.path(name))
	must(w.t, err)
	return string(content)
}

// A client secret that was changed at the authorization server is changed here without a lost call.
func TestReloadOfAClientSecret(t *testing.T) {
	w := start(t)
	b := w.bystand(0)
	const another = "another-secret-of-the-gateway-0123456789"
	w.hide("the gateway's other client secret", another)
	w.saved("another secret", func() {
		w.provider.change(t, func(c *sts.Config) {
			for i := range c.Clients {
				if c.Clients[i].ID == gatewayClient {
					c.Clients[i].Secret = another
				}
			}
		})
		w.write("secrets.yaml", strings.Replace(w.read("secrets.yaml"), gatewaySecret, another, 1))
	})
	if a := w.send(modern("my_server_listItems", `{}`)); a.RPC.Result == nil {
		t.Error(a)
	}
	b.undisturbed()
}

// Certificates follow their files: the listener's, and both sides of an upstream's. What Envoy rejects changes nothing.
func TestReloadOfCertificates(t *testing.T) {
	w := newWorld(t)
	ca, caKey := authority(t)
	// As Kubernetes mounts secrets: what is read is behind a symlink that is swapped.
	mount := func(generation string, files map[string]string) {
		dir := w.path(".." + generation)
		must(t, mkdir(dir))
		for name, content := range files {
			must(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
		}
		must(t, os.Symlink(".."+generation, w.path("..new")))
		must(t, os.Rename(w.path("..new"), w.path("..data")))
	}
	serve := func(issuer *x509.Certificate, key *ecdsa.PrivateKey, clients *x509.CertPool) (*recorder, string) {
		u := newRecorder(t, "look")
		certificate, private := leaf(t, issuer, key)
		pair, err := tls.X509KeyPair([]byte(certificate), []byte(private))
		must(t, err)
		front := &http.Server{Handler: u, TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: clients, ClientAuth: tls.RequireAndVerifyClientCert}}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		go func() { _ = front.ServeTLS(l, "", "") }()
		t.Cleanup(func() { _ = front.Close() })
		return u, l.Addr().String()
	}
	pool := func(c *x509.Certificate) *x509.CertPool {
		p := x509.NewCertPool()
		p.AddCert(c)
		return p
	}
	cert, key := leaf(t, ca, caKey)
	files := map[string]string{"cert.pem": cert, "key.pem": key, "ca.pem": certPEM(ca.Raw)}
	mount("1", files)
	// The upstream takes only certificates of the next authority: it is out of reach until ours is renewed.
	next, nextKey := authority(t)
	u, at := serve(next, nextKey, pool(next))
	w.edit("sallyport.yaml", "http:\n", "tls:\n  both:\n    certFile: ..data/cert.pem\n    keyFile: ..data/key.pem\n    caFile: ..data/ca.pem\nhttp:\n  tls: both\n")
	w.edit("sallyport.yaml", "- http://"+w.address+"/mcp", "- https://"+w.address+"/mcp\n              - http://"+w.address+"/mcp")
	w.write("sallyport.yaml", w.read("sallyport.yaml")+strings.Replace(thirdApp("https://"+at+"/mcp", ""), "/mcp\n", "/mcp\n        tls: both\n", 1))
	w.url = "https://" + w.address + "/mcp"
	w.run()
	serial := func() string {
		conn, err := tls.Dial("tcp", w.address, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // it is the certificate that is looked at
		must(t, err)
		defer func() { _ = conn.Close() }()
		return string(conn.ConnectionState().PeerCertificates[0].Raw)
	}
	patient := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}} //nolint:gosec // likewise
	defer patient.CloseIdleConnections()
	do := func(r request) *http.Response {
		req, err := http.NewRequest(http.MethodPost, w.url, strings.NewReader(r.body))
		must(t, err)
		for k, v := range r.header {
			req.Header.Set(k, v)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Accept", "application/json, text/event-stream")
		req.Header.Set("Authorization", "Bearer "+w.token)
		resp, err := patient.Do(req)
		must(t, err)
		return resp
	}
	open := do(listening(w.token))
	defer func() { _ = open.Body.Close() }()
	heard := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, open.Body)
		heard <- err
	}()
	resp := do(modern("third_look", `{}`))
	_ = resp.Body.Close()
	if resp.StatusCode == http.StatusOK || len(u.calls()) != 0 {
		t.Fatalf("a server that nobody vouches for: %s", resp.Status)
	}
	old := serial()
	w.saved("other certificates", func() {
		cert, key := leaf(t, next, nextKey)
		mount("2", map[string]string{"cert.pem": cert, "key.pem": key, "ca.pem": certPEM(next.Raw)})
	})
	renewed := serial()
	if renewed == old {
		t.Error("the listener shows the old certificate")
	}
	await(t, "the upstream behind TLS", func() bool {
		resp := do(modern("third_look", `{}`))
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusOK && len(u.calls()) > 0
	})
	why := w.refused("a certificate that Envoy rejects", func() {
		cert, key := weakLeaf(t)
		mount("3", map[string]string{"cert.pem": cert, "key.pem": key, "ca.pem": certPEM(next.Raw)})
	})
	if !strings.Contains(why, "rejected by Envoy") || !strings.Contains(why, "listener") {
		t.Errorf("what Envoy says: %s", why)
	}
	if serial() != renewed {
		t.Error("the listener shows another certificate")
	}
	if !strings.Contains(w.metrics(), "sallyport_xds_rejections_total ") || strings.Contains(w.metrics(), "sallyport_xds_rejections_total 0\n") {
		t.Error("the rejection is not counted")
	}
	w.saved("the cure", func() {
		cert, key := leaf(t, next, nextKey)
		mount("4", map[string]string{"cert.pem": cert, "key.pem": key, "ca.pem": certPEM(next.Raw)})
	})
	if serial() == renewed {
		t.Error("the listener shows the certificate before the last")
	}
	select {
	case err := <-heard:
		t.Errorf("the open stream has ended: %v", err)
	default:
	}
}

// weakLeaf is a certificate of a curve that Go takes and Envoy does not.
func weakLeaf(t *testing.T) (certificate, key string) {
	t.Helper()
	own, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "weak"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, own.Public(), own)
	must(t, err)
	keyDER, err := x509.MarshalECPrivateKey(own)
	must(t, err)
	return certPEM(der), string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}))
}

// addThird adds an app to what the service is configured with, and returns the file as it was.
func (a *apart) addThird(third *recorder) (before string) {
	before = a.read("sallyport.yaml")
	own := a.config()
	a.write("sallyport.yaml", own+thirdApp("http://"+third.addr()+"/mcp", "")+strings.TrimPrefix(before, own))
	return before
}

// A service that is away takes nothing from its Envoy but its verdicts. When it is back, with another file, its Envoy has what
// changed, and no listener did.
func TestReloadByARestartOfTheService(t *testing.T) {
	a := splitWorldWith(t, "  envoyConfig: ads\n", true, nil)
	if got := a.send(modern("my_server_listItems", `{}`)); got.RPC.Result == nil {
		t.Fatal(got)
	}
	third := newRecorder(t, "look")
	a.service.stop()
	if got := a.send(modern("open_echo", `{}`)); got.Status != http.StatusServiceUnavailable || got.RPC.Error == nil || len(a.open.calls()) != 0 {
		t.Errorf("without the service: %s", got)
	}
	a.addThird(third)
	a.serve()
	await(t, "the new app", func() bool { return a.send(modern("third_look", `{}`)).RPC.Result != nil && len(third.calls()) > 0 })
	if got := a.send(modern("my_server_listItems", `{}`)); got.RPC.Result == nil {
		t.Error(got)
	}
	if n := a.stat("listener_manager.listener_modified"); n != 0 {
		t.Errorf("%d listeners changed, which ends streams", n)
	}
	// And another Envoy, of another name, gets the same.
	a.write("other.yaml", strings.NewReplacer("id: sallyport", "id: another", "envoy-admin.sock", "other-admin.sock").Replace(a.read("envoy.yaml")))
	spawn(t, nil, nil, envoyBinary, "-c", a.path("other.yaml"), "--disable-hot-restart", "--concurrency", "1", "--log-level", "error")
	await(t, "two Envoys", func() bool { return strings.Contains(a.metrics(), "sallyport_xds_envoys 2\n") })
}

// An Envoy on another machine gets its configuration over TCP.
func TestReloadOverTCP(t *testing.T) {
	a := splitWorldWith(t, "  envoyConfig: ads\n  address: "+freePort(t)+"\n", true, nil)
	if got := a.send(modern("my_server_listItems", `{}`)); got.RPC.Result == nil {
		t.Fatal(got)
	}
	third := newRecorder(t, "look")
	a.addThird(third)
	await(t, "the new app", func() bool { return a.send(modern("third_look", `{}`)).RPC.Result != nil && len(third.calls()) > 0 })
	a.service.stop()
	if got := a.send(modern("open_echo", `{}`)); got.Status != http.StatusServiceUnavailable || got.RPC.Error == nil || len(a.open.calls()) != 0 {
		t.Errorf("without the service: %s", got)
	}
}

// What a file gave to Envoy is not changed behind its back.
func TestReloadOfAStaticEnvoy(t *testing.T) {
	a := splitWorld(t, true, nil)
	third := newRecorder(t, "look")
	before := a.addThird(third)
	await(t, "the refusal", func() bool {
		return strings.Contains(a.service.output(), "apps.third.upstream: a change takes effect on a restart only")
	})
	if got := a.send(modern("third_look", `{}`)); !unknownTool(got) {
		t.Errorf("verdicts are about what Envoy lacks: %s", got)
	}
	a.write("sallyport.yaml", before)
	a.write("open.rego", "package orchestrator\n")
	await(t, "the policy", func() bool { return a.send(modern("open_echo", `{}`)).RPC.Result == nil })
}

// One change after the other, of everything at once, and nobody notices but those that it is about. SALLYPORT_RELOADS is how
// many: `make reload-storm` makes 1000.
func TestReloadStorm(t *testing.T) {
	reloads, err := strconv.Atoi(cmp.Or(os.Getenv("SALLYPORT_RELOADS"), "10"))
	must(t, err)
	w := start(t)
	third := newRecorder(t, "look")
	whole := w.config()
	rest := strings.TrimPrefix(w.read("sallyport.yaml"), whole)
	b := w.bystand(2)
	// Who calls the app that comes, goes and moves is answered by it, or told that there is none.
	session := w.initialize()
	for _, r := range []request{modern("third_look", `{}`), legacyCall(session, "third_look", `{}`)} {
		b.work.Go(func() {
			b.until(func() {
				if a, err := w.try(r); err != nil || a.RPC.Result == nil && !unknownTool(a) {
					b.lose(r, a, err)
				}
			})
		})
	}
	var slowest time.Duration
	for n := range reloads {
		third.clear()
		apps := thirdApp("http://"+third.addr()+"/"+strconv.Itoa(n), []string{"", "auth-provider"}[n/2%2])
		there := n%5 != 4
		if !there {
			apps = ""
		}
		w.write("open.rego", openRego+"# "+strconv.Itoa(n)+"\n")
		changed := strings.Replace(whole, "          timeout: 2s\n", fmt.Sprintf("          timeout: %dms\n", 2000+n%7), 1)
		before, begun := strings.Count(w.gateway.output(), `"msg":"configuration reloaded"`), time.Now()
		w.write("sallyport.yaml", changed+apps+rest)
		a := answer{}
		await(t, fmt.Sprintf("reload %d", n), func() bool {
			if strings.Count(w.gateway.output(), `"msg":"configuration reloaded"`) == before {
				return false
			}
			a = w.send(modern("third_look", `{}`))
			calls := third.calls()
			if !there {
				return unknownTool(a)
			}
			return a.RPC.Result != nil && len(calls) > 0 && calls[len(calls)-1].Path == "/"+strconv.Itoa(n)
		})
		if t.Failed() {
			break
		}
		slowest = max(slowest, time.Since(begun))
	}
	t.Logf("%d reloads, the slowest in force after %v", reloads, slowest.Round(time.Millisecond))
	b.undisturbed()
}
