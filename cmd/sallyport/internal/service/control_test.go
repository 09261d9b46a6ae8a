package service

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/authz/audit"
	"github.com/sallyport/sallyport/authz/revocation"
	"github.com/sallyport/sallyport/authz/token"
)

func TestControl(t *testing.T) {
	f := newFiles(t)
	f.edit("c.yaml", "            expectedAudiences: [https://gateway.example/mcp]\n", "            expectedAudiences: [https://gateway.example/mcp]\n            jwt:\n              clockSkew: 0s\n")
	f.edit("c.yaml", "            expectedAudiences: [https://gateway.example/]\n", "            expectedAudiences: [https://gateway.example/]\n            jwt:\n              clockSkew: 1s\n")
	s := f.service()
	do := func(method, body string) (int, RevokeAnswer) {
		w := httptest.NewRecorder()
		s.controlHandler().ServeHTTP(w, httptest.NewRequest(method, "/revocations", strings.NewReader(body)))
		var a RevokeAnswer
		if method == http.MethodPost {
			must(t, json.Unmarshal(w.Body.Bytes(), &a))
		}
		return w.Code, a
	}
	for body, says := range map[string]string{
		``:                                 "not a command",
		`[]`:                               "not a command",
		`{"kind":"subject","value":"x"}{}`: "more than one JSON value",
		`{"kind":"subject","value":"x","why":"because"}`:              "unknown field",
		`{"kind":"subject","value":""}`:                               "subject is empty",
		`{"kind":"everybody","value":"x"}`:                            "none of subject, client, jti and session",
		`{"kind":"session","value":"x"}`:                              "32 hexadecimal digits",
		`{"kind":"subject","value":"x","keep":"1s"}`:                  "from 1m to",
		`{"kind":"subject","value":"x","keep":"1000000h"}`:            "from 1m to",
		`{"kind":"subject","value":"x","undo":true}`:                  "no such revocation",
		`{"kind":"jti","value":"` + strings.Repeat("x", 1<<16) + `"}`: "request body too large",
	} {
		if status, a := do(http.MethodPost, body); status < 400 || !strings.Contains(a.Error, says) {
			t.Errorf("%.60s: %d %q", body, status, a.Error)
		}
	}
	if n := len(s.revoked.Entries()); n != 0 {
		t.Errorf("%d in force", n)
	}
	status, a := do(http.MethodPost, `{"kind":"subject","value":"ann","issuer":"https://one.example","keep":"2h"}`)
	if status != http.StatusOK || a.Error != "" || a.Value != "ann" || a.Until.Sub(a.At).Hours() != 2 || a.Place != f.path("c.revocations.jsonl") {
		t.Errorf("%d %+v", status, a)
	}
	if skew := a.IssuedUntil.Sub(a.At); skew != token.DefaultClockSkew {
		t.Errorf("tokens from up to %v in the future are refused, and others that are accepted are not", skew)
	}
	if status, a := do(http.MethodPost, `{"kind":"subject","value":"ann","issuer":"https://one.example","undo":true}`); status != http.StatusOK || !a.Undone {
		t.Errorf("undone: %d %+v", status, a)
	}
	if status, _ := do(http.MethodDelete, ""); status != http.StatusMethodNotAllowed {
		t.Errorf("DELETE: %d", status)
	}

	// Nothing is undone without a record; what is revoked is in force without one, and the operator is told.
	do(http.MethodPost, `{"kind":"jti","value":"j"}`)
	must(t, s.audit.Close())
	if status, a := do(http.MethodPost, `{"kind":"jti","value":"j","undo":true}`); status < 400 || !strings.Contains(a.Error, "not undone") {
		t.Errorf("undone without a record: %d %+v", status, a)
	}
	if status, a := do(http.MethodPost, `{"kind":"client","value":"c"}`); status < 400 || !strings.Contains(a.Error, "in force, but not on record") {
		t.Errorf("without a record: %d %+v", status, a)
	}
	if n := len(s.revoked.Entries()); n != 2 {
		t.Errorf("%d in force", n)
	}
	content, err := os.ReadFile(f.path("audit.jsonl"))
	must(t, err)
	if n, err := audit.Verify(strings.NewReader(string(content))); n != 3 || err != nil {
		t.Errorf("%d records, %v", n, err)
	}
	for _, want := range []string{`"kind":"revocation"`, `"action":"revoked","subject":"ann","issuer":"https://one.example","issued_until":"`, `"action":"undone"`, `"jti":"j"`} {
		if !strings.Contains(string(content), want) {
			t.Errorf("not on record: %s in\n%s", want, content)
		}
	}
}

// Without authorization there are no tokens, only sessions.
func TestControlWithoutAuthorization(t *testing.T) {
	r := RevokeRequest{Target: revocation.Target{Kind: revocation.Subject, Value: "x"}}
	if _, err := r.check(false); err == nil {
		t.Error("a subject of nobody's")
	}
	r.Target = revocation.Target{Kind: revocation.Session, Value: strings.Repeat("a", 32)}
	if keep, err := r.check(false); err != nil || keep != revocation.DefaultKeep {
		t.Errorf("a session: %v, %v", keep, err)
	}
}

func TestControlSocketIsPrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.sock")
	l, err := listenPrivately(t.Context(), path)
	must(t, err)
	defer l.Close()
	info, err := os.Stat(path)
	must(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	accepted := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			err = c.Close()
		}
		accepted <- err
	}()
	c, err := new(net.Dialer).DialContext(t.Context(), "unix", path)
	must(t, err)
	must(t, c.Close())
	must(t, <-accepted)
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	if isOurs(near) {
		t.Error("taken for one of ours: what is no unix socket")
	}
}

func TestNobodyListens(t *testing.T) {
	at := Sockets{Control: filepath.Join(t.TempDir(), "control.sock")}
	if _, err := Revocations(context.Background(), at); err == nil || !strings.Contains(err.Error(), ErrNotRunning.Error()) {
		t.Errorf("error %v", err)
	}
}
