// Command bench measures sallyport side by side with what it stands on: no gateway, a plain Envoy, and an Envoy that asks a
// processor which does nothing (the floor). All legs take turns, round after round, on the same machine; what counts is a leg's
// ratio to the floor in the same round, since absolute figures do not travel. It runs bin/sallyport and the real Envoy as they
// are shipped, and checks every byte of every answer. docs/performance.md is written by it.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if socket := os.Getenv("BENCH_EMPTY"); socket != "" { // this is the empty processor
		if err := serveEmpty(ctx, socket, os.Getenv("BENCH_MESSAGES") == "3"); err != nil && ctx.Err() == nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if err := command(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

type options struct {
	short, scale, extras  bool
	guard, baseline, only string
	sallyport, envoy      string
	out, page, from       string
	rounds                int
	peers, peerCommands   []string
}

func command(ctx context.Context, args []string) error {
	var o options
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.BoolVar(&o.short, "short", false, "one short round of each leg, about a minute")
	fs.BoolVar(&o.scale, "scale", false, "how cost and memory grow with upstreams, tokens, rules and arguments, instead of the legs")
	fs.BoolVar(&o.extras, "extras", false, "the lists, the streams and the start, instead of the legs")
	fs.StringVar(&o.guard, "guard", "", "compare with the ratios of this `FILE`, and fail when one has got worse beyond the noise")
	fs.StringVar(&o.baseline, "baseline", "", "measure the ratios for -guard and write them to this `FILE`")
	fs.StringVar(&o.only, "only", "", "`LEGS` to measure, separated by commas; the floor always is")
	fs.StringVar(&o.sallyport, "sallyport", "bin/sallyport", "sallyport's `BINARY`")
	fs.StringVar(&o.envoy, "envoy", orElse(os.Getenv("ENVOY"), "bin/envoy"), "Envoy's `BINARY`")
	fs.StringVar(&o.out, "json", "build/bench/bench.json", "all samples as JSON go to this `FILE`")
	fs.StringVar(&o.page, "page", "", "write the generated parts of this `PAGE`, and the plot beside it")
	fs.StringVar(&o.from, "from", "", "measure nothing, and take the samples from this `FILE` of -json")
	fs.IntVar(&o.rounds, "rounds", 5, "`N` rounds")
	fs.Func("peer", "another gateway, `NAME=URL[,TOOL[,TOKEN]]`, in front of an MCP server whose TOOL answers as the bench's; may be given several times", func(s string) error {
		o.peers = append(o.peers, s)
		return nil
	})
	fs.Func("peer-command", "another gateway, `NAME=COMMAND`, which a shell starts: it listens on $ADDRESS at /mcp, and asks $UPSTREAM, whose tool getItem it shows by this name; its agents have tokens of $ISSUER for $AUDIENCE. May be given several times", func(s string) error {
		o.peerCommands = append(o.peerCommands, s)
		return nil
	})
	if err := fs.Parse(args); err != nil {
		return err
	}
	if o.from != "" {
		var r report
		content, err := os.ReadFile(o.from)
		if err != nil {
			return err
		}
		if err := json.Unmarshal(content, &r); err != nil {
			return err
		}
		return r.write(&o)
	}
	debug.SetGCPercent(800) // the generator should not be what is measured
	for _, path := range []*string{&o.sallyport, &o.envoy} {
		abs, err := filepath.Abs(*path)
		if err != nil {
			return err
		}
		if _, err := os.Stat(abs); err != nil {
			return fmt.Errorf("%w; run `make build` first", err)
		}
		*path = abs
	}
	switch {
	case o.scale:
		return o.runScale(ctx)
	case o.guard != "" || o.baseline != "":
		return o.runGuard(ctx)
	}
	return o.runLegs(ctx)
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

func (o *options) runLegs(ctx context.Context) error {
	w, err := newWorld(ctx, o.sallyport, o.envoy, upstreams, 20, 16)
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(w.dir) }()
	r := report{Machine: machine(ctx, o.envoy)}
	if o.extras {
		if r.Extras, err = w.extras(ctx, o.short); err != nil {
			return err
		}
		return r.write(o)
	}
	legs, err := w.legs(ctx, o.wants)
	defer func() { closeAll(legs) }()
	if err != nil {
		return err
	}
	peers, err := o.startPeers(ctx, w)
	legs = append(legs, peers...)
	if err != nil {
		return err
	}
	p := plan{rounds: o.rounds, single: time.Second, many: 2 * time.Second, fixed: 2 * time.Second, rates: []int{500, 1000}, clients: 16, progress: os.Stderr}
	if o.short {
		p.rounds, p.single, p.many, p.fixed, p.rates = 2, 300*time.Millisecond, 600*time.Millisecond, 500*time.Millisecond, []int{1000}
	}
	r.Legs = describe(legs)
	if r.Samples, err = w.measure(ctx, legs, p); err != nil {
		return err
	}
	r.Leaked = w.leaked()
	if r.Extras, err = w.extras(ctx, o.short); err != nil {
		return err
	}
	return r.write(o)
}

func closeAll(legs []*leg) {
	for _, l := range legs {
		l.close()
	}
}

func (o *options) wants(name string) bool {
	if o.only == "" || name == floor {
		return true
	}
	for n := range strings.SplitSeq(o.only, ",") {
		if n == name {
			return true
		}
	}
	return false
}

// floor is the leg that all others are compared to.
const floor = "empty"

// legs starts those that are wanted.
func (w *world) legs(ctx context.Context, wanted func(string) bool) (legs []*leg, err error) {
	add := func(name string, start func() (*leg, error)) {
		if err != nil || !wanted(name) {
			return
		}
		var l *leg
		if l, err = start(); l != nil {
			legs = append(legs, l)
		}
	}
	ours := func(name, text, era string, f feature) {
		add(name, func() (*leg, error) { return w.gateway(ctx, name, text, era, f) })
	}
	again := func(of, name, text string) {
		add(name, func() (*leg, error) {
			for _, l := range legs {
				if l.Name == of {
					return l.as(name, text, legacyEra), nil
				}
			}
			return nil, nil
		})
	}
	add("direct", func() (*leg, error) { return w.direct(), nil })
	add("envoy", func() (*leg, error) { return w.bare(ctx, "envoy", "Envoy, plain route", modernEra, 0) })
	add(floor, func() (*leg, error) {
		return w.bare(ctx, floor, "Envoy + empty Go ext_proc, 2 messages: the floor", modernEra, 2)
	})
	add("empty3", func() (*leg, error) {
		return w.bare(ctx, "empty3", "the same with 3 messages, 2025-11-25", legacyEra, 3)
	})
	ours("token", "sallyport: token", modernEra, feature{})
	ours("policy", "… and a policy on arguments and identity", modernEra, feature{policy: careful})
	ours("rewrite", "… and a namespace to take off", modernEra, feature{policy: careful, name: "my_server_"})
	ours("audit", "… and the audit in a file: all but minting", modernEra, feature{policy: careful, name: "my_server_", file: true})
	ours("mint", "… and a minted token a call: everything", modernEra, feature{policy: careful, name: "my_server_", file: true, out: "mint"})
	ours("exchange", "everything, the token from an exchange over HTTP", modernEra, feature{policy: careful, name: "my_server_", file: true, out: "exchange"})
	again("audit", "audit-2025", "all but minting, 2025-11-25")
	again("mint", "mint-2025", "everything, 2025-11-25")
	again("exchange", "exchange-2025", "everything, exchange over HTTP, 2025-11-25")
	ours("extauthz", "everything over ext_authz", modernEra, feature{policy: careful, name: "my_server_", file: true, out: "mint", filter: "extAuthz"})
	return legs, err
}

func (r *report) write(o *options) error {
	r.table(os.Stdout)
	if err := os.MkdirAll(filepath.Dir(o.out), 0o755); err != nil { //nolint:gosec // figures are no secret
		return err
	}
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(o.out, b, 0o644); err != nil { //nolint:gosec // likewise
		return err
	}
	if o.page != "" {
		if err := r.writePage(o.page); err != nil {
			return err
		}
	}
	for name, samples := range r.Samples {
		for _, s := range samples {
			if s.Errors > 0 {
				return fmt.Errorf("%s: %d of %d calls went wrong: %s", name, s.Errors, s.Calls, s.First)
			}
		}
	}
	if r.Leaked > 0 {
		return fmt.Errorf("%d upstream requests with an agent's own token", r.Leaked)
	}
	return nil
}
