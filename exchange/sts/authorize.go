package sts

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// code is an authorization code that was given out. A used one is kept until it
// expires, so that a second use is noticed.
type code struct {
	client, redirect, challenge string
	grant                       grant
	family                      string
	uses                        int
}

// grant is what a user let a client do: who, what, where.
type grant struct {
	subject  string
	scopes   []string
	audience string
}

// authorize is the authorization endpoint (OAuth 2.1 §4.1.1). It asks nobody.
// Until the redirect URI is known to be the client's, errors are shown here and
// not sent there.
func (s *Server) authorize(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Referrer-Policy", "no-referrer")
	q, err := parseForm(r.URL.RawQuery)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	client, ok := s.client(q.get("client_id"))
	if !ok {
		http.Error(w, "unknown client_id", http.StatusBadRequest)
		return
	}
	redirect := q.get("redirect_uri")
	if !slices.ContainsFunc(client.Redirects, func(known string) bool { return sameRedirect(known, redirect) }) {
		http.Error(w, "redirect_uri is not registered", http.StatusBadRequest)
		return
	}
	answer := url.Values{"iss": {s.cfg.Issuer}}
	if state := q.get("state"); state != "" {
		answer.Set("state", state)
	}
	if id, fail := s.newCode(client, redirect, q); fail != nil {
		answer.Set("error", fail.Code)
		answer.Set("error_description", fail.Description)
	} else {
		answer.Set("code", id)
	}
	target, err := url.Parse(redirect)
	if err != nil {
		http.Error(w, "redirect_uri is not a URL", http.StatusBadRequest)
		return
	}
	if target.RawQuery != "" {
		target.RawQuery += "&"
	}
	target.RawQuery += answer.Encode()
	w.Header().Set("Location", target.String())
	w.WriteHeader(http.StatusFound)
}

func (s *Server) newCode(client Client, redirect string, q form) (string, *oauthError) {
	switch {
	case q.get("response_type") != "code":
		return "", refuse("unsupported_response_type", "response_type must be code")
	case !slices.Contains(client.Grants, GrantCode):
		return "", refuse("unauthorized_client", "the client may not use the authorization code grant")
	case q.get("code_challenge_method") != "S256" || !challengeSyntax.MatchString(q.get("code_challenge")):
		return "", refuse("invalid_request", "PKCE with S256 is required")
	}
	user, ok := s.chooseUser(q.get("login_hint"))
	if !ok {
		return "", refuse("access_denied", "no such user")
	}
	audience, fail := s.resource(q, s.cfg.DefaultAudience)
	if fail != nil {
		return "", fail
	}
	scopes, fail := grantScopes(q.get("scope"), client, user)
	if fail != nil {
		return "", fail
	}
	id, err := s.randomText()
	if err != nil {
		return "", s.internal(err)
	}
	now := s.cfg.Now()
	err = s.codes.put(hash(id), code{
		client: client.ID, redirect: redirect, challenge: q.get("code_challenge"), family: hash("family:" + id),
		grant: grant{subject: user.Subject, scopes: scopes, audience: audience},
	}, now, now.Add(codeLife))
	if err != nil {
		return "", refuse("temporarily_unavailable", "too many authorization codes are alive")
	}
	return id, nil
}

func (s *Server) chooseUser(hint string) (User, bool) {
	if hint == "" && len(s.cfg.Users) > 0 {
		return s.cfg.Users[0], true
	}
	user, ok := s.users[hint]
	return user, ok
}

// grantScopes gives what the client asked for and both may have. That may be
// less than asked for (RFC 6749 §3.3), but not nothing. Without a scope
// parameter it is all of it.
func grantScopes(asked string, client Client, user User) ([]string, *oauthError) {
	list := splitScope(asked)
	if asked == "" {
		list = user.Scopes
	}
	granted := []string{}
	for _, scope := range list {
		if slices.Contains(client.Scopes, scope) && slices.Contains(user.Scopes, scope) && !slices.Contains(granted, scope) {
			granted = append(granted, scope)
		}
	}
	if asked != "" && len(granted) == 0 {
		return nil, refuse("invalid_scope", "none of these scopes can be granted")
	}
	return granted, nil
}

// resource is the one resource asked for (RFC 8707 §2), if a client may ask for
// it by itself.
func (s *Server) resource(q form, otherwise string) (string, *oauthError) {
	switch asked := q["resource"]; {
	case len(asked) == 0:
		return otherwise, nil
	case len(asked) > 1:
		return "", refuse("invalid_target", "one resource at a time")
	case asked[0] == s.cfg.DefaultAudience || slices.Contains(s.cfg.Resources, asked[0]):
		return asked[0], nil
	}
	return "", refuse("invalid_target", "unknown resource")
}

// checkRedirect accepts https, and http on loopback.
func checkRedirect(raw string) error {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.Fragment != "" || strings.HasSuffix(raw, "#") || len(raw) > 2048:
		return errors.New("a redirect URI must be an absolute URL without user name or fragment")
	case u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname())):
		return fmt.Errorf("redirect URI %.100q is neither https nor http on loopback", raw)
	}
	return nil
}

// sameRedirect compares as strings; only the port of a loopback http URI may
// differ, since a native application listens where it can (RFC 8252 §7.3).
func sameRedirect(known, asked string) bool {
	if known == asked {
		return true
	}
	if checkRedirect(asked) != nil {
		return false
	}
	k, errK := url.Parse(known)
	a, errA := url.Parse(asked)
	if errK != nil || errA != nil || k.Scheme != "http" || !isLoopback(k.Hostname()) {
		return false
	}
	withPort := *k
	withPort.Host = a.Host
	return k.Hostname() == a.Hostname() && withPort.String() == asked
}
