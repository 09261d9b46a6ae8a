package e2e

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
)

// The ways in which an Envoy and the service can be joined.

// onTheWire is what agents and upstreams see of a gateway, whatever joins it.
var onTheWire = []struct {
	name string
	test func(*testing.T)
}{
	{"challenges", TestWithoutTokenEveryMethodIsChallenged}, {"metadata", TestProtectedResourceMetadata},
	{"a call", TestAllowedCall}, {"an unprotected call", TestUnprotectedUpstreamGetsNoToken}, {"refusals", TestRefusedCallsReachNothing},
	{"lists", TestListsAreMergedAndFiltered}, {"audit", TestAuditRecordsEveryMessage}, {"sessions", TestSessions},
	{"eras", TestErasAreBridged}, {"upstreams that refuse", TestUpstreamAnswersThatStayInside}, {"a lost session", TestLostUpstreamSessionIsReopened},
	{"time limits", TestCallsHaveAnEnd}, {"questions", TestAgentsAreAskedApart}, {"the SDK", TestSDK}, {"the SDK's server", TestSDKServerIsGuarded},
	{"the service dies", TestServiceKilledStoppedAbsent}, {"a slow authorization server", TestSlowAuthorizationServer}, {"TLS", TestTLSListenerAndUpstream},
	{"without OAuth", TestOAuthOff},
}

func joined(t *testing.T, by func(t *testing.T) string) {
	wiring = by
	t.Cleanup(func() { wiring = nil })
	for _, c := range onTheWire {
		t.Run(c.name, c.test)
	}
}

// Over ext_authz no body changes and no answer is seen, and yet the same comes out.
func TestExtAuthz(t *testing.T) {
	joined(t, func(*testing.T) string { return "  filter: extAuthz\n" })
}

// onDemand skips what `make wirings` runs: the tests above, once more and at length.
func onDemand(t *testing.T) {
	t.Helper()
	if os.Getenv("SALLYPORT_WIRINGS") == "" {
		t.Skip("NOT TESTED here: `make wirings` does")
	}
}

// Envoy can send bodies as they come, and wait to get them back.
func TestExtProcDuplex(t *testing.T) {
	onDemand(t)
	joined(t, func(*testing.T) string { return "  filter: extProcDuplex\n" })
}

// The hub can be reached over TCP, and reach the upstreams by itself, where Envoy is somebody else's.
func TestHubOfItsOwn(t *testing.T) {
	onDemand(t)
	joined(t, func(t *testing.T) string { return "  hub: " + freePort(t) + "\n  upstreams: direct\n" })
}

// A filter that would let through what nobody judged gets no answer that could be taken for a yes.
func TestExtAuthzSetWrongly(t *testing.T) {
	wiring = func(*testing.T) string { return "  filter: extAuthz\n" }
	t.Cleanup(func() { wiring = nil })
	for _, c := range []struct {
		name  string
		patch func(filter map[string]any)
		cure  string // in the service's log; "" where the whole is answered as ever
	}{
		{"as it should be", func(map[string]any) {}, ""},
		{"no body", func(f map[string]any) { delete(f, "with_request_body") }, "set with_request_body"},
		{"part of the body", func(f map[string]any) {
			f["with_request_body"] = map[string]any{"max_request_bytes": 100, "allow_partial_message": true, "pack_as_bytes": true}
		}, "part of the body"},
		{"the body as text", func(f map[string]any) { delete(f["with_request_body"].(map[string]any), "pack_as_bytes") }, "pack_as_bytes"},
		{"fields joined", func(f map[string]any) { delete(f, "encode_raw_headers") }, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := splitWorld(t, true, func(b map[string]any) {
				walk(b, func(m map[string]any) {
					if kind, _ := m["@type"].(string); strings.HasSuffix(kind, ".ExtAuthz") {
						c.patch(m)
					}
				})
			})
			answer := a.send(modern("open_echo", `{}`))
			if c.cure == "" {
				if answer.RPC.Result == nil {
					t.Fatal(answer)
				}
				a.refusedTwice()
				return
			}
			a.refusedByEnvoy(c.name, answer, http.StatusServiceUnavailable)
			await(t, "the cure in the log", func() bool { return strings.Contains(a.service.output(), c.cure) })
		})
	}
}

// refusedTwice sends what must be there once a second time.
func (a *apart) refusedTwice() {
	a.t.Helper()
	before := len(a.open.calls())
	body := modern("open_echo", `{}`).body
	for _, twice := range []string{"Authorization: Bearer " + a.token, "Mcp-Method: tools/call", "Mcp-Name: open_echo", "MCP-Protocol-Version: 2026-07-28"} {
		c := a.dial()
		_, err := fmt.Fprintf(c, "POST /mcp HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nAuthorization: Bearer %s\r\nMcp-Method: tools/call\r\n"+
			"Mcp-Name: open_echo\r\nMCP-Protocol-Version: 2026-07-28\r\n%s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", a.address, a.token, twice, len(body), body)
		must(a.t, err)
		text := new(strings.Builder)
		_, err = copyBounded(text, c)
		must(a.t, err)
		if status, _, _ := strings.Cut(text.String(), "\r\n"); !strings.Contains(status, " 400 ") && !strings.Contains(status, " 401 ") {
			a.t.Errorf("%s twice: %s", twice, status)
		}
	}
	if n := len(a.open.calls()) - before; n != 0 {
		a.t.Errorf("%d calls got through", n)
	}
}
