package extproc

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/authz/session"
	"github.com/sallyport/sallyport/mcpparse"
)

// relaying is a stream whose request has been forwarded, and whose response's headers said that events follow. The
// agent's request had the id 1.
func relaying(t testing.TB, g gate) *machine {
	t.Helper()
	m := &machine{gate: g}
	for _, ev := range []any{post(nil), call("a_ok"), answered(200, "text/event-stream")} {
		if _, err := m.step(t.Context(), ev); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// feed gives the machine a body in chunks, and returns what the agent gets.
func feed(t testing.TB, m *machine, chunks ...string) (string, error) {
	t.Helper()
	var out strings.Builder
	for i, chunk := range chunks {
		a, err := m.step(t.Context(), chunkEvent{chunk: []byte(chunk), end: i == len(chunks)-1})
		if err != nil {
			return out.String(), err
		}
		if a.chunk == nil || a.last != (i == len(chunks)-1) {
			t.Fatalf("chunk %d of %d: %+v", i, len(chunks), a)
		}
		out.Write(a.chunk)
	}
	return out.String(), nil
}

const (
	response = `data: {"jsonrpc":"2.0","id":1,"result":{"x":1.50}}` + "\n\n"
	progress = `data: {"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":7,"progress":1}}` + "\n\n"
	gaveUp   = `data: {"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":"the upstream gave no usable answer"}}` + "\n\n"
)

// What the agent gets of a stream, whatever the chunks are.
func TestRelay(t *testing.T) {
	const (
		ping  = `data: {"jsonrpc":"2.0","id":3,"method":"ping"}` + "\n\n"
		roots = `data: {"jsonrpc":"2.0","id":3,"method":"roots/list"}` + "\n\n"
		other = `data: {"jsonrpc":"2.0","id":2,"result":{}}` + "\n\n"
		fails = `data: {"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":"m"}}` + "\n\n"
		named = "id: 5\n"
	)
	g, _, _ := newTestGate(t)
	for _, test := range []struct {
		name, in, want string // NAME(x) in want is x as a sealed name
	}{
		{"a response", response, response},
		{"an error", fails, fails},
		{"news before it", progress + response, progress + response},
		{"news after it", response + progress, response + progress},
		{"a comment", ": hello\n\n" + response, ":\n\n" + response},
		{"another line end", strings.ReplaceAll(progress+response, "\n", "\r\n"), progress + response},
		{"a request", ping + response, `data: {"jsonrpc":"2.0","id":"REQUEST(3)","method":"ping"}` + "\n\n" + response},
		{"a request that was not declared", roots + response, response},
		{"a second response", response + response, response},
		{"an error after the response", response + fails, response},
		{"a response to something else", other + response, response},
		{"a response to something else alone", other, gaveUp},
		{"nothing", "", gaveUp},
		{"news alone", progress, progress + gaveUp},
		{"a response that breaks off", strings.TrimSuffix(response, "\n"), gaveUp},
		{"an event of another type", "event: endpoint\n" + response + response, response},
		{"the type that is none", "event: message\n" + response, "event: message\n" + response},
		{"a wait", "retry: 600000\n\n" + response, "retry: 60000\n\n" + response},
		{"resumable", named + "data:\n\n", "id: EVENT(5)\ndata: \n\n"},
		{"resumable, and answered", named + "data:\n\n" + response, "id: EVENT(5)\ndata: \n\n" + response},
		{"resumable by what is withheld", named + other, ""},
		{"an id that is taken back", "id\ndata:\n\n", "id: \ndata: \n\n" + gaveUp},
	} {
		t.Run(test.name, func(t *testing.T) {
			want := test.want
			for prefix, kind := range map[string]session.Kind{"REQUEST(3)": session.RequestID, "EVENT(5)": session.CallEvent} {
				want = strings.ReplaceAll(want, prefix, relayName(t, kind, strings.TrimSuffix(prefix[strings.IndexByte(prefix, '(')+1:], ")")))
			}
			splits := [][]string{{test.in}, {test.in, ""}, strings.Split(test.in, "")}
			for at := range len(test.in) {
				splits = append(splits, []string{test.in[:at], test.in[at:]})
			}
			for _, chunks := range splits {
				if len(chunks) == 0 {
					continue
				}
				got, err := feed(t, relaying(t, g), chunks...)
				if diff := cmp.Diff(want, got); err != nil || diff != "" {
					t.Fatalf("%d chunks: %v %s", len(chunks), err, diff)
				}
			}
		})
	}
}

// relayName is the name that a relay of the test gate's gives.
func relayName(t testing.TB, kind session.Kind, raw string) string {
	t.Helper()
	sealer, err := session.NewSealer([]byte("0123456789abcdef0123456789abcdef"))
	if err != nil {
		t.Fatal(err)
	}
	n := session.Name{Kind: kind, App: session.TagOf("a"), Leg: session.TagOf("up-1"), Raw: []byte(raw)}
	if kind == session.CallEvent {
		n.Call = session.TagOf("1")
	}
	return sealer.SealName("", n)
}

// A stream that breaks the protocol ends with an error response; then it is cut.
func TestRelayOfLies(t *testing.T) {
	g, _, _ := newTestGate(t)
	huge := "data: " + strings.Repeat("x", session.MaxEventBytes+1)
	for _, test := range []struct{ name, in, want string }{
		{"no JSON", "data: hello\n\n" + response, gaveUp},
		{"a batch", `data: [{"jsonrpc":"2.0","id":1,"result":{}}]` + "\n\n", gaveUp},
		{"a member twice", `data: {"jsonrpc":"2.0","id":1,"id":1,"result":{}}` + "\n\n" + response, gaveUp},
		{"after news", progress + "data: hello\n\n" + response, progress + gaveUp},
		{"after the response", response + "data: hello\n\n" + progress, response},
		{"in a resumable stream", "id: 5\ndata:\n\ndata: hello\n\n", "id: " + relayName(t, session.CallEvent, "5") + "\ndata: \n\n" + gaveUp},
		{"an event over 4 MiB", huge + "\n\n" + response, gaveUp},
		{"an event without an end", huge, gaveUp},
		{"ids without an end", strings.Repeat("id: "+strings.Repeat("i", 1<<20)+"\ndata: "+strings.Repeat("d", 1<<20)+"\n", 4), gaveUp},
	} {
		m := relaying(t, g)
		a, err := m.step(t.Context(), chunkEvent{chunk: []byte(test.in)})
		if diff := cmp.Diff(test.want, string(a.chunk)); err != nil || diff != "" || a.last {
			t.Errorf("%s: %v %s", test.name, err, diff)
		}
		if a, err := m.step(t.Context(), chunkEvent{chunk: []byte(response)}); !errors.Is(err, errBroken) || a.chunk != nil {
			t.Errorf("%s: goes on: %+v, %v", test.name, a, err)
		}
		m = relaying(t, g)
		got, err := feed(t, m, test.in)
		if diff := cmp.Diff(test.want, got); err != nil || diff != "" {
			t.Errorf("%s, at the end: %v %s", test.name, err, diff)
		}
	}
}

// What is held of a stream is bounded by one event, however it comes in.
func TestRelayHoldsOneEvent(t *testing.T) {
	g, _, _ := newTestGate(t)
	m := relaying(t, g)
	line := []byte("data: " + strings.Repeat("x", 1<<10) + "\n")
	var failed error
	sent := 0
	for ; failed == nil && sent < 8<<20; sent += len(line) {
		_, failed = m.step(t.Context(), chunkEvent{chunk: line})
	}
	if failed == nil || sent > session.MaxEventBytes+1<<16 {
		t.Errorf("%d bytes were taken: %v", sent, failed)
	}
}

// A modern answer to resources/read is this caller's own, whatever the upstream thinks of it.
func TestPrivate(t *testing.T) {
	const (
		public = `{"jsonrpc":"2.0","id":1,"result":{"contents":[ ],"cacheScope":"public","ttlMs":1e3}}`
		mine   = `{"jsonrpc":"2.0","id":1,"result":{"contents":[ ],"cacheScope":"private","ttlMs":1e3}}`
		other  = `{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"cacheScope"}}`
		bare   = `{"jsonrpc":"2.0","id":1,"result":{"contents":[],"_meta":{"cacheScope":"public"}}}`
		event  = `{"jsonrpc":"2.0","method":"notifications/message","params":{"cacheScope":"public"}}`
	)
	for _, test := range []struct {
		name, in, want string
		events         bool
	}{
		{"public", public, mine, false},
		{"private", mine, mine, false},
		{"says nothing", bare, bare, false},
		{"an error", other, other, false},
		{"in an event", "data: " + public + "\n\n", "data: " + mine + "\n\n", true},
		{"between others", ": a\n\nid: 7\ndata: " + event + "\n\ndata: " + public + "\n\n", ":\n\nid: 7\ndata: " + event + "\n\ndata: " + mine + "\n\n", true},
		{"an event without data", "id: 7\ndata:\n\n", "id: 7\ndata: \n\n", true},
	} {
		for at := range len(test.in) + 1 {
			m := &machine{phase: wantChunk, answer: newPrivate(test.events)}
			got, err := feed(t, m, test.in[:at], test.in[at:])
			if diff := cmp.Diff(test.want, got); err != nil || diff != "" {
				t.Fatalf("%s, split at %d: %v %s", test.name, at, err, diff)
			}
		}
	}
	for name, test := range map[string]struct {
		in     string
		events bool
	}{
		"no JSON":             {"hello", false},
		"half of it":          {public[:len(public)-1], false},
		"nothing":             {"", false},
		"no message":          {`{"cacheScope":"public"}`, false},
		"more than fits":      {strings.Repeat(" ", maxPrivateBytes) + public, false},
		"no JSON in an event": {"data: hello\n\n", true},
		"an event over 4 MiB": {"data: " + strings.Repeat(" ", session.MaxEventBytes+1), true},
	} {
		m := &machine{phase: wantChunk, answer: newPrivate(test.events)}
		if got, err := feed(t, m, test.in); err == nil || got != "" {
			t.Errorf("%s: passed on as %.100s", name, got)
		}
	}
}

// From the headers on: a modern read is rewritten, a call is not.
func TestPrivateByItsCall(t *testing.T) {
	const meta = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}`
	for _, test := range []struct {
		method, name, params string
		contentType          string
		want                 string
	}{
		{"resources/read", "a:b", `"uri":"a:b"`, "application/json", "relay"},
		{"resources/read", "a:b", `"uri":"a:b"`, "text/event-stream", "relay"},
		{"tools/call", "a_ok", `"name":"a_ok"`, "application/json", "error"}, // nobody asked for its headers
	} {
		g, _, _ := newModernGate(t)
		m := &machine{gate: g}
		last := ""
		for _, ev := range []any{
			post(authz.Header{"mcp-protocol-version": {"2026-07-28"}, "mcp-method": {test.method}, "mcp-name": {test.name}}),
			bodyEvent{body: []byte(`{"jsonrpc":"2.0","id":1,"method":"` + test.method + `","params":{` + test.params + `,` + meta + `}}`)},
			answered(200, test.contentType),
		} {
			a, err := m.step(t.Context(), ev)
			last = kind(a, err)
		}
		if last != test.want {
			t.Errorf("%s, %s: %s, want %s", test.method, test.contentType, last, test.want)
		}
	}
}

// FuzzRelay holds a relay to one result however its stream is cut, and to what a client reads without trouble.
func FuzzRelay(f *testing.F) {
	f.Add([]byte(progress+response), 7)
	f.Add([]byte("id: 5\ndata:\n\nevent: x\ndata: y\n\n: z\r\r"+response), 3)
	f.Add([]byte("data: hello\n\n"+response), 1)
	g, _, _ := newTestGate(f)
	f.Fuzz(func(t *testing.T, stream []byte, at int) {
		if at < 0 || at > len(stream) {
			at = len(stream) / 2
		}
		whole, err := feed(t, relaying(t, g), string(stream))
		if err != nil {
			t.Fatal(err)
		}
		m := relaying(t, g)
		cut, err := feed(t, m, string(stream[:at]), string(stream[at:]))
		if cut != whole && err == nil {
			t.Fatalf("%q and %q", whole, cut)
		}
		responses := 0
		for events := mcpparse.NewEventReader(bytes.NewReader([]byte(whole)), session.MaxEventBytes<<1); ; {
			ev, err := events.Next()
			if err != nil {
				break
			}
			if len(ev.Data) == 0 {
				continue
			}
			msg, err := mcpparse.ParseUpstream(ev.Data)
			if err != nil {
				t.Fatalf("%q: %v", ev.Data, err)
			}
			if msg.Kind == mcpparse.Response {
				responses++
			}
		}
		if responses > 1 {
			t.Fatalf("%d responses in %q", responses, whole)
		}
	})
}
