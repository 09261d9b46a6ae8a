package token

import (
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sallyport/sallyport/authz/token/internal/jose"
)

const (
	opaqueToken  = "an-opaque-token-0123456789abcdef"
	clientSecret = "s3cr3t:/&+ü"
)

// inspector is an authorization server that can also be asked about tokens.
type inspector struct {
	*authority
	questions atomic.Int64

	mu    sync.Mutex
	reply http.HandlerFunc
	last  *http.Request // the latest question, its form parsed
}

func newInspector(as *authority, answer any) *inspector {
	i := &inspector{authority: as}
	i.says(answer)
	as.setMeta(jsonObject{"issuer": as.issuer, "jwks_uri": as.jwksURI(), "introspection_endpoint": as.issuer + "/introspect"})
	return i
}

// says sets the answer to all questions: an object, or the literal text.
func (i *inspector) says(answer any) {
	i.does(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, text(answer)) })
}

func (i *inspector) does(h http.HandlerFunc) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.reply = h
}

func (i *inspector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/introspect" {
		i.authority.ServeHTTP(w, r)
		return
	}
	i.questions.Add(1)
	r.ParseForm()
	i.mu.Lock()
	reply := i.reply
	i.last = r
	i.mu.Unlock()
	reply(w, r)
}

func (i *inspector) config() Config {
	cfg := configFor(i.authority)
	cfg.HTTP = &http.Client{Transport: wire{must(url.Parse(i.issuer)).Host: i}}
	cfg.Issuers[0].Introspection = &IntrospectionConfig{ClientID: "gateway", ClientSecret: clientSecret}
	return cfg
}

// answerWith is what an authorization server says of a good token.
func answerWith(changes jsonObject) jsonObject {
	return with(with(baseClaims(), jsonObject{"active": true, "token_type": "Bearer", "username": "al"}), changes)
}

// ask runs f with a verifier that introspects opaque tokens, at a server that answers with a good answer, changed.
func ask(t *testing.T, changes jsonObject, f func(*testing.T, *inspector, *Verifier)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		i := newInspector(newAuthority(issuerA, toJWK("k1", ecKey())), answerWith(changes))
		f(t, i, start(t, i.config()))
	})
}

func TestIntrospection(t *testing.T) {
	ask(t, nil, func(t *testing.T, i *inspector, v *Verifier) {
		got := accepted(t, v, opaqueToken)
		want := &Identity{
			Issuer: issuerA, Subject: "alice", ClientID: "agent", JTI: "j-1", Scopes: []string{"tools:read", "tools:call"},
			Audience: []string{audience}, Issued: time.Unix(time.Now().Unix(), 0), Expiry: time.Unix(time.Now().Add(time.Hour).Unix(), 0),
		}
		if d := cmp.Diff(want, got, cmpopts.IgnoreUnexported(Identity{}), cmpopts.IgnoreFields(Identity{}, "Claims")); d != "" {
			t.Error(d)
		}
		if got.Claims["username"] != "al" {
			t.Errorf("claims: %v", got.Claims)
		}
		q := i.last
		user, password, _ := q.BasicAuth()
		form := url.Values{"token": {opaqueToken}, "token_type_hint": {"access_token"}}
		if q.Method != "POST" || user != "gateway" || password != url.QueryEscape(clientSecret) || q.URL.RawQuery != "" {
			t.Errorf("%s %s by %q, %q", q.Method, q.URL, user, password)
		}
		if d := cmp.Diff(form, q.PostForm); d != "" {
			t.Error(d)
		}
		if s := v.Stats()[0]; s.Introspections != 1 || s.IntrospectionFailures != 0 {
			t.Errorf("stats: %+v", s)
		}
	})
}

func TestIntrospectionByPost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newInspector(newAuthority(issuerA, toJWK("k1", ecKey())), answerWith(nil))
		cfg := i.config()
		cfg.Issuers[0].Introspection.AuthMethod = AuthPost
		accepted(t, start(t, cfg), opaqueToken)
		if f := i.last.PostForm; f.Get("client_id") != "gateway" || f.Get("client_secret") != clientSecret || i.last.Header.Get("Authorization") != "" {
			t.Errorf("form %v", f)
		}
	})
}

func TestAnswersAccepted(t *testing.T) {
	for name, tt := range map[string]struct {
		changes jsonObject
		check   func(*Identity) bool
	}{
		"iss left out":            {jsonObject{"iss": nil}, func(id *Identity) bool { return id.Issuer == issuerA }},
		"token_type left out":     {jsonObject{"token_type": nil}, nil},
		"token_type in lower":     {jsonObject{"token_type": "bearer"}, nil},
		"several audiences":       {jsonObject{"aud": []string{"x", audience}}, nil},
		"Keycloak's typ":          {jsonObject{"typ": "Bearer"}, nil},
		"Hydra's token_use":       {jsonObject{"token_use": "access_token"}, nil},
		"no scope":                {jsonObject{"scope": nil}, func(id *Identity) bool { return len(id.Scopes) == 0 }},
		"an actor":                {jsonObject{"act": jsonObject{"sub": "x"}}, func(id *Identity) bool { return id.Actors[0] == "x" }},
		"exp left out":            {jsonObject{"exp": nil}, func(id *Identity) bool { return time.Until(id.Expiry) == unknownExpiry && id.Claims["exp"] == nil }},
		"client itself":           {jsonObject{"sub": "agent"}, func(id *Identity) bool { return id.ClientOnly }},
		"a member of another RFC": {jsonObject{"device_id": "d", "nested": jsonObject{"a": []int{1}}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			ask(t, tt.changes, func(t *testing.T, _ *inspector, v *Verifier) {
				id := accepted(t, v, opaqueToken)
				if tt.check != nil && !tt.check(id) {
					t.Errorf("%+v", id)
				}
			})
		})
	}
}

// The clocks of both may differ: exp gets the skew, as in a JWT.
func TestAnswerJustExpired(t *testing.T) {
	ask(t, nil, func(t *testing.T, i *inspector, v *Verifier) {
		i.says(answerWith(jsonObject{"exp": time.Now().Unix() - 14}))
		accepted(t, v, opaqueToken)
		i.says(answerWith(jsonObject{"exp": time.Now().Unix() - 15}))
		refused(t, v, opaqueToken, ErrExpired)
	})
}

func TestAnswersRefused(t *testing.T) { // F-052, F-023
	for name, tt := range map[string]struct {
		answer any // changes, or the literal text
		want   error
	}{
		"inactive":                 {`{"active":false}`, ErrInactive},
		"inactive, with claims":    {jsonObject{"active": false}, ErrInactive},
		"active a string":          {jsonObject{"active": "true"}, ErrInvalidToken},
		"active a number":          {jsonObject{"active": 1}, ErrInvalidToken},
		"active missing":           {jsonObject{"active": nil}, ErrInvalidToken},
		"active in another case":   {jsonObject{"active": nil, "Active": true}, ErrInvalidToken},
		"active and nothing else":  {`{"active":true}`, ErrInvalidToken},
		"sub missing":              {jsonObject{"sub": nil}, ErrInvalidToken},
		"sub empty":                {jsonObject{"sub": ""}, ErrInvalidToken},
		"sub with CRLF":            {jsonObject{"sub": "a\r\nb"}, ErrInvalidToken},
		"aud missing":              {jsonObject{"aud": nil}, ErrAudience},
		"aud of another":           {jsonObject{"aud": "https://elsewhere.example/"}, ErrAudience},
		"aud an object":            {jsonObject{"aud": jsonObject{audience: true}}, ErrInvalidToken},
		"iss of another":           {jsonObject{"iss": issuerB}, ErrIssuer},
		"iss a number":             {jsonObject{"iss": 1}, ErrInvalidToken},
		"exp in the past":          {jsonObject{"exp": 1}, ErrExpired},
		"exp a string":             {jsonObject{"exp": "9999999999"}, ErrInvalidToken},
		"nbf ahead":                {jsonObject{"nbf": 9999999999}, ErrNotYetValid},
		"a refresh token":          {jsonObject{"token_type": "refresh_token"}, ErrTokenType},
		"token_type a number":      {jsonObject{"token_type": 1}, ErrTokenType},
		"Keycloak's refresh token": {jsonObject{"typ": "Refresh"}, ErrTokenType},
		"Hydra's refresh token":    {jsonObject{"token_use": "refresh_token"}, ErrTokenType},
		"an ID token":              {jsonObject{"nonce": "n"}, ErrTokenType},
		"bound to a key":           {jsonObject{"cnf": jsonObject{"jkt": "x"}}, ErrBinding},
		"token_type DPoP, no key":  {jsonObject{"token_type": "DPoP"}, ErrBinding},
		"scope a list":             {jsonObject{"scope": []string{"a"}}, ErrInvalidToken},
	} {
		t.Run(name, func(t *testing.T) {
			changes, _ := tt.answer.(jsonObject)
			ask(t, changes, func(t *testing.T, i *inspector, v *Verifier) {
				if literal, ok := tt.answer.(string); ok {
					i.says(literal)
				}
				refused(t, v, opaqueToken, tt.want)
				if v.cache.len() != 0 {
					t.Error("a refusal is remembered")
				}
				i.says(answerWith(nil))
				accepted(t, v, opaqueToken)
			})
		})
	}
}

// troubles are answers that say nothing about a token, and whether the server is to be left alone for them.
var troubles = map[string]struct {
	reply http.HandlerFunc
	sick  bool
}{
	"500":           {broken["500"], true},
	"401":           {status(http.StatusUnauthorized), true},
	"403":           {status(http.StatusForbidden), true},
	"429":           {status(http.StatusTooManyRequests), true},
	"redirect":      {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) }, true},
	"hangs":         {broken["hangs"], true},
	"400":           {status(http.StatusBadRequest), false},
	"204":           {status(http.StatusNoContent), false},
	"no body":       {broken["no body"], false},
	"HTML":          {broken["HTML"], false},
	"cut short":     {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"active":true`) }, false},
	"a list":        {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `[{"active":true}]`) }, false},
	"active twice":  {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"active":true,"active":true}`) }, false},
	"sub twice":     {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"active":true,"sub":"a","sub":"b"}`) }, false},
	"too deep":      {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"x":`+strings.Repeat("[", 1000)) }, false},
	"too large":     {broken["too large"], false},
	"data after it": {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, text(answerWith(nil)), "{}") }, false},
	"an error, 200": {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `"invalid_client"`) }, false},
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		io.WriteString(w, text(answerWith(nil)))
	}
}

func TestIntrospectionFails(t *testing.T) { // F-053
	for name, tt := range troubles {
		t.Run(name, func(t *testing.T) {
			ask(t, nil, func(t *testing.T, i *inspector, v *Verifier) {
				i.does(tt.reply)
				const times = 10
				for range times {
					refused(t, v, opaqueToken, ErrUnavailable)
				}
				if asked := i.questions.Load(); tt.sick != (asked == circuitLimit) || !tt.sick && asked != times {
					t.Errorf("asked %d times", asked)
				}
				i.says(answerWith(nil))
				if tt.sick {
					refused(t, v, opaqueToken, ErrUnavailable)
					advance(circuitPause)
				}
				accepted(t, v, opaqueToken)
				accepted(t, v, opaqueToken)
				if s := v.Stats()[0]; s.IntrospectionFailures == 0 || s.Introspections != uint64(i.questions.Load()) {
					t.Errorf("stats: %+v", s)
				}
			})
		})
	}
}

func TestErrorsKeepSecrets(t *testing.T) {
	for name, tt := range troubles {
		ask(t, nil, func(t *testing.T, i *inspector, v *Verifier) {
			i.does(tt.reply)
			_, err := v.Verify(t.Context(), opaqueToken)
			for _, secret := range []string{opaqueToken, clientSecret, url.QueryEscape(clientSecret)} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
	}
}

// While the circuit is half open one question is asked, and the others fail at once.
func TestCircuitProbesOnce(t *testing.T) {
	ask(t, nil, func(t *testing.T, i *inspector, v *Verifier) {
		i.does(broken["500"])
		for range circuitLimit {
			refused(t, v, opaqueToken, ErrUnavailable)
		}
		advance(circuitPause)
		release := make(chan struct{})
		i.does(func(w http.ResponseWriter, _ *http.Request) {
			<-release
			fmt.Fprint(w, text(answerWith(nil)))
		})
		probe := make(chan error)
		go func() {
			_, err := v.Verify(t.Context(), opaqueToken)
			probe <- err
		}()
		synctest.Wait()
		for n := range 5 {
			refused(t, v, fmt.Sprint(opaqueToken, n), ErrUnavailable)
		}
		close(release)
		if err := <-probe; err != nil {
			t.Error(err)
		}
		accepted(t, v, opaqueToken+"x")
		if n := i.questions.Load(); n != circuitLimit+2 {
			t.Errorf("asked %d times", n)
		}
		i.does(broken["500"]) // after a success it takes as many failures as ever
		for range circuitLimit {
			refused(t, v, opaqueToken, ErrUnavailable)
		}
		if n := i.questions.Load(); n != 2*circuitLimit+2 {
			t.Errorf("asked %d times", n)
		}
	})
}

func TestSlowIntrospection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newInspector(newAuthority(issuerA, toJWK("k1", ecKey())), nil)
		cfg := i.config()
		cfg.Issuers[0].Introspection.Timeout = 3 * time.Second
		v := start(t, cfg)
		i.does(broken["hangs"])
		began := time.Now()
		refused(t, v, opaqueToken, ErrUnavailable)
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

// A slow server gets a bounded number of questions at once, whoever asks them.
func TestQuestionsAreBounded(t *testing.T) {
	ask(t, nil, func(t *testing.T, i *inspector, v *Verifier) {
		i.does(broken["hangs"])
		var callers sync.WaitGroup
		for n := range 3 * maxQuestions {
			callers.Go(func() { refused(t, v, fmt.Sprint(opaqueToken, n), ErrUnavailable) })
		}
		synctest.Wait()
		if n := i.questions.Load(); n != maxQuestions {
			t.Errorf("%d questions at once", n)
		}
		began := time.Now()
		callers.Wait()
		if time.Since(began) > defaultAskTimeout {
			t.Errorf("the last waited %v", time.Since(began))
		}
	})
}

func TestOneQuestionForEachToken(t *testing.T) {
	ask(t, nil, func(t *testing.T, i *inspector, v *Verifier) {
		release := make(chan struct{})
		i.does(func(w http.ResponseWriter, _ *http.Request) {
			<-release
			fmt.Fprint(w, text(answerWith(nil)))
		})
		var identities sync.Map
		var callers sync.WaitGroup
		for range 200 {
			callers.Go(func() {
				if id, err := v.Verify(t.Context(), opaqueToken); err != nil {
					t.Error(err)
				} else {
					identities.Store(id, true)
				}
			})
		}
		impatient, cancel := context.WithCancel(t.Context())
		callers.Go(func() {
			if _, err := v.Verify(impatient, opaqueToken); !errors.Is(err, ErrUnavailable) || !errors.Is(err, context.Canceled) {
				t.Errorf("the impatient one got %v", err)
			}
		})
		synctest.Wait()
		cancel()
		synctest.Wait()
		close(release)
		callers.Wait()
		n := 0
		identities.Range(func(any, any) bool { n++; return true })
		if n != 1 || i.questions.Load() != 1 {
			t.Errorf("%d identities, %d questions", n, i.questions.Load())
		}
		accepted(t, v, opaqueToken) // nothing is remembered unless so configured
		accepted(t, v, opaqueToken+"x")
		if i.questions.Load() != 3 {
			t.Errorf("%d questions", i.questions.Load())
		}
	})
}

func TestAnswersAreRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newInspector(newAuthority(issuerA, toJWK("k1", ecKey())), answerWith(nil))
		cfg := i.config()
		cfg.Issuers[0].Introspection.CacheTTL = 30 * time.Second
		v := start(t, cfg)
		questions := func(want int64) {
			t.Helper()
			if n := i.questions.Load(); n != want {
				t.Errorf("%d questions, want %d", n, want)
			}
		}
		first := accepted(t, v, opaqueToken)
		advance(29 * time.Second)
		if accepted(t, v, opaqueToken) != first {
			t.Error("forgotten too early")
		}
		questions(1)
		i.says(`{"active":false}`)
		advance(time.Second)
		refused(t, v, opaqueToken, ErrInactive)
		questions(2)

		i.says(answerWith(jsonObject{"exp": time.Now().Add(10 * time.Second).Unix()}))
		accepted(t, v, opaqueToken)
		questions(3)
		advance(9 * time.Second)
		accepted(t, v, opaqueToken)
		questions(3)
		i.says(`{"active":false}`)
		advance(time.Second) // an answer lives no longer than its exp, without any skew
		refused(t, v, opaqueToken, ErrInactive)
		questions(4)

		i.says(answerWith(jsonObject{"exp": nil}))
		accepted(t, v, opaqueToken)
		accepted(t, v, opaqueToken)
		questions(5)
		if n := v.Drop(func(id *Identity) bool { return id.Subject == "alice" }); n != 1 {
			t.Errorf("%d dropped", n)
		}
		i.says(`{"active":false}`)
		refused(t, v, opaqueToken, ErrInactive)
		questions(6)
	})
}

// Between the look for a token and the question time passes, which must not make the answer one of the future.
func TestAnswersAreRememberedByAMovingClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newInspector(newAuthority(issuerA, toJWK("k1", ecKey())), answerWith(nil))
		cfg := i.config()
		cfg.Issuers[0].Introspection.CacheTTL = 30 * time.Second
		var ticks atomic.Int64
		cfg.Now = func() time.Time { return time.Now().Add(time.Duration(ticks.Add(1)) * time.Microsecond) }
		v := start(t, cfg)
		if first := accepted(t, v, opaqueToken); first != accepted(t, v, opaqueToken) || i.questions.Load() != 1 {
			t.Errorf("%d questions", i.questions.Load())
		}
	})
}

// What was asked before a Drop is neither remembered after it nor shared with those who come after it.
func TestDropWhileAsking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newInspector(newAuthority(issuerA, toJWK("k1", ecKey())), answerWith(nil))
		cfg := i.config()
		cfg.Issuers[0].Introspection.CacheTTL = 30 * time.Second
		v := start(t, cfg)
		release := make(chan struct{})
		i.does(func(w http.ResponseWriter, _ *http.Request) {
			<-release
			fmt.Fprint(w, text(answerWith(nil)))
		})
		early := make(chan error)
		go func() {
			_, err := v.Verify(t.Context(), opaqueToken)
			early <- err
		}()
		synctest.Wait()
		v.Drop(func(*Identity) bool { return true })
		i.says(`{"active":false}`)
		refused(t, v, opaqueToken, ErrInactive)
		close(release)
		if err := <-early; err != nil {
			t.Error(err)
		}
		refused(t, v, opaqueToken, ErrInactive)
	})
}

func TestWhatIsOpaque(t *testing.T) {
	ask(t, nil, func(t *testing.T, i *inspector, v *Verifier) {
		for _, raw := range []string{"x", "ory_at_abc.def", "a.b.c", "a.b.c.d.e", "Zm9v=", "a-._~+/9=="} {
			accepted(t, v, raw)
		}
		asked := i.questions.Load()
		jwt := tokenWith(nil, nil)
		accepted(t, v, jwt)
		for name, tt := range map[string]struct {
			raw  string
			want error
		}{
			"empty":                    {"", ErrInvalidToken},
			"only padding":             {"==", ErrInvalidToken},
			"padding inside":           {"a=b", ErrInvalidToken},
			"a space":                  {"a b", ErrInvalidToken},
			"a line":                   {"a\r\nb", ErrInvalidToken},
			"not ASCII":                {"ä", ErrInvalidToken},
			"too long":                 {strings.Repeat("a", MaxBytes+1), ErrInvalidToken},
			"a JWT, unsigned":          {encode([]byte(`{"alg":"none"}`)) + "." + encode([]byte(text(baseClaims()))) + ".", ErrInvalidToken},
			"a JWT, forged":            {sign("ES256", otherEC(), baseHeader, baseClaims()), ErrSignature},
			"a JWT with a name twice":  {sign("ES256", ecKey(), `{"alg":"ES256","kid":"k1","kid":"k1"}`, baseClaims()), ErrInvalidToken},
			"a JWT of somebody else":   {tokenWith(nil, jsonObject{"iss": "https://evil.example"}), ErrIssuer},
			"a JWT for somebody else":  {tokenWith(nil, jsonObject{"aud": "https://elsewhere.example/"}), ErrAudience},
			"a JWT that is no token":   {tokenWith(jsonObject{"typ": "dpop+jwt"}, nil), ErrTokenType},
			"a JWT that has no claims": {sign("ES256", ecKey(), baseHeader, `{}`), ErrInvalidToken},
		} {
			refused(t, v, tt.raw, tt.want, name)
		}
		if n := i.questions.Load() - asked; n != 0 {
			t.Errorf("%d questions about what is no opaque token", n)
		}
	})
}

func TestOpaqueNeedsIntrospection(t *testing.T) {
	bubble(t, func(t *testing.T, v *Verifier) { refused(t, v, opaqueToken, ErrInvalidToken) })
}

func TestIntrospectionOfJWTs(t *testing.T) {
	for _, mode := range []IntrospectedTokens{IntrospectJWTs, IntrospectAll} {
		t.Run(string(mode), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := newInspector(newAuthority(issuerA, toJWK("k1", ecKey())), `{"active":true}`)
				cfg := i.config()
				cfg.Issuers[0].Introspection.Tokens = mode
				v := start(t, cfg)
				raw := tokenWith(nil, jsonObject{"groups": []string{"a"}})
				if id := accepted(t, v, raw); id.Claims["groups"] == nil || id.ClientID != "agent" {
					t.Errorf("not the token's own identity: %+v", id)
				}
				for name, tt := range map[string]struct {
					answer any
					want   error
				}{
					"all it says agrees": {answerWith(nil), nil},
					"inactive":           {`{"active":false}`, ErrInactive},
					"active a string":    {`{"active":"true"}`, ErrInvalidToken},
					"no answer":          {`<html>`, ErrUnavailable},
					"another sub":        {`{"active":true,"sub":"bob"}`, ErrInvalidToken},
					"another iss":        {`{"active":true,"iss":"https://evil.example"}`, ErrInvalidToken},
					"sub a number":       {`{"active":true,"sub":1}`, ErrInvalidToken},
					"exp long ago":       {`{"active":true,"exp":1}`, ErrExpired},
				} {
					i.says(tt.answer)
					if _, err := v.Verify(t.Context(), raw); !errors.Is(err, tt.want) {
						t.Errorf("%s: got %v, want %v", name, err, tt.want)
					}
				}
				asked := i.questions.Load()
				refused(t, v, sign("ES256", otherEC(), baseHeader, baseClaims()), ErrSignature)
				refused(t, v, withKid("k2"), ErrKey)
				refused(t, v, tokenWith(nil, jsonObject{"exp": 1}), ErrExpired)
				if i.questions.Load() != asked {
					t.Error("asked about a token that is no good")
				}
				i.says(answerWith(nil))
				if _, err := v.Verify(t.Context(), opaqueToken); (err == nil) != mode.opaque() {
					t.Errorf("an opaque token: %v", err)
				}
			})
		})
	}
}

// Keys that change end an answer about a JWT too, and a JWT whose answer is fresh is not verified again.
func TestIntrospectedJWTRestsOnKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newInspector(newAuthority(issuerA, toJWK("k1", ecKey())), `{"active":true}`)
		cfg := i.config()
		cfg.Issuers[0].Introspection.Tokens = IntrospectJWTs
		cfg.Issuers[0].Introspection.CacheTTL = 30 * time.Second
		v := start(t, cfg)
		raw := tokenWith(nil, nil)
		if first := accepted(t, v, raw); first != accepted(t, v, raw) || i.questions.Load() != 1 {
			t.Errorf("%d questions", i.questions.Load())
		}
		i.publish(toJWK("k1", otherEC()))
		refused(t, v, withKid("unknown"), ErrKey) // fetches the keys
		refused(t, v, raw, ErrSignature)
	})
}

// An authorization server without keys has opaque tokens, whatever they look like.
func TestIssuerWithoutKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newInspector(newAuthority(issuerA), answerWith(nil))
		i.setMeta(jsonObject{"issuer": issuerA, "introspection_endpoint": issuerA + "/introspect"})
		cfg := i.config()
		v := start(t, cfg)
		if !v.Ready() {
			t.Fatal("not ready")
		}
		accepted(t, v, opaqueToken)
		accepted(t, v, tokenWith(nil, nil))
		i.says(`{"active":false}`)
		refused(t, v, tokenWith(nil, nil), ErrInactive)
		advance(48 * time.Hour)
		if s := v.Stats()[0]; i.fetches.Load() != 0 || i.discoveries.Load() > 4 || s.Failures != 0 || !v.Ready() {
			t.Errorf("%d fetches of keys, %d of metadata, %+v", i.fetches.Load(), i.discoveries.Load(), s)
		}

		cfg.Issuers[0].Introspection.Tokens = IntrospectJWTs // which have to be verified first
		if start(t, cfg).Ready() {
			t.Error("ready to verify JWTs without keys")
		}
	})
}

func TestIntrospectionBeforeDiscovery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newInspector(newAuthority(issuerA, toJWK("k1", ecKey())), answerWith(nil))
		i.setMeta("no JSON")
		v := start(t, i.config())
		refused(t, v, opaqueToken, ErrUnavailable)
		if i.questions.Load() != 0 {
			t.Error("asked a server that is not known")
		}
	})
}

func TestIntrospectionEndpoint(t *testing.T) {
	const elsewhere = "https://elsewhere.example"
	for name, tt := range map[string]struct {
		published, configured string
		ready                 bool
	}{
		"published":                  {issuerA + "/introspect", "", true},
		"published in capitals":      {"https://AS.example/introspect", "", true},
		"configured":                 {"", issuerA + "/introspect", true},
		"configured, not published":  {elsewhere + "/introspect", issuerA + "/introspect", true},
		"not to be found":            {"", "", false},
		"published at another host":  {elsewhere + "/introspect", "", false},
		"published at another port":  {issuerA + ":8443/introspect", "", false},
		"published over http":        {"http://as.example/introspect", "", false},
		"published with a password":  {"https://u:p@as.example/introspect", "", false},
		"published, but not a URL":   {"introspect", "", false},
		"published on loopback only": {"http://127.0.0.1/introspect", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := newInspector(newAuthority(issuerA, toJWK("k1", ecKey())), answerWith(nil))
				i.setMeta(jsonObject{"issuer": issuerA, "jwks_uri": i.jwksURI(), "introspection_endpoint": tt.published})
				cfg := i.config()
				cfg.HTTP.Transport.(wire)["AS.example"] = i
				cfg.Issuers[0].Introspection.Endpoint = tt.configured
				v := start(t, cfg)
				if v.Ready() != tt.ready {
					t.Fatalf("ready: %v", v.Ready())
				}
				if tt.ready {
					accepted(t, v, opaqueToken)
				}
			})
		})
	}
}

// echo answers with what it was asked, in the places whose texts net/http quotes in its errors.
func echo(format string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.ParseForm()
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprintf(conn, format, r.PostForm.Get("token")+" "+r.Header.Get("Authorization"))
	}
}

// Over a real connection, with a server that does what it can to get the token into our logs.
func TestHostileEndpoint(t *testing.T) {
	for name, tt := range map[string]struct {
		h    http.HandlerFunc
		want error
	}{
		"a good answer":         {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, text(answerWith(nil))) }, nil},
		"not HTTP":              {echo("%s\r\n"), ErrUnavailable},
		"a status of its own":   {echo("HTTP/1.1 %s\r\n\r\n"), ErrUnavailable},
		"a reason of its own":   {echo("HTTP/1.1 500 %s\r\n\r\n"), ErrUnavailable},
		"a header of its own":   {echo("HTTP/1.1 200 OK\r\n%s\r\n\r\n"), ErrUnavailable},
		"a length of its own":   {echo("HTTP/1.1 200 OK\r\nContent-Length: %s\r\n\r\n"), ErrUnavailable},
		"a coding of its own":   {echo("HTTP/1.1 200 OK\r\nTransfer-Encoding: %s\r\n\r\n"), ErrUnavailable},
		"a trailer of its own":  {echo("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n%s\r\n\r\n"), ErrUnavailable},
		"a chunk of its own":    {echo("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%s\r\n"), ErrUnavailable},
		"a place of its own":    {echo("HTTP/1.1 302 Found\r\nLocation: http://%s/\r\n\r\n"), ErrUnavailable},
		"a name of its own":     {echo("HTTP/1.1 200 OK\r\n\r\n{\"%s\":1}"), ErrInvalidToken},
		"a name of its own x 2": {echo("HTTP/1.1 200 OK\r\n\r\n{\"%[1]s\":1,\"%[1]s\":1}"), ErrUnavailable},
		"a bomb": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			defer z.Close()
			for range 100 {
				if _, err := z.Write(make([]byte, 1<<20)); err != nil {
					return
				}
			}
		}, ErrUnavailable},
		"hangs up": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(tt.h)
			defer server.Close()
			v := still(func(cfg *Config) {
				cfg.HTTP = nil
				cfg.Issuers[0].Introspection = &IntrospectionConfig{Endpoint: server.URL, ClientID: "gateway", ClientSecret: clientSecret}
				cfg.Now = time.Now
			})
			defer v.client.CloseIdleConnections()
			id, err := v.Verify(t.Context(), opaqueToken)
			if !errors.Is(err, tt.want) || (id == nil) != (tt.want != nil) {
				t.Fatalf("got %v, %v, want %v", id, err, tt.want)
			}
			if err == nil {
				return
			}
			for _, secret := range []string{opaqueToken, opaqueToken[:20], clientSecret, base64.StdEncoding.EncodeToString([]byte("gateway:"))[:10]} {
				if strings.Contains(err.Error(), secret) {
					t.Error(err)
				}
			}
		})
	}
}

// What keeps us from an answer is named, as far as the server has no hand in the text.
func TestNoConnection(t *testing.T) {
	server := httptest.NewServer(nil)
	server.Close()
	untrusted := httptest.NewTLSServer(nil)
	untrusted.Config.ErrorLog = log.New(io.Discard, "", 0)
	defer untrusted.Close()
	for at, want := range map[string]string{server.URL: "connection refused", untrusted.URL: "certificate"} {
		v := still(func(cfg *Config) {
			cfg.HTTP = nil
			cfg.Issuers[0].Introspection = &IntrospectionConfig{Endpoint: at, ClientID: "gateway", ClientSecret: clientSecret}
		})
		if _, err := v.Verify(t.Context(), opaqueToken); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestNoQuestionAfterRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newInspector(newAuthority(issuerA, toJWK("k1", ecKey())), answerWith(nil))
		v := must(New(i.config()))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- v.Run(ctx) }()
		synctest.Wait()
		accepted(t, v, opaqueToken)
		cancel()
		<-ended
		refused(t, v, opaqueToken, ErrUnavailable)
	})
}

func TestNewRefusesIntrospection(t *testing.T) {
	good := IntrospectionConfig{ClientID: "gateway", ClientSecret: clientSecret}
	first := func(c IntrospectionConfig) Config {
		cfg := configFor(newAuthority(issuerA), newAuthority(issuerB))
		cfg.Issuers[0].Introspection = &c
		return cfg
	}
	change := func(f func(*IntrospectionConfig)) Config {
		c := good
		f(&c)
		return first(c)
	}
	both := func(a, b IntrospectedTokens) Config {
		cfg := change(func(c *IntrospectionConfig) { c.Tokens = a })
		second := good
		second.Tokens = b
		cfg.Issuers[1].Introspection = &second
		return cfg
	}
	for name, tt := range map[string]struct {
		cfg Config
		ok  bool
	}{
		"the good one":                {first(good), true},
		"two for JWTs":                {both(IntrospectJWTs, IntrospectJWTs), true},
		"one for each kind":           {both(IntrospectAll, IntrospectJWTs), true},
		"two for opaque tokens":       {both(IntrospectOpaque, ""), false},
		"two for all":                 {both(IntrospectAll, IntrospectOpaque), false},
		"no client":                   {change(func(c *IntrospectionConfig) { c.ClientID = "" }), false},
		"no secret":                   {change(func(c *IntrospectionConfig) { c.ClientSecret = "" }), false},
		"another method":              {change(func(c *IntrospectionConfig) { c.AuthMethod = "none" }), false},
		"tokens of another kind":      {change(func(c *IntrospectionConfig) { c.Tokens = "none" }), false},
		"an endpoint over http":       {change(func(c *IntrospectionConfig) { c.Endpoint = "http://as.example/introspect" }), false},
		"an endpoint with a password": {change(func(c *IntrospectionConfig) { c.Endpoint = "https://u:p@as.example/introspect" }), false},
		"an answer for a minute":      {change(func(c *IntrospectionConfig) { c.CacheTTL = time.Minute }), false},
		"an answer for less than now": {change(func(c *IntrospectionConfig) { c.CacheTTL = -1 }), false},
		"a long timeout":              {change(func(c *IntrospectionConfig) { c.Timeout = time.Minute }), false},
		"a negative timeout":          {change(func(c *IntrospectionConfig) { c.Timeout = -1 }), false},
	} {
		v, err := New(tt.cfg)
		if (err == nil) != tt.ok || (v == nil) == tt.ok {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && strings.Contains(err.Error(), clientSecret) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzAnswer: whatever a server answers, there is an identity only for what says true itself (FZ-05).
func FuzzAnswer(f *testing.F) {
	f.Add(`{"active":true,"sub":"alice","aud":"` + audience + `","exp":1800000100}`)
	f.Add(`{"active":true,"sub":"alice","aud":["` + audience + `"],"iss":"` + issuerA + `","scope":"a b","token_type":"Bearer"}`)
	f.Add(`{"active":"true","sub":"alice","aud":"` + audience + `"}`)
	f.Add(`{"active":true,"sub":"alice","aud":"` + audience + `","cnf":{"jkt":"` + strings.Repeat("A", 43) + `"},"token_type":"DPoP"}`)
	v := still(func(cfg *Config) {
		cfg.Issuers[0].Binding = BindingOptional
		cfg.Issuers[0].Introspection = &IntrospectionConfig{ClientID: "gateway", ClientSecret: clientSecret}
	})
	f.Fuzz(func(t *testing.T, body string) {
		answer, err := jose.Object([]byte(body))
		if err != nil {
			return
		}
		e, err := v.issuers[0].judge(answer, nil, fuzzNow)
		if (e == nil) == (err == nil) {
			t.Fatalf("entry %v with error %v", e, err)
		}
		if err != nil {
			if len(err.Error()) > 512 {
				t.Fatalf("an error of %d bytes", len(err.Error()))
			}
			return
		}
		var said map[string]any
		if err := json.Unmarshal([]byte(body), &said); err != nil {
			t.Fatal(err)
		}
		id := e.identity
		if said["active"] != true || said["sub"] != id.Subject || id.Issuer != issuerA || !slices.Contains(id.Audience, audience) {
			t.Fatalf("%+v of %s", id, body)
		}
		if iss, ok := said["iss"]; ok && iss != issuerA {
			t.Fatalf("%+v of %s", id, body)
		}
		if exp, ok := said["exp"].(float64); ok && fuzzNow.Unix()-int64(exp) >= 15 || !ok && id.Expiry.Sub(fuzzNow) != unknownExpiry {
			t.Fatalf("%+v of %s", id, body)
		}
		if _, bound := said["cnf"]; bound != (id.Binding != Binding{}) {
			t.Fatalf("%+v of %s", id, body)
		}
	})
}
