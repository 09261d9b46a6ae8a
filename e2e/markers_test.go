package e2e

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// marker makes a secret that is nowhere else, and hides it.
func (w *world) marker(what string, at ...string) string {
	value := "mark-" + rand.Text()
	w.hide(what, value, at...)
	return value
}

// TestNothingLeaks puts a secret of its own into every place where one can be, and lets everything go wrong. Where they
// must not be is looked at when the test ends, as in all other tests.
func TestNothingLeaks(t *testing.T) {
	w := newWorld(t)
	inFile, inEnv := w.marker("a secret of the secret file"), w.marker("a secret of the environment")
	w.write("secrets.yaml", contents(t, w.path("secrets.yaml"))+"  extra.parameter: "+inFile+"\n")
	t.Setenv("MARKED", inEnv)
	w.edit("sallyport.yaml", "    oauthClientSecret: <gateway.clientSecret>\n",
		"    oauthClientSecret: <gateway.clientSecret>\n    additionalParameters:\n      first: <extra.parameter>\n      second: '{{ env.MARKED }}'\n")
	w.write("sallyport.yaml", contents(t, w.path("sallyport.yaml"))+"logger:\n  level: debug\n")
	w.run()
	session := w.initialize()

	w.agentSecrets(session)
	w.serverSecrets(session)
	w.tokenEndpointSecrets()
	w.brokenFiles()
	w.dumps()

	// Did the secrets go where they belong?
	forms := w.provider.exchanges()
	if len(forms) == 0 || forms[0].Get("first") != inFile || forms[0].Get("second") != inEnv {
		t.Errorf("%d exchanges, the first without its parameters", len(forms))
	}
	for place, want := range map[string]string{"log": `"level":"ERROR"`, "audit": `"outcome":"denied"`, "metrics": "sallyport_calls_total", "envoy": "ingress"} {
		if place == "log" || place == "audit" {
			continue // read when the processes have ended
		}
		if heard := w.said[place]; heard == nil || !strings.Contains(heard.String(), want) {
			t.Errorf("nothing was heard of %s", place)
		}
	}
}

// agentSecrets are what agents send, by mistake or otherwise: in fields that are for no upstream, in the query, in what
// is malformed, and in arguments, which are for one upstream.
func (w *world) agentSecrets(session string) {
	w.t.Helper()
	for _, name := range []string{"Cookie", "Proxy-Authorization", "X-Api-Key", "DPoP", "X-Sallyport-Route", "X-Forwarded-Access-Token", "Authorization2"} {
		r := modern("open_echo", `{}`)
		r.header[name] = w.marker("the field " + name)
		w.send(r)
		r = legacyCall(session, "my_server_listItems", `{}`)
		r.header[name] = w.marker("the field " + name)
		w.send(r)
	}
	for _, path := range []string{"/mcp?api_key=", "/mcp?access_token=", "/nothing/"} {
		r := modern("open_echo", `{}`)
		r.path = path + w.marker("the query of "+path)
		w.send(r)
	}
	for _, token := range []string{w.marker("a token that is none"), "e30.e30." + w.marker("the signature of a token"), w.token + w.marker("the end of a token")} {
		w.send(request{token: token, body: "{}"})
	}
	for _, body := range []string{`{"jsonrpc":"2.0",%q}`, `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"open_echo","name":%q}}`, `[%q]`, `%q`,
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"open_echo","arguments":[%q]}}`} {
		w.send(request{body: fmt.Sprintf(body, w.marker("what is malformed"))})
	}
	w.send(modern("open_echo", `{"password":"`+w.marker("an argument", "open")+`"}`))
	w.send(modern("open_spend", `{"amount":500,"password":"`+w.marker("the argument of a denied call")+`"}`))
	w.send(legacyCall(session, "my_server_getItem", `{"password":"`+w.marker("an argument of a legacy call", "items")+`"}`))
}

// serverSecrets are what MCP servers say and no agent may hear.
func (w *world) serverSecrets(session string) {
	w.t.Helper()
	for _, status := range []int{http.StatusOK, http.StatusUnauthorized, http.StatusForbidden, http.StatusFound, http.StatusInternalServerError} {
		cookie, challenge, location, page := w.marker("a server's cookie"), w.marker("a server's challenge"), w.marker("a server's redirect"), w.marker("a server's page")
		w.open.behave(func(b *behaviour) {
			b.answer = func(rw http.ResponseWriter, _ *http.Request, got received) bool {
				rw.Header().Set("Set-Cookie", "session="+cookie)
				rw.Header().Set("WWW-Authenticate", `Bearer realm="`+challenge+`"`)
				rw.Header().Set("Location", "/"+location)
				if status == http.StatusOK {
					rpcResult(rw, got.RPC.ID, `{"resultType":"complete","content":[]}`)
					return true
				}
				rw.Header().Set("Content-Type", "text/html")
				rw.WriteHeader(status)
				_, _ = io.WriteString(rw, page)
				return true
			}
		})
		w.send(modern("open_echo", `{}`))
		w.send(legacyCall(session, "open_echo", `{}`))
	}
	w.open.behave(func(b *behaviour) { b.answer = nil })
}

// tokenEndpointSecrets are what an authorization server says that has gone wrong, or is hostile.
func (w *world) tokenEndpointSecrets() {
	w.t.Helper()
	defer w.provider.setOverride(nil)
	for _, answer := range []string{`{"error":"invalid_grant","error_description":"%s"}`, `{"error":"%s"}`, `<html>%s`, `{"access_token":"%s","token_type":"Bearer"}`,
		`{"access_token":"%s","token_type":"Bearer","issued_token_type":"urn:ietf:params:oauth:token-type:access_token","expires_in":5}`} {
		w.provider.setOverride(func(rw http.ResponseWriter, r *http.Request) bool {
			rw.Header().Set("Content-Type", "application/json")
			rw.Header().Set("Set-Cookie", w.marker("the authorization server's cookie"))
			if strings.Contains(answer, `"error"`) {
				rw.WriteHeader(http.StatusBadRequest)
			}
			said := w.marker("what the token endpoint said")
			if strings.Contains(answer, `"error"`) { // what it was sent
				_, said, _ = r.BasicAuth()
			}
			if strings.Contains(answer, "error_description") {
				_ = r.ParseForm()
				said = strings.Join([]string{said, r.Form.Get("subject_token"), r.Header.Get("Authorization"), r.Form.Get("first")}, " ")
			}
			_, _ = fmt.Fprintf(rw, answer, said)
			return true
		})
		w.send(modern("my_server_listItems", `{}`))
	}
}

// brokenFiles break the configuration while it is in use, and show it to the commands that read it.
func (w *world) brokenFiles() {
	w.t.Helper()
	whole, secrets := contents(w.t, w.path("sallyport.yaml")), contents(w.t, w.path("secrets.yaml"))
	for _, broken := range []string{"oauthClientSecret: [%s]", "oauthClientSecret: {%s: 1}", "oauthClientSecret: '%s{{ env.NOT_SET }}'",
		"oauthClientSecret: '%s<not.there>'", "oauthClientSecret: &a '%s'\n    oauthClientSecret: b", "oauthClientSecret: !!int '%s'"} {
		w.write("sallyport.yaml", strings.Replace(whole, "oauthClientSecret: <gateway.clientSecret>",
			fmt.Sprintf(broken, w.marker("a client secret in a broken file")), 1))
		w.hearCommands()
	}
	w.write("sallyport.yaml", whole)
	for _, broken := range []string{"secrets: %s", "secrets:\n  a: [%s]", "%s", "secrets:\n  \"%s", "secrets:\n  a: &%s b\n  a: b"} {
		w.write("secrets.yaml", fmt.Sprintf(broken, w.marker("a secret in a broken secret file")))
		w.hearCommands()
	}
	await(w.t, "a failed reload", func() bool { return strings.Contains(w.metrics(), "sallyport_config_last_reload_successful 0") })
	w.write("secrets.yaml", secrets)
	await(w.t, "the mended files", func() bool { return strings.Contains(w.metrics(), "sallyport_config_last_reload_successful 1") })
	w.hearCommands()
}

func (w *world) hearCommands() {
	w.t.Helper()
	for _, args := range [][]string{{"check"}, {"render", "-for", "envoy"}} {
		cmd := exec.Command(sallyport, append(args, "-config", w.path("sallyport.yaml"))...)
		cmd.Env = append(cmd.Environ(), w.env()...)
		out, _ := cmd.CombinedOutput()
		if len(out) == 0 {
			w.t.Errorf("%v said nothing", args)
		}
		w.hear("commands", out)
	}
}

// dumps are what operators take when something is wrong: Envoy's own state, metrics, and the goroutines of a process.
func (w *world) dumps() {
	w.t.Helper()
	sockets, err := filepath.Glob(w.path("sallyport-*/envoy-admin.sock"))
	must(w.t, err)
	if len(sockets) != 1 {
		w.t.Fatalf("Envoy's sockets: %v", sockets)
	}
	envoy := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", sockets[0])
	}}}
	for _, path := range []string{"/config_dump?include_eds", "/stats", "/clusters", "/listeners", "/server_info"} {
		resp, err := envoy.Get("http://envoy" + path)
		must(w.t, err)
		dump, err := io.ReadAll(resp.Body)
		must(w.t, err)
		must(w.t, resp.Body.Close())
		w.hear("envoy", dump)
	}
	w.hearMetrics()
	must(w.t, w.gateway.cmd.Process.Signal(syscall.SIGQUIT))
	<-w.gateway.end
	if !strings.Contains(w.gateway.output(), "goroutine ") {
		w.t.Error("no goroutines in the log")
	}
}
