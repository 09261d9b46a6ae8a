package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// What the gateway itself asks servers: for their lists, and for a session.

// listed is a list of tools in which item is one.
func listOf(items ...string) string {
	return `{"resultType":"complete","ttlMs":0,"cacheScope":"public","tools":[` + strings.Join(items, ",") + `]}`
}

func item(name string) string { return itemWith(name, "") }

func itemWith(name, more string) string {
	quoted, _ := json.Marshal(name)
	return `{"name":` + string(quoted) + `,"inputSchema":{"type":"object"}` + more + `}`
}

// result answers with a result, or with anything else.
func resulting(text string) func(turn) { return func(t turn) { t.result(text) } }

func saying(contentType, text string) func(turn) {
	return func(t turn) {
		t.w.Header().Set("Content-Type", contentType)
		t.say(strings.ReplaceAll(text, "@ID", t.id))
	}
}

func replying(code int, header ...string) func(turn) {
	return func(t turn) { t.lie(lie{status: code, header: header, json: fine}) }
}

// lists are answers to tools/list, and what agents are shown of them: names, or nothing and that it is missing.
var listLies = map[string]struct {
	answer func(t turn)
	shown  []string // nil: the list is no good
}{
	"honest":        {resulting(listOf(item("a"), item("b"))), []string{"a", "b"}},
	"events":        {saying("text/event-stream", event(note)+event(`{"jsonrpc":"2.0","id":@ID,"result":`+listOf(item("a"))+`}`)), []string{"a"}},
	"itself":        {resulting(`{"tools":[` + item("a") + `],"nextCursor":"evil"}`), nil},
	"pages":         {endlessPages, nil},
	"many":          {resulting(listOf(strings.Split(strings.TrimSuffix(strings.Repeat(item("a")+"\n", 6000), "\n"), "\n")...)), []string{"a"}},
	"too-many":      {resulting(listOf(manyItems(6000)...)), nil},
	"large":         {resulting(listOf(itemWith("a", `,"description":"`+strings.Repeat("x", 9*mega)+`"`))), nil},
	"no-end":        {func(t turn) { flood(t, "", " ", giant) }, nil},
	"no-end-events": {func(t turn) { t.w.Header().Set("Content-Type", "text/event-stream"); flood(t, "data: ", "x", giant) }, nil},
	"twice":         {resulting(listOf(item("a"), item("a"), itemWith("b", ""), itemWith("a", `,"description":"evil"`))), []string{"a", "b"}},
	"names": {resulting(listOf(item("a"), item("bad\nbad"), item("bad bad"), item(strings.Repeat("e", 129)), item("båd"), item("bad\x00"), item("bad/x"), item("bad\u202e"), item("b"))),
		[]string{"a", "b"}},
	"headers": {resulting(listOf(item("a"),
		`{"name":"bad1","inputSchema":{"type":"object","properties":{"x":{"type":"string","x-mcp-header":"Bad Name"}}}}`,
		`{"name":"bad2","inputSchema":{"type":"object","properties":{"x":{"type":"string","x-mcp-header":""}}}}`,
		`{"name":"bad3","inputSchema":{"type":"object","properties":{"x":{"type":"object","x-mcp-header":"Evil"}}}}`,
		`{"name":"bad4","inputSchema":{"type":"object","properties":{"x":{"type":"string","x-mcp-header":"Evil"},"y":{"type":"string","x-mcp-header":"evil"}}}}`,
		`{"name":"bad5","inputSchema":{"type":"object","properties":{"x":{"type":"string","x-mcp-header":"Evil\r\nAuthorization: x"}}}}`)), []string{"a"}},
	"shadow":      {resulting(listOf(item("open_echo"), item("my_server_listItems"), item("shadow_a"))), []string{"open_echo", "my_server_listItems", "shadow_a"}},
	"no-name":     {resulting(listOf(item("a"), `{"inputSchema":{}}`)), nil},
	"name-number": {resulting(listOf(`{"name":1}`)), nil},
	"name-twice":  {resulting(listOf(`{"name":"a","name":"evil","inputSchema":{}}`)), nil},
	"no-array":    {resulting(`{"tools":{"evil":1}}`), nil},
	"no-tools":    {resulting(`{"evil":[]}`), nil},
	"null":        {resulting(`null`), nil},
	"cursor":      {resulting(`{"tools":[],"nextCursor":7}`), nil},
	"no-items":    {resulting(listOf()), []string{}},
	"utf8":        {resulting(listOf("{\"name\":\"a\",\"description\":\"\xff\"}")), nil},
	"deep":        {resulting(listOf(itemWith("a", `,"x":`+strings.Repeat("[", 100)+strings.Repeat("]", 100)))), nil},
	"other-id":    {saying("application/json", `{"jsonrpc":"2.0","id":"evil","result":`+listOf(item("a"))+`}`), nil},
	"two":         {saying("text/event-stream", event(`{"jsonrpc":"2.0","id":"evil","result":`+listOf(item("evil"))+`}`)+event(`{"jsonrpc":"2.0","id":@ID,"result":`+listOf(item("a"))+`}`)), nil},
	"method":      {saying("application/json", `{"jsonrpc":"2.0","id":@ID,"method":"x","result":`+listOf(item("a"))+`}`), nil},
	"error":       {saying("application/json", `{"jsonrpc":"2.0","id":@ID,"error":{"code":-32000,"message":"evil"}}`), nil},
	"page":        {saying("text/html", "<h1>evil</h1>"), nil},
	"zipped": {func(t turn) {
		t.w.Header().Set("Content-Encoding", "gzip")
		saying("application/json", zipped(listOf(item("a"))))(t)
	}, nil},
	"redirect":  {replying(302, "Location: https://evil.example/"), nil},
	"guarded":   {replying(401, `WWW-Authenticate: Bearer resource_metadata="https://evil.example/"`), nil},
	"accepted":  {replying(202), nil},
	"failing":   {replying(500), nil},
	"hangs":     {hang, nil},
	"head":      {func(t turn) { saying("application/json", "")(t); hang(t) }, nil},
	"ttl":       {resulting(`{"ttlMs":1e300,"tools":[` + item("a") + `]}`), []string{"a"}},
	"ttl-text":  {resulting(`{"ttlMs":"evil","tools":[` + item("a") + `]}`), []string{"a"}},
	"ttl-minus": {resulting(`{"ttlMs":-1e300,"tools":[` + item("a") + `]}`), []string{"a"}},
	"task":      {resulting(listOf(itemWith("a", `,"execution":{"taskSupport":"required"}`))), []string{"a"}},
}

// endlessPages has always one more.
func endlessPages(t turn) {
	var r struct{ Params struct{ Cursor string } }
	_ = json.Unmarshal(t.got.Body, &r)
	at, _ := strconv.Atoi(r.Params.Cursor)
	t.result(fmt.Sprintf(`{"tools":[%s],"nextCursor":"%d"}`, item(fmt.Sprint("t", at)), at+1))
}

func manyItems(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = item(fmt.Sprint("t", i))
	}
	return out
}

// TestHostileLists: a list that is no good is none, and said to be missing; of one that is good the bad items are left out.
// The others are shown as ever.
func TestHostileLists(t *testing.T) {
	t.Parallel() // it waits for some that say nothing
	liars := map[string]*liar{}
	h := startAmong(t, func() (config string) {
		for name, c := range listLies {
			for _, speaks := range []string{"modern", "legacy"} {
				l := newLiar(t, speaks, nil)
				l.instead = map[string]func(turn){"tools/list": c.answer}
				liars[speaks+"-"+name] = l
				config += appConfig(speaks+"-"+name, "stream", l.URL+"/mcp")
			}
		}
		return config
	})
	session := h.open(h.token, `{}`)
	for era, r := range map[string]request{"modern": modernMethod("tools/list"), "legacy": legacy(session, `{"jsonrpc":"2.0","id":7,"method":"tools/list"}`)} {
		shown, missing := h.list(r)
		for name, c := range listLies {
			for _, speaks := range []string{"modern", "legacy"} {
				app := speaks + "-" + name
				if got := shown[app]; !slices.Equal(got, c.shown) || slices.Contains(missing, app) != (c.shown == nil) {
					t.Errorf("%s, to a %s agent: shown %v, missing %v", app, era, got, slices.Contains(missing, app))
				}
				// Three attempts at the most in the seconds that this takes, and a hundred pages each.
				if n := len(liars[app].arrived("tools/list")); n > 400 || n > 10 && name != "pages" && name != "itself" {
					t.Errorf("%s was asked %d times", app, n)
				}
			}
		}
		if got := shown["open"]; !slices.Equal(got, []string{"echo", "spend", "admin"}) {
			t.Errorf("the others' list: %v", got)
		}
	}
	// A name that looks like another app's leads to the app that has it.
	for _, app := range []string{"modern-shadow", "legacy-shadow"} {
		if a := h.send(modern(app+"_open_echo", `{}`)); a.RPC.Result == nil {
			t.Errorf("%s: %s", app, a)
		}
		if got := liars[app].arrived("tools/call"); len(got) != 1 || got[0].RPC.Params.Name != "open_echo" || len(h.world.open.calls()) != 0 {
			t.Errorf("%s: %d calls, and %d elsewhere", app, len(got), len(h.world.open.calls()))
		}
	}
	if _, most := memoryOf(t, h.gateway.cmd.Process.Pid); most > 600*mega {
		t.Errorf("the gateway and its Envoy took %d MiB", most/mega)
	}
	h.wellAfterwards()
}

// list asks for the tools and returns them by app, and the apps whose lists are missing.
func (h *lair) list(r request) (shown map[string][]string, missing []string) {
	h.t.Helper()
	a := h.send(r)
	var got struct {
		Tools []struct{ Name string }
		Meta  struct {
			Missing []string `json:"dev.sallyport/unavailable"`
		} `json:"_meta"`
	}
	must(h.t, json.Unmarshal(a.RPC.Result, &got))
	shown = map[string][]string{}
	for name := range listLies { // those without items are shown, too
		shown["modern-"+name], shown["legacy-"+name] = nil, nil
	}
	for _, tool := range got.Tools {
		app, name, _ := strings.Cut(tool.Name, "_")
		shown[app] = append(shown[app], name)
	}
	if strings.Contains(string(a.Body), "taskSupport") || strings.Contains(string(a.Body), "public") {
		h.t.Errorf("the list says: %.500s", a)
	}
	return shown, got.Meta.Missing
}
