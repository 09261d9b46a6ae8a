package authz_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/authz/audit"
	"github.com/sallyport/sallyport/authz/policy"
	"github.com/sallyport/sallyport/authz/session"
	"github.com/sallyport/sallyport/authz/token"
	"github.com/sallyport/sallyport/mcpparse"
)

// One fake for each interface that the gate asks; everything else is real.

// tokens verifies by looking up, and remembers what it was shown. Raw tokens that are not in it are invalid.
type tokens struct {
	known   map[string]*token.Identity
	err     map[string]error
	issuers []string
	nonce   string

	mu   sync.Mutex
	last token.Presented // what was shown
}

func (f *tokens) VerifyRequest(_ context.Context, p token.Presented) (*token.Identity, error) {
	f.mu.Lock()
	f.last = p
	f.mu.Unlock()
	raw := p.Token
	if err := f.err[raw]; err != nil {
		return nil, err
	}
	if id := f.known[raw]; id != nil {
		return id, nil
	}
	return nil, token.ErrInvalidToken
}

func (f *tokens) Issuers() []string { return f.issuers }
func (f *tokens) Nonce() string     { return f.nonce }

// recorder keeps the records, or fails to.
type recorder struct {
	records []audit.Decision
	err     error
}

func (f *recorder) Decision(d audit.Decision) error {
	if f.err != nil {
		return f.err
	}
	f.records = append(f.records, d)
	return nil
}

// upstreams answers from its fields and remembers what it was asked.
type upstreams struct {
	mu       sync.Mutex
	leg      authz.Leg
	err      error
	lists    map[string]bool   // "tool", of any app, or "app/tool"; likewise prompts
	owns     map[string]string // the app of a resource, by URI
	lacks    map[string]bool   // methods that nobody offers
	ended    map[string]bool   // session ids that Touch refuses
	touchErr error
	owners   []string     // of Leg
	peers    []authz.Peer // likewise

	resent    []resent // calls that were sent again
	resendErr error
}

// resent is what Resend was asked.
type resent struct {
	owner string
	leg   authz.Leg
	call  authz.Resent
}

func (f *upstreams) Leg(_ context.Context, _ *authz.App, p authz.Peer) (authz.Leg, error) {
	f.mu.Lock()
	f.owners, f.peers = append(f.owners, p.Owner), append(f.peers, p)
	f.mu.Unlock()
	if f.leg == (authz.Leg{}) && f.err == nil {
		return authz.Leg{Era: p.Era, Version: map[mcpparse.Era]string{mcpparse.EraLegacy: mcpparse.LatestLegacy, mcpparse.EraModern: mcpparse.LatestModern}[p.Era]}, nil
	}
	return f.leg, f.err
}

func (f *upstreams) Resend(_ context.Context, _ *authz.App, p authz.Peer, leg authz.Leg, call authz.Resent) (*authz.Reply, error) {
	f.resent = append(f.resent, resent{p.Owner, leg, call})
	if f.resendErr != nil {
		return nil, f.resendErr
	}
	return &authz.Reply{Status: 200, Body: mcpparse.ResultBody(call.ID, []byte(`{"again":true}`))}, nil
}

func (f *upstreams) Lists(a *authz.App, _ mcpparse.Target, name string) bool {
	return f.lists[name] || f.lists[a.Name+"/"+name]
}

func (f *upstreams) Serves(method string, _ mcpparse.Era, _ *authz.Caller) bool {
	return !f.lacks[method]
}
func (f *upstreams) Resource(uri string, _ *authz.Caller) string { return f.owns[uri] }

func (f *upstreams) Touch(_ context.Context, s session.Session) (bool, error) {
	return !f.ended[s.ID], f.touchErr
}

// exchanger issues a token, or err, and remembers the requests.
type exchanger struct {
	issued   *authz.IssuedToken
	err      error
	requests []authz.TokenRequest
}

func (f *exchanger) Exchange(_ context.Context, r authz.TokenRequest) (*authz.IssuedToken, error) {
	f.requests = append(f.requests, r)
	return f.issued, f.err
}

const (
	agentToken  = "agents-own-token"
	issuedToken = "issued-for-this-call"
	sessionKey  = "0123456789abcdef0123456789abcdef"
	host        = "127.0.0.1:8080"
)

// ann is whom agentToken speaks for, bob whom bobsToken does.
const bobsToken = "bobs-own-token"

func newAnn() *token.Identity {
	return &token.Identity{Issuer: "https://issuer.example", Subject: "ann", ClientID: "agent-1", Actors: []string{"agent-1"},
		Scopes: []string{"mcp"}, JTI: "jti-of-agent", Claims: map[string]any{"sub": "ann"}}
}

// itemsRego is the policy of the protected app, in the style of published ones: without "if".
const itemsRego = `package orchestrator

default result["allowed"] := false

result["allowed"] := true { input.request.mcp.tool.params.name == "listItems" }
result["allowed"] := true { input.request.mcp.tool.params.name == "getItem" }
result["allowed"] := true { input.request.mcp.tool.params.name == "notInTools" }
result["allowed"] := true {
  input.request.mcp.tool.params.name == "updateItem"
  input.request.mcp.tool.params.arguments.price < 100
}
result["allowed"] := true {
  input.request.mcp.tool.params.name == "createItem"
  input.identity.subject == "bob"
}
result["external_message"] := "only on Mondays" { input.request.mcp.tool.params.name == "mondayItem" }
result["required_scopes"] := ["item:Admin", "item:Purge"] { input.request.mcp.tool.params.name == "purgeItem" }
result["external_message"] := "purging needs more" { input.request.mcp.tool.params.name == "purgeItem" }
result["required_scopes"] := ["item:Wipe"] { input.request.mcp.tool.params.name == "wipeItem" }
result["external_message"] := "not in tools" { input.request.mcp.tool.params.name == "saysButNotInTools" }
`

const openRego = `package orchestrator
default result["allowed"] := false
result["allowed"] := true if input.request.mcp.tool.params.name == "echo"
result["allowed"] := "yes" if input.request.mcp.tool.params.name == "notBoolean"
result["allowed"] := true if {
	input.request.mcp.tool.params.name == "broken"
	to_number(input.request.mcp.tool.params.name) == 1
}
`

func compile(tb testing.TB, name, src string) *policy.Policy {
	tb.Helper()
	p, err := policy.Compile(name, name+".rego", []byte(src))
	if err != nil {
		tb.Fatal(err)
	}
	return p.Within(time.Minute)
}

func rules(tb testing.TB, patterns map[string]authz.TokenRule) authz.Rules {
	tb.Helper()
	r, err := authz.NewRules(patterns)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// world is a gate with a protected app (my_server_), an unprotected one (open_), and the fakes around it.
type world struct {
	tb        testing.TB
	cfg       authz.Config
	tokens    *tokens
	audit     *recorder
	upstreams *upstreams
	exchanger *exchanger
	items     *authz.App
	open      *authz.App
	registry  *prometheus.Registry
	log       *strings.Builder
	gate      *authz.Gate
}

// newWorld builds a gate. Each change sees the configuration before the gate is made of it.
func newWorld(tb testing.TB, change ...func(w *world)) *world {
	tb.Helper()
	ann := newAnn()
	bob := newAnn()
	bob.Subject, bob.JTI = "bob", "jti-of-bob"
	w := &world{tb: tb,
		tokens:    &tokens{known: map[string]*token.Identity{agentToken: ann, bobsToken: bob}, err: map[string]error{}, issuers: []string{"https://issuer.example"}},
		audit:     &recorder{},
		upstreams: &upstreams{lists: map[string]bool{"echo": true}, ended: map[string]bool{}},
		exchanger: &exchanger{issued: &authz.IssuedToken{Value: issuedToken, JTI: "jti-of-issued", Audience: []string{"https://items.example/"},
			Scopes: []string{"item:List"}, ExpiresIn: 5 * time.Second}},
		registry: prometheus.NewRegistry(), log: &strings.Builder{},
	}
	tools := map[string]authz.TokenRule{}
	for _, name := range []string{"listItems", "getItem", "createItem", "updateItem", "mondayItem", "purgeItem", "wipeItem"} {
		tools[name] = authz.TokenRule{Scopes: []string{"item:" + name}, Lifetime: 5 * time.Second}
	}
	w.items = &authz.App{Name: "items", Prefix: "my_server_", Route: "app-items", Policy: compile(tb, "items-authz", itemsRego),
		Exchange: &authz.ExchangeRule{Exchanger: w.exchanger, Audience: "https://items.example/", Delegation: true, Tools: rules(tb, tools)}}
	w.open = &authz.App{Name: "open", Prefix: "open_", Route: "app-open", Policy: compile(tb, "open-authz", openRego)}
	sealer, err := session.NewSealer([]byte(sessionKey))
	if err != nil {
		tb.Fatal(err)
	}
	w.cfg = authz.Config{
		Tokens: w.tokens, Sessions: sealer, Upstreams: w.upstreams, Audit: w.audit, Metrics: authz.NewMetrics(w.registry),
		Log:  slog.New(slog.NewTextHandler(w.log, nil)),
		Apps: []*authz.App{w.items, w.open},
		Paths: authz.Paths{MCP: "/mcp", SSE: "/mcp/sse", Message: "/mcp/message",
			Metadata: "/.well-known/oauth-protected-resource", Health: "/status"},
		SessionHeader: "mcp-session-id", ClientMayEnd: true, Listen: host,
		Audiences: []string{"https://gateway.example/"}, MaxRequestBytes: 1 << 16,
	}
	for _, f := range change {
		f(w)
	}
	if w.gate, err = authz.New(w.cfg); err != nil {
		tb.Fatal(err)
	}
	return w
}

// post is an authorized POST of JSON; header pairs are added or, with the value "-", removed.
func post(pairs ...string) authz.Request {
	r := authz.Request{Method: "POST", Path: "/mcp", Scheme: "http", Host: host, SourceIP: "192.0.2.7", Header: authz.Header{
		"authorization": {"Bearer " + agentToken}, "content-type": {"application/json"}, "accept": {"application/json, text/event-stream"},
	}}
	return with(r, pairs...)
}

// with returns r with header pairs set or, with the value "-", removed. A value with "|" is several fields.
func with(r authz.Request, pairs ...string) authz.Request {
	header := authz.Header{}
	for name, values := range r.Header {
		header[name] = values
	}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] == "-" {
			delete(header, pairs[i])
			continue
		}
		header[pairs[i]] = strings.Split(pairs[i+1], "|")
	}
	r.Header = header
	return r
}

const modernMeta = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}`

// modernCall is a tools/call of the stateless protocol: its headers and its body.
func modernCall(tool, arguments string) (authz.Request, string) {
	r := post("mcp-protocol-version", "2026-07-28", "mcp-method", "tools/call", "mcp-name", mcpparse.EncodeHeader(tool))
	name, _ := json.Marshal(tool)
	return r, `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":` + string(name) + `,"arguments":` + arguments + `,` + modernMeta + `}}`
}

// legacyCall is a tools/call of the stateful protocol in session.
func legacyCall(session, tool, arguments string) (authz.Request, string) {
	r := post("mcp-protocol-version", "2025-11-25", "mcp-session-id", session)
	return r, `{"jsonrpc":"2.0","id":"c-1","method":"tools/call","params":{"name":"` + tool + `","arguments":` + arguments + `}}`
}

// ownerOf is who agentToken's sessions are sealed to.
var ownerOf = session.Owner{Issuer: "https://issuer.example", Subject: "ann", ClientID: "agent-1", Route: "/mcp"}

const sessionID = "00112233445566778899aabbccddeeff"

// session returns a sealed id for owner.
func (w *world) session(owner session.Owner) string {
	w.tb.Helper()
	id, err := w.cfg.Sessions.Seal(owner, session.Session{ID: sessionID, Version: "2025-06-18", Issued: time.Unix(1, 0)})
	if err != nil {
		w.tb.Fatal(err)
	}
	return id
}

// judge sends r and, when the gate wants one, body.
func (w *world) judge(r authz.Request, body string) authz.Verdict {
	w.tb.Helper()
	call, v := w.gate.Begin(w.tb.Context(), r)
	if call == nil {
		return v
	}
	if v.Reply != nil || v.Forwards() || v.ID == "" {
		w.tb.Fatalf("Begin with a call and a verdict: %+v", v)
	}
	return call.Finish(w.tb.Context(), []byte(body))
}

// set is the value that a verdict sets for a header; "" for none.
func set(v authz.Verdict, name string) string {
	for _, h := range v.Set {
		if h[0] == name {
			return h[1]
		}
	}
	return ""
}

// ticket opens what a verdict on r and body says to the hub.
func (w *world) ticket(r authz.Request, v authz.Verdict, s session.Session, body string) authz.Ticket {
	w.tb.Helper()
	caller, reply := w.gate.Identify(w.tb.Context(), r)
	if reply != nil {
		w.tb.Fatal(reply)
	}
	t, err := w.gate.OpenTicket(set(v, authz.TicketHeader), caller, s, []byte(body))
	if err != nil {
		w.tb.Fatal(err)
	}
	return t
}

// only is the single record so far.
func (w *world) only() audit.Decision {
	w.tb.Helper()
	if len(w.audit.records) != 1 {
		w.tb.Fatalf("%d records, want exactly one", len(w.audit.records))
	}
	return w.audit.records[0]
}

// outcome puts a verdict into one line: "forward app-items", or the status, the JSON-RPC code ("result" for a tool
// result) and the text.
func outcome(v authz.Verdict) string {
	if v.Forwards() {
		return "forward " + v.Route
	}
	if v.Reply == nil {
		return "nothing"
	}
	var body struct {
		Error *struct {
			Code    int    `json:"code"`
			Message string `json:"message"`
		} `json:"error"`
		Result *struct {
			IsError bool `json:"isError"`
			Content []struct {
				Text string `json:"text"`
			} `json:"content"`
		} `json:"result"`
	}
	if err := json.Unmarshal(v.Reply.Body, &body); err != nil {
		return fmt.Sprintf("%d %v", v.Reply.Status, err)
	}
	switch {
	case body.Error != nil:
		return fmt.Sprintf("%d %d %s", v.Reply.Status, body.Error.Code, body.Error.Message)
	case body.Result != nil && body.Result.IsError && len(body.Result.Content) == 1:
		return fmt.Sprintf("%d isError %s", v.Reply.Status, body.Result.Content[0].Text)
	}
	return fmt.Sprintf("%d %s", v.Reply.Status, v.Reply.Body)
}

// header returns a reply's only field of that name.
func header(tb testing.TB, r *authz.Reply, name string) string {
	tb.Helper()
	value, n := "", 0
	for _, h := range r.Header {
		if h[0] == name {
			value, n = h[1], n+1
		}
	}
	if n > 1 {
		tb.Errorf("%d fields %s", n, name)
	}
	return value
}

func diff(tb testing.TB, what string, want, got any) {
	tb.Helper()
	if d := cmp.Diff(want, got); d != "" {
		tb.Errorf("%s (-want +got):\n%s", what, d)
	}
}
