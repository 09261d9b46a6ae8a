package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// world is what all legs share: upstreams, an authorization server, an agent.
type world struct {
	dir       string
	secret    string
	sallyport string // the binary
	envoy     string
	issuer    *issuer
	ups       []*upstream
	tokens    []string
	sequence  atomic.Int64
	pardoned  int64 // calls in which another gateway passed the agent's token on
}

const upstreams = 10

func newWorld(ctx context.Context, sallyport, envoy string, upstreams, tools, tokens int) (*world, error) {
	dir, err := os.MkdirTemp("", "bench") // short, since the paths of sockets are bounded
	if err != nil {
		return nil, err
	}
	w := &world{dir: dir, secret: rand.Text(), sallyport: sallyport, envoy: envoy}
	if w.issuer, err = newIssuer(ctx, w.secret); err != nil {
		return nil, err
	}
	for i := range tokens {
		w.tokens = append(w.tokens, w.issuer.login("agent-"+strconv.Itoa(i)))
	}
	for range upstreams {
		names := []string{"getItem", "hold", "hidden"}
		for i := range tools - 1 {
			names = append(names, "tool"+strconv.Itoa(i))
		}
		u, err := newUpstream(ctx, w.issuer, names...)
		if err != nil {
			return nil, err
		}
		w.ups = append(w.ups, u)
	}
	return w, os.WriteFile(w.path("secrets.yaml"), []byte("secrets:\n  bench.secret: "+w.secret+"\n  bench.session: "+rand.Text()+rand.Text()+"\n"), 0o600)
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

func (w *world) load(address, era, tool string) load {
	return load{address: address, host: address, path: "/mcp", era: era, tool: tool, pad: 180, sequence: &w.sequence}
}

// leg is one way from the agent to the MCP server.
type leg struct {
	Name, Text string
	load       load
	envoy, svc int   // processes; 0 for none
	below      []int // what svc has started, if that counts as svc
	mints      bool
	exchanges  bool
	agents     map[int]agents
	ready      time.Duration
	admin      string
	log        *bytes.Buffer // of the service
	stop       []func()
}

func (l *leg) close() {
	for _, a := range l.agents {
		a.close()
	}
	for _, f := range l.stop {
		f()
	}
}

// feature is what a gateway of ours does to each call.
type feature struct {
	open     bool // no token is asked for
	policy   string
	name     string // namespace
	file     bool   // audit to a file
	out      string // mint, exchange, or nothing
	filter   string
	apps     int
	upstream string // era, when not found out
}

const anything = "package orchestrator\n\nresult[\"allowed\"] := true\n"

const careful = `package orchestrator

default result["allowed"] := false

result["allowed"] := true if {
	input.request.mcp.tool.params.name != "hidden"
	input.identity.client_id == "bench-agent"
	input.request.mcp.tool.params.arguments.n >= 0
	startswith(input.request.mcp.tool.params.arguments.note, "x")
}

result["external_message"] := "too long" if {
	input.request.mcp.tool.params.name != "hidden"
	count(input.request.mcp.tool.params.arguments.note) > 1000000
}
`

// config writes the gateway's file.
func (f feature) config(w *world, address, admin, keys string) string {
	var b strings.Builder
	p := func(format string, a ...any) { fmt.Fprintf(&b, format+"\n", a...) }
	p("http:\n  address: %s\nadmin:\n  address: %s\nsession:\n  key: <bench.session>", address, admin)
	if f.file {
		p("audit:\n  file: %s.jsonl", keys)
	}
	if f.filter != "" {
		p("service:\n  filter: %s", f.filter)
	}
	switch f.out {
	case "exchange":
		p("connectors:\n  - name: idp\n    type: oidc\n    oidcWellKnownURL: %s/.well-known/openid-configuration\n    oauthClientID: %s\n    oauthClientSecret: <bench.secret>", w.issuer.url, clientID)
	case "mint":
		p("connectors:\n  - name: idp\n    type: sts\n    oauthClientID: %s\n    keyDir: %s\n    issuer: http://%s/tokens", clientID, keys, address)
	}
	p("mcpProvider:\n  transports:\n    stream:\n      path: /mcp\n      session:\n        enabled: true\n        timeout: 1h\n  authorization:\n    oauth:")
	if f.open {
		p("      enabled: false")
	} else {
		p("      servers:\n        - wellKnownEndpoint: %s/.well-known/oauth-authorization-server\n          tokenValidation:\n            method: jwt\n            expectedAudiences: [%s]", w.issuer.url, audience)
	}
	p("apps:")
	for i := range max(f.apps, 2) { // two, so that there is something to route
		p("  - name: app%d\n    type: mcpProxy\n    toolNamespace:\n      name: %q", i, fmt.Sprintf("%s%d_", f.name, i))
		p("    upstream:\n      era: %s\n      stream:\n        url: http://%s/mcp", f.upstream, w.ups[i%len(w.ups)].address)
		p("    authorization:\n      inbound:\n        opa:\n          rego: |\n            %s\n      outbound:", strings.ReplaceAll(strings.TrimSpace(f.policy), "\n", "\n            "))
		if f.out == "" {
			p("        type: unprotected")
			continue
		}
		p("        type: tokenExchange\n        tokenExchange:\n          idp: idp\n          audience: %s\n          unlistedTools: allow\n          tools:\n            - name: \"*\"\n              ttl: 5s\n              scopes: [%s]", target, itemScope)
	}
	return b.String()
}

// gateway starts a `sallyport run` with the settings that it comes with.
func (w *world) gateway(ctx context.Context, name, text, era string, f feature) (*leg, error) {
	if f.policy == "" {
		f.policy = anything
	}
	if f.name == "" {
		f.name = "app"
	}
	if f.upstream == "" {
		f.upstream = "auto"
	}
	address, admin := freeAddress(ctx), freeAddress(ctx)
	base := fmt.Sprintf("g%d", w.sequence.Add(1))
	file := w.path(base + ".yaml")
	run := w.path(base)
	if err := os.Mkdir(run, 0o700); err != nil {
		return nil, err
	}
	if err := os.WriteFile(file, []byte(f.config(w, address, admin, base+"-keys")), 0o600); err != nil {
		return nil, err
	}
	lines := make(chan string, 16)
	begun := time.Now()
	p, err := spawn(ctx, []string{"SALLYPORT_SECRET_PROVIDER=secretfile://" + w.path("secrets.yaml"), "XDG_RUNTIME_DIR=" + run}, lines,
		w.sallyport, "run", "-config", file, "-envoy", w.envoy)
	if err != nil {
		return nil, err
	}
	l := &leg{Name: name, Text: text, svc: p.pid(), log: p.log, admin: admin, agents: map[int]agents{}, stop: []func(){p.stop},
		mints: f.out != "", exchanges: f.out == "exchange", load: w.load(address, era, f.name+"0_getItem")}
	if !f.open {
		l.load.tokens = w.tokens
	}
	select {
	case <-lines:
	case <-p.done:
		return nil, fmt.Errorf("%s: sallyport ended: %s", name, p.log)
	case <-time.After(60 * time.Second):
		p.stop()
		return nil, fmt.Errorf("%s: sallyport did not become ready: %s", name, p.log)
	}
	l.ready = time.Since(begun)
	if l.envoy, err = p.child(); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

// as is the same gateway, called in another way.
func (l *leg) as(name, text, era string) *leg {
	other := *l
	other.Name, other.Text, other.agents, other.stop = name, text, map[int]agents{}, nil
	other.load.era = era
	return &other
}

// direct goes to the MCP server itself.
func (w *world) direct() *leg {
	return &leg{Name: "direct", Text: "no gateway", agents: map[int]agents{}, load: w.load(w.ups[0].address, modernEra, "getItem")}
}

// bare starts an Envoy that routes, with an empty processor of so many messages before it: 0, 2 or 3.
func (w *world) bare(ctx context.Context, name, text, era string, messages int) (*leg, error) {
	address := freeAddress(ctx)
	base := w.path(fmt.Sprintf("e%d", w.sequence.Add(1)))
	l := &leg{Name: name, Text: text, agents: map[int]agents{}, load: w.load(address, era, "getItem")}
	if messages > 0 {
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		p, err := spawn(ctx, []string{"BENCH_EMPTY=" + base + ".sock", "BENCH_MESSAGES=" + strconv.Itoa(messages)}, nil, self)
		if err != nil {
			return nil, err
		}
		l.svc, l.stop = p.pid(), append(l.stop, p.stop)
	}
	_, port, _ := strings.Cut(address, ":")
	if err := os.WriteFile(base+".yaml", []byte(bootstrap(port, base, w.ups, messages)), 0o600); err != nil {
		return nil, err
	}
	p, err := spawn(ctx, nil, nil, w.envoy, "-c", base+".yaml", "--concurrency", strconv.Itoa(workers()), "--disable-hot-restart", "--log-level", "warning")
	if err != nil {
		return nil, err
	}
	l.envoy, l.stop = p.pid(), append(l.stop, p.stop)
	return l, await(ctx, "Envoy for "+name+": "+p.log.String(), func() bool { return w.once(ctx, l.load) == nil })
}
