package demo

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

// page lays the story out for a terminal; colours only where there is one.
type page struct {
	out   io.Writer
	steps int
}

const (
	bold  = "\x1b[1m"
	dim   = "\x1b[2m"
	green = "\x1b[32m"
	red   = "\x1b[31m"
)

func (p *page) style(code, s string) string {
	f, ok := p.out.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" {
		return s
	}
	if info, err := f.Stat(); err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return s
	}
	return code + s + "\x1b[0m"
}

func (p *page) print(format string, args ...any) { _, _ = fmt.Fprintf(p.out, format, args...) }

func (p *page) title(name, state, url string) {
	p.print("\n%s  %s  %s\n", p.style(bold, name), state, url)
}

func (p *page) step(title string) {
	p.steps++
	p.print("\n%s\n", p.style(bold, fmt.Sprintf("%d. %s", p.steps, title)))
}

func (p *page) line(label, value string) { p.print("   %-30s %s\n", label, value) }

func (p *page) note(s string) { p.print("   %s\n", p.style(dim, s)) }

func (p *page) took(d time.Duration) { p.note(round(d)) }

func (p *page) verdict(call, answer string, refused bool) {
	word := p.style(green, "allowed")
	if refused {
		word = p.style(red, "refused")
	}
	p.print("   %-30s %s  %s\n", call, word, answer)
}

func (p *page) diff(old, changed string) {
	p.print("   %s\n   %s\n", p.style(red, "- "+old), p.style(green, "+ "+changed))
}

// claims shows a decoded token: who, for whom, for what, how long.
func (p *page) claims(title string, claims map[string]any) {
	p.print("   %s\n", title)
	for _, name := range []string{"iss", "sub", "act", "client_id", "aud", "scope"} {
		if v, ok := claims[name]; ok {
			p.print("     %-28s %s\n", name, plain(v))
		}
	}
	iat, exp := number(claims["iat"]), number(claims["exp"])
	p.print("     %-28s %s\n", "lifetime", time.Duration(exp-iat)*time.Second)
}

// record shows the telling fields of an audit line.
func (p *page) record(line string) {
	var fields map[string]any
	if json.Unmarshal([]byte(line), &fields) != nil {
		return
	}
	var parts []string
	for _, name := range []string{"outcome", "app", "tool", "subject", "client_id", "message", "arguments_sha256"} {
		if v, ok := fields[name]; ok {
			parts = append(parts, name+"="+clip(plain(v), 48))
		}
	}
	p.line("the last refusal", strings.Join(parts, " "))
}

func clip(s string, n int) string {
	if len(s) > n {
		return s[:n] + "…"
	}
	return s
}

func plain(v any) string {
	if s, ok := v.(string); ok {
		return s
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(b)
}

// number reads a NumericDate, which is a float64 or, from a strict decoder, a json.Number.
func number(v any) int64 {
	switch n := v.(type) {
	case float64:
		return int64(n)
	case json.Number:
		i, _ := n.Int64()
		return i
	}
	return 0
}

func round(d time.Duration) string {
	units := []time.Duration{time.Second, time.Millisecond, time.Microsecond}
	i := slices.IndexFunc(units, func(u time.Duration) bool { return d >= u })
	if i < 0 {
		return d.String()
	}
	return d.Round(units[i] / 100 * 10).String()
}
