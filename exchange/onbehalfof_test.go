package exchange

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// entra answers as Entra ID does: no issued_token_type, long scopes beside the
// token, short ones in it, an hour of life, another sub for each client.
func entra(s *server, scope, scp string) {
	s.answer = func(w http.ResponseWriter, _ url.Values) {
		claims := goodClaims("https://sts.windows.net/tenant/")
		for _, name := range []string{"act", "scope"} {
			delete(claims, name)
		}
		claims["scp"], claims["aud"], claims["oid"], claims["sub"] = scp, "api://tickets", "00aa", "pairwise"
		claims["exp"] = claims["iat"].(int64) + 3600
		writeJSON(w, 200, map[string]any{"token_type": "Bearer", "expires_in": 3599, "ext_expires_in": 3599, "scope": scope, "access_token": sign(claims)})
	}
}

func onBehalfOf(s *server, t *testing.T) *Client {
	t.Helper()
	return s.client(t, func(c *Config) {
		c.OnBehalfOf, c.TokenIssuer, c.AuthMethod = true, "https://sts.windows.net/tenant/", AuthPost
	})
}

func entraRequest(scopes ...string) Request {
	r := request()
	r.Audience, r.Scopes, r.Subject, r.SubjectClaim, r.AcceptLonger = "api://tickets", scopes, "00aa", "oid", true
	return r
}

func TestOnBehalfOf(t *testing.T) {
	tests := []struct {
		name       string
		asked      []string
		sent       string
		scope, scp string // of the answer
		narrower   bool   // allowed
		want       []string
		cause      error
	}{
		{"everything", nil, "api://tickets/.default", "api://tickets/Read api://tickets/Write", "Read Write", false, []string{"Read", "Write"}, nil},
		{"everything, by name", []string{".default"}, "api://tickets/.default", "api://tickets/Read", "Read", false, []string{"Read"}, nil},
		{"everything, by its long name", []string{"api://tickets/.default"}, "api://tickets/.default", "api://tickets/Read", "Read", false, []string{"Read"}, nil},
		{"everything is nothing", nil, "api://tickets/.default", "", "", false, nil, nil},
		{"one", []string{"Read"}, "api://tickets/Read", "api://tickets/Read", "Read", false, []string{"Read"}, nil},
		{"one, by its long name", []string{"api://tickets/Read"}, "api://tickets/Read", "api://tickets/Read", "Read", false, []string{"api://tickets/Read"}, nil},
		{"two, one granted", []string{"Read", "Write"}, "api://tickets/Read api://tickets/Write", "api://tickets/Read", "Read", false, nil, ErrScopeNarrower},
		{"two, one allowed", []string{"Read", "Write"}, "api://tickets/Read api://tickets/Write", "api://tickets/Read", "Read", true, []string{"Read"}, nil},
		{"one, all granted", []string{"Read"}, "api://tickets/Read", "api://tickets/Read", "Read Write", true, nil, ErrScopeWider},
		{"of another audience", []string{"Read"}, "api://tickets/Read", "api://bank/Read", "Read", false, nil, ErrScopeWider},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := serve(t, (*httptest.Server).Start)
			entra(s, tt.scope, tt.scp)
			r := entraRequest(tt.asked...)
			r.AllowNarrower = tt.narrower
			token, err := onBehalfOf(s, t).Exchange(t.Context(), r)
			if tt.cause != nil {
				wantKind(t, token, err, Unacceptable, tt.cause)
			} else if err != nil || !slices.Equal(token.Scopes, tt.want) || !token.Longer || token.Narrower != tt.narrower || token.Subject != "pairwise" {
				t.Errorf("got %+v, %v", token, err)
			}
			form := url.Values{
				"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"}, "assertion": {"subject-token"}, "requested_token_use": {"on_behalf_of"},
				"scope": {tt.sent}, "client_id": {"gate way"}, "client_secret": {"s+c:r%t"},
			}
			if diff := cmp.Diff([]url.Values{form}, s.forms); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// What else holds of an exchange holds here.
func TestOnBehalfOfIsChecked(t *testing.T) {
	s := serve(t, (*httptest.Server).Start)
	entra(s, "api://tickets/Read", "Read")
	c := onBehalfOf(s, t)
	for name, tt := range map[string]struct {
		change func(*Request)
		want   error
	}{
		"life":     {func(r *Request) { r.AcceptLonger = false }, ErrLifetimeLonger},
		"audience": {func(r *Request) { r.Audience, r.Scopes = "api://bank", nil }, ErrAudience},
		"person":   {func(r *Request) { r.Subject = "00bb" }, ErrSubject},
		"subject":  {func(r *Request) { r.SubjectClaim = "" }, ErrSubject},
	} {
		t.Run(name, func(t *testing.T) {
			r := entraRequest("Read")
			tt.change(&r)
			token, err := c.Exchange(t.Context(), r)
			wantKind(t, token, err, Unacceptable, tt.want)
		})
	}
	for name, change := range map[string]func(*Request){
		"actor token":        func(r *Request) { r.ActorToken = true },
		"required act":       func(r *Request) { r.RequireAct = true },
		"everything and one": func(r *Request) { r.Scopes = []string{"api://tickets/.default", "Read"} },
	} {
		t.Run(name, func(t *testing.T) {
			r := entraRequest("Read")
			change(&r)
			token, err := c.Exchange(t.Context(), r)
			wantKind(t, token, err, Refused, ErrRequest)
		})
	}
}

// A slash belongs between the audience and the scope even if one is there.
func TestScopeOfAudienceWithSlash(t *testing.T) {
	r := Request{Audience: "https://tickets.example/"}
	if got := r.onBehalfOfForm().Get("scope"); got != "https://tickets.example//.default" {
		t.Errorf("got %q", got)
	}
}

func TestAdditionalParameters(t *testing.T) {
	s := serve(t, (*httptest.Server).Start)
	c := s.client(t, func(c *Config) {
		c.AdditionalParameters = map[string]string{"connector_id": "corp", "requested_issuer": "", "x": "a&b=c"}
	})
	if _, err := c.Exchange(t.Context(), request()); err != nil {
		t.Fatal(err)
	}
	form := s.forms[0]
	if form.Get("connector_id") != "corp" || !form.Has("requested_issuer") || form.Get("x") != "a&b=c" || form.Get("grant_type") != grantExchange {
		t.Errorf("form %v", form)
	}

	many := map[string]string{}
	for _, a := range "abcdefghij" {
		for _, b := range "abcd" {
			many[string(a)+string(b)] = ""
		}
	}
	for name, parameters := range map[string]map[string]string{
		"grant":          {"grant_type": "password"},
		"subject":        {"subject_token": "x"},
		"scope":          {"scope": "admin"},
		"other case":     {"Scope": "admin"},
		"audience":       {"audience": "https://bank.example/"},
		"resource":       {"resource": "https://bank.example/"},
		"assertion":      {"assertion": "x"},
		"client":         {"client_id": "x"},
		"credential":     {"client_assertion": "x"},
		"actor":          {"actor_token": "x"},
		"the lifetime's": {"Requested_Expires_In": "9"},
		"no name":        {"": "x"},
		"a space":        {"a b": "x"},
		"long name":      {strings.Repeat("a", 129): "x"},
		"long value":     {"a": strings.Repeat("x", 4097)},
		"too many":       many,
	} {
		cfg := Config{WellKnown: "https://as.example/x", ClientID: "gate", ClientSecret: "hunter2", AdditionalParameters: parameters}
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// The values may be secrets.
func TestAdditionalParametersStayOutOfErrors(t *testing.T) {
	cfg := Config{WellKnown: "https://as.example/x", ClientID: "gate", ClientSecret: "x", AdditionalParameters: map[string]string{"client_secret": "hunter2"}}
	if _, err := New(cfg); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("got %v", err)
	}
}

func TestResource(t *testing.T) {
	s := serve(t, (*httptest.Server).Start)
	c := s.client(t)
	r := request()
	r.Resource = "https://tickets.example/mcp"
	if _, err := c.Exchange(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	r.Audience = ""
	_, _ = c.Exchange(t.Context(), r) // its aud is not the resource
	for i, want := range []string{audience, ""} {
		if form := s.forms[i]; form.Get("audience") != want || form.Has("audience") != (want != "") || form.Get("resource") != r.Resource {
			t.Errorf("form %v", form)
		}
	}
	for _, bad := range []string{"/mcp", "tickets", "https://tickets.example/#x", "https://tickets.example/#", "https://tickets.example/ x", "https://tickets.example/" + strings.Repeat("x", 2048), "%"} {
		r.Resource = bad
		token, err := c.Exchange(t.Context(), r)
		wantKind(t, token, err, Refused, ErrRequest)
	}
	r.Resource = "urn:example:tickets"
	if err := r.Validate(); err != nil {
		t.Error(err)
	}
}
