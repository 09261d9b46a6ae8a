package e2e

import (
	"net/http"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"
)

// sharing keeps what replicas share at address.
func sharing(address string) func(w *world) {
	return func(w *world) {
		w.edit("sallyport.yaml", "session:\n  key:", "session:\n  store: redis://"+address+"\n  key:")
	}
}

// twin is another replica of w, with a listener and an audit of its own.
func (w *world) twin() *world {
	w.t.Helper()
	other := *w
	other.address = freePort(w.t)
	w.write("twin.yaml", strings.NewReplacer("address: "+w.address, "address: "+other.address, "address: "+w.admin, "address: "+freePort(w.t),
		"audit.jsonl", "twin.jsonl").Replace(contents(w.t, w.path("sallyport.yaml"))))
	lines := make(chan string, 16)
	other.gateway = spawn(w.t, w.env(), lines, sallyport, "run", "-config", w.path("twin.yaml"), "-envoy", envoyBinary)
	if line := <-lines; line != "ready: http://"+other.address+"/mcp" {
		w.t.Fatal(line)
	}
	return &other
}

// at is r as it comes through what stands in front of both replicas: under one name.
func at(r request, host string) request {
	r = presenting(r, r.header["Authorization"], "")
	r.header["Host"] = host
	return r
}

// A proof that one replica has taken is a replay at every other, and a nonce of one is good at every other.
func TestReplicasShareProofs(t *testing.T) {
	one := start(t, binding("optional", "      dpop:\n        requireNonce: true\n"), sharing(redisServer(t)))
	two := one.twin()
	p := one.newProver()
	nonce := one.send(p.proving(modern("open_echo", `{}`))).Header.Get("DPoP-Nonce")
	with := func(c jwt.MapClaims) { c["nonce"] = nonce }
	for _, replicas := range [][2]*world{{one, two}, {two, one}} {
		r := at(p.proving(modern("open_echo", `{}`), with), one.address)
		if a := replicas[0].send(r); a.RPC.Result == nil {
			t.Fatalf("the first: %s %q", a, a.Header.Get("WWW-Authenticate"))
		}
		a := replicas[1].send(r)
		if a.Status != http.StatusUnauthorized || !strings.Contains(a.Header.Get("WWW-Authenticate"), "used before") {
			t.Errorf("a replay at the other: %s", a)
		}
	}
	if n := len(one.open.calls()); n != 2 {
		t.Errorf("%d calls arrived", n)
	}
}

// Without the store nobody can tell a replay, so no proof counts. Bearer tokens are none of its business.
func TestProofsWithoutTheStore(t *testing.T) {
	link := newLink(t, redisServer(t))
	w := start(t, binding("optional", ""), sharing(link.address))
	p := w.newProver()
	call := modern("open_echo", `{}`)
	if a := w.send(p.proving(call)); a.RPC.Result == nil {
		t.Fatal(a)
	}
	link.cut()
	a := w.send(p.proving(call))
	if a.Status != http.StatusServiceUnavailable || a.RPC.Error == nil || a.Header.Get("Retry-After") == "" || a.Header.Get("WWW-Authenticate") != "" {
		t.Errorf("without the store: %s %v", a, a.Header)
	}
	if n := len(w.open.calls()); n != 1 {
		t.Errorf("%d calls arrived", n)
	}
	if a := w.send(call); a.RPC.Result == nil {
		t.Errorf("a bearer token: %s", a)
	}
	link.mend()
	await(t, "proofs to count again", func() bool { return w.send(p.proving(call)).Status == http.StatusOK })
}
