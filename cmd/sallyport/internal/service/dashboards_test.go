package service

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// TestDashboardsAskForMetricsThatExist: a panel of deploy/dashboards names only metrics that the service registers.
func TestDashboardsAskForMetricsThatExist(t *testing.T) {
	f := newFiles(t)
	f.edit("c.yaml", "apps:", "service:\n  canary: http://127.0.0.1:1\napps:")
	s := f.service()
	dashboards, err := filepath.Glob("../../../../deploy/dashboards/*.json")
	must(t, err)
	if len(dashboards) == 0 {
		t.Fatal("no dashboards")
	}
	metric := regexp.MustCompile(`\b(?:sallyport|go|process)_\w+`)
	for _, file := range dashboards {
		text, err := os.ReadFile(file) //nolint:gosec // ours
		must(t, err)
		var dashboard struct {
			Panels []struct {
				Title, Type string
				Targets     []struct{ Expr string }
			}
		}
		must(t, json.Unmarshal(text, &dashboard))
		shown := 0
		for _, p := range dashboard.Panels {
			if p.Type != "row" && len(p.Targets) == 0 {
				t.Errorf("%s: %q shows nothing", file, p.Title)
			}
			for _, target := range p.Targets {
				names := metric.FindAllString(target.Expr, -1)
				for _, name := range names {
					if !registered(s.registry, name) {
						t.Errorf("%s: %q asks for %s, which does not exist", file, p.Title, name)
					}
				}
				shown += len(names)
			}
		}
		if shown < 10 {
			t.Errorf("%s names %d metrics", file, shown)
		}
	}
}

var ofHistogram = regexp.MustCompile(`_(bucket|sum|count)$`)

// registered tells whether r has a metric, of whatever kind: it then takes no other of that name.
func registered(r prometheus.Registerer, name string) bool {
	return slices.ContainsFunc([]string{name, ofHistogram.ReplaceAllString(name, "")}, func(name string) bool {
		probe := prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: "a probe"})
		if r.Register(probe) != nil {
			return true
		}
		r.Unregister(probe)
		return false
	})
}
