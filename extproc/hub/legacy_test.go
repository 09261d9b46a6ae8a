package hub

import (
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

const pingBody = `{"jsonrpc":"2.0","id":"p","method":"ping"}`

func TestInitialize(t *testing.T) {
	h := newHub(t, apps(), egress{})
	for requested, want := range map[string]string{
		"2024-11-05": "2024-11-05",
		"2025-03-26": "2025-06-18", // its batches are refused, so it is never agreed on
		"2025-06-18": "2025-06-18",
		"2025-11-25": "2025-11-25",
		"2026-07-28": "2025-11-25",
		"1.0":        "2025-11-25",
	} {
		rec := ask(h, "alice", "POST", initializeBody(requested))
		want := `{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"` + want +
			`","capabilities":{"tools":{"listChanged":true}},"serverInfo":{"name":"sallyport","version":"1.2.3"}}}`
		if rec.Code != 200 || rec.Body.String() != want {
			t.Errorf("%s: %d %s, want %s", requested, rec.Code, rec.Body, want)
		}
		if rec.Header().Get("Mcp-Session-Id") == "" {
			t.Errorf("%s: no session id", requested)
		}
	}
	rec := ask(h, "alice", "POST", `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}`)
	if rec.Code != 400 || !strings.Contains(rec.Body.String(), `"code":-32602`) {
		t.Errorf("no version: %d %s", rec.Code, rec.Body)
	}
}

func TestSessionMessages(t *testing.T) {
	h := newHub(t, apps(), egress{})
	id := begin(t, h, "alice")
	rec := ask(h, "alice", "POST", pingBody, "Mcp-Session-Id", id)
	if rec.Code != 200 || rec.Body.String() != `{"jsonrpc":"2.0","id":"p","result":{}}` {
		t.Errorf("ping: %d %s", rec.Code, rec.Body)
	}
	for _, method := range []string{"notifications/initialized", "notifications/cancelled", "notifications/progress", "notifications/roots/list_changed"} {
		rec := ask(h, "alice", "POST", `{"jsonrpc":"2.0","method":"`+method+`"}`, "Mcp-Session-Id", id)
		if rec.Code != 202 || rec.Body.Len() > 0 {
			t.Errorf("%s: %d %s", method, rec.Code, rec.Body)
		}
	}
}

// An id is good only where and for whom it was issued; every other gets the same answer.
func TestSessionBelongsToItsOwner(t *testing.T) {
	h := newHub(t, apps(), egress{})
	id := begin(t, h, "alice")
	flipped := []byte(id)
	flipped[10] ^= 1
	var bodies []string
	for name, tt := range map[string]struct{ who, id string }{
		"other principal": {"bob", id},
		"bit flip":        {"alice", string(flipped)},
		"truncated":       {"alice", id[:len(id)-4]},
		"invented":        {"alice", "6f9619ff-8b86-d011-b42d-00cf4fc964ff"},
	} {
		rec := ask(h, tt.who, "POST", pingBody, "Mcp-Session-Id", tt.id)
		if rec.Code != 404 {
			t.Errorf("%s: %d %s", name, rec.Code, rec.Body)
		}
		bodies = append(bodies, rec.Body.String())
		if rec := ask(h, tt.who, "DELETE", "", "Mcp-Session-Id", tt.id); rec.Code != 404 {
			t.Errorf("%s: DELETE %d", name, rec.Code)
		}
	}
	for _, b := range bodies {
		if b != bodies[0] {
			t.Errorf("answers differ: %s and %s", bodies[0], b)
		}
	}
	if rec := ask(h, "alice", "POST", pingBody, "Mcp-Session-Id", id); rec.Code != 200 {
		t.Errorf("the owner was locked out: %d %s", rec.Code, rec.Body)
	}
}

// A client cannot choose its session's id.
func TestInitializeIgnoresBroughtID(t *testing.T) {
	h := newHub(t, apps(), egress{})
	mine := begin(t, h, "alice")
	rec := ask(h, "alice", "POST", initializeBody("2025-11-25"), "Mcp-Session-Id", mine)
	if got := rec.Header().Get("Mcp-Session-Id"); got == mine || got == "" {
		t.Errorf("id %q", got)
	}
}

func TestDelete(t *testing.T) {
	h := newHub(t, apps(), egress{})
	id, other := begin(t, h, "alice"), begin(t, h, "alice")
	if rec := ask(h, "alice", "DELETE", "", "Mcp-Session-Id", id); rec.Code != 204 || rec.Body.Len() > 0 {
		t.Fatalf("DELETE: %d %s", rec.Code, rec.Body)
	}
	for _, verb := range []string{"POST", "DELETE"} {
		if rec := ask(h, "alice", verb, pingBody, "Mcp-Session-Id", id); rec.Code != 404 {
			t.Errorf("%s after DELETE: %d", verb, rec.Code)
		}
	}
	if rec := ask(h, "alice", "POST", pingBody, "Mcp-Session-Id", other); rec.Code != 200 {
		t.Errorf("the other session: %d %s", rec.Code, rec.Body)
	}
	if rec := ask(h, "alice", "DELETE", ""); rec.Code != 400 {
		t.Errorf("DELETE without an id: %d", rec.Code)
	}
}

func TestDeleteNotAllowed(t *testing.T) {
	h := newHub(t, apps(), egress{}, func(c *Config) { c.ClientMayEnd = false })
	id := begin(t, h, "alice")
	rec := ask(h, "alice", "DELETE", "", "Mcp-Session-Id", id)
	if rec.Code != 405 || rec.Header().Get("Allow") != "GET, POST" {
		t.Errorf("%d, Allow %q", rec.Code, rec.Header().Get("Allow"))
	}
	if rec := ask(h, "alice", "POST", pingBody, "Mcp-Session-Id", id); rec.Code != 200 {
		t.Errorf("the session ended all the same: %d", rec.Code)
	}
}

func TestSessionsOff(t *testing.T) {
	h := newHub(t, apps(), egress{}, func(c *Config) { c.SessionHeader = "" })
	rec := ask(h, "alice", "POST", initializeBody("2025-06-18"))
	if rec.Code != 200 || rec.Header().Get("Mcp-Session-Id") != "" {
		t.Errorf("%d, id %q", rec.Code, rec.Header().Get("Mcp-Session-Id"))
	}
	if rec := ask(h, "alice", "POST", pingBody); rec.Code != 200 {
		t.Errorf("ping: %d %s", rec.Code, rec.Body)
	}
	if rec := ask(h, "alice", "DELETE", "", "Mcp-Session-Id", "x"); rec.Code != 405 {
		t.Errorf("DELETE: %d", rec.Code)
	}
}

func TestSessionHeaderName(t *testing.T) {
	h := newHub(t, apps(), egress{}, func(c *Config) { c.SessionHeader = "x-session" })
	id := ask(h, "alice", "POST", initializeBody("2025-11-25")).Header().Get("X-Session")
	if rec := ask(h, "alice", "POST", pingBody, "X-Session", id); rec.Code != 200 {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
	if rec := ask(h, "alice", "POST", pingBody, "Mcp-Session-Id", id); rec.Code != 400 {
		t.Errorf("under the other name: %d %s", rec.Code, rec.Body)
	}
}

func TestSessionTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, apps(), egress{}, func(c *Config) { c.SessionTimeout = time.Hour })
		id := begin(t, h, "alice")
		for range 3 { // use keeps it alive
			time.Sleep(59 * time.Minute)
			if rec := ask(h, "alice", "POST", pingBody, "Mcp-Session-Id", id); rec.Code != 200 {
				t.Fatalf("%d %s", rec.Code, rec.Body)
			}
		}
		time.Sleep(61 * time.Minute)
		for range 2 { // and the end is the end
			if rec := ask(h, "alice", "POST", pingBody, "Mcp-Session-Id", id); rec.Code != 404 {
				t.Fatalf("%d %s", rec.Code, rec.Body)
			}
		}
	})
}

// A restart forgets what was soft, not the sessions.
func TestSessionOutlivesRestart(t *testing.T) {
	id := begin(t, newHub(t, apps(), egress{}), "alice")
	h := newHub(t, apps(), egress{})
	if rec := ask(h, "alice", "POST", pingBody, "Mcp-Session-Id", id); rec.Code != 200 {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
}

func TestTooManySessions(t *testing.T) {
	h := newHub(t, apps(), egress{})
	for range maxSessionsPrincipal {
		if rec := ask(h, "alice", "POST", initializeBody("2025-11-25")); rec.Code != 200 {
			t.Fatalf("%d %s", rec.Code, rec.Body)
		}
	}
	rec := ask(h, "alice", "POST", initializeBody("2025-11-25"))
	if rec.Code != 429 || rec.Header().Get("Retry-After") == "" || !json.Valid(rec.Body.Bytes()) {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
	begin(t, h, "bob") // others are not held to it
}

func TestLegacyList(t *testing.T) {
	h := newHub(t, apps("up"), egress{"app/up": modernScript(`{"resultType":"complete","tools":[{"name":"a","x":1.50}],"ttlMs":60000,"cacheScope":"public"}`)})
	id := begin(t, h, "alice")
	rec := ask(h, "alice", "POST", `{"jsonrpc":"2.0","id":3,"method":"tools/list"}`, "Mcp-Session-Id", id)
	want := `{"jsonrpc":"2.0","id":3,"result":{"tools":[{"name":"up_a","x":1.50}]}}`
	if diff := cmp.Diff(want, rec.Body.String()); diff != "" {
		t.Error(diff)
	}
}
