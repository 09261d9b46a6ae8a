package exchange

import (
	"bytes"
	"context"
	"crypto/tls"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestNewRefuses(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"no URL":             func(c *Config) { c.WellKnown = "" },
		"relative URL":       func(c *Config) { c.WellKnown = "/.well-known/openid-configuration" },
		"public plain http":  func(c *Config) { c.WellKnown = "http://as.example/.well-known/openid-configuration" },
		"loopback lookalike": func(c *Config) { c.WellKnown = "http://localhost.as.example/" },
		"other scheme":       func(c *Config) { c.WellKnown = "file:///etc/passwd" },
		"password in URL":    func(c *Config) { c.WellKnown = "https://user:hunter2@as.example/" },
		"malformed":          func(c *Config) { c.WellKnown = "https://user:hunter2@as.example:x/" },
		"no client id":       func(c *Config) { c.ClientID = "" },
		"no secret":          func(c *Config) { c.ClientSecret = "" },
		"method":             func(c *Config) { c.AuthMethod = "none" },
		"negative timeout":   func(c *Config) { c.Timeout = -1 },
		"negative places":    func(c *Config) { c.MaxConcurrent = -1 },
		"negative wait":      func(c *Config) { c.MaxWait = -1 },
		"negative reuse":     func(c *Config) { c.Reuse = -1 },
		"negative entries":   func(c *Config) { c.ReuseEntries = -1 },
		"unverified TLS":     func(c *Config) { c.TLS = &tls.Config{InsecureSkipVerify: true} },
		"parameter of ours":  func(c *Config) { c.TTLParameter = "subject_token" },
		"in another case":    func(c *Config) { c.TTLParameter = "Client_Assertion" },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := Config{WellKnown: "https://as.example/.well-known/openid-configuration", ClientID: "gate", ClientSecret: "hunter2"}
			change(&cfg)
			if _, err := New(cfg); err == nil || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("got %v", err)
			}
		})
	}
	cfg := Config{WellKnown: "http://as.example/x", ClientID: "gate", ClientSecret: "x", AllowPlainHTTP: true}
	if _, err := New(cfg); err != nil {
		t.Error(err)
	}
}

func TestMetadata(t *testing.T) {
	tests := []struct {
		name   string
		doc    string // BASE is the server's URL
		method string
		want   string // of the error; "" for none
	}{
		{"minimal", `{"issuer":"BASE","token_endpoint":"BASE/token"}`, AuthBasic, ""},
		{"both methods", `{"issuer":"BASE","token_endpoint":"BASE/token","token_endpoint_auth_methods_supported":["client_secret_post","client_secret_basic"]}`, AuthBasic, ""},
		{"post", `{"issuer":"BASE","token_endpoint":"BASE/token","token_endpoint_auth_methods_supported":["none","client_secret_post"]}`, AuthPost, ""},
		{"neither", `{"issuer":"BASE","token_endpoint":"BASE/token","token_endpoint_auth_methods_supported":["private_key_jwt"]}`, "", "neither"},
		{"no issuer", `{"token_endpoint":"BASE/token"}`, "", "issuer"},
		{"no endpoint", `{"issuer":"BASE"}`, "", "token_endpoint"},
		{"plain http endpoint", `{"issuer":"BASE","token_endpoint":"http://as.example/token"}`, "", "plain http"},
		{"repeated", `{"issuer":"BASE","token_endpoint":"BASE/token","token_endpoint":"https://evil.example/"}`, "", "malformed"},
		{"web page", `<html>`, "", "malformed"},
		{"too large", `{"issuer":"` + strings.Repeat("x", maxBody) + `"}`, "", "too large"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var ts *httptest.Server
			ts = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				_, _ = w.Write([]byte(strings.ReplaceAll(tt.doc, "BASE", ts.URL)))
			}))
			defer ts.Close()
			c := (&server{Server: ts}).newClient(t)
			err := c.refresh(t.Context())
			if tt.want != "" {
				if err == nil || !strings.Contains(err.Error(), tt.want) || c.Ready() {
					t.Errorf("got %v, ready %v; want %q", err, c.Ready(), tt.want)
				}
				return
			}
			if err != nil || c.meta.Load().authMethod != tt.method {
				t.Errorf("got %v, %+v", err, c.meta.Load())
			}
		})
	}
}

func TestMetadataStatusAndType(t *testing.T) {
	for _, h := range []http.HandlerFunc{
		func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) },
		func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) },
		func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) },
	} {
		ts := httptest.NewServer(h)
		c := (&server{Server: ts}).newClient(t)
		if err := c.refresh(t.Context()); err == nil {
			t.Error("accepted")
		}
		ts.Close()
	}
}

// Run waits for a server that is not there yet, and keeps what it has when the
// server goes away.
func TestRun(t *testing.T) {
	s := serve(t, (*httptest.Server).Start)
	var up atomic.Bool
	metadata := s.metadata
	asked := make(chan struct{}, 100)
	s.metadata = func() any {
		asked <- struct{}{}
		if !up.Load() {
			return "not yet"
		}
		return metadata()
	}
	c := s.newClient(t)
	token, err := c.Exchange(t.Context(), request())
	wantKind(t, token, err, Unavailable, ErrNoMetadata)

	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- c.Run(ctx) }()
	<-asked
	if c.Ready() {
		t.Error("ready without metadata")
	}
	up.Store(true)
	<-asked // the retry
	for deadline := time.Now().Add(5 * time.Second); !c.Ready(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("never ready")
		}
	}
	if _, err := c.Exchange(t.Context(), request()); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}

	up.Store(false)
	if err := c.refresh(t.Context()); err == nil || !c.Ready() {
		t.Errorf("refresh: %v, ready %v", err, c.Ready())
	}
	if _, err := c.Exchange(t.Context(), request()); err != nil {
		t.Errorf("the last good metadata was dropped: %v", err)
	}
}

func TestWellKnownOfAnotherIssuerIsLogged(t *testing.T) {
	s := serve(t, (*httptest.Server).Start)
	for issuer, warned := range map[string]bool{s.URL: false, "https://as.example": true} {
		var log bytes.Buffer
		s.metadata = func() any { return map[string]any{"issuer": issuer, "token_endpoint": s.URL + "/token"} }
		c := s.client(t, func(c *Config) { c.Log = slog.New(slog.NewJSONHandler(&log, nil)) })
		if c.meta.Load().issuer != issuer || strings.Contains(log.String(), `"WARN"`) != warned {
			t.Errorf("%s: %s", issuer, &log)
		}
		if strings.Contains(log.String(), c.cfg.ClientSecret) {
			t.Error("the secret is in the log")
		}
	}
}

func TestWellKnownURLs(t *testing.T) {
	got := strings.Join(wellKnownURLs("https://as.example/realms/a"), " ")
	for _, want := range []string{
		"https://as.example/.well-known/oauth-authorization-server/realms/a",
		"https://as.example/realms/a/.well-known/openid-configuration",
		"https://as.example/realms/a/.well-known/oauth-authorization-server",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%s is not in %s", want, got)
		}
	}
}
