package authz_test

import (
	"testing"

	"github.com/sallyport/sallyport/authz"
)

// bird echoes one nonce.
type bird string

func (b bird) Echo(nonce string) (string, bool) { return "echo", nonce == string(b) }

// A canary is refused, whatever it shows, and leaves no record; nobody else's request is one.
func TestCanary(t *testing.T) {
	for name, test := range map[string]struct {
		nonce   string
		echo    string
		records int
	}{
		"ours":             {"n-1", "echo", 0},
		"somebody else's":  {"n-2", "", 1},
		"twice in a field": {"n-1|n-1", "", 1},
		"none":             {"-", "", 1},
	} {
		w := newWorld(t, func(w *world) { w.cfg.Canary = bird("n-1") })
		r := with(post(), "authorization", "-", authz.CanaryHeader, test.nonce)
		_, v := w.gate.Begin(t.Context(), r)
		if v.Forwards() || v.Reply == nil || v.Reply.Status != 401 || len(w.audit.records) != test.records {
			t.Errorf("%s: %+v, %d records", name, v.Reply, len(w.audit.records))
			continue
		}
		diff(t, name, test.echo, header(t, v.Reply, authz.CanaryHeader))
	}
}
