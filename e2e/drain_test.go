package e2e

import (
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
)

// slow answers a call after a while, if it says so.
func slow(_ http.ResponseWriter, _ *http.Request, got received) bool {
	if strings.Contains(string(got.RPC.Params.Arguments), "slow") {
		time.Sleep(3 * time.Second)
	}
	return false
}

// isReady asks the service's admin listener.
func (w *world) isReady() bool {
	r, err := client.Get("http://" + w.admin + "/ready")
	return err == nil && r.Body.Close() == nil && r.StatusCode == http.StatusOK
}

// A service that is told to end says so before it refuses anything, lets calls finish, has it all on record, and does not
// wait for streams that Envoy never ends.
func TestDrain(t *testing.T) {
	a := splitWorld(t, false, nil)
	a.items.behave(func(b *behaviour) { b.modern, b.answer = false, slow }) // the hub carries modern calls
	a.open.behave(func(b *behaviour) { b.answer = slow })
	a.serve()
	await(t, "the service", a.isReady)
	conn, err := grpc.NewClient("unix:"+a.path("s/service.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	defer func() { _ = conn.Close() }()
	serving := func() bool {
		r, err := healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{})
		must(t, err)
		return r.GetStatus() == healthv1.HealthCheckResponse_SERVING
	}
	await(t, "SERVING", serving)
	var calls sync.WaitGroup
	for _, tool := range []string{"open_echo", "my_server_listItems"} {
		calls.Go(func() {
			if got, err := a.try(modern(tool, `{"slow":true}`)); err != nil || got.RPC.Result == nil {
				t.Errorf("%s was in flight: %v %s", tool, err, got)
			}
		})
	}
	await(t, "both calls to be under way", func() bool { return len(a.open.calls()) == 1 && len(a.items.calls()) == 1 })
	begun := time.Now()
	must(t, a.service.cmd.Process.Signal(syscall.SIGTERM))
	await(t, "NOT_SERVING", func() bool { return !serving() })
	if a.isReady() {
		t.Error("ready, and about to end")
	}
	if got := a.send(modern("open_echo", `{}`)); got.RPC.Result == nil {
		t.Errorf("not serving, and refuses already: %s", got)
	}
	calls.Wait()
	<-a.service.end
	if took := time.Since(begun); took > 20*time.Second {
		t.Errorf("it took %v", took)
	} else {
		t.Logf("it took %v", took)
	}
	if code := a.service.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	for _, pair := range a.reconcile() {
		if pair[1]["outcome"] != "ok" {
			t.Errorf("on record: %v", pair)
		}
	}
	a.verifyAudit()
}
