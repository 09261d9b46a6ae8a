package extproc

import (
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// empty is a processor that lets everything through: what a stream costs without us.
type empty struct {
	extprocv3.UnimplementedExternalProcessorServer
}

func (empty) Process(stream extprocv3.ExternalProcessor_ProcessServer) error {
	if _, err := stream.Recv(); err != nil {
		return err
	}
	if err := stream.Send(&extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_RequestHeaders{}}); err != nil {
		return err
	}
	if _, err := stream.Recv(); err != nil {
		return err
	}
	return stream.Send(&extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_RequestBody{}})
}

// BenchmarkStream is a modern tools/call as Envoy asks about it, the gRPC stream and a client's side of it included. Compare
// empty with gate: their ratio travels to other machines, their times do not.
func BenchmarkStream(b *testing.B) {
	g, _, _ := newModernGate(b)
	ours := NewServer(slog.New(slog.DiscardHandler))
	ours.SetGate(g)
	for _, bench := range []struct {
		name      string
		processor extprocv3.ExternalProcessorServer
		workers   uint32
	}{{"empty", empty{}, 0}, {"gate/goroutines", ours, 0}, {"gate", ours, StreamWorkers}} {
		b.Run(bench.name, func(b *testing.B) {
			client := serveBench(b, bench.processor, grpc.NumStreamWorkers(bench.workers))
			headers, body := benchMessages()
			b.ReportAllocs()
			for b.Loop() {
				if err := askBench(b, client, headers, body); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func serveBench(b *testing.B, p extprocv3.ExternalProcessorServer, o ...grpc.ServerOption) extprocv3.ExternalProcessorClient {
	l, err := net.Listen("unix", filepath.Join(b.TempDir(), "s"))
	if err != nil {
		b.Fatal(err)
	}
	server := grpc.NewServer(o...)
	extprocv3.RegisterExternalProcessorServer(server, p)
	go server.Serve(l)
	conn, err := grpc.NewClient("unix:"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { conn.Close(); server.Stop() })
	return extprocv3.NewExternalProcessorClient(conn)
}

func benchMessages() (headers, body *extprocv3.ProcessingRequest) {
	const meta = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"b","version":"1"},"io.modelcontextprotocol/clientCapabilities":{}}`
	headers = headersMessage(":method", "POST", ":path", "/mcp", ":scheme", "http", ":authority", "127.0.0.1:1",
		"content-type", "application/json", "content-length", "400", "accept", "application/json, text/event-stream", "user-agent", "agent/1.0",
		"mcp-protocol-version", "2026-07-28", "mcp-method", "tools/call", "mcp-name", "a_ok", "authorization", "Bearer "+strings.Repeat("t", 800),
		"x-forwarded-proto", "http", "x-request-id", "11111111-2222-3333-4444-555555555555")
	body = &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestBody{RequestBody: &extprocv3.HttpBody{EndOfStream: true,
		Body: []byte(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a_ok","arguments":{"text":"` + strings.Repeat("x", 200) + `"},` + meta + `}}`)}}}
	return headers, body
}

// askBench is one request's stream.
func askBench(b *testing.B, client extprocv3.ExternalProcessorClient, messages ...*extprocv3.ProcessingRequest) error {
	stream, err := client.Process(b.Context())
	if err != nil {
		return err
	}
	for _, m := range messages {
		if err := stream.Send(m); err != nil {
			return err
		}
		if answer, err := stream.Recv(); err != nil || answer.GetImmediateResponse() != nil {
			b.Fatal(answer, err)
		}
	}
	_ = stream.CloseSend()
	_, _ = stream.Recv() // the end
	return nil
}
