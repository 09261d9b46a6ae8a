package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// Servers that ask what they may not, or without end.

// asks is a modern answer that wants something of the client first.
func asks(requests string) string {
	return `{"jsonrpc":"2.0","id":@ID,"result":{"resultType":"input_required","inputRequests":{` + requests + `},"requestState":"evil"}}`
}

func asksFor(method, params string) string {
	return asks(`"q":{"method":"` + method + `","params":{` + params + `}}`)
}

const (
	sampling = `"messages":[],"maxTokens":1`
	formed   = `"message":"evil","requestedSchema":{"type":"object"}`
	address  = `"mode":"url","elicitationId":"e","url":"https://evil.example/","message":"evil"`
)

// Straight from Envoy a modern client reads for itself what is asked. A session's client is asked what it declared that it
// can answer, and nothing else. A legacy server has no such answer at all.
var questionLies = []lie{
	{name: "sampling of one who cannot", json: asksFor("sampling/createMessage", sampling), want: outcomes{"modern": same, "up": refused,
		"down": "200 " + strings.Replace(asksFor("sampling/createMessage", sampling), "input_required", "complete", 1)}},
	{name: "sampling of one who fills in forms", json: asksFor("sampling/createMessage", sampling), client: `{"elicitation":{}}`, want: outcomes{"up": refused}},
	{name: "a form for one who cannot", json: asksFor("elicitation/create", formed), want: outcomes{"modern": same, "up": refused}},
	{name: "an address for one who fills in forms", json: asksFor("elicitation/create", address), client: `{"elicitation":{"form":{}}}`, want: outcomes{"modern": same, "up": refused}},
	{name: "roots of one who has none", json: asksFor("roots/list", ""), want: outcomes{"modern": same, "up": refused}},
	{name: "a ping", json: asksFor("ping", ""), want: outcomes{"modern": same, "up": refused}},
	{name: "a tool of the client's", json: asksFor("tools/call", `"name":"evil"`), client: everything, want: outcomes{"modern": same, "up": refused}},
	{name: "one that may be asked and one that may not", json: asks(`"a":{"method":"roots/list"},"b":{"method":"sampling/createMessage","params":{` + sampling + `}}`),
		client: `{"roots":{}}`, want: outcomes{"up": refused}},
	{name: "33 forms", json: asks(strings.TrimSuffix(forms(33), ",")), client: everything, want: outcomes{"modern": same, "up": refused}},
	{name: "no method", json: asks(`"q":{"evil":1}`), client: everything, want: outcomes{"up": refused}},
	{name: "nothing", json: `{"jsonrpc":"2.0","id":@ID,"result":{"resultType":"input_required"}}`, client: everything, want: outcomes{"modern": same, "up": refused}},
	{name: "no object", json: `{"jsonrpc":"2.0","id":@ID,"result":{"resultType":"input_required","inputRequests":"evil"}}`, client: everything,
		want: outcomes{"modern": same, "up": refused}},
	{name: "a type of result of its own", json: `{"jsonrpc":"2.0","id":@ID,"result":{"resultType":"evil"}}`,
		want: outcomes{"modern": same, "up": `200 {"jsonrpc":"2.0","id":@ID,"result":{}}`, "down": `200 {"jsonrpc":"2.0","id":@ID,"result":{"resultType":"complete"}}`}},
	{name: "an address, in the legacy way", json: urlError(`"elicitationId":"e","url":"https://evil.example/","message":"evil"`), want: outcomes{"legacy": same,
		"down": `200 {"jsonrpc":"2.0","id":@ID,"error":{"code":-32603,"message":"this call needs an address to be opened, which the client did not say it can do"}}`}},
}

// urlError is how a legacy server wants an address opened first.
func urlError(elicitation string) string {
	return `{"jsonrpc":"2.0","id":@ID,"error":{"code":-32042,"message":"evil","data":{"elicitations":[{` + elicitation + `}]}}}`
}

func forms(n int) string {
	var b strings.Builder
	for i := range n {
		_, _ = fmt.Fprintf(&b, `"%d":{"method":"elicitation/create","params":{%s}},`, i, formed)
	}
	return b.String()
}

func TestHostileQuestions(t *testing.T) {
	again := lie{name: "ask me again", json: `{"jsonrpc":"2.0","id":@ID,"result":{"resultType":"input_required","requestState":"evil"}}`}
	h := startLair(t, append(questionLies, again)...)
	session := h.open(h.token, everything)
	// A completion is an answer to a user who types: nothing may be asked about it.
	for _, l := range questionLies[:2] {
		a := h.send(legacy(session, `{"jsonrpc":"2.0","id":"c-1","method":"completion/complete","params":{"ref":{"type":"ref/prompt","name":"modern_prompt"},"argument":{"name":"a","value":"`+l.name+`"}}}`))
		h.check(l, "completion", `"c-1"`, refused, a, nil)
	}
	// Each time that a call is sent again it is judged and recorded again, and it is not sent without end.
	arguments := again.arguments("up")
	a := h.send(legacyCall(session, "modern_call", arguments))
	h.check(again, "up", `"c-1"`, refused, a, nil)
	rounds := 0
	for _, p := range h.reconcile() {
		if p[0]["arguments_sha256"] == digest([]byte(arguments)) && p[0]["outcome"] == "allowed" {
			rounds++
		}
	}
	if sent := len(h.liars["modern"].arrived("tools/call")); sent != 9 || rounds != 9 {
		t.Errorf("a call was sent %d times, and recorded %d times", sent, rounds)
	}
	h.tellAll(questionLies)
}
