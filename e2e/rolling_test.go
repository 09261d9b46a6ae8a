package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// fleet is two services behind one Envoy that share their sessions in a store, and agents that call without a pause.
type fleet struct {
	*world
	replicas []*replica
	session  string
	stop     chan struct{}
	work     sync.WaitGroup
	n        atomic.Int64
	mu       sync.Mutex
	done     []made
}

type replica struct {
	*world // but for what is its own: the admin address, and the service
	name   string
	served *process
}

// made is a message that an agent has sent.
type made struct {
	n     int64 // among its arguments; 0 for a list
	begun time.Time
	lost  string // why it has no result
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	f := &fleet{world: newWorld(t), stop: make(chan struct{})}
	sharing(redisServer(t))(f.world)
	f.items.behave(func(b *behaviour) { b.modern = false }) // a hub carries modern calls, and not always that of who allowed them
	whole := contents(t, f.path("sallyport.yaml")) + "service:\n  upstreams: direct\n  replicas:\n"
	for _, name := range []string{"one", "two"} {
		must(t, mkdir(f.path(name)))
		whole += "    - address: unix:" + f.path(name) + "/service.sock\n"
		own := *f.world
		own.admin = freePort(t)
		f.replicas = append(f.replicas, &replica{world: &own, name: name})
	}
	for _, r := range f.replicas {
		f.write(r.name+".yaml", strings.NewReplacer("address: "+f.admin, "address: "+r.admin, "audit.jsonl", r.name+".jsonl").Replace(whole)+
			"  address: unix:"+f.path(r.name)+"/service.sock\n")
		r.serve()
	}
	render := exec.Command(sallyport, "render", "-config", f.path("one.yaml"), "-o", f.path("envoy.yaml"))
	render.Env = append(render.Environ(), f.env()...)
	if out, err := render.CombinedOutput(); err != nil {
		t.Fatalf("%s", out)
	}
	f.gateway = spawn(t, nil, nil, envoyBinary, "-c", f.path("envoy.yaml"), "--disable-hot-restart", "--concurrency", "2", "--log-level", "error")
	await(t, "Envoy", func() bool { c, err := net.Dial("tcp", f.address); return err == nil && c.Close() == nil })
	await(t, "both services", func() bool { return f.replicas[0].isReady() && f.replicas[1].isReady() })
	await(t, "a call", func() bool { a, err := f.try(modern("open_echo", `{"n":0}`)); return err == nil && a.RPC.Result != nil })
	f.session = f.initialize()
	for range 4 {
		f.work.Go(f.callOn)
	}
	t.Cleanup(f.end)
	return f
}

func (r *replica) serve() {
	r.served = spawn(r.t, r.env(), nil, sallyport, "serve", "-config", r.path(r.name+".yaml"))
}

// callOn makes calls of both eras, with a token of its own and without, and asks for lists.
func (f *fleet) callOn() {
	for {
		select {
		case <-f.stop:
			return
		case <-time.After(5 * time.Millisecond):
		}
		m := made{n: f.n.Add(1), begun: time.Now()}
		arguments := fmt.Sprintf(`{"n":%d}`, m.n)
		r := []request{modern("open_echo", arguments), legacyCall(f.session, "open_echo", arguments), modern("my_server_listItems", arguments),
			legacyCall(f.session, "my_server_getItem", arguments), modernMethod("tools/list")}[m.n%5]
		if m.n%5 == 4 {
			m.n = 0
		}
		if a, err := f.try(r); err != nil || a.Status != http.StatusOK || a.RPC.Result == nil {
			m.lost = fmt.Sprintf("%s: %v %s", r.body, err, a)
		}
		f.mu.Lock()
		f.done = append(f.done, m)
		f.mu.Unlock()
	}
}

func (f *fleet) end() {
	select {
	case <-f.stop:
	default:
		close(f.stop)
	}
	f.work.Wait()
}

// arrived are the numbers of the calls that the upstreams have seen.
func (f *fleet) arrived() (out []int64) {
	for _, c := range append(f.open.calls(), f.items.calls()...) {
		var arguments struct{ N int64 }
		must(f.t, json.Unmarshal(c.RPC.Params.Arguments, &arguments))
		if arguments.N > 0 {
			out = append(out, arguments.N)
		}
	}
	slices.Sort(out)
	return out
}

// records are what the replicas have on record: the sums of the arguments of calls that they allowed, and the numbers of
// decisions and of those whose end is known.
func (f *fleet) records() (allowed map[any]bool, decisions, ended int) {
	allowed = map[any]bool{}
	for _, r := range f.replicas {
		open := map[any]bool{}
		for line := range strings.Lines(contents(f.t, f.path(r.name+".jsonl"))) {
			var got record
			if json.Unmarshal([]byte(line), &got) != nil {
				continue // the last words of one that was killed
			}
			switch {
			case got["kind"] == "decision":
				decisions++
				open[got["id"]] = true
				if got["method"] == "tools/call" && got["outcome"] == "allowed" {
					allowed[got["arguments_sha256"]] = true
				}
			case got["kind"] == "completion" && open[got["id"]] && got["outcome"] != "aborted":
				ended++
			}
		}
	}
	return allowed, decisions, ended
}

// nothingPassed wants an allow on record, and one only, for each call that has arrived.
func (f *fleet) nothingPassed() {
	f.t.Helper()
	allowed, _, _ := f.records()
	arrived := f.arrived()
	for i, n := range arrived {
		if sum := sha256.Sum256(fmt.Appendf(nil, `{"n":%d}`, n)); !allowed[hex.EncodeToString(sum[:])] {
			f.t.Errorf("call %d arrived and was not allowed", n)
		}
		if i > 0 && arrived[i-1] == n {
			f.t.Errorf("call %d was made twice", n)
		}
	}
}

// rounds is how often a test does its worst: SALLYPORT_ROUNDS, or as usual.
func rounds(usually int) int {
	if n, err := strconv.Atoi(os.Getenv("SALLYPORT_ROUNDS")); err == nil {
		return n
	}
	return usually
}

// TestRollingRestart: while its services are restarted one after the other, no agent notices anything, no call is made
// twice, and every end is on record.
func TestRollingRestart(t *testing.T) {
	f := newFleet(t)
	for range rounds(2) {
		for _, r := range f.replicas {
			must(t, r.served.cmd.Process.Signal(syscall.SIGTERM))
			<-r.served.end
			if code := r.served.cmd.ProcessState.ExitCode(); code != 0 {
				t.Errorf("exit code %d", code)
			}
			r.serve()
			await(t, "the service again", r.isReady)
		}
	}
	f.end()
	var succeeded []int64
	var lost []string
	for _, m := range f.done {
		switch {
		case m.lost != "":
			lost = append(lost, m.lost)
		case m.n > 0:
			succeeded = append(succeeded, m.n)
		}
	}
	if len(lost) > 0 {
		t.Errorf("%d of %d messages are lost, at first %s", len(lost), len(f.done), lost[0])
	}
	slices.Sort(succeeded)
	if !slices.Equal(succeeded, f.arrived()) {
		t.Errorf("%d calls succeeded, %d arrived", len(succeeded), len(f.arrived()))
	}
	await(t, "the end of each message", func() bool { _, decisions, ended := f.records(); return ended == decisions })
	f.nothingPassed()
	t.Logf("%d messages", len(f.done))
	for _, r := range f.replicas {
		r.served.stop()
		if out, ok := outputOf(t, sallyport, "audit", "verify", "-file", f.path(r.name+".jsonl")); !ok {
			t.Errorf("%s: %s", r.name, out)
		}
	}
}

// noticed is more than Envoy takes to learn that a service is gone, when it may have known of no other.
const noticed = 2 * time.Second

// TestReplicaKilled: a service that is killed takes with it, at most, what was in its hands, and lets nothing past.
func TestReplicaKilled(t *testing.T) {
	f := newFleet(t)
	var kills []time.Time
	for range rounds(4) {
		time.Sleep(rand.N(300 * time.Millisecond)) //nolint:gosec // any moment
		r := f.replicas[rand.IntN(2)]              //nolint:gosec // likewise
		must(t, r.served.cmd.Process.Kill())
		<-r.served.end
		kills = append(kills, time.Now())
		time.Sleep(500 * time.Millisecond)
		r.serve()
		await(t, "the service again", r.isReady)
		for _, cluster := range []string{"service", "hub"} { // who kills the last that Envoy knows of kills both
			await(t, "Envoy to notice", func() bool {
				return envoyStat(t, f.path("one/envoy-admin.sock"), "cluster."+cluster+".membership_healthy") == 2
			})
		}
	}
	time.Sleep(2 * noticed) // in which nothing may be lost any more
	f.end()
	lost, after := 0, ""
	for _, m := range f.done {
		if m.lost == "" {
			continue
		}
		lost++
		if after == "" && !slices.ContainsFunc(kills, func(k time.Time) bool { return m.begun.Before(k.Add(noticed)) && k.Sub(m.begun) < 5*time.Second }) {
			after = m.lost
		}
	}
	if after != "" {
		t.Errorf("began %v after a kill, and is lost: %s", noticed, after)
	}
	f.nothingPassed()
	t.Logf("%d messages, of which %d were lost by %d kills", len(f.done), lost, len(kills))
}
