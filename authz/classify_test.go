package authz_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/authz/session"
	"github.com/sallyport/sallyport/mcpparse"
)

const (
	metaVersion = `"io.modelcontextprotocol/protocolVersion"`
	metaCaps    = `"io.modelcontextprotocol/clientCapabilities"`
)

// meta is a body of any method with the given members of params._meta; "none" leaves _meta out.
func meta(method, members string) string {
	switch {
	case members == "none" && method == "initialize":
		return `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25"}}`
	case members == "none":
		return `{"jsonrpc":"2.0","id":1,"method":"` + method + `","params":{}}`
	}
	return `{"jsonrpc":"2.0","id":1,"method":"` + method + `","params":{"_meta":{` + members + `}}}`
}

const (
	versionMissing  = "400 -32020 MCP-Protocol-Version is required"
	versionMismatch = "400 -32020 MCP-Protocol-Version does not match the body"
	methodMismatch  = "400 -32020 Mcp-Method does not match the body"
	nameMismatch    = "400 -32020 Mcp-Name does not match the body"
	metaIncomplete  = "400 -32602 _meta must carry the protocol version and client capabilities"
	unsupported     = "400 -32022 unsupported protocol version"
	sessionRequired = "400 -32600 a session is required; send initialize first"
	sessionUnknown  = "404 -32600 session not found; send initialize again"
)

// One row for each line of the era table: version header, version in the body, session.
func TestEras(t *testing.T) {
	const both = metaVersion + `:"2026-07-28",` + metaCaps + `:{}`
	for _, test := range []struct {
		name, header, method, meta, session, want string
	}{
		{"modern", "2026-07-28", "tools/list", both, "-", listed},
		{"modern, client info is optional", "2026-07-28", "server/discover", both, "-", listed},
		{"modern ignores a session", "2026-07-28", "tools/list", both, "someone-elses", listed},
		{"body only", "-", "tools/list", both, "-", versionMissing},
		{"body only, in a session", "-", "tools/list", both, "own", versionMissing},
		{"header only", "2026-07-28", "tools/list", "none", "-", metaIncomplete},
		{"header only, in a session", "2026-07-28", "tools/list", "none", "own", metaIncomplete},
		{"no capabilities", "2026-07-28", "tools/list", metaVersion + `:"2026-07-28"`, "-", metaIncomplete},
		{"capabilities only", "2026-07-28", "tools/list", metaCaps + `:{}`, "-", metaIncomplete},
		{"modern header, legacy body", "2026-07-28", "tools/list", metaVersion + `:"2025-11-25",` + metaCaps + `:{}`, "own", versionMismatch},
		{"legacy header, modern body", "2025-11-25", "tools/list", both, "own", versionMismatch},
		{"legacy in both", "2025-11-25", "tools/list", metaVersion + `:"2025-11-25",` + metaCaps + `:{}`, "own", unsupported},
		{"legacy in the body only", "-", "tools/list", metaVersion + `:"2025-11-25",` + metaCaps + `:{}`, "own", versionMissing},
		{"a later version", "2027-01-01", "tools/list", metaVersion + `:"2027-01-01",` + metaCaps + `:{}`, "-", unsupported},
		{"a later version, header only", "9999-01-01", "tools/list", "none", "-", unsupported},
		{"two versions in one field", "2026-07-28, 2025-11-25", "tools/list", both, "-", versionMismatch},
		{"two versions in one field, legacy body", "2026-07-28, 2025-11-25", "tools/list", "none", "own", unsupported},
		{"no date", "latest", "tools/list", "none", "own", unsupported},
		{"empty version", "", "tools/list", "none", "own", unsupported},
		{"between the eras", "2026-07-27", "tools/list", "none", "own", unsupported},
		{"before the first", "2024-01-01", "tools/list", "none", "own", unsupported},
		{"not a day", "2026-99-99", "tools/list", "none", "own", unsupported},
		{"removed in modern", "2026-07-28", "initialize", both, "-", "404 -32601 method not found"},
		{"removed ping", "2026-07-28", "ping", both, "-", "404 -32601 method not found"},
		{"removed logging", "2026-07-28", "logging/setLevel", both, "-", "404 -32601 method not found"},
		{"unknown in modern", "2026-07-28", "tools/lost", both, "-", "404 -32601 method not found"},
		{"known, not served", "2026-07-28", "tasks/get", both, "-", "404 -32601 method not found"},
		{"case", "2026-07-28", "TOOLS/LIST", both, "-", "404 -32601 method not found"},
		{"initialize", "-", "initialize", "none", "-", listed},
		{"initialize, asking for modern", "-", "initialize", "2026", "-", listed},
		{"initialize with a stale session", "2025-11-25", "initialize", "none", "forged", listed},
		{"session", "2025-11-25", "tools/list", "none", "own", listed},
		{"session of an older version", "2025-06-18", "tools/list", "none", "own", listed},
		{"session of the oldest version", "2024-11-05", "ping", "none", "own", listed},
		{"session, absent header", "-", "tools/list", "none", "own", listed},
		{"the version that absence stands for", "2025-03-26", "tools/list", "none", "own", listed},
		{"forged session", "2025-11-25", "tools/list", "none", "forged", sessionUnknown},
		{"empty session", "2025-11-25", "tools/list", "none", "", sessionUnknown},
		{"another principal's session", "2025-11-25", "tools/list", "none", "bobs", sessionUnknown},
		{"another route's session", "2025-11-25", "tools/list", "none", "elsewhere", sessionUnknown},
		{"ended session", "2025-11-25", "tools/list", "none", "ended", sessionUnknown},
		{"no session", "2025-11-25", "tools/list", "none", "-", sessionRequired},
		{"no session, no version", "-", "tools/list", "none", "-", sessionRequired},
		{"unknown in legacy", "2025-11-25", "tools/lost", "none", "own", "200 -32601 method not found"},
		{"modern method in legacy", "2025-11-25", "server/discover", "none", "own", "200 -32601 method not found"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, func(w *world) { w.upstreams.ended[strings.Repeat("ab", 16)] = true })
			bobs, elsewhere := ownerOf, ownerOf
			bobs.Subject, elsewhere.Route = "bob", "/other"
			sessions := map[string]string{"own": w.session(ownerOf), "bobs": w.session(bobs), "elsewhere": w.session(elsewhere)}
			sessions["ended"], _ = w.cfg.Sessions.Seal(ownerOf, session.Session{ID: strings.Repeat("ab", 16)})
			if id, ok := sessions[test.session]; ok {
				test.session = id
			}
			r := post("mcp-protocol-version", test.header, "mcp-method", test.method, "mcp-session-id", test.session)
			body := meta(test.method, test.meta)
			if test.meta == "2026" {
				body = `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2026-07-28"}}`
			}
			v := w.judge(r, body)
			diff(t, "verdict", test.want, outcome(v))
			diff(t, "id", "1", string(v.RPCID))
			w.only()
		})
	}
}

func TestUnsupportedVersionSaysWhichAreSupported(t *testing.T) {
	for _, requested := range []string{"2027-01-01", "2026-07-28-" + strings.Repeat("x", 100), "2026-07-28\xff", strings.Repeat("x", 63) + "ü"} {
		w := newWorld(t)
		v := w.judge(post("mcp-protocol-version", requested), `{"jsonrpc":"2.0","id":1,"method":"ping"}`)
		var body struct {
			Error struct {
				Code int
				Data struct {
					Supported []string
					Requested string
				}
			}
		}
		if err := json.Unmarshal(v.Reply.Body, &body); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(mcpparse.Versions(), body.Error.Data.Supported); d != "" || body.Error.Code != -32022 || len(body.Error.Data.Requested) > 70 {
			t.Errorf("%q: %s", requested, v.Reply.Body)
		}
	}
}

// The mirrors of a modern request: what headers say must be what the body says.
func TestMirrors(t *testing.T) {
	for _, test := range []struct {
		name, tool string
		pairs      []string
		want       string
	}{
		{"equal", "open_echo", nil, "forward app-open"},
		{"no method", "open_echo", []string{"mcp-method", "-"}, methodMismatch},
		{"another method", "open_echo", []string{"mcp-method", "tools/list"}, methodMismatch},
		{"method's case", "open_echo", []string{"mcp-method", "Tools/Call"}, methodMismatch},
		{"no name", "open_echo", []string{"mcp-name", "-"}, nameMismatch},
		{"empty name", "open_echo", []string{"mcp-name", ""}, nameMismatch},
		{"another name", "open_echo", []string{"mcp-name", "open_other"}, nameMismatch},
		{"the bare name", "open_echo", []string{"mcp-name", "echo"}, nameMismatch},
		{"name's case", "open_echo", []string{"mcp-name", "open_Echo"}, nameMismatch},
		{"two names in one field", "open_echo", []string{"mcp-name", "open_echo, open_other"}, nameMismatch},
		{"white space around", "open_echo", []string{"mcp-name", " open_echo\t"}, "forward app-open"},
		{"encoded", "open_echo", []string{"mcp-name", "=?base64?b3Blbl9lY2hv?="}, "forward app-open"},
		{"encoded, other name", "open_echo", []string{"mcp-name", "=?base64?b3Blbl94?="}, nameMismatch},
		{"encoded, marker's case", "open_echo", []string{"mcp-name", "=?BASE64?b3Blbl9lY2hv?="}, nameMismatch},
		{"encoded, not base64", "open_echo", []string{"mcp-name", "=?base64?b3Blbl9lY2h?="}, nameMismatch},
		{"no ASCII in the header", "open_echo", []string{"mcp-name", "open_echö"}, nameMismatch},
	} {
		w := newWorld(t)
		r, body := modernCall(test.tool, `{}`)
		if got := outcome(w.judge(with(r, test.pairs...), body)); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
		if rec := w.only(); test.want != "forward app-open" && rec.App != "" {
			t.Errorf("%s: policy was asked before the mirrors were checked: %+v", test.name, rec)
		}
	}
}

// Before 2026-07-28 the mirrors mean nothing: the body decides, and an upstream does not see them.
func TestLegacyIgnoresMirrors(t *testing.T) {
	w := newWorld(t)
	r, body := legacyCall(w.session(ownerOf), "my_server_wipeItem", `{}`)
	v := w.judge(with(r, "mcp-method", "tools/list", "mcp-name", "my_server_listItems"), body)
	diff(t, "denied by body", "403 -32600 more scope is required", outcome(v))
	r, body = legacyCall(w.session(ownerOf), "open_echo", `{}`)
	v = w.judge(with(r, "mcp-method", "tools/list", "mcp-name", "my_server_listItems", "mcp-param-x", "1"), body)
	diff(t, "allowed by body", "forward app-open", outcome(v))
	diff(t, "removed", []string{"authorization", "mcp-method", "mcp-name", "mcp-param-x", "mcp-protocol-version", "mcp-session-id"}, v.Remove)
}

// Messages that are no requests, in both eras.
func TestKinds(t *testing.T) {
	const refused, notFound = "400 -32600 ", "404 -32601 method not found"
	for _, test := range []struct{ era, name, body, want string }{
		{"modern", "a client's response", `{"jsonrpc":"2.0","id":1,"result":{}}`, refused + "a client sends no responses in this protocol version"},
		{"modern", "a client's error", `{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"m"}}`, refused + "a client sends no responses in this protocol version"},
		{"modern", "a notification", `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}`, notFound},
		{"legacy", "a client's response", `{"jsonrpc":"2.0","id":1,"result":{}}`, refused + "no request of ours is waiting for this response"},
		{"legacy", "initialized", `{"jsonrpc":"2.0","method":"notifications/initialized"}`, listed},
		{"legacy", "cancelled", `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}`, listed},
		{"legacy", "progress", `{"jsonrpc":"2.0","method":"notifications/progress","params":{}}`, listed},
		{"legacy", "roots", `{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}`, listed},
		{"legacy", "a notification nobody knows", `{"jsonrpc":"2.0","method":"notifications/other"}`, "400 -32601 method not found"},
		{"legacy", "a batch", `[{"jsonrpc":"2.0","id":1,"method":"ping"}]`, "400 -32600 "},
		{"legacy", "no JSON", `{`, "400 -32700 "},
		{"legacy", "two members of one name", `{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call"}`, "400 -32700 "},
	} {
		w := newWorld(t)
		r := post("mcp-protocol-version", "2026-07-28", "mcp-method", "tools/call", "mcp-name", "open_echo")
		if test.era == "legacy" {
			r = post("mcp-protocol-version", "2025-11-25", "mcp-session-id", w.session(ownerOf))
		}
		if got := outcome(w.judge(r, test.body)); !strings.HasPrefix(got, test.want) {
			t.Errorf("%s: %s: %s, want %s…", test.era, test.name, got, test.want)
		}
		w.only()
	}
}

// A call without an id runs, and nobody can be told what became of it: never.
func TestCallsAreNoNotifications(t *testing.T) {
	for _, method := range []string{"tools/call", "tools/list", "initialize"} {
		body := `{"jsonrpc":"2.0","method":"` + method + `","params":{"name":"open_echo","arguments":{}}}`
		modern := `{"jsonrpc":"2.0","method":"` + method + `","params":{"name":"open_echo",` + modernMeta + `}}`
		w := newWorld(t)
		for _, v := range []authz.Verdict{
			w.judge(post("mcp-session-id", w.session(ownerOf)), body),
			w.judge(post("mcp-protocol-version", "2026-07-28", "mcp-method", method, "mcp-name", "open_echo"), modern),
		} {
			if v.Reply == nil || v.Reply.Status < 400 {
				t.Errorf("%s: %s", method, outcome(v))
			}
		}
		for _, rec := range w.audit.records {
			if rec.App != "" {
				t.Errorf("%s: %+v", method, rec)
			}
		}
	}
}

func TestWithoutSessions(t *testing.T) {
	w := newWorld(t, func(w *world) { w.cfg.SessionHeader = "" })
	r, body := legacyCall("whatever", "open_echo", `{}`)
	diff(t, "verdict", "forward app-open", outcome(w.judge(r, body)))
	if rec := w.only(); rec.Session != "" || rec.ProtocolVersion != "2025-11-25" {
		t.Errorf("record %+v", rec)
	}
}

func TestCustomSessionHeader(t *testing.T) {
	w := newWorld(t, func(w *world) { w.cfg.SessionHeader = "x-session" })
	r, body := legacyCall(w.session(ownerOf), "open_echo", `{}`)
	diff(t, "the standard header", sessionRequired, outcome(w.judge(r, body)))
	v := w.judge(with(r, "x-session", w.session(ownerOf)), body)
	diff(t, "the configured header", "forward app-open", outcome(v))
	diff(t, "removed", []string{"authorization", "mcp-protocol-version", "mcp-session-id", "x-session"}, v.Remove)
	diff(t, "twice", sessionRequired, outcome(w.judge(with(r, "x-session", w.session(ownerOf)+"|x"), body)))
}

// A session id is sealed to its owner: with another token it does not exist.
func TestSessionsOfOthers(t *testing.T) {
	w := newWorld(t)
	r, body := legacyCall(w.session(ownerOf), "open_echo", `{}`)
	diff(t, "stolen", sessionUnknown, outcome(w.judge(with(r, "authorization", "Bearer "+bobsToken), body)))
	diff(t, "own", "forward app-open", outcome(w.judge(r, body)))
	diff(t, "owner of the upstream session", []string{sessionID}, w.upstreams.owners)
}
