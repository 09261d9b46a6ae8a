package main

import (
	"fmt"
	"html"
	"strings"
)

// plot draws throughput and processor time of each leg against the floor, as bars.
func (r *report) plot() string {
	const left, width, line, top = 380, 260, 26, 64
	const most = 4.0 // what is longer is cut
	var b strings.Builder
	height := top + line*len(r.Legs) + 40
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="system-ui, sans-serif" font-size="13">`, left+2*width+90, height)
	b.WriteString(`<rect width="100%" height="100%" fill="#fff"/>`)
	for i, title := range []string{"calls per second, 16 agents: longer is better", "CPU per call: shorter is better"} {
		fmt.Fprintf(&b, `<text x="%d" y="24" font-weight="600">%s</text>`, left+i*(width+50), title)
		fmt.Fprintf(&b, `<text x="%d" y="42" fill="#666">1.0 is Envoy with an empty processor</text>`, left+i*(width+50))
	}
	for i, l := range r.Legs {
		y := top + i*line
		colour := "#2f6f9f"
		if l[0] == "direct" || l[0] == "envoy" || strings.HasPrefix(l[0], floor) {
			colour = "#9aa5ad"
		}
		fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">%s</text>`, left-10, y+15, html.EscapeString(short(l[1], 48)))
		for j, figure := range []func(sample) float64{rps, cpuPerCall} {
			ratio := median(r.Samples.ratios(l[0], floor, figure))
			if j == 1 && l[0] == "direct" {
				continue
			}
			x, length, mark := left+j*(width+50), min(ratio, most)/most*(width-40), ""
			if ratio > most {
				mark = " →"
			}
			fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%.1f" height="18" rx="2" fill="%s"/>`, x, y+2, length, colour)
			fmt.Fprintf(&b, `<text x="%.1f" y="%d" fill="#333">%.2f%s</text>`, float64(x)+length+5, y+16, ratio, mark)
		}
	}
	for j := range 2 {
		x := float64(left+j*(width+50)) + (width-40)/most
		fmt.Fprintf(&b, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="#c33" stroke-dasharray="4 3"/>`, x, top-6, x, top+line*len(r.Legs))
	}
	fmt.Fprintf(&b, `<text x="10" y="%d" fill="#666" font-size="11">%s</text></svg>`, height-14, html.EscapeString(r.Machine))
	return b.String() + "\n"
}

func short(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}
