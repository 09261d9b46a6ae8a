package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// point is one size of one thing, with everything else as it is in the leg "mint".
type point struct {
	size               string
	ups, tools, tokens int
	rules, pad         int
}

// runScale measures what grows with what.
func (o *options) runScale(ctx context.Context) error {
	r := report{Machine: machine(ctx, o.envoy)}
	for _, dimension := range []struct {
		title  string
		points []point
	}{
		{"MCP servers, of 1,000 tools each", sizes([]int{1, 10, 50, 200}, func(p *point, n int) { p.ups, p.tools = n, 1000 })},
		{"distinct agents' tokens, in turns", sizes([]int{1, 100, 1000, 10_000}, func(p *point, n int) { p.tokens = n })},
		{"rules of the policy", sizes([]int{1, 10, 100, 1000}, func(p *point, n int) { p.rules = n })},
		{"bytes of arguments", sizes([]int{100, 1 << 10, 16 << 10, 64 << 10, 256 << 10}, func(p *point, n int) { p.pad = n })},
	} {
		t := table{Title: dimension.title, Heads: []string{"", "calls/s ×floor", "CPU s per 1000: Envoy + service", "×floor", "c=1 p50 ms", "RSS MiB: Envoy + service", "start to ready ms"}}
		for _, p := range dimension.points {
			row, err := o.point(ctx, p)
			if err != nil {
				return fmt.Errorf("%s, %s: %w", dimension.title, p.size, err)
			}
			t.Rows = append(t.Rows, row)
		}
		r.Scale = append(r.Scale, t)
		t.text(os.Stdout)
	}
	if o.page != "" {
		return r.writePage(o.page)
	}
	return nil
}

func sizes(of []int, set func(p *point, n int)) (out []point) {
	for _, n := range of {
		p := point{size: strconv.Itoa(n), ups: 2, tools: 2, tokens: 1, pad: 180}
		set(&p, n)
		out = append(out, p)
	}
	return out
}

func (o *options) point(ctx context.Context, p point) ([]string, error) {
	ctx, end := context.WithCancel(ctx)
	defer end()
	w, err := newWorld(ctx, o.sallyport, o.envoy, max(2, p.ups), p.tools, p.tokens)
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(w.dir) }()
	base, err := w.bare(ctx, floor, "", modernEra, 2)
	if base != nil {
		defer base.close()
	}
	if err != nil {
		return nil, err
	}
	var policy strings.Builder
	policy.WriteString(careful)
	for i := range p.rules {
		fmt.Fprintf(&policy, "\nresult[\"allowed\"] := true if input.request.mcp.tool.params.name == \"other%d\"\n", i)
	}
	g, err := w.gateway(ctx, "mint", "", modernEra, feature{policy: policy.String(), name: "my_server_", file: true, out: "mint", apps: p.ups})
	if err != nil {
		return nil, err
	}
	defer g.close()
	base.load.pad, g.load.pad, g.load.turns = p.pad, p.pad, true
	if err := w.showAll(ctx, g); err != nil {
		return nil, err
	}
	s, err := w.measure(ctx, []*leg{base, g}, plan{rounds: 3, single: 300 * time.Millisecond, many: time.Second, clients: 16, progress: os.Stderr})
	if err != nil {
		return nil, err
	}
	for _, x := range s["mint"] {
		if x.Errors > 0 {
			p.size += fmt.Sprintf(" (%d of %d calls wrong)", x.Errors, x.Calls)
			fmt.Fprintln(os.Stderr, x.First)
		}
	}
	f := func(digits int, figure func(sample) float64) string {
		return fmt.Sprintf("%.*f", digits, s.of("mint", figure))
	}
	x := func(figure func(sample) float64) string {
		return fmt.Sprintf("%.2f", median(s.ratios("mint", floor, figure)))
	}
	return []string{p.size, x(rps), f(3, func(s sample) float64 { return s.CPUEnvoy }) + " + " + f(3, func(s sample) float64 { return s.CPUSvc }), x(cpuPerCall),
		f(2, single), f(0, func(s sample) float64 { return s.RSSEnvoy }) + " + " + f(0, func(s sample) float64 { return s.RSSSvc }),
		strconv.FormatInt(g.ready.Milliseconds(), 10)}, nil
}

// showAll makes calls until each of the tokens has been shown once, so that what is measured is how well they are remembered.
func (w *world) showAll(ctx context.Context, g *leg) error {
	a, err := g.load.agents(ctx, 16)
	if err != nil {
		return err
	}
	defer a.close()
	for start := w.sequence.Load(); w.sequence.Load()-start < int64(len(w.tokens)); {
		if r := a.closed(100 * time.Millisecond); r.First != nil {
			return r.First
		}
	}
	return nil
}
