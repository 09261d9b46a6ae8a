package service

import (
	"context"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport/sallyport/envoy"
)

// What Envoy is given when it asks the service for its resources.

const (
	pushDeadline = 5 * time.Second        // for Envoys to say that they have what they were sent
	settleTime   = 100 * time.Millisecond // for an Envoy's workers to have what it has acknowledged, and to resolve a name
)

// resources are those of n, and of what is leaving. Over a unix socket certificates go with them, so that Envoy has what the
// file's check has seen; over the network only their names do, and Envoy reads its own files.
func (s *Service) resources(n *state) (*envoy.Resources, error) {
	g := n.envoy
	g.Apps = n.everyApp()
	r, err := envoy.Generate(g)
	if err != nil || !strings.HasPrefix(s.Sockets.Service, "unix:") {
		return r, err
	}
	ours := map[string]bool{}
	for _, file := range n.cfg.Files() {
		ours[file] = true
	}
	return r.Inline(func(file string) ([]byte, error) {
		if !ours[file] {
			return nil, nil // the system's trust is Envoy's system's
		}
		return os.ReadFile(file)
	})
}

// push gives n to all Envoys, and waits until they have it.
func (s *Service) push(ctx context.Context, n *state) error {
	if s.ads == nil {
		return nil
	}
	r, err := s.resources(n)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, pushDeadline)
	defer cancel()
	return s.ads.Push(ctx, r)
}

// Rejected is why an Envoy does not take what the service has for it; nil when none refuses.
func (s *Service) Rejected() error {
	if s.ads == nil {
		return nil
	}
	return s.ads.Rejected()
}

func (s *Service) envoyMetrics() []prometheus.Collector {
	if s.ads == nil {
		return nil
	}
	return []prometheus.Collector{
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "sallyport_xds_envoys", Help: "Envoys that have their configuration from this service."},
			func() float64 { return float64(s.ads.Stats().Envoys) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "sallyport_xds_rejections_total", Help: "Answers of Envoys that reject what they were sent."},
			func() float64 { return float64(s.ads.Stats().Rejections) }),
	}
}
