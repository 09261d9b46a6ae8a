package hub

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/authz/token"
	"github.com/sallyport/sallyport/mcpparse"
)

// Serve answers on ln, HTTP/2 with prior knowledge or HTTP/1.1, until ctx ends; then it lets open requests finish
// for up to five seconds.
func (h *Hub) Serve(ctx context.Context, ln net.Listener) error {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	srv := &http.Server{
		Handler:           h,
		Protocols:         protocols,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       time.Minute,
		IdleTimeout:       -1, // Envoy decides; closing a connection under it could cost a message
		MaxHeaderBytes:    128 << 10,
		ErrorLog:          slog.NewLogLogger(h.cfg.Log.Handler(), slog.LevelWarn),
	}
	stopped := make(chan error, 1)
	defer context.AfterFunc(ctx, func() {
		grace, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		stopped <- srv.Shutdown(grace)
	})()
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-stopped
}

// caller is a verified request.
type caller struct {
	gate Gate
	req  authz.Request
	id   *token.Identity
}

// ServeHTTP answers one message.
func (h *Hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	write(w, h.answer(w, r))
}

func (h *Hub) answer(w http.ResponseWriter, r *http.Request) authz.Reply {
	c := caller{gate: h.cfg.Gate(), req: request(r)}
	id, refusal := c.gate.Identify(r.Context(), c.req)
	if refusal != nil {
		return *refusal
	}
	c.id = id
	switch r.Method {
	case http.MethodPost:
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, h.cfg.MaxRequestBytes))
		if err != nil {
			return unreadable(err)
		}
		return h.message(r.Context(), c, body)
	case http.MethodDelete:
		return h.endSession(c)
	}
	return h.methodNotAllowed()
}

// message answers a POSTed message. The gate has judged it already; here it is judged again, because this is where
// it is read.
func (h *Hub) message(ctx context.Context, c caller, body []byte) authz.Reply {
	if contentType, _ := c.req.Header.Get("content-type"); !isType(contentType, "application/json") {
		return fault(http.StatusUnsupportedMediaType, nil, mcpparse.CodeInvalidRequest, "content-type must be application/json")
	}
	m, err := mcpparse.Parse(body)
	if err != nil {
		return malformed(err)
	}
	version, _ := c.req.Header.Get("mcp-protocol-version")
	if m.Version != "" || mcpparse.ClassifyVersion(version) == mcpparse.EraModern {
		return h.modern(ctx, c, m, version)
	}
	return h.legacy(ctx, c, m, version)
}

// request is r as the gate sees requests.
func request(r *http.Request) authz.Request {
	source := r.Header.Get(authz.SourceHeader)
	header := make(authz.Header, len(r.Header))
	for name, values := range r.Header {
		// Envoy's instructions to itself are no part of what the agent sent.
		if name = strings.ToLower(name); !strings.HasPrefix(name, "x-sallyport-") {
			header[name] = values
		}
	}
	scheme := r.Header.Get("X-Forwarded-Proto") // Envoy establishes it
	if scheme == "" {
		scheme = "http"
	}
	return authz.Request{
		Method:      r.Method,
		Path:        r.URL.Path,
		RawQuery:    r.URL.RawQuery,
		Scheme:      scheme,
		Host:        r.Host,
		Header:      header,
		SourceIP:    source,
		EndOfStream: r.ContentLength == 0,
	}
}

func write(w http.ResponseWriter, a authz.Reply) {
	for _, field := range a.Header {
		w.Header().Add(field[0], field[1])
	}
	if len(a.Body) > 0 {
		w.Header().Set("Content-Length", strconv.Itoa(len(a.Body)))
	}
	w.WriteHeader(a.Status)
	_, _ = w.Write(a.Body) // an agent that went away needs no answer
}

// result is a successful answer.
func result(id, value []byte, header ...[2]string) authz.Reply {
	return reply(http.StatusOK, mcpparse.ResultBody(id, value), header...)
}

// fault is a JSON-RPC error. Every refusal is one, so that no client takes it for a transport failure.
func fault(status int, id []byte, code int, text string, header ...[2]string) authz.Reply {
	return reply(status, mcpparse.ErrorBody(id, code, text, nil), header...)
}

func reply(status int, body []byte, header ...[2]string) authz.Reply {
	common := [][2]string{{"content-type", "application/json"}, {"cache-control", "no-store"}}
	return authz.Reply{Status: status, Header: append(common, header...), Body: body}
}

// accepted answers a notification.
func accepted() authz.Reply { return authz.Reply{Status: http.StatusAccepted} }

func malformed(err error) authz.Reply {
	var e *mcpparse.Error
	if !errors.As(err, &e) {
		return fault(http.StatusBadRequest, nil, mcpparse.CodeParse, "parse error")
	}
	return fault(http.StatusBadRequest, e.ID, e.Code, e.Text)
}

func unreadable(err error) authz.Reply {
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return fault(http.StatusRequestEntityTooLarge, nil, mcpparse.CodeInvalidRequest, "request body too large")
	}
	return fault(http.StatusBadRequest, nil, mcpparse.CodeParse, "the request body broke off")
}

func (h *Hub) methodNotAllowed() authz.Reply {
	allow := "POST"
	if h.cfg.SessionHeader != "" && h.cfg.ClientMayEnd {
		allow = "POST, DELETE"
	}
	return fault(http.StatusMethodNotAllowed, nil, mcpparse.CodeInvalidRequest, "method not allowed", [2]string{"allow", allow})
}

func isType(contentType, want string) bool {
	got, _, err := mime.ParseMediaType(contentType)
	return err == nil && got == want
}
