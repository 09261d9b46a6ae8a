package authz

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport/sallyport/authz/audit"
	"github.com/sallyport/sallyport/mcpparse"
)

// Metrics counts what the gate decides. Labels are bounded: an app and a tool appear only when configuration names
// them or an upstream lists them, never because a client said so.
type Metrics struct {
	calls            *prometheus.CounterVec
	revoked          prometheus.Counter
	decisionDuration prometheus.Histogram
	policyDuration   *prometheus.HistogramVec
	exchangeDuration *prometheus.HistogramVec
}

// NewMetrics registers the gate's metrics.
func NewMetrics(r prometheus.Registerer) *Metrics {
	buckets := prometheus.ExponentialBuckets(10e-6, 4, 10) // 10 µs to 2.6 s
	m := &Metrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sallyport_calls_total",
			Help: "Messages judged, by app, tool and outcome (allowed, denied, error)."}, []string{"app", "tool", "outcome"}),
		revoked: prometheus.NewCounter(prometheus.CounterOpts{Name: "sallyport_revoked_requests_total",
			Help: "Requests refused because their token, or their session, has been revoked."}),
		decisionDuration: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "sallyport_decision_duration_seconds",
			Help: "Time from a request's headers to its verdict, waiting for the body included.", Buckets: buckets}),
		policyDuration: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "sallyport_policy_duration_seconds",
			Help: "Time to evaluate one policy decision.", Buckets: buckets}, []string{"app"}),
		exchangeDuration: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "sallyport_exchange_duration_seconds",
			Help: "Time to obtain one token (RFC 8693), by outcome.", Buckets: buckets}, []string{"app", "outcome"}),
	}
	r.MustRegister(m.calls, m.revoked, m.decisionDuration, m.policyDuration, m.exchangeDuration)
	return m
}

func (m *Metrics) observe(c *Call, outcome audit.Outcome) {
	app, tool := "", ""
	if c.app != nil {
		app = c.app.Name
	}
	if c.app != nil && c.msg.Target == mcpparse.Tool {
		tool = "other"
		if c.toolIsKnown() {
			tool = c.name
		}
	}
	m.calls.WithLabelValues(app, tool, string(outcome)).Inc()
	m.decisionDuration.Observe(c.gate.cfg.Now().Sub(c.begun).Seconds())
}

// toolIsKnown keeps the label set finite: names from the configuration, or from the upstream's own list.
func (c *Call) toolIsKnown() bool {
	if c.app.Exchange != nil {
		return c.app.Exchange.Tools.Names(c.name)
	}
	return c.gate.cfg.Upstreams.Lists(c.app, mcpparse.Tool, c.name)
}

func (m *Metrics) policy(app string, d time.Duration) {
	m.policyDuration.WithLabelValues(app).Observe(d.Seconds())
}

func (m *Metrics) exchange(app string, err error, d time.Duration) {
	outcome := "ok"
	if err != nil {
		outcome = "failed"
	}
	m.exchangeDuration.WithLabelValues(app, outcome).Observe(d.Seconds())
}
