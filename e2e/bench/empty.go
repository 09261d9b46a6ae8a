package main

import (
	"context"
	"net"
	"os"
	"os/signal"
	"syscall"

	extproc "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc"
)

// empty is the floor: a processor that looks at nothing and lets everything on, with as many messages as sallyport needs, two
// for a call of 2026-07-28, and the response's headers besides for one of 2025-11-25.
type empty struct {
	extproc.UnimplementedExternalProcessorServer
	watch bool // the response too
}

func (e empty) Process(stream extproc.ExternalProcessor_ProcessServer) error {
	last := false
	for !last {
		in, err := stream.Recv()
		if err != nil {
			return err
		}
		out := &extproc.ProcessingResponse{}
		common := &extproc.CommonResponse{}
		switch in.Request.(type) {
		case *extproc.ProcessingRequest_RequestHeaders:
			out.Response = &extproc.ProcessingResponse_RequestHeaders{RequestHeaders: &extproc.HeadersResponse{Response: common}}
		case *extproc.ProcessingRequest_RequestBody:
			out.Response = &extproc.ProcessingResponse_RequestBody{RequestBody: &extproc.BodyResponse{Response: common}}
			last = !e.watch
		case *extproc.ProcessingRequest_ResponseHeaders:
			out.Response = &extproc.ProcessingResponse_ResponseHeaders{ResponseHeaders: &extproc.HeadersResponse{Response: common}}
			last = true
		}
		if err := stream.Send(out); err != nil {
			return err
		}
	}
	return nil
}

// serveEmpty is the processor's process.
func serveEmpty(ctx context.Context, socket string, watch bool) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, os.Interrupt)
	defer stop()
	l, err := new(net.ListenConfig).Listen(ctx, "unix", socket)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	extproc.RegisterExternalProcessorServer(server, empty{watch: watch})
	context.AfterFunc(ctx, server.Stop)
	return server.Serve(l)
}
