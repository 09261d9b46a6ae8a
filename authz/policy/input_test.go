package policy

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/authz/token"
)

// echo is a policy that answers with its input.
const echo = `package orchestrator
result := {"allowed": false, "external_message": json.marshal(input)}`

func TestDocument(t *testing.T) {
	identity := &token.Identity{
		Issuer: "https://as.example", Subject: "ann", ClientID: "agent", ClientOnly: true, Binding: token.Binding{Method: token.MethodDPoP, Thumbprint: "t"}, Actors: []string{"agent", "hub"}, Scopes: []string{"a", "b"},
		Claims: map[string]any{"sub": "ann", "exp": json.Number("1767225600"), "groups": []any{"x"}, "act": map[string]any{"sub": "agent"}, "admin": false, "none": nil},
	}
	http := HTTP{Method: "POST", Path: "/mcp", Host: "gateway.example", Headers: map[string]string{"Accept": "a, b"}}
	const rest = `"http":{"method":"POST","path":"/mcp","host":"gateway.example","headers":{"Accept":"a, b"}}},"source":{"ip":"2001:db8::1"},"app":{"name":"wiki"}`
	const noIdentity = `"identity":{}`
	tests := map[string]struct {
		in   Input
		want string
	}{
		"tool": {
			Input{Method: "tools/call", ProtocolVersion: "2026-07-28", Tool: &Tool{"read", []byte(`{"n":1.50,"s":"\u00e9\"","l":[true,false,null,{}],"input":{"identity":1}}`)}, Identity: identity},
			`{"request":{"mcp":{"method":"tools/call","protocol_version":"2026-07-28","tool":{"params":{"name":"read","arguments":{"n":1.50,"s":"é\"","l":[true,false,null,{}],"input":{"identity":1}}}}},` + rest +
				`,"identity":{"issuer":"https://as.example","subject":"ann","client_id":"agent","client_only":true,"binding":"dpop","actors":["agent","hub"],"scopes":["a","b"],"claims":{"sub":"ann","exp":1767225600,"groups":["x"],"act":{"sub":"agent"},"admin":false,"none":null}}}`,
		},
		"no arguments": {
			Input{Method: "tools/call", Tool: &Tool{Name: "read"}},
			`{"request":{"mcp":{"method":"tools/call","protocol_version":"","tool":{"params":{"name":"read","arguments":{}}}},` + rest + `,` + noIdentity + `}`,
		},
		"prompt": {
			Input{Method: "prompts/get", Prompt: &Tool{"p", []byte(`{"a":"b"}`)}},
			`{"request":{"mcp":{"method":"prompts/get","protocol_version":"","prompt":{"params":{"name":"p","arguments":{"a":"b"}}}},` + rest + `,` + noIdentity + `}`,
		},
		"resource": {
			Input{Method: "resources/read", Resource: &Resource{"file:///a"}},
			`{"request":{"mcp":{"method":"resources/read","protocol_version":"","resource":{"params":{"uri":"file:///a"}}},` + rest + `,` + noIdentity + `}`,
		},
		"neither": {
			Input{Method: "ping", Identity: &token.Identity{}},
			`{"request":{"mcp":{"method":"ping","protocol_version":""},` + rest +
				`,"identity":{"issuer":"","subject":"","client_id":"","client_only":false,"binding":"","actors":[],"scopes":[],"claims":{}}}`,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			tt.in.HTTP, tt.in.SourceIP, tt.in.App = http, "2001:db8::1", "wiki"
			got := mustCompile(t, echo).Decide(t.Context(), tt.in)
			if diff := cmp.Diff(decode(t, tt.want), decode(t, got.Message)); diff != "" {
				t.Errorf("%s (%s)", diff, got.Explain())
			}
		})
	}
}

func TestUnreadableClaimsDeny(t *testing.T) {
	p := mustCompile(t, rules(`result := {"allowed": input.identity.subject == "ann"}`))
	in := call("read", "")
	in.Identity = &token.Identity{Subject: "ann", Claims: map[string]any{"f": func() {}}}
	if d := p.Decide(t.Context(), in); d.Allowed || d.Reason != Failed {
		t.Errorf("got %+v", d)
	}
	if p.Visible(t.Context(), in) {
		t.Error("visible")
	}
}

// decode keeps numbers as they were written.
func decode(t *testing.T, s string) any {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(s))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%v in %q", err, s)
	}
	return v
}

// A policy gets the same answer from the parts of the input that it names as from the whole.
func TestPartsEqualTheWhole(t *testing.T) {
	in := call("read", `{"a":[1]}`)
	in.Identity = &token.Identity{Subject: "ann"}
	for _, path := range []string{
		"request.mcp.tool.params.arguments.a[0]", "request.mcp.tool.params.name", "request.http.headers.Authorization", "request.http.host",
		"identity.subject", "identity.client_only", "identity.binding", "identity.claims", "identity.actors", "source.ip", "app.name", "request.mcp.method", "request.mcp.protocol_version",
	} {
		named := mustCompile(t, rules(`result := {"allowed": false, "external_message": json.marshal(input.`+path+`)}`)).Decide(t.Context(), in)
		whole := mustCompile(t, rules(`pick(x) := x.`+path, `result := {"allowed": false, "external_message": json.marshal(pick(input))}`)).Decide(t.Context(), in)
		if named.Message == "" || named.Message != whole.Message {
			t.Errorf("%s: %q and %q", path, named.Message, whole.Message)
		}
	}
}

func TestArguments(t *testing.T) {
	for raw, want := range map[string]error{
		`{}`:                                    nil,
		` {"a" : [ 1 , -2.5e+10 , "x" ] } `:     nil,
		`{"a":12345678901234567890}`:            nil,
		`{"a":1e308}`:                           nil,
		``:                                      errNotObject,
		`null`:                                  errNotObject,
		`"x"`:                                   errNotObject,
		`[{}]`:                                  errNotObject,
		`{"a":1,"a":2}`:                         errDuplicate,
		`{"a":{"b":1,"\u0062":2}}`:              errDuplicate,
		`{"a":1e309}`:                           errNumber,
		`{"a":1e-10000}`:                        errNumber,
		`{"a":NaN}`:                             errNumber,
		`{"a":-}`:                               errNumber,
		`{"a":` + strings.Repeat(`[`, 64) + `1`: errDepth,
		`{"a":[` + strings.Repeat(`{"a":`, 10000): errDepth,
	} {
		if _, err := arguments([]byte(raw), members{all: true}); err != want {
			t.Errorf("%.40s: got %v, want %v", raw, err, want)
		}
	}
}
