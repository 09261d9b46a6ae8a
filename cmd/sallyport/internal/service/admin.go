package service

import (
	"encoding/json"
	"net/http"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Ready reports whether a call would be decided now, and what is missing when it would not.
func (s *Service) Ready() (bool, map[string]bool) {
	state := map[string]bool{
		"keys":      s.verifier == nil || s.verifier.Ready(),
		"policies":  s.gate.Load() != nil,
		"exchange":  time.Since(s.began) > exchangeGrace,
		"catalogue": s.hub.Ready(),
		"routes":    s.routed.Load(),
		"verdicts":  !s.processor.Ignored(),
		"serving":   !s.draining.Load(),
	}
	if s.canary != nil {
		state["canary"] = s.canary.alive.Load()
	}
	if !state["exchange"] {
		state["exchange"] = s.connected()
	}
	for _, ok := range state {
		if !ok {
			return false, state
		}
	}
	return true, state
}

// exchangeGrace is how long the connectors' metadata is waited for at the start. A connector that stays away takes
// only its own apps' calls with it, each refused with 503.
const exchangeGrace = 5 * time.Second

func (s *Service) connected() bool {
	for _, c := range s.clients {
		if !c.Ready() {
			return false
		}
	}
	return true
}

// Drain makes the service not ready, so that load balancers turn away before anything stops.
func (s *Service) Drain() {
	s.draining.Store(true)
	s.hub.Drain()
}

func (s *Service) adminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) {
		ready, state := s.Ready()
		w.Header().Set("Content-Type", "application/json")
		if !ready {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_ = json.NewEncoder(w).Encode(struct {
			Ready  bool            `json:"ready"`
			Checks map[string]bool `json:"checks"`
		}{ready, state})
	})
	return mux
}

// reloadMetrics say whether the file on disk is the file that runs.
type reloadMetrics struct {
	successful prometheus.Gauge
	when       prometheus.Gauge
}

func (s *Service) register() {
	s.reloads = reloadMetrics{
		successful: prometheus.NewGauge(prometheus.GaugeOpts{Name: "sallyport_config_last_reload_successful",
			Help: "Whether the configuration that was last read is the one in force."}),
		when: prometheus.NewGauge(prometheus.GaugeOpts{Name: "sallyport_config_last_reload_success_timestamp_seconds",
			Help: "When the configuration in force was read."}),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{Name: "sallyport_build_info", Help: "1, labelled by version.",
		ConstLabels: prometheus.Labels{"version": s.Version, "goversion": runtime.Version()}})
	build.Set(1)
	s.reloads.successful.Set(1)
	s.reloads.when.SetToCurrentTime()
	ready := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "sallyport_ready_state", Help: "Whether the service is ready (1) or not (0)."},
		func() float64 {
			if ok, _ := s.Ready(); ok {
				return 1
			}
			return 0
		})
	if s.canary != nil {
		s.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "sallyport_canary_successful",
			Help: "Whether the last request that had to be refused was refused by this service (1) or not (0)."}, s.canary.metric))
	}
	s.registry.MustRegister(s.revocationMetrics()...)
	s.registry.MustRegister(s.reloads.successful, s.reloads.when, build, ready, keySets{s.verifier}, connectorStats{s.sources},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
}
