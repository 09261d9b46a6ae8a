package service

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport/sallyport/exchange"
	"github.com/sallyport/sallyport/exchange/sts"
)

// connectorStats shows how each app's tokens are got.
type connectorStats struct{ *Service }

var (
	exchangesDesc = prometheus.NewDesc("sallyport_connector_exchanges_total",
		"Tokens asked for, by their end: exchanged, own (client credentials), reused, minted, refused, unavailable or unacceptable.", []string{"app", "outcome"}, nil)
	unsentDesc = prometheus.NewDesc("sallyport_connector_unsent_total",
		"Requests, of those that were unavailable, that were not sent: circuit_open or busy.", []string{"app", "reason"}, nil)
	circuitDesc = prometheus.NewDesc("sallyport_connector_circuit_open",
		"Whether an app's authorization server is left alone because it failed.", []string{"app"}, nil)
	openedDesc   = prometheus.NewDesc("sallyport_connector_circuit_openings_total", "How often that began.", []string{"app"}, nil)
	inFlightDesc = prometheus.NewDesc("sallyport_connector_requests_in_flight", "Requests that are at the token endpoint.", []string{"app"}, nil)
	keptDesc     = prometheus.NewDesc("sallyport_connector_reusable_tokens", "Tokens that are kept for reuse.", []string{"app"}, nil)
)

func (c connectorStats) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{exchangesDesc, unsentDesc, circuitDesc, openedDesc, inFlightDesc, keptDesc} {
		ch <- d
	}
}

func (c connectorStats) Collect(ch chan<- prometheus.Metric) {
	for app, source := range c.now().sources {
		switch s := source.(type) {
		case *exchange.Client:
			collectClient(ch, app, s.Stats())
		case *sts.Minter:
			ch <- prometheus.MustNewConstMetric(exchangesDesc, prometheus.CounterValue, float64(s.Minted()), app, "minted")
		}
	}
}

func collectClient(ch chan<- prometheus.Metric, app string, s exchange.Stats) {
	count := func(d *prometheus.Desc, n uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), append([]string{app}, labels...)...)
	}
	gauge := func(d *prometheus.Desc, n int) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), app)
	}
	count(exchangesDesc, s.Exchanged, "exchanged")
	count(exchangesDesc, s.Own, "own")
	count(exchangesDesc, s.Reused, "reused")
	count(exchangesDesc, s.Refused, "refused")
	count(exchangesDesc, s.Unavailable, "unavailable")
	count(exchangesDesc, s.Unacceptable, "unacceptable")
	count(unsentDesc, s.CircuitOpen, "circuit_open")
	count(unsentDesc, s.Busy, "busy")
	count(openedDesc, s.Opened)
	open := 0
	if s.Circuit != exchange.CircuitClosed {
		open = 1
	}
	gauge(circuitDesc, open)
	gauge(inFlightDesc, s.InFlight)
	gauge(keptDesc, s.Cached)
}
