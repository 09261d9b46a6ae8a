package service

import (
	"encoding/json"
	"net/http"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Ready reports whether a call would be decided now, and what is missing when it would not.
func (s *Service) Ready() (bool, map[string]bool) {
	state := map[string]bool{
		"keys":      s.now().verifier == nil || s.now().verifier.Ready(),
		"policies":  s.now() != nil,
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
	for _, c := range s.now().clients {
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
			Reload reloadState     `json:"reload"`
		}{ready, state, s.reloads.state()})
	})
	return mux
}

// reloads say whether the file on disk is the file that runs. A gateway whose file is broken is ready all the same.
type reloads struct {
	successful prometheus.Gauge
	when       prometheus.Gauge
	last       atomic.Pointer[reloadState]
}

// reloadState is how the last reload went.
type reloadState struct {
	Successful bool   `json:"successful"`
	Error      string `json:"error,omitempty"` // why what was in force before still is
}

func (r *reloads) state() reloadState {
	if s := r.last.Load(); s != nil {
		return *s
	}
	return reloadState{Successful: true}
}

func (r *reloads) done(err error) {
	if err != nil {
		r.successful.Set(0)
		r.last.Store(&reloadState{Error: err.Error()})
		return
	}
	r.successful.Set(1)
	r.when.SetToCurrentTime()
	r.last.Store(&reloadState{Successful: true})
}

func (s *Service) register() {
	s.reloads.successful = prometheus.NewGauge(prometheus.GaugeOpts{Name: "sallyport_config_last_reload_successful",
		Help: "Whether the configuration that was last read is the one in force."})
	s.reloads.when = prometheus.NewGauge(prometheus.GaugeOpts{Name: "sallyport_config_last_reload_success_timestamp_seconds",
		Help: "When the configuration in force was read."})
	build := prometheus.NewGauge(prometheus.GaugeOpts{Name: "sallyport_build_info", Help: "1, labelled by version.",
		ConstLabels: prometheus.Labels{"version": s.Version, "goversion": runtime.Version()}})
	build.Set(1)
	s.reloads.done(nil)
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
	s.registry.MustRegister(s.envoyMetrics()...)
	s.registry.MustRegister(s.reloads.successful, s.reloads.when, build, ready, keySets{s}, connectorStats{s},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
}
