package service

import (
	"cmp"

	"github.com/prometheus/client_golang/prometheus"
)

// keySets shows the state of each issuer's keys, and how it answers about tokens.
type keySets struct{ *Service }

var (
	keysDesc     = prometheus.NewDesc("sallyport_keyset_keys", "Usable keys of an issuer.", []string{"issuer"}, nil)
	ageDesc      = prometheus.NewDesc("sallyport_keyset_age_seconds", "Time since an issuer's keys were last fetched.", []string{"issuer"}, nil)
	fetchesDesc  = prometheus.NewDesc("sallyport_keyset_fetches_total", "Fetches of an issuer's keys.", []string{"issuer"}, nil)
	failuresDesc = prometheus.NewDesc("sallyport_keyset_fetch_failures_total", "Failed fetches of an issuer's keys.", []string{"issuer"}, nil)
	askedDesc    = prometheus.NewDesc("sallyport_introspections_total", "Questions to an issuer about tokens.", []string{"issuer"}, nil)
	unheardDesc  = prometheus.NewDesc("sallyport_introspection_failures_total", "Questions about tokens that an issuer did not answer.", []string{"issuer"}, nil)
)

func (k keySets) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{keysDesc, ageDesc, fetchesDesc, failuresDesc, askedDesc, unheardDesc} {
		ch <- d
	}
}

func (k keySets) Collect(ch chan<- prometheus.Metric) {
	verifier := k.now().verifier
	if verifier == nil {
		return
	}
	for _, s := range verifier.Stats() {
		issuer := cmp.Or(s.Issuer, s.WellKnown) // before discovery an issuer has an address only
		ch <- prometheus.MustNewConstMetric(keysDesc, prometheus.GaugeValue, float64(s.Keys), issuer)
		ch <- prometheus.MustNewConstMetric(ageDesc, prometheus.GaugeValue, s.Age.Seconds(), issuer)
		ch <- prometheus.MustNewConstMetric(fetchesDesc, prometheus.CounterValue, float64(s.Fetches), issuer)
		ch <- prometheus.MustNewConstMetric(failuresDesc, prometheus.CounterValue, float64(s.Failures), issuer)
		ch <- prometheus.MustNewConstMetric(askedDesc, prometheus.CounterValue, float64(s.Introspections), issuer)
		ch <- prometheus.MustNewConstMetric(unheardDesc, prometheus.CounterValue, float64(s.IntrospectionFailures), issuer)
	}
}
