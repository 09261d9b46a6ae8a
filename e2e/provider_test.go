package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sallyport/sallyport/exchange/sts"
)

// provider is the authorization server of the tests: the embedded one, and its key, to forge what it never would.
type provider struct {
	*httptest.Server
	sts *sts.Server
	cfg sts.Config // of sts
	key *ecdsa.PrivateKey

	mu       sync.Mutex
	override func(w http.ResponseWriter, r *http.Request) bool // takes over the token endpoint
	logins   []string                                          // scope of the logins
	forms    []url.Values                                      // token exchanges, as they came
	own      []url.Values                                      // requests for tokens of the gateway's own
	noOwn    bool                                              // it refuses these
	auths    []string                                          // Authorization headers of the exchanges
	leaks    *leaks                                            // what becomes of the tokens; nil for nobody's business
}

const (
	gatewayClient = "ai-identity-gateway"
	gatewaySecret = "a-secret-for-tests-only"
	agentClient   = "test-agent"
	user          = "wile.e@acme.example"
	otherUser     = "road.runner@acme.example"
)

// newProvider starts an authorization server that gives agents tokens for audience, and lets the gateway exchange
// them for tokens of any of targets.
func newProvider(t *testing.T, audience string, targets ...string) *provider {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	p := &provider{key: key}
	p.Server = httptest.NewServer(p)
	t.Cleanup(p.Close)
	p.change(t, func(c *sts.Config) {
		*c = sts.Config{
			Issuer: p.URL, Key: key, DefaultAudience: audience, AllowWiderScopes: true, // agents' tokens only say who calls
			Users: []sts.User{{Subject: user, Claims: map[string]any{"groups": []string{"buyers"}}}, {Subject: otherUser}},
			Clients: []sts.Client{
				{ID: agentClient, Public: true, Redirects: []string{"http://127.0.0.1/callback"}, Grants: []string{sts.GrantCode, sts.GrantRefresh}},
				{ID: gatewayClient, Secret: gatewaySecret, Grants: []string{sts.GrantCredentials, sts.GrantExchange},
					Scopes:   []string{"item:List", "item:Get", "item:Create", "item:Update", "other:Run"},
					Exchange: sts.Exchange{Audiences: targets, SubjectAudiences: []string{audience}}},
			},
		}
	})
	return p
}

// change makes another server, of the same name and key, of the one that is there.
func (p *provider) change(t *testing.T, how func(c *sts.Config)) {
	t.Helper()
	how(&p.cfg)
	server, err := sts.New(p.cfg)
	must(t, err)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sts = server
}

func (p *provider) current() *sts.Server {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sts
}

func (p *provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/authorize" {
		p.mu.Lock()
		p.logins = append(p.logins, r.URL.Query().Get("scope"))
		p.mu.Unlock()
	}
	if r.URL.Path != "/token" || r.Method != http.MethodPost {
		p.current().ServeHTTP(w, r)
		return
	}
	answer := &overheard{ResponseWriter: w}
	form, taken := p.intercept(answer, r)
	if !taken {
		p.current().ServeHTTP(answer, r)
	}
	p.hideIssued(form.Get("grant_type"), form.Get("audience"), answer.body.Bytes())
}

// intercept remembers token exchanges and lets a test answer in the server's place.
func (p *provider) intercept(w http.ResponseWriter, r *http.Request) (url.Values, bool) {
	body := new(strings.Builder)
	if _, err := copyBounded(body, r.Body); err != nil {
		return nil, false
	}
	form, _ := url.ParseQuery(body.String())
	r.Body = readCloser(body.String())
	if form.Get("grant_type") == "client_credentials" {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.own = append(p.own, form)
		return form, p.noOwn && refuseClient(w)
	}
	if !strings.HasSuffix(form.Get("grant_type"), "token-exchange") {
		return form, false
	}
	p.mu.Lock()
	p.forms = append(p.forms, form)
	p.auths = append(p.auths, r.Header.Get("Authorization"))
	override := p.override
	p.mu.Unlock()
	return form, override != nil && override(w, r)
}

// exchanges are the token exchange requests that arrived.
func (p *provider) exchanges() []url.Values {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]url.Values(nil), p.forms...)
}

// ownTokens are the client credentials requests that arrived.
func (p *provider) ownTokens() []url.Values {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]url.Values(nil), p.own...)
}

// refuseClient is the answer to a client that may not use a grant (RFC 6749 §5.2).
func refuseClient(w http.ResponseWriter) bool {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusBadRequest)
	_, _ = w.Write([]byte(`{"error":"unauthorized_client"}`))
	return true
}

func (p *provider) setOverride(f func(w http.ResponseWriter, r *http.Request) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.override = f
}

// login gets an agent's token the way agents do: authorization code with PKCE.
func (p *provider) login(t *testing.T, resource string) string {
	t.Helper()
	return p.loginAs(t, resource, user)
}

func (p *provider) loginAs(t *testing.T, resource, subject string) string {
	t.Helper()
	verifier := rand.Text() + rand.Text()
	sum := sha256.Sum256([]byte(verifier))
	q := url.Values{"response_type": {"code"}, "client_id": {agentClient}, "redirect_uri": {"http://127.0.0.1:7/callback"},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])}, "code_challenge_method": {"S256"},
		"state": {"s"}, "resource": {resource}, "login_hint": {subject}}
	req, err := http.NewRequest(http.MethodGet, p.URL+"/authorize?"+q.Encode(), nil)
	must(t, err)
	resp, err := http.DefaultTransport.RoundTrip(req)
	must(t, err)
	_ = resp.Body.Close()
	to, err := resp.Location()
	must(t, err)
	form := url.Values{"grant_type": {"authorization_code"}, "code": {to.Query().Get("code")}, "client_id": {agentClient},
		"redirect_uri": {"http://127.0.0.1:7/callback"}, "code_verifier": {verifier}, "resource": {resource}}
	answer, err := http.PostForm(p.URL+"/token", form)
	must(t, err)
	defer func() { _ = answer.Body.Close() }()
	var out struct {
		AccessToken string `json:"access_token"`
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}
	must(t, json.NewDecoder(answer.Body).Decode(&out))
	if out.AccessToken == "" {
		t.Fatalf("login: %s %s", out.Error, out.Description)
	}
	return out.AccessToken
}

// forge signs any claims with the server's own key.
func (p *provider) forge(t *testing.T, change func(header map[string]any, claims jwt.MapClaims)) string {
	t.Helper()
	now := time.Now().Unix()
	tok := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{"iss": p.URL, "sub": user, "client_id": agentClient,
		"iat": now, "exp": now + 600, "jti": rand.Text()})
	tok.Header["typ"], tok.Header["kid"] = "at+jwt", p.kid(t)
	change(tok.Header, tok.Claims.(jwt.MapClaims))
	signed, err := tok.SignedString(p.key)
	must(t, err)
	switch {
	case p.leaks == nil:
	case tok.Claims.(jwt.MapClaims)["aud"] == "https://items.example/": // in place of an exchanged one
		p.leaks.hide("a token for items", signed, "items")
	default:
		p.leaks.hide("a forged token", signed)
	}
	return signed
}

func (p *provider) kid(t *testing.T) string {
	t.Helper()
	resp, err := http.Get(p.URL + "/jwks")
	must(t, err)
	defer func() { _ = resp.Body.Close() }()
	var set struct {
		Keys []struct {
			Kid string `json:"kid"`
		} `json:"keys"`
	}
	must(t, json.NewDecoder(resp.Body).Decode(&set))
	return set.Keys[0].Kid
}

// claims decodes a token without judging it.
func claims(t *testing.T, token string) jwt.MapClaims {
	t.Helper()
	out := jwt.MapClaims{}
	_, _, err := jwt.NewParser().ParseUnverified(strings.TrimPrefix(token, "Bearer "), out)
	must(t, err)
	return out
}

// freePort finds a loopback address for somebody else to listen on. Its port is below those that the kernel gives to
// connections and to listeners without a wish, so that nothing of the tests takes it in the meantime.
func freePort(t *testing.T) string {
	t.Helper()
	for {
		n, err := rand.Int(rand.Reader, big.NewInt(12_000))
		must(t, err)
		address := "127.0.0.1:" + strconv.FormatInt(20_000+n.Int64(), 10)
		if l, err := net.Listen("tcp", address); err == nil {
			must(t, l.Close())
			return address
		}
	}
}
