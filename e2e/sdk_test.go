package e2e

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"
	"github.com/modelcontextprotocol/go-sdk/auth"
	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/modelcontextprotocol/go-sdk/oauthex"
)

// The official SDK on both sides: agents that log in by themselves, servers that know nothing of a gateway.

const (
	legacyVersion = "2025-11-25"
	modernVersion = "2026-07-28"
)

// sdkServer is an MCP server of the SDK's.
type sdkServer struct {
	*httptest.Server
	calls atomic.Int64 // of tools
	ended atomic.Int64 // sessions, by DELETE

	mu     sync.Mutex
	eras   map[string]bool   // protocol versions of the calls, " session" behind those that had one
	owners map[string]string // whose token came with a session first
	mixed  []string          // sessions with tokens of several
}

// note remembers how a call came.
func (s *sdkServer) note(r *http.Request, subject string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	era, session := r.Header.Get("MCP-Protocol-Version"), r.Header.Get("Mcp-Session-Id")
	if session != "" {
		era += " session"
		if owner, ok := s.owners[session]; ok && owner != subject {
			s.mixed = append(s.mixed, session)
		}
		s.owners[session] = subject
	}
	s.eras[era] = true
}

// came returns how calls came.
func (s *sdkServer) came() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.eras))
}

func (s *sdkServer) addr() string { return s.Listener.Addr().String() }

func newSDKServer(t *testing.T, server *mcp.Server, opts mcp.StreamableHTTPOptions, guard func(http.Handler) http.Handler) *sdkServer {
	t.Helper()
	s := &sdkServer{eras: map[string]bool{}, owners: map[string]string{}}
	handler := guard(mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return server }, &opts))
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		subject := ""
		if bearer := r.Header.Get("Authorization"); bearer != "" {
			subject, _ = claims(t, bearer).GetSubject()
		}
		switch {
		case r.Method == http.MethodDelete:
			s.ended.Add(1)
		case peek(r).Method == "tools/call":
			s.calls.Add(1)
			s.note(r, subject)
		}
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

// peek reads a request's message and leaves it there.
func peek(r *http.Request) (message struct {
	Method string
	Params struct{ Name string }
}) {
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	_ = json.Unmarshal(body, &message)
	return message
}

func unguarded(h http.Handler) http.Handler { return h }

// modernOnly makes a server of one that has forgotten the older revisions.
func modernOnly(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("MCP-Protocol-Version") != modernVersion {
			rpcError(w, http.StatusNotFound, nil, -32601, "method not found")
			return
		}
		h.ServeHTTP(w, r)
	})
}

// caller is what a tool saw of who called it, and with what.
type caller struct {
	Sub    string   `json:"sub"`
	Scopes []string `json:"scopes"`
	N      int      `json:"n"`
}

type number struct {
	N int `json:"n"`
}

// guardedTools answer with the identity in the verified token.
func guardedTools() *mcp.Server {
	s := mcp.NewServer(&mcp.Implementation{Name: "items", Version: "1"}, nil)
	for _, name := range []string{"listItems", "getItem", "createItem"} {
		mcp.AddTool(s, &mcp.Tool{Name: name}, func(_ context.Context, req *mcp.CallToolRequest, in number) (*mcp.CallToolResult, any, error) {
			info := req.Extra.TokenInfo
			return says(caller{Sub: info.UserID, Scopes: info.Scopes, N: in.N}), nil, nil
		})
	}
	return s
}

// openTools are for everybody.
func openTools() *mcp.Server {
	s := mcp.NewServer(&mcp.Implementation{Name: "open", Version: "1"}, nil)
	mcp.AddTool(s, &mcp.Tool{Name: "echo"}, func(_ context.Context, req *mcp.CallToolRequest, in number) (*mcp.CallToolResult, any, error) {
		if req.Extra.Header.Get("Authorization") != "" {
			return nil, nil, errors.New("a token arrived")
		}
		return says(caller{N: in.N}), nil, nil
	})
	mcp.AddTool(s, &mcp.Tool{Name: "spend"}, func(context.Context, *mcp.CallToolRequest, struct {
		Amount int `json:"amount"`
	}) (*mcp.CallToolResult, any, error) {
		return says(caller{}), nil, nil
	})
	return s
}

func says(v any) *mcp.CallToolResult {
	b, _ := json.Marshal(v)
	return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: string(b)}}}
}

// scopes are what the guarded server demands of a token, by tool.
var scopes = map[string]string{"listItems": "item:List", "getItem": "item:Get", "createItem": "item:Create"}

// bearerGuard lets everybody look, and demands a token of the provider's, with the tool's scope, for a call.
func (p *provider) bearerGuard(t *testing.T, audience string) func(http.Handler) http.Handler {
	verify := p.tokenVerifier(t, audience)
	return func(open http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			handler := open
			if m := peek(r); m.Method == "tools/call" {
				handler = auth.RequireBearerToken(verify, &auth.RequireBearerTokenOptions{Scopes: []string{scopes[m.Params.Name]}})(open)
			}
			handler.ServeHTTP(w, r)
		})
	}
}

// tokenVerifier accepts the provider's tokens for an audience.
func (p *provider) tokenVerifier(t *testing.T, audience string) auth.TokenVerifier {
	key := p.publicKey(t)
	return func(_ context.Context, raw string, _ *http.Request) (*auth.TokenInfo, error) {
		c := jwt.MapClaims{}
		if _, err := jwt.ParseWithClaims(raw, c, func(*jwt.Token) (any, error) { return key, nil }, jwt.WithValidMethods([]string{"ES256"}),
			jwt.WithAudience(audience), jwt.WithIssuer(p.URL), jwt.WithExpirationRequired()); err != nil {
			return nil, fmt.Errorf("%w: %w", auth.ErrInvalidToken, err)
		}
		exp, _ := c.GetExpirationTime()
		scope, _ := c["scope"].(string)
		sub, _ := c.GetSubject()
		return &auth.TokenInfo{UserID: sub, Scopes: strings.Fields(scope), Expiration: exp.Time}, nil
	}
}

// publicKey reads the provider's published key.
func (p *provider) publicKey(t *testing.T) *ecdsa.PublicKey {
	t.Helper()
	resp, err := http.Get(p.URL + "/jwks")
	must(t, err)
	defer func() { _ = resp.Body.Close() }()
	var set struct{ Keys []struct{ X, Y string } }
	must(t, json.NewDecoder(resp.Body).Decode(&set))
	x, err := base64.RawURLEncoding.DecodeString(set.Keys[0].X)
	must(t, err)
	y, err := base64.RawURLEncoding.DecodeString(set.Keys[0].Y)
	must(t, err)
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, x, y))
	must(t, err)
	return key
}

// sdkWorld is a gateway before two of the SDK's servers.
type sdkWorld struct {
	*world
	guarded, free *sdkServer
}

func startSDK(t *testing.T, guarded, free mcp.StreamableHTTPOptions, freeGuard func(http.Handler) http.Handler) *sdkWorld {
	t.Helper()
	s := &sdkWorld{}
	s.world = start(t, func(w *world) {
		s.guarded = newSDKServer(t, guardedTools(), guarded, w.provider.bearerGuard(t, "https://items.example/"))
		s.free = newSDKServer(t, openTools(), free, freeGuard)
		w.edit("sallyport.yaml", w.items.addr(), s.guarded.addr())
		w.edit("sallyport.yaml", w.open.addr(), s.free.addr())
	})
	return s
}

// agent logs in as subject, at the first 401, with a client that registers itself, and connects.
func (s *sdkWorld) agent(ctx context.Context, subject, version string, change ...func(*auth.AuthorizationCodeHandlerConfig)) (*mcp.ClientSession, error) {
	const redirect = "http://127.0.0.1:7/callback"
	cfg := &auth.AuthorizationCodeHandlerConfig{
		DynamicClientRegistrationConfig: &auth.DynamicClientRegistrationConfig{Metadata: &oauthex.ClientRegistrationMetadata{
			ClientName: "agent of " + subject, RedirectURIs: []string{redirect}, GrantTypes: []string{"authorization_code"}, TokenEndpointAuthMethod: "none"}},
		RedirectURL: redirect,
		AuthorizationCodeFetcher: func(ctx context.Context, args *auth.AuthorizationArgs) (*auth.AuthorizationResult, error) {
			return signIn(ctx, args.URL+"&login_hint="+url.QueryEscape(subject))
		},
	}
	for _, f := range change {
		f(cfg)
	}
	handler, err := auth.NewAuthorizationCodeHandler(cfg)
	if err != nil {
		return nil, err
	}
	client := mcp.NewClient(&mcp.Implementation{Name: "agent", Version: "1"}, nil)
	return client.Connect(ctx, &mcp.StreamableClientTransport{Endpoint: s.url, OAuthHandler: handler}, &mcp.ClientSessionOptions{ProtocolVersion: version})
}

// signIn is the user at the browser.
func signIn(ctx context.Context, page string) (*auth.AuthorizationResult, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, page, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	_ = resp.Body.Close()
	to, err := resp.Location()
	if err != nil {
		return nil, err
	}
	q := to.Query()
	return &auth.AuthorizationResult{Code: q.Get("code"), State: q.Get("state"), Iss: q.Get("iss")}, nil
}

// ask calls a tool and reads what it says.
func ask(ctx context.Context, cs *mcp.ClientSession, tool string, arguments any) (caller, error) {
	r, err := cs.CallTool(ctx, &mcp.CallToolParams{Name: tool, Arguments: arguments})
	if err != nil {
		return caller{}, err
	}
	text, _ := r.Content[0].(*mcp.TextContent)
	if r.IsError {
		return caller{}, errors.New(text.Text)
	}
	var c caller
	return c, json.Unmarshal([]byte(text.Text), &c)
}

func TestSDK(t *testing.T) {
	const sessions, plain, modern = legacyVersion + " session", legacyVersion, modernVersion
	stateful, stateless := mcp.StreamableHTTPOptions{}, mcp.StreamableHTTPOptions{Stateless: true}
	inJSON := func(o mcp.StreamableHTTPOptions) mcp.StreamableHTTPOptions { o.JSONResponse = true; return o }
	for _, c := range []struct {
		name                  string
		guarded, free         mcp.StreamableHTTPOptions
		freeGuard             func(http.Handler) http.Handler
		guardedCame, freeCame []string // whatever the agents speak, each server hears what it knows
	}{
		{"stateful, event streams", stateful, stateful, unguarded, []string{sessions}, []string{sessions}},
		{"stateful, JSON", inJSON(stateful), inJSON(stateful), unguarded, []string{sessions}, []string{sessions}},
		{"stateless, event streams", stateless, stateless, unguarded, []string{plain, modern}, []string{plain, modern}},
		{"stateless, JSON", inJSON(stateless), inJSON(stateless), unguarded, []string{plain, modern}, []string{plain, modern}},
		{"one of each age", stateful, inJSON(stateless), modernOnly, []string{sessions}, []string{modern}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := startSDK(t, c.guarded, c.free, c.freeGuard)
			for _, version := range []string{legacyVersion, modernVersion} {
				t.Run(version, func(t *testing.T) { s.story(t, version) })
			}
			if diff := cmp.Diff([][]string{c.guardedCame, c.freeCame}, [][]string{s.guarded.came(), s.free.came()}); diff != "" {
				t.Errorf("how the calls came, at the guarded and at the free server:\n%s", diff)
			}
			if !c.guarded.Stateless {
				await(t, "the end of the agent's session at the server", func() bool { return s.guarded.ended.Load() > 0 })
			}
			s.account(t)
		})
	}
}

// story is one agent's day.
func (s *sdkWorld) story(t *testing.T, version string) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cs, err := s.agent(ctx, user, version)
	must(t, err)
	if got := cs.InitializeResult().ProtocolVersion; got != version {
		t.Errorf("negotiated %s", got)
	}
	list, err := cs.ListTools(ctx, nil)
	must(t, err)
	var names []string
	for _, tool := range list.Tools {
		names = append(names, tool.Name)
	}
	slices.Sort(names)
	if diff := cmp.Diff([]string{"my_server_getItem", "my_server_listItems", "open_echo", "open_spend"}, names); diff != "" {
		t.Error(diff)
	}
	for tool, want := range map[string]caller{
		"my_server_listItems": {Sub: user, Scopes: []string{"item:List"}, N: 1},
		"my_server_getItem":   {Sub: user, Scopes: []string{"item:Get"}, N: 1},
		"open_echo":           {N: 1},
	} {
		got, err := ask(ctx, cs, tool, number{1})
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s: %v\n%s", tool, err, diff)
		}
	}
	before := s.guarded.calls.Load() + s.free.calls.Load()
	if _, err := ask(ctx, cs, "open_spend", map[string]any{"amount": 500}); err == nil || err.Error() != "too much money" {
		t.Errorf("refused call: %v", err)
	}
	for _, tool := range []string{"my_server_createItem", "open_nothing", "listItems"} {
		var wire *jsonrpc.Error
		if _, err := ask(ctx, cs, tool, number{1}); !errors.As(err, &wire) || wire.Code != -32602 || !strings.Contains(wire.Message, "Unknown tool") {
			t.Errorf("%s: %v", tool, err)
		}
	}
	if n := s.guarded.calls.Load() + s.free.calls.Load() - before; n != 0 {
		t.Errorf("%d refused calls reached a server", n)
	}
	if version == legacyVersion {
		must(t, cs.Ping(ctx, nil))
	}
	must(t, cs.Close())
	s.checkEnd(t, cs.ID())
}

// checkEnd asserts that a closed session is closed: its DELETE was judged.
func (s *sdkWorld) checkEnd(t *testing.T, session string) {
	t.Helper()
	if session == "" {
		return
	}
	await(t, "the DELETE of the session", func() bool {
		return slices.ContainsFunc(s.audit(), func(r record) bool { return r["method"] == "http/delete" && r["outcome"] == "allowed" })
	})
	if a := s.send(legacy(session, `{"jsonrpc":"2.0","id":1,"method":"ping"}`)); a.Status != http.StatusNotFound {
		t.Errorf("the closed session: %s", a)
	}
}

// account compares the audit with what the servers counted.
func (s *sdkWorld) account(t *testing.T) {
	t.Helper()
	allowed := int64(0)
	for _, p := range s.reconcile() {
		d, c := p[0], p[1]
		if d["method"] == "tools/call" && d["outcome"] == "allowed" {
			allowed++
		}
		if d["method"] == "http/get" && c["outcome"] == "aborted" {
			continue // the agent closed its stream
		}
		if (d["outcome"] == "allowed") != (c["outcome"] == "ok") {
			t.Errorf("decision %v ended as %v", d, c)
		}
	}
	for _, server := range []*sdkServer{s.guarded, s.free} {
		if len(server.mixed) > 0 {
			t.Errorf("sessions with tokens of several users: %v", server.mixed)
		}
	}
	if n := s.guarded.calls.Load() + s.free.calls.Load(); n != allowed || n == 0 {
		t.Errorf("%d calls arrived, %d were allowed", n, allowed)
	}
	s.verifyAudit()
}

// The guarded server is guarded indeed: whoever comes past the gateway without the right token stays outside.
func TestSDKServerIsGuarded(t *testing.T) {
	s := startSDK(t, mcp.StreamableHTTPOptions{Stateless: true}, mcp.StreamableHTTPOptions{Stateless: true}, unguarded)
	for what, token := range map[string]string{"no token": "", "the agent's token": s.token} {
		r := legacyCall("", "getItem", `{"n":1}`)
		req, err := http.NewRequest(http.MethodPost, s.guarded.URL, strings.NewReader(r.body))
		must(t, err)
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		resp, err := client.Do(req)
		must(t, err)
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: %s", what, resp.Status)
		}
	}
}

// Agents of two users, in both eras, call at the same time. Nobody sees anything of the others.
func TestSDKAgentsInParallel(t *testing.T) {
	for name, opts := range map[string]mcp.StreamableHTTPOptions{"stateful": {}, "stateless": {Stateless: true, JSONResponse: true}} {
		t.Run(name, func(t *testing.T) {
			s := startSDK(t, opts, opts, unguarded)
			ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
			defer cancel()
			var group sync.WaitGroup
			for i, version := range []string{legacyVersion, legacyVersion, modernVersion, modernVersion} {
				subject := []string{user, otherUser}[i%2]
				group.Go(func() {
					if err := s.manyCalls(ctx, subject, version, i*1000); err != nil {
						t.Errorf("%s, %s: %v", subject, version, err)
					}
				})
			}
			group.Wait()
			s.account(t)
		})
	}
}

// manyCalls makes 50 calls with numbers of its own, several at a time.
func (s *sdkWorld) manyCalls(ctx context.Context, subject, version string, base int) error {
	cs, err := s.agent(ctx, subject, version)
	if err != nil {
		return err
	}
	var group sync.WaitGroup
	failures := make([]error, 50)
	slots := make(chan struct{}, 5)
	for i := range failures {
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			tool, want := "my_server_getItem", caller{Sub: subject, Scopes: []string{"item:Get"}, N: base + i}
			if i%5 == 0 {
				tool, want = "open_echo", caller{N: base + i}
			}
			got, err := ask(ctx, cs, tool, number{base + i})
			if diff := cmp.Diff(want, got); diff != "" || err != nil {
				failures[i] = fmt.Errorf("call %d: %w\n%s", i, err, diff)
			}
		})
	}
	group.Wait()
	return errors.Join(append(failures, cs.Close())...)
}
