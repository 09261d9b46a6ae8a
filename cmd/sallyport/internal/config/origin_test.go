package config_test

import (
	"testing"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/config"
)

func TestAtGateway(t *testing.T) {
	cfg := func(listen, tls string) *config.Config {
		c := &config.Config{}
		c.HTTP.Address, c.HTTP.TLS, c.HTTP.AllowedHosts = listen, tls, []string{"mcp.example.com", "odd.example.com:8443"}
		c.MCPProvider.Authorization.OAuth.Resource = "https://resource.example.com/mcp"
		c.MCPProvider.Authorization.OAuth.Servers = []config.AuthorizationServer{{TokenValidation: config.TokenValidation{
			ExpectedAudiences: []string{"an-audience", "https://gateway.example.com/mcp"}}}}
		return c
	}
	loopback, everywhere, secure := cfg("127.0.0.1:7420", ""), cfg("0.0.0.0:7420", ""), cfg("127.0.0.1:7420", "front")
	for _, test := range []struct {
		cfg    *config.Config
		issuer string
		want   bool
	}{
		{loopback, "http://127.0.0.1:7420/tokens", true},
		{loopback, "http://localhost:7420/tokens", true},
		{loopback, "https://127.0.0.1:7420/tokens", false},
		{loopback, "http://127.0.0.1:9903/tokens", false},
		{loopback, "http://10.0.0.1:7420/tokens", false},
		{secure, "https://127.0.0.1:7420/tokens", true},
		{secure, "http://127.0.0.1:7420/tokens", false},
		{everywhere, "http://127.0.0.1:7420/tokens", true},
		{everywhere, "http://elsewhere.example.com:7420/tokens", false},
		{loopback, "https://gateway.example.com/tokens", true},
		{loopback, "https://GATEWAY.example.com/tokens", true},
		{loopback, "http://gateway.example.com/tokens", false},
		{loopback, "https://gateway.example.com:8443/tokens", false},
		{loopback, "https://resource.example.com/tokens", true},
		{loopback, "https://mcp.example.com/tokens", true},
		{loopback, "https://odd.example.com:8443/tokens", true},
		{loopback, "https://odd.example.com/tokens", false},
		{loopback, "https://tokens.example.com/", false},
		{loopback, "", false},
		{loopback, "/tokens", false},
	} {
		if got := test.cfg.AtGateway(test.issuer); got != test.want {
			t.Errorf("%s, listening at %s: %t", test.issuer, test.cfg.HTTP.Address, got)
		}
	}
}
