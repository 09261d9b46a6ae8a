package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// report is all that was measured.
type report struct {
	Machine string      `json:"machine"`
	Legs    [][2]string `json:"legs"` // name and text
	Samples samples     `json:"samples"`
	Extras  []extra     `json:"extras"`
	Leaked  int64       `json:"leaked"`
	Scale   []table     `json:"scale,omitempty"`
}

// extra is a single figure, and what it should be.
type extra struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	Aim   string  `json:"aim"`
}

func machine(ctx context.Context, envoy string) string {
	info, _ := os.ReadFile("/proc/cpuinfo")
	model, _ := between(info, "model name\t: ", "\n")
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	version, _ := exec.CommandContext(ctx, envoy, "--version").Output()
	_, rest, _ := strings.Cut(string(version), "version: ") // COMMIT/NUMBER/…
	parts := append(strings.Split(rest, "/"), "?", "?")
	return fmt.Sprintf("%s, %d cores, Linux %s, Envoy %s, %s, %s", model, runtime.NumCPU(), strings.TrimSpace(string(kernel)), parts[1], runtime.Version(),
		time.Now().UTC().Format(time.DateOnly))
}

func describe(legs []*leg) (out [][2]string) {
	for _, l := range legs {
		out = append(out, [2]string{l.Name, l.Text})
	}
	return out
}

// row is a leg's line: medians over the rounds.
func (r *report) row(leg string) []string {
	s := r.Samples
	f := func(digits int, figure func(sample) float64) string {
		return fmt.Sprintf("%.*f", digits, s.of(leg, figure))
	}
	x := func(figure func(sample) float64) string {
		return fmt.Sprintf("%.2f", median(s.ratios(leg, floor, figure)))
	}
	out := []string{f(0, rps), x(rps), f(2, single), x(single),
		f(1, func(s sample) float64 { return s.P50Many }) + " / " + f(1, func(s sample) float64 { return s.P99 }) + " / " + f(1, func(s sample) float64 { return s.P999 }),
		f(3, func(s sample) float64 { return s.CPUEnvoy }) + " + " + f(3, func(s sample) float64 { return s.CPUSvc }), x(cpuPerCall),
		held(f(1, atRate(500))) + " / " + held(f(1, atRate(1000))), held(x(atRate(1000))),
		f(0, func(s sample) float64 { return s.RSSEnvoy }) + " + " + f(0, func(s sample) float64 { return s.RSSSvc }),
		f(2, func(s sample) float64 { return s.Upstream }) + " / " + f(2, func(s sample) float64 { return s.Exchanges })}
	if leg == "direct" {
		out[5], out[6], out[9] = "–", "–", "–"
	}
	return out
}

// held is a figure at a fixed rate, if that was held, or tried, at all.
func held(s string) string {
	if s == "0.0" || s == "0.00" || s == "NaN" {
		return "–"
	}
	return s
}

var heads = []string{"calls/s", "×floor", "c=1 p50 ms", "×floor", "c=16 p50 / p99 / p99.9 ms", "CPU s per 1000: Envoy + service", "×floor",
	"p99 ms at 500 / 1000 a second", "×floor at 1000", "RSS MiB: Envoy + service", "upstream / exchanges a call"}

func (r *report) tables() []table {
	t := table{Title: "tools/call", Heads: append([]string{"leg"}, heads...)}
	for _, l := range r.Legs {
		t.Rows = append(t.Rows, append([]string{l[1]}, r.row(l[0])...))
	}
	e := table{Title: "other figures", Heads: []string{"figure", "measured", "aim"}}
	for _, x := range r.Extras {
		e.Rows = append(e.Rows, []string{x.Name, figure(x.Value) + " " + x.Unit, x.Aim})
	}
	return append([]table{t, e}, r.Scale...)
}

// figure has no more digits than it deserves.
func figure(v float64) string {
	switch a := math.Abs(v); {
	case a >= 100:
		return fmt.Sprintf("%.0f", v)
	case a < 0.005:
		return "0"
	}
	return fmt.Sprintf("%.3g", v)
}

func (r *report) table(w io.Writer) {
	fmt.Fprintln(w, r.Machine)
	for _, t := range r.tables() {
		if len(t.Rows) > 0 {
			t.text(w)
		}
	}
}

// table is a heading, column heads and cells.
type table struct {
	Title string     `json:"title"`
	Heads []string   `json:"heads"`
	Rows  [][]string `json:"rows"`
}

func (t table) text(w io.Writer) {
	widths := make([]int, len(t.Heads))
	for _, row := range append([][]string{t.Heads}, t.Rows...) {
		for i, cell := range row {
			widths[i] = max(widths[i], len([]rune(cell)))
		}
	}
	fmt.Fprintf(w, "\n%s\n", t.Title)
	for _, row := range append([][]string{t.Heads}, t.Rows...) {
		for i, cell := range row {
			space := strings.Repeat(" ", widths[i]-len([]rune(cell)))
			if i == 0 {
				fmt.Fprint(w, cell+space)
			} else {
				fmt.Fprint(w, "  "+space+cell)
			}
		}
		fmt.Fprintln(w)
	}
}

func (t table) markdown(b *strings.Builder) {
	fmt.Fprintf(b, "| %s |\n|%s\n", strings.Join(t.Heads, " | "), strings.Repeat("---|", len(t.Heads)))
	for _, row := range t.Rows {
		fmt.Fprintf(b, "| %s |\n", strings.Join(row, " | "))
	}
}

// writePage replaces what is between the page's markers, each `<!-- bench NAME -->` … `<!-- end -->`.
func (r *report) writePage(path string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	page := string(content)
	put := func(name, text string) {
		start := "<!-- bench " + name + " -->\n"
		before, rest, ok := strings.Cut(page, start)
		_, after, closed := strings.Cut(rest, "<!-- end -->")
		if ok && closed {
			page = before + start + text + "<!-- end -->" + after
		}
	}
	if len(r.Scale) > 0 {
		var b strings.Builder
		for _, t := range r.Scale {
			fmt.Fprintf(&b, "**%s**\n\n", t.Title)
			t.markdown(&b)
			b.WriteString("\n")
		}
		put("scale", b.String())
	}
	for i, t := range r.tables()[:2] {
		if len(t.Rows) > 0 {
			var b strings.Builder
			t.markdown(&b)
			put([]string{"calls", "others"}[i], b.String())
		}
	}
	if len(r.Legs) > 0 {
		put("machine", r.Machine+".\n")
		plot := filepath.Join(filepath.Dir(path), "performance.svg")
		if err := os.WriteFile(plot, []byte(r.plot()), 0o644); err != nil { //nolint:gosec // a picture for everybody
			return err
		}
	}
	return os.WriteFile(path, []byte(page), 0o644) //nolint:gosec // a page for everybody
}
