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
	"github.com/sallyport/sallyport/mcpparse"
)

// Serve answers on ln, HTTP/2 with prior knowledge or HTTP/1.1, until ctx ends; then it lets open requests finish
// for up to twenty seconds.
func (h *Hub) Serve(ctx context.Context, ln net.Listener) error {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	protocols.SetHTTP2(true) // where ln speaks TLS
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
		h.Drain()
		grace, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		err := srv.Shutdown(grace)
		if errors.Is(err, context.DeadlineExceeded) {
			h.cfg.Log.Warn("calls that were still under way are cut off")
			err = srv.Close()
		}
		stopped <- err
	})()
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-stopped
}

// caller is a verified request.
type caller struct {
	gate   Gate
	req    authz.Request
	who    *authz.Caller
	sealed string // session id of a message of the 2024-11-05 transport
	ticket string // what the gate has decided, sealed
}

// ServeHTTP answers one message.
func (h *Hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := caller{gate: h.cfg.Gate(), req: request(r), sealed: r.Header.Get(authz.SessionHeader), ticket: r.Header.Get(authz.TicketHeader)}
	who, refusal := c.gate.Identify(r.Context(), c.req)
	if refusal != nil {
		write(w, *refusal)
		return
	}
	c.who = who
	switch {
	case r.Method == http.MethodPost:
		h.post(w, r, c)
	case r.Method == http.MethodDelete:
		write(w, h.endSession(r.Context(), c))
	case r.Method == http.MethodGet && c.req.Path == h.cfg.Paths.SSE:
		h.oldStream(w, r, c)
	case r.Method == http.MethodGet && c.req.Path == h.cfg.Paths.MCP:
		h.sessionEvents(w, r, c)
	default:
		write(w, h.methodNotAllowed())
	}
}

// post answers a POSTed message. The gate has judged it already; here it is judged again, because this is where it is
// read.
func (h *Hub) post(w http.ResponseWriter, r *http.Request, c caller) {
	if contentType, _ := c.req.Header.Get("content-type"); !isType(contentType, "application/json") {
		write(w, fault(http.StatusUnsupportedMediaType, nil, mcpparse.CodeInvalidRequest, "content-type must be application/json"))
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, h.cfg.MaxRequestBytes))
	if err != nil {
		write(w, unreadable(err))
		return
	}
	m, err := mcpparse.Parse(body)
	if err != nil {
		write(w, malformed(err))
		return
	}
	version, _ := c.req.Header.Get("mcp-protocol-version")
	old := c.req.Path == h.cfg.Paths.Message && c.req.Path != h.cfg.Paths.MCP
	modern := !old && (m.Version != "" || mcpparse.ClassifyVersion(version) == mcpparse.EraModern)
	switch {
	case old:
		h.oldMessage(w, r, c, m)
	case c.ticket != "":
		h.carried(w, r, c, m, modern)
	case modern && m.Method == "subscriptions/listen" && m.Kind == mcpparse.Request:
		h.listen(w, r, c, m, version)
	case modern:
		write(w, h.modern(r.Context(), c, m, version))
	default:
		write(w, h.legacy(r.Context(), c, m, version))
	}
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
		Certificate: r.Header.Get(authz.CertHeader),
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
	if h.cfg.SessionHeader != "" {
		allow = "GET, POST"
		if h.cfg.ClientMayEnd {
			allow = "GET, POST, DELETE"
		}
	}
	return fault(http.StatusMethodNotAllowed, nil, mcpparse.CodeInvalidRequest, "method not allowed", [2]string{"allow", allow})
}

func isType(contentType, want string) bool {
	got, _, err := mime.ParseMediaType(contentType)
	return err == nil && got == want
}
