package sts_test

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/exchange"
	"github.com/sallyport/sallyport/exchange/sts"
)

const mintIssuer = "https://gateway.example/sts"

func minter(t *testing.T, change ...func(*sts.MinterConfig)) *sts.Minter {
	t.Helper()
	cfg := sts.MinterConfig{Issuer: mintIssuer, ClientID: "gateway"}
	for _, f := range change {
		f(&cfg)
	}
	if cfg.Keys == nil {
		cfg.Keys = keySet(t, sts.KeySetConfig{})
	}
	m, err := sts.NewMinter(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func mintRequest() exchange.Request {
	return exchange.Request{
		SubjectToken: "a.b.c", Subject: "alice", Audience: tickets, Scopes: []string{"item:List", "item:Read"},
		Lifetime: 5 * time.Second, Delegation: true, Agent: "agent",
	}
}

// jwk is a public key as it is published.
type jwk struct{ Kty, Crv, X, Y, Kid, Alg string }

func (k jwk) public(t *testing.T) crypto.PublicKey {
	t.Helper()
	if k.Kty != "OKP" {
		return publicKey(t, k.X, k.Y)
	}
	x, err := base64.RawURLEncoding.DecodeString(k.X)
	if err != nil {
		t.Fatal(err)
	}
	return ed25519.PublicKey(x)
}

// verify reads a minted token as a resource server does that knows only the
// issuer.
func verify(t *testing.T, h http.Handler, token string, now func() time.Time) jwt.MapClaims {
	t.Helper()
	get := func(url string, into any) {
		t.Helper()
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, httptest.NewRequest("GET", url, nil))
		if err := json.Unmarshal(rec.Body.Bytes(), into); err != nil || rec.Code != http.StatusOK {
			t.Fatalf("%s: %d %v", url, rec.Code, err)
		}
	}
	var meta struct {
		Issuer  string `json:"issuer"`
		JWKSURI string `json:"jwks_uri"`
	}
	get("https://gateway.example/.well-known/oauth-authorization-server/sts", &meta)
	var set struct{ Keys []jwk }
	get(meta.JWKSURI, &set)
	claims := jwt.MapClaims{}
	_, err := jwt.ParseWithClaims(token, claims, func(parsed *jwt.Token) (any, error) {
		if len(parsed.Header) != 3 || parsed.Header["typ"] != "at+jwt" {
			t.Errorf("header %v", parsed.Header)
		}
		i := slices.IndexFunc(set.Keys, func(k jwk) bool { return k.Kid == parsed.Header["kid"] && k.Alg == parsed.Header["alg"] })
		if i < 0 {
			return nil, errors.New("unknown key")
		}
		return set.Keys[i].public(t), nil
	}, jwt.WithValidMethods([]string{"ES256", "EdDSA"}), jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithIssuer(meta.Issuer), jwt.WithTimeFunc(now))
	if err != nil {
		t.Fatal(err)
	}
	return claims
}

// A token of the minter's own speaks of nobody else, whatever the request says of an agent.
func TestMintedForItself(t *testing.T) {
	m := minter(t)
	got, err := m.ClientCredentials(t.Context(), mintRequest())
	if err != nil {
		t.Fatal(err)
	}
	c := verify(t, m.Handler(), got.Value, time.Now)
	if got.Subject != "gateway" || c["sub"] != "gateway" || c["client_id"] != "gateway" || c["aud"] != tickets || c["scope"] != "item:List item:Read" ||
		c["act"] != nil || len(got.Actors) > 0 || got.ExpiresIn != 5*time.Second {
		t.Errorf("%+v: %v", got, c)
	}
	if _, err := m.ClientCredentials(t.Context(), exchange.Request{}); err == nil {
		t.Error("a token for nowhere")
	}
}

func TestMint(t *testing.T) {
	actor := func(names ...string) map[string]any {
		var act map[string]any
		for _, name := range slices.Backward(names) {
			outer := map[string]any{"sub": name}
			if act != nil {
				outer["act"] = act
			}
			act = outer
		}
		return act
	}
	now := time.Now()
	tests := []struct {
		name   string
		change func(*exchange.Request)
		want   jwt.MapClaims // other than in the first; nil removes
		life   float64
		actors []string
	}{
		{"delegation", func(*exchange.Request) {}, nil, 5, []string{"gateway", "agent"}},
		{"impersonation", func(r *exchange.Request) { r.Delegation = false }, jwt.MapClaims{"act": nil}, 5, nil},
		{"act is required", func(r *exchange.Request) { r.RequireAct, r.ActorToken = true, true }, nil, 5, []string{"gateway", "agent"}},
		{"no agent", func(r *exchange.Request) { r.Agent = "" }, jwt.MapClaims{"act": actor("gateway")}, 5, []string{"gateway"}},
		{"agent speaks for itself", func(r *exchange.Request) { r.Agent = "alice" }, jwt.MapClaims{"act": actor("gateway")}, 5, []string{"gateway"}},
		{
			"chain", func(r *exchange.Request) {
				r.Act = []byte(`{"sub":"helper","iss":"https://as","act":{"client_id":"first"}}`)
			},
			jwt.MapClaims{"act": map[string]any{"sub": "gateway", "act": map[string]any{"sub": "agent", "act": map[string]any{
				"sub": "helper", "iss": "https://as", "act": map[string]any{"client_id": "first"},
			}}}}, 5, []string{"gateway", "agent", "helper", "first"},
		},
		{
			"chain of the agent", func(r *exchange.Request) { r.Act = []byte(` {"sub": "agent", "act": {"sub":"first"}} `) },
			jwt.MapClaims{"act": actor("gateway", "agent", "first")}, 5, []string{"gateway", "agent", "first"},
		},
		{
			"chain of the agent, by client_id", func(r *exchange.Request) { r.Act = []byte(`{"client_id":"agent"}`) },
			jwt.MapClaims{"act": map[string]any{"sub": "gateway", "act": map[string]any{"client_id": "agent"}}}, 5, []string{"gateway", "agent"},
		},
		{"chain without an agent", func(r *exchange.Request) { r.Agent, r.Act = "", []byte(`{"sub":"first"}`) }, jwt.MapClaims{"act": actor("gateway", "first")}, 5, []string{"gateway", "first"}},
		{"null chain", func(r *exchange.Request) { r.Act = []byte(`null`) }, nil, 5, []string{"gateway", "agent"}},
		{"chain under impersonation", func(r *exchange.Request) { r.Delegation, r.Act = false, []byte(`{"sub":"first"}`) }, jwt.MapClaims{"act": nil}, 5, nil},
		{"no scope", func(r *exchange.Request) { r.Scopes = nil }, jwt.MapClaims{"scope": nil}, 5, []string{"gateway", "agent"}},
		{"resource", func(r *exchange.Request) { r.Audience, r.Resource = "", "https://tickets.example/mcp" }, jwt.MapClaims{"aud": "https://tickets.example/mcp"}, 5, []string{"gateway", "agent"}},
		{"audience before resource", func(r *exchange.Request) { r.Resource = "https://tickets.example/mcp" }, nil, 5, []string{"gateway", "agent"}},
		{"third name", func(r *exchange.Request) { r.TokenAudience = "t" }, jwt.MapClaims{"aud": "t"}, 5, []string{"gateway", "agent"}},
		{"odd names", func(r *exchange.Request) { r.Subject, r.Agent = "a\"li\\ce\n<é> \u2028", `a"b` }, jwt.MapClaims{"sub": "a\"li\\ce\n<é> \u2028", "act": actor("gateway", `a"b`)}, 5, []string{"gateway", `a"b`}},
		{"rounded down", func(r *exchange.Request) { r.Lifetime = 5900 * time.Millisecond }, nil, 5, []string{"gateway", "agent"}},
		{"at least a second", func(r *exchange.Request) { r.Lifetime = time.Millisecond }, nil, 1, []string{"gateway", "agent"}},
		{"none asked for", func(r *exchange.Request) { r.Lifetime = 0 }, nil, 60, []string{"gateway", "agent"}},
		{"longest", func(r *exchange.Request) { r.Lifetime = 24 * time.Hour }, nil, 3600, []string{"gateway", "agent"}},
		{"no longer than the agent's", func(r *exchange.Request) { r.SubjectExpiry = time.Unix(now.Unix()+3, 0) }, nil, 3, []string{"gateway", "agent"}},
		{"the agent's lives longer", func(r *exchange.Request) { r.SubjectExpiry = now.Add(time.Hour) }, nil, 5, []string{"gateway", "agent"}},
	}
	for _, alg := range []string{sts.ES256, sts.EdDSA} {
		keys := keySet(t, sts.KeySetConfig{Algorithm: alg})
		m := minter(t, func(c *sts.MinterConfig) { c.Keys, c.Now = keys, func() time.Time { return now } })
		seen := map[any]bool{}
		for _, tt := range tests {
			t.Run(alg+" "+tt.name, func(t *testing.T) {
				r := mintRequest()
				tt.change(&r)
				got, err := m.Exchange(t.Context(), r)
				if err != nil {
					t.Fatal(err)
				}
				claims := verify(t, m.Handler(), got.Value, func() time.Time { return now })
				want := jwt.MapClaims{
					"iss": mintIssuer, "sub": "alice", "aud": tickets, "client_id": "gateway", "scope": "item:List item:Read", "act": actor("gateway", "agent"),
					"iat": float64(now.Unix()), "exp": float64(now.Unix()) + tt.life, "jti": got.JTI,
				}
				maps.Copy(want, tt.want)
				maps.DeleteFunc(want, func(_ string, v any) bool { return v == nil })
				if diff := cmp.Diff(want, claims); diff != "" {
					t.Error(diff)
				}
				token := &exchange.Token{
					Value: got.Value, Audience: []string{want["aud"].(string)}, Scopes: r.Scopes, Actors: tt.actors, JTI: got.JTI, Issuer: mintIssuer,
					Subject: r.Subject, ExpiresIn: time.Duration(tt.life) * time.Second, Expiry: time.Unix(now.Unix()+int64(tt.life), 0),
				}
				if diff := cmp.Diff(token, got); diff != "" {
					t.Error(diff)
				}
				if len(got.JTI) != 22 || seen[got.JTI] {
					t.Errorf("jti %q", got.JTI)
				}
				seen[got.JTI] = true
			})
		}
		if m.Minted() != uint64(len(tests)) {
			t.Errorf("counted %d", m.Minted())
		}
	}
}

// What is minted is what the client that asks a server would have accepted as the
// answer to the same request.
func TestMintedIsAcceptable(t *testing.T) {
	ts := httptest.NewUnstartedServer(nil)
	issuer := "http://" + ts.Listener.Addr().String()
	m := minter(t, func(c *sts.MinterConfig) { c.Issuer = issuer })
	r := mintRequest()
	r.RequireAct, r.RequireATJWT, r.Act = true, true, []byte(`{"sub":"first"}`)
	var minted *exchange.Token
	mux := http.NewServeMux()
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, req *http.Request) {
		var err error
		if minted, err = m.Exchange(req.Context(), r); err != nil {
			t.Error(err)
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{
			"access_token": minted.Value, "issued_token_type": typeAccess, "token_type": "Bearer", "expires_in": int(minted.ExpiresIn.Seconds()), "scope": strings.Join(minted.Scopes, " "),
		})
	})
	mux.HandleFunc("GET /.well-known/oauth-authorization-server", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"issuer": issuer, "token_endpoint": issuer + "/token"})
	})
	ts.Config.Handler = mux
	ts.Start()
	t.Cleanup(ts.Close)
	s := &server{t: t, url: issuer, clock: &clock{}}
	got, err := s.connect(func(*exchange.Config) {}).Exchange(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(minted, got); diff != "" {
		t.Error(diff)
	}
}

func TestMintRefuses(t *testing.T) {
	deep := `{"sub":"a"}`
	for range 8 {
		deep = `{"sub":"a","act":` + deep + `}`
	}
	many := make([]string, 256)
	for i := range many {
		many[i] = strings.Repeat("a", 250)
	}
	m := minter(t)
	for name, change := range map[string]func(*exchange.Request){
		"no token":               func(r *exchange.Request) { r.SubjectToken = "" },
		"no subject":             func(r *exchange.Request) { r.Subject = "" },
		"no audience":            func(r *exchange.Request) { r.Audience = "" },
		"mapped subject":         func(r *exchange.Request) { r.SubjectClaim = "oid" },
		"subject is not UTF-8":   func(r *exchange.Request) { r.Subject = "\xff" },
		"audience is not UTF-8":  func(r *exchange.Request) { r.Audience = "\xff" },
		"agent is not UTF-8":     func(r *exchange.Request) { r.Agent = "\xff" },
		"agent's token is over":  func(r *exchange.Request) { r.SubjectExpiry = time.Now() },
		"act is a string":        func(r *exchange.Request) { r.Act = []byte(`"agent"`) },
		"act is malformed":       func(r *exchange.Request) { r.Act = []byte(`{"sub":"a"`) },
		"act has two subs":       func(r *exchange.Request) { r.Act = []byte(`{"sub":"a","sub":"b"}`) },
		"act breaks out":         func(r *exchange.Request) { r.Act = []byte(`{"sub":"a"},"aud":"https://bank.example/"`) },
		"act breaks out, closed": func(r *exchange.Request) { r.Act = []byte(`{"sub":"a"}},{"x":{}`) },
		"too many actors":        func(r *exchange.Request) { r.Act = []byte(deep) },
		"scope breaks out":       func(r *exchange.Request) { r.Scopes = []string{`a","aud":"b`} },
		"too long":               func(r *exchange.Request) { r.Scopes = many },
	} {
		t.Run(name, func(t *testing.T) {
			r := mintRequest()
			change(&r)
			token, err := m.Exchange(t.Context(), r)
			var e *exchange.Error
			if token != nil || !errors.As(err, &e) || e.Kind != exchange.Refused || e.Reason() != "request" || strings.Contains(err.Error(), "a.b.c") {
				t.Errorf("got %v, %v", token, err)
			}
		})
	}
	if m.Minted() != 0 {
		t.Errorf("minted %d", m.Minted())
	}
}

func TestMintFails(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, tt := range map[string]struct {
		ctx    context.Context
		change func(*sts.MinterConfig)
	}{
		"cancelled":     {ctx, func(*sts.MinterConfig) {}},
		"no randomness": {t.Context(), func(c *sts.MinterConfig) { c.Rand = iotest.ErrReader(io.ErrUnexpectedEOF) }},
	} {
		token, err := minter(t, tt.change).Exchange(tt.ctx, mintRequest())
		var e *exchange.Error
		if token != nil || !errors.As(err, &e) || e.Kind != exchange.Unavailable {
			t.Errorf("%s: got %v, %v", name, token, err)
		}
	}
}

func TestNewMinterRefuses(t *testing.T) {
	for name, change := range map[string]func(*sts.MinterConfig){
		"no issuer":                  func(c *sts.MinterConfig) { c.Issuer = "" },
		"issuer with slash":          func(c *sts.MinterConfig) { c.Issuer += "/" },
		"issuer with query":          func(c *sts.MinterConfig) { c.Issuer += "?a" },
		"issuer is no URL":           func(c *sts.MinterConfig) { c.Issuer = "gateway" },
		"no client":                  func(c *sts.MinterConfig) { c.ClientID = "" },
		"client is not UTF-8":        func(c *sts.MinterConfig) { c.ClientID = "\xff" },
		"no keys":                    func(c *sts.MinterConfig) { c.Keys = nil },
		"short lifetime":             func(c *sts.MinterConfig) { c.MaxLifetime = time.Millisecond },
		"tokens that outlive a key":  func(c *sts.MinterConfig) { c.MaxLifetime = 2 * time.Hour },
		"tokens that outlive its ad": func(c *sts.MinterConfig) { c.Keys = keySet(t, sts.KeySetConfig{Overlap: time.Hour}) },
	} {
		cfg := sts.MinterConfig{Issuer: mintIssuer, ClientID: "gateway", Keys: keySet(t, sts.KeySetConfig{})}
		change(&cfg)
		if _, err := sts.NewMinter(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// A token stays verifiable from its first to its last second, however the keys
// turn meanwhile.
func TestMintAcrossRotation(t *testing.T) {
	c := &clock{}
	keys := keySet(t, sts.KeySetConfig{Dir: t.TempDir(), RotateEvery: 2 * time.Hour, Ahead: 10 * time.Minute, Overlap: 62 * time.Minute, Now: c.now})
	m := minter(t, func(cfg *sts.MinterConfig) { cfg.Keys, cfg.Now = keys, c.now })
	r := mintRequest()
	r.Lifetime = time.Hour
	type alive struct {
		value string
		until time.Time
	}
	var tokens []alive
	kids := map[string]bool{}
	for range 24 * 6 {
		token, err := m.Exchange(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		tokens = append(tokens, alive{token.Value, token.Expiry})
		kids[keys.Current()] = true
		c.advance(10 * time.Minute)
		tended(t, keys)
		tokens = slices.DeleteFunc(tokens, func(a alive) bool { return !c.now().Before(a.until) })
		for _, a := range tokens {
			verify(t, m.Handler(), a.value, c.now)
		}
	}
	if len(kids) < 10 {
		t.Errorf("only %d keys in a day", len(kids))
	}
}

func TestMintConcurrently(t *testing.T) {
	m := minter(t)
	var wg sync.WaitGroup
	for _, subject := range []string{"alice", "bob", strings.Repeat("carol", 500), "dave"} {
		wg.Go(func() {
			for range 50 {
				r := mintRequest()
				r.Subject = subject
				token, err := m.Exchange(t.Context(), r)
				if err != nil {
					t.Error(err)
					return
				}
				payload, err := base64.RawURLEncoding.DecodeString(strings.Split(token.Value, ".")[1])
				if err != nil || !strings.Contains(string(payload), `"sub":"`+subject+`"`) {
					t.Errorf("%s: %s", subject, payload)
				}
			}
		})
	}
	wg.Wait()
}

func TestMinterPublishes(t *testing.T) {
	h := minter(t).Handler()
	for path, want := range map[string]int{
		"/.well-known/oauth-authorization-server/sts": 200, "/.well-known/openid-configuration/sts": 200,
		"/sts/.well-known/oauth-authorization-server": 200, "/sts/.well-known/openid-configuration": 200,
		"/sts/jwks": 200, "/jwks": 404, "/sts/token": 404, "/sts/authorize": 404, "/": 404,
	} {
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, httptest.NewRequest("GET", path, nil))
		if rec.Code != want {
			t.Errorf("%s: %d", path, rec.Code)
		}
	}
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequest("POST", "/sts/jwks", nil))
	if rec.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", rec.Code)
	}
}

// FuzzMint: whatever the names are, a second reader finds in the token exactly
// what was asked for.
func FuzzMint(f *testing.F) {
	f.Add("alice", "agent", tickets, "item:List", `{"sub":"first"}`)
	f.Add("a\"},{", "\u2028", "\x00", "a", `{"sub":"a"}`)
	keys, err := sts.NewKeySet(sts.KeySetConfig{Algorithm: sts.EdDSA})
	if err != nil {
		f.Fatal(err)
	}
	m, err := sts.NewMinter(sts.MinterConfig{Issuer: mintIssuer, ClientID: "gateway", Keys: keys})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, subject, agent, audience, scope, act string) {
		r := mintRequest()
		r.Subject, r.Agent, r.Audience, r.Scopes, r.Act = subject, agent, audience, []string{scope}, []byte(act)
		token, err := m.Exchange(t.Context(), r)
		if err != nil {
			return
		}
		payload, err := base64.RawURLEncoding.DecodeString(strings.Split(token.Value, ".")[1])
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			Issuer   string `json:"iss"`
			Subject  string `json:"sub"`
			Audience string `json:"aud"`
			ClientID string `json:"client_id"`
			Scope    string `json:"scope"`
			JTI      string `json:"jti"`
			IssuedAt int64  `json:"iat"`
			Expiry   int64  `json:"exp"`
			Act      struct {
				Subject string         `json:"sub"`
				Act     map[string]any `json:"act"`
			} `json:"act"`
		}
		d := json.NewDecoder(strings.NewReader(string(payload)))
		d.DisallowUnknownFields()
		if err := d.Decode(&got); err != nil || d.More() {
			t.Fatalf("%v in %s", err, payload)
		}
		if got.Issuer != mintIssuer || got.Subject != subject || got.Audience != audience || got.ClientID != "gateway" || got.Scope != scope ||
			got.JTI != token.JTI || got.Expiry-got.IssuedAt != 5 || got.Act.Subject != "gateway" {
			t.Fatalf("%+v in %s", got, payload)
		}
	})
}
