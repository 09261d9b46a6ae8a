package hub

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDiscover(t *testing.T) {
	h := newHub(t, apps(), egress{})
	rec := askModern(h, "alice", "server/discover", "")
	want := `{"jsonrpc":"2.0","id":"m","result":{"resultType":"complete",` +
		`"supportedVersions":["2026-07-28","2025-11-25","2025-06-18","2024-11-05"],"capabilities":{"tools":{"listChanged":true}},` +
		`"ttlMs":60000,"cacheScope":"private",` +
		`"_meta":{"io.modelcontextprotocol/serverInfo":{"name":"sallyport","version":"1.2.3"}}}}`
	if diff := cmp.Diff(want, rec.Body.String()); diff != "" || rec.Code != 200 {
		t.Error(rec.Code, diff)
	}
}

func TestModernRefusals(t *testing.T) {
	h := newHub(t, apps(), egress{})
	noCapabilities := `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}`
	for _, tt := range []struct {
		name, body, version string
		status              int
		want                string
	}{
		{"unknown method", `{"jsonrpc":"2.0","id":1,"method":"prompts/list","params":{` + modernMeta + `}}`, "2026-07-28", 404, `"id":1,"error":{"code":-32601`},
		{"initialize", `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2026-07-28",` + modernMeta + `}}`, "2026-07-28", 404, `"code":-32601`},
		{"ping", `{"jsonrpc":"2.0","id":1,"method":"ping","params":{` + modernMeta + `}}`, "2026-07-28", 404, `"code":-32601`},
		{"no header", `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{` + modernMeta + `}}`, "", 400, `"code":-32020`},
		{"header of another version", `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{` + modernMeta + `}}`, "2025-11-25", 400, `"code":-32020`},
		{"version to come", strings.ReplaceAll(`{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{`+modernMeta+`}}`, "2026-07-28", "2027-07-28"), "2027-07-28", 400, `"supported":["2026-07-28"`},
		{"no metadata", `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`, "2026-07-28", 400, `"code":-32602`},
		{"no capabilities", noCapabilities, "2026-07-28", 400, `"code":-32602`},
		{"a response", `{"jsonrpc":"2.0","id":1,"result":{}}`, "2026-07-28", 400, `"code":-32600`},
		{"a notification", `{"jsonrpc":"2.0","method":"notifications/cancelled"}`, "2026-07-28", 202, ``},
	} {
		var headers []string
		if tt.version != "" {
			headers = []string{"MCP-Protocol-Version", tt.version}
		}
		rec := ask(h, "alice", "POST", tt.body, headers...)
		if rec.Code != tt.status || !strings.Contains(rec.Body.String(), tt.want) {
			t.Errorf("%s: %d %s, want %d with %s", tt.name, rec.Code, rec.Body, tt.status, tt.want)
		}
	}
}
