package hub

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/authz/audit"
	"github.com/sallyport/sallyport/authz/policy"
	"github.com/sallyport/sallyport/authz/session"
	"github.com/sallyport/sallyport/authz/token"
	"github.com/sallyport/sallyport/mcpparse"
)

// gateway is a hub with a real gate before it, put together as Envoy would: what the hub carries has been decided.
type gateway struct {
	*Hub
	t      *testing.T
	via    egress
	tokens *names

	mu      sync.Mutex
	gate    *authz.Gate
	seenAs  Gate // by the hub, in place of gate
	records []audit.Decision
	ends    []audit.Completion
}

// names verifies "Bearer alice" as alice. Like a cache, it has one identity for each.
type names struct {
	mu      sync.Mutex
	known   map[string]*token.Identity
	expires time.Time
	refuse  map[string]bool
}

func (n *names) VerifyRequest(_ context.Context, p token.Presented) (*token.Identity, error) {
	raw := p.Token
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.refuse[raw] {
		return nil, token.ErrExpired
	}
	if n.known[raw] == nil {
		n.known[raw] = &token.Identity{Issuer: "https://as.example", Subject: raw, ClientID: "agent", Expiry: n.expires}
	}
	return n.known[raw], nil
}

func (*names) Nonce() string     { return "" }
func (*names) Issuers() []string { return []string{"https://as.example"} }

// later is a hub that is there when it is asked.
type later struct{ *Hub }

const allowAll = "package orchestrator\nresult[\"allowed\"] := true\n"

func compile(t testing.TB, src string) *policy.Policy {
	t.Helper()
	p, err := policy.Compile("p", "p.rego", []byte(src))
	if err != nil {
		t.Fatal(err)
	}
	return p.Within(time.Minute)
}

// issuing exchanges every token for one that says for whom and for which app it is.
type issuing struct{}

func (issuing) Exchange(_ context.Context, r authz.TokenRequest) (*authz.IssuedToken, error) {
	return &authz.IssuedToken{Value: strings.Join(append([]string{r.Subject, r.Rule.Audience}, r.Scopes...), ":")}, nil
}

// protected is an app whose calls carry the scope "call", and whose sessions the scope "session".
func protected(name string) *authz.App {
	a := app(name)
	a.Exchange = &authz.ExchangeRule{Exchanger: issuing{}, Audience: name, AllowOthers: true, Session: &authz.TokenRule{Scopes: []string{"session"}}}
	return a
}

// newGateway returns a gateway before apps, all of whose policies allow everything unless they say something else.
func newGateway(t *testing.T, via egress, all []*authz.App, change ...func(*Config)) *gateway {
	t.Helper()
	g := &gateway{t: t, via: via, tokens: &names{known: map[string]*token.Identity{}, refuse: map[string]bool{}}}
	upstreams := &later{}
	g.setGate(upstreams, all)
	change = append(change, func(c *Config) {
		c.Gate = func() Gate {
			g.mu.Lock()
			defer g.mu.Unlock()
			if g.seenAs != nil {
				return g.seenAs
			}
			return g.gate
		}
		c.Completed = func(done audit.Completion) {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.ends = append(g.ends, done)
		}
	})
	hub := newHub(t, nil, via, change...)
	upstreams.Hub, g.Hub = hub, hub
	return g
}

// setGate is a reload.
func (g *gateway) setGate(upstreams authz.Upstreams, all []*authz.App) {
	g.t.Helper()
	for _, a := range all {
		if a.Policy == nil {
			a.Policy = compile(g.t, allowAll)
		}
	}
	gate, err := authz.New(authz.Config{Tokens: g.tokens, Sessions: sealer(g.t), Upstreams: upstreams, Audit: g, Log: discard,
		Metrics: authz.NewMetrics(prometheus.NewRegistry()), Apps: all, Paths: paths, SessionHeader: "mcp-session-id",
		ClientMayEnd: true, Listen: "gateway.example:80", MaxRequestBytes: 1 << 20})
	if err != nil {
		g.t.Fatal(err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.gate, g.seenAs = gate, nil
}

func (g *gateway) current() *authz.Gate {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.gate
}

// Decision keeps the audit.
func (g *gateway) Decision(d audit.Decision) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.records = append(g.records, d)
	return nil
}

// audited returns what is on record of a method.
func (g *gateway) audited(method string) (out []audit.Decision) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, d := range g.records {
		if d.Method == method {
			out = append(out, d)
		}
	}
	return out
}

// ServeHTTP is what Envoy does with a message.
func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	gate := g.current()
	body, _ := io.ReadAll(r.Body)
	call, v := gate.Begin(r.Context(), request(r))
	if call != nil {
		v = call.Finish(r.Context(), body)
	}
	if v.Reply != nil {
		write(w, *v.Reply)
		return
	}
	for _, name := range v.Remove {
		r.Header.Del(name)
	}
	for _, set := range v.Set {
		if set[0] != ":path" {
			r.Header.Set(set[0], set[1])
			continue
		}
		r.URL.RawQuery = ""
	}
	if v.Body != nil {
		body = v.Body
	}
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	if v.Route == authz.HubRoute {
		g.Hub.ServeHTTP(w, r)
		return
	}
	resp, err := g.via.RoundTrip(r)
	if err != nil {
		write(w, fault(502, v.RPCID, mcpparse.CodeInternal, "the upstream server gave no usable answer"))
		return
	}
	defer resp.Body.Close()
	g.answer(w, r, call, v, resp)
}

// answer is what extproc does with the answer to a call that went to its upstream directly.
func (g *gateway) answer(w http.ResponseWriter, r *http.Request, call *authz.Call, v authz.Verdict, resp *http.Response) {
	var answer authz.Answer
	if v.Watch {
		header := authz.Header{}
		for name, values := range resp.Header {
			header[strings.ToLower(name)] = values
		}
		answer = call.Response(r.Context(), resp.StatusCode, header, false)
	}
	if answer.Reply != nil {
		write(w, *answer.Reply)
		return
	}
	for name, values := range resp.Header {
		w.Header()[name] = values
	}
	w.Header().Del("Mcp-Session-Id")
	w.WriteHeader(resp.StatusCode)
	if answer.Relay == nil {
		copyBody(w, resp.Body)
		return
	}
	out := newAgentStream(w)
	out.begun = true
	_ = eachEvent(resp.Body, func(ev mcpparse.Event) error {
		relayed, err := answer.Relay.Event(ev)
		if err != nil || relayed.Dropped != "" {
			return err
		}
		return out.send(relayed.Event)
	})
}

// agent is one who speaks the legacy era in a session.
type agent struct {
	t       *testing.T
	h       http.Handler
	who     string
	session string
}

// capabilities that a client may declare.
const ableBody = `{"sampling":{},"elicitation":{"form":{},"url":{}},"roots":{"listChanged":true}}`

// enter opens a session at h, in the name of a client with these capabilities.
func enter(t *testing.T, h http.Handler, who, capabilities string) agent {
	t.Helper()
	rec := ask(h, who, "POST", `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":`+capabilities+
		`,"clientInfo":{"name":"inspector","version":"9"}}}`)
	id := rec.Header().Get("Mcp-Session-Id")
	if rec.Code != 200 || id == "" {
		t.Fatalf("initialize: %d %s", rec.Code, rec.Body)
	}
	return agent{t, h, who, id}
}

// post sends a message in the session.
func (a agent) post(body string) *httptest.ResponseRecorder {
	return ask(a.h, a.who, "POST", body, "Mcp-Session-Id", a.session)
}

// must sends a message in the session, to which the answer has this status and holds this text.
func (a agent) must(status int, want, body string) *httptest.ResponseRecorder {
	a.t.Helper()
	rec := a.post(body)
	if rec.Code != status || !strings.Contains(rec.Body.String(), want) {
		a.t.Fatalf("%s: %d %s, want %d with %s", body, rec.Code, rec.Body, status, want)
	}
	return rec
}

// opened is what the session's id says.
func (a agent) opened() session.Session {
	a.t.Helper()
	gate := testGate{}
	who := &token.Identity{Issuer: "https://as.example", Subject: a.who, ClientID: "agent"}
	s, err := sealer(a.t).Open(a.session, gate.Owner(who, paths.MCP))
	if err != nil {
		a.t.Fatal(err)
	}
	return s
}

// id is the session's own, under which the store has it.
func (a agent) id() string { return a.opened().ID }

// stream is an event stream as an agent reads it.
type stream struct {
	t      *testing.T
	resp   *http.Response
	cancel context.CancelFunc
	events chan mcpparse.Event
}

// listen opens the session's event stream, or, with headers, goes on with one.
func (a agent) listen(headers ...string) *stream {
	a.t.Helper()
	return openStream(a.t, a.h, a.who, "GET", "/mcp", "", append([]string{"Mcp-Session-Id", a.session, "Accept", "text/event-stream"}, headers...)...)
}

// begin sends a message whose answer is read as it comes.
func (a agent) begin(body string) *stream {
	a.t.Helper()
	return openStream(a.t, a.h, a.who, "POST", "/mcp", body, "Mcp-Session-Id", a.session)
}

func openStream(t *testing.T, h http.Handler, who, verb, path, body string, headers ...string) *stream {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	r := httptest.NewRequest(verb, "http://gateway.example"+path, strings.NewReader(body)).WithContext(ctx)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json, text/event-stream")
	r.Header.Set("Authorization", "Bearer "+who)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	resp, err := serveInProcess(h, r)
	if err != nil {
		t.Fatal(err)
	}
	s := &stream{t: t, resp: resp, cancel: cancel, events: make(chan mcpparse.Event, 256)}
	if !isType(resp.Header.Get("Content-Type"), "text/event-stream") || resp.StatusCode != 200 {
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		t.Fatalf("%s: %d %s: %s", verb, resp.StatusCode, resp.Header.Get("Content-Type"), body)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(s.events)
		_ = eachEvent(resp.Body, func(ev mcpparse.Event) error {
			s.events <- ev
			return nil
		})
	}()
	t.Cleanup(func() {
		cancel()
		resp.Body.Close()
		<-done
	})
	return s
}

// close is the agent leaving.
func (s *stream) close() { s.cancel() }

// patience is how long a test waits for what has to come.
const patience = 30 * time.Second

// block is the next block that is no mere comment; the zero Event at the end of the stream.
func (s *stream) block() mcpparse.Event {
	s.t.Helper()
	for {
		select {
		case ev, open := <-s.events:
			if !open || ev.HasData || ev.HasID || ev.HasRetry || ev.Type != "" {
				return ev
			}
		case <-time.After(patience):
			s.t.Fatal("nothing comes")
		}
	}
}

// next is the next message.
func (s *stream) next() string {
	s.t.Helper()
	for {
		ev := s.block()
		if len(ev.Data) > 0 {
			return string(ev.Data)
		}
		if !ev.HasID && !ev.HasRetry {
			s.t.Fatal("the stream has ended")
		}
	}
}

// message is the next message, taken apart.
func (s *stream) message() mcpparse.Message {
	s.t.Helper()
	text := s.next()
	m, err := mcpparse.ParseUpstream([]byte(text))
	if err != nil {
		s.t.Fatalf("%s: %v", text, err)
	}
	return m
}

// quiet waits, and fails when a message comes.
func (s *stream) quiet(d time.Duration) {
	s.t.Helper()
	timeout := time.After(d)
	for {
		select {
		case ev, open := <-s.events:
			if !open {
				s.t.Fatal("the stream has ended")
			}
			if len(ev.Data) > 0 {
				s.t.Fatalf("unexpected: %s", ev.Data)
			}
		case <-timeout:
			return
		}
	}
}

// end waits until the stream ends.
func (s *stream) end() {
	s.t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case _, open := <-s.events:
			if !open {
				return
			}
		case <-timeout:
			s.t.Fatal("the stream does not end")
		}
	}
}
