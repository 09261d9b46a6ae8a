package sts_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/exchange/sts"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	gateway  = "http://gateway.example/"
	tickets  = "http://tickets.example/"
	callback = "http://127.0.0.1:7777/callback"
	verifier = "0123456789-0123456789-0123456789-0123456789"
	secret   = "gate:way secret+%"
)

// clock is a time that tests move by hand.
type clock struct{ offset atomic.Int64 }

func (c *clock) now() time.Time          { return time.Now().Add(time.Duration(c.offset.Load())) }
func (c *clock) advance(d time.Duration) { c.offset.Add(int64(d)) }

// server is an authorization server with one client of each kind.
type server struct {
	*sts.Server
	t     *testing.T
	url   string
	clock *clock
	http  *http.Client
}

func start(t *testing.T, change ...func(*sts.Config)) *server {
	t.Helper()
	ts := httptest.NewUnstartedServer(nil)
	s := &server{t: t, url: "http://" + ts.Listener.Addr().String(), clock: &clock{}}
	cfg := config(s.url)
	cfg.Now = s.clock.now
	for _, f := range change {
		f(&cfg)
	}
	var err error
	if s.Server, err = sts.New(cfg); err != nil {
		t.Fatal(err)
	}
	ts.Config.Handler = s.Server
	ts.Start()
	t.Cleanup(ts.Close)
	s.http = ts.Client()
	s.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return s
}

func config(issuer string) sts.Config {
	return sts.Config{
		Issuer:          issuer,
		DefaultAudience: gateway,
		Resources:       []string{"http://other.example/"},
		Scopes:          []string{"mcp:use", "offline_access"},

		AllowWiderScopes: true, // the agent's token does not name what each tool needs
		Users: []sts.User{
			{Subject: "alice", Scopes: []string{"mcp:use", "admin"}, Claims: map[string]any{"email": "alice@example.com"}},
			{Subject: "bob", Scopes: []string{"mcp:use"}, Claims: map[string]any{"may_act": map[string]any{"sub": "gateway"}}},
			{Subject: "carol", Scopes: []string{"mcp:use"}, Claims: map[string]any{"may_act": map[string]any{"sub": "somebody"}}},
		},
		Clients: []sts.Client{
			{ID: "agent", Public: true, Redirects: []string{callback}, Grants: []string{sts.GrantCode, sts.GrantRefresh}, Scopes: []string{"mcp:use", "admin"}},
			{ID: "web", Secret: "web secret", Redirects: []string{"https://web.example/cb?x=1"}, Grants: []string{sts.GrantCode}, Scopes: []string{"mcp:use"}},
			{
				ID: "gateway", Secret: secret, Grants: []string{sts.GrantCredentials, sts.GrantExchange},
				Scopes: []string{"item:List", "item:Read"},
				Exchange: sts.Exchange{
					Audiences: []string{tickets, gateway}, SubjectAudiences: []string{gateway}, MaxLifetime: time.Minute,
				},
			},
			{
				ID: "mask", Secret: "mask", Grants: []string{sts.GrantExchange}, Scopes: []string{"item:List"},
				Exchange: sts.Exchange{Audiences: []string{tickets}, SubjectAudiences: []string{gateway}, Impersonate: true},
			},
		},
	}
}

type reply struct {
	status int
	header http.Header
	raw    string
	Access string `json:"access_token"`
	Issued string `json:"issued_token_type"`
	Type   string `json:"token_type"`
	Expiry int64  `json:"expires_in"`
	Scope  string `json:"scope"`
	Fresh  string `json:"refresh_token"`
	Error  string `json:"error"`
	Why    string `json:"error_description"`
}

func (s *server) do(req *http.Request) reply {
	s.t.Helper()
	res, err := s.http.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	r := reply{status: res.StatusCode, header: res.Header, raw: string(body)}
	if strings.HasPrefix(res.Header.Get("Content-Type"), "application/json") {
		if err := json.Unmarshal(body, &r); err != nil {
			s.t.Fatalf("%v in %s", err, body)
		}
	}
	return r
}

func (s *server) request(method, path, contentType, body string) *http.Request {
	s.t.Helper()
	req, err := http.NewRequest(method, s.url+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	return req
}

// token posts to the token endpoint; user and password may be empty.
func (s *server) token(user, password string, form url.Values) reply {
	s.t.Helper()
	req := s.request("POST", "/token", "application/x-www-form-urlencoded", form.Encode())
	if user != "" {
		req.SetBasicAuth(url.QueryEscape(user), url.QueryEscape(password))
	}
	return s.do(req)
}

// authorize returns the query that came back to the redirect URI.
func (s *server) authorize(change url.Values) url.Values {
	s.t.Helper()
	r := s.do(s.request("GET", "/authorize?"+authorizeQuery(change).Encode(), "", ""))
	if r.status != http.StatusFound {
		s.t.Fatalf("authorize: %d %s", r.status, r.raw)
	}
	location, err := url.Parse(r.header.Get("Location"))
	if err != nil {
		s.t.Fatal(err)
	}
	return location.Query()
}

func authorizeQuery(change url.Values) url.Values {
	sum := sha256.Sum256([]byte(verifier))
	q := url.Values{
		"response_type": {"code"}, "client_id": {"agent"}, "redirect_uri": {callback}, "state": {"a state"},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])}, "code_challenge_method": {"S256"},
	}
	return with(q, change)
}

func codeForm(code string, change url.Values) url.Values {
	return with(url.Values{
		"grant_type": {sts.GrantCode}, "client_id": {"agent"}, "code": {code}, "redirect_uri": {callback}, "code_verifier": {verifier},
	}, change)
}

// with sets the values of change; an empty list deletes.
func with(q, change url.Values) url.Values {
	for k, v := range change {
		if q[k] = v; len(v) == 0 {
			delete(q, k)
		}
	}
	return q
}

// login signs a user in at the public client.
func (s *server) login(user string) reply {
	s.t.Helper()
	code := s.authorize(url.Values{"login_hint": {user}}).Get("code")
	r := s.token("", "", codeForm(code, nil))
	if r.status != http.StatusOK {
		s.t.Fatalf("login: %d %s", r.status, r.raw)
	}
	return r
}

// claims verifies a token with the published key set, as a resource server does.
func (s *server) claims(token string) jwt.MapClaims {
	s.t.Helper()
	set := struct {
		Keys []struct{ Kty, Crv, X, Y, Kid, Use, Alg string }
	}{}
	if err := json.Unmarshal([]byte(s.do(s.request("GET", "/jwks", "", "")).raw), &set); err != nil {
		s.t.Fatal(err)
	}
	if len(set.Keys) != 1 {
		s.t.Fatalf("%d keys", len(set.Keys))
	}
	claims := jwt.MapClaims{}
	_, err := jwt.ParseWithClaims(token, claims, func(t *jwt.Token) (any, error) {
		if t.Header["typ"] != "at+jwt" || t.Header["kid"] != set.Keys[0].Kid {
			s.t.Errorf("header %v", t.Header)
		}
		return publicKey(s.t, set.Keys[0].X, set.Keys[0].Y), nil
	}, jwt.WithValidMethods([]string{"ES256"}), jwt.WithExpirationRequired(), jwt.WithTimeFunc(s.clock.now))
	if err != nil {
		s.t.Fatal(err)
	}
	return claims
}

// wantError checks an error response of the token endpoint (RFC 6749 §5.2).
func wantError(t *testing.T, r reply, status int, code string) {
	t.Helper()
	if r.status != status || r.Error != code || r.Access != "" {
		t.Errorf("got %d %s, want %d %s", r.status, r.raw, status, code)
	}
	if r.header.Get("Cache-Control") != "no-store" {
		t.Error("an error response may be cached")
	}
}
