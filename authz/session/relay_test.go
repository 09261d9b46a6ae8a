package session

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/mcpparse"
)

// relay lets a call's stream through to an agent that can do what caps say.
func relay(t testing.TB, caps Capabilities) *Relay {
	return &Relay{Sealer: sealer(t, key), Session: Session{ID: mine, Capabilities: caps}, App: "app", Leg: "upstream-session",
		Stream: CallEvent, Wants: []byte(`"c-1"`)}
}

func data(text string) mcpparse.Event { return mcpparse.Event{HasData: true, Data: []byte(text)} }

// One row for each thing that an upstream may say, and what becomes of it. SEALED stands for the sealed name of what is
// in sealed.
func TestRelay(t *testing.T) {
	const (
		unasked  = "a response to what was not asked"
		unable   = "a request that the client did not say it could answer"
		longID   = "a request with a very long id"
		noTasks  = "tasks are not served"
		noType   = "an event of a type that the transport does not have"
		everyone = ^Capabilities(0)
	)
	long := strings.Repeat("9", MaxNameBytes-1)
	for _, test := range []struct {
		name    string
		caps    Capabilities
		in      string
		want    string // "" for the same bytes
		sealed  Name
		dropped string
	}{
		{name: "the response", in: `{"jsonrpc":"2.0","id":"c-1","result":{ "x" : 1e2 }}`},
		{name: "an error", in: `{"jsonrpc":"2.0","id":"c-1","error":{"code":-1,"message":"m"}}`},
		{name: "a response to another request", in: `{"jsonrpc":"2.0","id":"c-2","result":{}}`, dropped: unasked},
		{name: "a response to the number", in: `{"jsonrpc":"2.0","id":1,"result":{}}`, dropped: unasked},
		{name: "the id in another spelling", in: `{"jsonrpc":"2.0","id":"\u0063-1","result":{}}`},
		{name: "an error to nobody", in: `{"jsonrpc":"2.0","id":null,"error":{"code":-1,"message":"m"}}`, dropped: unasked},
		{name: "an error without an id", in: `{"jsonrpc":"2.0","error":{"code":-1,"message":"m"}}`, dropped: unasked},

		{name: "a log message", in: `{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info", "data":1.50}}`},
		{name: "progress: the token is the agent's own", in: `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":7,"progress":1}}`},
		{name: "a list has changed", in: `{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}`},
		{name: "a notification nobody knows", in: `{"jsonrpc":"2.0","method":"notifications/other"}`},
		{name: "a task", in: `{"jsonrpc":"2.0","method":"notifications/tasks/status","params":{}}`, dropped: noTasks},
		{name: "tasks", in: `{"jsonrpc":"2.0","method":"notifications/tasks"}`, dropped: noTasks},
		{name: "its request is cancelled", in: `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":3,"reason":"r"}}`,
			want: `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"SEALED","reason":"r"}}`, sealed: name(RequestID, "3")},
		{name: "nothing is cancelled", in: `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{}}`},

		{name: "ping", in: `{"jsonrpc":"2.0","id":3,"method":"ping"}`,
			want: `{"jsonrpc":"2.0","id":"SEALED","method":"ping"}`, sealed: name(RequestID, "3")},
		{name: "the id is a text", in: `{"method":"ping","id" : "a\"b","jsonrpc":"2.0"}`,
			want: `{"method":"ping","id" : "SEALED","jsonrpc":"2.0"}`, sealed: name(RequestID, `"a\"b"`)},
		{name: "sampling", caps: Sampling, in: `{"jsonrpc":"2.0","id":3,"method":"sampling/createMessage","params":{"maxTokens":1}}`,
			want: `{"jsonrpc":"2.0","id":"SEALED","method":"sampling/createMessage","params":{"maxTokens":1}}`, sealed: name(RequestID, "3")},
		{name: "sampling, undeclared", caps: Roots | ElicitationForm, in: `{"jsonrpc":"2.0","id":3,"method":"sampling/createMessage","params":{}}`, dropped: unable},
		{name: "roots", caps: Roots, in: `{"jsonrpc":"2.0","id":3,"method":"roots/list"}`,
			want: `{"jsonrpc":"2.0","id":"SEALED","method":"roots/list"}`, sealed: name(RequestID, "3")},
		{name: "roots, undeclared", caps: Sampling, in: `{"jsonrpc":"2.0","id":3,"method":"roots/list"}`, dropped: unable},
		{name: "a form, undeclared", caps: ElicitationURL, in: `{"jsonrpc":"2.0","id":3,"method":"elicitation/create","params":{"message":"m"}}`, dropped: unable},
		{name: "an address, undeclared", caps: ElicitationForm, in: `{"jsonrpc":"2.0","id":3,"method":"elicitation/create","params":{"mode":"url"}}`, dropped: unable},
		{name: "a request for no client", caps: everyone, in: `{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"t"}}`, dropped: unable},
		{name: "a request for a task", caps: everyone, in: `{"jsonrpc":"2.0","id":3,"method":"tasks/get","params":{}}`, dropped: unable},
		{name: "the longest id", in: `{"jsonrpc":"2.0","id":"` + long[1:] + `","method":"ping"}`,
			want: `{"jsonrpc":"2.0","id":"SEALED","method":"ping"}`, sealed: name(RequestID, `"`+long[1:]+`"`)},
		{name: "a longer id", in: `{"jsonrpc":"2.0","id":"` + long + `","method":"ping"}`, dropped: longID},
		{name: "a longer progress token", in: `{"jsonrpc":"2.0","id":3,"method":"ping","params":{"_meta":{"progressToken":"` + long + `"}}}`, dropped: longID},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := relay(t, test.caps)
			got, err := r.Event(data(test.in))
			if err != nil {
				t.Fatal(err)
			}
			if got.Dropped != test.dropped {
				t.Fatalf("dropped %q, want %q", got.Dropped, test.dropped)
			}
			if got.Answers() != (test.dropped == "" && got.Message.Kind == mcpparse.Response) {
				t.Errorf("answers: %v", got.Answers())
			}
			if test.dropped != "" {
				return
			}
			want := test.want
			if want == "" {
				want = test.in
			}
			want = strings.Replace(want, "SEALED", r.Sealer.SealName(mine, test.sealed), 1)
			if diff := cmp.Diff(want, string(got.Event.Data)); diff != "" {
				t.Error(diff)
			}
			if _, err := mcpparse.ParseUpstream(got.Event.Data); err != nil {
				t.Errorf("the agent gets what is no message: %v", err)
			}
			wrong, err := r.Event(mcpparse.Event{Type: "endpoint", HasData: true, Data: []byte(test.in)})
			if err != nil || wrong.Dropped != noType {
				t.Errorf("as another event: %+v, %v", wrong, err)
			}
		})
	}
}

// A request's id and progress token are sealed apart, and a cancellation finds the request.
func TestRelaySealsProgressTokens(t *testing.T) {
	r := relay(t, Sampling)
	got, err := r.Event(data(`{"jsonrpc":"2.0","id":3,"method":"sampling/createMessage","params":{"_meta":{"progressToken":3,"x":1}}}`))
	if err != nil {
		t.Fatal(err)
	}
	m, err := mcpparse.ParseUpstream(got.Event.Data)
	if err != nil {
		t.Fatal(err)
	}
	id, _ := mcpparse.Text(m.ID)
	token, _ := mcpparse.Text(m.ProgressToken)
	for _, sealed := range []struct {
		kind Kind
		text string
	}{{RequestID, id}, {ProgressToken, token}} {
		n, err := r.Sealer.OpenName(mine, sealed.kind, sealed.text)
		if diff := cmp.Diff(name(sealed.kind, "3"), n); err != nil || diff != "" {
			t.Errorf("%c: %v %s", sealed.kind, err, diff)
		}
	}
	cancelled, err := r.Event(data(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":3}}`))
	if err != nil || !strings.Contains(string(cancelled.Event.Data), `"requestId":"`+id+`"`) {
		t.Errorf("%s cancels something else: %v", cancelled.Event.Data, err)
	}
}

// What surrounds the data: ids are sealed, waits are bounded, types mean nothing.
func TestRelayFrames(t *testing.T) {
	const wait = 7 * time.Second
	longest := strings.Repeat("e", 4*MaxNameBytes)
	for _, test := range []struct {
		name string
		in   mcpparse.Event
		want mcpparse.Event // with the upstream's id
	}{
		{"a comment", mcpparse.Event{}, mcpparse.Event{}},
		{"a typed comment", mcpparse.Event{Type: "endpoint"}, mcpparse.Event{}},
		{"the first event", mcpparse.Event{HasID: true, ID: "0", HasData: true}, mcpparse.Event{HasID: true, ID: "0", HasData: true}},
		{"a wait", mcpparse.Event{HasRetry: true, Retry: wait}, mcpparse.Event{HasRetry: true, Retry: wait}},
		{"the longest wait", mcpparse.Event{HasRetry: true, Retry: time.Minute}, mcpparse.Event{HasRetry: true, Retry: time.Minute}},
		{"a longer wait", mcpparse.Event{HasRetry: true, Retry: 49 * 24 * time.Hour}, mcpparse.Event{HasRetry: true, Retry: time.Minute}},
		{"the id is taken back", mcpparse.Event{HasID: true}, mcpparse.Event{HasID: true}},
		{"the longest id", mcpparse.Event{HasID: true, ID: longest}, mcpparse.Event{HasID: true, ID: longest}},
		{"a longer id", mcpparse.Event{HasID: true, ID: longest + "e"}, mcpparse.Event{ID: longest + "e"}},
	} {
		for _, kind := range []Kind{CallEvent, StreamEvent} {
			r := relay(t, 0)
			r.Stream = kind
			got, err := r.Event(test.in)
			if err != nil || got.Dropped != "" || got.Message.Kind != 0 {
				t.Errorf("%s: %+v, %v", test.name, got, err)
			}
			if got.Event.HasID && got.Event.ID != "" {
				n, err := r.Sealer.OpenName(mine, kind, got.Event.ID)
				if err != nil || n.App != TagOf("app") || n.Leg != TagOf("upstream-session") {
					t.Errorf("%s: %+v, %v", test.name, n, err)
				}
				got.Event.ID = string(n.Raw)
			}
			if diff := cmp.Diff(test.want, got.Event); diff != "" {
				t.Errorf("%s: %s", test.name, diff)
			}
		}
	}
}

// On a stream that answers nothing there are no responses. On one that is resumed there is that of its call, which the
// event knows where it broke off: another's may be another upstream's.
func TestRelayOfOtherStreams(t *testing.T) {
	get, call, resumed := relay(t, 0), relay(t, 0), relay(t, 0)
	get.Wants, resumed.Wants = nil, nil
	first, err := call.Event(mcpparse.Event{HasID: true, ID: "1"})
	if err != nil {
		t.Fatal(err)
	}
	last, err := call.Sealer.OpenName(mine, CallEvent, first.Event.ID)
	if err != nil {
		t.Fatal(err)
	}
	resumed.Resumes = last.Call
	if again, err := resumed.Event(mcpparse.Event{HasID: true, ID: "1"}); err != nil || again.Event.ID != first.Event.ID {
		t.Errorf("an event of the resumed stream: %+v, %v", again, err)
	}
	for _, response := range []string{`{"jsonrpc":"2.0","id":"c-1","result":{}}`, `{"jsonrpc":"2.0","id":"\u0063-1","error":{"code":1,"message":"m"}}`} {
		if got, err := resumed.Event(data(response)); err != nil || !got.Answers() || string(got.Event.Data) != response {
			t.Errorf("%s on a resumed stream: %+v, %v", response, got, err)
		}
	}
	for _, response := range []string{
		`{"jsonrpc":"2.0","id":"c-2","result":{}}`,
		`{"jsonrpc":"2.0","id":"c-1","result":{}}`, `{"jsonrpc":"2.0","id":7,"error":{"code":1,"message":"m"}}`,
		`{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":"m"}}`, `{"jsonrpc":"2.0","error":{"code":1,"message":"m"}}`,
	} {
		if got, err := get.Event(data(response)); err != nil || got.Dropped == "" {
			t.Errorf("%s on a GET stream: %+v, %v", response, got, err)
		}
		if got, err := resumed.Event(data(response)); err != nil || got.Dropped == "" && !strings.Contains(response, "c-1") {
			t.Errorf("%s on a resumed stream: %+v, %v", response, got, err)
		}
	}
}

func TestRelayEndsWithALie(t *testing.T) {
	for _, lie := range []string{
		`hello`, ` `, `[]`, `{}`, `null`, `{"jsonrpc":"2.0"}`, `{"jsonrpc":"1.0","id":"c-1","result":{}}`,
		`[{"jsonrpc":"2.0","id":"c-1","result":{}}]`,
		`{"jsonrpc":"2.0","id":"c-1","result":{}}{"jsonrpc":"2.0","id":"c-1","result":{}}`,
		`{"jsonrpc":"2.0","id":"c-1","id":"c-2","result":{}}`,
		`{"jsonrpc":"2.0","id":"c-1","result":{"a":1,"a":2}}`,
		`{"jsonrpc":"2.0","id":"c-1","result":{},"error":{"code":1,"message":"m"}}`,
		`{"jsonrpc":"2.0","id":"c-1","result":[]}`,
		`{"jsonrpc":"2.0","id":"c-1","result":{},"method":"ping"}`,
		`{"jsonrpc":"2.0","method":"ping"}`, // a request without an id
		"{\"jsonrpc\":\"2.0\",\"id\":\"c-1\",\"result\":{\"a\":\"\xff\"}}",
	} {
		if got, err := relay(t, ^Capabilities(0)).Event(data(lie)); !errors.Is(err, ErrLie) {
			t.Errorf("%s: %+v, %v", lie, got, err)
		}
	}
}
