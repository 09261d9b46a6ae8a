package envoyhttp

import (
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
)

// A field is one field however it is written, so that no second one hides behind another case.
func TestHeadersInAnyCase(t *testing.T) {
	header, pseudo, err := Headers(&corev3.HeaderMap{Headers: []*corev3.HeaderValue{
		{Key: ":Path", RawValue: []byte("/mcp")}, {Key: "authorization", RawValue: []byte("Bearer a")}, {Key: "Authorization", Value: "Bearer b"}}})
	if err != nil || pseudo[":path"] != "/mcp" || len(header) != 1 || len(header["authorization"]) != 2 {
		t.Errorf("%v, %v, %v", header, pseudo, err)
	}
	if _, _, err := Headers(&corev3.HeaderMap{Headers: []*corev3.HeaderValue{{Key: ":path", Value: "/mcp"}, {Key: ":PATH", Value: "/status"}}}); err == nil {
		t.Error("two paths")
	}
}
