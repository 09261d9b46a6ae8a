package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// The parts of the siege that do not fit a line of a file.

// bounds are bodies at the limits and beyond, too large for a file.
func (s *siege) bounds() {
	call := func(arguments string) string {
		return `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"open_ok","arguments":` + arguments + `}}`
	}
	nested := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	const limit = 1 << 20
	padded := func(total int, modern bool) string {
		size := len(call(`{"v":""}`))
		if modern {
			size += len(modernMeta) + 1
		}
		return call(`{"v":"` + strings.Repeat("x", total-size) + `"}`)
	}
	for _, era := range "lm" {
		spaces := strings.Repeat(" ", limit-len(call(`{}`))-len(modernMeta)-1) + call(`{}`)
		for name, a := range map[string]attack{
			"the largest body":             {Body: padded(limit, era == 'm'), Status: 200, Reaches: 1},
			"one byte more":                {Body: padded(limit+1, era == 'm'), Status: 413, Code: -32600},
			"twice the limit":              {Body: padded(2*limit, era == 'm'), Status: 413, Code: -32600},
			"leading spaces":               {Body: spaces, Status: 200, Reaches: 1},
			"spaces only":                  {Body: strings.Repeat(" ", limit), Status: 400, Code: -32700},
			"64 levels":                    {Body: call(`{"v":` + nested(61) + `}`), Status: 200, Reaches: 1},
			"65 levels":                    {Body: call(`{"v":` + nested(62) + `}`), Status: 400, Code: -32700},
			"9,990 levels":                 {Body: call(`{"v":` + nested(9990) + `}`), Status: 400, Code: -32700},
			"100,000 levels, never closed": {Body: strings.Repeat("[", 100_000), Status: 400, Code: -32700},
			"an id of 10 KiB":              {Body: strings.Replace(call(`{}`), `"id":1`, `"id":"`+strings.Repeat("i", 10<<10)+`"`, 1), Status: 400, Code: -32600},
			"an id of 256 bytes":           {Body: strings.Replace(call(`{}`), `"id":1`, `"id":"`+strings.Repeat("i", 256)+`"`, 1), Status: 200, Reaches: 1},
			"a number of 5,000 digits":     {Body: strings.Replace(call(`{}`), `"id":1`, `"id":`+strings.Repeat("9", 5000), 1), Status: 400, Code: -32700},
			"10,001 members":               {Body: call(members(10_001)), Status: 400, Code: -32700},
			"10,000 members":               {Body: call(members(10_000)), Status: 200, Reaches: 1},
			"a method of 1 KiB":            {Body: strings.Replace(call(`{}`), "tools/call", strings.Repeat("m", 1<<10), 1), Status: 400, Code: -32600},
		} {
			a.ID, a.Why, a.B64 = "bounds", name, []byte(a.Body)
			s.mount(a, era)
		}
	}
}

func members(n int) string {
	var b strings.Builder
	for i := range n {
		_, _ = fmt.Fprintf(&b, `,"m%d":0`, i)
	}
	return "{" + b.String()[1:] + "}"
}

// good and bad are calls of the era without sessions: allowed, and of a hidden tool.
func (s *siege) good() (fields, []byte) {
	body := []byte(modern("open_ok", `{}`).body)
	return s.usual('m', body), body
}

func (s *siege) bad() (fields, []byte) {
	body := []byte(modern("open_evil", `{}`).body)
	return s.usual('m', body).set("Mcp-Name", "open_evil"), body
}

var none = 0

// framing tries chunks, and bodies that are longer or shorter than they say.
func (s *siege) framing() {
	head, body := s.good()
	hidden, evil := s.bad()
	inChunks := func(f fields) fields { return f.drop("Content-Length").set("Transfer-Encoding", "chunked") }
	reaches, hungUp := attack{Status: 200, Reaches: 1}, attack{Records: &none}
	for _, c := range []struct {
		what string
		head fields
		body []byte
		want attack
	}{
		{"chunks of one byte", inChunks(head), chunked(body, 1), reaches},
		{"chunks of one byte, hidden tool", inChunks(hidden), chunked(evil, 1), attack{Status: 200, Code: -32602}},
		{"trailers", inChunks(head), chunked(body, 100, "Authorization: Bearer evil", "Mcp-Name: open_evil", "X-Sallyport-Route: hub"), reaches},
		{"nothing but the last chunk", inChunks(head), chunked(nil, 1), attack{Status: 400, Code: -32700}},
		{"too large, in chunks", inChunks(head), chunked(bytes.Repeat([]byte(" "), 3<<19), 64<<10), attack{Status: 413, Code: -32600}},
		{"a chunk extension", inChunks(head), fmt.Appendf(nil, "%x;a=b\r\n%s\r\n0\r\n\r\n", len(body), body), reaches},
		{"a chunk extension of 1 MiB goes no further", inChunks(head), fmt.Appendf(nil, "%x;a=%s\r\n%s\r\n0\r\n\r\n", len(body), bytes.Repeat([]byte("b"), 1<<20), body), reaches},
		{"a chunk longer than it says", inChunks(head), fmt.Appendf(nil, "5\r\n%s\r\n0\r\n\r\n", body), attack{Status: 400, Code: -32700}},
		{"a chunk size beyond 64 bits", inChunks(head), []byte("fffffffffffffffff\r\n{"), hungUp},
		{"a negative chunk size", inChunks(head), []byte("-1\r\n{\r\n0\r\n\r\n"), hungUp},
		{"a chunk size in another notation", inChunks(head), fmt.Appendf(nil, "0x%x\r\n%s\r\n0\r\n\r\n", len(body), body), hungUp},
	} {
		s.check(c.what, c.want, s.raw(c.head.lines("POST /mcp", nil, c.body), "POST")[0])
	}
	s.check("bare line feeds", reaches, s.raw(bytes.ReplaceAll(head.lines("POST /mcp", nil, body), []byte("\r\n"), []byte("\n")), "POST")[0])
	s.check("HTTP/1.0", attack{Status: 426, Code: -32600, Records: &none},
		s.raw(bytes.Replace(head.lines("POST /mcp", nil, body), []byte("HTTP/1.1"), []byte("HTTP/1.0"), 1), "POST")[0])
	// What follows a body is the next request, and is judged as one.
	tail := fields{{"Host", s.address}, {"Content-Type", "application/json"}, {"Content-Length", strconv.Itoa(len(evil))}}.lines("POST /mcp", nil, evil)
	answers := s.raw(append(head.lines("POST /mcp", nil, body), tail...), "POST", "POST")
	if answers[0].Status != 200 || answers[1].Status != 401 {
		s.t.Errorf("a request smuggled behind a body: %s, %s", answers[0], answers[1])
	}
	s.asked, s.called = s.asked+2, s.called+1
	s.newDecisions()
}

// overHTTP2 tries what only HTTP/2 can say.
func (s *siege) overHTTP2() {
	_, body := s.good()
	head := fields{{":method", "POST"}, {":scheme", "http"}, {":path", "/mcp"}, {":authority", s.address},
		{"authorization", "Bearer " + s.token}, {"content-type", "application/json"}, {"accept", "application/json, text/event-stream"},
		{"mcp-protocol-version", "2026-07-28"}, {"mcp-method", "tools/call"}, {"mcp-name", "open_ok"}}
	hidden, evil := head.set("mcp-name", "open_evil"), []byte(modern("open_evil", `{}`).body)
	with := func(lines ...[2]string) fields { return append(slices.Clone(head), lines...) }
	authority := func(name string) fields { return append(fields{{":authority", name}}, head.drop(":authority")...) }
	reset := attack{Records: &none}
	cases := []struct {
		what     string
		head     fields
		body     []byte
		trailers fields
		want     attack
		got      answer
	}{
		{"a plain call", head, body, nil, attack{Status: 200, Reaches: 1}, answer{}},
		{"headers that end the stream", head, nil, nil, attack{Status: 400, Code: -32700}, answer{}},
		{"headers and trailers, no body", head, nil, fields{{"x", "y"}}, attack{Status: 403, Code: -32600}, answer{}}, // no body event comes: the lock refuses
		{"an empty body", head, []byte{}, nil, attack{Status: 400, Code: -32700}, answer{}},
		{"a hidden tool, then trailers", hidden, evil, fields{{"x", "y"}}, attack{Status: 200, Code: -32602}, answer{}},
		{"trailers with credentials", head, body, fields{{"authorization", "Bearer evil"}, {"mcp-name", "open_evil"}, {"x-sallyport-route", "hub"}}, attack{Status: 200, Reaches: 1}, answer{}},
		{"pseudo-header in the trailers", head, body, fields{{":path", "/evil"}}, reset, answer{}},
		{"upper-case name", with([2]string{"X-Up", "a"}), body, nil, reset, answer{}},
		{"two paths", with([2]string{":path", "/evil"}), body, nil, reset, answer{}},
		{"two methods", append(fields{{":method", "GET"}}, head...), body, nil, reset, answer{}},
		{"no path", head.drop(":path"), body, nil, reset, answer{}},
		{"pseudo-header at the end", append(head.drop(":authority"), [2]string{":authority", s.address}), body, nil, reset, answer{}},
		{"unknown pseudo-header", append(fields{{":evil", "1"}}, head...), body, nil, reset, answer{}},
		{"connection", with([2]string{"connection", "close"}), body, nil, reset, answer{}},
		{"transfer-encoding", with([2]string{"transfer-encoding", "chunked"}), body, nil, reset, answer{}},
		{"line end in a value", with([2]string{"x-a", "a\r\nx-sallyport-route: hub"}), body, nil, reset, answer{}},
		{"NUL in a value", with([2]string{"x-a", "a\x00"}), body, nil, reset, answer{}},
		{"line end in a name", with([2]string{"x-a\r\nb", "a"}), body, nil, reset, answer{}},
		{"a length that is not the body's", with([2]string{"content-length", "5"}), body, nil, reset, answer{}},
		{"two tokens", with([2]string{"authorization", "Bearer " + s.otherToken}), body, nil, attack{Status: 401, Code: -32600}, answer{}},
		{"two names", with([2]string{"mcp-name", "open_evil"}), body, nil, attack{Status: 400, Code: -32020}, answer{}},
		{"another host beside the authority", with([2]string{"host", "other.example"}), body, nil, attack{Status: 200, Reaches: 1}, answer{}},
		{"another authority", authority("other.example"), body, nil, attack{Status: 403, Code: -32600}, answer{}},
	}
	var group sync.WaitGroup // Envoy takes a second to close a connection
	for i := range cases {
		if c := &cases[i]; c.want.Status == 0 {
			group.Go(func() { c.got = s.h2(c.head, c.body, c.trailers) })
		}
	}
	group.Wait()
	for _, c := range cases {
		if c.want.Status != 0 {
			c.got = s.h2(c.head, c.body, c.trailers)
		}
		s.check("HTTP/2: "+c.what, c.want, c.got)
	}
}

// sameConnection sends two principals' requests over one connection: each is judged by its own token.
func (s *siege) sameConnection() {
	list := []byte(`{"jsonrpc":"2.0","id":1,"method":"ping"}`)
	as := func(session, token string) []byte {
		return s.usual('l', list).set("Mcp-Session-Id", session).set("Authorization", "Bearer "+token).lines("POST /mcp", nil, list)
	}
	nobody := s.usual('l', list).drop("Authorization").lines("POST /mcp", nil, list)
	answers := s.raw(slices.Concat(as(s.session, s.token), as(s.otherSession, s.otherToken), as(s.otherSession, s.token),
		as(s.session, s.otherToken), nobody, as(s.session, s.token)), "POST", "POST", "POST", "POST", "POST", "POST")
	for i, want := range []int{200, 200, 404, 404, 401, 200} {
		if answers[i].Status != want {
			s.t.Errorf("request %d on one connection: %s, want %d", i, answers[i], want)
		}
	}
	s.asked += len(answers)
	s.newDecisions()
}

// sameID sends many calls with one id at the same time: each gets its own answer.
func (s *siege) sameID() {
	s.open.behave(func(b *behaviour) {
		b.answer = func(w http.ResponseWriter, _ *http.Request, got received) bool {
			rpcResult(w, got.RPC.ID, `{"resultType":"complete","content":[],"echo":`+string(got.RPC.Params.Arguments)+`}`)
			return true
		}
	})
	const n = 40
	var group sync.WaitGroup
	for i := range n {
		arguments := fmt.Sprintf(`{"mine":%d}`, i)
		r := modern("open_ok", arguments)
		if i%2 == 1 {
			r = legacyCall(s.session, "open_ok", arguments)
		}
		group.Go(func() {
			if a, err := s.try(r); err != nil || !strings.Contains(string(a.RPC.Result), arguments) {
				s.t.Errorf("call %d got %s, %v", i, a, err)
			}
		})
	}
	group.Wait()
	s.open.behave(func(b *behaviour) { b.answer = nil })
	s.asked, s.called = s.asked+n, s.called+n
	s.newDecisions()
}

// reflectedIDs has Envoy itself write ids into its answers: they come back as they were, and nothing more with them.
func (s *siege) reflectedIDs() {
	s.open.behave(func(b *behaviour) {
		b.answer = func(w http.ResponseWriter, _ *http.Request, _ received) bool {
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
	})
	for _, id := range []string{`1`, `-9007199254740991`, `"\u000d\u000aSet-Cookie: x"`, `"%START_TIME%"`, `"a\"b\\"`, `"é\u20ac"`, `""`, `"</script>"`, `"%"`,
		`"` + strings.Repeat("%REQ(authorization)%", 12) + `"`} {
		r := modern("open_ok", `{}`)
		r.body = strings.Replace(r.body, `"id":7`, `"id":`+id, 1)
		got := s.send(r)
		if string(got.RPC.ID) != id {
			s.t.Errorf("id %s came back as %s: %s", id, got.RPC.ID, got)
		}
		s.check("id "+id, attack{Status: 502, Code: -32603, Reaches: 1}, answer{Status: got.Status, Header: got.Header, RPC: got.RPC})
		s.failed++
	}
	s.open.behave(func(b *behaviour) { b.answer = nil })
}

// lists show nothing that policy hides, and may not be shared.
func (s *siege) lists() {
	for era, r := range map[string]request{
		"modern": modernMethod("tools/list"),
		"legacy": legacy(s.session, `{"jsonrpc":"2.0","id":2,"method":"tools/list"}`),
	} {
		a := s.send(r)
		if strings.Contains(string(a.Body), "evil") || !strings.Contains(string(a.Body), `"open_ok"`) || strings.Contains(string(a.Body), `"public"`) {
			s.t.Errorf("%s: %s", era, a)
		}
		s.asked++
	}
	s.newDecisions()
}

// breakOff ends messages in the middle. Each has its record, which says that nothing was decided.
func (s *siege) breakOff() {
	stat := s.envoy()
	const answers = "http.ingress.ext_proc.stream_msgs_received"
	head, body := s.good()
	message := head.lines("POST /mcp", nil, body)
	inChunks := head.drop("Content-Length").set("Transfer-Encoding", "chunked").lines("POST /mcp", nil, nil)
	for _, c := range []struct{ first, then string }{
		{string(message[:len(message)-1]), ""},
		{string(message[:len(message)-len(body)]), ""},
		{string(inChunks) + "5\r\n{\"jso", "nzz\r\n"},
		{string(inChunks) + "7fffffffffffffff\r\n{", ""},
	} {
		conn, before := s.dial(), stat(answers)
		_, err := io.WriteString(conn, c.first)
		must(s.t, err)
		await(s.t, "the service to let the body come", func() bool { return stat(answers) > before })
		_, err = io.WriteString(conn, c.then)
		must(s.t, err)
		must(s.t, conn.Close())
		await(s.t, "the record of a broken-off message", func() bool { return s.newDecisions() == 1 })
		s.asked++
	}
}

// envoy reads a statistic of the Envoy beside the gateway.
func (w *world) envoy() func(stat string) int {
	sockets, err := filepath.Glob(w.path("sallyport-*/envoy-admin.sock"))
	if err != nil || len(sockets) != 1 {
		w.t.Fatalf("%v, %v", sockets, err)
	}
	return func(stat string) int { return envoyStat(w.t, sockets[0], stat) }
}

// A message that breaks off at any moment, also before the service's first answer is back in Envoy, has both records
// or, when the service never heard of it, none.
func TestBrokenOffMessagesAreAccountedFor(t *testing.T) {
	s := newSiege(t)
	head, body := s.good()
	message := string(head.lines("POST /mcp", nil, body))
	stat := s.envoy()
	const begun = "http.ingress.ext_proc.stream_msgs_sent"
	for range 200 {
		conn, before := s.dial(), stat(begun)
		_, err := io.WriteString(conn, message[:len(message)-1])
		must(t, err)
		await(t, "Envoy to ask the service", func() bool { return stat(begun) > before })
		must(t, conn.Close())
	}
	await(t, "the end of all streams but the access log's and the configuration's", func() bool { return stat("cluster.service.upstream_rq_active") == 2 })
	if n := len(s.reconcile()); n < 10 {
		t.Errorf("only %d messages were heard of", n)
	}
}

// exchanges makes a few calls for which tokens are exchanged, so that there are secrets to look for.
func (s *siege) exchanges() {
	for _, token := range []string{s.token, s.otherToken} {
		r := modern("my_server_listItems", `{"q":1}`)
		r.token = token
		if a := s.send(r); a.RPC.Result == nil {
			s.t.Errorf("a call with exchange: %s", a)
		}
		s.asked++
	}
}
