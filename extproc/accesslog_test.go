package extproc

import (
	"log/slog"
	"net"
	"sync/atomic"
	"testing"
	"time"

	datav3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/sallyport/sallyport/authz/audit"
)

// An Envoy that goes on telling how messages ended is heard until Stop, whose return means that nothing more is recorded.
func TestStopEndsTheRecording(t *testing.T) {
	var recorded, late atomic.Int64
	var closed atomic.Bool
	c := NewCompletions(func(audit.Completion, string) error {
		recorded.Add(1)
		if closed.Load() {
			late.Add(1)
		}
		return nil
	}, slog.New(slog.DiscardHandler))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	alsv3.RegisterAccessLogServiceServer(server, c)
	go func() { _ = server.Serve(l) }()
	defer server.Stop()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	stream, err := alsv3.NewAccessLogServiceClient(conn).StreamAccessLogs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		entries := &alsv3.StreamAccessLogsMessage_HTTPAccessLogEntries{LogEntry: []*datav3.HTTPAccessLogEntry{{}, {}}}
		for err := error(nil); err == nil; {
			err = stream.Send(&alsv3.StreamAccessLogsMessage{LogEntries: &alsv3.StreamAccessLogsMessage_HttpLogs{HttpLogs: entries}})
		}
	}()
	for recorded.Load() < 100 {
		time.Sleep(time.Millisecond)
	}
	if !c.Connected() {
		t.Error("an Envoy tells, and is not there")
	}
	c.Stop()
	closed.Store(true)
	<-sent // the stream has ended
	server.GracefulStop()
	if n := late.Load(); n > 0 || c.Connected() {
		t.Errorf("%d recorded after the end; still connected: %v", n, c.Connected())
	}
}
