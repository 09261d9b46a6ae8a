package exchange

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestResponse changes one member of a good answer at a time. Where want is nil
// the answer stays acceptable.
func TestResponse(t *testing.T) {
	long := strings.Repeat("a", maxToken+1)
	tests := []struct {
		name   string
		member string
		value  any // nil removes
		want   error
	}{
		{"missing", "access_token", nil, ErrToken},
		{"empty", "access_token", "", ErrToken},
		{"null", "access_token", json.RawMessage("null"), ErrToken},
		{"number", "access_token", 5, ErrMalformed},
		{"line break", "access_token", "a\r\nX-Evil: b", ErrToken},
		{"space", "access_token", "a b", ErrToken},
		{"not ASCII", "access_token", "é", ErrToken},
		{"64 KiB", "access_token", long, ErrToken},
		{"missing", "issued_token_type", nil, ErrTokenType},
		{"refresh token", "issued_token_type", "urn:ietf:params:oauth:token-type:refresh_token", ErrTokenType},
		{"ID token", "issued_token_type", "urn:ietf:params:oauth:token-type:id_token", ErrTokenType},
		{"SAML", "issued_token_type", "urn:ietf:params:oauth:token-type:saml2", ErrTokenType},
		{"JWT", "issued_token_type", typeJWT, nil},
		{"N_A", "token_type", "N_A", ErrTokenType},
		{"DPoP", "token_type", "DPoP", ErrTokenType},
		{"mac", "token_type", "mac", ErrTokenType},
		{"missing", "token_type", nil, ErrTokenType},
		{"with a space", "token_type", "bearer ", ErrTokenType},
		{"upper case", "token_type", "BEARER", nil},
		{"narrower", "scope", "item:List", ErrScope},
		{"wider", "scope", "item:List item:Read admin", ErrScope},
		{"empty scope", "scope", "", ErrScope},
		{"other separator", "scope", "item:List\titem:Read", ErrScope},
		{"no-break space", "scope", "item:List\u00a0item:Read", ErrScope},
		{"no scope", "scope", nil, nil},
		{"scope twice", "scope", "item:List item:Read item:List", nil},
		{"a day", "expires_in", 86400, ErrLifetime},
		{"two seconds more", "expires_in", 7, ErrLifetime},
		{"one second more", "expires_in", 6, nil},
		{"missing", "expires_in", nil, nil},
		{"zero", "expires_in", 0, ErrLifetime},
		{"negative", "expires_in", -1, ErrLifetime},
		{"string", "expires_in", "5", ErrLifetime},
		{"huge", "expires_in", json.RawMessage("1e400"), ErrLifetime},
		{"null", "expires_in", json.RawMessage("null"), ErrLifetime},
		{"overflow", "expires_in", json.RawMessage("9223372036854775807"), ErrLifetime},
		{"the subject token", "access_token", "subject-token", ErrSameToken},
		{"unknown member", "refresh_token", "x", nil},
	}
	for _, tt := range tests {
		t.Run(tt.member+" "+tt.name, func(t *testing.T) {
			answer := good("https://as")
			if answer[tt.member] = tt.value; tt.value == nil {
				delete(answer, tt.member)
			}
			wantCheck(t, answer, request(), tt.want)
		})
	}
}

func wantCheck(t *testing.T, answer any, r Request, want error) *Token {
	t.Helper()
	body, err := json.Marshal(answer)
	if err != nil {
		t.Fatal(err)
	}
	token, err := check(body, r, expectation{issuer: "https://as", asked: time.Now(), now: time.Now(), actors: []string{"gate way", ""}})
	if (token == nil) != (err != nil) || !errors.Is(err, want) || want == nil && err != nil {
		t.Errorf("got %v, %v; want %v", token, err, want)
	}
	return token
}

// TestClaims changes one claim of a good token at a time.
func TestClaims(t *testing.T) {
	now := time.Now().Unix()
	chain := map[string]any{"sub": "a"}
	for range maxActors {
		chain = map[string]any{"sub": "a", "act": chain}
	}
	none := func(*Request) {}
	impersonate := func(r *Request) { r.Delegation = false }
	require := func(r *Request) { r.RequireAct = true }
	noLimit := func(r *Request) { r.Lifetime = 0 }
	noScope := func(r *Request) { r.Scopes = nil }
	tests := []struct {
		name   string
		claims map[string]any // nil removes
		change func(*Request)
		want   error
	}{
		{"other issuer", map[string]any{"iss": "https://as/"}, none, ErrIssuer},
		{"no issuer", map[string]any{"iss": nil}, none, ErrIssuer},
		{"other audience", map[string]any{"aud": "https://bank.example/"}, none, ErrAudience},
		{"audience without its slash", map[string]any{"aud": "https://tickets.example"}, none, ErrAudience},
		{"a second audience", map[string]any{"aud": []string{audience, "https://bank.example/"}}, none, ErrAudience},
		{"no audience", map[string]any{"aud": nil}, none, ErrAudience},
		{"empty audience", map[string]any{"aud": []string{}}, none, ErrAudience},
		{"audience is a number", map[string]any{"aud": 5}, none, ErrMalformed},
		{"audience is a list of numbers", map[string]any{"aud": []int{5}}, none, ErrMalformed},
		{"audience as a list", map[string]any{"aud": []string{audience}}, none, nil},
		{"other subject", map[string]any{"sub": "service-account-gateway"}, none, ErrSubject},
		{"no subject", map[string]any{"sub": nil}, none, ErrSubject},
		{"no act", map[string]any{"act": nil}, require, ErrActor},
		{"null act", map[string]any{"act": json.RawMessage("null")}, require, ErrActor},
		{"act of another", map[string]any{"act": map[string]any{"sub": "mallory"}}, require, ErrActor},
		{"act of nobody", map[string]any{"act": map[string]any{}}, require, ErrActor},
		{"us, but further in", map[string]any{"act": map[string]any{"sub": "mallory", "act": map[string]any{"sub": "gate way"}}}, require, ErrActor},
		{"act by client_id", map[string]any{"act": map[string]any{"client_id": "gate way"}}, require, nil},
		{"act", nil, require, nil},
		{"no act, not required", map[string]any{"act": nil}, none, nil},
		{"act under impersonation", nil, impersonate, ErrActor},
		{"no act under impersonation", map[string]any{"act": nil}, impersonate, nil},
		{"act is a string", map[string]any{"act": "gate way"}, none, ErrMalformed},
		{"endless chain", map[string]any{"act": chain}, none, ErrActor},
		{"narrower", map[string]any{"scope": "item:List"}, none, ErrScope},
		{"wider", map[string]any{"scope": "item:List item:Read admin"}, none, ErrScope},
		{"no scope", map[string]any{"scope": nil}, none, ErrScope},
		{"scope list", map[string]any{"scope": []string{"item:Read", "item:List"}}, none, nil},
		{"scp", map[string]any{"scope": nil, "scp": []string{"item:Read", "item:List"}}, none, nil},
		{"scp wider than scope", map[string]any{"scp": "admin"}, none, ErrScope},
		{"scope is an object", map[string]any{"scope": map[string]any{}}, none, ErrMalformed},
		{"lives a day", map[string]any{"exp": now + 86400}, none, ErrLifetime},
		{"two seconds more", map[string]any{"exp": now + 7}, none, ErrLifetime},
		{"one second more", map[string]any{"exp": now + 6}, none, nil},
		{"a day, no limit", map[string]any{"exp": now + 86400}, noLimit, nil},
		{"no exp", map[string]any{"exp": nil}, noLimit, ErrLifetime},
		{"exp is a string", map[string]any{"exp": "9999999999"}, noLimit, ErrMalformed},
		{"exp is huge", map[string]any{"exp": json.RawMessage("1e300")}, noLimit, ErrLifetime},
		{"exp is not a number", map[string]any{"exp": json.RawMessage("1e999")}, noLimit, ErrMalformed},
		{"exp has a fraction", map[string]any{"exp": float64(now) + 4.5}, none, nil},
		{"expired", map[string]any{"iat": now - 10, "exp": now - 5}, none, ErrLifetime},
		{"no iat", map[string]any{"iat": nil}, none, nil},
		{"no iat, long", map[string]any{"iat": nil, "exp": now + 8}, none, ErrLifetime},
		{"iat stretches the life", map[string]any{"iat": now + 3600, "exp": now + 3605}, none, ErrLifetime},
		{"iat after exp", map[string]any{"iat": now + 9, "exp": now + 5}, noLimit, ErrLifetime},
		{"iat in the past hides nothing", map[string]any{"iat": now - 100, "exp": now + 5}, none, ErrLifetime},
		{"clock ahead of ours", map[string]any{"iat": now + 20, "exp": now + 25}, none, nil},
		{"nbf later", map[string]any{"nbf": now + 60}, none, ErrLifetime},
		{"nbf now", map[string]any{"nbf": now}, none, nil},
		{"none asked for, some granted", nil, noScope, ErrScope},
		{"none asked for, none granted", map[string]any{"scope": ""}, noScope, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			claims := goodClaims("https://as")
			for k, v := range tt.claims {
				if claims[k] = v; v == nil {
					delete(claims, k)
				}
			}
			r := request()
			tt.change(&r)
			answer := good("https://as")
			delete(answer, "scope")
			delete(answer, "expires_in")
			answer["access_token"] = sign(claims)
			wantCheck(t, answer, r, tt.want)
		})
	}
}

func TestJWTForms(t *testing.T) {
	payload, err := json.Marshal(goodClaims("https://as"))
	if err != nil {
		t.Fatal(err)
	}
	enc := base64.RawURLEncoding.EncodeToString
	whole := jwtOf(`{"alg":"ES256"}`, string(payload))
	tests := []struct {
		name, token string
		want        error
	}{
		{"good", whole, nil},
		{"unsigned", jwtOf(`{"alg":"none"}`, string(payload)), ErrToken},
		{"no alg", jwtOf(`{}`, string(payload)), ErrToken},
		{"no signature", whole[:strings.LastIndex(whole, ".")+1], ErrMalformed},
		{"two subjects", jwtOf(`{"alg":"ES256"}`, `{"sub":"alice",`+string(payload[1:])), ErrMalformed},
		{"two algs", jwtOf(`{"alg":"ES256","alg":"none"}`, string(payload)), ErrMalformed},
		{"claims in an array", jwtOf(`{"alg":"ES256"}`, `[]`), ErrMalformed},
		{"payload not base64url", enc([]byte(`{"alg":"ES256"}`)) + ".a+b.c2ln", ErrMalformed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			// Not even where opaque tokens are welcome.
			r := request()
			r.AllowOpaque = true
			answer := good("https://as")
			answer["access_token"] = tt.token
			wantCheck(t, answer, r, tt.want)
		})
	}
}

func TestOpaque(t *testing.T) {
	tests := []struct {
		name   string
		change func(*Request, map[string]any)
		want   error
	}{
		{"allowed", func(*Request, map[string]any) {}, nil},
		{"not allowed", func(r *Request, _ map[string]any) { r.AllowOpaque = false }, ErrOpaque},
		{"said to be a JWT", func(_ *Request, a map[string]any) { a["issued_token_type"] = typeJWT }, ErrTokenType},
		{"narrower", func(_ *Request, a map[string]any) { a["scope"] = "item:List" }, ErrScope},
		{"scope as asked", func(_ *Request, a map[string]any) { delete(a, "scope") }, nil},
		{"life not said", func(_ *Request, a map[string]any) { delete(a, "expires_in") }, ErrLifetime},
		{"life not said, no limit", func(r *Request, a map[string]any) { delete(a, "expires_in"); r.Lifetime = 0 }, nil},
		{"too long", func(_ *Request, a map[string]any) { a["expires_in"] = 300 }, ErrLifetime},
		{"actor required", func(r *Request, _ map[string]any) { r.RequireAct = true }, ErrActor},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, answer := request(), good("https://as")
			r.AllowOpaque = true
			answer["access_token"] = "an.opaque.token"
			tt.change(&r, answer)
			token := wantCheck(t, answer, r, tt.want)
			if token != nil && (token.Value != "an.opaque.token" || !slices.Equal(token.Scopes, r.Scopes) || token.Subject != "") {
				t.Errorf("got %+v", token)
			}
		})
	}
}

// TestLoosened is what the options of a request make acceptable, and what they do
// not.
func TestLoosened(t *testing.T) {
	now := time.Now().Unix()
	type change func(r *Request, claims, answer map[string]any)
	claim := func(name string, value any) change { return func(_ *Request, c, _ map[string]any) { c[name] = value } }
	said := func(name string, value any) change { return func(_ *Request, _, a map[string]any) { a[name] = value } }
	option := func(set func(*Request)) change { return func(r *Request, _, _ map[string]any) { set(r) } }
	longer := option(func(r *Request) { r.AcceptLonger = true })
	narrower := option(func(r *Request) { r.AllowNarrower = true })
	opaque := func(r *Request, _, a map[string]any) { r.AllowOpaque, a["access_token"] = true, "an-opaque-token" }
	resource := option(func(r *Request) { r.Resource = "https://tickets.example/mcp" })
	instead := option(func(r *Request) { r.Audience, r.Resource = "", "https://tickets.example/mcp" })
	third := option(func(r *Request) { r.TokenAudience = "6e74172b" })
	oid := option(func(r *Request) { r.Subject, r.SubjectClaim = "00aa", "oid" })
	tests := []struct {
		name    string
		changes []change
		want    error
		got     func(*Token) bool
	}{
		{"a day longer", []change{longer, claim("exp", now+86400), said("expires_in", 86400)}, nil, func(t *Token) bool { return t.Longer && t.ExpiresIn == 86400*time.Second }},
		{"a day longer, said only", []change{longer, said("expires_in", 86400)}, nil, func(t *Token) bool { return t.Longer && t.ExpiresIn == 5*time.Second }},
		{"a day longer, not said", []change{longer, claim("exp", now+86400)}, nil, func(t *Token) bool { return t.Longer && time.Until(t.Expiry) < 6*time.Second }},
		{"not longer", []change{longer}, nil, func(t *Token) bool { return !t.Longer }},
		{"expired is never acceptable", []change{longer, claim("iat", now-9), claim("exp", now-4)}, ErrExpired, nil},
		{"no exp neither", []change{longer, claim("exp", nil)}, ErrLifetime, nil},
		{"nor a century", []change{longer, claim("exp", now+100*365*86400)}, ErrLifetime, nil},
		{"opaque, longer", []change{opaque, longer, said("expires_in", 3600)}, nil, func(t *Token) bool { return t.Longer && t.ExpiresIn == time.Hour }},
		{"opaque, for how long is not said", []change{opaque, longer, said("expires_in", nil)}, ErrLifetime, nil},

		{"narrower", []change{narrower, claim("scope", "item:Read"), said("scope", "item:Read")}, nil, func(t *Token) bool { return t.Narrower && slices.Equal(t.Scopes, []string{"item:Read"}) }},
		{"narrower, not said", []change{narrower, claim("scope", "item:Read"), said("scope", nil)}, nil, func(t *Token) bool { return t.Narrower && len(t.Scopes) == 1 }},
		{"narrower, said only", []change{narrower, said("scope", "item:Read")}, nil, func(t *Token) bool { return !t.Narrower && len(t.Scopes) == 2 }},
		{"not narrower", []change{narrower}, nil, func(t *Token) bool { return !t.Narrower }},
		{"nothing left", []change{narrower, claim("scope", ""), said("scope", nil)}, ErrScopeNarrower, nil},
		{"nothing said to be left", []change{narrower, said("scope", "")}, ErrScopeNarrower, nil},
		{"another", []change{narrower, claim("scope", "item:Read admin")}, ErrScopeWider, nil},
		{"another, said only", []change{narrower, said("scope", "item:Read admin")}, ErrScopeWider, nil},
		{"another instead", []change{narrower, claim("scope", "admin")}, ErrScopeWider, nil},
		{"opaque, narrower", []change{opaque, narrower, said("scope", "item:List")}, nil, func(t *Token) bool { return t.Narrower && slices.Equal(t.Scopes, []string{"item:List"}) }},
		{"none asked for", []change{narrower, option(func(r *Request) { r.Scopes = nil }), claim("scope", nil), said("scope", nil)}, nil, func(t *Token) bool { return !t.Narrower }},

		{"resource beside the audience", []change{resource}, nil, nil},
		{"aud is the resource", []change{resource, claim("aud", "https://tickets.example/mcp")}, nil, nil},
		{"aud is both", []change{resource, claim("aud", []string{"https://tickets.example/mcp", audience})}, nil, func(t *Token) bool { return len(t.Audience) == 2 }},
		{"aud is both and more", []change{resource, claim("aud", []string{"https://tickets.example/mcp", audience, "bank"})}, ErrAudience, nil},
		{"resource instead of the audience", []change{instead, claim("aud", "https://tickets.example/mcp")}, nil, nil},
		{"resource instead, aud is not it", []change{instead}, ErrAudience, nil},
		{"a third name", []change{third, claim("aud", "6e74172b")}, nil, nil},
		{"a third name, aud is what was asked for", []change{third}, ErrAudience, nil},
		{"opaque, a third name", []change{third, opaque}, nil, func(t *Token) bool { return slices.Equal(t.Audience, []string{"6e74172b"}) }},

		{"pairwise subject", []change{oid, claim("oid", "00aa"), claim("sub", "other")}, nil, func(t *Token) bool { return t.Subject == "other" }},
		{"pairwise, other person", []change{oid, claim("oid", "00bb")}, ErrSubject, nil},
		{"pairwise, no such claim", []change{oid}, ErrSubject, nil},
		{"pairwise, same sub will not do", []change{oid, claim("sub", "00aa")}, ErrSubject, nil},
		{"pairwise, a number", []change{option(func(r *Request) { r.Subject, r.SubjectClaim = "5", "oid" }), claim("oid", 5)}, ErrSubject, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, claims, answer := request(), goodClaims("https://as"), good("https://as")
			for _, change := range tt.changes {
				change(&r, claims, answer)
			}
			if answer["access_token"] != "an-opaque-token" {
				for k, v := range claims {
					if v == nil {
						delete(claims, k)
					}
				}
				answer["access_token"] = sign(claims)
			}
			for k, v := range answer {
				if v == nil {
					delete(answer, k)
				}
			}
			token := wantCheck(t, answer, r, tt.want)
			if token != nil && tt.got != nil && !tt.got(token) {
				t.Errorf("got %+v", token)
			}
		})
	}
}

func TestTyp(t *testing.T) {
	payload, err := json.Marshal(goodClaims("https://as"))
	if err != nil {
		t.Fatal(err)
	}
	for typ, want := range map[string][2]error{ // without and with RequireATJWT
		"":                   {nil, ErrTyp},
		"JWT":                {nil, ErrTyp},
		"jwt":                {nil, ErrTyp},
		"application/jwt":    {nil, ErrTyp},
		"at+jwt":             {nil, nil},
		"AT+JWT":             {nil, nil},
		"application/at+jwt": {nil, nil},
		"logout+jwt":         {ErrTyp, ErrTyp},
		"dpop+jwt":           {ErrTyp, ErrTyp},
		"at+jwt ":            {ErrTyp, ErrTyp},
	} {
		for i, strict := range []bool{false, true} {
			r := request()
			r.RequireATJWT = strict
			answer := good("https://as")
			answer["access_token"] = jwtOf(`{"alg":"ES256","typ":"`+typ+`"}`, string(payload))
			wantCheck(t, answer, r, want[i])
		}
	}
}

// An answer that fails is dropped: the caller's own token never takes its place.
func TestUnacceptableYieldsNothing(t *testing.T) {
	s := serve(t, (*httptest.Server).Start)
	s.answer = func(w http.ResponseWriter, form url.Values) {
		answer := good(s.URL)
		answer["access_token"] = form.Get("subject_token")
		writeJSON(w, 200, answer)
	}
	token, err := s.client(t).Exchange(t.Context(), request())
	wantKind(t, token, err, Unacceptable, ErrSameToken)
}

func BenchmarkCheck(b *testing.B) {
	body, err := json.Marshal(good("https://as"))
	if err != nil {
		b.Fatal(err)
	}
	r, want := request(), expectation{issuer: "https://as", asked: time.Now(), now: time.Now(), actors: []string{"gate way"}}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := check(body, r, want); err != nil {
			b.Fatal(err)
		}
	}
}

// FuzzResponse: whatever a server answers, a token that is accepted keeps the
// promises, as far as a second reader of the same bytes can tell. The bits of
// options are those of the request.
func FuzzResponse(f *testing.F) {
	const opaque, longer, narrower, pairwise, atJWT, resource, onBehalfOf, impersonation = 1, 2, 4, 8, 16, 32, 64, 128
	now := time.Unix(1_800_000_000, 0)
	claims := map[string]any{"iss": "https://as", "sub": "alice", "aud": audience, "scope": "item:List item:Read", "iat": now.Unix(), "exp": now.Unix() + 5, "oid": "00aa"}
	payload, err := json.Marshal(claims)
	if err != nil {
		f.Fatal(err)
	}
	const bearer = `,"issued_token_type":"` + typeAccessToken + `","token_type":"Bearer","expires_in":5}`
	f.Add(200, "application/json", `{"access_token":"TOKEN"`+bearer, string(payload), byte(opaque))
	f.Add(200, "application/json", `{"access_token":"opaque"`+bearer, "", byte(opaque))
	f.Add(200, "application/json", `{"access_token":"TOKEN","scope":"item:List"`+bearer, strings.Replace(string(payload), " item:Read", "", 1), byte(narrower|longer))
	f.Add(200, "application/json", `{"access_token":"TOKEN"`+bearer, string(payload), byte(pairwise|resource|impersonation))
	f.Add(200, "application/json", `{"access_token":"TOKEN","token_type":"Bearer"}`, string(payload), byte(onBehalfOf|longer|atJWT))
	f.Add(400, "application/json", `{"error":"invalid_grant","error_description":"eyJhbGciOiJub25lIn0.e30."}`, "", byte(0))
	f.Add(200, "text/html", "<html>", "", byte(0))
	f.Fuzz(func(t *testing.T, status int, contentType, body, payload string, options byte) {
		header := http.Header{"Content-Type": {contentType}}
		body = strings.ReplaceAll(body, "TOKEN", jwtOf(`{"alg":"ES256"}`, payload))
		if fail := classify(&http.Response{StatusCode: status, Header: header}, []byte(body), now, []string{"subject-token"}); fail != nil {
			if fail.Kind == 0 || len(fail.Detail) > maxDetail || len(fail.Code) > maxCode || strings.Contains(fail.Detail+fail.Code, "eyJ") || fail.Reason() == "" {
				t.Fatalf("%+v", fail)
			}
			return
		}
		has := func(option byte) bool { return options&option != 0 }
		r := request()
		r.AllowOpaque, r.AcceptLonger, r.AllowNarrower, r.RequireATJWT, r.Delegation = has(opaque), has(longer), has(narrower), has(atJWT), !has(impersonation)
		who, person := "sub", "alice"
		if has(pairwise) {
			who, person = "oid", "00aa"
			r.Subject, r.SubjectClaim = person, who
		}
		if has(resource) {
			r.Resource = "https://tickets.example/mcp"
		}
		token, err := check([]byte(body), r, expectation{issuer: "https://as", asked: now, now: now, actors: []string{"gate way"}, onBehalfOf: has(onBehalfOf)})
		if err != nil {
			if (&Error{Kind: Unacceptable, Err: err}).Reason() == "unacceptable" {
				t.Fatalf("no reason for %v", err)
			}
			return
		}
		if token.Value == r.SubjectToken || !visibleASCII(token.Value) || token.ExpiresIn > 6*time.Second && (!has(longer) || !token.Longer) {
			t.Fatalf("accepted %+v", token)
		}
		if got, asked := set(token.Scopes), set(r.Scopes); !subset(got, asked) || len(got) == 0 || len(got) < len(asked) && (!has(narrower) || !token.Narrower) {
			t.Fatalf("accepted %+v", token)
		}
		if !subset(set(token.Audience), set(r.audiences())) || len(token.Audience) == 0 || has(impersonation) && len(token.Actors) > 0 {
			t.Fatalf("accepted %+v", token)
		}
		if !strings.HasPrefix(token.Value, "eyJ") {
			if !has(opaque) {
				t.Fatalf("accepted an opaque token: %q", token.Value)
			}
			return
		}
		part := strings.Split(token.Value, ".")
		if len(part) != 3 {
			return // begins like a JWT
		}
		raw, err := base64.RawURLEncoding.DecodeString(part[1])
		if err != nil {
			t.Fatal(err)
		}
		var second map[string]any // exact names, the last of each
		if err := json.Unmarshal(raw, &second); err != nil {
			t.Fatalf("accepted a token that cannot be read: %v in %q", err, raw)
		}
		exp, _ := second["exp"].(float64)
		if second["iss"] != "https://as" || second[who] != person || exp <= float64(now.Unix()) {
			t.Fatalf("accepted %s", raw)
		}
		if exp > float64(now.Add(6*time.Second+clockSkew).Unix()) && !has(longer) {
			t.Fatalf("accepted %s", raw)
		}
		if has(impersonation) && second["act"] != nil {
			t.Fatalf("accepted %s", raw)
		}
	})
}
