package e2e

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// Lies that HTTP can tell. Over the 2024-11-05 transport an answer has no HTTP of its own.

// rawly is an answer that no HTTP server would write.
func rawly(text string) func(turn) {
	return func(t turn) {
		if c, _, err := http.NewResponseController(t.w).Hijack(); err == nil {
			defer func() { _ = c.Close() }()
			_, _ = io.WriteString(c, strings.ReplaceAll(text, "@ID", t.id))
		}
	}
}

// zipped is text compressed.
func zipped(text string) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = io.WriteString(z, text)
	_ = z.Close()
	return b.String()
}

// hang says nothing more.
func hang(t turn) { <-t.r.Context().Done() }

// drip says a byte a second.
func drip(text string) func(turn) {
	return func(t turn) {
		for _, c := range strings.Split(strings.ReplaceAll(text, "@ID", t.id), "") {
			if !t.say(c) {
				return
			}
			select {
			case <-t.r.Context().Done():
				return
			case <-time.After(time.Second):
			}
		}
	}
}

// answerOf is one with these fields, of JSON unless they say otherwise.
func answerOf(head, body string) func(turn) {
	if !strings.Contains(head, "Content-Type") {
		head = "Content-Type: application/json\r\n" + head
	}
	return rawly("HTTP/1.1 200 OK\r\nConnection: close\r\n" + head + "\r\n" + body)
}

// passed is what goes through straight from Envoy and is no answer for the hub.
func passed(direct string) outcomes { return everywhere(direct, refused) }

// noUse: nothing of it gets through.
var noUse = everywhere(refused, refused)

// Statuses, types and codings.
var statusLies = []lie{
	{name: "a challenge", status: 401, header: []string{`WWW-Authenticate: Bearer resource_metadata="https://evil.example/"`}, json: fine, want: noUse},
	{name: "a challenge without a body", status: 401, header: []string{`WWW-Authenticate: Bearer resource_metadata="https://evil.example/"`}, want: noUse},
	{name: "forbidden", status: 403, header: []string{`WWW-Authenticate: Bearer error="insufficient_scope", scope="evil"`}, json: fine, want: noUse},
	{name: "a proxy's challenge", status: 407, header: []string{`Proxy-Authenticate: Basic realm="evil"`}, json: fine, want: noUse},
	{name: "gzip", header: []string{"Content-Encoding: gzip"}, json: zipped(fine), want: noUse},
	{name: "gzip of events", header: []string{"Content-Encoding: gzip"}, events: zipped(event(fine)), want: noUse},
	{name: "said to be zipped", header: []string{"Content-Encoding: br"}, json: fine, want: noUse},
	{name: "two codings", header: []string{"Content-Encoding: identity, gzip"}, json: fine, want: noUse},
	{name: "identity", header: []string{"Content-Encoding: identity"}, json: fine, want: answered.but("legacy", same).on(fourWays...)},
	{name: "a page", tell: answerOf("Content-Type: text/html\r\nContent-Length: 13\r\n", "<h1>evil</h1>"), want: noUse},
	{name: "an error page", tell: rawly("HTTP/1.1 500 Evil\r\nConnection: close\r\nContent-Type: text/html\r\nContent-Length: 13\r\n\r\n<h1>evil</h1>"), want: noUse},
	{name: "an error without a page", tell: rawly("HTTP/1.1 500 Evil\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"), want: noUse},
	{name: "400", status: 400, json: failure, want: everywhere(same+broke, "200 "+failure)},
	{name: "404", status: 404, json: failure, want: everywhere(same+broke, "200 "+failure).but("legacy", refused, "down", refused)},
	{name: "418", status: 418, json: fine, want: passed(same + broke)},
	{name: "429", status: 429, header: []string{"Retry-After: 99999"}, json: fine, want: passed(same + broke)},
	{name: "500", status: 500, json: fine, want: passed(same + broke)},
	{name: "202", status: 202, want: passed(same)},
	{name: "202 and a response", status: 202, json: fine, want: passed(same)},
	{name: "204", status: 204, want: passed(same)},
	{name: "204 and a body", tell: rawly("HTTP/1.1 204 No Content\r\nContent-Type: application/json\r\nContent-Length: 4\r\n\r\nevil"), want: noUse},
	{name: "205", tell: rawly("HTTP/1.1 205 Reset\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"), want: noUse},
	{name: "206", status: 206, header: []string{"Content-Range: bytes 0-1/9"}, json: fine, want: passed(same)},
	{name: "no type", tell: rawly("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}"), want: noUse},
	{name: "two types", header: []string{"Content-Type: text/html"}, json: fine, want: noUse},
	{name: "a list of types", tell: answerOf("Content-Type: application/json, text/html\r\nContent-Length: 2\r\n", "{}"), want: noUse},
	{name: "another charset", tell: answerOf("Content-Type: application/json; charset=utf-16\r\nContent-Length: 2\r\n", "{}"), want: passed("200 {}")},
	{name: "nothing", tell: answerOf("Content-Length: 0\r\n", ""), want: passed("200 ").but("legacy", refused)},
	{name: "no events", tell: answerOf("Content-Type: text/event-stream\r\nContent-Length: 0\r\n", ""), want: passed("200 ").but("legacy", refused)},
	{name: "no events in the end", tell: answerOf("Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), want: passed("200 ").but("legacy", broken)},
}

// Messages that are not HTTP, or not quite.
var wireLies = []lie{
	{name: "no HTTP", tell: rawly("evil\r\n\r\n"), want: noUse},
	{name: "nothing at all", tell: rawly(""), want: noUse.but("modern", refused+"\tunreachable", "legacy", refused+"\tunreachable")},
	{name: "another version of HTTP", tell: rawly("HTTP/3.7 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"), want: passed("200 {}")},
	{name: "two lengths", tell: answerOf("Content-Length: 2\r\nContent-Length: 4\r\n", "{}{}"), want: noUse},
	{name: "a length and chunks", tell: answerOf("Content-Length: 2\r\nTransfer-Encoding: chunked\r\n", "2\r\n{}\r\n0\r\n\r\n"), want: noUse},
	{name: "less than it says", tell: answerOf("Content-Length: 400\r\n", "{}"), want: passed("200 {}"+cut+broke).but("legacy", refused)},
	{name: "fewer events than it says", tell: answerOf("Content-Type: text/event-stream\r\nContent-Length: 4000\r\n", event(note)),
		want: outcomes{"modern": "200 " + event(note) + cut + broke, "legacy": refused, "up": "200 " + event(note) + failedEvent, "down": refused}},
	{name: "a bad chunk", tell: answerOf("Transfer-Encoding: chunked\r\n", "2\r\n{}\r\nevil\r\n"), want: passed("200 "+cut+broke).but("legacy", refused)},
	{name: "another answer behind it", tell: rawly("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 8\r\n\r\n{\"evil\":"), want: passed("200 {}")},
	{name: "a long head", tell: answerOf("X-Evil: "+strings.Repeat("x", 256<<10)+"\r\nContent-Length: 2\r\n", "{}"), want: noUse},
	{name: "many fields", tell: answerOf(strings.Repeat("X-Evil: x\r\n", 5000)+"Content-Length: 2\r\n", "{}"), want: noUse},
	{name: "bytes in a field", tell: answerOf("X-Evil: \xff\x01\r\nContent-Length: 2\r\n", "{}"), want: noUse},
	{name: "NUL in a field", tell: answerOf("X-Evil: \x00\r\nContent-Length: 2\r\n", "{}"), want: noUse},
	{name: "a folded field", tell: answerOf("X-A: b\r\n Set-Cookie: evil\r\nContent-Length: 2\r\n", "{}"), want: passed("200 {}")},
	{name: "a switch of protocols", tell: rawly("HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\nevil"), want: noUse},
	{name: "1,000 hints", tell: rawly(strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: <https://evil.example/>\r\n\r\n", 1000) +
		"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"), want: passed("200 {}")},
	{name: "trailers", tell: answerOf("Transfer-Encoding: chunked\r\nTrailer: Set-Cookie\r\n", "2\r\n{}\r\n0\r\nSet-Cookie: evil\r\nGrpc-Status: 0\r\n\r\n"), want: passed("200 {}")},
	{name: "trailers of events", tell: answerOf("Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\nTrailer: Set-Cookie\r\n",
		"4\r\n:x\n\n\r\n0\r\nSet-Cookie: evil\r\nGrpc-Status: 0\r\n\r\n"), want: passed("200 :x\n\n").but("legacy", "200 :\n\n"+failedEvent)},
}

// Answers that take too long, of a tool that has two seconds.
var slowLies = []lie{
	{name: "no end", tell: hang, want: everywhere(refused+"\tunreachable", late)},
	{name: "a head and no end", json: fine, tell: func(t turn) { t.say(""); hang(t) }, want: everywhere(begun+"\tunreachable", late)},
	{name: "events and no end", events: event(note) + event(fine), tell: func(t turn) { t.say(event(note)); hang(t) },
		want: everywhere("200 "+event(note)+cut+"\tunreachable", late).but("up", "200 "+event(note)+event(strings.TrimPrefix(late, "200 ")))},
	{name: "a byte a second", json: fine, tell: drip(fine), want: everywhere(begun+"\tunreachable", late)},
	{name: "a byte of events a second", events: event(fine), tell: drip(event(fine)), want: everywhere(begun+"\tunreachable", late)},
}

func redirects() []lie {
	var all []lie
	for _, status := range []int{300, 301, 302, 303, 304, 307, 308} {
		all = append(all, lie{name: fmt.Sprint(status), status: status, header: []string{"Location: https://evil.example/"}, want: noUse})
	}
	return all
}

func TestHostileHTTP(t *testing.T) {
	t.Parallel() // it waits for what takes too long
	for i := range slowLies {
		slowLies[i].slow = true
	}
	all := slices.Concat(statusLies, redirects(), wireLies, slowLies)
	h := startLair(t, all...)
	h.tellAll(all)
}
