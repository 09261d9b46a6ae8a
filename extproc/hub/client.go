package hub

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/tidwall/gjson"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/authz/session"
	"github.com/sallyport/sallyport/mcpparse"
)

// What can be wrong with an upstream's answer. Their texts hold nothing that the upstream sent.
var (
	errUnreachable = errors.New("unreachable")         // no answer in time, or Envoy could not reach it
	errGuarded     = errors.New("wants a token")       // 401 or 403
	errRefused     = errors.New("refused the request") // any other status, or a JSON-RPC error
	errBadAnswer   = errors.New("bad answer")          // not MCP, or beyond a bound
	errLost        = errors.New("not found")           // 404: with a session id, the session has ended
)

const (
	maxAnswerBytes  = maxListBytes + 1<<20 // a list in one page, and its envelope
	maxSessionBytes = 1024                 // of an upstream's Mcp-Session-Id; maxSessions of them are kept
	egressAuthority = "upstream.invalid"   // Envoy rewrites it
)

// Egress leads to the upstreams through Envoy's egress listener on a unix socket: HTTP/2 with prior knowledge. It
// neither follows redirects nor decompresses.
func Egress(socket string) http.RoundTripper {
	var dialer net.Dialer
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Transport{
		Protocols:          protocols,
		DisableCompression: true,
		IdleConnTimeout:    90 * time.Second,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", socket)
		},
		// A connection that Envoy lost without a word is noticed.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 5 * time.Second},
	}
}

// client speaks to upstreams.
type client struct {
	via  http.RoundTripper
	self implementation
	ids  atomic.Uint64
}

func newClient(via http.RoundTripper, version string) *client {
	return &client{via: via, self: implementation{Name: "sallyport", Version: version}}
}

// leg is where a message goes and how it is spoken.
type leg struct {
	route   string
	era     mcpparse.Era
	version string // MCP-Protocol-Version; "" before it is negotiated
	session string // Mcp-Session-Id
	token   string // "" sends none
}

// answer is a successful JSON-RPC response.
type answer struct {
	header http.Header
	result []byte // strictly parsed: I-JSON without duplicate names
}

// newID returns a request id, as a raw token, that this process uses once.
func (c *client) newID() []byte {
	return strconv.AppendQuote(nil, "sallyport-"+strconv.FormatUint(c.ids.Add(1), 10))
}

// call sends a request and returns its result. params is an object or nil; in the modern era it gains _meta.
func (c *client) call(ctx context.Context, l leg, method string, params []byte) (answer, error) {
	id := c.newID()
	if l.era == mcpparse.EraModern {
		params = c.withMeta(params)
	}
	resp, err := c.post(ctx, l, method, envelope(id, method, params), nil)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	if err := statusError(resp.StatusCode); err != nil {
		return answer{}, refusal(resp, id, err)
	}
	result, err := readResult(resp, id)
	if err != nil {
		return answer{}, err
	}
	return answer{resp.Header, result}, nil
}

// deliver sends a message to which no answer comes: a notification, or a response.
func (c *client) deliver(ctx context.Context, l leg, body []byte) error {
	resp, err := c.post(ctx, l, "", body, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return statusError(resp.StatusCode)
}

// end ends a session.
func (c *client) end(ctx context.Context, l leg) error {
	resp, err := c.send(ctx, http.MethodDelete, l, nil, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return statusError(resp.StatusCode)
}

// shaken is the outcome of a legacy handshake.
type shaken struct {
	id, version string // id is "" when the upstream keeps no sessions
	offers      offers
}

// initialize does the legacy handshake in the name of an agent with these capabilities.
func (c *client) initialize(ctx context.Context, l leg, agent session.Session) (shaken, error) {
	a, err := c.call(ctx, l, "initialize", c.hello(agent))
	if err != nil {
		return shaken{}, err
	}
	out := shaken{version: gjson.GetBytes(a.result, "protocolVersion").Str, offers: readOffers(a.result)}
	if !mcpparse.Served(mcpparse.EraLegacy, out.version) {
		return shaken{}, fmt.Errorf("%w: it agreed on a version that nobody offered", errBadAnswer)
	}
	if ids := a.header.Values("Mcp-Session-Id"); len(ids) > 0 {
		out.id = ids[0]
		if len(ids) > 1 || !validSessionID(out.id) {
			return shaken{}, fmt.Errorf("%w: malformed session id", errBadAnswer)
		}
	}
	l.version, l.session = out.version, out.id
	return out, c.deliver(ctx, l, envelope(nil, "notifications/initialized", nil))
}

// hello are the parameters of initialize. An agent that named itself is named; what it can do for servers is passed on,
// what it did not declare is not.
func (c *client) hello(agent session.Session) []byte {
	info := c.self
	if agent.ClientName != "" {
		info = implementation{Name: agent.ClientName, Version: agent.ClientVer}
	}
	return encode(map[string]any{"protocolVersion": mcpparse.LatestLegacy, "clientInfo": info,
		"capabilities": json.RawMessage(agent.Capabilities.JSON())})
}

// validSessionID: visible ASCII (2025-11-25, transports, "Session Management").
func validSessionID(id string) bool {
	return id != "" && len(id) <= maxSessionBytes &&
		!slices.ContainsFunc([]byte(id), func(b byte) bool { return b < 0x21 || b > 0x7e })
}

// post sends a message. header are fields beyond those that every message has.
func (c *client) post(ctx context.Context, l leg, method string, body []byte, header http.Header) (*http.Response, error) {
	if header == nil {
		header = http.Header{}
	}
	if l.era == mcpparse.EraModern && method != "" || method == "initialize" { // that may reach a server that has no legacy requests
		header.Set("Mcp-Method", method)
	}
	header.Set("Content-Type", "application/json")
	header.Set("Accept", "application/json, text/event-stream")
	return c.send(ctx, http.MethodPost, l, body, header)
}

// stream opens the event stream of a legacy session, or goes on with one at lastEventID.
func (c *client) stream(ctx context.Context, l leg, lastEventID string) (*http.Response, error) {
	header := http.Header{"Accept": {"text/event-stream"}}
	if lastEventID != "" {
		header.Set("Last-Event-ID", lastEventID)
	}
	resp, err := c.send(ctx, http.MethodGet, l, nil, header)
	if err != nil {
		return nil, err
	}
	err = statusError(resp.StatusCode)
	if err == nil && !isType(resp.Header.Get("Content-Type"), "text/event-stream") {
		err = fmt.Errorf("%w: not an event stream", errBadAnswer)
	}
	if err != nil {
		_ = resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

func (c *client) send(ctx context.Context, verb string, l leg, body []byte, header http.Header) (*http.Response, error) {
	return c.sendTo(ctx, "/", verb, l, body, header) // Envoy puts the upstream's path in its place
}

func (c *client) sendTo(ctx context.Context, path, verb string, l leg, body []byte, header http.Header) (*http.Response, error) {
	at, err := url.ParseRequestURI(path)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, verb, "http://"+egressAuthority+"/", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	// Whatever the path, Envoy leads it to the upstream of the route, and nowhere else.
	req.URL.Path, req.URL.RawPath, req.URL.RawQuery = at.Path, at.RawPath, at.RawQuery
	for name, values := range header {
		req.Header[name] = values
	}
	req.Header.Set(authz.RouteHeader, l.route)
	req.Header.Set("User-Agent", c.self.Name+"/"+c.self.Version)
	for name, value := range map[string]string{"MCP-Protocol-Version": l.version, "Mcp-Session-Id": l.session} {
		if value != "" {
			req.Header.Set(name, value)
		}
	}
	if l.token != "" {
		req.Header.Set("Authorization", "Bearer "+l.token)
	}
	resp, err := c.via.RoundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUnreachable, err)
	}
	return resp, nil
}

func (c *client) withMeta(params []byte) []byte {
	meta := encode(map[string]any{
		"io.modelcontextprotocol/protocolVersion":    mcpparse.LatestModern,
		"io.modelcontextprotocol/clientInfo":         c.self,
		"io.modelcontextprotocol/clientCapabilities": struct{}{},
	})
	out := append([]byte(`{"_meta":`), meta...)
	if len(params) > 0 { // {"a":1} -> ,"a":1}
		out = append(out, ',')
		return append(out, params[1:]...)
	}
	return append(out, '}')
}

func envelope(id []byte, method string, params []byte) []byte {
	b := []byte(`{"jsonrpc":"2.0"`)
	if id != nil {
		b = append(append(b, `,"id":`...), id...)
	}
	b = append(append(b, `,"method":`...), strconv.Quote(method)...)
	if params != nil {
		b = append(append(b, `,"params":`...), params...)
	}
	return append(b, '}')
}

func statusError(status int) error {
	switch status {
	case 200, 202, 204:
		return nil
	case 404:
		return fmt.Errorf("%w: %w: status %d", errRefused, errLost, status)
	case 401, 403:
		return fmt.Errorf("%w: status %d", errGuarded, status)
	case 429, 502, 503, 504:
		return fmt.Errorf("%w: status %d", errUnreachable, status)
	}
	return fmt.Errorf("%w: status %d", errRefused, status)
}

// otherVersions is how a modern server refuses a protocol version: it says which ones it supports.
type otherVersions struct{ supported []string }

func (*otherVersions) Error() string {
	return errRefused.Error() + ": it wants another protocol version"
}
func (*otherVersions) Unwrap() error { return errRefused }

// refusal is err, the status of a response to id, unless its body says more.
func refusal(resp *http.Response, id []byte, err error) error {
	var versions *otherVersions
	if resp.StatusCode != http.StatusBadRequest {
		return err
	}
	if _, said := readResult(resp, id); errors.As(said, &versions) {
		return versions
	}
	return err
}

// readResult returns the result of the response to id, from a JSON body or an event stream.
func readResult(resp *http.Response, id []byte) ([]byte, error) {
	if coding := resp.Header.Get("Content-Encoding"); coding != "" && coding != "identity" {
		return nil, fmt.Errorf("%w: compressed without being asked", errBadAnswer)
	}
	contentType := resp.Header.Get("Content-Type")
	limited := &io.LimitedReader{R: resp.Body, N: maxAnswerBytes + 1}
	switch {
	case isType(contentType, "application/json"):
		body, err := io.ReadAll(limited)
		switch {
		case limited.N <= 0:
			return nil, fmt.Errorf("%w: over %d bytes", errBadAnswer, maxAnswerBytes)
		case err != nil:
			return nil, fmt.Errorf("%w: %w", errUnreachable, err)
		}
		m, err := mcpparse.ParseUpstream(body)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errBadAnswer, err)
		}
		return resultOf(m, id)
	case isType(contentType, "text/event-stream"):
		return readStream(limited, id)
	}
	return nil, fmt.Errorf("%w: neither JSON nor an event stream", errBadAnswer)
}

// readStream returns the result of the response to id. Notifications come before it; requests would have to be
// answered, and we declared that we cannot.
func readStream(limited *io.LimitedReader, id []byte) ([]byte, error) {
	events := mcpparse.NewEventReader(limited, maxAnswerBytes)
	for {
		e, err := events.Next()
		switch {
		case limited.N <= 0 || errors.Is(err, mcpparse.ErrEventTooLarge):
			return nil, fmt.Errorf("%w: over %d bytes", errBadAnswer, maxAnswerBytes)
		case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
			return nil, fmt.Errorf("%w: the stream ended without a response", errBadAnswer)
		case err != nil:
			return nil, fmt.Errorf("%w: %w", errUnreachable, err)
		case len(e.Data) == 0 || e.Type != "" && e.Type != "message":
			continue
		}
		m, err := mcpparse.ParseUpstream(e.Data)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errBadAnswer, err)
		}
		if m.Kind == mcpparse.Response {
			return resultOf(m, id)
		}
	}
}

// resultOf takes a response apart.
func resultOf(m mcpparse.Message, id []byte) ([]byte, error) {
	switch {
	case m.Failure != nil:
		code := gjson.GetBytes(m.Failure, "code").Int()
		if code == mcpparse.CodeUnsupportedVersion {
			return nil, &otherVersions{texts(gjson.GetBytes(m.Failure, "data.supported"))}
		}
		return nil, fmt.Errorf("%w: JSON-RPC error %d", errRefused, code)
	case m.Kind != mcpparse.Response || !bytes.Equal(m.ID, id):
		return nil, fmt.Errorf("%w: not the response to our request", errBadAnswer)
	}
	return m.Result, nil
}

// texts are the strings in an array.
func texts(array gjson.Result) []string {
	var out []string
	for _, v := range array.Array() {
		if v.Type == gjson.String {
			out = append(out, v.Str)
		}
	}
	return out
}
