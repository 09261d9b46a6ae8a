package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// What an agent could do a moment ago it can do no more, from the command on: sallyport revoke, as a process of its own.

// within is how long a revocation may take in the end, on a machine that does other things besides. What is promised is a
// second; the log says what it was.
const within = 10 * time.Second

// revoke runs the command.
func (w *world) revoke(args ...string) ran {
	w.t.Helper()
	return command(w.t, w.env(), append([]string{"revoke", "-config", w.path("sallyport.yaml")}, args...)...)
}

func (w *world) mustRevoke(args ...string) string {
	w.t.Helper()
	got := w.revoke(args...)
	if got.code != 0 || got.stderr != "" {
		w.t.Fatalf("revoke %v: %s", args, got)
	}
	return got.stdout
}

// victim is an agent with everything open that a revocation has to close.
type victim struct {
	*world
	token, session string
	subject, who   string
	jti            string
	streams        map[string]*transcript
}

// victim logs an agent in that shares nothing with another of another name, and opens its streams.
func (w *world) victim(name string) *victim {
	w.t.Helper()
	v := &victim{world: w, subject: name + "@acme.example", who: "agent-of-" + name, streams: map[string]*transcript{}}
	v.token = v.login()
	v.jti, _ = claims(w.t, v.token)["jti"].(string)
	v.session = v.initialize()
	hear := (&lair{world: w}).hear
	listen := listening(v.token)
	old := request{method: http.MethodGet, path: "/mcp/sse", token: v.token}
	v.streams["GET"] = hear(request{method: http.MethodGet, token: v.token, header: map[string]string{"Mcp-Session-Id": v.session}})
	v.streams["listen"], v.streams["HTTP+SSE"] = hear(listen), hear(old)
	return v
}

// listening opens a stream that belongs to no session.
func listening(token string) request {
	r := modernMethod("subscriptions/listen")
	r.body = strings.Replace(r.body, `"params":{`, `"params":{"notifications":{"toolsListChanged":true},`, 1)
	r.token = token
	return r
}

// login gets a new token. The gateway's clock skew has passed once it is taken.
func (v *victim) login() string {
	return v.provider.forge(v.t, func(_ map[string]any, c jwt.MapClaims) { c["sub"], c["client_id"], c["aud"] = v.subject, v.who, v.url })
}

func (v *victim) initialize() string {
	v.t.Helper()
	a := v.send(request{token: v.token, body: `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"e2e","version":"1"}}}`})
	id := a.Header.Get("Mcp-Session-Id")
	if id == "" {
		v.t.Fatal(a)
	}
	return id
}

// call makes a call of either era.
func (v *victim) call(era string) answer {
	v.t.Helper()
	r := modern("open_echo", `{}`)
	if era == "legacy" {
		r = legacyCall(v.session, "open_echo", `{}`)
	}
	r.token = v.token
	return v.send(r)
}

func (v *victim) isWell(when string) {
	v.t.Helper()
	for _, era := range []string{"modern", "legacy"} {
		if a := v.call(era); a.RPC.Result == nil {
			v.t.Errorf("%s, %s: %s", v.subject, when, a)
		}
	}
	for kind, s := range v.streams {
		select {
		case <-s.end:
			v.t.Errorf("%s, %s: the %s stream has ended: %s", v.subject, when, kind, s)
		default:
		}
	}
}

// closed waits until streams have ended.
func (v *victim) closed(kinds ...string) {
	v.t.Helper()
	for _, kind := range kinds {
		select {
		case <-v.streams[kind].end:
		case <-time.After(within):
			v.t.Errorf("the %s stream is still open", kind)
		}
	}
}

// refused waits until calls get a status, and reports when they did for the first time.
func (v *victim) refused(era string, status int, since time.Time) answer {
	v.t.Helper()
	for {
		a := v.call(era)
		if a.Status == status {
			v.t.Logf("%s: refused %v after the command began", era, time.Since(since).Round(time.Millisecond))
			return a
		}
		if a.RPC.Result == nil || time.Since(since) > within {
			v.t.Fatalf("%s, after %v: %s", era, time.Since(since), a)
		}
	}
}

// sessionName is what the audit calls the victim's session.
func (v *victim) sessionName() string {
	v.t.Helper()
	var name string
	await(v.t, "the session in the audit", func() bool {
		for _, r := range v.audit() {
			if s, _ := r["session"].(string); s != "" && r["subject"] == v.subject && r["method"] == "tools/call" {
				name = s
			}
		}
		return name != ""
	})
	return name
}

func TestRevoke(t *testing.T) {
	w := start(t)
	bystander := w.victim("bystander")
	for _, kind := range []string{"subject", "client", "jti", "session"} {
		t.Run(kind, func(t *testing.T) {
			w := *w
			w.t = t
			v := w.victim(kind)
			v.isWell("before")
			named := map[string]string{"subject": v.subject, "client": v.who, "jti": v.jti, "session": v.sessionName()}
			begun := time.Now()
			said := v.mustRevoke("-"+kind, named[kind])
			if want := fmt.Sprintf("revoked: %s %q", kind, named[kind]); !strings.HasPrefix(said, want) {
				t.Errorf("said %s, want %s", said, want)
			}
			if kind == "session" {
				a := v.refused("legacy", http.StatusNotFound, begun)
				if a.RPC.Error == nil || !strings.Contains(a.RPC.Error.Message, "initialize") {
					t.Errorf("%s", a)
				}
				v.closed("GET")
				if a := v.call("modern"); a.RPC.Result == nil {
					t.Errorf("its token is good: %s", a)
				}
				v.session = v.initialize()
				if a := v.call("legacy"); a.RPC.Result == nil {
					t.Errorf("another session is, too: %s", a)
				}
				return
			}
			for _, era := range []string{"modern", "legacy"} {
				a := v.refused(era, http.StatusUnauthorized, begun)
				challenge := a.Header.Get("WWW-Authenticate")
				if !strings.Contains(challenge, `error="invalid_token", error_description="the token has been revoked"`) || a.RPC.Error == nil {
					t.Errorf("%s: %s\n%s", era, a, challenge)
				}
			}
			v.closed("GET", "listen", "HTTP+SSE")
			old := v.session
			v.streams = nil
			await(t, "a new login", func() bool { v.token = v.login(); return v.call("modern").RPC.Result != nil })
			if a := v.call("legacy"); kind == "jti" && a.RPC.Result == nil || kind != "jti" && a.Status != http.StatusNotFound {
				t.Errorf("the old session with the new token: %s", a)
			}
			if v.session = v.initialize(); v.session == old {
				t.Error("the same session")
			}
			v.isWell("after a new login")
		})
	}
	bystander.isWell("throughout")
	for _, s := range bystander.streams {
		s.stop()
	}
	listed := w.mustRevoke("-list")
	for _, kind := range []string{"subject", "client", "jti", "session"} {
		if !strings.Contains(listed, "\n"+kind+" ") {
			t.Errorf("not listed: %s\n%s", kind, listed)
		}
	}
	w.checkRevocationRecords()
}

// checkRevocationRecords: each command has a record, each refusal says so, and the chain holds.
func (w *world) checkRevocationRecords() {
	w.t.Helper()
	commands, refused, streams := 0, 0, 0
	for _, r := range w.audit() {
		switch {
		case r["kind"] == "revocation" && r["action"] == "revoked" && r["until"] != nil:
			commands++
		case r["kind"] == "decision" && r["outcome"] == "denied" && r["message"] == "revoked token":
			refused++
		case r["kind"] == "decision" && r["outcome"] == "denied" && r["message"] == "revoked session":
			streams++
		}
	}
	if commands != 4 || refused < 6 || streams < 3 {
		w.t.Errorf("%d revocations, %d refused tokens and %d refused sessions on record", commands, refused, streams)
	}
	if n := int(w.gauge("sallyport_revoked_requests_total")); n != refused+streams {
		w.t.Errorf("%d refusals counted, %d on record", n, refused+streams)
	}
	if n := w.gauge("sallyport_revocations"); n != 4 {
		w.t.Errorf("%v revocations in force", n)
	}
	w.reconcile()
	w.verifyAudit()
}

// kill ends the gateway without a word, and runs it again.
func (w *world) killAndRun() {
	w.t.Helper()
	must(w.t, w.gateway.cmd.Process.Signal(syscall.SIGKILL))
	<-w.gateway.end
	await(w.t, "the port to be free", func() bool { _, err := w.try(request{method: http.MethodGet, path: "/status"}); return err != nil })
	w.run()
}

func TestRevocationSurvivesKill(t *testing.T) {
	w := start(t)
	subject, one, session, bystander := w.victim("subject"), w.victim("jti"), w.victim("session"), w.victim("bystander")
	session.call("legacy")
	name := session.sessionName()
	w.mustRevoke("-subject", subject.subject)
	w.mustRevoke("-jti", one.jti, "-issuer", w.provider.URL)
	w.mustRevoke("-session", name)
	w.killAndRun()
	for _, v := range []*victim{subject, one} {
		if a := v.call("modern"); a.Status != http.StatusUnauthorized {
			t.Errorf("%s: %s", v.subject, a)
		}
	}
	if a := session.call("legacy"); a.Status != http.StatusNotFound {
		t.Errorf("the session: %s", a)
	}
	if a := bystander.call("modern"); a.RPC.Result == nil {
		t.Errorf("somebody else: %s", a)
	}
	w.mustRevoke("-undo", "-jti", one.jti, "-issuer", w.provider.URL)
	if a := one.call("modern"); a.RPC.Result == nil {
		t.Errorf("undone: %s", a)
	}
	if got := w.revoke("-undo", "-jti", one.jti); got.code != 1 || !strings.Contains(got.stderr, "no such revocation") {
		t.Errorf("undone twice: %s", got)
	}
	w.killAndRun()
	if a := one.call("modern"); a.RPC.Result == nil {
		t.Errorf("undone, after a restart: %s", a)
	}

	// A file that cannot be read keeps the gateway from starting: what it said is not known.
	file := w.path("sallyport.revocations.jsonl")
	info, err := os.Stat(file)
	must(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	must(t, w.gateway.cmd.Process.Signal(syscall.SIGTERM))
	<-w.gateway.end
	whole := contents(t, file)
	w.write("sallyport.revocations.jsonl", whole[:len(whole)-10])
	got := command(t, w.env(), "run", "-config", w.path("sallyport.yaml"), "-envoy", envoyBinary)
	lines := strings.Count(whole, "\n")
	if want := fmt.Sprintf("sallyport.revocations.jsonl:%d: not a whole line", lines); got.code != 1 || !strings.Contains(got.stderr, want) {
		t.Errorf("half a line: %s", got)
	}
	if got := w.revoke("-subject", "x"); got.code != 1 || !strings.Contains(got.stderr, "no gateway is running") {
		t.Errorf("nobody there: %s", got)
	}
	w.verifyAudit()
}

// Calls that are under way end, as far as their answers pass through the service; so does a request whose body is slow.
func TestRevocationEndsCalls(t *testing.T) {
	w := start(t, func(w *world) { w.items.behave(func(b *behaviour) { b.modern = false }) }) // the hub carries modern agents' calls there
	arrived, release := make(chan struct{}, 8), make(chan struct{})
	defer close(release)
	hang := func(b *behaviour) {
		b.answer = func(rw http.ResponseWriter, r *http.Request, got received) bool {
			if wants, _ := got.RPC.Params.Meta["progressToken"].(string); wants == "events" {
				rw.Header().Set("Content-Type", "text/event-stream")
				_, _ = io.WriteString(rw, "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{\"level\":\"info\",\"data\":\"working\"}}\n\n")
				rw.(http.Flusher).Flush()
			}
			arrived <- struct{}{}
			select {
			case <-release:
			case <-r.Context().Done():
			}
			return true
		}
	}
	w.open.behave(hang)
	w.items.behave(hang)
	v, bystander := w.victim("caller"), w.victim("bystander")
	send := func(r request) chan string {
		done := make(chan string, 1)
		go func() { a, err := w.try(r); done <- fmt.Sprint(a, err) }()
		<-arrived
		return done
	}
	inSession := func(v *victim, how string) request {
		r := legacy(v.session, `{"jsonrpc":"2.0","id":"c-1","method":"tools/call","params":{"name":"open_echo","arguments":{},"_meta":{"progressToken":"`+how+`"}}}`)
		r.token = v.token
		return r
	}
	carried := modern("my_server_listItems", `{}`)
	carried.token = v.token
	mine := map[string]chan string{"JSON": send(inSession(v, "json")), "an event stream": send(inSession(v, "events")), "carried": send(carried)}
	others := send(inSession(bystander, "events"))
	slow := w.dial()
	body := modern("open_echo", `{}`).body
	_, err := fmt.Fprintf(slow, "POST /mcp HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\n"+
		"MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: open_echo\r\nContent-Length: %d\r\n\r\n%s", w.address, v.token, len(body), body[:10])
	must(t, err)
	time.Sleep(300 * time.Millisecond) // its headers have been judged
	reached := len(w.open.calls())
	begun := time.Now()
	said := w.mustRevoke("-client", v.who)
	t.Logf("the command took %v", time.Since(begun).Round(time.Millisecond))
	for how, done := range mine {
		select {
		case got := <-done:
			t.Logf("%s: ended after %v: %s", how, time.Since(begun).Round(time.Millisecond), got)
			if strings.Contains(got, `"result"`) || how == "carried" && (!strings.HasPrefix(got, "401 ") || !strings.Contains(got, "revoked")) {
				t.Errorf("%s: answered: %s", how, got)
			}
		case <-time.After(within):
			t.Errorf("%s: still there", how)
		}
	}
	if want := "ended at this replica: 6 streams and calls, 3 sessions"; !strings.Contains(said, want) { // three streams and three calls; the caller's own session
		t.Errorf("said %q, want %q", said, want)
	}
	_, err = io.WriteString(slow, body[10:])
	must(t, err)
	resp, err := http.ReadResponse(bufio.NewReader(slow), nil)
	must(t, err)
	if resp.StatusCode != http.StatusUnauthorized || len(w.open.calls()) != reached {
		t.Errorf("a slow body: %s, %d calls more", resp.Status, len(w.open.calls())-reached)
	}
	_ = resp.Body.Close()
	select {
	case got := <-others:
		t.Errorf("somebody else's call ended: %s", got)
	default:
	}
}

// Tokens that were kept for reuse are dropped, and those of others are not.
func TestRevocationDropsReuse(t *testing.T) {
	w := start(t, func(w *world) {
		w.edit("sallyport.yaml", "          timeout: 2s\n", "          timeout: 2s\n          reuse: 1m\n")
		w.edit("sallyport.yaml", "ttl: 5s", "ttl: 60s")
	})
	kept := func() float64 { return w.gauge(`sallyport_connector_reusable_tokens{app="my-mcp-server-proxy"}`) }
	for _, name := range []string{user, otherUser} {
		r := modern("my_server_listItems", `{}`)
		r.token = w.provider.loginAs(t, w.url, name)
		if a := w.send(r); a.RPC.Result == nil {
			t.Fatal(a)
		}
	}
	if n := kept(); n != 2 {
		t.Fatalf("%v tokens kept", n)
	}
	w.mustRevoke("-subject", user)
	if n := kept(); n != 1 {
		t.Errorf("%v tokens kept after the revocation", n)
	}
}

// TestReplicasRevoke: a command at one replica reaches the others.
func TestReplicasRevoke(t *testing.T) {
	w, _, _ := startReplicas(t)
	other := *w
	second := contents(t, w.path("second.yaml"))
	_, rest, _ := strings.Cut(second, "address: ")
	other.address, _, _ = strings.Cut(rest, "\n")
	other.token = w.provider.loginAs(t, "", otherUser)
	w.token = w.provider.loginAs(t, "", user)
	stream := (&lair{world: &other}).hear(listening(w.token)) // that the other replica ends by itself
	call := modern("test_simple_text", `{}`)
	call.token = w.token
	if a := other.send(call); a.Status != http.StatusOK {
		t.Fatal(a)
	}
	begun := time.Now()
	if said := w.mustRevoke("-subject", user); !strings.Contains(said, "shared through session.store") {
		t.Errorf("said %s", said)
	}
	for a := other.send(call); a.Status != http.StatusUnauthorized; a = other.send(call) {
		if time.Since(begun) > within {
			t.Fatalf("at the other replica: %s", a)
		}
	}
	t.Logf("refused at the other replica %v after the command began", time.Since(begun).Round(time.Millisecond))
	select {
	case <-stream.end:
	case <-time.After(within):
		t.Error("the stream at the other replica is open")
	}
	call.token = other.token
	for _, replica := range []*world{w, &other} {
		if a := replica.send(call); a.Status != http.StatusOK {
			t.Errorf("somebody else: %s", a)
		}
	}
}

// TestRevokeWithoutStore: a command that cannot be shared says so and fails; what is known stays in force, here the new
// revocation included, and is shared once that can be done.
func TestRevokeWithoutStore(t *testing.T) {
	link := newLink(t, redisServer(t))
	w, _, _ := startSessions(t, func(w *world) {
		w.edit("sallyport.yaml", "session:\n", "session:\n  store: redis://"+link.address+"\n")
	})
	call := func(token string) answer {
		r := modern("test_simple_text", `{}`)
		r.token = token
		return w.send(r)
	}
	first, second, third := w.provider.loginAs(t, "", user), w.provider.loginAs(t, "", otherUser), w.provider.forge(t, func(_ map[string]any, c jwt.MapClaims) { c["aud"] = w.url; c["sub"] = "third" })
	w.mustRevoke("-subject", user)
	link.cut()
	got := w.revoke("-subject", otherUser)
	if got.code != 1 || !strings.Contains(got.stderr, "in force at this replica only") || !strings.Contains(got.stderr, "session store") {
		t.Errorf("without the store: %s", got)
	}
	await(t, "the metric to show it", func() bool { return w.gauge("sallyport_revocations_last_read_successful") == 0 })
	// All replicas would be taken out of service at once, and the store's users with them; the command has failed, which is
	// where somebody looks.
	if status, checks := w.ready(); status != http.StatusOK {
		t.Errorf("ready without the store: %d %v", status, checks)
	}
	for name, tt := range map[string]struct {
		token string
		want  int
	}{"known": {first, 401}, "just revoked": {second, 401}, "somebody else": {third, 200}} {
		if a := call(tt.token); a.Status != tt.want {
			t.Errorf("%s: %s", name, a)
		}
	}
	link.mend()
	await(t, "the store to be read again", func() bool { return w.gauge("sallyport_revocations_last_read_successful") == 1 })
	w.killAndRun()
	for name, token := range map[string]string{"the first": first, "the second": second} {
		if a := call(token); a.Status != http.StatusUnauthorized {
			t.Errorf("%s, after a restart: %s", name, a)
		}
	}
	var noted []any
	for _, r := range w.audit() {
		if m, _ := r["message"].(string); r["kind"] == "revocation" && strings.HasPrefix(m, "not kept: ") {
			noted = append(noted, r["subject"])
		}
	}
	if !slices.Equal(noted, []any{otherUser}) {
		t.Errorf("on record as not kept: %v", noted)
	}
	w.verifyAudit()
}
