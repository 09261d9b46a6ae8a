package hub

import (
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/mcpparse"
)

// A modern server that turns the version down and names it all the same is asked once more; one that names others is not
// taken for a legacy one.
func TestVersionsAreAskedForAgain(t *testing.T) {
	for name, test := range map[string]struct {
		refusals  int32
		supported string
		want      authz.Leg
		fails     bool
	}{
		"once":           {1, `["2026-07-28"]`, authz.Leg{Era: mcpparse.EraModern, Version: "2026-07-28"}, false},
		"always":         {9, `["2026-07-28"]`, authz.Leg{Era: mcpparse.EraModern, Version: "2026-07-28"}, false}, // as the agent speaks, it may know better
		"other versions": {9, `["2030-01-01"]`, authz.Leg{Era: mcpparse.EraModern, Version: "2026-07-28"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			var asked atomic.Int32
			up := modernScript(toolList("t"))
			up.first(func(w http.ResponseWriter, m rpc) bool {
				if m.Method != "server/discover" || asked.Add(1) > test.refusals {
					return false
				}
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(http.StatusBadRequest)
				_, _ = w.Write(mcpparse.FailureBody(m.ID, []byte(`{"code":-32022,"message":"m","data":{"supported":`+test.supported+`}}`)))
				return true
			})
			h := newHub(t, apps("up"), egress{"app/up": up})
			got, err := h.Leg(t.Context(), app("up"), peer("o", mcpparse.EraModern))
			if diff := cmp.Diff(test.want, got); diff != "" || (err != nil) != test.fails {
				t.Errorf("%v %s", err, diff)
			}
			if n := asked.Load(); test.supported == `["2030-01-01"]` && n != 1 || n > 2 {
				t.Errorf("asked %d times", n)
			}
		})
	}
}
