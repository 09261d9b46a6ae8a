package e2e

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
)

// Answers to resources/read. The gateway reads those of modern servers too, to mark them as the caller's own: what it
// cannot read does not pass.

// readResult is a response with a resource in it.
func readResult(members string) string {
	return `{"jsonrpc":"2.0","id":@ID,"result":{` + members + `"contents":[{"uri":"a://x","text":"evil"}]}}`
}

const (
	asJSON   = "application/json"
	asEvents = "text/event-stream"
	unpassed = "unpassed" // nothing of it passes: an error, or an answer that breaks off
)

// readLies are what a server answers, and what a modern agent gets: straight from Envoy, and of a legacy server.
var readLies = map[string]struct {
	answer      func(turn)
	want, lower string
}{
	"honest": {saying(asJSON, readResult(`"cacheScope":"public",`)), "200 " + readResult(`"cacheScope":"private",`),
		"200 " + readResult(`"ttlMs":0,"resultType":"complete","cacheScope":"private",`)},
	"events": {saying(asEvents, event(note)+event(readResult(`"cacheScope":"public",`))), "200 " + event(note) + event(readResult(`"cacheScope":"private",`)),
		"200 " + readResult(`"ttlMs":0,"resultType":"complete","cacheScope":"private",`)},
	"no-text": {saying(asJSON, readResult(`"cacheScope":["public"],`)), "200 " + readResult(`"cacheScope":"private",`),
		"200 " + readResult(`"ttlMs":0,"resultType":"complete","cacheScope":"private",`)},
	"escaped": {saying(asJSON, readResult(`"cache\u0053cope":"public",`)), "200 " + readResult(`"cache\u0053cope":"private",`),
		"200 " + readResult(`"ttlMs":0,"resultType":"complete","cache\u0053cope":"private",`)},
	"no-scope":     {saying(asJSON, readResult(``)), "200 " + readResult(``), "200 " + readResult(`"cacheScope":"private","ttlMs":0,"resultType":"complete",`)},
	"error":        {saying(asJSON, failure), "200 " + failure, "200 " + failure},
	"scope-twice":  {saying(asJSON, readResult(`"cacheScope":"private","cacheScope":"public",`)), unpassed, refused},
	"result-twice": {saying(asJSON, `{"jsonrpc":"2.0","id":@ID,"result":{},"result":{"evil":1}}`), unpassed, refused},
	"batch":        {saying(asJSON, `[`+readResult(``)+`]`), unpassed, refused},
	"no-json":      {saying(asJSON, `evil`), unpassed, refused},
	"nothing":      {saying(asJSON, ``), unpassed, refused},
	"no-events":    {saying(asEvents, event("evil")), unpassed, refused},
	"endless":      {func(t turn) { t.w.Header().Set("Content-Type", asJSON); flood(t, "", " ", giant) }, unpassed, refused},
	"endless-line": {func(t turn) { t.w.Header().Set("Content-Type", asEvents); flood(t, "data:", "evil", giant) }, unpassed, refused},
	"zipped":       {func(t turn) { t.w.Header().Set("Content-Encoding", "gzip"); saying(asJSON, zipped(fine))(t) }, refused, refused},
	"guarded":      {replying(401), refused, refused},
}

func TestHostileReads(t *testing.T) {
	h := startAmong(t, func() (config string) {
		for _, speaks := range []string{"modern", "legacy"} {
			var resources []string
			for name := range readLies {
				resources = append(resources, `{"uri":"`+speaks+`://`+name+`","name":"`+name+`"}`)
			}
			l := offering(t, speaks, strings.Join(resources, ","), "", "")
			l.instead["resources/read"] = func(t turn) {
				var r struct{ Params struct{ URI string } }
				_ = json.Unmarshal(t.got.Body, &r)
				_, name, _ := strings.Cut(r.Params.URI, "://")
				readLies[name].answer(t)
			}
			config += appConfig(speaks, "stream", l.URL+"/mcp")
		}
		return config
	})
	for name, c := range readLies {
		for speaks, want := range map[string]string{"modern": c.want, "legacy": c.lower} {
			a, err := h.try(inEra("", "resources/read", speaks+"://"+name))
			if want != unpassed {
				h.check(lie{name: name}, speaks, "7", want, a, err)
				continue
			}
			broke, fault := err != nil && len(a.Body) == 0, a.Status == http.StatusServiceUnavailable && a.RPC.Error != nil && a.RPC.Error.Code == -32603 && string(a.RPC.ID) == "7"
			if !broke && !fault || strings.Contains(string(a.Body), evil) {
				t.Errorf("%s, %s: %s, %v", name, speaks, a, err)
			}
		}
	}
	h.wellAfterwards()
}
