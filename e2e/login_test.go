package e2e

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/auth"
	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/modelcontextprotocol/go-sdk/oauthex"
)

// redirectURI is where logins return to. Nobody listens there: a browser reads the answer from the address.
const redirectURI = "http://127.0.0.1:7/callback"

// userAgent is a user with a browser at login pages that others wrote: it fills in forms, and keeps cookies, so that a second login needs
// no form. Cookies marked Secure go over http too, as real browsers do it on loopback.
type userAgent struct {
	username, password string
	cookies            map[string]string
}

func newBrowser(username, password string) *userAgent {
	return &userAgent{username: username, password: password, cookies: map[string]string{}}
}

// logIn goes from a login page to the address that it returns to, and reads the answer there.
func (b *userAgent) logIn(ctx context.Context, page string) (*auth.AuthorizationResult, error) {
	at, form := page, url.Values(nil)
	for range 12 { // redirects and forms: signing in, consenting
		location, body, err := b.open(ctx, at, form)
		switch {
		case err != nil:
			return nil, err
		case strings.HasPrefix(location, redirectURI):
			to, err := url.Parse(location)
			if err != nil {
				return nil, err
			}
			q := to.Query()
			if q.Get("error") != "" {
				return nil, fmt.Errorf("login: %s: %s", q.Get("error"), q.Get("error_description"))
			}
			return &auth.AuthorizationResult{Code: q.Get("code"), State: q.Get("state"), Iss: q.Get("iss")}, nil
		case location != "":
			at, form = location, nil
		default:
			action, filled, err := b.fill(body)
			if err != nil {
				return nil, err
			}
			if at, err = resolve(at, action); err != nil {
				return nil, err
			}
			form = filled
		}
	}
	return nil, fmt.Errorf("no end of pages at %s", at)
}

// open gets a page, or posts a form, and returns where it redirects to, or else what it shows.
func (b *userAgent) open(ctx context.Context, address string, form url.Values) (location, body string, err error) {
	method := http.MethodGet
	if form != nil {
		method = http.MethodPost
	}
	req, err := http.NewRequestWithContext(ctx, method, address, strings.NewReader(form.Encode()))
	if err != nil {
		return "", "", err
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for _, name := range slices.Sorted(maps.Keys(b.cookies)) {
		req.AddCookie(&http.Cookie{Name: name, Value: b.cookies[name]})
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return "", "", err
	}
	defer func() { _ = resp.Body.Close() }()
	for _, c := range resp.Cookies() {
		if b.cookies[c.Name] = c.Value; c.Value == "" {
			delete(b.cookies, c.Name)
		}
	}
	if to, err := resp.Location(); err == nil {
		return to.String(), "", nil
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %.2000s", address, resp.Status, text)
	}
	return "", string(text), err
}

var (
	formAction = regexp.MustCompile(`<form[^>]*\saction="([^"]*)"`)
	inputs     = regexp.MustCompile(`<(?:input|button)\s[^>]*>`)
	attribute  = regexp.MustCompile(`\s(name|value|type)="([^"]*)"`)
)

// fill completes the first form of a page: who we are, and yes to what is asked.
func (b *userAgent) fill(page string) (action string, form url.Values, err error) {
	m := formAction.FindStringSubmatchIndex(page)
	if m == nil {
		return "", nil, fmt.Errorf("a page without a form: %.2000s", page)
	}
	action, page = html.UnescapeString(page[m[2]:m[3]]), page[m[1]:]
	form = url.Values{}
	for _, input := range inputs.FindAllString(page, -1) {
		got := map[string]string{}
		for _, a := range attribute.FindAllStringSubmatch(input, -1) {
			got[a[1]] = html.UnescapeString(a[2])
		}
		switch name := got["name"]; name {
		case "", "cancel", "rememberMe":
		case "username", "login":
			form.Set(name, b.username)
		case "password":
			form.Set(name, b.password)
		default:
			form.Set(name, got["value"])
		}
	}
	return action, form, nil
}

func resolve(base, reference string) (string, error) {
	at, err := url.Parse(base)
	if err != nil {
		return "", err
	}
	to, err := at.Parse(reference)
	if err != nil {
		return "", err
	}
	return to.String(), nil
}

// endpoints are an authorization server's, as its metadata has them.
type endpoints struct {
	Issuer    string `json:"issuer"`
	Authorize string `json:"authorization_endpoint"`
	Token     string `json:"token_endpoint"`
}

// tokens logs in as a client: authorization code with PKCE. It returns the answer of the token endpoint.
func (b *userAgent) tokens(t *testing.T, at endpoints, clientID, secret, scope string) map[string]any {
	t.Helper()
	verifier := rand.Text() + rand.Text()
	sum := sha256.Sum256([]byte(verifier))
	q := url.Values{"response_type": {"code"}, "client_id": {clientID}, "redirect_uri": {redirectURI}, "state": {"s"}, "scope": {scope},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])}, "code_challenge_method": {"S256"}}
	answer, err := b.logIn(t.Context(), at.Authorize+"?"+q.Encode())
	must(t, err)
	form := url.Values{"grant_type": {"authorization_code"}, "code": {answer.Code}, "redirect_uri": {redirectURI}, "code_verifier": {verifier}}
	if secret == "" {
		form.Set("client_id", clientID)
	}
	req, err := http.NewRequest(http.MethodPost, at.Token, strings.NewReader(form.Encode()))
	must(t, err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if secret != "" {
		req.SetBasicAuth(clientID, secret)
	}
	resp, err := client.Do(req)
	must(t, err)
	defer func() { _ = resp.Body.Close() }()
	out := map[string]any{}
	must(t, json.NewDecoder(resp.Body).Decode(&out))
	if out["access_token"] == nil {
		t.Fatalf("logging in: %s %v", resp.Status, out)
	}
	return out
}

// sdkAgent is an agent of the Go SDK's that logs in at the first 401, in the browser, and again when it is told that it
// lacks a scope. With a document's address it is the client of that name, otherwise it registers itself.
func (b *userAgent) sdkAgent(ctx context.Context, endpoint, document string) (*mcp.ClientSession, error) {
	config := auth.AuthorizationCodeHandlerConfig{RedirectURL: redirectURI,
		AuthorizationCodeFetcher: func(ctx context.Context, args *auth.AuthorizationArgs) (*auth.AuthorizationResult, error) {
			return b.logIn(ctx, args.URL)
		}}
	if document != "" {
		config.ClientIDMetadataDocumentConfig = &auth.ClientIDMetadataDocumentConfig{URL: document}
	} else {
		config.DynamicClientRegistrationConfig = &auth.DynamicClientRegistrationConfig{Metadata: &oauthex.ClientRegistrationMetadata{
			ClientName: "agent", RedirectURIs: []string{redirectURI}, GrantTypes: []string{"authorization_code"}, TokenEndpointAuthMethod: "none"}}
	}
	handler, err := auth.NewAuthorizationCodeHandler(&config)
	if err != nil {
		return nil, err
	}
	return mcp.NewClient(&mcp.Implementation{Name: "agent", Version: "1"}, nil).
		Connect(ctx, &mcp.StreamableClientTransport{Endpoint: endpoint, OAuthHandler: handler}, nil)
}

// logsInAndCalls lets an agent of the SDK's log in by itself and make one call, which arrives once: that is what it returns.
func (b *userAgent) logsInAndCalls(ctx context.Context, t *testing.T, w *world, document string) (*mcp.ClientSession, received) {
	t.Helper()
	cs, err := b.sdkAgent(ctx, w.url, document)
	must(t, err)
	before := len(w.items.calls())
	result, err := cs.CallTool(ctx, &mcp.CallToolParams{Name: "items_listItems"})
	must(t, err)
	calls := w.items.calls()
	if result.IsError || len(calls) != before+1 {
		t.Fatalf("%v, %d calls arrived", result.Content, len(calls)-before)
	}
	return cs, calls[before]
}

// metadataDocument publishes who a client is (OAuth Client ID Metadata Document) at an https address, which is its id.
func metadataDocument(t *testing.T, w *world) string {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(w.path("cert.pem"), w.path("key.pem"))
	must(t, err)
	var id string
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(rw, `{"client_id":%q,"client_name":"agent","redirect_uris":[%q],"grant_types":["authorization_code"],`+
			`"response_types":["code"],"token_endpoint_auth_method":"none"}`, id, redirectURI)
	}))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	server.StartTLS()
	t.Cleanup(server.Close)
	id = server.URL + "/agent.json"
	return id
}

// certificates writes an authority's certificate, and a certificate of its own, good for servers and clients.
func (w *world) certificates() {
	w.t.Helper()
	ca, caKey := authority(w.t)
	cert, key := leaf(w.t, ca, caKey)
	w.write("ca.pem", certPEM(ca.Raw))
	w.write("cert.pem", cert)
	w.write("key.pem", key)
}

// pageConfig is the configuration that a page of docs/providers shows, with the tests' addresses in place of the
// examples', and more pieces behind it.
func (w *world) pageConfig(page string, replaced []string, more ...string) {
	w.t.Helper()
	shown := fenced(contents(w.t, "..", "docs", "providers", page), "yaml")
	if len(shown) == 0 {
		w.t.Fatalf("%s shows no configuration", page)
	}
	own := strings.NewReplacer("@ADDRESS", w.address, "@ADMIN", w.admin, "@ITEMS", w.items.addr())
	pieces := []string{"http:\n  address: @ADDRESS\nadmin:\n  address: @ADMIN\naudit:\n  file: audit.jsonl\nsession:\n  key: <sallyport.sessionKey>\n",
		strings.NewReplacer(append(replaced, "https://gateway.example.com/mcp", w.url,
			"https://items.internal.example.com/mcp", "http://@ITEMS/mcp", "items.rego", "seed.rego")...).Replace(shown[0]) + "\n"}
	w.write("sallyport.yaml", own.Replace(strings.Join(append(pieces, more...), "---\n")))
}
