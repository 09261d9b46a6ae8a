package main

import (
	"context"
	"fmt"
	"time"
)

// extras are the lists, the streams and the start.
func (w *world) extras(ctx context.Context, brief bool) (out []extra, err error) {
	f := feature{policy: careful, name: "ns", file: true, out: "mint", apps: upstreams}
	g, err := w.gateway(ctx, "lists", "", modernEra, f)
	if err != nil {
		return nil, err
	}
	defer func() { g.close() }()
	out = append(out, extra{"start to ready", float64(g.ready.Microseconds()) / 1000, "ms", "≤ 1000"})
	lists, err := w.lists(ctx, g, brief)
	if err != nil {
		return nil, fmt.Errorf("lists: %w", err)
	}
	out = append(out, lists...)
	first, err := w.firstLists(ctx, f)
	if err != nil {
		return nil, fmt.Errorf("first lists: %w", err)
	}
	out = append(out, first)
	for _, k := range streamKinds {
		open, err := w.streams(ctx, k, f, brief)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", k.text, err)
		}
		out = append(out, open...)
	}
	return out, nil
}

func (w *world) lists(ctx context.Context, g *leg, brief bool) (out []extra, err error) {
	l := g.load
	l.list = upstreams * 21 // getItem, hold, and 19 more; the policy hides the 22nd of each
	d := 2 * time.Second
	if brief {
		d = 500 * time.Millisecond
	}
	wrong := 0
	for _, n := range []int{1, 8} {
		a, err := l.agents(ctx, n)
		if err != nil {
			return nil, err
		}
		a.closed(d / 4)
		before := w.others()
		r := a.closed(d)
		asked := w.others() - before
		a.close()
		wrong += r.Errors
		if n == 1 {
			out = append(out, extra{"tools/list of 210 tools of 10 upstreams, c=1 p50", r.quantile(0.5), "ms", "≤ 1.0"},
				extra{"upstream requests for a list, warm", float64(asked) / float64(r.Calls), "", "0"})
		} else {
			out = append(out, extra{"tools/list, c=8", float64(r.Calls) / r.Seconds, "/s", "≥ 1500"})
		}
	}
	out = append(out, extra{"lists with a tool too many or too few", float64(wrong), "", "0"})
	l.era = legacyEra
	var cold []float64
	for range 20 {
		begun := time.Now()
		k, err := l.dial(ctx, 0)
		if err != nil {
			return nil, err
		}
		err = k.call(w.sequence.Add(1))
		_ = k.c.Close()
		if err != nil {
			return nil, err
		}
		cold = append(cold, float64(time.Since(begun).Microseconds())/1000)
	}
	return append(out, extra{"initialize and first list of a new session, 2025-11-25, 10 upstreams", median(cold), "ms", "≤ 15"}), nil
}

// firstLists asks gateways that have just become ready.
func (w *world) firstLists(ctx context.Context, f feature) (extra, error) {
	var cold []float64
	for range 5 {
		g, err := w.gateway(ctx, "first", "", modernEra, f)
		if err != nil {
			return extra{}, err
		}
		g.load.list = upstreams * 21
		begun := time.Now()
		err = w.once(ctx, g.load)
		cold = append(cold, float64(time.Since(begun).Microseconds())/1000)
		g.close()
		if err != nil {
			return extra{}, err
		}
	}
	return extra{"the first list of a new gateway, 10 upstreams", median(cold), "ms", "≤ 15"}, nil
}

func (w *world) others() (n int64) {
	for _, u := range w.ups {
		n += u.others.Load()
	}
	return n
}
