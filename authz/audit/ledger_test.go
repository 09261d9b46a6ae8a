package audit_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/authz/audit"
)

// However decisions and completions come in, each decision ends with one completion.
func TestLedger(t *testing.T) {
	decide := func(id, exchange string) func(*audit.Ledger) error {
		return func(l *audit.Ledger) error {
			return l.Decision(audit.Decision{ID: id, Exchange: exchange, Outcome: audit.Allowed, Method: "ping"})
		}
	}
	complete := func(id, exchange string) func(*audit.Ledger) error {
		return func(l *audit.Ledger) error {
			return l.Completion(audit.Completion{ID: id, Outcome: audit.OK}, exchange)
		}
	}
	for _, c := range []struct {
		name  string
		steps []func(*audit.Ledger) error
		want  string
	}{
		{"in order", []func(*audit.Ledger) error{decide("a", "x"), complete("a", "x")}, "decision a, completion a ok"},
		{"by the host's id", []func(*audit.Ledger) error{decide("a", "x"), complete("", "x")}, "decision a, completion a ok"},
		{"completion first", []func(*audit.Ledger) error{complete("a", "x"), decide("a", "x")}, "decision a, completion a ok"},
		{"completion first, by the host's id", []func(*audit.Ledger) error{complete("", "x"), decide("a", "x")}, "decision a, completion a ok"},
		{"no completion", []func(*audit.Ledger) error{decide("a", "x")}, "decision a, completion a aborted"},
		{"no decision", []func(*audit.Ledger) error{complete("", "x"), decide("a", "y"), complete("a", "y")}, "decision a, completion a ok"},
		{"host without ids", []func(*audit.Ledger) error{complete("", ""), decide("a", ""), decide("b", ""), complete("b", ""), complete("a", "")},
			"decision a, decision b, completion b ok, completion a ok"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			log, err := audit.Open(audit.Config{Writer: &out})
			if err != nil {
				t.Fatal(err)
			}
			l := audit.NewLedger(log)
			for _, step := range c.steps {
				if err := step(l); err != nil {
					t.Fatal(err)
				}
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, summary(t, out.String())); diff != "" {
				t.Error(diff)
			}
			if _, err := audit.Verify(&out); err != nil {
				t.Error(err)
			}
		})
	}
}

func summary(t *testing.T, lines string) string {
	t.Helper()
	var out []string
	for line := range strings.Lines(lines) {
		var r struct{ Kind, ID, Outcome string }
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		if r.Kind == "decision" {
			r.Outcome = ""
		}
		out = append(out, strings.TrimSpace(r.Kind+" "+r.ID+" "+r.Outcome))
	}
	return strings.Join(out, ", ")
}
