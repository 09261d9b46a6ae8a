package hub

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/tidwall/gjson"

	"github.com/sallyport/sallyport/mcpparse"
)

func TestReadOffers(t *testing.T) {
	for capabilities, want := range map[string]offers{
		`{}`:                                 {tools: true}, // some say nothing and have tools
		`null`:                               {tools: true},
		`[]`:                                 {tools: true},
		`{"logging":{}}`:                     {tools: true, logging: true},
		`{"tools":{}}`:                       {tools: true},
		`{"prompts":{}}`:                     {prompts: true},
		`{"resources":{}}`:                   {resources: true},
		`{"resources":{"subscribe":true}}`:   {resources: true, subscribe: true},
		`{"resources":{"subscribe":"true"}}`: {resources: true},
		`{"completions":{},"prompts":{"listChanged":true}}`:                {prompts: true, completions: true, changes: true},
		`{"tools":{"listChanged":false},"resources":{"listChanged":true}}`: {tools: true, resources: true, changes: true},
		`{"tools":{"listChanged":true},"tasks":{},"experimental":{}}`:      {tools: true, changes: true},
	} {
		if diff := cmp.Diff(want, readOffers([]byte(`{"capabilities":`+capabilities+`}`)), cmp.AllowUnexported(offers{})); diff != "" {
			t.Errorf("%s: %s", capabilities, diff)
		}
	}
}

// What agents are told there is, by their era and by what upstreams of which era offer.
func TestCapabilitiesByEra(t *testing.T) {
	const all = `{"tools":{"listChanged":true},"prompts":{},"resources":{"subscribe":true},"completions":{},"logging":{},"tasks":{}}`
	modern := func(capabilities string) *script { return lister(capabilities, nil) }
	legacy := func(capabilities string) *script { return liveLegacy("up", capabilities).script }
	for _, test := range []struct {
		name            string
		via             map[string]http.Handler
		legacy, modern  string
		served, refused []string // methods, by "era method"
	}{
		{"nothing known", map[string]http.Handler{"dead": http.NotFoundHandler()}, `{"tools":{"listChanged":true}}`, `{"tools":{"listChanged":true}}`,
			[]string{"legacy tools/list", "modern tools/call", "legacy ping", "modern server/discover"},
			[]string{"legacy prompts/list", "modern resources/read", "legacy completion/complete", "legacy logging/setLevel", "legacy resources/subscribe"}},
		{"a modern one", map[string]http.Handler{"up": modern(all)},
			`{"tools":{"listChanged":true},"prompts":{"listChanged":true},"resources":{"listChanged":true,"subscribe":true},"completions":{}}`,
			`{"tools":{"listChanged":true},"prompts":{"listChanged":true},"resources":{"listChanged":true,"subscribe":true},"completions":{},"logging":{}}`,
			[]string{"legacy prompts/get", "modern prompts/get", "legacy resources/subscribe", "legacy completion/complete", "modern completion/complete"},
			[]string{"legacy logging/setLevel"}}, // levels are a session's, and it has none
		{"a legacy one", map[string]http.Handler{"up": legacy(all)},
			`{"tools":{"listChanged":true},"prompts":{"listChanged":true},"resources":{"listChanged":true,"subscribe":true},"completions":{},"logging":{}}`,
			`{"tools":{"listChanged":true},"prompts":{"listChanged":true},"resources":{"listChanged":true},"completions":{}}`,
			[]string{"legacy logging/setLevel", "legacy resources/unsubscribe", "modern resources/templates/list"},
			nil},
		{"one of each", map[string]http.Handler{"a": legacy(`{"tools":{},"logging":{}}`), "b": modern(`{"prompts":{}}`), "dead": http.NotFoundHandler()},
			`{"tools":{"listChanged":true},"prompts":{"listChanged":true},"logging":{}}`,
			`{"tools":{"listChanged":true},"prompts":{"listChanged":true}}`,
			[]string{"legacy prompts/get", "modern prompts/list"},
			[]string{"legacy resources/list", "modern completion/complete"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			gate, via := &testGate{}, egress{}
			for name, handler := range test.via {
				gate.apps, via["app/"+name] = append(gate.apps, app(name)), handler
			}
			h := newHub(t, gate, via)
			ready(t, h)
			for _, a := range gate.apps { // whether a modern one takes initialize too is known once it was tried
				_, _ = h.Leg(t.Context(), a, peer("o", mcpparse.EraLegacy))
			}
			rec := ask(h, "alice", "POST", initializeBody("2025-11-25"))
			if diff := cmp.Diff(test.legacy, gjson.Get(rec.Body.String(), "result.capabilities").Raw); diff != "" {
				t.Errorf("initialize: %s", diff)
			}
			rec = askModern(h, "alice", "server/discover", "")
			if diff := cmp.Diff(test.modern, gjson.Get(rec.Body.String(), "result.capabilities").Raw); diff != "" {
				t.Errorf("discover: %s", diff)
			}
			for _, methods := range []struct {
				all  []string
				want bool
			}{{test.served, true}, {test.refused, false}} {
				for _, m := range methods.all {
					era, method, _ := strings.Cut(m, " ")
					if got := h.Serves(method, map[string]mcpparse.Era{"legacy": mcpparse.EraLegacy, "modern": mcpparse.EraModern}[era], nil); got != methods.want {
						t.Errorf("%s: %v", m, got)
					}
				}
			}
		})
	}
}

// Without sessions there are no streams to tell of changes on.
func TestCapabilitiesWithoutSessions(t *testing.T) {
	up := lister(`{"tools":{"listChanged":true},"resources":{"subscribe":true}}`, nil)
	h := newHub(t, apps("up"), egress{"app/up": up}, func(c *Config) { c.SessionHeader = "" })
	ready(t, h)
	rec := ask(h, "alice", "POST", initializeBody("2025-11-25"))
	if got := gjson.Get(rec.Body.String(), "result.capabilities").Raw; got != `{"tools":{},"resources":{}}` {
		t.Errorf("%s", got)
	}
}

// What an upstream once offered stays offered while it is away.
func TestOffersOutliveAnOutage(t *testing.T) {
	up := &switchable{}
	up.set(lister(everyList, nil))
	h := newHub(t, apps("up"), egress{"app/up": up})
	ready(t, h)
	up.set(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }))
	h.upstream(app("up")).doubt()
	if _, err := h.Leg(t.Context(), app("up"), peer("o", mcpparse.EraModern)); err == nil {
		t.Fatal("it is still there")
	}
	if !h.Serves("prompts/list", mcpparse.EraLegacy, nil) {
		t.Error("prompts are no longer offered")
	}
}

// An upstream learns of a client what that client said, and that its name is the client's own.
func TestWhatUpstreamsLearnOfTheClient(t *testing.T) {
	for capabilities, want := range map[string]string{
		`{}`: `{}`,
		`{"sampling":{},"experimental":{"x":{}},"tasks":{}}`: `{"sampling":{}}`,
		ableBody: `{"roots":{"listChanged":true},"elicitation":{"url":{},"form":{}},"sampling":{}}`,
	} {
		up := liveLegacy("up", `{"tools":{}}`)
		h := newHub(t, apps("up"), egress{"app/up": up})
		ready(t, h)
		a := enter(t, h, "alice", capabilities)
		p := peer(a.id(), mcpparse.EraLegacy)
		p.Session = a.opened()
		if _, err := h.Leg(t.Context(), app("up"), p); err != nil {
			t.Fatal(err)
		}
		body := up.last("initialize").body
		if got := gjson.Get(body, "params.capabilities").Raw; got != want {
			t.Errorf("%s became %s", capabilities, got)
		}
		if got := gjson.Get(body, "params.clientInfo").Raw; got != `{"name":"inspector","version":"9"}` {
			t.Errorf("client %s", got)
		}
	}
}
