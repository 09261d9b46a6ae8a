package hub

import (
	"context"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/sallyport/sallyport/authz"
)

func copyBody(w http.ResponseWriter, r io.Reader) { _, _ = io.Copy(w, r) }

func TestRefusals(t *testing.T) {
	h := newHub(t, apps(), egress{}, func(c *Config) { c.MaxRequestBytes = 1000 })
	session := begin(t, h, "alice")
	const ping = `{"jsonrpc":"2.0","id":7,"method":"ping"}`
	for _, tt := range []struct {
		name, who, verb, body string
		headers               []string
		status                int
		want                  string // in the body
	}{
		{"no token", "", "POST", ping, nil, 401, `{"refused":true}`},
		{"no token, DELETE", "", "DELETE", "", []string{"Mcp-Session-Id", session}, 401, `{"refused":true}`},
		{"GET", "alice", "GET", "", nil, 405, `"code":-32600`},
		{"PUT", "alice", "PUT", ping, nil, 405, `"code":-32600`},
		{"not JSON", "alice", "POST", `{"jsonrpc"`, nil, 400, `"code":-32700`},
		{"batch", "alice", "POST", `[` + ping + `]`, nil, 400, `"code":-32600`},
		{"duplicate member", "alice", "POST", `{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/list"}`, nil, 400, `"id":null`},
		{"oversize", "alice", "POST", `{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":"` + strings.Repeat("x", 1000) + `"}}`, nil, 413, `"code":-32600`},
		{"wrong type", "alice", "POST", ping, []string{"Content-Type", "text/plain"}, 415, `"code":-32600`},
		{"unknown version", "alice", "POST", ping, []string{"MCP-Protocol-Version", "1999-01-01"}, 400, `"code":-32022`},
		{"no session", "alice", "POST", ping, nil, 400, `"id":7`},
		{"unknown method", "alice", "POST", `{"jsonrpc":"2.0","id":7,"method":"prompts/list"}`, []string{"Mcp-Session-Id", session}, 200, `"code":-32601`},
		{"a response", "alice", "POST", `{"jsonrpc":"2.0","id":7,"result":{}}`, []string{"Mcp-Session-Id", session}, 400, `"code":-32600`},
	} {
		rec := ask(h, tt.who, tt.verb, tt.body, tt.headers...)
		if rec.Code != tt.status || !strings.Contains(rec.Body.String(), tt.want) {
			t.Errorf("%s: %d %s, want %d with %s", tt.name, rec.Code, rec.Body, tt.status, tt.want)
		}
	}
}

func TestRequestAsTheGateSeesIt(t *testing.T) {
	var got authz.Request
	gate := &recordingGate{testGate: apps(), got: &got}
	h := newHub(t, apps(), egress{}, func(c *Config) { c.Gate = func() Gate { return gate } })
	ask(h, "alice", "POST", "{}", "X-Sallyport-Source", "192.0.2.1", "X-Sallyport-Cert", "ab12", "X-Sallyport-Route", "hub", "X-Forwarded-Proto", "https")
	want := authz.Request{
		Method: "POST", Path: "/mcp", Scheme: "https", Host: "gateway.example", SourceIP: "192.0.2.1", Certificate: "ab12",
		Header: authz.Header{"authorization": {"Bearer alice"}, "content-type": {"application/json"}, "x-forwarded-proto": {"https"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

type recordingGate struct {
	*testGate
	got *authz.Request
}

func (g *recordingGate) Identify(ctx context.Context, r authz.Request) (*authz.Caller, *authz.Reply) {
	*g.got = r
	return g.testGate.Identify(ctx, r)
}

// The hub is served, and upstreams are reached, over HTTP/2 on unix sockets. Egress is held against Serve.
func TestUnixSockets(t *testing.T) {
	h := newHub(t, apps(), egress{})
	socket := filepath.Join(t.TempDir(), "hub.sock")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error)
	go func() { served <- h.Serve(ctx, ln) }()

	via := Egress(socket)
	req, err := http.NewRequestWithContext(ctx, "POST", "http://hub/mcp", strings.NewReader(initializeBody("2025-11-25")))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer alice")
	resp, err := via.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.ProtoMajor != 2 || resp.StatusCode != 200 || !strings.Contains(string(body), `"protocolVersion":"2025-11-25"`) {
		t.Errorf("%s %d %s", resp.Proto, resp.StatusCode, body)
	}
	via.(*http.Transport).CloseIdleConnections()
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// bearer adds a token, as an agent's HTTP client does.
type bearer struct {
	who string
	via http.RoundTripper
}

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+b.who)
	return b.via.RoundTrip(r)
}

// The SDK's own client lists the tools of SDK servers of both eras, in both eras.
func TestSDKClient(t *testing.T) {
	upstreams := behind(t, egress{"app/old": stateful(sdkServer(t, "a", "b")), "app/new": stateless(sdkServer(t, "c"))})
	h := newHub(t, apps("old", "new"), upstreams)
	front := behind(t, egress{"hub": h})
	for _, version := range []string{"2026-07-28", "2025-11-25", "2025-06-18"} {
		t.Run(version, func(t *testing.T) {
			client := mcp.NewClient(&mcp.Implementation{Name: "agent", Version: "1"}, nil)
			transport := &mcp.StreamableClientTransport{
				Endpoint:             "http://gateway.example/mcp",
				HTTPClient:           &http.Client{Transport: bearer{"alice", routed{front, "hub"}}},
				DisableStandaloneSSE: true,
			}
			s, err := client.Connect(t.Context(), transport, &mcp.ClientSessionOptions{ProtocolVersion: version})
			if err != nil {
				t.Fatal(err)
			}
			list, err := s.ListTools(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, tool := range list.Tools {
				names = append(names, tool.Name)
			}
			if diff := cmp.Diff([]string{"old_a", "old_b", "new_c"}, names); diff != "" {
				t.Error(diff)
			}
			if got := s.InitializeResult().ProtocolVersion; got != version {
				t.Errorf("negotiated %s, want %s", got, version)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

type routed struct {
	egress
	route string
}

func (r routed) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Set(authz.RouteHeader, r.route)
	return r.egress.RoundTrip(req)
}
