package config_test

import (
	"time"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/config"
)

// complete is what testdata/complete.yaml says, with certificates in certs.
func complete(certs string) *config.Config {
	idp := config.Connector{
		Name: "idp", Type: "oidc",
		OIDCWellKnownURL: "http://idp.internal/.well-known/openid-configuration", AllowPlainHTTP: true,
		OAuthClientID: "gateway", OAuthClientSecret: clientSecret,
		TokenEndpointAuthMethod: "client_secret_post", PrivateKeyFile: certs + "/server.key", KeyID: "one",
		AssertionAudience: "tokenEndpoint", Grant: "tokenExchange", TokenIssuer: "https://sts.example.com/",
		AdditionalParameters: map[string]config.Secret{"tenant": clientSecret}, MaxConcurrent: 8,
		Breaker:   config.Breaker{Failures: 3, BackOff: 2 * time.Second, MaxBackOff: 30 * time.Second},
		Algorithm: "ES256", RotateEvery: 720 * time.Hour, // of the other type
		TLS: "client", AllowNetworks: []string{"10.20.0.0/16"},
		OAuthLoginRedirect:  config.Redirect{URLs: []string{"https://gateway.example.com/oidc-callback"}},
		OAuthLogoutRedirect: config.Redirect{URLs: []string{"https://gateway.example.com/logout"}},
		OAuthRedirectURL:    "https://gateway.example.com/oidc-callback",
		Scopes:              "openid profile email", OAuthExtraParams: map[string]string{"prompt": "login"},
		DisablePKCE: true, OfflineAccess: config.OfflineAccess{Enabled: true},
	}
	other := idp // merged by <<
	other.Name, other.AllowPlainHTTP = "other", false
	other.OIDCWellKnownURL = "https://other.example.com/.well-known/openid-configuration"
	mint := config.Connector{
		Name: "mint", Type: "sts", OAuthClientID: "gateway", AllowPlainHTTP: true,
		Issuer: "http://tokens.internal/mint", Address: "127.0.0.1:9001", KeyDir: "testdata/keys", Algorithm: "EdDSA", RotateEvery: 24 * time.Hour,
		AssertionAudience: "issuer", Grant: "tokenExchange", MaxConcurrent: 64, // of the other type
		Breaker: config.Breaker{Failures: 5, BackOff: time.Second, MaxBackOff: 4 * time.Second},
	}
	return &config.Config{
		Connectors:  []config.Connector{idp, other, mint},
		MCPProvider: completeProvider(),
		Apps:        completeApps(),
		HTTP: config.HTTP{
			Address: "0.0.0.0:8443", TLS: "server", MaxRequestBytes: 4096, MaxConnections: 77, RequestLimit: &config.Rate{Calls: 1000, Per: time.Second},
			AllowedHosts:   []string{"gateway.example.com"},
			AllowedOrigins: []string{"https://inspector.example.com:8443"},
		},
		TLS: map[string]*config.TLS{
			"server": {
				CertFile: certs + "/server.crt", KeyFile: certs + "/server.key",
				ClientAuth: "RequireAndVerifyClientCert", ClientCAFiles: []string{certs + "/server.crt"}, MinVersion: "1.3",
			},
			"client": {
				CAFile: certs + "/ca.crt", ClientAuth: "NoClientCert", MinVersion: "1.2",
				SPIFFEIDs: []string{"spiffe://example.org/files"}, CRLFile: certs + "/ca.crl",
			},
		},
		Health:       config.Health{Location: "/healthz"},
		Admin:        config.Admin{Address: "localhost:9999"},
		Service:      config.Service{Address: "unix:/run/sallyport/service.sock", Filter: "extAuthz", Hub: "127.0.0.1:9905", Upstreams: "direct", Canary: "https://127.0.0.1:8443"},
		Session:      config.Session{Key: sessionKey, Store: "rediss://sallyport:" + storePassword + "@sessions.internal:6380/3"},
		Audit:        config.Audit{File: "testdata/audit.jsonl"},
		Logger:       config.Logger{Level: "debug"},
		AuthProvider: completeAuthProvider(certs),
	}
}

func completeProvider() config.MCPProvider {
	return config.MCPProvider{
		Enabled: true,
		Transports: config.Transports{
			SSE: config.SSE{
				Enabled: true, Path: "/events", MessagePath: "/messages",
				KeepAlive: config.KeepAlive{Enabled: false, Interval: 10 * time.Second},
			},
			Stream: config.Stream{
				Enabled: true, Path: "/tools",
				Session: config.StreamSession{HeaderName: "X-Session", Timeout: 30 * time.Minute},
			},
		},
		Authorization: config.ProviderAuthorization{OAuth: config.OAuth{
			Enabled: true, MetadataPath: "/metadata", Resource: "https://gateway.example.com/tools",
			Servers: []config.AuthorizationServer{{
				WellKnownEndpoint: "http://idp.internal/.well-known/oauth-authorization-server",
				AllowPlainHTTP:    true, RefreshInterval: time.Hour,
				TokenValidation: config.TokenValidation{
					ExpectedAudiences: []string{"https://gateway.example.com/", audience},
					Method:            "introspection", JWT: config.JWT{ClockSkew: 0},
					Introspection: config.Introspection{Endpoint: "http://idp.internal/introspect", ClientID: "gateway", ClientSecret: clientSecret,
						AuthMethod: "client_secret_post", Tokens: "all", CacheTTL: 10 * time.Second, Timeout: 3 * time.Second},
					Clients: []string{"desktop", "cli"}, MaxLifetime: time.Hour, Binding: "required",
				},
			}},
			DPoP: config.DPoP{ProofAge: 30 * time.Second, RequireNonce: true, NonceLifetime: time.Minute},
		}},
	}
}

func completeApps() []config.App {
	return []config.App{{
		Name: "files", Type: "mcpProxy",
		ToolNamespace: config.ToolNamespace{Name: "files_"},
		Upstream: config.Upstream{Era: "modern", Transport: "stream", Stream: config.UpstreamStream{
			URL: "https://files.example.com:8443/mcp", TLS: "client",
			Connection: config.Connection{
				DialTimeout: time.Second, KeepAlive: config.ConnectionKeepAlive{Interval: 2 * time.Second},
				MaxRequests: 500, Pool: config.Pool{MaxIdleConns: 3, MaxIdleConnsPerHost: 4},
			},
		}, SSE: unusedBlock},
		Authorization: config.AppAuthorization{
			Inbound: config.Inbound{OPA: &config.OPA{
				Name: "files-policy", File: "testdata/policy.rego",
				Source: []byte("package orchestrator\n\ndefault result[\"allowed\"] := false\n"),
			}},
			Outbound: config.Outbound{Type: "tokenExchange", TokenExchange: &config.TokenExchange{
				Type: "impersonation", IDP: "idp", Audience: audience,
				Tools: []config.Tool{{
					Name: "read", TTL: 5 * time.Second, Scopes: []config.Scope{{Name: "file:Read"}, {Name: "file:List"}},
				}, {
					Name: "read*", TTL: 6 * time.Second, Scopes: []config.Scope{{Name: "file:List"}},
				}},
				Prompts:       []config.Prompt{{Name: "*", TTL: time.Minute, Scopes: []config.Scope{{Name: "file:Prompt"}}}},
				Resources:     []config.Resource{{URI: "file:///reports/*", TTL: 7 * time.Second, Scopes: []config.Scope{{Name: "file:Report"}}}},
				Session:       &config.SessionToken{TTL: time.Hour, Scopes: []config.Scope{{Name: "file:Session"}}},
				Discovery:     config.Discovery{Type: "tokenExchange", TTL: 30 * time.Second, Scopes: []config.Scope{{Name: "file:Look"}}},
				UnlistedTools: "allow", Timeout: 3 * time.Second, TTLParameter: "", ActorToken: "clientCredentials",
				RequireAct: true, OpaqueTokens: true, Resource: "https://files.example.com/mcp", LongerLifetimes: "accept",
				NarrowerScopes: "accept", SubjectClaim: "oid", RequireSubjectScopes: true, Reuse: 5 * time.Minute,
			}},
		},
		AllowBigNumbers: true, ToolList: "all", Timeout: 24 * time.Hour, CallLimit: &config.Rate{Calls: 30, Per: time.Minute},
		ToolTimeouts: []config.ToolTimeout{{Name: "read", Timeout: time.Second}, {Name: "re*", Timeout: 30 * time.Second}},
	}, {
		Name: "open", Type: "mcpProxy",
		ToolNamespace: config.ToolNamespace{Name: "open_"},
		Upstream: config.Upstream{Era: "legacy", Transport: "sse", Stream: unusedBlock, SSE: config.UpstreamStream{
			URL: "https://open.internal/sse", TLS: "client",
			Connection: config.Connection{
				DialTimeout: 4 * time.Second, KeepAlive: config.ConnectionKeepAlive{Interval: 5 * time.Second},
				MaxRequests: 501, Pool: config.Pool{MaxIdleConns: 6, MaxIdleConnsPerHost: 7},
			},
		}},
		Authorization: config.AppAuthorization{
			Inbound: config.Inbound{OPA: &config.OPA{
				Name:   "open",
				Rego:   "package orchestrator\nresult[\"allowed\"] := true\n",
				Source: []byte("package orchestrator\nresult[\"allowed\"] := true\n"),
			}},
			Outbound: config.Outbound{Type: "unprotected"},
		},
		ToolList: "policy", Timeout: 10 * time.Minute,
	}}
}

// unusedBlock is the block of a transport that was not chosen.
var unusedBlock = config.UpstreamStream{Connection: config.Connection{
	DialTimeout: 10 * time.Second, KeepAlive: config.ConnectionKeepAlive{Interval: 15 * time.Second},
	MaxRequests: 100_000, Pool: config.Pool{MaxIdleConns: 100, MaxIdleConnsPerHost: 100},
}}

func completeAuthProvider(certs string) *config.AuthProvider {
	return &config.AuthProvider{
		Enabled: true, Address: "127.0.0.1:9000", Issuer: "http://localhost:9000", KeyFile: certs + "/server.key",
		AccessTokenLifetime: time.Hour, DefaultAudience: "https://gateway.example.com/",
		Resources: []string{"https://other.example.com/"}, Scopes: []string{"tools"}, AllowWiderScopes: true,
		Users: []config.User{{
			Subject: "alice", Scopes: []string{"tools"},
			Claims: map[string]any{
				"email": "alice@example.com", "groups": []any{"finance", int64(7)}, "admin": true, "height": 1.5,
				"nothing": nil, "team": map[string]any{"name": audience},
			},
		}},
		Clients: []config.Client{{
			ID: "gateway", Secret: clientSecret,
			Grants: []string{"urn:ietf:params:oauth:grant-type:token-exchange"}, Scopes: []string{"file:Read"},
			Exchange: config.ClientExchange{
				Audiences: []string{"https://files.example.com/"}, SubjectAudiences: []string{"https://gateway.example.com/"},
				Impersonate: true, MaxLifetime: 10 * time.Second,
			},
		}, {
			ID: "agent", Public: true, RedirectURIs: []string{"http://127.0.0.1/callback"},
			Grants: []string{"authorization_code", "refresh_token"}, Exchange: config.ClientExchange{MaxLifetime: 5 * time.Minute},
		}},
	}
}
