package exchange

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server is an authorization server that says what the test wants.
type server struct {
	*httptest.Server
	mu       sync.Mutex
	forms    []url.Values
	headers  []http.Header
	metadata func() any
	answer   func(w http.ResponseWriter, form url.Values)
}

func serve(t *testing.T, start func(*httptest.Server)) *server {
	t.Helper()
	s := &server{}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, 200, s.metadata())
	})
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil {
			t.Error(err)
		}
		s.mu.Lock()
		s.forms, s.headers = append(s.forms, r.PostForm), append(s.headers, r.Header)
		answer := s.answer
		s.mu.Unlock()
		answer(w, r.PostForm)
	})
	s.Server = httptest.NewUnstartedServer(mux)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	start(s.Server)
	t.Cleanup(s.Close)
	s.metadata = func() any { return map[string]any{"issuer": s.URL, "token_endpoint": s.URL + "/token"} }
	s.answer = func(w http.ResponseWriter, _ url.Values) { writeJSON(w, 200, good(s.URL)) }
	return s
}

// set changes the answer where a request may still be under way.
func (s *server) set(answer func(http.ResponseWriter, url.Values)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

// asked counts the requests to the token endpoint.
func (s *server) asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.forms)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

// client makes a client whose metadata has been fetched once.
func (s *server) client(t *testing.T, change ...func(*Config)) *Client {
	t.Helper()
	c := s.newClient(t, change...)
	if err := c.refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

func (s *server) newClient(t *testing.T, change ...func(*Config)) *Client {
	t.Helper()
	cfg := Config{WellKnown: s.URL + "/.well-known/openid-configuration", ClientID: "gate way", ClientSecret: "s+c:r%t"}
	for _, f := range change {
		f(&cfg)
	}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.http.CloseIdleConnections)
	return c
}

const audience = "https://tickets.example/"

func request() Request {
	return Request{
		SubjectToken: "subject-token", Subject: "alice", Audience: audience, Scopes: []string{"item:List", "item:Read"},
		Lifetime: 5 * time.Second, Delegation: true,
	}
}

// goodClaims and good are an answer to request() without fault.
func goodClaims(issuer string) map[string]any {
	now := time.Now().Unix()
	return map[string]any{
		"iss": issuer, "sub": "alice", "aud": audience, "scope": "item:List item:Read", "iat": now, "exp": now + 5, "jti": "1",
		"act": map[string]any{"sub": "gate way", "act": map[string]any{"client_id": "agent"}},
	}
}

func good(issuer string) map[string]any {
	return map[string]any{
		"access_token": sign(goodClaims(issuer)), "issued_token_type": typeAccessToken, "token_type": "Bearer", "expires_in": 5, "scope": "item:Read item:List",
	}
}

// sign makes a JWT with a signature that nobody looks at.
func sign(claims any) string {
	payload, err := json.Marshal(claims)
	if err != nil {
		panic(err)
	}
	return jwtOf(`{"alg":"ES256"}`, string(payload))
}

func jwtOf(header, payload string) string {
	enc := base64.RawURLEncoding.EncodeToString
	return enc([]byte(header)) + "." + enc([]byte(payload)) + ".c2ln"
}

func wantKind(t *testing.T, token *Token, err error, kind Kind, cause error) *Error {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("got %v, %v", token, err)
	}
	if token != nil || e.Kind != kind || cause != nil && !errors.Is(err, cause) {
		t.Errorf("got %v, %v; want %s: %v", token, err, kind, cause)
	}
	return e
}

func TestExchange(t *testing.T) {
	s := serve(t, (*httptest.Server).Start)
	c := s.client(t)
	token, err := c.Exchange(t.Context(), request())
	if err != nil {
		t.Fatal(err)
	}
	want := &Token{
		Value: token.Value, Audience: []string{audience}, Scopes: []string{"item:List", "item:Read"}, Actors: []string{"gate way", "agent"},
		JTI: "1", Issuer: s.URL, Subject: "alice", ExpiresIn: 5 * time.Second, Expiry: token.Expiry,
	}
	if left := time.Until(token.Expiry); left < 3*time.Second || left > 5*time.Second {
		t.Errorf("expires %s", token.Expiry)
	}
	if diff := cmp.Diff(want, token); diff != "" {
		t.Error(diff)
	}
	form := url.Values{
		"grant_type": {grantExchange}, "subject_token": {"subject-token"}, "subject_token_type": {typeAccessToken},
		"requested_token_type": {typeAccessToken}, "audience": {audience}, "scope": {"item:List item:Read"}, "requested_expires_in": {"5"},
	}
	if diff := cmp.Diff([]url.Values{form}, s.forms); diff != "" {
		t.Error(diff)
	}
	// RFC 6749 §2.3.1: encoded before Basic encodes them again.
	if got, want := s.headers[0].Get("Authorization"), "Basic "+base64.StdEncoding.EncodeToString([]byte("gate+way:s%2Bc%3Ar%25t")); got != want {
		t.Errorf("Authorization %q, want %q", got, want)
	}
	if got := s.headers[0].Values("Idempotency-Key"); len(got) > 0 {
		t.Errorf("Idempotency-Key %q was sent", got)
	}
}

func TestRequestForm(t *testing.T) {
	tests := []struct {
		name   string
		config func(*Config)
		change func(*Request)
		want   map[string]string // "" for a parameter that must be absent
	}{
		{"no scope, no lifetime", nil, func(r *Request) { r.Scopes, r.Lifetime = nil, 0 }, map[string]string{"scope": "", "requested_expires_in": ""}},
		{"rounded down", nil, func(r *Request) { r.Lifetime = 5900 * time.Millisecond }, map[string]string{"requested_expires_in": "5"}},
		{"at least a second", nil, func(r *Request) { r.Lifetime = time.Millisecond }, map[string]string{"requested_expires_in": "1"}},
		{"other parameter", func(c *Config) { c.TTLParameter = "ttl" }, nil, map[string]string{"ttl": "5", "requested_expires_in": ""}},
		{"no parameter", func(c *Config) { c.TTLParameter = "-" }, nil, map[string]string{"-": "", "requested_expires_in": ""}},
		{"post", func(c *Config) { c.AuthMethod = AuthPost }, nil, map[string]string{"client_id": "gate way", "client_secret": "s+c:r%t"}},
		{"basic", func(c *Config) { c.AuthMethod = AuthBasic }, nil, map[string]string{"client_id": "", "client_secret": ""}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := serve(t, (*httptest.Server).Start)
			c := s.client(t, func(c *Config) {
				if tt.config != nil {
					tt.config(c)
				}
			})
			r := request()
			if tt.change != nil {
				tt.change(&r)
			}
			_, _ = c.Exchange(t.Context(), r) // the answer does not fit all of these
			if len(s.forms) != 1 {
				t.Fatalf("%d requests", len(s.forms))
			}
			for name, want := range tt.want {
				if got := s.forms[0].Get(name); got != want || want == "" && s.forms[0].Has(name) {
					t.Errorf("%s = %q, want %q", name, got, want)
				}
			}
			if basic := s.headers[0].Get("Authorization") != ""; basic != (tt.want["client_secret"] == "") {
				t.Error("the client authenticates in two ways, or in none")
			}
		})
	}
}

func TestRequestIsChecked(t *testing.T) {
	s := serve(t, (*httptest.Server).Start)
	c := s.client(t)
	for name, change := range map[string]func(*Request){
		"no token":                  func(r *Request) { r.SubjectToken = "" },
		"line break in token":       func(r *Request) { r.SubjectToken = "a\r\nb" },
		"token too long":            func(r *Request) { r.SubjectToken = strings.Repeat("a", maxToken+1) },
		"no subject":                func(r *Request) { r.Subject = "" },
		"no audience":               func(r *Request) { r.Audience = "" },
		"two scopes in one":         func(r *Request) { r.Scopes = []string{"a b"} },
		"empty scope":               func(r *Request) { r.Scopes = []string{""} },
		"negative lifetime":         func(r *Request) { r.Lifetime = -1 },
		"actor under impersonation": func(r *Request) { r.Delegation, r.ActorToken = false, true },
	} {
		t.Run(name, func(t *testing.T) {
			r := request()
			change(&r)
			token, err := c.Exchange(t.Context(), r)
			wantKind(t, token, err, Refused, ErrRequest)
		})
	}
	if len(s.forms) != 0 {
		t.Error("an invalid request was sent")
	}
}

func TestAnswers(t *testing.T) {
	text := func(status int, contentType, body string) func(http.ResponseWriter, url.Values) {
		return func(w http.ResponseWriter, _ url.Values) {
			if w.Header()["Content-Type"] = nil; contentType != "" {
				w.Header().Set("Content-Type", contentType)
			}
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}
	}
	const jsonType = "application/json"
	tests := []struct {
		name   string
		answer func(http.ResponseWriter, url.Values)
		kind   Kind
		code   string
		cause  error
	}{
		{"400", text(400, jsonType, `{"error":"invalid_target"}`), Refused, "invalid_target", nil},
		{"401", text(401, jsonType+";charset=UTF-8", `{"error":"invalid_client"}`), Refused, "invalid_client", nil},
		{"403", text(403, jsonType, `{"error":"access_denied"}`), Refused, "access_denied", nil},
		{"400 without code", text(400, jsonType, `{}`), Unavailable, "", ErrStatus},
		{"400 with a code that is none", text(400, jsonType, `{"error":"a\nb"}`), Unavailable, "", ErrStatus},
		{"400 with two codes", text(400, jsonType, `{"error":"a","error":"b"}`), Unavailable, "", ErrStatus},
		{"400 web page", text(400, "text/html", `<html>`), Unavailable, "", ErrStatus},
		{"404", text(404, "text/plain", `not here`), Unavailable, "", ErrStatus},
		{"temporarily", text(400, jsonType, `{"error":"temporarily_unavailable"}`), Unavailable, "temporarily_unavailable", ErrStatus},
		{"429", text(429, jsonType, `{"error":"slow_down"}`), Unavailable, "slow_down", ErrStatus},
		{"500 with code", text(500, jsonType, `{"error":"invalid_request"}`), Unavailable, "invalid_request", ErrStatus},
		{"502", text(502, "text/html", `<html>`), Unavailable, "", ErrStatus},
		{"login page", text(200, "text/html; charset=utf-8", `<html>`), Unavailable, "", ErrStatus},
		{"no type", text(200, "", `{}`), Unacceptable, "", ErrMalformed},
		{"text", text(200, "text/plain", `{}`), Unacceptable, "", ErrMalformed},
		{"201", text(201, jsonType, `{}`), Unacceptable, "", ErrMalformed},
		{"empty", text(200, jsonType, ``), Unacceptable, "", ErrMalformed},
		{"array", text(200, jsonType, `[]`), Unacceptable, "", ErrMalformed},
		{"trailing data", text(200, jsonType, `{"access_token":"a"}{}`), Unacceptable, "", ErrMalformed},
		{"too large", text(200, jsonType, strings.Repeat(" ", maxBody+1)), Unavailable, "", ErrTooLarge},
		{"other case", text(200, jsonType, `{"Access_Token":"a","token_type":"Bearer"}`), Unacceptable, "", ErrToken},
		{"broken off", func(w http.ResponseWriter, _ url.Values) {
			w.Header().Set("Content-Length", "100")
			text(200, jsonType, `{"access_`)(w, nil)
		}, Unavailable, "", io.ErrUnexpectedEOF},
		{"hangs up", func(http.ResponseWriter, url.Values) { panic(http.ErrAbortHandler) }, Unavailable, "", io.EOF},
	}
	s := serve(t, (*httptest.Server).Start)
	c := s.client(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s.answer = tt.answer
			token, err := c.Exchange(t.Context(), request())
			if e := wantKind(t, token, err, tt.kind, tt.cause); e.Code != tt.code {
				t.Errorf("code %q, want %q", e.Code, tt.code)
			}
		})
	}
}

// The form holds credentials: it is not sent on to where a redirect points.
func TestRedirectIsNotFollowed(t *testing.T) {
	stolen := make(chan string, 10)
	thief := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		stolen <- string(body)
	}))
	defer thief.Close()
	s := serve(t, (*httptest.Server).Start)
	c := s.client(t)
	for _, status := range []int{301, 302, 303, 307, 308} {
		s.answer = func(w http.ResponseWriter, _ url.Values) {
			w.Header().Set("Location", thief.URL)
			w.WriteHeader(status)
		}
		token, err := c.Exchange(t.Context(), request())
		wantKind(t, token, err, Unavailable, ErrRedirect)
	}
	if len(stolen) > 0 {
		t.Errorf("sent on: %s", <-stolen)
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Now()
	for header, want := range map[string]time.Duration{
		"": 0, "7": 7 * time.Second, "-7": 0, "99999999999999": 0, "4000000": time.Hour, "soon": 0,
		now.Add(time.Minute).UTC().Format(http.TimeFormat):      time.Minute,
		now.Add(-time.Minute).UTC().Format(http.TimeFormat):     0,
		now.Add(9999 * time.Hour).UTC().Format(http.TimeFormat): time.Hour,
	} {
		if got := retryAfter(header, now.Truncate(time.Second)); got != want {
			t.Errorf("%q: %s, want %s", header, got, want)
		}
	}
	s := serve(t, (*httptest.Server).Start)
	s.answer = func(w http.ResponseWriter, _ url.Values) {
		w.Header().Set("Retry-After", "3")
		w.WriteHeader(503)
	}
	token, err := s.client(t).Exchange(t.Context(), request())
	if e := wantKind(t, token, err, Unavailable, nil); e.RetryAfter != 3*time.Second || e.Status != 503 {
		t.Errorf("got %+v", e)
	}
}

// Nothing that came from the server or is secret is in an error's text. Its Detail has the server's words, but for what
// looks like a token, and none of them if they repeat what was sent, or a piece of that.
func TestErrorsKeepSecrets(t *testing.T) {
	const foreign = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJib2IifQ.c2lnbmF0dXJl"
	for _, test := range []struct{ name, says, want string }{
		{"plain", "scope item:Write is not for this client", "scope item:Write is not for this client"},
		{"control characters", "bad\n\x1b[31m é", "bad??[31m ?"},
		{"long", strings.Repeat("x ", 500), strings.Repeat("x ", 100)},
		{"another's token", "token " + foreign + " has expired", "token [redacted] has expired"},
		{"the subject token", "token SUBJECT has expired", withheld},
		{"its payload", "claims PAYLOAD are not good", "claims [redacted] are not good"},
		{"a piece of it", "what is PIECE?", withheld},
		{"behind what is shown", strings.Repeat("x ", 300) + "SUBJECT", withheld},
		{"pulled forward", "eyJ" + strings.Repeat("x", 900) + " PIECE", withheld},
		{"the client secret", "s+c:r%t is wrong", withheld},
		{"the client secret, escaped", "s%2Bc%3Ar%25t is wrong", withheld},
		{"the credentials", "Basic " + base64.StdEncoding.EncodeToString([]byte("gate way:s+c:r%t")), withheld},
		{"an additional parameter", "tenant key hunter2hunter2 is wrong", withheld},
		{"a short one", "tenant one is unknown", "tenant one is unknown"},
	} {
		s := serve(t, (*httptest.Server).Start)
		r := request()
		r.SubjectToken = sign(goodClaims("x"))
		payload := strings.Split(r.SubjectToken, ".")[1]
		s.answer = func(w http.ResponseWriter, _ url.Values) {
			says := strings.NewReplacer("SUBJECT", r.SubjectToken, "PAYLOAD", payload, "PIECE", r.SubjectToken[50:70]).Replace(test.says)
			writeJSON(w, 400, map[string]any{"error": "invalid_request", "error_description": says})
		}
		_, err := s.client(t, func(c *Config) {
			c.AdditionalParameters = map[string]string{"key": "hunter2hunter2", "tenant": "one"}
		}).Exchange(t.Context(), r)
		var e *Error
		if !errors.As(err, &e) || e.Detail != test.want {
			t.Errorf("%s: detail %q", test.name, e.Detail)
		}
		if err.Error() != "token exchange refused (invalid_request), status 400" {
			t.Errorf("%s: the server's words are in %q", test.name, err)
		}
	}
}

func TestDeadline(t *testing.T) {
	s := serve(t, (*httptest.Server).Start)
	release := make(chan struct{})
	s.answer = func(http.ResponseWriter, url.Values) { <-release }
	defer close(release)
	token, err := s.client(t, func(c *Config) { c.Timeout = 20 * time.Millisecond }).Exchange(t.Context(), request())
	wantKind(t, token, err, Unavailable, context.DeadlineExceeded)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	token, err = s.client(t).Exchange(ctx, request())
	wantKind(t, token, err, Unavailable, context.Canceled)
}

// A server that answers, then dies, then is back: the first call after that
// succeeds. Nothing has to be waited for.
func TestOutage(t *testing.T) {
	s := serve(t, (*httptest.Server).Start)
	c := s.client(t)
	var down atomic.Bool
	works := s.answer
	s.answer = func(w http.ResponseWriter, form url.Values) {
		if down.Load() {
			panic(http.ErrAbortHandler)
		}
		works(w, form)
	}
	for _, isDown := range []bool{false, true, true, false} {
		down.Store(isDown)
		token, err := c.Exchange(t.Context(), request())
		if isDown {
			wantKind(t, token, err, Unavailable, nil)
		} else if err != nil {
			t.Error(err)
		}
	}
}

func ExampleError() {
	err := error(&Error{Kind: Refused, Code: "invalid_target", Status: 400, Detail: "for the log only"})
	fmt.Println(err)
	// Output: token exchange refused (invalid_target), status 400
}
