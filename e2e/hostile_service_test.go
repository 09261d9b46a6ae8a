package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
)

// Whoever gets at the service's own socket, whether an Envoy that is not well or something else, opens no door there.

func (a *apart) grpc() *grpc.ClientConn {
	a.t.Helper()
	conn, err := grpc.NewClient("unix:"+filepath.Join(a.sockets, "service.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(a.t, err)
	a.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// headersOf is a request for the processor; pairs are its fields.
func headersOf(end bool, pairs ...string) *extprocv3.ProcessingRequest {
	m := &corev3.HeaderMap{}
	for i := 0; i < len(pairs); i += 2 {
		m.Headers = append(m.Headers, &corev3.HeaderValue{Key: pairs[i], RawValue: []byte(pairs[i+1])})
	}
	return &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestHeaders{
		RequestHeaders: &extprocv3.HttpHeaders{Headers: m, EndOfStream: end}}}
}

func bodyOf(size int) *extprocv3.ProcessingRequest {
	return &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestBody{
		RequestBody: &extprocv3.HttpBody{Body: make([]byte, size), EndOfStream: true}}}
}

func TestHostileProcessorClients(t *testing.T) {
	a := splitWorld(t, true, nil)
	client := extprocv3.NewExternalProcessorClient(a.grpc())
	honest := []string{":method", "POST", ":path", "/mcp", ":scheme", "http", ":authority", a.address, "content-type", "application/json",
		"authorization", "Bearer " + a.token}
	for name, messages := range map[string][]*extprocv3.ProcessingRequest{
		"nothing":                {{}},
		"a body first":           {bodyOf(10)},
		"an answer first":        {{Request: &extprocv3.ProcessingRequest_ResponseHeaders{ResponseHeaders: &extprocv3.HttpHeaders{}}}, bodyOf(1)},
		"no path":                {headersOf(true, ":method", "CONNECT", ":authority", "x")},
		"no fields":              {headersOf(true)},
		"two paths":              {headersOf(false, append([]string{":path", "/status"}, honest...)...)},
		"two tokens":             {headersOf(false, append([]string{"authorization", "Bearer x"}, honest...)...)},
		"a POST without a body":  {headersOf(true, honest...)},
		"settings that are kept": {headersOf(false, honest...)}, // no protocol_config
		"verdicts are ignored":   {{ObservabilityMode: true, Request: headersOf(false, honest...).Request}},
		"too much":               {headersOf(false, honest...), bodyOf(8 << 20)},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			stream, err := client.Process(ctx)
			must(t, err)
			for _, m := range messages {
				if stream.Send(m) != nil {
					break // it has ended; Recv says how
				}
			}
			must(t, stream.CloseSend())
			refused := name == "an answer first" // Envoy has refused by itself then
			for {
				answer, err := stream.Recv()
				if err != nil {
					if err == io.EOF && !refused {
						t.Error("ended well, which Envoy takes for go on")
					}
					return
				}
				refused = refused || answer.GetImmediateResponse() != nil
				if answer.GetDynamicMetadata().GetFields()["sallyport"].GetStructValue().GetFields()["decided"] != nil {
					t.Errorf("a verdict that opens: %v", answer)
				}
			}
		})
	}
	if got := a.send(modern("open_echo", `{}`)); got.RPC.Result == nil {
		t.Errorf("afterwards: %s", got)
	}
}

func TestHostileAuthorizationClients(t *testing.T) {
	a := splitWorld(t, true, nil)
	client := authv3.NewAuthorizationClient(a.grpc())
	request := func(change func(r *authv3.AttributeContext_HttpRequest)) *authv3.CheckRequest {
		body := modern("open_echo", `{}`)
		r := &authv3.AttributeContext_HttpRequest{Method: "POST", Path: "/mcp", Host: a.address, Scheme: "http", RawBody: []byte(body.body),
			Headers: map[string]string{":method": "POST", ":path": "/mcp", ":scheme": "http", ":authority": a.address, "content-type": "application/json",
				"content-length": fmt.Sprint(len(body.body)), "authorization": "Bearer " + a.token}}
		for name, value := range body.header {
			r.Headers[strings.ToLower(name)] = value
		}
		change(r)
		return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{Request: &authv3.AttributeContext_Request{Http: r}}}
	}
	for name, question := range map[string]*authv3.CheckRequest{
		"nothing": {},
		"no path": request(func(r *authv3.AttributeContext_HttpRequest) { r.Path = ""; delete(r.Headers, ":path") }),
		"no body": request(func(r *authv3.AttributeContext_HttpRequest) { r.RawBody = nil }),
		"half of it, said to be all": request(func(r *authv3.AttributeContext_HttpRequest) {
			r.RawBody = r.RawBody[:len(r.RawBody)/2]
			r.Headers["x-envoy-auth-partial-body"] = "false"
		}),
		"two bodies": request(func(r *authv3.AttributeContext_HttpRequest) { r.Body = "{}" }),
		"no token":   request(func(r *authv3.AttributeContext_HttpRequest) { delete(r.Headers, "authorization") }),
		"two tokens": request(func(r *authv3.AttributeContext_HttpRequest) { r.Headers["authorization"] += ", Bearer x" }),
		"too much":   request(func(r *authv3.AttributeContext_HttpRequest) { r.RawBody = make([]byte, 8<<20) }),
	} {
		answer, err := client.Check(t.Context(), question)
		if err == nil && answer.GetStatus().GetCode() == int32(codes.OK) {
			t.Errorf("%s: %v", name, answer)
		}
	}
	answer, err := client.Check(t.Context(), request(func(*authv3.AttributeContext_HttpRequest) {}))
	if err != nil || answer.GetStatus().GetCode() != int32(codes.OK) {
		t.Errorf("the honest question: %v, %v", answer, err)
	}
}

// A body that comes byte by byte is judged when it is whole, and not a byte of it goes on before.
func TestHostileDuplexBodies(t *testing.T) {
	wiring = func(*testing.T) string { return "  filter: extProcDuplex\n" }
	t.Cleanup(func() { wiring = nil })
	a := splitWorld(t, true, nil)
	for _, c := range []struct {
		r      request
		status string
		calls  int
	}{{modern("open_spend", `{"amount":500}`), "HTTP/1.1 200", 0}, {modern("open_echo", `{}`), "HTTP/1.1 200", 1}} {
		conn := a.dial()
		head := "POST /mcp HTTP/1.1\r\nHost: " + a.address + "\r\nContent-Type: application/json\r\nAccept: application/json\r\nAuthorization: Bearer " + a.token +
			"\r\nTransfer-Encoding: chunked\r\n"
		for name, value := range c.r.header {
			head += name + ": " + value + "\r\n"
		}
		_, err := io.WriteString(conn, head+"\r\n")
		must(t, err)
		for i := range len(c.r.body) {
			_, err := fmt.Fprintf(conn, "1\r\n%s\r\n", c.r.body[i:i+1])
			must(t, err)
		}
		time.Sleep(200 * time.Millisecond) // what would go on has time to
		if len(a.open.calls()) != 0 || len(a.items.calls()) != 0 {
			t.Fatal("something went on before the body was whole")
		}
		_, err = io.WriteString(conn, "0\r\n\r\n")
		must(t, err)
		line, err := bufio.NewReader(conn).ReadString('\n')
		if err != nil || !strings.HasPrefix(line, c.status) || len(a.open.calls()) != c.calls {
			t.Errorf("%s: %q, %v, %d calls", c.r.body, line, err, len(a.open.calls()))
		}
	}
}

// Anybody on a machine can read the arguments of its processes, and the same user their environment.
func TestNoSecretInProcesses(t *testing.T) {
	w := start(t)
	pids := []string{fmt.Sprint(w.gateway.cmd.Process.Pid)}
	children, err := filepath.Glob("/proc/" + pids[0] + "/task/*/children")
	must(t, err)
	for _, file := range children {
		pids = append(pids, strings.Fields(contents(t, file))...)
	}
	if len(pids) != 2 {
		t.Fatalf("processes %v, want the service and its Envoy", pids)
	}
	for _, pid := range pids {
		for _, what := range []string{"cmdline", "environ"} {
			said, err := os.ReadFile("/proc/" + pid + "/" + what)
			must(t, err)
			for _, secret := range []string{gatewaySecret, sessionKey, w.token} {
				if strings.Contains(string(said), secret) {
					t.Errorf("a secret is in %s of process %s", what, pid)
				}
			}
		}
	}
	if a := w.send(request{method: http.MethodGet, path: "/status"}); a.Status != http.StatusOK {
		t.Error(a)
	}
}
