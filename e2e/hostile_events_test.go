package e2e

import (
	"slices"
	"strings"
	"testing"
)

// Lies that an event stream can tell. Straight from Envoy a modern answer passes unread, so it is what it was.

const fineModern = `{"jsonrpc":"2.0","id":@ID,"result":{"resultType":"complete","content":[{"type":"text","text":"evil"}]}}`

var (
	// answered: the response arrives, and nothing else.
	answered = outcomes{"modern": same, "legacy": "200 " + event(fine), "up": "200 " + fine, "down": "200 " + fineModern,
		"sse": "200 " + fine, "modern sse": "200 " + fineModern}
	// spoiled: no answer can come any more.
	spoiled = outcomes{"modern": same, "legacy": broken, "up": refused, "down": refused, "sse": refused, "modern sse": refused}
	// silent: nothing of use came. A stream over which other calls go as well does not end for that.
	silent = spoiled.but("sse", late, "modern sse", late)
	// noted: with a notification before the response.
	noted = answered.but("legacy", "200 "+event(note)+event(fine), "up", "200 "+event(note)+event(fine), "sse", "200 "+event(note)+event(fine))
)

// request is an event in which the server asks the agent something, and then answers.
func requestEvent(method, params string) string {
	return event(`{"jsonrpc":"2.0","id":1,"method":"`+method+`","params":{`+params+`}}`) + event(fine)
}

var (
	failedEvent   = `data: ` + noAnswer + "\n\n"
	anothers      = `{"jsonrpc":"2.0","id":"evil","result":{}}`
	listChange    = `{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}`
	cancellation  = `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"SEALED"}}`
	strayProgress = `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"evil","progress":1}}`
)

// Which messages come, and in which order.
var messageLies = []lie{
	{name: "nothing odd", events: event(fine), want: answered},
	{name: "another's response", events: event(anothers), want: silent},
	{name: "another's, then mine", events: event(anothers) + event(fine), want: answered},
	{name: "two responses", events: event(fine) + event(strings.ReplaceAll(fine, "evil", "evil again")), want: answered},
	{name: "a notification after it", events: event(fine) + event(note), want: answered.but("legacy", "200 "+event(fine)+event(note))},
	{name: "a notification before it", events: event(note) + event(fine), want: noted},
	{name: "an error without id", events: event(`{"jsonrpc":"2.0","error":{"code":-32603,"message":"evil"}}`), want: silent},
	{name: "a request and no more", events: event(`{"jsonrpc":"2.0","id":1,"method":"roots/list"}`), want: silent},
	{name: "a request of roots", events: requestEvent("roots/list", ""), want: answered},
	{name: "a request to sample", events: requestEvent("sampling/createMessage", `"messages":[],"maxTokens":1`), want: answered},
	{name: "a form", events: requestEvent("elicitation/create", `"message":"evil","requestedSchema":{"type":"object"}`), want: answered},
	{name: "an address", events: requestEvent("elicitation/create", `"mode":"url","elicitationId":"e","url":"https://evil.example/","message":"evil"`), want: answered},
	{name: "a mode of its own", events: requestEvent("elicitation/create", `"mode":"evil","message":"evil"`), want: answered},
	{name: "a method of no MCP", events: requestEvent("evil/run", ""), want: answered},
	{name: "a call of a tool", events: requestEvent("tools/call", `"name":"evil","arguments":{}`), want: answered},
	{name: "news of a task", events: event(`{"jsonrpc":"2.0","method":"notifications/tasks/status","params":{"evil":1}}`) + event(fine), want: answered},
	{name: "progress of what is not mine", events: event(strayProgress) + event(fine), want: answered.but("legacy", "200 "+event(strayProgress)+event(fine),
		"up", "200 "+event(strayProgress)+event(fine), "sse", "200 "+event(strayProgress)+event(fine))},
	{name: "a cancellation", events: event(strings.ReplaceAll(cancellation, `"SEALED"`, "1")) + event(fine), want: answered.but(
		"legacy", "200 "+event(cancellation)+event(fine), "sse", "200 "+event(cancellation)+event(fine))},
	{name: "changed lists", events: event(listChange) + event(fine), want: answered.but("legacy", "200 "+event(listChange)+event(fine))},
	{name: "result and method", events: event(`{"jsonrpc":"2.0","id":@ID,"method":"ping","result":{"evil":1}}`) + event(fine), want: spoiled},
	{name: "a batch", events: event(`[`+fine+`]`) + event(fine), want: spoiled},
	{name: "a member twice", events: event(`{"jsonrpc":"2.0","id":@ID,"result":{"evil":1,"evil":2}}`) + event(fine), want: spoiled},
	{name: "a case twin", events: event(`{"jsonrpc":"2.0","id":@ID,"result":{},"Result":{"evil":1}}`) + event(fine), want: spoiled},
	{name: "invalid UTF-8", events: event("{\"jsonrpc\":\"2.0\",\"id\":@ID,\"result\":{\"evil\":\"\xff\"}}") + event(fine), want: spoiled},
	{name: "no JSON", events: event(note) + event("evil") + event(fine), want: spoiled.but("legacy", "200 "+event(note)+failedEvent,
		"up", "200 "+event(note)+failedEvent, "sse", "200 "+event(note)+failedEvent)},
	{name: "100,000 levels", events: event(`{"jsonrpc":"2.0","id":@ID,"result":{"evil":`+strings.Repeat("[", 100_000)+`}}`) + event(fine), want: spoiled},
}

// How the messages are framed.
var frameLies = []lie{
	{name: "carriage returns", events: "data: " + fine + "\r\r", want: answered},
	{name: "line ends of all kinds", events: "\r\n: x\r\rdata: " + strings.Replace(fine, `,"result"`, ",\rdata:\"result\"", 1) + "\r\n\n",
		want: answered.but("legacy", "200 :\n\n"+strings.Replace(event(fine), `,"result"`, ",\ndata: \"result\"", 1),
			"sse", "200 "+strings.Replace(fine, `,"result"`, ",\n\"result\"", 1))},
	{name: "a byte order mark", events: "\xef\xbb\xbfdata: " + fine + "\n\n", want: answered.but("sse", late, "modern sse", late)},
	{name: "two byte order marks", events: "\xef\xbb\xbf\xef\xbb\xbfdata: " + fine + "\n\n", want: silent.but("legacy", "200 :\n\n"+failedEvent)},
	{name: "line separators", events: event(strings.Replace(fine, "evil", "evil\u2028data: x\u2029\u0085", 1)), want: answered.but(
		"legacy", "200 "+event(strings.Replace(fine, "evil", "evil\u2028data: x\u2029\u0085", 1)), "up", "200 "+strings.Replace(fine, "evil", "evil\u2028data: x\u2029\u0085", 1),
		"down", "200 "+strings.Replace(fineModern, "evil", "evil\u2028data: x\u2029\u0085", 1), "sse", "200 "+strings.Replace(fine, "evil", "evil\u2028data: x\u2029\u0085", 1),
		"modern sse", "200 "+strings.Replace(fineModern, "evil", "evil\u2028data: x\u2029\u0085", 1))},
	{name: "a byte at a time", events: "\r\nid\r\n" + strings.ReplaceAll(event(fine), "\n", "\r\n"), want: answered.but("legacy", "200 id: \n"+event(fine)),
		tell: func(t turn) {
			for _, b := range []byte("\r\nid\r\n" + strings.ReplaceAll(strings.ReplaceAll(event(fine), "\n", "\r\n"), "@ID", t.id)) {
				t.say(string(b))
			}
		}},
	{name: "no space", events: "data:" + fine + "\n\n", want: answered},
	{name: "a type", events: "event: message\n" + event(fine), want: answered.but("legacy", "200 event: message\n"+event(fine))},
	{name: "an endpoint", events: "event: endpoint\ndata: https://evil.example/\n\n" + event(fine), want: answered},
	{name: "a type of its own", events: "event: evil\n" + event(note) + event(fine), want: answered},
	{name: "a return in the type", events: "event: message\rdata: evil\n\n" + event(fine), want: spoiled},
	{name: "a return in the id", events: "id: 1\rid: 2\rdata: " + fine + "\r\r", want: answered.but("legacy", "200 id: SEALED\n"+event(fine))},
	{name: "an id", events: "id: 1\ndata:\n\nid: 2\n" + event(fine), want: answered.but("legacy", "200 id: SEALED\ndata: \n\nid: SEALED\n"+event(fine))},
	{name: "a long id", events: "id: " + strings.Repeat("i.", 5<<9) + "\n" + event(fine), want: answered},
	{name: "a long retry", events: "retry: 4000000000\n" + event(fine), want: answered.but("legacy", "200 retry: 60000\n"+event(fine))},
	{name: "a longer retry", events: "retry: 99999999999999999999\n" + event(fine), want: answered},
	{name: "no retry", events: "retry: 0\n" + event(fine), want: answered.but("legacy", "200 retry: 0\n"+event(fine))},
	{name: "100,000 comments", events: strings.Repeat(":\n", 100_000) + "\n" + event(fine), want: answered.but("legacy", "200 :\n\n"+event(fine))},
	{name: "1,000 comments, each alone", events: strings.Repeat(": evil\n\n", 1000) + event(fine), want: answered.but("legacy", "200 "+strings.Repeat(":\n\n", 1000)+event(fine))},
	{name: "NUL", events: "id: a\x00b\nevent: a\x00\n" + event(note) + event(fine), want: answered},
	{name: "unfinished", events: event(note) + "data: " + fine + "\n", want: silent.but("legacy", "200 "+event(note)+failedEvent, "up", "200 "+event(note)+failedEvent,
		"sse", "200 "+event(note)+"data: "+strings.TrimPrefix(late, "200 ")+"\n\n")},
	{name: "comments only", events: ": evil\n\n", want: silent.but("legacy", "200 :\n\n"+failedEvent)},
	{name: "other fields", events: "evil: x\nDATA: evil\n" + event(fine), want: answered},
}

func TestHostileEvents(t *testing.T) {
	t.Parallel() // it waits for what takes too long
	all := slices.Concat(messageLies, frameLies)
	startLair(t, all...).tellAll(all)
}
