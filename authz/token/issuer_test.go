package token

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func withKid(kid string) string { return tokenWith(jsonObject{"kid": kid}, nil) }

func TestReadyOnlyWithKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAuthority(issuerA, toJWK("k1", ecKey()))
		as.setMeta("<html>starting</html>")
		v := start(t, configFor(as))
		if v.Ready() || len(v.Issuers()) != 0 {
			t.Fatal("ready before discovery")
		}
		refused(t, v, tokenWith(nil, nil), ErrUnavailable)

		as.respond(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
		as.setMeta(nil)
		advance(lastRetry)
		if v.Ready() {
			t.Fatal("ready without keys")
		}
		refused(t, v, tokenWith(nil, nil), ErrUnavailable)

		as.publish(toJWK("k1", ecKey()))
		advance(lastRetry)
		if !v.Ready() {
			t.Fatal("not ready with keys")
		}
		accepted(t, v, tokenWith(nil, nil))
		refused(t, v, tokenWith(nil, jsonObject{"iss": "https://evil.example"}), ErrIssuer)
	})
}

func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAuthority(issuerA)
		as.setMeta("no JSON")
		start(t, configFor(as))
		advance(time.Second) // 0, 0.2, 0.6 s
		if got := as.discoveries.Load(); got < 3 || got > 4 {
			t.Errorf("%d attempts in the first second", got)
		}
		advance(time.Minute)
		before := as.discoveries.Load()
		advance(10 * time.Minute)
		if got := as.discoveries.Load() - before; got < 60 || got > 67 {
			t.Errorf("%d attempts in ten minutes, want one in 9 to 10 s", got)
		}
	})
}

// One recovery makes the next outage start with short pauses again.
func TestBackoffStartsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAuthority(issuerA, toJWK("k1", ecKey()))
		cfg := configFor(as)
		cfg.Issuers[0].RefreshInterval = time.Minute
		start(t, cfg)
		for range 2 {
			as.respond(broken["500"])
			advance(time.Minute) // until all pauses are long
			advance(time.Minute)
			as.publish(toJWK("k1", ecKey()))
			advance(lastRetry)
		}
		as.respond(broken["500"])
		before := as.fetches.Load()
		for as.fetches.Load() == before {
			advance(time.Second)
		}
		advance(2 * time.Second) // the next are due 0.2, 0.6 and 1.4 s after the first
		if got := as.fetches.Load() - before; got < 3 {
			t.Errorf("%d attempts", got)
		}
	})
}

func TestRotation(t *testing.T) { // F-043
	synctest.Test(t, func(t *testing.T) {
		as := newAuthority(issuerA, toJWK("k1", ecKey()))
		v := start(t, configFor(as))
		old := withKid("k1")
		accepted(t, v, old)

		as.publish(toJWK("k2", ecKey()))
		accepted(t, v, old) // nobody knows yet
		accepted(t, v, withKid("k2"))
		refused(t, v, old, ErrKey) // although it was cached a moment ago
	})
}

func TestWithdrawnKeyDies(t *testing.T) { // F-043
	tests := []struct {
		control  string
		interval time.Duration
		within   time.Duration
	}{
		{"", 0, 5 * time.Minute},
		{"public, max-age=600", 0, 10 * time.Minute},
		{`max-age="120"`, 0, 2 * time.Minute},
		{"max-age=0", 0, time.Minute},
		{"no-store", 0, time.Minute},
		{"max-age=nonsense", 0, 5 * time.Minute},
		{"max-age=99999999999999999999", 0, 12 * time.Hour}, // half of MaxStale
		{"max-age=3600", 10 * time.Minute, 10 * time.Minute},
		{"max-age=3600", 10 * time.Second, 10 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.control+" "+tt.interval.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAuthority(issuerA, toJWK("k1", ecKey()))
				as.control = tt.control
				cfg := configFor(as)
				cfg.Issuers[0].RefreshInterval = tt.interval
				v := start(t, cfg)
				raw := tokenWith(nil, jsonObject{"exp": time.Now().Add(100 * time.Hour).Unix()})
				as.publish(toJWK("k2", ecKey()))
				advance(tt.within * 89 / 100)
				accepted(t, v, raw)
				advance(tt.within - tt.within*89/100)
				if id, err := v.Verify(t.Context(), raw); err == nil {
					t.Errorf("%s still accepted after %v", id.Subject, tt.within)
				}
				if got := as.fetches.Load(); got > 3 { // at the start, when due, and for the unknown kid
					t.Errorf("%d fetches", got)
				}
			})
		})
	}
}

// broken answers of a key set's address, each of which must leave the last good keys alone (F-045, F-046).
var broken = map[string]http.HandlerFunc{
	"500":       func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
	"empty":     func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"keys":[]}`) },
	"no keys":   func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{}`) },
	"no body":   func(http.ResponseWriter, *http.Request) {},
	"HTML":      func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>login</html>") },
	"cut short": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"keys":[{"kty":"EC"`) },
	"twice":     func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"keys":[],"keys":[]}`) },
	"useless": func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"keys":[{"kty":"oct","kid":"k1","k":"AA"}]}`)
	},
	"hangs": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
	"too large": func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, `{"keys":[`+text(toJWK("k1", ecKey()))+`],"x":"`+strings.Repeat("x", maxDocumentBytes)+`"}`)
	},
	"too many": func(w http.ResponseWriter, _ *http.Request) {
		var keys []any
		for i := range maxKeys + 1 {
			keys = append(keys, toJWK(fmt.Sprintf("k%d", i), ecKey()))
		}
		io.WriteString(w, text(jsonObject{"keys": keys}))
	},
}

func TestOutage(t *testing.T) {
	for name, answer := range broken {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAuthority(issuerA, toJWK("k1", ecKey()))
				cfg := configFor(as)
				cfg.Issuers[0].MaxStale = 30 * time.Minute
				v := start(t, cfg)
				raw := tokenWith(nil, nil)
				as.respond(answer)
				refused(t, v, withKid("k2"), ErrKey)
				advance(25 * time.Minute)
				accepted(t, v, raw)
				if s := v.Stats()[0]; s.Failures == 0 || s.Keys != 1 || s.Age < 20*time.Minute {
					t.Errorf("stats do not show the outage: %+v", s)
				}

				advance(5*time.Minute + time.Second)
				refused(t, v, raw, ErrUnavailable)

				as.publish(toJWK("k1", ecKey()))
				advance(lastRetry + fetchTimeout)
				accepted(t, v, raw)
			})
		})
	}
}

func TestStaleKeysEndCachedTokensToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAuthority(issuerA, toJWK("k1", ecKey()))
		cfg := configFor(as)
		cfg.Issuers[0].MaxStale = 30 * time.Second
		v := start(t, cfg)
		raw := tokenWith(nil, nil)
		as.respond(broken["500"])
		advance(25 * time.Second)
		accepted(t, v, raw)
		advance(6 * time.Second)
		refused(t, v, raw, ErrUnavailable)
	})
}

func TestFloodOfUnknownKids(t *testing.T) { // F-044
	synctest.Test(t, func(t *testing.T) {
		as := newAuthority(issuerA, toJWK("k1", ecKey()))
		v := start(t, configFor(as))
		release := make(chan struct{})
		as.respond(func(w http.ResponseWriter, _ *http.Request) {
			<-release
			fmt.Fprint(w, text(jsonObject{"keys": []any{toJWK("k1", ecKey()), toJWK("k7", ecKey())}}))
		})
		before := as.fetches.Load()
		var known, unknown int
		var mu sync.Mutex
		var callers sync.WaitGroup
		for i := range 2000 {
			raw := withKid(fmt.Sprintf("k%d", i+2))
			callers.Go(func() {
				_, err := v.Verify(t.Context(), raw)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					known++
				case errors.Is(err, ErrKey):
					unknown++
				}
			})
		}
		synctest.Wait()
		accepted(t, v, withKid("k1")) // while 2,000 wait for the network
		close(release)
		callers.Wait()
		if known != 1 || unknown != 1999 {
			t.Errorf("%d accepted, %d refused", known, unknown)
		}
		asked := time.Now()
		for i := range 2000 { // the later ones fail at once
			refused(t, v, withKid(fmt.Sprintf("x%d", i)), ErrKey)
		}
		if time.Since(asked) != 0 {
			t.Errorf("waited %v", time.Since(asked))
		}
		if got := as.fetches.Load() - before; got != 1 {
			t.Errorf("%d fetches", got)
		}
		advance(demandInterval)
		refused(t, v, withKid("y"), ErrKey)
		refused(t, v, withKid("z"), ErrKey)
		if got := as.fetches.Load() - before; got != 2 {
			t.Errorf("%d fetches after the pause", got)
		}
	})
}

// A caller who gives up is not told that the token is bad, and does not take the fetch with it.
func TestImpatientCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAuthority(issuerA, toJWK("k1", ecKey()))
		v := start(t, configFor(as))
		release := make(chan struct{})
		as.respond(func(w http.ResponseWriter, _ *http.Request) {
			<-release
			fmt.Fprint(w, text(jsonObject{"keys": []any{toJWK("k2", ecKey())}}))
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		raw := withKid("k2")
		if _, err := v.Verify(ctx, raw); !errors.Is(err, ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		close(release)
		synctest.Wait()
		accepted(t, v, raw)
	})
}

func TestNoRequestAfterRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAuthority(issuerA, toJWK("k1", ecKey()))
		v, err := New(configFor(as))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- v.Run(ctx) }()
		synctest.Wait()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		accepted(t, v, withKid("k1"))
		refused(t, v, withKid("k2"), ErrKey)
		synctest.Wait()
	})
}

func TestDiscovery(t *testing.T) { // F-048
	meta := func(issuer, jwks string) jsonObject { return jsonObject{"issuer": issuer, "jwks_uri": jwks} }
	const jwks = issuerA + "/jwks"
	tests := map[string]struct {
		wellKnown string
		meta      any
		ready     bool
	}{
		"OIDC":                      {issuerA + "/.well-known/openid-configuration", meta(issuerA, jwks), true},
		"RFC 8414":                  {issuerA + "/.well-known/oauth-authorization-server", meta(issuerA, jwks), true},
		"RFC 8414 before a path":    {issuerA + "/.well-known/oauth-authorization-server/t/1", meta(issuerA+"/t/1", jwks), true},
		"OIDC before a path":        {issuerA + "/.well-known/openid-configuration/t/1", meta(issuerA+"/t/1", jwks), true},
		"OIDC after a path":         {issuerA + "/t/1/.well-known/openid-configuration", meta(issuerA+"/t/1", jwks), true},
		"RFC 8414 after a path":     {issuerA + "/t/1/.well-known/oauth-authorization-server", meta(issuerA+"/t/1/", jwks), true},
		"another host":              {issuerA + "/.well-known/openid-configuration", meta("https://auth.lab", jwks), true},
		"another tenant":            {issuerA + "/t/1/.well-known/openid-configuration", meta(issuerA+"/t/2", jwks), false},
		"the root for a tenant":     {issuerA + "/.well-known/openid-configuration", meta(issuerA+"/t/2", jwks), false},
		"dots in the path":          {issuerA + "/t/1/.well-known/openid-configuration", meta(issuerA+"/t/2/../1", jwks), false},
		"template of a tenant":      {issuerA + "/common/.well-known/openid-configuration", meta(issuerA+"/{tenantid}", jwks), false},
		"issuer with a query":       {issuerA + "/.well-known/openid-configuration", meta(issuerA+"?x=1", jwks), false},
		"issuer over http":          {issuerA + "/.well-known/openid-configuration", meta("http://as.example", jwks), false},
		"issuer not a URL":          {issuerA + "/.well-known/openid-configuration", meta("as", jwks), false},
		"issuer missing":            {issuerA + "/.well-known/openid-configuration", jsonObject{"jwks_uri": jwks}, false},
		"issuer in another case":    {issuerA + "/.well-known/openid-configuration", jsonObject{"Issuer": issuerA, "jwks_uri": jwks}, false},
		"keys over http":            {issuerA + "/.well-known/openid-configuration", meta(issuerA, "http://as.example/jwks"), false},
		"keys on loopback":          {issuerA + "/.well-known/openid-configuration", meta(issuerA, "http://127.0.0.1:1/jwks"), false},
		"keys in a file":            {issuerA + "/.well-known/openid-configuration", meta(issuerA, "file:///etc/passwd"), false},
		"keys missing":              {issuerA + "/.well-known/openid-configuration", jsonObject{"issuer": issuerA}, false},
		"keys with a password":      {issuerA + "/.well-known/openid-configuration", meta(issuerA, "https://u:p@as.example/jwks"), false},
		"duplicate issuer":          {issuerA + "/.well-known/openid-configuration", `{"issuer":"` + issuerA + `","issuer":"x","jwks_uri":"` + jwks + `"}`, false},
		"not JSON":                  {issuerA + "/.well-known/openid-configuration", "<html>", false},
		"issuer with another query": {issuerA + "/.well-known/openid-configuration?p=1", meta(issuerA, jwks), true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAuthority(issuerA, toJWK("k1", ecKey()))
				as.setMeta(tt.meta)
				cfg := configFor(as)
				cfg.Issuers[0].WellKnown = tt.wellKnown
				v := start(t, cfg)
				if v.Ready() != tt.ready {
					t.Fatalf("ready: %v", v.Ready())
				}
				if tt.ready {
					accepted(t, v, tokenWith(nil, jsonObject{"iss": v.Issuers()[0]}))
				}
			})
		})
	}
}

func TestOtherHostIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAuthority(issuerA, toJWK("k1", ecKey()))
		as.setMeta(jsonObject{"issuer": "https://auth.lab", "jwks_uri": as.jwksURI()})
		cfg := configFor(as)
		var log bytes.Buffer
		cfg.Log = slog.New(slog.NewJSONHandler(&log, nil))
		start(t, cfg)
		if !strings.Contains(log.String(), `"issuer":"https://auth.lab"`) {
			t.Errorf("no warning in %s", log.String())
		}
	})
}

func TestPlainHTTP(t *testing.T) {
	const issuer = "http://as.internal:8080/realms/x"
	synctest.Test(t, func(t *testing.T) {
		cfg := configFor(newAuthority(issuer, toJWK("k1", ecKey())))
		if _, err := New(cfg); err == nil {
			t.Error("plain http beyond loopback was taken")
		}
		cfg.Issuers[0].AllowPlainHTTP = true
		v := start(t, cfg)
		accepted(t, v, tokenWith(nil, jsonObject{"iss": issuer}))
	})
	for _, issuer := range []string{"http://localhost:1", "http://127.0.0.1:2/x", "http://[::1]:3"} {
		synctest.Test(t, func(t *testing.T) {
			v := start(t, configFor(newAuthority(issuer, toJWK("k1", ecKey()))))
			accepted(t, v, tokenWith(nil, jsonObject{"iss": issuer}))
		})
	}
}

func TestSameIssuerTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newAuthority(issuerA, toJWK("k1", ecKey())), newAuthority("https://mirror.example", toJWK("k1", otherEC()))
		b.setMeta(jsonObject{"issuer": issuerA, "jwks_uri": b.jwksURI()})
		cfg := configFor(a, b)
		var log bytes.Buffer
		cfg.Log = slog.New(slog.NewJSONHandler(&log, nil))
		v := start(t, cfg)
		advance(time.Minute)
		if v.Ready() || len(v.Issuers()) != 1 {
			t.Errorf("ready with issuers %v", v.Issuers())
		}
		if !strings.Contains(log.String(), "another configured issuer has the same identifier") {
			t.Errorf("not logged: %s", log.String())
		}
		_, errA := v.Verify(t.Context(), tokenWith(nil, nil))
		_, errB := v.Verify(t.Context(), sign("ES256", otherEC(), baseHeader, baseClaims()))
		if (errA == nil) == (errB == nil) {
			t.Errorf("exactly one of the two may count: %v, %v", errA, errB)
		}
	})
}

func TestMetadataRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAuthority(issuerA, toJWK("k1", ecKey()))
		cfg := configFor(as)
		cfg.Issuers[0].RefreshInterval = time.Hour
		v := start(t, cfg)
		advance(50 * time.Minute)
		if got := as.discoveries.Load(); got != 1 {
			t.Errorf("%d discoveries in 50 min", got)
		}
		as.setMeta(jsonObject{"issuer": "https://renamed.example", "jwks_uri": as.jwksURI()})
		advance(20 * time.Minute)
		accepted(t, v, tokenWith(nil, nil))
		refused(t, v, tokenWith(nil, jsonObject{"iss": "https://renamed.example"}), ErrIssuer)

		as.setMeta(jsonObject{"issuer": issuerA, "jwks_uri": "http://as.example/jwks"})
		advance(lastRetry)
		if got := v.issuers[0].meta.Load().jwksURI; got != as.jwksURI() {
			t.Errorf("keys come from %s", got)
		}

		as.setMeta(jsonObject{"issuer": issuerA, "jwks_uri": issuerA + "/elsewhere"})
		advance(lastRetry)
		if s := v.Stats()[0]; s.Issuer != issuerA || s.Failures == 0 {
			t.Errorf("stats: %+v", s)
		}
		if got := v.issuers[0].meta.Load().jwksURI; got != issuerA+"/elsewhere" {
			t.Errorf("keys still come from %s", got)
		}
	})
}

func TestNewRefuses(t *testing.T) {
	good := IssuerConfig{WellKnown: issuerA + "/.well-known/openid-configuration", Audiences: []string{audience}}
	change := func(f func(*IssuerConfig)) []IssuerConfig {
		c := good
		f(&c)
		return []IssuerConfig{c}
	}
	for name, issuers := range map[string][]IssuerConfig{
		"no issuer":           nil,
		"the same URL twice":  {good, good},
		"no URL":              change(func(c *IssuerConfig) { c.WellKnown = "" }),
		"plain http":          change(func(c *IssuerConfig) { c.WellKnown = "http://as.example/x" }),
		"look-alike loopback": change(func(c *IssuerConfig) { c.WellKnown = "http://localhost.example/x" }),
		"a password":          change(func(c *IssuerConfig) { c.WellKnown = "https://u:p@as.example/x" }),
		"a fragment":          change(func(c *IssuerConfig) { c.WellKnown += "#x" }),
		"a long URL":          change(func(c *IssuerConfig) { c.WellKnown += strings.Repeat("x", maxURLBytes) }),
		"no audience":         change(func(c *IssuerConfig) { c.Audiences = nil }),
		"an empty audience":   change(func(c *IssuerConfig) { c.Audiences = []string{""} }),
		"negative skew":       change(func(c *IssuerConfig) { c.ClockSkew = -1 }),
		"negative interval":   change(func(c *IssuerConfig) { c.RefreshInterval = -1 }),
		"a tiny interval":     change(func(c *IssuerConfig) { c.RefreshInterval = time.Millisecond }),
		"negative staleness":  change(func(c *IssuerConfig) { c.MaxStale = -1 }),
		"negative lifetime":   change(func(c *IssuerConfig) { c.MaxLifetime = -1 }),
	} {
		if _, err := New(Config{Issuers: issuers}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := New(Config{Issuers: []IssuerConfig{good}}); err != nil {
		t.Errorf("the good one: %v", err)
	}
}

// Over a real connection: redirects are not followed, and a compressed answer is bounded by its expansion (F-045).
func TestFetchOverNetwork(t *testing.T) {
	var followed bool
	mux := http.NewServeMux()
	mux.HandleFunc("/target", func(http.ResponseWriter, *http.Request) { followed = true })
	mux.HandleFunc("/redirect", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/target", http.StatusFound) })
	mux.HandleFunc("/bomb", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		defer z.Close()
		for range 100 {
			if _, err := z.Write(make([]byte, 1<<20)); err != nil {
				return
			}
		}
	})
	mux.HandleFunc("/good", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "body") })
	server := httptest.NewServer(mux)
	defer server.Close()

	f := newFetcher(nil, false)
	defer f.client.CloseIdleConnections()
	for path, ok := range map[string]bool{"/good": true, "/redirect": false, "/bomb": false, "/missing": false} {
		body, _, err := f.get(t.Context(), server.URL+path)
		if (err == nil) != ok || ok && string(body) != "body" {
			t.Errorf("%s: %d bytes, %v", path, len(body), err)
		}
	}
	if followed {
		t.Error("a redirect was followed")
	}
}

// drip is a body that ends only when the request does.
type drip struct{ ctx context.Context }

func (drip) Close() error { return nil }

func (d drip) Read(p []byte) (int, error) {
	select {
	case <-time.After(time.Second):
		return copy(p, " "), nil
	case <-d.ctx.Done():
		return 0, d.ctx.Err()
	}
}

type dripping struct{}

func (dripping) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Body: drip{r.Context()}, Request: r}, nil
}

func TestSlowBody(t *testing.T) { // F-045
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		_, _, err := newFetcher(&http.Client{Transport: dripping{}}, false).get(t.Context(), issuerA)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != fetchTimeout {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

func TestDefaults(t *testing.T) {
	v, err := New(configFor(newAuthority(issuerA)))
	if err != nil {
		t.Fatal(err)
	}
	got := v.issuers[0].cfg
	want := IssuerConfig{
		WellKnown: issuerA + "/.well-known/openid-configuration", Audiences: []string{audience},
		RefreshInterval: 24 * time.Hour, ClockSkew: 15 * time.Second, MaxStale: 24 * time.Hour,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// endless is a body without an end, which fails the test that reads on.
type endless struct{ read int }

func (*endless) Close() error { return nil }

func (e *endless) Read(p []byte) (int, error) {
	if e.read += len(p); e.read > 4*maxDocumentBytes {
		return 0, errors.New("read on and on")
	}
	return len(p), nil
}

func (e *endless) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Body: e, Request: r}, nil
}

func TestEndlessBody(t *testing.T) { // F-045
	_, _, err := newFetcher(&http.Client{Transport: &endless{}}, false).get(t.Context(), issuerA)
	if err == nil || !strings.Contains(err.Error(), "too large") {
		t.Errorf("got %v", err)
	}
}

// The whole life over a real socket: ready, verifying, and no connection left once Run has returned.
func TestRunOverNetwork(t *testing.T) {
	as := newAuthority("", toJWK("k1", ecKey()))
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	server := httptest.NewUnstartedServer(as)
	server.Config.ConnState = func(c net.Conn, s http.ConnState) {
		mu.Lock()
		defer mu.Unlock()
		if open[c] = true; s == http.StateClosed {
			delete(open, c)
		}
	}
	as.issuer = "http://" + server.Listener.Addr().String()
	server.Start()
	defer server.Close()
	cfg := configFor(as)
	cfg.HTTP = nil
	v, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- v.Run(ctx) }()
	await(t, v.Ready)
	accepted(t, v, tokenWith(nil, jsonObject{"iss": as.issuer}))
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	await(t, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(open) == 0
	})
}

func await(t *testing.T, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(10 * time.Second); !condition(); {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("the condition never held")
		}
	}
}
