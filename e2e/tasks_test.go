package e2e

import (
	"strings"
	"testing"
)

// TestTasksStayBehind: what asks for a task goes no further, whatever stands beside it and whichever era the server is of.
func TestTasksStayBehind(t *testing.T) {
	w := newWorld(t)
	w.items.behave(func(b *behaviour) { b.modern = false })
	w.open.behave(func(b *behaviour) { b.legacy = false })
	w.run()
	const capabilities = `"io.modelcontextprotocol/clientCapabilities":{"elicitation":{},"extensions":{"io.modelcontextprotocol/tasks":{}}}`
	call := func(name, meta string) string {
		return `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"task":{"ttl":1},"inputResponses":{},"requestState":"s","name":"` + name +
			`","arguments":{},"_meta":{` + meta + capabilities + `}}}`
	}
	fromModern := modern("my_server_listItems", `{}`)
	fromModern.body = call("my_server_listItems", `"io.modelcontextprotocol/protocolVersion":"2026-07-28",`)
	for name, r := range map[string]request{
		"modern agent, legacy server": fromModern,
		"legacy agent, modern server": legacy(w.initialize(), call("open_echo", "")),
	} {
		if a := w.send(r); a.RPC.Result == nil {
			t.Errorf("%s: %s", name, a)
		}
	}
	for _, got := range append(w.items.calls(), w.open.calls()...) {
		for _, word := range []string{`"task"`, "/tasks", "inputResponses", "requestState"} {
			if strings.Contains(string(got.Body), word) {
				t.Errorf("%s arrived: %s", word, got.Body)
			}
		}
	}
}
