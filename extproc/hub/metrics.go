package hub

import "github.com/prometheus/client_golang/prometheus"

// Metrics counts what the hub does. Labels are bounded: apps are those of the configuration.
type Metrics struct {
	up       *prometheus.GaugeVec
	barred   *prometheus.GaugeVec
	items    *prometheus.GaugeVec
	dropped  *prometheus.GaugeVec
	streams  *prometheus.GaugeVec
	opened   *prometheus.CounterVec
	closed   *prometheus.CounterVec
	withheld *prometheus.CounterVec
}

// NewMetrics registers the hub's metrics.
func NewMetrics(r prometheus.Registerer) *Metrics {
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	m := &Metrics{
		up: gauge("sallyport_upstream_up", "Whether an app's lists could be read the last time (1) or not (0).", "app"),
		barred: gauge("sallyport_upstream_unauthorized",
			"Whether an app's server did not show its lists the last time for want of a token that it accepts (1) or not (0).", "app"),
		items:   gauge("sallyport_catalogue_items", "Items in an app's lists, before policies.", "app", "list"),
		dropped: gauge("sallyport_catalogue_dropped_items", "Items left out of an app's lists: bad, repeated or too long names, or bad annotations.", "app"),
		streams: gauge("sallyport_streams_open", "Event streams to agents that the hub holds open, by what opened them (get, listen, sse).", "kind"),
		opened:  counter("sallyport_upstream_sessions_opened_total", "Legacy sessions opened at an app for agents.", "app"),
		closed:  counter("sallyport_upstream_sessions_closed_total", "Legacy sessions at an app that were no longer needed and were ended.", "app"),
		withheld: counter("sallyport_upstream_messages_withheld_total",
			"Messages of an app that agents must not see: unasked responses, requests that the agent did not say it could answer.", "app"),
	}
	r.MustRegister(m.up, m.barred, m.items, m.dropped, m.streams, m.opened, m.closed, m.withheld)
	return m
}

// read notes the outcome of reading an app's lists; c is nil for a failure. Of lists that are each caller's there is no
// one number of items.
func (m *Metrics) read(u *upstream, c *catalogue, unauthorized bool) {
	app, barred := u.name, 0.0
	if unauthorized {
		barred = 1
	}
	m.barred.WithLabelValues(app).Set(barred)
	if c == nil {
		m.up.WithLabelValues(app).Set(0)
		return
	}
	m.up.WithLabelValues(app).Set(1)
	if u.principal != "" {
		return
	}
	for k := range kinds {
		m.items.WithLabelValues(app, lists[k].member).Set(float64(len(c.lists[k])))
	}
	m.dropped.WithLabelValues(app).Set(float64(c.left))
}

// stream counts an open stream until done is called.
func (m *Metrics) stream(kind string) (done func()) {
	g := m.streams.WithLabelValues(kind)
	g.Inc()
	return g.Dec
}
