package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"slices"
	"time"
)

// sample is what one round measured of one leg.
type sample struct {
	P50       float64         `json:"c1_p50_ms"`
	RPS       float64         `json:"rps"`
	P50Many   float64         `json:"p50_ms"`
	P99       float64         `json:"p99_ms"`
	P999      float64         `json:"p999_ms"`
	CPUEnvoy  float64         `json:"cpu_envoy"`   // seconds per 1,000 calls
	CPUSvc    float64         `json:"cpu_service"` // likewise
	Upstream  float64         `json:"upstream_per_call"`
	Exchanges float64         `json:"exchanges_per_call"`
	Rates     map[int]float64 `json:"p99_ms_at_rate,omitempty"`
	Calls     int             `json:"calls"`
	Errors    int             `json:"errors"`
	RSSEnvoy  float64         `json:"rss_envoy_mib"` // the most so far
	RSSSvc    float64         `json:"rss_service_mib"`
	First     string          `json:"first_error,omitempty"`
}

func (s sample) cpu() float64 { return s.CPUEnvoy + s.CPUSvc }

// plan is how long each leg is measured in a round.
type plan struct {
	rounds   int
	single   time.Duration // c=1
	many     time.Duration // c=16
	fixed    time.Duration // at each rate
	rates    []int
	clients  int
	progress io.Writer
}

// samples are those of each leg, by round.
type samples map[string][]sample

// measure goes through the legs round after round, beginning with another one each time, so that what else the machine does
// hits all alike.
func (w *world) measure(ctx context.Context, legs []*leg, p plan) (samples, error) {
	out := samples{}
	for _, l := range legs { // what is made once is made before
		if err := l.warm(ctx, p.clients); err != nil {
			return nil, fmt.Errorf("%s: %w", l.Name, err)
		}
	}
	for round := range p.rounds {
		for i := range legs {
			l := legs[(i+round*5)%len(legs)]
			s := w.sample(l, p)
			out[l.Name] = append(out[l.Name], s)
			fmt.Fprintf(p.progress, "round %d/%d  %-22s %7.0f/s  cpu %.3f  errors %d %s\n", round+1, p.rounds, l.Name, s.RPS, s.cpu(), s.Errors, s.First)
			if ctx.Err() != nil {
				return out, ctx.Err()
			}
		}
	}
	return out, nil
}

func (l *leg) warm(ctx context.Context, clients int) error {
	for _, n := range []int{1, clients} {
		if l.agents[n] == nil {
			a, err := l.load.agents(ctx, n)
			if err != nil {
				return err
			}
			l.agents[n] = a
		}
	}
	r := l.agents[clients].closed(200 * time.Millisecond)
	return r.First
}

func (w *world) sample(l *leg, p plan) sample {
	s := sample{Rates: map[int]float64{}}
	note := func(r run) {
		s.Calls += r.Calls
		s.Errors += r.Errors
		if r.First != nil {
			s.First = fmt.Sprintf("%.300s", r.First)
		}
	}
	calls, exchanges, leaked := w.calls(), w.issuer.exchanges.Load(), w.leaked()
	one := l.agents[1].closed(p.single)
	note(one)
	s.P50 = one.quantile(0.5)

	envoy, svc := cpu(l.envoy), l.service(cpu)
	many := l.agents[p.clients].closed(p.many)
	s.CPUEnvoy, s.CPUSvc = (cpu(l.envoy)-envoy)/float64(many.Calls)*1000, (l.service(cpu)-svc)/float64(many.Calls)*1000
	note(many)
	s.RPS, s.P50Many, s.P99, s.P999 = float64(many.Calls-many.Errors)/many.Seconds, many.quantile(0.5), many.quantile(0.99), many.quantile(0.999)
	for _, rate := range p.rates {
		r := l.agents[p.clients].open(rate, p.fixed)
		note(r)
		if r.Behind == 0 {
			s.Rates[rate] = r.quantile(0.99)
		} // else the rate was not held
	}
	s.Upstream = float64(w.calls()-calls) / float64(s.Calls)
	s.Exchanges = float64(w.issuer.exchanges.Load()-exchanges) / float64(s.Calls)
	s.RSSEnvoy, s.RSSSvc = most(l.envoy), l.service(most)
	if l.load.lenient {
		w.pardoned += w.leaked() - leaked
	}
	return s
}

// service sums a figure of the processes that are the leg's service.
func (l *leg) service(figure func(pid int) float64) float64 {
	sum := figure(l.svc)
	for _, pid := range l.below {
		sum += figure(pid)
	}
	return sum
}

func most(pid int) float64 { return memory(pid, "VmHWM") }

// calls are the tools/call requests that all upstreams have got.
func (w *world) calls() (n int64) {
	for _, u := range w.ups {
		n += u.calls.Load()
	}
	return n
}

// leaked are the calls in which an upstream was shown an agent's own token, by a gateway of ours.
func (w *world) leaked() (n int64) {
	for _, u := range w.ups {
		n += u.leaked.Load()
	}
	return n - w.pardoned
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(values))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// of is the median of a figure over the rounds.
func (s samples) of(leg string, figure func(sample) float64) float64 {
	var values []float64
	for _, x := range s[leg] {
		values = append(values, figure(x))
	}
	return median(values)
}

// ratios are those of a figure to the floor's in the same round.
func (s samples) ratios(leg, floor string, figure func(sample) float64) []float64 {
	var values []float64
	for i, x := range s[leg] {
		if i < len(s[floor]) {
			values = append(values, figure(x)/figure(s[floor][i]))
		}
	}
	return values
}

// spread is the median distance of ratios from their median, as a part of it: how far one round can be trusted.
func spread(ratios []float64) float64 {
	m := median(ratios)
	var away []float64
	for _, r := range ratios {
		away = append(away, math.Abs(r-m)/m)
	}
	return median(away)
}

var (
	rps        = func(s sample) float64 { return s.RPS }
	cpuPerCall = sample.cpu
	single     = func(s sample) float64 { return s.P50 }
	atRate     = func(rate int) func(sample) float64 { return func(s sample) float64 { return s.Rates[rate] } }
)
