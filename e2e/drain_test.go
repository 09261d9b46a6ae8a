package e2e

import (
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
)

// A service that is told to end says so before it refuses anything, and does not wait for streams that Envoy never ends.
func TestDrain(t *testing.T) {
	a := splitWorld(t, true, nil)
	if got := a.send(modern("open_echo", `{}`)); got.RPC.Result == nil {
		t.Fatal(got)
	}
	conn, err := grpc.NewClient("unix:"+a.path("s/service.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	defer func() { _ = conn.Close() }()
	serving := func() bool {
		r, err := healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{})
		must(t, err)
		return r.GetStatus() == healthv1.HealthCheckResponse_SERVING
	}
	if !serving() {
		t.Fatal("not serving")
	}
	begun := time.Now()
	must(t, a.service.cmd.Process.Signal(syscall.SIGTERM))
	await(t, "NOT_SERVING", func() bool { return !serving() })
	if got := a.send(modern("open_echo", `{}`)); got.RPC.Result == nil {
		t.Errorf("not serving, and refuses already: %s", got)
	}
	<-a.service.end
	if took := time.Since(begun); took > 6*time.Second {
		t.Errorf("it took %v", took)
	}
	if code := a.service.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
