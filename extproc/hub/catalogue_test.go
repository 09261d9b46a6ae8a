package hub

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/tidwall/gjson"

	"github.com/sallyport/sallyport/mcpparse"
)

const everyList = `{"tools":{},"prompts":{},"resources":{}}`

// lister is a modern upstream with these capabilities and lists.
func lister(capabilities string, lists map[string]string) *script {
	s := modernScript("")
	s.results = map[string]string{"server/discover": strings.Replace(modernDiscover, `{"tools":{}}`, capabilities, 1),
		"tools/list": `{"tools":[]}`, "prompts/list": `{"prompts":[]}`, "resources/list": `{"resources":[]}`, "resources/templates/list": `{"resourceTemplates":[]}`}
	for method, result := range lists {
		s.results[method] = result
	}
	return s
}

// ready waits until all lists have been read once: what nobody is known to offer is not served.
func ready(t *testing.T, h *Hub) {
	t.Helper()
	for begun := time.Now(); !h.Ready(); time.Sleep(time.Millisecond) {
		if time.Since(begun) > patience {
			t.Fatal("not ready")
		}
	}
}

// listed are the items of a list as who sees them.
func listed(t *testing.T, h *Hub, who string, k kind) []string {
	t.Helper()
	ready(t, h)
	rec := askModern(h, who, lists[k].method, "")
	if rec.Code != 200 {
		t.Fatalf("%s: %d %s", lists[k].method, rec.Code, rec.Body)
	}
	out := []string{}
	for _, item := range gjson.Get(rec.Body.String(), "result."+lists[k].member).Array() {
		out = append(out, item.Raw)
	}
	return out
}

// Each list is merged; names of tools and prompts get their prefix, URIs stay.
func TestAllLists(t *testing.T) {
	h := newHub(t, apps("a", "b"), egress{
		"app/a": lister(everyList, map[string]string{
			"tools/list":               `{"tools":[{"name":"t","inputSchema":{}}]}`,
			"prompts/list":             `{"prompts":[{"title":"T", "name":"p p"}]}`,
			"resources/list":           `{"resources":[{"name":"n","uri":"a:1"},{"uri":"a:2","name":"n"}]}`,
			"resources/templates/list": `{"resourceTemplates":[{"name":"n","uriTemplate":"a:{x}"}]}`}),
		"app/b": lister(everyList, map[string]string{
			"prompts/list":   `{"prompts":[{"name":"p"}]}`,
			"resources/list": `{"resources":[{"uri":"b:1"}]}`}),
	})
	for k, want := range map[kind][]string{
		tools:     {`{"name":"a_t","inputSchema":{}}`},
		prompts:   {`{"title":"T", "name":"a_p p"}`, `{"name":"b_p"}`},
		resources: {`{"name":"n","uri":"a:1"}`, `{"uri":"a:2","name":"n"}`, `{"uri":"b:1"}`},
		templates: {`{"name":"n","uriTemplate":"a:{x}"}`},
	} {
		if diff := cmp.Diff(want, listed(t, h, "alice", k)); diff != "" {
			t.Errorf("%s: %s", lists[k].method, diff)
		}
	}
	s := begin(t, h, "alice")
	rec := ask(h, "alice", "POST", `{"jsonrpc":"2.0","id":3,"method":"prompts/list"}`, "Mcp-Session-Id", s)
	if want := `{"jsonrpc":"2.0","id":3,"result":{"prompts":[{"title":"T", "name":"a_p p"},{"name":"b_p"}]}}`; rec.Body.String() != want {
		t.Errorf("legacy: %s", rec.Body)
	}
	for _, test := range []struct {
		kind mcpparse.Target
		app  string
		name string
		want bool
	}{{mcpparse.Prompt, "a", "p p", true}, {mcpparse.Prompt, "a", "t", false}, {mcpparse.Tool, "a", "t", true}, {mcpparse.Tool, "a", "p p", false}, {mcpparse.Prompt, "b", "p", true}} {
		if got := h.Lists(app(test.app), test.kind, test.name); got != test.want {
			t.Errorf("%s lists %s: %v", test.app, test.name, got)
		}
	}
}

// Only what an upstream offers is asked for, and a list that it offers but refuses costs it no other list.
func TestWhatIsNotOffered(t *testing.T) {
	refuses := lister(everyList, map[string]string{"tools/list": toolList("t"), "prompts/list": "", "resources/templates/list": ""})
	some := lister(`{"tools":{},"prompts":{}}`, map[string]string{"tools/list": toolList("t"), "resources/list": `{"resources":[{"uri":"x:1"}]}`})
	silent := lister(`{}`, map[string]string{"tools/list": toolList("t"), "prompts/list": `{"prompts":[{"name":"p"}]}`})
	h := newHub(t, apps("refuses", "some", "silent"), egress{"app/refuses": refuses, "app/some": some, "app/silent": silent})
	l := listTools(t, h, "alice")
	if diff := cmp.Diff([]string{"refuses_t", "some_t", "silent_t"}, l.names(t)); diff != "" || l.unavailable(t) != nil {
		t.Error(l.unavailable(t), diff)
	}
	for k := range kinds {
		if k != tools && len(listed(t, h, "alice", k)) > 0 {
			t.Errorf("%s: %v", lists[k].method, listed(t, h, "alice", k))
		}
	}
	for name, asked := range map[*script][]string{some: {"tools/list", "prompts/list"}, silent: {"tools/list"}} {
		for k := range kinds {
			if got := name.count(lists[k].method); got != map[bool]int{true: 1}[slices.Contains(asked, lists[k].method)] {
				t.Errorf("%s was asked for %d times", lists[k].method, got)
			}
		}
	}
}

// An upstream that fails at one list fails: half of what it has would look like the whole.
func TestOneBadListIsAll(t *testing.T) {
	for name, result := range map[string]string{
		"no list":                   `{}`,
		"of another kind":           `{"prompts":[{"uri":"a:1"}]}`,
		"too many":                  `{"prompts":[` + strings.TrimSuffix(strings.Repeat(`{"name":"p"},`, maxItems), ",") + `]}`,
		"a page that is the answer": `{"prompts":[],"nextCursor":"same"}`,
	} {
		t.Run(name, func(t *testing.T) {
			up := lister(everyList, map[string]string{"tools/list": toolList("t"), "prompts/list": result})
			h := newHub(t, apps("up", "good"), egress{"app/up": up, "app/good": modernScript(toolList("t"))})
			want := []string{"good_t"}
			var down []string
			if name == "too many" { // of one name, all but one of which are dropped
				want = []string{"up_t", "good_t"}
			} else {
				down = []string{"up"}
			}
			l := listTools(t, h, "alice")
			if diff := cmp.Diff(want, l.names(t)); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(down, l.unavailable(t)); diff != "" {
				t.Error(diff)
			}
			if n := up.count("prompts/list"); n > maxPages {
				t.Errorf("asked for %d pages", n)
			}
		})
	}
}

// Names that agents could not use are left out, each list by its own rules.
func TestBadItemsOfEachList(t *testing.T) {
	long := strings.Repeat("n", mcpparse.MaxNameBytes)
	up := lister(everyList, map[string]string{
		"tools/list":               `{"tools":[{"name":"good","inputSchema":{"properties":{"a":{"type":"string","x-mcp-header":"Region"}}}},{"name":"bad header","inputSchema":{}},{"name":"worse","inputSchema":{"properties":{"a":{"type":"object","x-mcp-header":"Region"}}}}]}`,
		"prompts/list":             `{"prompts":[{"name":"good name"},{"name":"line\nend"},{"name":"good name"},{"name":"` + long + `"}]}`,
		"resources/list":           `{"resources":[{"uri":"x:good"},{"uri":"x:\u007f"},{"uri":"x:good"},{"uri":"` + long + `"},{"uri":"` + long + `n"}]}`,
		"resources/templates/list": `{"resourceTemplates":[{"uriTemplate":"x:{good}"},{"uriTemplate":"x:{"},{"uriTemplate":"x:\u0000"}]}`,
	})
	h := newHub(t, apps("up"), egress{"app/up": up})
	for k, want := range map[kind][]string{
		tools:     {"up_good"},
		prompts:   {"up_good name"},
		resources: {"x:good", long},
		templates: {"x:{good}", "x:{"}, // what makes no URIs is shown all the same
	} {
		var got []string
		for _, item := range listed(t, h, "alice", k) {
			got = append(got, gjson.Get(item, map[kind]string{tools: "name", prompts: "name", resources: "uri", templates: "uriTemplate"}[k]).Str)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", lists[k].method, diff)
		}
	}
	c, _ := h.upstream(app("up")).list()
	if c.left != 9 {
		t.Errorf("%d left out: %q", c.left, c.dropped)
	}
}

// Each list is filtered by the policy's word on its own kind of thing.
func TestEachListIsFilteredPerCaller(t *testing.T) {
	gate := apps("up")
	gate.hidden = func(subject, name string) bool { return subject == "bob" && strings.Contains(name, "secret") }
	h := newHub(t, gate, egress{"app/up": lister(everyList, map[string]string{
		"prompts/list":             `{"prompts":[{"name":"open"},{"name":"secret"}]}`,
		"resources/list":           `{"resources":[{"uri":"x:open"},{"uri":"x:secret"}]}`,
		"resources/templates/list": `{"resourceTemplates":[{"uriTemplate":"x:{open}"},{"uriTemplate":"x:{secret}"}]}`})})
	for _, k := range []kind{prompts, resources, templates} {
		if alice, bob := listed(t, h, "alice", k), listed(t, h, "bob", k); len(alice) != 2 || len(bob) != 1 || strings.Contains(bob[0], "secret") {
			t.Errorf("%s: alice %v, bob %v", lists[k].method, alice, bob)
		}
	}
}

// A resource has one owner, or none.
func TestResource(t *testing.T) {
	const (
		all  = `{"resources":[{"uri":"x:listed"},{"uri":"x:both"},{"uri":"t:2"}]}`
		made = `{"resourceTemplates":[{"uriTemplate":"t:{n}"},{"uriTemplate":"f:///{+path}"},{"uriTemplate":"broken:{"}]}`
	)
	full := func(resources, templates string) *script {
		return lister(everyList, map[string]string{"resources/list": resources, "resources/templates/list": templates})
	}
	a := full(all, made)
	b := full(`{"resources":[{"uri":"x:both"},{"uri":"t:1"}]}`, `{"resourceTemplates":[{"uriTemplate":"t:{m}"},{"uriTemplate":"b:{m}"}]}`)
	none := lister(`{"tools":{}}`, nil)
	for _, test := range []struct {
		name string
		via  map[string]*script
		want map[string]string // app by URI
	}{
		{"two", map[string]*script{"a": a, "b": b, "none": none}, map[string]string{
			"x:listed": "a", "x:both": "", // both list it
			"t:1": "b", "t:2": "a", // listed by one, though both have a template
			"t:3": "", // made by both
			"b:1": "b", "f:///a/b/c": "a", "f:///": "a",
			"t:{n}": "a", "b:{m}": "b", // a template itself, as completions name it
			"t:a/b": "", "x:nobody": "", "": "", "broken:{": "a",
		}},
		{"a single one that has any", map[string]*script{"a": a, "none": none}, map[string]string{
			"x:listed": "a", "t:3": "a", "x:nobody": "a", "anything": "a",
		}},
		{"none", map[string]*script{"none": none}, map[string]string{"x:listed": "", "": ""}},
	} {
		t.Run(test.name, func(t *testing.T) {
			via, gate := egress{}, &testGate{}
			for _, name := range []string{"a", "b", "none"} {
				if s := test.via[name]; s != nil {
					gate.apps, via["app/"+name] = append(gate.apps, app(name)), s
				}
			}
			h := newHub(t, gate, via)
			listTools(t, h, "alice") // all is read
			for uri, want := range test.want {
				if got := h.Resource(uri, nil); got != want {
					t.Errorf("%q: %q, want %q", uri, got, want)
				}
			}
			if len(test.via) == 3 {
				if got := listed(t, h, "alice", resources); len(got) != 3 || strings.Contains(fmt.Sprint(got), "x:both") {
					t.Errorf("listed %v", got)
				}
			}
		})
	}
}

// A template cannot make the hub spend time without bounds on a URI: what holds too much is listed, and matches nothing.
func TestTemplatesAreBounded(t *testing.T) {
	hostile := []string{"x:" + strings.Repeat("a", maxTemplate) + "{a}", "x:" + strings.Repeat("{a*}", maxExpressions+1),
		"x:{" + strings.Repeat("a,", maxExpressions) + "a}"}
	for n := range maxMatchers + 1 {
		hostile = append(hostile, fmt.Sprintf("t%d:{a}", n))
	}
	var entries []string
	for _, uri := range hostile {
		entries = append(entries, `{"uriTemplate":"`+uri+`"}`)
	}
	up := lister(everyList, map[string]string{"resources/templates/list": `{"resourceTemplates":[` + strings.Join(entries, ",") + `]}`})
	other := lister(everyList, nil)
	h := newHub(t, apps("up", "other"), egress{"app/up": up, "app/other": other})
	if n := len(listed(t, h, "alice", templates)); n != len(hostile) {
		t.Errorf("%d listed", n)
	}
	for uri, want := range map[string]string{
		"t0:b": "up", fmt.Sprintf("t%d:b", maxMatchers-1): "up", fmt.Sprintf("t%d:b", maxMatchers): "",
		"t0:" + strings.Repeat("b", maxMatched): "", "x:b": "", "x:" + strings.Repeat("a", maxTemplate) + "b": "",
	} {
		if got := h.Resource(uri, nil); got != want {
			t.Errorf("%.40q belongs to %q, want %q", uri, got, want)
		}
	}
}

// What an upstream says of its lists has them read again at once, but not more than once a second.
func TestListsAreReadAgainWhenToldSo(t *testing.T) {
	const changing = `{"tools":{"listChanged":true},"prompts":{}}`
	const told = `{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}`
	for name, test := range map[string]struct {
		up  *live
		key string
	}{
		"legacy": {liveLegacy("up", changing), "up-1"},
		"modern": {liveModern(changing), `{"promptsListChanged":true,"toolsListChanged":true}`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHub(t, apps("up"), egress{"app/up": test.up})
				listTools(t, h, "alice")
				before := test.up.count("tools/list")
				test.up.answer("tools/list", toolList("new"))
				for range 5 {
					test.up.message(t, test.key, told)
				}
				time.Sleep(3 * time.Second)
				if n := test.up.count("tools/list") - before; n == 0 || n > 3 {
					t.Errorf("read again %d times", n)
				}
				if diff := cmp.Diff([]string{"up_new"}, listTools(t, h, "alice").names(t)); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

// An upstream that was reloaded away is listened to no longer.
func TestNobodyListensToWhatIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := liveLegacy("up", `{"tools":{"listChanged":true}}`)
		var current atomic.Pointer[testGate]
		current.Store(apps("up"))
		h := newHub(t, nil, egress{"app/up": up}, func(c *Config) { c.Gate = func() Gate { return current.Load() } })
		listTools(t, h, "alice")
		up.message(t, "up-1", `{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}`)
		current.Store(apps())
		time.Sleep(5 * time.Second)
		if open := up.open(); len(open) > 0 {
			t.Errorf("open: %v", open)
		}
	})
}
