package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// upstream is an MCP server of both eras that does as little as it can: it answers each call with the number that the call
// carries, so that an answer can be told from every other.
type upstream struct {
	address string
	tools   []string
	list    []byte
	wrong   atomic.Bool // answers with another number, to see whether that is noticed

	calls    atomic.Int64 // tools/call
	others   atomic.Int64 // everything else
	unproved atomic.Int64 // calls without a bearer token
	leaked   atomic.Int64 // calls with the agent's own token
	open     atomic.Int64 // event streams
	agent    *issuer
}

const answerPad = "0123456789abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrstuvwxyz"

// result is the answer to call number n.
func result(b []byte, n int64) []byte {
	b = append(b, `{"jsonrpc":"2.0","id":`...)
	b = strconv.AppendInt(b, n, 10)
	b = append(b, `,"result":{"resultType":"complete","content":[{"type":"text","text":"call `...)
	b = strconv.AppendInt(b, n, 10)
	return append(b, ` `+answerPad+`"}],"isError":false}}`...)
}

func newUpstream(ctx context.Context, agent *issuer, tools ...string) (*upstream, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	u := &upstream{address: l.Addr().String(), tools: tools, agent: agent}
	items := make([]string, len(tools))
	for i, name := range tools {
		items[i] = `{"name":"` + name + `","description":"the tool ` + name + `","inputSchema":{"type":"object","properties":{"n":{"type":"integer"}}}}`
	}
	u.list = []byte(`{"resultType":"complete","ttlMs":60000,"cacheScope":"public","tools":[` + strings.Join(items, ",") + `]}`)
	context.AfterFunc(ctx, func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go u.serve(ctx, c)
		}
	}()
	return u, nil
}

func (u *upstream) serve(ctx context.Context, c net.Conn) {
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	defer func() { _ = c.Close() }()
	in := bufio.NewReaderSize(c, 8<<10)
	var out, body []byte
	for {
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		body = body[:0]
		if body, err = readAll(body, r.Body); err != nil {
			return
		}
		out = u.answer(out[:0], r, body)
		if _, err := c.Write(out); err != nil {
			return
		}
		if bytes.Contains(body, []byte(`"hold"`)) && u.hold(c, in) {
			return
		}
	}
}

// hold keeps an event stream open until its reader goes.
func (u *upstream) hold(c net.Conn, in *bufio.Reader) bool {
	u.open.Add(1)
	defer u.open.Add(-1)
	_ = c.SetReadDeadline(time.Time{})
	_, _ = in.ReadByte()
	return true
}

func readAll(b []byte, r io.Reader) ([]byte, error) {
	w := bytes.NewBuffer(b)
	_, err := w.ReadFrom(r)
	return w.Bytes(), err
}

func (u *upstream) answer(out []byte, r *http.Request, body []byte) []byte {
	method, _ := between(body, `"method":"`, `"`)
	id, _ := between(body, `"id":`, `,`)
	extra := ""
	var result []byte
	switch string(method) {
	case "tools/call":
		return u.call(out, r, body)
	case "initialize":
		extra = "Mcp-Session-Id: " + rand.Text() + "\r\n"
		result = []byte(`{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"bench","version":"1"}}`)
	case "server/discover":
		result = []byte(`{"resultType":"complete","supportedVersions":["2026-07-28","2025-11-25"],"capabilities":{"tools":{}},"ttlMs":60000,"cacheScope":"public"}`)
	case "tools/list":
		result = u.list
	default:
		u.others.Add(1)
		status := "202 Accepted"
		if r.Method != http.MethodPost {
			status = "405 Method Not Allowed"
		}
		return append(out, "HTTP/1.1 "+status+"\r\nContent-Length: 0\r\n\r\n"...)
	}
	u.others.Add(1)
	if string(method) == "server/discover" || string(method) == "initialize" || string(method) == "tools/list" {
		id = bytes.TrimRight(id, "}")
	}
	text := `{"jsonrpc":"2.0","id":` + string(id) + `,"result":` + string(result) + `}`
	return fmt.Appendf(out, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\n\r\n%s", extra, len(text), text)
}

func (u *upstream) call(out []byte, r *http.Request, body []byte) []byte {
	u.calls.Add(1)
	switch bearer := r.Header.Get("Authorization"); {
	case bearer == "":
		u.unproved.Add(1)
	case u.agent.knows(strings.TrimPrefix(bearer, "Bearer ")):
		u.leaked.Add(1)
	}
	if bytes.Contains(body, []byte(`"hold"`)) {
		return append(out, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n: open\n\n\r\n"...)
	}
	digits, _ := between(body, `"n":`, `,`)
	n, _ := strconv.ParseInt(string(digits), 10, 64)
	if u.wrong.Load() {
		n++
	}
	text := result(make([]byte, 0, 256), n)
	out = append(out, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: "...)
	out = strconv.AppendInt(out, int64(len(text)), 10)
	out = append(out, "\r\n\r\n"...)
	return append(out, text...)
}

func between(b []byte, start, end string) ([]byte, bool) {
	_, rest, ok := bytes.Cut(b, []byte(start))
	value, _, _ := bytes.Cut(rest, []byte(end))
	return value, ok
}

// issuer is an authorization server: it made the agents' tokens, and exchanges one it made for a fresh one (RFC 8693 §2).
type issuer struct {
	url       string
	key       *ecdsa.PrivateKey
	agents    map[string]string // token → subject; complete before the first exchange
	exchanges atomic.Int64
	refused   atomic.Int64
}

const (
	clientID  = "bench-gateway"
	audience  = "https://bench.example/mcp"
	target    = "https://upstream.example/"
	itemScope = "item:Get"
)

func newIssuer(ctx context.Context, secret string) (*issuer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &issuer{url: "http://" + l.Addr().String(), key: key, agents: map[string]string{}}
	mux := http.NewServeMux()
	metadata := func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, map[string]any{"issuer": s.url, "token_endpoint": s.url + "/token", "jwks_uri": s.url + "/jwks",
			"authorization_endpoint": s.url + "/authorize", "response_types_supported": []string{"code"},
			"token_endpoint_auth_methods_supported": []string{"client_secret_basic"}})
	}
	mux.HandleFunc("/.well-known/oauth-authorization-server", metadata)
	mux.HandleFunc("/.well-known/openid-configuration", metadata)
	mux.HandleFunc("/jwks", func(w http.ResponseWriter, _ *http.Request) {
		public, _ := s.key.PublicKey.Bytes()
		part := func(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
		writeJSON(w, map[string]any{"keys": []any{map[string]any{"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "1",
			"x": part(public[1:33]), "y": part(public[33:])}}})
	})
	mux.HandleFunc("/token", func(w http.ResponseWriter, r *http.Request) { s.token(w, r, secret) })
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	go func() { _ = server.Serve(l) }()
	return s, nil
}

func (s *issuer) token(w http.ResponseWriter, r *http.Request, secret string) {
	id, password, _ := r.BasicAuth()
	r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
	subject, known := s.agents[r.PostFormValue("subject_token")]
	if id != clientID || password != secret || !known || !strings.HasSuffix(r.PostFormValue("grant_type"), "token-exchange") {
		s.refused.Add(1)
		w.WriteHeader(http.StatusBadRequest)
		writeJSON(w, map[string]any{"error": "invalid_request"})
		return
	}
	s.exchanges.Add(1)
	ttl := 5
	if asked, err := strconv.Atoi(r.PostFormValue("requested_expires_in")); err == nil {
		ttl = asked
	}
	scope := r.PostFormValue("scope")
	token := s.sign(subject, r.PostFormValue("audience"), time.Duration(ttl)*time.Second,
		jwt.MapClaims{"scope": scope, "client_id": clientID, "act": map[string]any{"sub": clientID}})
	writeJSON(w, map[string]any{"access_token": token, "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
		"token_type": "Bearer", "expires_in": ttl, "scope": scope})
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

func (s *issuer) sign(subject, audience string, ttl time.Duration, claims jwt.MapClaims) string {
	now := time.Now()
	claims["iss"], claims["sub"], claims["aud"], claims["jti"] = s.url, subject, audience, rand.Text()
	claims["iat"], claims["exp"] = now.Unix(), now.Add(ttl).Unix()
	t := jwt.NewWithClaims(jwt.SigningMethodES256, claims)
	t.Header["typ"], t.Header["kid"] = "at+jwt", "1"
	signed, err := t.SignedString(s.key)
	if err != nil {
		panic(err) // a P-256 key signs
	}
	return signed
}

// login gives an agent a token.
func (s *issuer) login(subject string) string {
	token := s.sign(subject, audience, 6*time.Hour, jwt.MapClaims{"client_id": "bench-agent", "scope": itemScope})
	s.agents[token] = subject
	return token
}

func (s *issuer) knows(token string) bool {
	_, ok := s.agents[token]
	return ok
}
