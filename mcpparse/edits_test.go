package mcpparse_test

import (
	"bytes"
	"maps"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/mcpparse"
)

func mustParseUpstream(t testing.TB, body string) mcpparse.Message {
	t.Helper()
	m, err := mcpparse.ParseUpstream([]byte(body))
	if err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	return m
}

// The edits that a gateway makes between two sides that name things alike, and between two eras.
func TestEdits(t *testing.T) {
	one := func(e func(mcpparse.Message) mcpparse.Edit) func(mcpparse.Message) []mcpparse.Edit {
		return func(m mcpparse.Message) []mcpparse.Edit { return []mcpparse.Edit{e(m)} }
	}
	id := one(func(m mcpparse.Message) mcpparse.Edit { return m.SetID([]byte(`"new"`)) })
	progress := one(func(m mcpparse.Message) mcpparse.Edit { return m.SetProgressToken([]byte(`"new"`)) })
	requestID := one(func(m mcpparse.Message) mcpparse.Edit { return m.SetRequestID([]byte(`"new"`)) })
	drop := func(names ...string) func(mcpparse.Message) []mcpparse.Edit {
		return func(m mcpparse.Message) []mcpparse.Edit { return m.DropParams(names...) }
	}
	add := one(func(m mcpparse.Message) mcpparse.Edit { return m.AddParam("new", []byte(`[1]`)) })
	tasks := mcpparse.Message.DropTasks
	call := func(params string) string {
		return `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":` + params + `}`
	}
	caps := func(object string) string {
		return call(`{"name":"t","_meta":{"io.modelcontextprotocol/clientCapabilities":` + object + `}}`)
	}
	note := func(method, params string) string {
		return `{"jsonrpc":"2.0","method":"notifications/` + method + `","params":` + params + `}`
	}
	for _, test := range []struct {
		name, body, want string
		edits            func(mcpparse.Message) []mcpparse.Edit
	}{
		{"id of a request", `{"id" : 1 ,"jsonrpc":"2.0","method":"ping"}`, `{"id" : "new" ,"jsonrpc":"2.0","method":"ping"}`, id},
		{"id of a response", `{"jsonrpc":"2.0","result":{"id":1},"i\u0064":"a\"b"}`, `{"jsonrpc":"2.0","result":{"id":1},"i\u0064":"new"}`, id},
		{"id of an error", `{"jsonrpc":"2.0","id":-7,"error":{"code":1,"message":"m"}}`, `{"jsonrpc":"2.0","id":"new","error":{"code":1,"message":"m"}}`, id},
		{"id of a notification", note("initialized", `{"id":1}`), note("initialized", `{"id":1}`), id},
		{"id of what answers nothing", `{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":"m"}}`, `{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":"m"}}`, id},

		{"progress token of a request", call(`{"name":"t","progressToken":1,"_meta":{"progressToken": 1}}`), call(`{"name":"t","progressToken":1,"_meta":{"progressToken": "new"}}`), progress},
		{"progress token of a notification", note("progress", `{"progressToken":"a","progress":1,"_meta":{"progressToken":1}}`), note("progress", `{"progressToken":"new","progress":1,"_meta":{"progressToken":1}}`), progress},
		{"no progress token", call(`{"name":"t","_meta":{}}`), call(`{"name":"t","_meta":{}}`), progress},
		{"a progress token that is none", call(`{"name":"t","_meta":{"progressToken":1.5}}`), call(`{"name":"t","_meta":{"progressToken":1.5}}`), progress},
		{"a progress token among the arguments", call(`{"name":"t","arguments":{"_meta":{"progressToken":1}}}`), call(`{"name":"t","arguments":{"_meta":{"progressToken":1}}}`), progress},

		{"what is cancelled", note("cancelled", `{"reason":"requestId","requestId":9}`), note("cancelled", `{"reason":"requestId","requestId":"new"}`), requestID},
		{"nothing is cancelled", note("cancelled", `{}`), note("cancelled", `{}`), requestID},
		{"what is no id is cancelled", note("cancelled", `{"requestId":[9]}`), note("cancelled", `{"requestId":[9]}`), requestID},

		{"drop nothing", call(`{"name":"t"}`), call(`{"name":"t"}`), drop("a", "b")},
		{"drop the first", call(`{"a":1, "name":"t"}`), call(`{"name":"t"}`), drop("a")},
		{"drop the last", call(`{"name":"t" , "a":{"b":1}}`), call(`{"name":"t"}`), drop("a")},
		{"drop around", call(`{"a":1,"name":"t","b":[],"arguments":{"a":1,"b":2},"c":3}`), call(`{"name":"t","arguments":{"a":1,"b":2}}`), drop("a", "b", "c")},
		{"drop the first two", call(`{"a":1,"b":2,"name":"t"}`), call(`{"name":"t"}`), drop("a", "b")},
		{"drop the last two", call(`{"name":"t","a":1,"b":2}`), call(`{"name":"t"}`), drop("a", "b")},
		{"drop what is escaped", call(`{"name":"t","\u0061":1}`), call(`{"name":"t"}`), drop("a")},
		{"drop without params", `{"jsonrpc":"2.0","id":1,"method":"ping"}`, `{"jsonrpc":"2.0","id":1,"method":"ping"}`, drop("a")},
		{"drop all", `{"jsonrpc":"2.0","id":1,"method":"ping","params":{ "a":1 ,"b":2 }}`, `{"jsonrpc":"2.0","id":1,"method":"ping","params":{  }}`, drop("a", "b")},

		{"add", call(`{ "name":"t"}`), call(`{"new":[1], "name":"t"}`), add},
		{"add to nothing", `{"jsonrpc":"2.0","id":1,"method":"ping","params":{}}`, `{"jsonrpc":"2.0","id":1,"method":"ping","params":{"new":[1]}}`, add},

		{"no task", call(`{"name":"t","arguments":{"task":1}}`), call(`{"name":"t","arguments":{"task":1}}`), tasks},
		{"a task", call(`{"name":"t","task":{"ttl":1},"arguments":{}}`), call(`{"name":"t","arguments":{}}`), tasks},
		{"a task by any spelling", call(`{"name":"t","t\u0061sk":{}}`), call(`{"name":"t"}`), tasks},
		{"tasks among capabilities", caps(`{"extensions":{"io.modelcontextprotocol/tasks":{},"other":{}},"roots":{}}`), caps(`{"extensions":{"other":{}},"roots":{}}`), tasks},
		{"tasks alone", caps(`{"extensions":{"io.modelcontextprotocol/tasks":{}}}`), caps(`{"extensions":{}}`), tasks},
		{"tasks by any spelling", caps(`{"ext\u0065nsions":{"io.modelcontextprotocol\/t\u0061sks":{}}}`), caps(`{"ext\u0065nsions":{}}`), tasks},
		{"both", call(`{"name":"t","task":{},"_meta":{"io.modelcontextprotocol/clientCapabilities":{"extensions":{"io.modelcontextprotocol/tasks":{}}}}}`),
			caps(`{"extensions":{}}`), tasks},
		{"what only looks like tasks", caps(`{"tasks":{},"extensions":{"tasks":{},"x/io.modelcontextprotocol/tasks":{}}}`), caps(`{"tasks":{},"extensions":{"tasks":{},"x/io.modelcontextprotocol/tasks":{}}}`), tasks},
		{"extensions of another kind", caps(`{"extensions":["io.modelcontextprotocol/tasks"]}`), caps(`{"extensions":["io.modelcontextprotocol/tasks"]}`), tasks},
		{"capabilities of another kind", caps(`["extensions","tasks"]`), caps(`["extensions","tasks"]`), tasks},
		{"capabilities that are a text", caps(`"extensions tasks"`), caps(`"extensions tasks"`), tasks},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := mustParseUpstream(t, test.body)
			edits := test.edits(m)
			got := m.Splice(edits...)
			if diff := cmp.Diff(test.want, string(got)); diff != "" {
				t.Fatal(diff)
			}
			outside(t, []byte(test.body), got, edits)
			mustParseUpstream(t, string(got))
		})
	}
}

// All the edits of a bridge at once do not get into each other's way.
func TestEditsTogether(t *testing.T) {
	const version = `"io.modelcontextprotocol/protocolVersion":"2026-07-28"`
	body := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"task":{},"_meta":{` + version + `,"progressToken":7},"name":"a_t","requestState":"s","arguments":{"n": 1.50},"inputResponses":{}}}`
	m := mustParse(t, body)
	toLegacy := append(m.DropParams("task", "inputResponses", "requestState"), m.SetID([]byte("2")), m.SetName("t"), m.SetProgressToken([]byte("2")))
	toLegacy = append(toLegacy, m.DropModernMeta()...)
	want := `{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"_meta":{"progressToken":2},"name":"t","arguments":{"n": 1.50}}}`
	if diff := cmp.Diff(want, string(m.Splice(toLegacy...))); diff != "" {
		t.Error(diff)
	}
	m = mustParse(t, strings.Replace(body, version+",", "", 1))
	toModern := append(m.DropParams("task", "inputResponses", "requestState"), m.SetID([]byte("2")), m.SetName("t"),
		m.AddParam("inputResponses", []byte(`{"k":{}}`)), m.AddParam("requestState", []byte(`"next"`)))
	toModern = append(toModern, m.AddModernMeta("2026-07-28", []byte(`{"roots":{}}`))...)
	want = `{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"inputResponses":{"k":{}},"requestState":"next","_meta":{` + version +
		`,"io.modelcontextprotocol/clientCapabilities":{"roots":{}},"progressToken":7},"name":"t","arguments":{"n": 1.50}}}`
	if diff := cmp.Diff(want, string(m.Splice(toModern...))); diff != "" {
		t.Error(diff)
	}
}

func TestMembers(t *testing.T) {
	const object = ` { "a" : 1.50 , "b\u0022" : { "c" : [ ] } , "d" : "x\ny" } `
	for name, want := range map[string]string{"a": "1.50", `b"`: `{ "c" : [ ] }`, "d": `"x\ny"`, "c": "", "": "", "A": ""} {
		if got := mcpparse.Member([]byte(object), name); string(got) != want || (got == nil) != (want == "") {
			t.Errorf("%q: %s, want %s", name, got, want)
		}
	}
	want := map[string]string{"a": "1.50", `b"`: `{ "c" : [ ] }`, "d": `"x\ny"`}
	got := map[string]string{}
	for name, value := range mcpparse.Members([]byte(object)) {
		got[name] = string(value)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for range mcpparse.Members([]byte(object)) {
		break // whoever has seen enough may leave
	}
	for _, none := range []string{"", " ", "{}", "[]", `["a",1]`, "1", `"a"`, "null"} {
		if got := mcpparse.Member([]byte(none), "a"); got != nil {
			t.Errorf("%s has a: %s", none, got)
		}
		if got := maps.Collect(mcpparse.Members([]byte(none))); len(got) > 0 {
			t.Errorf("%s has %v", none, got)
		}
	}
}

// What is got of an object has no room to append into what follows it.
func TestMembersDoNotOverlap(t *testing.T) {
	object := []byte(`{"a":1,"b":2}`)
	_ = append(mcpparse.Member(object, "a"), "9999"...)
	for _, value := range mcpparse.Members(object) {
		_ = append(value, "9999"...)
	}
	if string(object) != `{"a":1,"b":2}` {
		t.Errorf("now %s", object)
	}
}

func TestWithMember(t *testing.T) {
	for _, test := range []struct{ object, name, value, want string }{
		{`{}`, "a", `1`, `{"a":1}`},
		{` { } `, "a", `1`, `{"a":1 } `},
		{`{"b":2}`, "a", `{"x":1}`, `{"a":{"x":1},"b":2}`},
		{`{"a": 1.50 ,"b":2}`, "a", `"x"`, `{"a": "x" ,"b":2}`},
		{`{"\u0061":1}`, "a", `2`, `{"\u0061":2}`},
		{`{"x":{"a":1}}`, "a", `2`, `{"a":2,"x":{"a":1}}`},
		{`{}`, "a\"\n", `1`, `{"a\"\n":1}`},
		{`{}`, "", `1`, `{"":1}`},
	} {
		object := []byte(test.object)
		got := mcpparse.WithMember(object, test.name, []byte(test.value))
		if diff := cmp.Diff(test.want, string(got)); diff != "" {
			t.Error(diff)
		}
		if string(mcpparse.Member(got, test.name)) != test.value || string(object) != test.object {
			t.Errorf("%s: %s, of %s", test.object, got, object)
		}
	}
}

func TestWithoutMembers(t *testing.T) {
	for _, test := range []struct {
		object string
		names  []string
		want   string
	}{
		{`{"a":1}`, nil, `{"a":1}`},
		{`{"a":1}`, []string{"b"}, `{"a":1}`},
		{`{"a":1}`, []string{"a"}, `{}`},
		{`{"a":1, "b":{"a":1} ,"c":3}`, []string{"a", "c"}, `{"b":{"a":1}}`},
		{`{"a":1,"b":2,"c":3}`, []string{"b"}, `{"a":1,"c":3}`},
		{`{"\u0061":1,"A":2}`, []string{"a"}, `{"A":2}`},
		{` {}`, []string{"a"}, `{}`},
	} {
		if diff := cmp.Diff(test.want, string(mcpparse.WithoutMembers([]byte(test.object), test.names...))); diff != "" {
			t.Error(diff)
		}
	}
}

func TestTokens(t *testing.T) {
	for token, want := range map[string]string{`"a"`: "a", `""`: "", `"a\"\u00e9"`: `a"é`} {
		if got, ok := mcpparse.Text([]byte(token)); !ok || got != want {
			t.Errorf("%s: %q %v", token, got, ok)
		}
	}
	for _, token := range []string{"", "1", "null", "{}", `["a"]`} {
		if got, ok := mcpparse.Text([]byte(token)); ok || got != "" {
			t.Errorf("%s: %q %v", token, got, ok)
		}
	}
	for _, test := range []struct {
		a, b string
		same bool
	}{
		{`1`, `1`, true}, {`"a"`, `"a"`, true}, {`"a\/b"`, `"a/b"`, true}, {`"\u00e9"`, `"é"`, true},
		{`1`, `"1"`, false}, {`1`, `2`, false}, {`"a"`, `"A"`, false}, {``, `""`, false}, {``, `1`, false}, {`null`, `"null"`, false},
	} {
		if got := mcpparse.SameToken([]byte(test.a), []byte(test.b)); got != test.same || got != mcpparse.SameToken([]byte(test.b), []byte(test.a)) {
			t.Errorf("%s and %s: %v", test.a, test.b, got)
		}
	}
}

// FuzzEdits holds the edits of names to changing what they are meant to change and nothing else.
func FuzzEdits(f *testing.F) {
	seed(f)
	f.Add([]byte(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1,"progressToken":2,"a":3}}`))
	f.Add([]byte(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"task":{},"name":"t","_meta":{"progressToken":1,"io.modelcontextprotocol/clientCapabilities":{"extensions":{"io.modelcontextprotocol/tasks":{}}}}}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		m, err := mcpparse.ParseUpstream(body)
		if err != nil {
			return
		}
		set := func(have *[]byte, to string) {
			if *have != nil {
				*have = []byte(to)
			}
		}
		for _, tt := range []struct {
			edits []mcpparse.Edit
			want  func(*mcpparse.Message)
		}{
			{[]mcpparse.Edit{m.SetID([]byte(`"new"`))}, func(w *mcpparse.Message) { set(&w.ID, `"new"`) }},
			{[]mcpparse.Edit{m.SetProgressToken([]byte(`"new"`))}, func(w *mcpparse.Message) { set(&w.ProgressToken, `"new"`) }},
			{[]mcpparse.Edit{m.SetRequestID([]byte(`"new"`))}, func(w *mcpparse.Message) { set(&w.RequestID, `"new"`) }},
			{m.DropTasks(), func(*mcpparse.Message) {}},
			{m.DropParams("a", "b"), func(*mcpparse.Message) {}},
		} {
			out := m.Splice(tt.edits...)
			outside(t, body, out, tt.edits)
			got, err := mcpparse.ParseUpstream(out)
			if err != nil {
				t.Fatalf("%s no longer parses: %v", out, err)
			}
			want := m
			tt.want(&want)
			got.BigNumber, want.BigNumber = "", "" // it may have stood in what was replaced
			if diff := cmp.Diff(want, got, visible); diff != "" {
				t.Fatalf("%s: %s", out, diff)
			}
		}
		left := mustParseUpstream(t, string(m.Splice(m.DropTasks()...)))
		if left.Param("task") != nil || len(left.DropTasks()) > 0 {
			t.Fatalf("tasks are left in %s", left.Raw())
		}
	})
}

// FuzzObject holds the editing of objects to what a JSON library makes of them.
func FuzzObject(f *testing.F) {
	f.Add([]byte(`{"a":1,"b":{"a":[2]},"\u0061b":3}`), "a", []byte(`"x"`))
	f.Add([]byte(` { } `), "", []byte(`{}`))
	f.Fuzz(func(t *testing.T, object []byte, name string, value []byte) {
		if !jsontext.Value(bytes.Clone(value)).IsValid() || !jsontext.Value(bytes.Clone(object)).IsValid() || jsontext.Value(object).Kind() != '{' || name != string([]rune(name)) {
			return // the functions are for what has been checked
		}
		value = bytes.TrimSpace(value)
		before := maps.Collect(mcpparse.Members(object))
		with := mcpparse.WithMember(object, name, value)
		without := mcpparse.WithoutMembers(object, name)
		for _, out := range [][]byte{with, without} {
			if !jsontext.Value(bytes.Clone(out)).IsValid() {
				t.Fatalf("%s became %s", object, out)
			}
		}
		delete(before, name)
		if diff := cmp.Diff(before, maps.Collect(mcpparse.Members(without))); diff != "" {
			t.Fatalf("%s without %q is %s", object, name, without)
		}
		before[name] = value
		if diff := cmp.Diff(before, maps.Collect(mcpparse.Members(with))); diff != "" {
			t.Fatalf("%s with %q is %s", object, name, with)
		}
	})
}
