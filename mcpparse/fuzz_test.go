package mcpparse_test

import (
	"bytes"
	jsonv1 "encoding/json"
	"slices"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/mcpparse"
)

func seed(f *testing.F) {
	for _, e := range catalogue(f) {
		f.Add(e.Body)
	}
	for _, text := range notJSON {
		f.Add([]byte(text))
	}
	for _, v := range someJSON {
		f.Add([]byte(`{"jsonrpc":"2.0","id":"a","method":"prompts/get","params":{"name":"a","arguments":{"v":` + v + `},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}`))
	}
	f.Add([]byte(`{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{"ref":{"type":"ref/prompt","name":"p"},"argument":{}}}`))
	f.Add([]byte(`{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"file:///a"}}`))
	f.Add([]byte(`{"jsonrpc":"2.0","id":1,"result":{"a":[1]}}`))
}

// reading is what a server sees in a message, by the ordinary means of a JSON library: encoding/json folds case, takes
// the last duplicate and repairs text; json/v2 does none of these.
type reading struct {
	JSONRPC string
	ID      any
	Method  string
	Params  struct {
		Name      any
		URI       any
		Arguments map[string]any
		Ref       any
		Meta      map[string]any `json:"_meta"`
	}
	Result, Error any
}

// FuzzParse holds what Parse accepts to one meaning: other readers must see the same call.
func FuzzParse(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, body []byte) {
		m, err := mcpparse.Parse(body)
		if err != nil {
			if c := code(err); c != mcpparse.CodeParse && c != mcpparse.CodeInvalidRequest && c != mcpparse.CodeInvalidParams {
				t.Fatalf("code %d", c)
			}
			return
		}
		again, err := mcpparse.Parse(bytes.Clone(body))
		if diff := cmp.Diff(m, again, visible); diff != "" || err != nil {
			t.Fatalf("another reading the second time: %v %s", err, diff)
		}
		var tree map[string]any
		if err := jsonv1.Unmarshal(body, &tree); err != nil && m.BigNumber == "" {
			t.Fatalf("encoding/json refuses: %v", err)
		} else if err == nil {
			agree(t, m, tree)
		}
		if err := json.Unmarshal(body, &tree); err == nil {
			agree(t, m, tree)
		} else if m.BigNumber == "" {
			t.Fatalf("json/v2 refuses: %v", err)
		}
		agreeStruct(t, m)
	})
}

// agree compares m with the tree that a library makes of its body.
func agree(t *testing.T, m mcpparse.Message, tree map[string]any) {
	t.Helper()
	params, _ := tree["params"].(map[string]any)
	if method, _ := tree["method"].(string); method != m.Method {
		t.Fatalf("method %q, the library reads %q", m.Method, method)
	}
	if _, ok := tree["id"]; ok != (m.ID != nil) {
		t.Fatalf("id %s, the library reads %v", m.ID, tree["id"])
	}
	where, key := params, "name"
	switch {
	case m.Method == "completion/complete" && m.Target == mcpparse.Prompt:
		where, _ = params["ref"].(map[string]any)
	case m.Method == "completion/complete":
		where, _ = params["ref"].(map[string]any)
		key = "uri"
	case m.Target == mcpparse.Resource:
		key = "uri"
	}
	if name, _ := where[key].(string); m.Target != mcpparse.NoTarget && name != m.Name {
		t.Fatalf("name %q, the library reads %q", m.Name, name)
	}
	if arguments, ok := params["arguments"]; ok != (m.Arguments != nil) {
		t.Fatalf("arguments %s, the library reads %v", m.Arguments, arguments)
	} else if ok {
		var mine any
		if err := jsonv1.Unmarshal(m.Arguments, &mine); err != nil || !cmp.Equal(mine, arguments) {
			t.Fatalf("arguments %s (%v), the library reads %v", m.Arguments, err, arguments)
		}
	}
}

// agreeStruct is agree for a reader that decodes into a struct and so folds case.
func agreeStruct(t *testing.T, m mcpparse.Message) {
	t.Helper()
	var r reading
	if err := jsonv1.Unmarshal(m.Raw(), &r); err != nil {
		return // other types than ours: such a server refuses the message, which is safe
	}
	name, uri := r.Params.Name, r.Params.URI
	if r.Method != m.Method || m.Target == mcpparse.Tool && name != m.Name ||
		m.Target == mcpparse.Resource && m.Method != "completion/complete" && uri != m.Name {
		t.Fatalf("%q %q, a struct reads %q %v %v", m.Method, m.Name, r.Method, name, uri)
	}
	if (r.Result != nil) != (m.Result != nil) || (r.Error != nil) != (m.Failure != nil) || (r.ID != nil) != (m.ID != nil) {
		t.Fatalf("a struct reads another envelope: %+v", r)
	}
	if version, _ := r.Params.Meta["io.modelcontextprotocol/protocolVersion"].(string); version != m.Version {
		t.Fatalf("version %q, a struct reads %q", m.Version, version)
	}
}

// FuzzSplice holds edits to changing what they are meant to change and nothing else.
func FuzzSplice(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, body []byte) {
		m, err := mcpparse.Parse(body)
		if err != nil || m.Kind == mcpparse.Response {
			return // names and metadata are for requests
		}
		const version = "2026-07-28"
		for _, tt := range []struct {
			edits []mcpparse.Edit
			want  func(*mcpparse.Message)
		}{
			{[]mcpparse.Edit{m.SetName("new.name")}, func(w *mcpparse.Message) {
				if w.Name != "" {
					w.Name = "new.name"
				}
			}},
			{m.DropModernMeta(), func(w *mcpparse.Message) { w.Version, w.HasClientCapabilities = "", false }},
			{m.AddModernMeta(version, nil), func(w *mcpparse.Message) { w.Version, w.HasClientCapabilities = version, true }},
		} {
			out := m.Splice(tt.edits...)
			outside(t, body, out, tt.edits)
			got, err := mcpparse.Parse(out)
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
	})
}

// outside checks that out is body, byte for byte, but for edits.
func outside(t *testing.T, body, out []byte, edits []mcpparse.Edit) {
	t.Helper()
	edits = slices.SortedStableFunc(slices.Values(edits), func(a, b mcpparse.Edit) int { return a.Start - b.Start })
	rest, at := out, 0
	for _, e := range append(edits, mcpparse.Edit{Start: len(body), End: len(body)}) {
		var kept, replaced bool
		rest, kept = bytes.CutPrefix(rest, body[at:e.Start])
		rest, replaced = bytes.CutPrefix(rest, e.With)
		if !kept || !replaced {
			t.Fatalf("%s: bytes outside the edits have changed: %s", body, out)
		}
		at = e.End
	}
	if len(rest) > 0 {
		t.Fatalf("%s: more than the edits has been added: %s", body, out)
	}
}

// FuzzHeader holds the mirror encoding to being undone by its inverse.
func FuzzHeader(f *testing.F) {
	f.Add("a")
	f.Add("=?base64?YQ==?=")
	f.Add(" é\r\n")
	f.Fuzz(func(t *testing.T, text string) {
		if text != string([]rune(text)) {
			return // not UTF-8: nothing that a body could hold
		}
		if back, err := mcpparse.DecodeHeader(mcpparse.EncodeHeader(text)); err != nil || back != text {
			t.Fatalf("%q comes back as %q, %v", text, back, err)
		}
	})
}
