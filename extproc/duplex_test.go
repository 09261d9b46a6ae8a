package extproc

import (
	"bytes"
	"strconv"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/authz/audit"
)

func duplexPost() headersEvent {
	h := post(nil)
	h.mode = modeDuplex
	return h
}

// parts is a body as it comes.
func parts(body string, sizes ...int) []any {
	var out []any
	for _, n := range sizes {
		out = append(out, bodyEvent{body: []byte(body[:n])})
		body = body[n:]
	}
	return append(out, bodyEvent{body: []byte(body), end: true})
}

// Where the body comes in parts nothing is said before it is whole, or longer than any that could be allowed.
func TestDuplex(t *testing.T) {
	allowed, denied := string(call("a_ok").body), string(call("a_no").body)
	get := duplexPost()
	get.request.Method, get.request.EndOfStream = "GET", true
	megabyte := bodyEvent{body: bytes.Repeat([]byte(" "), 1<<20)}
	for _, c := range []struct {
		name   string
		events []any
		silent int // events that are not answered
		want   string
		status int
		record audit.Outcome
	}{
		// The session of the upstream is legacy, so the hub has to read the answer.
		{"at once", parts(allowed), 1, "forward", 0, audit.Allowed},
		{"in parts", parts(allowed, 1, 0, 30), 4, "forward", 0, audit.Allowed},
		{"an empty last part", append([]any{bodyEvent{body: []byte(allowed)}}, bodyEvent{end: true}), 2, "forward", 0, audit.Allowed},
		{"trailers", []any{bodyEvent{body: []byte(allowed)}, trailersEvent{}}, 2, "forward", 0, audit.Allowed},
		{"denied", parts(denied, 5), 2, "reply", 200, audit.Denied},
		{"nothing", []any{bodyEvent{end: true}}, 1, "reply", 400, audit.Denied},
		{"as long as may be", []any{megabyte, bodyEvent{end: true}}, 2, "reply", 400, audit.Denied},
		{"too long, and no end in sight", []any{megabyte, bodyEvent{body: []byte(" ")}}, 2, "reply", 413, audit.Denied},
		{"trailers before the body", []any{trailersEvent{}}, 1, "reply", 400, audit.Denied},
		{"headers again", []any{duplexPost()}, 1, "error", 0, audit.Error},
		{"a part too many", append(parts(allowed), bodyEvent{}), 1, "error", 0, audit.Allowed},
	} {
		g, rec, _ := newTestGate(t)
		m := &machine{gate: g}
		var got, silent = "", 0
		var last action
		for _, ev := range append([]any{duplexPost()}, c.events...) {
			a, err := m.step(t.Context(), ev)
			if err == nil && a.silent {
				silent++
				if len(encode(a)) != 0 {
					t.Errorf("%s: something was said", c.name)
				}
				continue
			}
			got, last = kind(a, err), a
		}
		if got != c.want || silent != c.silent || got != "error" && !last.last || c.status != 0 && last.verdict.Reply.Status != c.status {
			t.Errorf("%s: %s after %d silent ones: %+v", c.name, got, silent, last.verdict)
		}
		if total(rec) != 1 || rec.outcomes[c.record] != 1 {
			t.Errorf("%s: records %v", c.name, rec.outcomes)
		}
		if got == "forward" && last.verdict.Watch {
			t.Errorf("%s: an answer is wanted that the host will not show", c.name)
		}
	}
	g, _, _ := newTestGate(t)
	if a, err := (&machine{gate: g}).step(t.Context(), get); err != nil || kind(a, err) != "reply" || !a.last {
		t.Errorf("GET: %+v, %v", a, err)
	}
}

// What is given back is what was judged: all of it, once, framed by its own length.
func TestGiveBack(t *testing.T) {
	for _, size := range []int{0, 1, maxPart, maxPart + 1, 3*maxPart + 7} {
		for _, trailers := range []bool{false, true} {
			body := []byte(strings.Repeat("x", size))
			verdict := authz.Verdict{ID: "id", Route: "r", Set: [][2]string{{"content-length", "999"}, {"a", "b"}}}
			messages := encode(action{verdict: &verdict, answers: wantBody, duplex: true, body: body, trailers: trailers, last: true})
			head := messages[0].GetRequestHeaders().GetResponse()
			var lengths []string
			for _, h := range head.GetHeaderMutation().GetSetHeaders() {
				if h.GetHeader().GetKey() == "content-length" {
					lengths = append(lengths, string(h.GetHeader().GetRawValue()))
				}
			}
			if !head.GetClearRouteCache() || len(lengths) != 1 || lengths[0] != strconv.Itoa(size) || messages[0].GetDynamicMetadata() == nil {
				t.Errorf("%d: %v", size, messages[0])
			}
			var got []byte
			ends := 0
			rest := messages[1:]
			if trailers {
				if rest[len(rest)-1].GetRequestTrailers() == nil {
					t.Errorf("%d: the trailers have no answer", size)
				}
				rest = rest[:len(rest)-1]
			}
			for i, m := range rest {
				part := m.GetRequestBody().GetResponse().GetBodyMutation().GetStreamedResponse()
				got = append(got, part.GetBody()...)
				if part.GetEndOfStream() {
					ends++
				}
				if part == nil || len(part.GetBody()) > maxPart || part.GetEndOfStream() != (!trailers && i == len(rest)-1) {
					t.Errorf("%d: part %d of %d: %d bytes, end %v", size, i, len(rest), len(part.GetBody()), part.GetEndOfStream())
				}
			}
			if !bytes.Equal(got, body) || ends > 1 {
				t.Errorf("%d: %d bytes came back, %d ends", size, len(got), ends)
			}
		}
	}
}
