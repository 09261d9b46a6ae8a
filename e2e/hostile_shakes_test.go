package e2e

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
)

// Handshakes that are none. What cannot be agreed on is not used: no list is shown, a session id that is none is never sent
// back, and calls go without a session.

func handshake(members string) func(turn) {
	return resulting("{" + members + `,"serverInfo":{"name":"liar","version":"1"}}`)
}

// sessions answers a handshake with these session ids.
func sessions(ids ...string) func(turn) {
	return func(t turn) {
		t.w.Header()["Mcp-Session-Id"] = ids
		handshake(agreed)(t)
	}
}

func discovered(versions string) func(turn) {
	return resulting(`{"resultType":"complete","supportedVersions":` + versions + `,"capabilities":{"tools":{}},"ttlMs":0,"cacheScope":"public"}`)
}

// unsupported is how a modern server refuses the version that it was asked in, and names others.
func unsupported(versions string) func(turn) {
	return saying("application/json", `{"jsonrpc":"2.0","id":@ID,"error":{"code":-32022,"message":"evil","data":{"supported":[`+versions+`]}}}`)
}

const agreed = `"protocolVersion":"2025-11-25","capabilities":{"tools":{}}`

var (
	// initializeLies are told by legacy servers.
	initializeLies = map[string]func(turn){
		"id-space":     sessions("evil evil"),
		"id-long":      sessions(strings.Repeat("evil", 5<<8)),
		"id-twice":     sessions("evil", "evil2"),
		"id-bytes":     sessions("evil\x80"),
		"id-empty":     sessions(""),
		"version-odd":  handshake(`"protocolVersion":"evil","capabilities":{"tools":{}}`),
		"version-new":  handshake(`"protocolVersion":"2026-07-28","capabilities":{"tools":{}}`),
		"version-none": handshake(`"capabilities":{"tools":{}}`),
		"version-num":  handshake(`"protocolVersion":7,"capabilities":{"tools":{}}`),
		"other-id":     saying("application/json", `{"jsonrpc":"2.0","id":"evil","result":{`+agreed+`}}`),
		"twice":        saying("application/json", `{"jsonrpc":"2.0","id":@ID,"result":{`+agreed+`,"capabilities":{}}}`),
		"page":         saying("text/html", "<h1>evil</h1>"),
		"redirect":     replying(307, "Location: https://evil.example/"),
		"guarded":      replying(401, `WWW-Authenticate: Bearer resource_metadata="https://evil.example/"`),
		"accepted":     replying(202),
		"error":        saying("application/json", `{"jsonrpc":"2.0","id":@ID,"error":{"code":-32000,"message":"evil"}}`),
		"endless":      func(t turn) { flood(t, "", " ", giant) },
		"hangs":        hang,
	}
	// discoverLies are told by modern servers, and do not keep their tools from being listed.
	discoverLies = map[string]func(turn){
		"none":     discovered(`[]`),
		"odd":      discovered(`["evil",7,null]`),
		"many":     discovered(`[` + strings.Repeat(`"evil",`, 100_000) + `"2026-07-28"]`),
		"refuses":  unsupported(`"2026-07-28"`),
		"old":      unsupported(`"evil"`),
		"other-id": saying("application/json", `{"jsonrpc":"2.0","id":"evil","result":{"supportedVersions":["2026-07-28"]}}`),
	}
)

func TestHostileHandshakes(t *testing.T) {
	t.Parallel() // it waits for one that says nothing
	liars := map[string]*liar{}
	h := startAmong(t, func() (config string) {
		for kind, all := range map[string]map[string]func(turn){"legacy": initializeLies, "modern": discoverLies} {
			for name, answer := range all {
				l := newLiar(t, kind, nil)
				l.instead = map[string]func(turn){map[string]string{"legacy": "initialize", "modern": "server/discover"}[kind]: answer}
				liars[kind+"-"+name] = l
				config += appConfig(kind+"-"+name, "stream", l.URL+"/mcp")
			}
		}
		return config
	})
	session := h.open(h.token, `{}`)
	shown, missing := h.list(modernMethod("tools/list"))
	var group sync.WaitGroup
	for name, l := range liars {
		bad := strings.HasPrefix(name, "legacy")
		if slices.Contains(missing, name) != bad || (len(shown[name]) == 0) != bad {
			t.Errorf("%s: shown %v, missing %v", name, shown[name], slices.Contains(missing, name))
		}
		group.Go(func() {
			for era, r := range map[string]request{"legacy": legacyCall(session, name+"_call", `{}`), "modern": modern(name+"_call", `{}`)} {
				a, err := h.try(r)
				if err != nil || len(a.RPC.ID) < 1 || string(a.RPC.ID) == "null" || a.Header.Get("Mcp-Session-Id") != "" || strings.Contains(string(a.Body), evil) {
					t.Errorf("%s, %s: %s %v, %v", name, era, a, a.Header, err)
				}
			}
			l.mu.Lock()
			defer l.mu.Unlock()
			for _, r := range l.seen {
				if strings.Contains(fmt.Sprint(r.Header, string(r.Body)), evil) {
					t.Errorf("%s got back what it said: %v %s", name, r.Header, r.Body)
				}
			}
			if n := len(l.seen); n > 30 {
				t.Errorf("%s was asked %d times", name, n)
			}
		})
	}
	group.Wait()
	h.wellAfterwards()
}
