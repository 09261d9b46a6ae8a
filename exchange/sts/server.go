// Package sts issues access tokens, in one of two ways.
//
// [Minter] is for production. It signs the delegated token of a call itself, where
// package exchange asks an authorization server for it, with the keys of a
// [KeySet], which it publishes. It talks to nobody.
//
// [Server] is a small OAuth 2.1 authorization server for the demo and the tests.
// It signs people in without asking them: whoever can reach it gets a token of a
// configured user. New therefore refuses an issuer that is not on loopback, unless
// told otherwise in so many words.
//
// It speaks the authorization code grant with PKCE S256, refresh tokens with
// rotation, client credentials, token exchange (RFC 8693), dynamic registration
// (RFC 7591), metadata (RFC 8414), resource indicators (RFC 8707) and the iss
// parameter (RFC 9207). Access tokens are JWTs (RFC 9068) signed with ES256. All
// state is in memory, bounded, and gone at the end of the process.
package sts

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
)

// Server is the authorization server, an http.Handler. It is safe for concurrent
// use.
type Server struct {
	cfg     Config
	signer  *signer
	mux     *http.ServeMux
	clients map[string]Client
	users   map[string]User

	codes      *store[code]
	families   *store[family]
	registered *store[Client]

	issued, exchanges atomic.Uint64
}

// New checks the configuration and makes the key, if none is given.
func New(cfg Config) (*Server, error) {
	issuer, err := cfg.complete()
	if err != nil {
		return nil, fmt.Errorf("sts: %w", err)
	}
	s := &Server{
		cfg: cfg, mux: http.NewServeMux(), clients: map[string]Client{}, users: map[string]User{},
		codes: newStore[code](maxGrants), families: newStore[family](maxGrants),
		registered: newStore[Client](cfg.MaxRegistrations),
	}
	if s.signer, err = newSigner(cfg.Key, cfg.Issuer, cfg.Now); err != nil {
		return nil, fmt.Errorf("sts: %w", err)
	}
	for i, u := range cfg.Users {
		if err := s.addUser(u); err != nil {
			return nil, fmt.Errorf("sts: user %d: %w", i+1, err)
		}
	}
	for i, c := range cfg.Clients {
		if err := s.addClient(c); err != nil {
			return nil, fmt.Errorf("sts: client %d: %w", i+1, err)
		}
	}
	return s, s.routes(issuer.Path)
}

func (s *Server) routes(path string) error {
	meta, err := json.Marshal(s.metadata())
	if err != nil {
		return fmt.Errorf("sts: %w", err)
	}
	publish(s.mux, path, document(meta), document(s.signer.jwks))
	s.mux.HandleFunc("GET "+path+"/authorize", s.authorize)
	s.mux.HandleFunc("POST "+path+"/token", s.token)
	s.mux.HandleFunc("POST "+path+"/register", s.register)
	return nil
}

func (s *Server) metadata() map[string]any {
	base := s.cfg.Issuer
	return map[string]any{
		"issuer":                                         base,
		"authorization_endpoint":                         base + "/authorize",
		"token_endpoint":                                 base + "/token",
		"registration_endpoint":                          base + "/register",
		"jwks_uri":                                       base + "/jwks",
		"scopes_supported":                               append([]string{}, s.cfg.Scopes...),
		"response_types_supported":                       []string{"code"},
		"response_modes_supported":                       []string{"query"},
		"grant_types_supported":                          []string{GrantCode, GrantRefresh, GrantCredentials, GrantExchange},
		"token_endpoint_auth_methods_supported":          []string{methodBasic, methodPost, methodNone},
		"code_challenge_methods_supported":               []string{"S256"},
		"authorization_response_iss_parameter_supported": true,
		// Required by OpenID Connect Discovery; no ID tokens are issued.
		"subject_types_supported":               []string{"public"},
		"id_token_signing_alg_values_supported": []string{"ES256"},
	}
}

// ServeHTTP refuses, on a loopback issuer, a Host that is not loopback: a web
// page whose name was made to resolve to 127.0.0.1 must not sign anybody in.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !s.cfg.AllowNonLoopback && !isLoopback(hostname(r.Host)) {
		http.Error(w, "this host is not served here", http.StatusForbidden)
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	s.mux.ServeHTTP(w, r)
}

// Issued counts the access tokens issued, exchanged ones included.
func (s *Server) Issued() uint64 { return s.issued.Load() }

// Exchanges counts the tokens issued by token exchange.
func (s *Server) Exchanges() uint64 { return s.exchanges.Load() }

func hostname(hostport string) string {
	if host, _, err := net.SplitHostPort(hostport); err == nil {
		return host
	}
	return strings.Trim(hostport, "[]")
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}
