package e2e

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// The seed page's story, raw: what the two doors let through, and what arrives behind them.

func TestWithoutTokenEveryMethodIsChallenged(t *testing.T) {
	w := start(t)
	for _, method := range []string{"initialize", "tools/list", "tools/call", "ping", "server/discover", "notifications/initialized", "no/such"} {
		a := w.send(request{token: "none", body: `{"jsonrpc":"2.0","id":1,"method":"` + method + `"}`})
		challenge := a.Header.Get("WWW-Authenticate")
		if a.Status != http.StatusUnauthorized || !strings.HasPrefix(challenge, "Bearer ") ||
			!strings.Contains(challenge, `resource_metadata="http://`+w.address+`/.well-known/oauth-protected-resource/mcp"`) {
			t.Errorf("%s: %s, %q", method, a, challenge)
		}
		if strings.Contains(challenge, "error=") {
			t.Errorf("%s: no token was sent, yet %q", method, challenge)
		}
	}
	for _, method := range []string{http.MethodGet, http.MethodDelete} {
		if a := w.send(request{method: method, token: "none"}); a.Status != http.StatusUnauthorized {
			t.Errorf("%s: %s", method, a)
		}
	}
	a := w.send(request{token: "x.y.z", body: `{"jsonrpc":"2.0","id":1,"method":"ping"}`})
	if c := a.Header.Get("WWW-Authenticate"); a.Status != http.StatusUnauthorized || !strings.Contains(c, `error="invalid_token"`) {
		t.Errorf("bad token: %s, %q", a, c)
	}
}

func TestProtectedResourceMetadata(t *testing.T) {
	w := start(t)
	for _, path := range []string{"", "/mcp", "/mcp/sse", "/mcp/message"} {
		a := w.send(request{method: http.MethodGet, token: "none", path: "/.well-known/oauth-protected-resource" + path})
		var doc struct {
			Resource string   `json:"resource"`
			Servers  []string `json:"authorization_servers"`
		}
		must(t, json.Unmarshal(a.Body, &doc))
		if a.Status != http.StatusOK || doc.Resource != w.url || !slices.Equal(doc.Servers, []string{w.provider.URL}) {
			t.Errorf("%s: %s", path, a)
		}
	}
	if a := w.send(request{method: http.MethodGet, token: "none", path: "/status"}); a.Status != http.StatusOK {
		t.Errorf("status: %s", a)
	}
	if got := w.audit(); len(got) != 0 {
		t.Errorf("metadata and health are no messages, yet %v", got)
	}
}

// checkUpstreamToken asserts the seed's promises about the token that an upstream received.
func checkUpstreamToken(t *testing.T, w *world, got received, scope string) {
	t.Helper()
	auth := got.Header.Values("Authorization")
	if len(auth) != 1 || strings.Contains(auth[0], w.token) {
		t.Fatalf("Authorization: %d values, or the agent's own", len(auth))
	}
	c := claims(t, auth[0])
	if aud, _ := c.GetAudience(); !slices.Equal(aud, []string{"https://items.example/"}) {
		t.Errorf("aud %v", aud)
	}
	if c["scope"] != scope || c["sub"] != user {
		t.Errorf("scope %v sub %v", c["scope"], c["sub"])
	}
	act, _ := c["act"].(map[string]any)
	if agent, _ := act["act"].(map[string]any); act["sub"] != gatewayClient || agent["sub"] != agentClient {
		t.Errorf("act %v", c["act"])
	}
	if c["client_id"] == nil || c["exp"].(float64)-c["iat"].(float64) > 5 {
		t.Errorf("client_id %v, lifetime %v", c["client_id"], c["exp"].(float64)-c["iat"].(float64))
	}
}

func TestAllowedCall(t *testing.T) {
	w := start(t)
	session := w.initialize()
	for name, r := range map[string]request{
		"modern": modern("my_server_listItems", `{"q":1.0,"big":1e2,"a":[ 1 ]}`),
		"legacy": legacyCall(session, "my_server_listItems", `{"q":1.0,"big":1e2,"a":[ 1 ]}`),
	} {
		before := len(w.items.calls())
		r.header["Cookie"], r.header["X-Sallyport-Route"], r.header["X-Sallyport-Source"] = "a=b", "app/open", "6.6.6.6"
		r.header["Proxy-Authorization"], r.header["X-Forwarded-User"] = "Basic eHg6eXk=", "admin"
		r.header["X-Request-Id"], r.header["X-Forwarded-For"] = "chosen-by-the-client", "6.6.6.6"
		r.header["Traceparent"] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
		a := w.send(r)
		if a.Status != http.StatusOK || !strings.Contains(string(a.RPC.Result), "done: listItems") {
			t.Fatalf("%s: %s", name, a)
		}
		calls := w.items.calls()[before:]
		if len(calls) != 1 {
			t.Fatalf("%s: upstream was called %d times", name, len(calls))
		}
		got := calls[0]
		checkUpstreamToken(t, w, got, "item:List")
		if got.Path != "/upstream/mcp" || got.Host != w.items.addr() {
			t.Errorf("%s: path %s host %s", name, got.Path, got.Host)
		}
		if string(got.RPC.Params.Arguments) != `{"q":1.0,"big":1e2,"a":[ 1 ]}` || got.RPC.Params.Name != "listItems" {
			t.Errorf("%s: upstream parsed %s %s", name, got.RPC.Params.Name, got.RPC.Params.Arguments)
		}
		if trace := got.Header.Get("Traceparent"); trace != r.header["Traceparent"] {
			t.Errorf("%s: traceparent %q", name, trace)
		}
		if from := got.Header.Get("X-Forwarded-For"); strings.Contains(from, "6.6.6.6") {
			t.Errorf("%s: the client's own x-forwarded-for reached the upstream: %s", name, from)
		}
		if id := got.Header.Get("X-Request-Id"); id == "" || id == "chosen-by-the-client" {
			t.Errorf("%s: request id %q", name, id)
		}
		for _, h := range []string{"Cookie", "X-Sallyport-Route", "X-Sallyport-Source", "Proxy-Authorization", "X-Forwarded-User"} {
			if got.Header.Get(h) != "" {
				t.Errorf("%s: %s reached the upstream", name, h)
			}
		}
		if name == "modern" && (got.Header.Get("Mcp-Name") != "listItems" || got.Header.Get("Mcp-Method") != "tools/call") {
			t.Errorf("mirrors: %v", got.Header)
		}
		if name == "legacy" && (got.Header.Get("Mcp-Name") != "" || !strings.HasPrefix(got.Header.Get("Mcp-Session-Id"), "upstream-session-")) {
			t.Errorf("legacy headers: %v", got.Header)
		}
		if a.Header.Get("Mcp-Session-Id") != "" {
			t.Errorf("%s: the upstream's session id reached the agent", name)
		}
	}
	if n := len(w.provider.exchanges()); n != 2 {
		t.Errorf("%d exchanges for 2 calls", n)
	}
	form := w.provider.exchanges()[0]
	if form.Get("scope") != "item:List" || form.Get("audience") != "https://items.example/" || form.Get("requested_expires_in") != "5" ||
		form.Get("subject_token") != w.token {
		t.Errorf("exchange request: scope %q audience %q lifetime %q", form.Get("scope"), form.Get("audience"), form.Get("requested_expires_in"))
	}
	if t1, t2 := w.items.calls()[0].Header.Get("Authorization"), w.items.calls()[1].Header.Get("Authorization"); t1 == t2 {
		t.Error("one token was used twice")
	}
}

func TestUnprotectedUpstreamGetsNoToken(t *testing.T) {
	w := start(t)
	if a := w.send(modern("open_echo", `{}`)); a.Status != http.StatusOK || a.RPC.Result == nil {
		t.Fatal(a)
	}
	if got := w.open.calls()[0].Header.Values("Authorization"); len(got) != 0 {
		t.Errorf("%d Authorization headers", len(got))
	}
	if n := len(w.provider.exchanges()); n != 0 {
		t.Errorf("%d exchanges", n)
	}
}

func TestRefusedCallsReachNothing(t *testing.T) {
	w := start(t)
	session := w.initialize()
	for _, c := range []struct {
		name      string
		tool      string
		arguments string
		check     func(a answer) bool
	}{
		{"hidden by policy", "my_server_createItem", `{}`, unknownTool},
		{"no such tool", "my_server_nothing", `{}`, unknownTool},
		{"no such namespace", "elsewhere_listItems", `{}`, unknownTool},
		{"bare name", "listItems", `{}`, unknownTool},
		{"with a reason", "open_spend", `{"amount":500}`, toolError("too much money")},
		{"arguments missing", "open_spend", `{}`, toolError("denied by policy")},
		{"scope would help", "open_admin", `{}`, func(a answer) bool {
			c := a.Header.Get("WWW-Authenticate")
			return a.Status == http.StatusForbidden && strings.Contains(c, `error="insufficient_scope"`) && strings.Contains(c, `scope="admin:all"`)
		}},
		{"number that readers differ on", "open_echo", `{"n":9007199254740993}`, func(a answer) bool {
			return a.RPC.Error != nil && a.RPC.Error.Code == -32602 && strings.Contains(a.RPC.Error.Message, "params.arguments.n")
		}},
	} {
		for era, r := range map[string]request{"modern": modern(c.tool, c.arguments), "legacy": legacyCall(session, c.tool, c.arguments)} {
			if a := w.send(r); !c.check(a) {
				t.Errorf("%s, %s: %s", c.name, era, a)
			}
		}
	}
	if n := len(w.items.calls()) + len(w.open.calls()); n != 0 {
		t.Errorf("upstreams saw %d refused calls", n)
	}
	if n := len(w.provider.exchanges()); n != 0 {
		t.Errorf("the authorization server saw %d exchanges", n)
	}
}

func unknownTool(a answer) bool {
	return a.Status == http.StatusOK && a.RPC.Error != nil && a.RPC.Error.Code == -32602 && strings.HasPrefix(a.RPC.Error.Message, "Unknown tool")
}

func toolError(text string) func(answer) bool {
	return func(a answer) bool {
		got, ok := a.isError()
		return a.Status == http.StatusOK && ok && got == text
	}
}

func TestListsAreMergedAndFiltered(t *testing.T) {
	w := start(t)
	session := w.initialize()
	want := []string{"my_server_listItems", "my_server_getItem", "open_echo", "open_spend", "open_admin"}
	for era, r := range map[string]request{
		"modern": modernMethod("tools/list"),
		"legacy": legacy(session, `{"jsonrpc":"2.0","id":2,"method":"tools/list"}`),
	} {
		if got := toolNames(t, w.send(r)); !slices.Equal(got, want) {
			t.Errorf("%s: %v", era, got)
		}
	}
	for _, r := range w.items.all() {
		if r.Header.Get("Authorization") != "" {
			t.Errorf("%s was asked with a credential", r.RPC.Method)
		}
	}
}

func toolNames(t *testing.T, a answer) []string {
	t.Helper()
	var list struct {
		Tools []struct {
			Name string `json:"name"`
		} `json:"tools"`
	}
	if err := json.Unmarshal(a.RPC.Result, &list); err != nil || a.Status != http.StatusOK {
		t.Fatalf("tools/list: %s", a)
	}
	var names []string
	for _, tool := range list.Tools {
		names = append(names, tool.Name)
	}
	return names
}

func TestAuditRecordsEveryMessage(t *testing.T) {
	w := start(t)
	session := w.initialize()
	w.send(modern("my_server_listItems", `{"a":1}`))
	w.send(legacyCall(session, "open_spend", `{"amount":500}`))
	w.send(request{token: "none", body: `{}`})
	w.send(request{body: `{"jsonrpc":"2.0","id":1,"id":2}`})
	w.send(modernMethod("tools/list"))
	w.send(modernMethod("no/such"))
	pairs := w.reconcile()
	want := []struct{ outcome, completion, method, tool string }{
		{"allowed", "ok", "initialize", ""},
		{"allowed", "ok", "tools/call", "listItems"},
		{"denied", "refused", "tools/call", "spend"},
		{"denied", "refused", "http/post", ""},
		{"denied", "refused", "http/post", ""},
		{"allowed", "ok", "tools/list", ""},
		{"denied", "refused", "no/such", ""},
	}
	if len(pairs) != len(want) {
		t.Fatalf("%d records, want %d: %v", len(pairs), len(want), pairs)
	}
	for i, p := range pairs {
		d, c := p[0], p[1]
		tool, _ := d["tool"].(string)
		if d["outcome"] != want[i].outcome || c["outcome"] != want[i].completion || d["method"] != want[i].method || tool != want[i].tool {
			t.Errorf("%d: %v / %v, want %v", i, d, c, want[i])
		}
	}
	call := pairs[1][0]
	exchanged, _ := call["exchanged"].(map[string]any)
	if call["subject"] != user || call["client_id"] != agentClient || call["policy"] != "items-authz" || call["app"] != "my-mcp-server-proxy" ||
		call["arguments_sha256"] != "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862" || exchanged["expires_in"] != float64(5) ||
		call["source_ip"] != "127.0.0.1" || call["protocol_version"] != "2026-07-28" {
		t.Errorf("decision %v", call)
	}
	if done := pairs[1][1]; done["status"] != float64(200) || done["bytes_out"].(float64) == 0 || done["bytes_in"].(float64) == 0 {
		t.Errorf("completion %v", done)
	}
	if msg := pairs[2][0]["message"]; msg != "too much money" {
		t.Errorf("message %v", msg)
	}
	w.verifyAudit()
	for _, secret := range []string{w.token, gatewaySecret, strings.TrimPrefix(w.items.calls()[0].Header.Get("Authorization"), "Bearer ")} {
		for _, part := range []string{secret, secret[len(secret)/2:]} {
			if strings.Contains(w.gateway.output(), part) {
				t.Error("a secret is in the log")
			}
			for _, r := range w.audit() {
				b, _ := json.Marshal(r)
				if strings.Contains(string(b), part) {
					t.Errorf("a secret is in the audit: %v", r["kind"])
				}
			}
		}
	}
}

func TestPolicyReloads(t *testing.T) {
	w := start(t)
	if a := w.send(modern("open_echo", `{}`)); a.RPC.Result == nil {
		t.Fatal(a)
	}
	w.edit("open.rego", `result["allowed"] := true if input.request.mcp.tool.params.name == "echo"`,
		`result["external_message"] := "echo is closed" if input.request.mcp.tool.params.name == "echo"`)
	saved := time.Now()
	await(t, "the edited policy", func() bool { return toolError("echo is closed")(w.send(modern("open_echo", `{}`))) })
	if took := time.Since(saved); took > 2*time.Second {
		t.Errorf("took %v", took)
	}
	w.write("open.rego", "package orchestrator\nresult := {")
	await(t, "the failed reload", func() bool { return strings.Contains(w.metrics(), "sallyport_config_last_reload_successful 0") })
	if a := w.send(modern("open_spend", `{"amount":1}`)); a.RPC.Result == nil {
		t.Errorf("a broken file must keep the policy in force: %s", a)
	}
	w.write("open.rego", openRego)
	await(t, "the mended policy", func() bool { return w.send(modern("open_echo", `{}`)).RPC.Error == nil })
}

func (w *world) metrics() string {
	w.t.Helper()
	resp, err := client.Get("http://" + w.admin + "/metrics")
	must(w.t, err)
	defer func() { _ = resp.Body.Close() }()
	out := new(strings.Builder)
	_, err = copyBounded(out, resp.Body)
	must(w.t, err)
	return out.String()
}

func TestSessions(t *testing.T) {
	w := start(t)
	session := w.initialize()
	list := `{"jsonrpc":"2.0","id":2,"method":"tools/list"}`
	if a := w.send(request{body: list}); a.Status != http.StatusBadRequest {
		t.Errorf("without a session: %s", a)
	}
	if a := w.send(legacy(session[:len(session)-2]+"AA", list)); a.Status != http.StatusNotFound {
		t.Errorf("altered session: %s", a)
	}
	if a := w.send(legacy(session, `{"jsonrpc":"2.0","method":"notifications/initialized"}`)); a.Status != http.StatusAccepted || len(a.Body) != 0 {
		t.Errorf("initialized: %s", a)
	}
	if a := w.send(legacy(session, `{"jsonrpc":"2.0","id":"p","method":"ping"}`)); string(a.RPC.Result) != "{}" || string(a.RPC.ID) != `"p"` {
		t.Errorf("ping: %s", a)
	}
	w.send(legacyCall(session, "my_server_getItem", `{}`))
	end := legacy(session, "")
	end.method = http.MethodDelete
	if a := w.send(end); a.Status != http.StatusNoContent && a.Status != http.StatusOK {
		t.Errorf("DELETE: %s", a)
	}
	if a := w.send(legacy(session, list)); a.Status != http.StatusNotFound {
		t.Errorf("after DELETE: %s", a)
	}
	await(t, "the upstream session's DELETE", func() bool {
		return slices.ContainsFunc(w.items.all(), func(r received) bool { return r.Method == http.MethodDelete })
	})
}

func TestOneDeadUpstreamDoesNotEmptyTheList(t *testing.T) {
	w := newWorld(t)
	w.items.Close()
	w.run()
	if got := toolNames(t, w.send(modernMethod("tools/list"))); !slices.Equal(got, []string{"open_echo", "open_spend", "open_admin"}) {
		t.Errorf("%v", got)
	}
	a := w.send(modern("my_server_listItems", `{}`))
	if a.RPC.Error == nil || a.RPC.Error.Code != -32603 || a.Status != http.StatusBadGateway || string(a.RPC.ID) != "7" {
		t.Errorf("call to a dead upstream: %s", a)
	}
}

func TestErasAreBridged(t *testing.T) {
	w := newWorld(t)
	w.items.behave(func(b *behaviour) { b.modern = false })
	w.open.behave(func(b *behaviour) { b.legacy = false })
	w.run()
	if a := w.send(modern("my_server_listItems", `{"x":1}`)); a.RPC.Result == nil {
		t.Errorf("modern agent, legacy upstream: %s", a)
	}
	if got := w.items.calls(); len(got) != 1 || len(got[0].RPC.Params.Meta) != 0 || got[0].Header.Get("Mcp-Session-Id") == "" || got[0].Header.Get("Mcp-Method") != "" {
		t.Errorf("legacy upstream saw %+v", got)
	}
	if a := w.send(legacyCall(w.initialize(), "open_echo", `{"x":1}`)); a.RPC.Result == nil {
		t.Errorf("legacy agent, modern upstream: %s", a)
	}
	if got := w.open.calls(); len(got) != 1 || got[0].RPC.Params.Meta["io.modelcontextprotocol/protocolVersion"] != "2026-07-28" || got[0].Header.Get("Mcp-Name") != "echo" {
		t.Errorf("modern upstream saw %+v", got)
	}
}
