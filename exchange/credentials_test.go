package exchange

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// ownToken answers the client credentials grant with what change makes of a good token of the client's own.
func ownToken(s *server, change func(doc, claims map[string]any)) {
	s.set(func(w http.ResponseWriter, _ url.Values) {
		doc, claims := good(s.URL), goodClaims(s.URL)
		delete(doc, "issued_token_type") // RFC 6749 has none
		delete(claims, "act")
		claims["sub"] = "service-account-of-the-gateway"
		change(doc, claims)
		if doc["access_token"] != "opaque" {
			doc["access_token"] = sign(claims)
		}
		writeJSON(w, 200, doc)
	})
}

func TestClientCredentials(t *testing.T) {
	s := serve(t, (*httptest.Server).Start)
	ownToken(s, func(_, _ map[string]any) {})
	c := s.client(t)
	r := request()
	r.Resource = "https://other.example/"
	token, err := c.ClientCredentials(t.Context(), r)
	if err != nil || token.Subject != "service-account-of-the-gateway" || token.Expiry.IsZero() || len(token.Actors) > 0 {
		t.Fatalf("%+v, %v", token, err)
	}
	want := url.Values{"grant_type": {"client_credentials"}, "audience": {r.Audience}, "resource": {r.Resource},
		"scope": {strings.Join(r.Scopes, " ")}, "requested_expires_in": {"5"}}
	if d := cmp.Diff(want, s.forms[0]); d != "" {
		t.Errorf("asked (-want +got):\n%s", d)
	}
	if got := c.Stats(); got.Own != 1 || got.Exchanged != 0 {
		t.Errorf("%+v", got)
	}
}

// A token of the client's own passes the checks of an exchanged one, but for whose it is.
func TestClientCredentialsAreChecked(t *testing.T) {
	for name, test := range map[string]struct {
		change func(doc, claims map[string]any)
		loosen func(*Request)
		want   error
	}{
		"another audience":  {func(_, c map[string]any) { c["aud"] = "https://elsewhere.example/" }, nil, ErrAudience},
		"one audience more": {func(_, c map[string]any) { c["aud"] = []string{request().Audience, "https://elsewhere.example/"} }, nil, ErrAudience},
		"wider":             {func(d, c map[string]any) { c["scope"], d["scope"] = "item:List admin", "item:List admin" }, nil, ErrScopeWider},
		"longer":            {func(_, c map[string]any) { c["exp"] = c["iat"].(int64) + 3600 }, nil, ErrLifetimeLonger},
		"an actor":          {func(_, c map[string]any) { c["act"] = map[string]any{"sub": "somebody"} }, nil, ErrActorUnwanted},
		"another issuer":    {func(_, c map[string]any) { c["iss"] = "https://elsewhere.example" }, nil, ErrIssuer},
		"opaque":            {func(d, _ map[string]any) { d["access_token"] = "opaque" }, nil, ErrOpaque},
		"opaque, accepted":  {func(d, _ map[string]any) { d["access_token"] = "opaque" }, func(r *Request) { r.AllowOpaque = true }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, (*httptest.Server).Start)
			ownToken(s, test.change)
			r := request()
			if test.loosen != nil {
				test.loosen(&r)
			}
			token, err := s.client(t).ClientCredentials(t.Context(), r)
			if test.want == nil {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			wantKind(t, token, err, Unacceptable, test.want)
		})
	}
}

func TestClientCredentialsOfEntra(t *testing.T) {
	s := serve(t, (*httptest.Server).Start)
	ownToken(s, func(doc, claims map[string]any) {
		delete(doc, "scope")
		delete(claims, "scope") // rights are roles
	})
	c := s.client(t, func(c *Config) { c.OnBehalfOf = true })
	r := request()
	r.Lifetime = 0
	if _, err := c.ClientCredentials(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	want := url.Values{"grant_type": {"client_credentials"}, "scope": {r.Audience + "/.default"}}
	if d := cmp.Diff(want, s.forms[0]); d != "" {
		t.Errorf("asked (-want +got):\n%s", d)
	}
}

func TestClientCredentialsFail(t *testing.T) {
	s := serve(t, (*httptest.Server).Start)
	s.set(func(w http.ResponseWriter, _ url.Values) {
		writeJSON(w, 400, map[string]any{"error": "unauthorized_client"})
	})
	c := s.client(t)
	token, err := c.ClientCredentials(t.Context(), request())
	if e := wantKind(t, token, err, Refused, nil); e.Code != "unauthorized_client" {
		t.Errorf("code %q", e.Code)
	}
	token, err = c.ClientCredentials(t.Context(), Request{Lifetime: time.Second})
	wantKind(t, token, err, Refused, ErrRequest)
	token, err = s.newClient(t).ClientCredentials(t.Context(), request())
	wantKind(t, token, err, Unavailable, ErrNoMetadata)
}
