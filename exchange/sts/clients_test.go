package sts_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/modelcontextprotocol/go-sdk/auth"
	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/modelcontextprotocol/go-sdk/oauthex"

	"github.com/sallyport/sallyport/exchange"
	"github.com/sallyport/sallyport/exchange/sts"
)

// connect runs an exchange client against the server until the test ends.
func (s *server) connect(change func(*exchange.Config)) *exchange.Client {
	s.t.Helper()
	cfg := exchange.Config{
		WellKnown: s.url + "/.well-known/oauth-authorization-server", ClientID: "gateway", ClientSecret: secret, Now: s.clock.now,
	}
	change(&cfg)
	c, err := exchange.New(cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	s.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Error(err)
		}
	})
	for deadline := time.Now().Add(10 * time.Second); !c.Ready(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatal("the exchange client found no metadata")
		}
	}
	return c
}

// What the exchange client takes from this server is what a resource server then
// reads in the token.
func TestExchangeClient(t *testing.T) {
	s := start(t)
	alice := s.login("alice").Access
	base := exchange.Request{
		SubjectToken: alice, Subject: "alice", Audience: tickets, Scopes: []string{"item:List"},
		Lifetime: 5 * time.Second, Delegation: true, RequireAct: true,
	}
	withActorToken := base
	withActorToken.ActorToken = true
	for name, r := range map[string]exchange.Request{"authenticated client acts": base, "actor token": withActorToken} {
		for _, method := range []string{"", "client_secret_basic", "client_secret_post"} {
			t.Run(name+" "+method, func(t *testing.T) {
				got, err := s.connect(func(c *exchange.Config) { c.AuthMethod = method }).Exchange(t.Context(), r)
				if err != nil {
					t.Fatal(err)
				}
				claims := s.claims(got.Value)
				want := map[string]any{
					"sub": "alice", "act": map[string]any{"sub": "gateway", "act": map[string]any{"sub": "agent"}}, "aud": tickets, "scope": "item:List", "client_id": "gateway", "iss": s.url,
				}
				for k, v := range want {
					if diff := cmp.Diff(v, claims[k]); diff != "" {
						t.Errorf("%s: %s", k, diff)
					}
				}
				if life := claims["exp"].(float64) - claims["iat"].(float64); life > 5 {
					t.Errorf("lives %v s", life)
				}
				token := &exchange.Token{
					Value: got.Value, Audience: []string{tickets}, Scopes: []string{"item:List"}, Actors: []string{"gateway", "agent"},
					JTI: claims["jti"].(string), Issuer: s.url, Subject: "alice", ExpiresIn: 5 * time.Second, Expiry: got.Expiry,
				}
				if diff := cmp.Diff(token, got); diff != "" {
					t.Error(diff)
				}
			})
		}
	}
}

// One call, one token.
func TestExchangeClientReusesNothing(t *testing.T) {
	s := start(t)
	c := s.connect(func(*exchange.Config) {})
	r := exchange.Request{
		SubjectToken: s.login("alice").Access, Subject: "alice", Audience: tickets, Scopes: []string{"item:List"},
		Lifetime: 5 * time.Second, Delegation: true, ActorToken: true,
	}
	seen := map[string]bool{}
	issued := s.Issued()
	for range 10 {
		token, err := c.Exchange(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		seen[token.Value] = true
	}
	if len(seen) != 10 || s.Exchanges() != 10 {
		t.Errorf("%d tokens of %d exchanges", len(seen), s.Exchanges())
	}
	if n := s.Issued() - issued; n != 11 {
		t.Errorf("%d tokens issued, want ten and one actor token", n)
	}
}

func TestExchangeClientRefused(t *testing.T) {
	s := start(t)
	gate := s.connect(func(*exchange.Config) {})
	wrong := s.connect(func(c *exchange.Config) { c.ClientSecret = "another" })
	mask := s.connect(func(c *exchange.Config) { c.ClientID, c.ClientSecret = "mask", "mask" })
	tests := []struct {
		name   string
		client *exchange.Client
		change func(*exchange.Request)
		kind   exchange.Kind
		want   string // OAuth error code
		cause  error
	}{
		{"audience", gate, func(r *exchange.Request) { r.Audience = "http://bank.example/" }, exchange.Refused, "invalid_target", nil},
		{"scope", gate, func(r *exchange.Request) { r.Scopes = []string{"mcp:use"} }, exchange.Refused, "invalid_scope", nil},
		{"secret", wrong, func(*exchange.Request) {}, exchange.Refused, "invalid_client", nil},
		{"other subject", gate, func(r *exchange.Request) { r.Subject = "bob" }, exchange.Unacceptable, "", exchange.ErrSubject},
		{"no act", mask, func(r *exchange.Request) { r.RequireAct = true }, exchange.Unacceptable, "", exchange.ErrActor},
		{"act under impersonation", gate, func(r *exchange.Request) { r.Delegation = false }, exchange.Unacceptable, "", exchange.ErrActor},
	}
	alice := s.login("alice").Access
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := exchange.Request{SubjectToken: alice, Subject: "alice", Audience: tickets, Scopes: []string{"item:List"}, Lifetime: 5 * time.Second, Delegation: true}
			tt.change(&r)
			token, err := tt.client.Exchange(t.Context(), r)
			var e *exchange.Error
			if token != nil || !errors.As(err, &e) || e.Kind != tt.kind || e.Code != tt.want || tt.cause != nil && !errors.Is(err, tt.cause) {
				t.Errorf("got %v, %v", token, err)
			}
		})
	}
}

// protectedResource is an MCP server behind a bearer token, with the metadata
// from which a client finds the authorization server (RFC 9728).
func protectedResource(s *server, audience string) http.Handler {
	server := mcp.NewServer(&mcp.Implementation{Name: "resource", Version: "1"}, nil)
	mcp.AddTool(server, &mcp.Tool{Name: "whoami"}, func(_ context.Context, req *mcp.CallToolRequest, _ struct{}) (*mcp.CallToolResult, any, error) {
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: req.Extra.TokenInfo.UserID}}}, nil, nil
	})
	handler := mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return server }, &mcp.StreamableHTTPOptions{Stateless: true})
	verify := func(_ context.Context, token string, _ *http.Request) (*auth.TokenInfo, error) {
		claims := s.claims(token)
		if claims["aud"] != audience {
			return nil, fmt.Errorf("%w: audience %v", auth.ErrInvalidToken, claims["aud"])
		}
		return &auth.TokenInfo{UserID: claims["sub"].(string), Expiration: time.Now().Add(time.Minute)}, nil
	}
	const path = "/.well-known/oauth-protected-resource/mcp"
	metadata := strings.TrimSuffix(audience, "/mcp") + path
	mux := http.NewServeMux()
	mux.Handle("/mcp", auth.RequireBearerToken(verify, &auth.RequireBearerTokenOptions{ResourceMetadataURL: metadata})(handler))
	mux.Handle(path, auth.ProtectedResourceMetadataHandler(&oauthex.ProtectedResourceMetadata{
		Resource: audience, AuthorizationServers: []string{s.url}, ScopesSupported: []string{"mcp:use"},
	}))
	return mux
}

// The MCP SDK's own client finds the server, registers, signs in and calls.
func TestSDKLogin(t *testing.T) {
	resource := httptest.NewUnstartedServer(nil)
	audience := "http://" + resource.Listener.Addr().String() + "/mcp"
	s := start(t, func(c *sts.Config) { c.Resources = []string{audience} })
	resource.Config.Handler = protectedResource(s, audience)
	resource.Start()
	t.Cleanup(resource.Close)

	const redirect = "http://127.0.0.1:43210/callback"
	browser := func(_ context.Context, args *auth.AuthorizationArgs) (*auth.AuthorizationResult, error) {
		r := s.do(s.request("GET", args.URL[len(s.url):], "", ""))
		location, err := url.Parse(r.header.Get("Location"))
		if err != nil || r.status != http.StatusFound {
			return nil, fmt.Errorf("authorize: %d %s %w", r.status, r.raw, err)
		}
		q := location.Query()
		return &auth.AuthorizationResult{Code: q.Get("code"), State: q.Get("state"), Iss: q.Get("iss")}, nil
	}
	handler, err := auth.NewAuthorizationCodeHandler(&auth.AuthorizationCodeHandlerConfig{
		DynamicClientRegistrationConfig: &auth.DynamicClientRegistrationConfig{Metadata: &oauthex.ClientRegistrationMetadata{
			ClientName: "test agent", RedirectURIs: []string{redirect},
			GrantTypes: []string{sts.GrantCode, sts.GrantRefresh}, TokenEndpointAuthMethod: "none",
		}},
		RequestRefreshToken: true, AuthorizationCodeFetcher: browser, Client: s.http,
	})
	if err != nil {
		t.Fatal(err)
	}
	client := mcp.NewClient(&mcp.Implementation{Name: "agent", Version: "1"}, nil)
	session, err := client.Connect(t.Context(), &mcp.StreamableClientTransport{
		Endpoint: audience, OAuthHandler: handler, HTTPClient: resource.Client(), DisableStandaloneSSE: true,
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	res, err := session.CallTool(t.Context(), &mcp.CallToolParams{Name: "whoami"})
	if err != nil {
		t.Fatal(err)
	}
	if text, ok := res.Content[0].(*mcp.TextContent); !ok || text.Text != "alice" {
		t.Errorf("got %v", res.Content[0])
	}
	source, err := handler.TokenSource(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	token, err := source.Token()
	if err != nil || token.RefreshToken == "" {
		t.Errorf("no refresh token: %v", err)
	}
}
