package e2e

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// TestManyCallsAtOnce counts: for every call one exchange, one upstream request, one decision and one completion, and
// no two calls share a token.
func TestManyCallsAtOnce(t *testing.T) {
	w := start(t)
	session := w.initialize()
	const workers, each = 24, 20
	w.send(modern("my_server_listItems", `{}`)) // whatever is made once is made now
	before := w.gauge("go_goroutines")
	var wg sync.WaitGroup
	errs := make(chan error, workers*each)
	for i := range workers {
		wg.Go(func() {
			for j := range each {
				arguments := fmt.Sprintf(`{"n":%d}`, i*each+j)
				r := modern("my_server_listItems", arguments)
				if j%2 == 1 {
					r = legacyCall(session, "my_server_listItems", arguments)
				}
				if a, err := w.try(r); err != nil || a.Status != http.StatusOK || a.RPC.Result == nil {
					errs <- fmt.Errorf("call %d/%d: %v %s", i, j, err, a)
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	client.CloseIdleConnections()
	const spare = 2*workers + 20 // two for each connection to the authorization server that is kept for the next call
	await(t, "the goroutines of the calls to end", func() bool { return w.gauge("go_goroutines") <= before+spare })
	const total = workers*each + 1
	tokens, arguments := map[string]bool{}, map[string]bool{}
	for _, c := range w.items.calls() {
		tokens[c.Header.Get("Authorization")] = true
		arguments[string(c.RPC.Params.Arguments)] = true
	}
	if n := len(w.provider.exchanges()); n != total || len(tokens) != total || len(arguments) != total || len(w.items.calls()) != total {
		t.Errorf("%d calls: %d exchanges, %d tokens, %d different arguments, %d upstream requests", total, n, len(tokens), len(arguments), len(w.items.calls()))
	}
	if n := len(w.items.of("initialize")); n > 3 {
		t.Errorf("%d upstream sessions for one agent's", n) // the catalogue's own, the session's, one to spare
	}
	if n := len(w.reconcile()); n != total+1 {
		t.Errorf("%d decisions for %d messages", n, total+1)
	}
	w.verifyAudit()
}

// gauge reads one of the service's metrics that has no labels.
func (w *world) gauge(name string) float64 {
	w.t.Helper()
	for line := range strings.Lines(w.metrics()) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), name+" "); ok {
			f, err := strconv.ParseFloat(value, 64)
			must(w.t, err)
			return f
		}
	}
	w.t.Fatalf("no metric %s", name)
	return 0
}
