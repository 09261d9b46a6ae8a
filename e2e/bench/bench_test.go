package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The test binary is also the empty processor's process.
func TestMain(m *testing.M) {
	if os.Getenv("BENCH_EMPTY") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

func testWorld(t *testing.T) *world {
	t.Helper()
	envoy, err := filepath.Abs(orElse(os.Getenv("ENVOY"), "../../bin/envoy"))
	if err != nil {
		t.Fatal(err)
	}
	sallyport, err := filepath.Abs("../../bin/sallyport")
	if err != nil {
		t.Fatal(err)
	}
	w, err := newWorld(t.Context(), sallyport, envoy, 2, 2, 2)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(w.dir) })
	return w
}

// A round of every kind of leg: each call is one upstream request, with one exchange where there is one, and every answer is
// the right one.
func TestRound(t *testing.T) {
	w := testWorld(t)
	wanted := " direct envoy empty empty3 exchange exchange-2025 "
	legs, err := w.legs(t.Context(), func(name string) bool { return strings.Contains(wanted, " "+name+" ") })
	t.Cleanup(func() { closeAll(legs) })
	if err != nil {
		t.Fatal(err)
	}
	got, err := w.measure(t.Context(), legs, plan{rounds: 1, single: 50 * time.Millisecond, many: 100 * time.Millisecond,
		fixed: 200 * time.Millisecond, rates: []int{50}, clients: 4, progress: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	for name := range strings.FieldsSeq(wanted) {
		s := got[name][0]
		exchanges := 0.0
		if strings.HasPrefix(name, "exchange") {
			exchanges = 1
		}
		if s.Errors != 0 || s.Calls < 10 || s.Upstream != 1 || s.Exchanges != exchanges || s.Rates[50] <= 0 {
			t.Errorf("%s: %+v", name, s)
		}
	}
	if n := w.leaked(); n != 0 || w.issuer.refused.Load() != 0 {
		t.Errorf("%d upstream requests with the agent's token, %d exchanges refused", n, w.issuer.refused.Load())
	}
}

// What is wrong is counted, and fails the run.
func TestWrongAnswerIsAnError(t *testing.T) {
	w := testWorld(t)
	l := w.direct()
	defer l.close()
	if err := l.warm(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	w.ups[0].wrong.Store(true)
	s := w.sample(l, plan{single: 10 * time.Millisecond, many: 10 * time.Millisecond, clients: 2})
	if s.Errors == 0 || s.Errors != s.Calls || !strings.Contains(s.First, errWrong.Error()) {
		t.Errorf("%+v", s)
	}
	r := report{Samples: samples{"direct": {s}}}
	if err := r.write(&options{out: t.TempDir() + "/bench.json"}); err == nil {
		t.Error("a run with wrong answers succeeded")
	}
	w.ups[0].wrong.Store(false)
	l.load.tokens = w.tokens // no gateway takes the agent's token away
	delete(l.agents, 2)
	if err := l.warm(t.Context(), 2); err != nil || w.leaked() == 0 {
		t.Errorf("%v, %d leaked", err, w.leaked())
	}
}

// The guard tells a regression from noise.
func TestRegressions(t *testing.T) {
	before := baseline{Legs: map[string]standing{"mint": {RPS: 0.7, RPSNoise: 0.03, CPU: 1.5, CPUNoise: 0.02}}}
	for _, c := range []struct {
		name  string
		now   standing
		worse int
	}{
		{"the same", standing{RPS: 0.7, CPU: 1.5}, 0},
		{"within the noise", standing{RPS: 0.6, CPU: 1.7}, 0},
		{"better", standing{RPS: 0.9, CPU: 1.1}, 0},
		{"fewer calls", standing{RPS: 0.5, CPU: 1.5}, 1},
		{"more CPU", standing{RPS: 0.7, CPU: 1.8}, 1},
		{"fewer calls on a machine too noisy to say", standing{RPS: 0.5, RPSNoise: 0.1, CPU: 1.5}, 0},
	} {
		if got := before.regressions(baseline{Legs: map[string]standing{"mint": c.now}}); len(got) != c.worse {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	if got := before.regressions(baseline{}); len(got) != 1 {
		t.Errorf("a leg that was not measured: %v", got)
	}
}

// Another gateway is measured in both eras, here one of our own in front of the bench's server.
func TestPeerCommand(t *testing.T) {
	w := testWorld(t)
	file := w.path("peer.yaml")
	config := feature{name: "ns", policy: careful, upstream: "auto"}.config(w, "@ADDRESS@", freeAddress(t.Context()), "")
	config = strings.Replace(config, `name: "ns0_"`, "disabled: true", 1)
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	o := options{peerCommands: []string{"ours=sed -i s/@ADDRESS@/$ADDRESS/ " + file + "; export SALLYPORT_SECRET_PROVIDER=secretfile://" +
		w.path("secrets.yaml") + " XDG_RUNTIME_DIR=" + w.dir + "; exec " + w.sallyport + " run -config " + file + " -envoy " + w.envoy}}
	legs, err := o.startPeers(t.Context(), w)
	t.Cleanup(func() { closeAll(legs) })
	if err != nil || len(legs) != 2 {
		t.Fatalf("%d legs, %v", len(legs), err)
	}
	// And one that is already there.
	o = options{peers: []string{"running=http://" + legs[0].load.address + "/mcp,getItem," + w.tokens[0]}}
	running, err := o.startPeers(t.Context(), w)
	t.Cleanup(func() { closeAll(running) })
	if err != nil || len(running) != 2 {
		t.Fatalf("%d legs, %v", len(running), err)
	}
	got, err := w.measure(t.Context(), append(legs, running[0]), plan{rounds: 1, single: 50 * time.Millisecond, many: 500 * time.Millisecond, clients: 4, progress: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ours", "ours-2025", "running"} {
		s := got[name][0]
		if s.Errors != 0 || s.Calls < 10 || s.Upstream != 1 || (s.CPUSvc > 0) != (name != "running") || s.RSSSvc < 60 && name != "running" {
			t.Errorf("%s: %+v", name, s)
		}
	}
}

// The streams of each kind, all at once.
func TestStreams(t *testing.T) {
	w := testWorld(t)
	for _, kind := range streamKinds {
		g, err := w.gateway(t.Context(), "streams", "", kind.era, feature{name: "ns", policy: careful, out: "mint"})
		if err != nil {
			t.Fatal(err)
		}
		g.load.tool = "ns" + kind.tool
		open, err := w.open(t.Context(), g.load, kind, 20)
		if err != nil || len(open) != 20 || kind.tool != "" && w.held() < 20 {
			t.Errorf("%s: %d open, %v", kind.text, len(open), err)
		}
		open.close()
		g.close()
	}
}
