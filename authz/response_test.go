package authz_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/authz/session"
	"github.com/sallyport/sallyport/mcpparse"
)

// The answer of an upstream, by its headers.
func TestResponse(t *testing.T) {
	const (
		again   = `200 {"jsonrpc":"2.0","id":"c-1","result":{"again":true}}`
		ended   = "502 -32603 the upstream ended its session; call again to open a new one"
		refused = "502 -32603 the upstream refused the gateway's request"
		strange = "502 -32603 the upstream did not answer with JSON or an event stream"
		packed  = "502 -32603 the upstream compressed its answer without being asked to"
		empty   = "502 -32603 the upstream gave an empty answer"
	)
	for _, test := range []struct {
		status      int
		contentType string
		want        string
		change      func(w *world)
		encoding    string // "" for no field
		end         bool
		lost        bool // the upstream no longer knew the session
		relay       bool
	}{
		{status: 200, contentType: "application/json", want: "nothing"},
		{status: 200, contentType: "text/event-stream; charset=utf-8", want: "nothing", relay: true},
		{status: 200, contentType: "Application/JSON", want: "nothing"},
		{status: 202, contentType: "", want: "nothing", end: true},
		{status: 204, contentType: "", want: "nothing", end: true},
		{status: 500, contentType: "application/json", want: "nothing"},
		{status: 400, contentType: "application/json", want: "nothing", end: true},
		{status: 404, contentType: "application/json", want: again, lost: true},
		{status: 404, contentType: "text/html", want: again, lost: true},
		{status: 404, contentType: "application/json", want: ended, lost: true, change: func(w *world) { w.upstreams.resendErr = errors.New("dial: 10.0.0.1") }},
		{status: 404, contentType: "application/json", want: "nothing", change: func(w *world) { w.upstreams.leg.SessionID = "" }},
		{status: 404, contentType: "text/html", want: strange, change: func(w *world) { w.upstreams.leg.SessionID = "" }},
		{status: 401, contentType: "application/json", want: refused},
		{status: 403, contentType: "application/json", want: refused},
		{status: 302, contentType: "application/json", want: refused},
		{status: 399, contentType: "application/json", want: refused},
		{status: 200, contentType: "text/html", want: strange},
		{status: 200, contentType: "", want: strange},
		{status: 500, contentType: "text/plain", want: strange},
		{status: 200, contentType: "application/json", encoding: "gzip", want: packed},
		{status: 200, contentType: "text/event-stream", encoding: "br", want: packed},
		{status: 200, contentType: "application/json", encoding: "identity", want: "nothing"},
		{status: 200, contentType: "application/json", end: true, want: empty},
		{status: 200, contentType: "text/event-stream", end: true, want: empty},
	} {
		w := newWorld(t, func(w *world) {
			w.upstreams.leg = legacyLeg
			if test.change != nil {
				test.change(w)
			}
		})
		r, body := legacyCall(w.session(ownerOf), "open_echo", `{}`)
		call, _ := w.gate.Begin(t.Context(), r)
		if v := call.Finish(t.Context(), []byte(body)); !v.Watch {
			t.Fatal("the answer is not watched")
		}
		header := authz.Header{"content-type": {test.contentType}}
		if test.encoding != "" {
			header["content-encoding"] = []string{test.encoding}
		}
		answer := call.Response(t.Context(), test.status, header, test.end)
		if got := outcome(authz.Verdict{Reply: answer.Reply}); got != test.want {
			t.Errorf("%d %s: %s, want %s", test.status, test.contentType, got, test.want)
		}
		if got := len(w.upstreams.resent) == 1; got != test.lost || answer.Again != (test.want == again) || (answer.Relay != nil) != test.relay {
			t.Errorf("%d %s: resent %v, answer %+v", test.status, test.contentType, w.upstreams.resent, answer)
		}
		if answer.Reply != nil && (!strings.Contains(string(answer.Reply.Body), `"id":"c-1"`) || strings.Contains(string(answer.Reply.Body), "10.0.0.1")) {
			t.Errorf("%d: not the caller's id, or too much: %s", test.status, answer.Reply.Body)
		}
		if len(w.audit.records) != 1 {
			t.Errorf("%d: %d decisions", test.status, len(w.audit.records))
		}
	}
}

// What is sent again is what went upstream before, with the same token, for the same agent.
func TestResent(t *testing.T) {
	w := newWorld(t, func(w *world) { w.upstreams.leg = legacyLeg })
	r, body := legacyCall(w.session(ownerOf), "my_server_listItems", `{"n": 1.50}`)
	call, _ := w.gate.Begin(t.Context(), r)
	v := call.Finish(t.Context(), []byte(body))
	call.Response(t.Context(), 404, authz.Header{}, false)
	want := []resent{{sessionID, legacyLeg, authz.Resent{ID: []byte(`"c-1"`), Body: v.Body, Token: issuedToken, Limit: 4 << 20}}}
	if d := cmp.Diff(want, w.upstreams.resent, cmp.AllowUnexported(resent{})); d != "" {
		t.Error(d)
	}
	if p := w.upstreams.peers[0]; p.Session != ownSession || p.Era != mcpparse.EraLegacy {
		t.Errorf("the agent is %+v", p)
	}
}

// An event stream is relayed to the session that asked, for the request that it asked.
func TestRelayOfAResponse(t *testing.T) {
	w := newWorld(t, func(w *world) { w.upstreams.leg = legacyLeg })
	r, body := legacyCall(w.session(ownerOf), "open_echo", `{}`)
	call, _ := w.gate.Begin(t.Context(), r)
	call.Finish(t.Context(), []byte(body))
	got := call.Response(t.Context(), 200, authz.Header{"content-type": {"text/event-stream"}}, false).Relay
	want := &session.Relay{Sealer: w.cfg.Sessions, Session: ownSession, App: "open", Leg: "upstream-1", Stream: session.CallEvent, Wants: []byte(`"c-1"`)}
	diff(t, "relay", "", cmp.Diff(want, got, cmpopts.IgnoreFields(session.Relay{}, "Sealer")))
	if got.Sealer != want.Sealer {
		t.Error("another sealer")
	}
	broken := call.BrokenStream()
	diff(t, "what ends it", `{"jsonrpc":"2.0","id":"c-1","error":{"code":-32603,"message":"the upstream gave no usable answer"}}`, string(broken.Data))
}

// What a modern upstream answers passes unread, but for what one caller may read of a resource: no cache that others share
// may hand it on.
func TestPrivateAnswers(t *testing.T) {
	for _, test := range []struct {
		method, target string
		status         int
		contentType    string
		want           authz.Answer
	}{
		{"resources/read", "item://open/a", 200, "application/json", authz.Answer{Private: true}},
		{"resources/read", "item://open/a", 200, "text/event-stream", authz.Answer{Private: true, Events: true}},
		{"resources/read", "item://open/a", 400, "application/json", authz.Answer{}},
	} {
		w := newWorld(t, withTargets)
		r, body := w.targeted("modern", test.method, test.target, "")
		call, _ := w.gate.Begin(t.Context(), r)
		if v := call.Finish(t.Context(), []byte(body)); !v.Watch {
			t.Fatal("the answer is not watched")
		}
		diff(t, test.contentType, test.want, call.Response(t.Context(), test.status, authz.Header{"content-type": {test.contentType}}, false))
	}
}
