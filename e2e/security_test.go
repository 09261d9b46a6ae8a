package e2e

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A siege: everything hostile that an agent can send, through the real Envoy, one gateway for all of it. After the
// last message the invariants are checked over the whole traffic.

const siegeRego = `package orchestrator

default result["allowed"] := false

result["allowed"] := true if input.request.mcp.tool.params.name == "ok"
result["allowed"] := true if {
	input.request.mcp.tool.params.name == "spend"
	is_number(input.request.mcp.tool.params.arguments.amount)
	input.request.mcp.tool.params.arguments.amount <= 100
}
result["external_message"] := "too much money" if {
	input.request.mcp.tool.params.name == "spend"
	input.request.mcp.tool.params.arguments.amount > 100
}
`

const sessionKey = "0123456789abcdef0123456789abcdef"

type siege struct {
	*world
	session                  string // of the one who sends
	otherToken, otherSession string // of somebody else
	asked                    int    // messages that were answered by the gateway's service
	unjudged                 int    // what has no decision: Envoy refused it before it asked the service, or it is no message
	failed                   int    // allowed calls that the upstream answered with a failure
	decisions, called        int    // so far: audit decisions; calls at the upstreams
	placeholders             *strings.Replacer
}

func newSiege(t *testing.T) *siege {
	t.Helper()
	s := &siege{world: start(t, func(w *world) {
		w.write("open.rego", siegeRego)
		w.open.behave(func(b *behaviour) { b.tools = []string{"ok", "evil", "spend"} })
	})}
	s.otherToken = s.provider.loginAs(t, s.url, otherUser)
	s.session = s.initialize()
	mine := s.token
	s.token = s.otherToken
	s.otherSession = s.initialize()
	s.token = mine
	s.asked = 2
	s.placeholders = strings.NewReplacer("@HOST", s.address, "@TOKEN", s.token, "@OTHERTOKEN", s.otherToken,
		"@OTHERSESSION", s.otherSession, "@LONG", strings.Repeat("a", 64<<10))
	return s
}

// attack is a line of testdata/security.jsonl: one message, in one or both eras, and what must become of it.
type attack struct {
	ID, Why   string
	Eras      string            // "l" legacy: in a session; "m" modern: with mirrors; "" both
	Line      string            // method and target of the request line
	Set       map[string]string // fields in place of the usual ones
	Add       []string          // header lines besides
	Drop      []string          // usual fields that are left out
	Body      string
	B64       []byte // in place of Body, where it is no text
	Bare      bool   // modern: the metadata is not added to the body
	Status    int
	Code      int    // of the JSON-RPC error; 0: a result
	ToolError string // text of a result that says isError
	Silent    bool   // the answer has no body
	Reaches   int    // calls that arrive at the upstream
	Records   *int   // audit decisions; absent: 1. Envoy's own refusals have none
}

func attacks(t *testing.T) []attack {
	t.Helper()
	f, err := os.Open("testdata/security.jsonl")
	must(t, err)
	defer func() { _ = f.Close() }()
	var out []attack
	for in := json.NewDecoder(bufio.NewReader(f)); in.More(); {
		var a attack
		must(t, in.Decode(&a))
		if a.Eras == "" {
			a.Eras = "lm"
		}
		if a.B64 == nil {
			a.B64 = []byte(a.Body)
		}
		out = append(out, a)
	}
	return out
}

// usual are the fields of an honest message.
func (s *siege) usual(era rune, body []byte) fields {
	f := fields{{"Host", s.address}, {"Authorization", "Bearer " + s.token}, {"Content-Type", "application/json"},
		{"Accept", "application/json, text/event-stream"}, {"Content-Length", strconv.Itoa(len(body))}}
	if era == 'l' {
		return append(f, fields{{"Mcp-Session-Id", s.session}, {"MCP-Protocol-Version", "2025-11-25"}}...)
	}
	return append(f, fields{{"MCP-Protocol-Version", "2026-07-28"}, {"Mcp-Method", "tools/call"}, {"Mcp-Name", "open_ok"}}...)
}

// inEra adds to a body what a modern one carries, as text, so that what is odd about it stays odd.
func (a attack) inEra(era rune) []byte {
	open := []byte(`"params":{`)
	at := bytes.Index(a.B64, open)
	if era != 'm' || a.Bare || at < 0 || bytes.Contains(a.B64, []byte("io.modelcontextprotocol/protocolVersion")) {
		return a.B64
	}
	at += len(open)
	meta := modernMeta
	if a.B64[at] != '}' {
		meta += ","
	}
	return slices.Concat(a.B64[:at], []byte(meta), a.B64[at:])
}

func (s *siege) mount(a attack, era rune) {
	body := a.inEra(era)
	f := s.usual(era, body)
	for _, name := range slices.Sorted(maps.Keys(a.Set)) {
		f = f.set(name, s.placeholders.Replace(a.Set[name]))
	}
	for _, name := range a.Drop {
		f = f.drop(name)
	}
	line := s.placeholders.Replace(a.Line)
	if line == "" {
		line = "POST /mcp"
	}
	extra := make([]string, len(a.Add))
	for i, l := range a.Add {
		extra[i] = s.placeholders.Replace(l)
	}
	method, _, _ := strings.Cut(line, " ")
	if len(body) == 0 && method != http.MethodPost {
		f = f.drop("content-length")
	}
	got := s.raw(f.lines(line, extra, body), method)[0]
	if id := string(got.RPC.ID); id != "" && id != "null" && !bytes.Contains(body, got.RPC.ID) {
		s.t.Errorf("%s: the id came back as %s", a.ID, id)
	}
	s.check(fmt.Sprintf("%s (%c) %s: %s %v %v %.150s", a.ID, era, a.Why, line, a.Set, a.Add, body), a, got)
}

// check compares an answer with what must come of the attack.
func (s *siege) check(what string, want attack, got answer) {
	s.t.Helper()
	code, toolError := 0, ""
	if got.RPC.Error != nil {
		code = got.RPC.Error.Code
	}
	if text, ok := got.isError(); ok {
		toolError = text
	}
	switch {
	case got.Status != want.Status || code != want.Code || toolError != want.ToolError:
		s.t.Errorf("%s:\n\tgot %s\n\twant %d, %d %q", what, got, want.Status, want.Code, want.ToolError)
	case want.Status >= 400 && !want.Silent && (len(got.RPC.ID) == 0 || got.Header.Get("Content-Type") != "application/json"):
		s.t.Errorf("%s: the refusal is no JSON-RPC: %s", what, got)
	case want.Status == http.StatusUnauthorized && got.Header.Get("WWW-Authenticate") == "", want.Status == http.StatusMethodNotAllowed && got.Header.Get("Allow") == "":
		s.t.Errorf("%s: the refusal does not say what would do: %v", what, got.Header)
	case got.Header.Get("Set-Cookie") != "" || want.Status == 200 && want.Reaches > 0 && got.RPC.Result == nil:
		s.t.Errorf("%s: %v %s", what, got.Header, got)
	}
	if records := s.newDecisions(); records != want.records() {
		s.t.Errorf("%s: %d audit decisions, want %d (%s)", what, records, want.records(), got)
	}
	calls := len(s.items.calls()) + len(s.open.calls())
	if calls-s.called != want.Reaches {
		s.t.Errorf("%s: %d calls reached the upstream, want %d", what, calls-s.called, want.Reaches)
	}
	s.called = calls
	if want.records() == 0 {
		s.unjudged++
	} else {
		s.asked++
	}
}

func (a attack) records() int {
	if a.Records == nil {
		return 1
	}
	return *a.Records
}

// newDecisions counts the audit decisions since it was last asked. A decision is written before its answer is sent.
func (s *siege) newDecisions() int {
	content, err := os.ReadFile(s.path("audit.jsonl"))
	must(s.t, err)
	n := bytes.Count(content, []byte(`"kind":"decision"`))
	defer func() { s.decisions = n }()
	return n - s.decisions
}

func TestSecurity(t *testing.T) {
	s := newSiege(t)
	s.newDecisions()
	for _, a := range attacks(t) {
		for _, era := range a.Eras {
			s.mount(a, era)
		}
	}
	s.lists()
	s.bounds()
	s.framing()
	s.overHTTP2()
	s.sameConnection()
	s.sameID()
	s.reflectedIDs()
	s.breakOff()
	s.exchanges()
	s.invariants()
}

func digest(arguments []byte) string {
	if arguments == nil {
		arguments = []byte("{}")
	}
	sum := sha256.Sum256(arguments)
	return hex.EncodeToString(sum[:])
}

// invariants looks at all of the traffic.
func (s *siege) invariants() {
	t := s.t
	// The process is alive and answers.
	if a := s.send(modern("open_ok", `{"last":true}`)); a.RPC.Result == nil {
		t.Errorf("after the siege: %s", a)
	}
	s.asked++
	select {
	case <-s.gateway.end:
		t.Fatal("the gateway ended")
	default:
	}
	// One decision and one completion for each message, and a decision for each that the service answered.
	pairs := s.reconcile()
	t.Logf("%d messages judged, %d refused before that", s.asked, s.unjudged)
	allowed, arrived := map[string]int{}, map[string]int{}
	for _, p := range pairs {
		d, c := p[0], p[1]
		if d["outcome"] == "allowed" && d["method"] == "tools/call" {
			allowed[fmt.Sprint(d["tool"], " ", d["arguments_sha256"], " ", d["subject"])]++
		}
		if d["source_ip"] != "127.0.0.1" {
			t.Errorf("source address %v", d["source_ip"])
		}
		switch ended := c["outcome"]; {
		case d["outcome"] == "allowed" && ended == "upstream_error":
			s.failed--
		case d["outcome"] == "error": // broken off: of any end
		case (d["outcome"] == "allowed") != (ended == "ok"):
			t.Errorf("decision %v ended as %v", d, c)
		}
	}
	if len(pairs) != s.asked || s.failed != 0 {
		t.Errorf("%d decisions for %d messages; %d failures at the upstream not recorded", len(pairs), s.asked, s.failed)
	}
	s.verifyAudit()
	// What arrived, as the upstream reads it, is what was allowed: tool, arguments byte for byte, and how often.
	for _, r := range append(s.items.calls(), s.open.calls()...) {
		subject := user
		if auth := r.Header.Get("Authorization"); auth != "" {
			subject = fmt.Sprint(claims(t, auth)["sub"])
		}
		arrived[fmt.Sprint(r.RPC.Params.Name, " ", digest(r.RPC.Params.Arguments), " ", subject)]++
		s.checkArrival(r)
	}
	if diff := cmp.Diff(allowed, arrived); diff != "" {
		t.Errorf("allowed, and what arrived (tool, digest of the arguments, user):\n%s", diff)
	}
	s.checkSecrets()
}

// arriving are the fields that a call may have at an upstream.
var arriving = []string{"Accept", "Accept-Encoding", "Accept-Language", "Content-Type", "Content-Length", "User-Agent", "Traceparent",
	"Tracestate", "X-Request-Id", "X-Forwarded-For", "X-Forwarded-Proto", "Mcp-Protocol-Version", "Mcp-Session-Id",
	"Mcp-Method", "Mcp-Name", "Mcp-Param-Foo", "Authorization"}

// traceparent is that of Trace Context, version 00.
var traceparent = regexp.MustCompile(`^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$`)

func (s *siege) checkArrival(r received) {
	s.t.Helper()
	for name, values := range r.Header {
		if !slices.Contains(arriving, name) || len(values) != 1 {
			s.t.Errorf("%s reached the upstream: %q", name, values)
		}
	}
	if n := r.Header.Get("Content-Length"); n != "" && n != strconv.Itoa(len(r.Body)) {
		s.t.Errorf("content-length %s of a body of %d", n, len(r.Body))
	}
	if id, trace := r.Header.Get("X-Request-Id"), r.Header.Get("Traceparent"); len(id) > 128 || trace != "" && !traceparent.MatchString(trace) {
		s.t.Errorf("request id %q, trace %q", id, trace)
	}
	if name := r.Header.Get("Mcp-Name"); name != "" && name != r.RPC.Params.Name {
		s.t.Errorf("Mcp-Name %q of a call of %q", name, r.RPC.Params.Name)
	}
	ours := r.Host == s.open.addr() && strings.TrimSuffix(r.Path, "?") == "/mcp" || r.Host == s.items.addr() && r.Path == "/upstream/mcp"
	if !ours || r.Method != http.MethodPost || strings.HasSuffix(r.Header.Get("X-Forwarded-For"), "6.6.6.6") {
		s.t.Errorf("arrived: %s %s at %s for %q", r.Method, r.Path, r.Host, r.Header.Get("X-Forwarded-For"))
	}
}

// checkSecrets looks for every secret in every place where it must not be.
func (s *siege) checkSecrets() {
	agents := []string{s.token, s.otherToken}
	issued := []string{}
	for _, r := range s.items.calls() {
		issued = append(issued, strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
	}
	audit, err := os.ReadFile(s.path("audit.jsonl"))
	must(s.t, err)
	var upstreams strings.Builder
	for _, r := range append(s.items.all(), s.open.all()...) {
		_, _ = fmt.Fprintln(&upstreams, r.Path, r.Header, string(r.Body))
	}
	places := map[string]string{"the log": s.gateway.output(), "the audit": string(audit), "the metrics": s.metrics()}
	for _, secret := range slices.Concat(agents, issued, []string{gatewaySecret, sessionKey}) {
		signature := secret[strings.LastIndexByte(secret, '.')+1:]
		for place, content := range places {
			if strings.Contains(content, signature) {
				s.t.Errorf("a secret is in %s", place)
			}
		}
		if !slices.Contains(issued, secret) && strings.Contains(upstreams.String(), signature) {
			s.t.Error("a secret reached an upstream")
		}
	}
}
