package session

import (
	"testing"

	"github.com/sallyport/sallyport/mcpparse"
)

func TestReadCapabilities(t *testing.T) {
	for object, want := range map[string]Capabilities{
		``:                    0,
		`{}`:                  0,
		`[]`:                  0,
		`null`:                0,
		`{"experimental":{}}`: 0,
		`{"tasks":{"list":{}},"extensions":{"io.modelcontextprotocol/tasks":{}}}`: 0, // a gateway carries none of it
		`{"sampling":{}}`:                                     Sampling,
		`{"sampling":{"tools":{}}}`:                           Sampling | SamplingTools,
		`{"sampling":{"context":{},"tools":{}}}`:              Sampling | SamplingTools | SamplingContext,
		`{"elicitation":{}}`:                                  ElicitationForm, // names no mode: forms (2025-11-25, elicitation)
		`{"elicitation":{"form":{}}}`:                         ElicitationForm,
		`{"elicitation":{"url":{}}}`:                          ElicitationURL,
		`{"elicitation":{"url":{},"form":{}}}`:                ElicitationForm | ElicitationURL,
		`{"elicitation":{"other":{}}}`:                        ElicitationForm,
		`{"roots":{}}`:                                        Roots,
		`{"roots":{"listChanged":false}}`:                     Roots,
		`{"roots":{"listChanged":"true"}}`:                    Roots,
		`{"roots":{"listChanged":true}}`:                      Roots | RootsListChanged,
		` { "s\u0061mpling" : { "tools" : { } } } `:           Sampling | SamplingTools,
		`{"Sampling":{},"ROOTS":{},"sampling/tools":{}}`:      0,
		`{"roots":{"listChanged":true},"sampling":{}, "x":1}`: Roots | RootsListChanged | Sampling,
	} {
		if got := ReadCapabilities([]byte(object)); got != want {
			t.Errorf("%s: %b, want %b", object, got, want)
		}
	}
}

// What is said of a client to servers is what the client said, and never more.
func TestCapabilitiesRoundTrip(t *testing.T) {
	const all = RootsListChanged<<1 - 1
	for c := range all + 1 {
		text := c.JSON()
		got := ReadCapabilities(text)
		if !c.Has(got) {
			t.Errorf("%b became %b by %s", c, got, text)
		}
		if again := ReadCapabilities(got.JSON()); again != got {
			t.Errorf("%b became %b", got, again)
		}
		if _, err := mcpparse.Parse([]byte(`{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"x","capabilities":` + string(text) + `}}`)); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	for c, want := range map[Capabilities]string{
		0:        `{}`,
		Sampling: `{"sampling":{}}`,
		Sampling | SamplingTools | SamplingContext: `{"sampling":{"context":{},"tools":{}}}`,
		ElicitationURL:           `{"elicitation":{"url":{}}}`,
		Roots | RootsListChanged: `{"roots":{"listChanged":true}}`,
	} {
		if got := string(c.JSON()); got != want {
			t.Errorf("%b: %s, want %s", c, got, want)
		}
	}
}

func TestAllows(t *testing.T) {
	const form, url = `{"mode":"form"}`, `{"mode":"url"}`
	for _, test := range []struct {
		has    Capabilities
		method string
		params string
		want   bool
	}{
		{0, "ping", "", true},
		{0, "roots/list", "", false},
		{Roots, "roots/list", "", true},
		{RootsListChanged, "roots/list", "", false},
		{0, "sampling/createMessage", "", false},
		{Sampling, "sampling/createMessage", "", true},
		{SamplingTools, "sampling/createMessage", "", false},
		{0, "elicitation/create", "", false},
		{ElicitationForm, "elicitation/create", "", true},
		{ElicitationForm, "elicitation/create", form, true},
		{ElicitationForm, "elicitation/create", url, false},
		{ElicitationForm, "elicitation/create", `{"mode":"\u0075rl"}`, false},
		{ElicitationURL, "elicitation/create", url, true},
		{ElicitationURL, "elicitation/create", form, false},
		{ElicitationURL, "elicitation/create", "", false},
		{^Capabilities(0), "tasks/get", "", false},
		{^Capabilities(0), "tools/call", "", false},
		{^Capabilities(0), "Ping", "", false},
		{^Capabilities(0), "", "", false},
	} {
		if got := test.has.Allows(test.method, []byte(test.params)); got != test.want {
			t.Errorf("%b: %s %s: %v", test.has, test.method, test.params, got)
		}
	}
}
