package e2e

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/golang-jwt/jwt/v5"
)

// Upstreams that lie, through the real Envoy: whatever a server may send in place of an honest answer has a defined end
// for the agent that called it, its two records, and no effect on anybody else.

// ways are how an agent's call reaches a server: in one era straight from Envoy, across the eras and over the 2024-11-05
// transport by way of the hub.
var ways = map[string]struct {
	app    string // its server: see liar
	modern bool   // the agent's era
}{
	"modern":     {"both", true},
	"legacy":     {"both", false},
	"up":         {"modern", false},
	"down":       {"legacy", true},
	"sse":        {"sse", false},
	"modern sse": {"sse", true},
}

// lie is what a server sends in answer to one call. In its texts @ID stands for the id of the call.
type lie struct {
	name   string
	status int      // 0: 200
	header []string // "Name: value" lines besides the content type, or in place of it
	json   string   // the body …
	events string   // … or a stream
	tell   func(t turn)
	slow   bool   // of the tool that has two seconds
	client string // what a legacy client can do for servers; "": nothing
	want   outcomes
}

// outcomes are what becomes of a lie, by way; a way that is not named is not tried. What an agent gets is written as
// status and body, or as one of the words below. The outcome of its completion may follow, after a tab.
type outcomes map[string]string

const (
	same    = "same"    // what the server sent, byte for byte
	begun   = "begun"   // the beginning of that, until the connection was cut
	refused = "refused" // 502, in the gateway's own words
	cut     = "(cut)"   // behind what came of an answer that breaks off
)

// broke, behind an outcome, is how its completion says that the server failed.
const broke = "\tupstream_error"

// everywhere is one outcome straight from Envoy, in either era, and one by way of the hub.
func everywhere(direct, carried string) outcomes {
	return outcomes{"modern": direct, "legacy": direct, "up": carried, "down": carried}
}

// but is o with other outcomes on some ways.
func (o outcomes) but(pairs ...string) outcomes {
	out := maps.Clone(o)
	for i := 0; i < len(pairs); i += 2 {
		out[pairs[i]] = pairs[i+1]
	}
	return out
}

var fourWays = []string{"modern", "legacy", "up", "down"}

// on is o on these ways only.
func (o outcomes) on(these ...string) outcomes {
	out := outcomes{}
	for _, way := range these {
		out[way] = o[way]
	}
	return out
}

// evil is in all that lies say.
const evil = "evil"

// fine is an honest response, and note an honest notification.
const (
	fine = `{"jsonrpc":"2.0","id":@ID,"result":{"content":[{"type":"text","text":"evil"}]}}`
	note = `{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"evil"}}`
)

// failure is an honest error.
const failure = `{"jsonrpc":"2.0","id":@ID,"error":{"code":-32000,"message":"evil"}}`

// broken is the event that ends a stream from which no answer can come any more.
const (
	noAnswer = `{"jsonrpc":"2.0","id":@ID,"error":{"code":-32603,"message":"the upstream gave no usable answer"}}`
	broken   = "200 data: " + noAnswer + "\n\n"
	tooLong  = `{"jsonrpc":"2.0","id":@ID,"error":{"code":-32603,"message":"the call took longer than it may"}}`
	late     = "200 " + tooLong
)

// event is a stream of one message.
func event(message string) string { return "data: " + message + "\n\n" }

// lair is a gateway before a liar of each kind, and the two honest servers of every world.
type lair struct {
	*world
	liars map[string]*liar
	other string // another agent's token
}

const lairApp = `  - name: @NAME
    type: mcpProxy
    timeout: 20s
    toolTimeouts:
      - name: slow
        timeout: 2s
    toolNamespace:
      name: @NAME_
    upstream:
      transport: @TRANSPORT
      @TRANSPORT:
        url: @URL
    authorization:
      inbound:
        opa:
          name: @NAME-authz
          rego: |
            package orchestrator

            result["allowed"] := true
      outbound:
        type: unprotected
`

// appConfig is one more app, of which everything is allowed.
func appConfig(name, transport, url string) string {
	return strings.NewReplacer("@NAME", name, "@TRANSPORT", transport, "@URL", url).Replace(lairApp)
}

// startLair starts a gateway before a liar of each kind, who tells these lies when asked to.
func startLair(t *testing.T, all ...lie) *lair {
	t.Helper()
	lies := map[string]lie{}
	for _, l := range all {
		if _, twice := lies[l.name]; twice {
			t.Fatalf("two lies are called %q", l.name)
		}
		lies[l.name] = l
	}
	liars := map[string]*liar{}
	h := startAmong(t, func() (config string) {
		for speaks, transport := range map[string]string{"both": "stream", "modern": "stream", "legacy": "stream", "sse": "sse"} {
			liars[speaks] = newLiar(t, speaks, lies)
			config += appConfig(speaks, transport, liars[speaks].URL+"/mcp")
		}
		return config
	})
	h.liars = liars
	return h
}

// startAmong starts a gateway with more apps than every world has.
func startAmong(t *testing.T, more func() (config string)) *lair {
	t.Helper()
	h := &lair{world: start(t, func(w *world) { w.write("sallyport.yaml", w.config()+more()) })}
	h.other = h.provider.loginAs(t, h.url, otherUser)
	return h
}

// somebody is an agent that nobody else is.
func (h *lair) somebody(name string) string {
	return h.provider.forge(h.t, func(_ map[string]any, c jwt.MapClaims) { c["aud"], c["sub"] = h.url, name })
}

// ask makes the call that is to be answered with l. Its arguments tell its records from all others.
func (h *lair) ask(l lie, way string) (request, string) {
	h.t.Helper()
	to, tool := ways[way], "call"
	if l.slow || strings.Contains(l.want[way], tooLong) {
		tool = "slow"
	}
	arguments := l.arguments(way)
	r, id := modern(to.app+"_"+tool, arguments), `7`
	token := h.somebody(l.name + " " + way)
	if !to.modern {
		r, id = legacyCall(h.open(token, orElse(l.client, `{}`)), to.app+"_"+tool, arguments), `"c-1"`
	}
	r.token = token
	return r, id
}

// open opens a session for a client with these capabilities.
func (h *lair) open(token, capabilities string) string {
	h.t.Helper()
	a := h.send(request{token: token, body: `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":` +
		capabilities + `,"clientInfo":{"name":"e2e","version":"1"}}}`})
	if a.Status != http.StatusOK {
		h.t.Fatalf("initialize: %s", a)
	}
	return a.Header.Get("Mcp-Session-Id")
}

// everything is what a client can do for servers that can do all of it.
const everything = `{"sampling":{},"roots":{},"elicitation":{"form":{},"url":{}}}`

var sealed = regexp.MustCompile(`[A-Za-z0-9_-]{60,}`)

// told writes down what an agent got, with SEALED for whatever the gateway sealed.
func told(a answer, err error) string {
	out := fmt.Sprintf("%d %s", a.Status, sealed.ReplaceAllString(string(a.Body), "SEALED"))
	if err != nil {
		out += cut
	}
	return out
}

// tellAll has every lie told on every way that it names, several at a time. With each, another agent calls the same server
// for an honest answer. Then it looks at what is left of the gateway, and at the records.
func (h *lair) tellAll(all []lie) {
	h.t.Helper()
	session := h.open(h.other, everything)
	heard := h.listen(h.other, session)
	var group sync.WaitGroup
	turns := make(chan struct{}, 16)
	for _, l := range all {
		for way, want := range l.want {
			r, id := h.ask(l, way)
			turns <- struct{}{}
			group.Go(func() {
				defer func() { <-turns }()
				a, err := h.try(r)
				h.check(l, way, id, want, a, err)
			})
			group.Go(func() { h.neighbour(session, way, l.name) })
		}
	}
	group.Wait()
	if got := heard.stop(); strings.Trim(got, ":\n") != "" {
		h.t.Errorf("a neighbour heard %q", got)
	}
	h.wellAfterwards()
	h.account(all)
}

// neighbour calls as another agent, and gets its own answer and nothing else.
func (h *lair) neighbour(session, way, name string) {
	h.t.Helper()
	to, arguments := ways[way], fmt.Sprintf(`{"mine":%q}`, name)
	r := modern(to.app+"_call", arguments)
	if !to.modern {
		r = legacyCall(session, to.app+"_call", arguments)
		r.body = strings.Replace(r.body, `"c-1"`, strconv.Quote(name), 1) // several of them are under way
	}
	r.token = h.other
	a, err := h.try(r)
	if err != nil || a.Status != http.StatusOK || !strings.Contains(string(a.Body), `"for `+name+`"`) || strings.Contains(string(a.Body), evil) {
		h.t.Errorf("a neighbour of %s, %s: %s, %v", name, way, a, err)
	}
}

// check compares what an agent got with what it should have.
func (h *lair) check(l lie, way, id, want string, a answer, err error) {
	h.t.Helper()
	want, _, _ = strings.Cut(want, "\t")
	got := told(a, err)
	switch want {
	case refused:
		if a.Status == http.StatusBadGateway && a.RPC.Error != nil && a.RPC.Error.Code == -32603 && string(a.RPC.ID) == id && err == nil &&
			a.Header.Get("Content-Type") == "application/json" && !strings.Contains(fmt.Sprint(a.Header)+string(a.Body), evil) {
			return
		}
	case begun:
		sent := strings.ReplaceAll(l.json+l.events, "@ID", id)
		if a.Status == http.StatusOK && err != nil && strings.HasPrefix(sent, string(a.Body)) && len(a.Body) < len(sent) {
			return
		}
	case same:
		want = fmt.Sprintf("%d %s", max(l.status, http.StatusOK), l.json+l.events)
		fallthrough
	default:
		if way == "legacy" && mayBeCut(want) {
			got = strings.TrimSuffix(got, cut)
		}
		if want = strings.ReplaceAll(want, "@ID", id); got == want {
			return
		}
	}
	h.t.Errorf("%s, %s:\n\tgot  %.600q\n\twant %.600q", l.name, way, got, want)
}

// arguments tell a call, and its records, from all others.
func (l lie) arguments(way string) string { return fmt.Sprintf(`{"lie":%q,"way":%q}`, l.name, way) }

// account checks the records of all calls: one allowed decision each, and a completion that says how it ended.
func (h *lair) account(all []lie) {
	h.t.Helper()
	ended := map[any][]string{}
	for _, p := range h.reconcile() {
		d, c := p[0], p[1]
		if d["subject"] == otherUser && d["method"] == "tools/call" && (d["outcome"] != "allowed" || c["outcome"] != "ok") {
			h.t.Errorf("a neighbour's call is recorded as %v, %v", d, c)
		}
		if d["method"] == "tools/call" {
			ended[d["arguments_sha256"]] = append(ended[d["arguments_sha256"]], fmt.Sprint(d["outcome"], " ", c["outcome"]))
		}
	}
	for _, l := range all {
		for way, want := range l.want {
			got := strings.Join(ended[digest([]byte(l.arguments(way)))], ", ")
			if way == "legacy" && mayBeCut(want) && got == "allowed gateway_error" {
				continue
			}
			if want = "allowed " + completion(want); got != want {
				h.t.Errorf("%s, %s: recorded as %s, want %s", l.name, way, got, want)
			}
		}
	}
}

// mayBeCut reports whether an answer ends with the event that says that there is none. If there is more of a stream behind
// what broke it, and not in the same chunk, it is cut off after that.
func mayBeCut(want string) bool { return strings.HasSuffix(want, event(noAnswer)) }

// completion is how a call has ended according to the audit.
func completion(want string) string {
	got, outcome, said := strings.Cut(want, "\t")
	switch {
	case said:
		return outcome
	case got == refused:
		return "upstream_error"
	default:
		return "ok"
	}
}

// transcript is what has come of a stream so far.
type transcript struct {
	mu   sync.Mutex
	text strings.Builder
	end  chan struct{}
	stop func() string // stops listening, and returns what was heard
}

func (s *transcript) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

func (s *transcript) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(b)
}

// listen opens the event stream of a session.
func (h *lair) listen(token, session string) *transcript {
	h.t.Helper()
	return h.hear(request{method: http.MethodGet, token: token, header: map[string]string{"Mcp-Session-Id": session}})
}

// hear sends r and writes down what comes, until the test ends.
func (h *lair) hear(r request) *transcript {
	h.t.Helper()
	method := r.method
	if method == "" {
		method = http.MethodPost
	}
	ctx, cancel := context.WithCancel(h.t.Context())
	req, err := http.NewRequestWithContext(ctx, method, "http://"+h.address+orElse(r.path, "/mcp"), strings.NewReader(r.body))
	must(h.t, err)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	req.Header.Set("Authorization", "Bearer "+r.token)
	for name, value := range r.header {
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	must(h.t, err)
	if resp.StatusCode != http.StatusOK {
		h.t.Fatalf("%s: %s", method, resp.Status)
	}
	s := &transcript{end: make(chan struct{})}
	s.stop = func() string {
		cancel()
		<-s.end
		return s.String()
	}
	go func() {
		defer close(s.end)
		defer func() { _ = resp.Body.Close() }()
		_, _ = io.Copy(s, resp.Body)
	}()
	return s
}

// wellAfterwards: the gateway is alive, serves everybody as before, and repeats nothing of what it was told.
func (h *lair) wellAfterwards() {
	h.t.Helper()
	select {
	case <-h.gateway.end:
		h.t.Fatal("the gateway ended")
	default:
	}
	session := h.initialize()
	tools := []string{"open_echo", "my_server_listItems"}
	for speaks := range h.liars {
		tools = append(tools, speaks+"_call")
	}
	for _, tool := range tools {
		for era, r := range map[string]request{"modern": modern(tool, `{"mine":"me"}`), "legacy": legacyCall(session, tool, `{"mine":"me"}`)} {
			if a := h.send(r); a.Status != http.StatusOK || a.RPC.Result == nil {
				h.t.Errorf("afterwards, %s, %s: %s", era, tool, a)
			}
		}
	}
	h.reconcile()
	h.verifyAudit()
	for place, text := range map[string]string{"the log": h.gateway.output(), "the audit": contents(h.t, h.path("audit.jsonl")), "the metrics": h.metrics()} {
		if strings.Contains(text, evil) {
			h.t.Errorf("what an upstream said is in %s", place)
		}
	}
}
