package demo

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/modelcontextprotocol/go-sdk/auth"
	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/modelcontextprotocol/go-sdk/oauthex"
)

// agent is an MCP client as others write them: the official SDK, with its own OAuth login.
type agent struct {
	url     string
	handler *auth.AuthorizationCodeHandler
	session *mcp.ClientSession
}

// redirect is where the agent's browser would come back to. Nothing listens there: the demo's browser stops in time.
const redirect = "http://127.0.0.1:7/callback"

func newAgent(url string) (*agent, error) {
	handler, err := auth.NewAuthorizationCodeHandler(&auth.AuthorizationCodeHandlerConfig{
		DynamicClientRegistrationConfig: &auth.DynamicClientRegistrationConfig{Metadata: &oauthex.ClientRegistrationMetadata{
			ClientName: "demo-agent", RedirectURIs: []string{redirect},
			GrantTypes: []string{"authorization_code", "refresh_token"}, TokenEndpointAuthMethod: "none"}},
		RedirectURL: redirect, AuthorizationCodeFetcher: browse,
	})
	return &agent{url: url, handler: handler}, err
}

// browse is the user at his browser: he opens the login page and is sent back with a code.
func browse(ctx context.Context, args *auth.AuthorizationArgs) (*auth.AuthorizationResult, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, args.URL, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultTransport.RoundTrip(req) // one step: the redirect is the answer
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	to, err := resp.Location()
	if err != nil {
		return nil, fmt.Errorf("login: %s: %w", resp.Status, err)
	}
	q := to.Query()
	if q.Get("code") == "" {
		return nil, errors.New("login refused: " + q.Get("error"))
	}
	return &auth.AuthorizationResult{Code: q.Get("code"), State: q.Get("state"), Iss: q.Get("iss")}, nil
}

// connect opens the MCP connection; the 401 on the way makes the SDK discover, register and log in.
func (a *agent) connect(ctx context.Context) error {
	client := mcp.NewClient(&mcp.Implementation{Name: "demo-agent", Version: "1.0.0"}, nil)
	session, err := client.Connect(ctx, &mcp.StreamableClientTransport{Endpoint: a.url, OAuthHandler: a.handler, DisableStandaloneSSE: true}, nil)
	a.session = session
	return err
}

// claims decodes the agent's access token, which itself is never shown.
func (a *agent) claims(ctx context.Context) (map[string]any, error) {
	source, err := a.handler.TokenSource(ctx)
	if err != nil || source == nil {
		return nil, errors.Join(err, errors.New("not logged in"))
	}
	t, err := source.Token()
	if err != nil {
		return nil, err
	}
	parts := strings.Split(t.AccessToken, ".")
	if len(parts) != 3 {
		return nil, errors.New("the token is no JWT")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil, err
	}
	var claims map[string]any
	return claims, json.Unmarshal(payload, &claims)
}

// call calls a tool. A refusal, in whichever of its forms, is an answer too: refused says so.
func (a *agent) call(ctx context.Context, tool string, arguments any) (answer string, refused bool, err error) {
	result, err := a.session.CallTool(ctx, &mcp.CallToolParams{Name: tool, Arguments: arguments})
	if err != nil {
		return err.Error(), true, nil
	}
	for _, c := range result.Content {
		if t, ok := c.(*mcp.TextContent); ok {
			answer += t.Text
		}
	}
	return answer, result.IsError, nil
}
