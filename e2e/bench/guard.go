package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"
)

// standing is how a leg compares to the floor, and how far a round strays from that.
type standing struct {
	RPS      float64 `json:"rps"`
	RPSNoise float64 `json:"rps_noise"`
	CPU      float64 `json:"cpu"`
	CPUNoise float64 `json:"cpu_noise"`
}

// baseline is what the guard compares with.
type baseline struct {
	Machine string              `json:"machine"`
	Legs    map[string]standing `json:"legs"`
}

// guarded are the legs that stand for all.
const guarded = "audit,mint,exchange,mint-2025"

const (
	guardRounds = 7
	attempts    = 3
	slack       = 0.10 // less than this is not told from nothing
)

// runGuard measures the ratios. It fails only if the same one is worse three times in a row.
func (o *options) runGuard(ctx context.Context) error {
	var before baseline
	if o.guard != "" {
		content, err := os.ReadFile(o.guard)
		if err != nil {
			return err
		}
		if err := json.Unmarshal(content, &before); err != nil {
			return fmt.Errorf("%s: %w", o.guard, err)
		}
	}
	o.only = guarded
	w, err := newWorld(ctx, o.sallyport, o.envoy, 2, 2, 4)
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(w.dir) }()
	legs, err := w.legs(ctx, o.wants)
	defer func() { closeAll(legs) }()
	if err != nil {
		return err
	}
	p := plan{rounds: guardRounds, single: 50 * time.Millisecond, many: time.Second, clients: 16, progress: os.Stderr}
	var worse map[string]string
	for attempt := range attempts {
		s, err := w.measure(ctx, legs, p)
		if err != nil {
			return err
		}
		now := baseline{Machine: machine(ctx, o.envoy), Legs: map[string]standing{}}
		for _, l := range legs {
			if l.Name == floor {
				continue
			}
			if n := s.of(l.Name, func(s sample) float64 { return float64(s.Errors) }); n > 0 {
				return fmt.Errorf("%s: wrong answers: %s", l.Name, s[l.Name][0].First)
			}
			rps, cpu := s.ratios(l.Name, floor, rps), s.ratios(l.Name, floor, cpuPerCall)
			now.Legs[l.Name] = standing{median(rps), spread(rps), median(cpu), spread(cpu)}
		}
		if o.baseline != "" {
			content, err := json.MarshalIndent(now, "", "  ")
			if err != nil {
				return err
			}
			return os.WriteFile(o.baseline, append(content, '\n'), 0o644) //nolint:gosec // figures are no secret
		}
		worse = both(worse, before.regressions(now), attempt == 0)
		if len(worse) == 0 {
			fmt.Printf("no ratio is worse than in %s\n", o.guard)
			return nil
		}
		fmt.Fprintf(os.Stderr, "attempt %d of %d: %s\n", attempt+1, attempts, strings.Join(values(worse), "; "))
	}
	return fmt.Errorf("worse than %s, %d times: %s", o.guard, attempts, strings.Join(values(worse), "; "))
}

// regressions are the ratios that are worse than before by more than three times the noise of both.
func (b baseline) regressions(now baseline) map[string]string {
	out := map[string]string{}
	for name, was := range b.Legs {
		is, ok := now.Legs[name]
		if !ok {
			out[name] = name + " was not measured"
			continue
		}
		if is.RPS < was.RPS*(1-slack-3*max(was.RPSNoise, is.RPSNoise)) {
			out[name+" rps"] = fmt.Sprintf("%s makes %.2f of the floor's calls, before %.2f", name, is.RPS, was.RPS)
		}
		if is.CPU > was.CPU*(1+slack+3*max(was.CPUNoise, is.CPUNoise)) {
			out[name+" cpu"] = fmt.Sprintf("%s takes %.2f of the floor's CPU, before %.2f", name, is.CPU, was.CPU)
		}
	}
	return out
}

// both keeps what is worse again.
func both(before, now map[string]string, first bool) map[string]string {
	if first {
		return now
	}
	for name := range now {
		if _, again := before[name]; !again {
			delete(now, name)
		}
	}
	return now
}

func values(m map[string]string) (out []string) {
	for _, v := range m {
		out = append(out, v)
	}
	return out
}
