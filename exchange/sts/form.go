package sts

import (
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
)

// form holds parameters. Only audience and resource may repeat (RFC 6749 §3.1,
// RFC 8693 §2.1); one without a value counts as absent.
type form map[string][]string

func (f form) get(name string) string {
	if v := f[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

func parseForm(raw string) (form, error) {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return nil, errors.New("the parameters are not form-encoded")
	}
	f := form{}
	for name, list := range values {
		if len(list) > 1 && name != "audience" && name != "resource" {
			return nil, errors.New("a parameter is repeated")
		}
		if list = slices.DeleteFunc(list, func(v string) bool { return v == "" }); len(list) > 0 {
			f[name] = list
		}
	}
	return f, nil
}

func readForm(r *http.Request) (form, *oauthError) {
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/x-www-form-urlencoded" {
		return nil, refuse("invalid_request", "the content type must be application/x-www-form-urlencoded")
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, refuse("invalid_request", "the request is too large or broken off")
	}
	f, err := parseForm(string(body))
	if err != nil {
		return nil, refuse("invalid_request", err.Error())
	}
	return f, nil
}

// oauthError is an error response (RFC 6749 §5.2).
type oauthError struct {
	Code        string `json:"error"`
	Description string `json:"error_description,omitempty"`
	status      int
	challenge   bool
}

func refuse(code, description string) *oauthError {
	status := http.StatusBadRequest
	if code == "temporarily_unavailable" {
		status = http.StatusServiceUnavailable
	}
	return &oauthError{Code: code, Description: description, status: status}
}

func badClient(challenge bool) *oauthError {
	return &oauthError{Code: "invalid_client", Description: "client authentication failed", status: http.StatusUnauthorized, challenge: challenge}
}

func (s *Server) internal(err error) *oauthError {
	s.cfg.Log.Error("authorization server failed", "error", err)
	return &oauthError{Code: "server_error", status: http.StatusInternalServerError}
}

func (e *oauthError) write(w http.ResponseWriter) {
	if e.challenge {
		w.Header().Set("WWW-Authenticate", `Basic realm="token"`)
	}
	writeJSON(w, e.status, e)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // a client that left needs no answer
}
