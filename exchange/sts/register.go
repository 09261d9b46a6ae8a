package sts

import (
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
)

const (
	registrationLife = 24 * time.Hour
	maxRedirects     = 10
)

// registration is client metadata (RFC 7591 §2), asked for and answered. What is
// not listed here is ignored, as §2 allows.
type registration struct {
	Redirects     []string `json:"redirect_uris"`
	AuthMethod    string   `json:"token_endpoint_auth_method"`
	GrantTypes    []string `json:"grant_types"`
	ResponseTypes []string `json:"response_types"`
	Name          string   `json:"client_name"`
}

// registered is the answer (RFC 7591 §3.2.1).
type registered struct {
	ClientID  string `json:"client_id"`
	Secret    string `json:"client_secret,omitempty"`
	IssuedAt  int64  `json:"client_id_issued_at"`
	ExpiresAt *int64 `json:"client_secret_expires_at,omitempty"`

	Redirects     []string `json:"redirect_uris"`
	AuthMethod    string   `json:"token_endpoint_auth_method"`
	GrantTypes    []string `json:"grant_types"`
	ResponseTypes []string `json:"response_types"`
	Name          string   `json:"client_name,omitempty"`
	Scope         string   `json:"scope"`
}

// register is the registration endpoint (RFC 7591 §3), open to all. Such a client
// may only sign users in; it is forgotten after 24 hours.
func (s *Server) register(w http.ResponseWriter, r *http.Request) {
	asked, fail := readRegistration(r)
	if fail == nil {
		fail = asked.check()
	}
	if fail != nil {
		fail.write(w)
		return
	}
	answer, fail := s.newClient(asked)
	if fail != nil {
		fail.write(w)
		return
	}
	writeJSON(w, http.StatusCreated, answer)
}

// readRegistration wants application/json, which a foreign web page cannot send
// without asking first (and being refused).
func readRegistration(r *http.Request) (registration, *oauthError) {
	var asked registration
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		return asked, refuse("invalid_client_metadata", "the content type must be application/json")
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return asked, refuse("invalid_client_metadata", "the request is too large or broken off")
	}
	if err := json.Unmarshal(body, &asked); err != nil {
		return asked, refuse("invalid_client_metadata", "malformed JSON")
	}
	return asked, nil
}

// check also fills in the defaults of RFC 7591 §2.
func (a *registration) check() *oauthError {
	orDefault(&a.AuthMethod, methodBasic)
	if len(a.GrantTypes) == 0 {
		a.GrantTypes = []string{GrantCode}
	}
	if len(a.ResponseTypes) == 0 {
		a.ResponseTypes = []string{"code"}
	}
	switch {
	case len(a.Redirects) == 0 || len(a.Redirects) > maxRedirects:
		return refuse("invalid_redirect_uri", "one to ten redirect URIs are required")
	case !slices.Contains([]string{methodBasic, methodPost, methodNone}, a.AuthMethod):
		return refuse("invalid_client_metadata", "unknown token_endpoint_auth_method")
	case !subset(a.GrantTypes, []string{GrantCode, GrantRefresh}) || !slices.Contains(a.GrantTypes, GrantCode):
		return refuse("invalid_client_metadata", "only authorization_code and refresh_token can be registered")
	case !slices.Equal(a.ResponseTypes, []string{"code"}):
		return refuse("invalid_client_metadata", "only the response type code is supported")
	case len(a.Name) > 200:
		return refuse("invalid_client_metadata", "client_name is too long")
	}
	for _, redirect := range a.Redirects {
		if err := checkRedirect(redirect); err != nil {
			return refuse("invalid_redirect_uri", err.Error())
		}
	}
	return nil
}

func (s *Server) newClient(asked registration) (*registered, *oauthError) {
	// What it asks for now does not bound it (RFC 7591 §2 lets the server replace it): clients name the scopes of their
	// first login, and would be refused those of a later one, which a second registration gives to anybody.
	scopes := s.cfg.Scopes
	id, err := s.randomText()
	if err != nil {
		return nil, s.internal(err)
	}
	client := Client{
		ID: "dcr-" + id, Public: asked.AuthMethod == methodNone,
		Redirects: asked.Redirects, Grants: slices.Compact(slices.Sorted(slices.Values(asked.GrantTypes))), Scopes: scopes,
	}
	now := s.cfg.Now()
	until := now.Add(registrationLife)
	answer := &registered{
		ClientID: client.ID, IssuedAt: now.Unix(),
		Redirects: client.Redirects, AuthMethod: asked.AuthMethod, GrantTypes: client.Grants,
		ResponseTypes: asked.ResponseTypes, Name: asked.Name, Scope: strings.Join(scopes, " "),
	}
	if !client.Public {
		if client.Secret, err = s.randomText(); err != nil {
			return nil, s.internal(err)
		}
		expires := until.Unix()
		answer.Secret, answer.ExpiresAt = client.Secret, &expires
	}
	if s.registered.put(client.ID, client, now, until) != nil {
		return nil, refuse("temporarily_unavailable", "too many clients are registered")
	}
	s.cfg.Log.Info("client registered", "client_id", client.ID, "name", asked.Name, "redirect_uris", client.Redirects)
	return answer, nil
}
