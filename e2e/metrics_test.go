package e2e

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
)

func TestMetrics(t *testing.T) {
	w := start(t)
	w.send(modern("my_server_listItems", `{}`))
	w.send(modern("open_spend", `{"amount":500}`))
	w.send(modern("open_made_up_by_the_client", `{}`))
	w.send(request{token: "none", body: "{}"})
	text := w.metrics()
	for _, want := range []string{
		`sallyport_calls_total{app="my-mcp-server-proxy",outcome="allowed",tool="listItems"} 1`,
		`sallyport_calls_total{app="open",outcome="denied",tool="spend"} 1`,
		`sallyport_calls_total{app="open",outcome="denied",tool="other"} 1`,
		`sallyport_calls_total{app="",outcome="denied",tool=""} 1`,
		`sallyport_exchange_duration_seconds_count{app="my-mcp-server-proxy",outcome="ok"} 1`,
		`sallyport_policy_duration_seconds_count{app="open"} 2`,
		`sallyport_keyset_keys{issuer="` + w.provider.URL + `"} 1`,
		"sallyport_config_last_reload_successful 1",
		"sallyport_ready_state 1",
		"sallyport_build_info{",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("missing: %s", want)
		}
	}
	if strings.Contains(text, "made_up") {
		t.Error("a client made a label")
	}
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	must(t, err)
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "sallyport_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}
