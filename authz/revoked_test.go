package authz_test

import (
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/authz/audit"
	"github.com/sallyport/sallyport/authz/session"
	"github.com/sallyport/sallyport/authz/token"
)

// revocations have taken back a subject's tokens, or a session.
type revocations struct{ subject, session string }

func (r *revocations) Revoked(id *token.Identity) bool { return r.subject == id.Subject }

func (r *revocations) Ended(_ *token.Identity, s session.Session) bool {
	return s.ID != "" && r.session == s.ID
}

// refused checks a refusal, its record, and that it is counted.
func (w *world) refused(v authz.Verdict, status int, public, reason string) {
	w.tb.Helper()
	if v.Reply == nil || v.Reply.Status != status || !strings.Contains(string(v.Reply.Body), public) {
		w.tb.Fatalf("%+v", v)
	}
	rec := w.audit.records[len(w.audit.records)-1]
	if rec.Outcome != audit.Denied || rec.Message != reason {
		w.tb.Errorf("record %+v", rec)
	}
	if n := w.series("sallyport_revoked_requests_total"); len(n) != 1 || n[0].value != 1 {
		w.tb.Errorf("counted %v", n)
	}
}

func TestRevokedToken(t *testing.T) {
	w := newWorld(t)
	w.tokens.err[agentToken] = token.ErrRevoked
	v := w.judge(modernCall("open_echo", `{}`))
	w.refused(v, 401, "the token has been revoked", "revoked token")
	want := `error="invalid_token", error_description="the token has been revoked"`
	if !strings.Contains(header(t, v.Reply, "www-authenticate"), want) {
		t.Errorf("headers %v", v.Reply.Header)
	}
}

// A body that is slow to come, or a token that is, does not carry a call past a revocation.
func TestRevokedMeanwhile(t *testing.T) {
	back := &revocations{}
	for name, meanwhile := range map[string]func(w *world){
		"token":   func(*world) { back.subject = "ann" },
		"session": func(*world) { back.session = sessionID },
		"neither": func(*world) { back.subject = "bob" },
	} {
		t.Run(name, func(t *testing.T) {
			*back = revocations{}
			w := newWorld(t, func(w *world) { w.cfg.Revocations = back })
			r, body := legacyCall(w.session(ownerOf), "my_server_listItems", `{}`)
			call, _ := w.gate.Begin(t.Context(), r)
			meanwhile(w)
			v := call.Finish(t.Context(), []byte(body))
			switch name {
			case "token":
				w.refused(v, 401, "the token has been revoked", "revoked token")
			case "session":
				w.refused(v, 404, "send initialize again", "revoked session")
			default:
				if !v.Forwards() || call.Gone() {
					t.Fatalf("%+v, gone %v", v, call.Gone())
				}
				if back.subject = "ann"; !call.Gone() {
					t.Error("not gone")
				}
			}
		})
	}
}

// A session is revoked before it is looked up: the store need not know of it.
func TestRevokedSession(t *testing.T) {
	w := newWorld(t, func(w *world) { w.cfg.Revocations = &revocations{session: sessionID} })
	w.refused(w.judge(legacyCall(w.session(ownerOf), "open_echo", `{}`)), 404, "send initialize again", "revoked session")
	get := post("mcp-session-id", w.session(ownerOf))
	get.Method, get.EndOfStream = "GET", true
	if v := w.judge(get, ""); v.Reply == nil || v.Reply.Status != 404 {
		t.Errorf("its event stream: %+v", v)
	}
	other, err := w.cfg.Sessions.Seal(ownerOf, session.Session{ID: session.NewID(), Version: "2025-06-18", Issued: time.Unix(1, 0)})
	if err != nil {
		t.Fatal(err)
	}
	if v := w.judge(legacyCall(other, "open_echo", `{}`)); !v.Forwards() {
		t.Errorf("another session: %+v", v)
	}
}
