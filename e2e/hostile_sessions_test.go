package e2e

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"math"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/golang-jwt/jwt/v5"
)

// Ids of sessions, events and requests in hands that they were not given to.

const ping = `{"jsonrpc":"2.0","id":1,"method":"ping"}`

// inEveryVerb uses a session id in all the ways there are, none of which may work, and none of which may end the session.
func (h *lair) inEveryVerb(what, token, id string) {
	h.t.Helper()
	header := map[string]string{"Mcp-Session-Id": id}
	for name, r := range map[string]request{
		"ping":         {body: ping, header: header},
		"call":         legacyCall(id, "both_call", `{}`),
		"notification": {body: `{"jsonrpc":"2.0","method":"notifications/initialized"}`, header: header},
		"response":     {body: `{"jsonrpc":"2.0","id":"x","result":{}}`, header: header},
		"GET":          {method: http.MethodGet, header: header},
		"resume":       {method: http.MethodGet, header: map[string]string{"Mcp-Session-Id": id, "Last-Event-ID": "1"}},
		"DELETE":       {method: http.MethodDelete, header: header},
	} {
		r.token = token
		if a := h.send(r); a.Status != http.StatusNotFound || a.RPC.Error == nil || a.RPC.Error.Code != -32600 {
			h.t.Errorf("%s, %s: %s", what, name, a)
		}
	}
}

func TestHostileSessionIDs(t *testing.T) {
	h := startLair(t)
	mine, others := h.open(h.token, `{}`), h.open(h.other, `{}`)
	old := h.openOld(h.token)
	elsewhere := startLair(t, lie{name: "another gateway"})
	elsewhere.write("secrets.yaml", strings.Replace(contents(t, h.path("secrets.yaml")), "0123456789abcdef", "fedcba9876543210", 1))
	foreign := elsewhere.open(elsewhere.token, `{}`)
	h.inEveryVerb("another agent's", h.token, others)
	h.inEveryVerb("mine, with another agent's token", h.other, mine)
	h.inEveryVerb("mine, with a token of another client", h.provider.forge(t, func(_ map[string]any, c jwt.MapClaims) { c["aud"], c["client_id"] = h.url, "another-client" }), mine)
	h.inEveryVerb("one of the other transport", h.token, old)
	h.inEveryVerb("one of another gateway", h.token, foreign)
	h.inEveryVerb("one of my own making", h.token, "evil")
	h.inEveryVerb("the server's", h.token, "upstream-session-1")
	for at := 0; at < len(mine); at += 7 {
		flipped := []byte(mine)
		flipped[at] = "AB"[strings.Count("A", string(flipped[at]))]
		if a := h.send(legacy(string(flipped), ping)); a.Status != http.StatusNotFound {
			t.Errorf("another character at %d: %s", at, a)
		}
	}
	for name, id := range map[string]string{
		"shorter": mine[:len(mine)-1], "half": mine[:len(mine)/2], "longer": mine + "A", "twice": mine + mine, "padded": mine + "=", "quoted": `"` + mine + `"`,
		"lower case": strings.ToLower(mine), "with a space": mine[:9] + " " + mine[9:], "the other way round": mine[20:] + mine[:20], "5 KB": strings.Repeat(mine, 5<<10/len(mine)+1),
		"two": mine + "," + mine, "both": mine + "," + others,
	} {
		if a := h.send(legacy(id, ping)); a.Status != http.StatusNotFound {
			t.Errorf("%s: %s", name, a)
		}
	}
	// The other transport's message path takes none but its own.
	for name, id := range map[string]string{"of the stream": mine, "another agent's": h.openOld(h.other), "altered": old[:len(old)-2] + "AA"} {
		if a := h.send(request{path: "/mcp/message?sessionId=" + id, body: ping}); a.Status != http.StatusNotFound {
			t.Errorf("over the other transport, %s: %s", name, a)
		}
	}
	if a := h.send(request{path: "/mcp/message?sessionId=" + old, body: ping}); a.Status != http.StatusAccepted {
		t.Errorf("over the other transport, its own: %s", a)
	}
	for who, r := range map[string]request{"mine": legacy(mine, ping), "the other's": legacyAs(h.other, legacy(others, ping))} {
		if a := h.send(r); a.Status != http.StatusOK {
			t.Errorf("%s, after all that: %s", who, a)
		}
	}
}

var endpointID = regexp.MustCompile(`sessionId=([A-Za-z0-9_-]+)\n`)

// openOld opens a session of the 2024-11-05 transport, and keeps it open.
func (h *lair) openOld(token string) string {
	h.t.Helper()
	heard := h.hear(request{method: http.MethodGet, path: "/mcp/sse", token: token})
	await(h.t, "the endpoint", func() bool { return endpointID.MatchString(heard.String()) })
	return endpointID.FindStringSubmatch(heard.String())[1]
}

// TestHostileInitialize: an id that a client brings along is not taken over, neither the text nor the session.
func TestHostileInitialize(t *testing.T) {
	h := startLair(t)
	others := h.open(h.other, `{}`)
	for _, chosen := range []string{"evil", "00000000000000000000000000000000", others, h.open(h.token, `{}`)} {
		r := request{body: `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"e2e","version":"1"}}}`,
			header: map[string]string{"Mcp-Session-Id": chosen}}
		a := h.send(r)
		id := a.Header.Get("Mcp-Session-Id")
		if a.Status != http.StatusOK || id == chosen || len(a.Header.Values("Mcp-Session-Id")) != 1 || len(id) < 64 {
			t.Errorf("chose %s: %s %q", chosen, a, id)
		}
		if a := h.send(legacy(id, ping)); a.Status != http.StatusOK {
			t.Errorf("the new session: %s", a)
		}
	}
	h.inEveryVerb("chosen", h.token, others)
}

// TestHostileManySessions: ten thousand ids, no two alike in any part, and no bit of them to be told beforehand. Then there
// are enough, for this caller and for nobody else.
func TestHostileManySessions(t *testing.T) {
	h := startLair(t)
	const many = 10_000
	ids := make([]string, many)
	var group sync.WaitGroup
	next := make(chan int)
	for range 16 {
		group.Go(func() {
			for n := range next {
				ids[n] = h.open(h.token, `{}`)
			}
		})
	}
	for n := range many {
		next <- n
	}
	close(next)
	group.Wait()
	seen, heads := map[string]bool{}, map[string]bool{}
	var ones [1024]int
	bits := 0
	for _, id := range ids {
		raw, err := base64.RawURLEncoding.DecodeString(id)
		must(t, err)
		seen[id], heads[string(raw[:12])] = true, true
		bits = len(raw) * 8
		for bit := range bits {
			ones[bit] += int(raw[bit/8] >> (bit % 8) & 1)
		}
	}
	if len(seen) != many || len(heads) != many {
		t.Errorf("%d ids, %d beginnings of %d", len(seen), len(heads), many)
	}
	for bit, n := range ones[:bits] {
		if deviation := math.Abs(float64(n)-many/2) / math.Sqrt(many/4); deviation > 6 {
			t.Errorf("bit %d is set in %d of %d ids", bit, n, many)
		}
	}
	more := request{body: `{"jsonrpc":"2.0","id":"m","method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"e2e","version":"1"}}}`}
	if a := h.send(more); a.Status != http.StatusTooManyRequests || a.Header.Get("Retry-After") == "" || a.RPC.Error == nil || a.RPC.Error.Code != -32603 || string(a.RPC.ID) != `"m"` {
		t.Errorf("one more: %s", a)
	}
	if a := h.send(legacyAs(h.other, more)); a.Status != http.StatusOK {
		t.Errorf("another agent's first: %s", a)
	}
	if a := h.send(legacy(ids[0], ping)); a.Status != http.StatusOK {
		t.Errorf("the oldest session: %s", a)
	}
	end := legacy(ids[1], "")
	end.method = http.MethodDelete
	if a := h.send(end); a.Status != http.StatusNoContent {
		t.Errorf("DELETE: %s", a)
	}
	if a := h.send(more); a.Status != http.StatusOK {
		t.Errorf("after one has ended: %s", a)
	}
}

// TestHostileUpstreamSessions: each agent's session has its own at each server. Agents do not see servers' ids, and servers
// do not see agents'.
func TestHostileUpstreamSessions(t *testing.T) {
	numbered := lie{name: "numbered", events: "id: 1\n" + event(note) + "id: 2\n" + event(fine)}
	h := startLair(t, numbered)
	h.liars["both"].streams(func(t turn) { t.say("id: 7\n" + event(mark(7))); hang(t) })
	var agents bytes.Buffer
	var ids []string
	arguments := numbered.arguments("legacy")
	for _, token := range []string{h.token, h.token, h.other} {
		session := h.open(token, `{}`)
		ids = append(ids, session)
		heard := h.listen(token, session)
		for _, r := range []request{legacyCall(session, "both_call", arguments), legacyCall(session, "legacy_call", arguments), modern("legacy_call", arguments), modern("both_call", `{}`)} {
			r.token = token
			a := h.send(r)
			_, _ = fmt.Fprintln(&agents, a.Status, a.Header, string(a.Body))
		}
		await(t, "the stream", func() bool { return strings.Contains(heard.String(), "mark 7") })
		_, _ = fmt.Fprintln(&agents, heard.stop())
	}
	if strings.Contains(agents.String(), "upstream-session") || strings.Contains(agents.String(), "id: 1\n") {
		t.Errorf("agents saw a server's id: %s", agents.String())
	}
	for _, speaks := range []string{"both", "legacy"} {
		callers := map[string]map[string]bool{}
		for _, r := range h.liars[speaks].arrived("tools/call") {
			id := r.Header.Get("Mcp-Session-Id")
			if callers[id] == nil {
				callers[id] = map[string]bool{}
			}
			callers[id][r.Header.Get("MCP-Protocol-Version")] = true
			for _, mine := range ids {
				if strings.Contains(fmt.Sprint(r.Header, string(r.Body)), mine) {
					t.Error("a server saw an agent's session id")
				}
			}
		}
		// Three sessions; and of the legacy server two more, of the two callers without one. "" is a modern call.
		want := map[string]int{"both": 4, "legacy": 5}[speaks]
		if len(callers) != want {
			t.Errorf("%s: %d sessions, want %d: %v", speaks, len(callers), want, callers)
		}
	}
}

var eventID = regexp.MustCompile(`(?m)^id: ([A-Za-z0-9_-]{60,})$`)

// TestHostileEventIDs: a stream is resumed in the session in which it broke off, at the server that it came from.
func TestHostileEventIDs(t *testing.T) {
	numbered := lie{name: "numbered", events: "id: 1\ndata:\n\nid: 2\n" + event(note)}
	h := startLair(t, numbered)
	var resumed sync.Map
	for _, speaks := range []string{"both", "legacy"} {
		h.liars[speaks].streams(func(t turn) {
			if last := t.r.Header.Get("Last-Event-ID"); last != "" {
				resumed.Store(speaks+" "+last, t.r.Header.Get("Mcp-Session-Id"))
				t.say("id: 3\n" + event(`{"jsonrpc":"2.0","id":"c-2","result":{"evil":1}}`) + "id: 4\n" + event(strings.ReplaceAll(fine, "@ID", `"c-1"`)))
				return
			}
			hang(t)
		})
	}
	first, second, others := h.open(h.token, `{}`), h.open(h.token, `{}`), h.open(h.other, `{}`)
	for session, token := range map[string]string{first: h.token, second: h.token, others: h.other} { // so that there are sessions at the server
		h.send(legacyAs(token, legacyCall(session, "legacy_call", `{}`)))
		h.send(legacyAs(token, legacyCall(session, "both_call", `{}`)))
	}
	a := h.send(legacyCall(first, "both_call", numbered.arguments("legacy")))
	id := eventID.FindAllStringSubmatch(string(a.Body), -1)
	if len(id) != 2 {
		t.Fatal(a)
	}
	last := id[1][1]
	resume := func(token, session, last string) answer {
		return h.send(request{method: http.MethodGet, token: token, header: map[string]string{"Mcp-Session-Id": session, "Last-Event-ID": last}})
	}
	for name, a := range map[string]answer{
		"in another session": resume(h.token, second, last),
		"by another agent":   resume(h.other, others, last),
		"the server's own":   resume(h.token, first, "2"),
		"altered":            resume(h.token, first, last[:len(last)-2]+"AA"),
		"shortened":          resume(h.token, first, last[:len(last)-1]),
		"of another kind":    resume(h.token, first, first),
		"evil":               resume(h.token, first, evil),
		"very long":          resume(h.token, first, strings.Repeat(last, 20)),
	} {
		if a.Status != http.StatusBadRequest || a.RPC.Error == nil || a.RPC.Error.Code != -32600 {
			t.Errorf("%s: %s", name, a)
		}
	}
	resumed.Range(func(k, v any) bool { t.Errorf("resumed %v in %v", k, v); return true })
	a = resume(h.token, first, last)
	if a.Status != http.StatusOK || !strings.Contains(string(a.Body), `"id":"c-1","result"`) {
		t.Errorf("where it belongs: %s", a)
	}
	if strings.Contains(string(a.Body), "c-2") {
		t.Errorf("the server answered another call, which may be another server's: %s", a)
	}
	if v, ok := resumed.Load("both 2"); !ok || v == "" {
		t.Error("the server did not hear of it")
	}
}
