package hub

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/mcpparse"
)

// What the hub sends, byte for byte, and which headers go with it.
func TestWhatIsSent(t *testing.T) {
	const self = `{"name":"sallyport","version":"1"}`
	for _, tt := range []struct {
		name    string
		send    func(c *client) error
		body    string
		headers map[string]string // "" for absent
	}{
		{
			"modern",
			func(c *client) error {
				_, err := c.call(t.Context(), leg{route: "r", era: mcpparse.EraModern, version: "2026-07-28"}, "tools/list", []byte(`{"cursor":"x"}`))
				return err
			},
			`{"jsonrpc":"2.0","id":"sallyport-1","method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":` +
				self + `,"io.modelcontextprotocol/protocolVersion":"2026-07-28"},"cursor":"x"}}`,
			map[string]string{"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/list", "Mcp-Session-Id": ""},
		},
		{
			"legacy",
			func(c *client) error {
				_, err := c.call(t.Context(), leg{route: "r", era: mcpparse.EraLegacy, version: "2025-06-18", session: "s"}, "tools/list", nil)
				return err
			},
			`{"jsonrpc":"2.0","id":"sallyport-1","method":"tools/list"}`,
			map[string]string{"MCP-Protocol-Version": "2025-06-18", "Mcp-Method": "", "Mcp-Session-Id": "s"},
		},
		{
			"notification",
			func(c *client) error {
				return c.deliver(t.Context(), leg{route: "r", era: mcpparse.EraLegacy, version: "2025-06-18", session: "s"}, envelope(nil, "notifications/initialized", nil))
			},
			`{"jsonrpc":"2.0","method":"notifications/initialized"}`,
			map[string]string{"MCP-Protocol-Version": "2025-06-18", "Mcp-Session-Id": "s"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			up := &answers{}
			if err := tt.send(newClient(up, "1")); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.body, up.body); diff != "" {
				t.Error(diff)
			}
			tt.headers["X-Sallyport-Route"] = "r"
			tt.headers["Accept"] = "application/json, text/event-stream"
			tt.headers["Content-Type"] = "application/json"
			tt.headers["Authorization"] = ""
			for name, want := range tt.headers {
				if got := up.header.Get(name); got != want {
					t.Errorf("%s: %q, want %q", name, got, want)
				}
			}
		})
	}
}

// answers is a RoundTripper that keeps the request and answers {}.
type answers struct {
	body   string
	header http.Header
}

func (a *answers) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	a.body, a.header = string(body), r.Header
	return response("application/json", `{"jsonrpc":"2.0","id":"sallyport-1","result":{}}`), err
}

func response(contentType, body string) *http.Response {
	return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {contentType}}, Body: io.NopCloser(strings.NewReader(body))}
}

// Whatever an upstream sends is either a bad answer or one I-JSON value.
func FuzzReadResult(f *testing.F) {
	f.Add(true, `{"jsonrpc":"2.0","id":"1","result":{"tools":[]}}`)
	f.Add(true, `{"jsonrpc":"2.0","id":"1","error":{"code":-32601,"message":"no"}}`)
	f.Add(false, "event: message\ndata: {\"jsonrpc\":\"2.0\",\ndata: \"id\":\"1\",\"result\":{}}\n\n")
	f.Add(false, "data: {\"jsonrpc\":\"2.0\",\"method\":\"m\"}\r\rdata: {\"jsonrpc\":\"2.0\",\"id\":\"1\",\"result\":{}}\r\n\r\n")
	f.Fuzz(func(t *testing.T, plain bool, body string) {
		contentType := "text/event-stream"
		if plain {
			contentType = "application/json"
		}
		result, err := readResult(response(contentType, body), []byte(`"1"`))
		switch {
		case err == nil && !jsontext.Value(bytes.Clone(result)).IsValid():
			t.Errorf("%q is no JSON", result)
		case err != nil && !errors.Is(err, errBadAnswer) && !errors.Is(err, errRefused):
			t.Errorf("unexpected error %v", err)
		}
	})
}
