package session

import "github.com/sallyport/sallyport/mcpparse"

// Capabilities are what a client said in initialize that it can do for servers (2025-11-25, lifecycle). Only what a
// gateway can carry is kept: tasks and experiments are not.
type Capabilities uint16

// The capabilities.
const (
	Sampling Capabilities = 1 << iota
	SamplingTools
	SamplingContext
	ElicitationForm
	ElicitationURL
	Roots
	RootsListChanged
)

// Has reports whether all of what is among c.
func (c Capabilities) Has(what Capabilities) bool { return c&what == what }

// ReadCapabilities reads the capabilities object of initialize or of a 2026-07-28 request. An elicitation capability
// that names no mode means forms (2025-11-25, elicitation).
func ReadCapabilities(object []byte) Capabilities {
	var c Capabilities
	if sampling := mcpparse.Member(object, "sampling"); sampling != nil {
		c |= Sampling | flag(sampling, "tools", SamplingTools) | flag(sampling, "context", SamplingContext)
	}
	if elicitation := mcpparse.Member(object, "elicitation"); elicitation != nil {
		modes := flag(elicitation, "form", ElicitationForm) | flag(elicitation, "url", ElicitationURL)
		if modes == 0 {
			modes = ElicitationForm
		}
		c |= modes
	}
	if roots := mcpparse.Member(object, "roots"); roots != nil {
		c |= Roots
		if string(mcpparse.Member(roots, "listChanged")) == "true" {
			c |= RootsListChanged
		}
	}
	return c
}

func flag(object []byte, name string, c Capabilities) Capabilities {
	if mcpparse.Member(object, name) == nil {
		return 0
	}
	return c
}

// JSON is the capabilities object that says c.
func (c Capabilities) JSON() []byte {
	o := []byte("{}")
	set := func(object []byte, c Capabilities, what Capabilities, name string, value string) []byte {
		if !c.Has(what) {
			return object
		}
		return mcpparse.WithMember(object, name, []byte(value))
	}
	if c.Has(Sampling) {
		sampling := set([]byte("{}"), c, SamplingTools, "tools", "{}")
		o = mcpparse.WithMember(o, "sampling", set(sampling, c, SamplingContext, "context", "{}"))
	}
	if c&(ElicitationForm|ElicitationURL) != 0 {
		elicitation := set([]byte("{}"), c, ElicitationForm, "form", "{}")
		o = mcpparse.WithMember(o, "elicitation", set(elicitation, c, ElicitationURL, "url", "{}"))
	}
	if c.Has(Roots) {
		o = mcpparse.WithMember(o, "roots", set([]byte("{}"), c, RootsListChanged, "listChanged", "true"))
	}
	return o
}

// asks are the requests that servers send to clients, and what a client must have declared for each.
var asks = map[string]Capabilities{
	"ping":                   0,
	"roots/list":             Roots,
	"sampling/createMessage": Sampling,
	"elicitation/create":     0, // by mode: see Allows
}

// Allows reports whether a server may send a client with capabilities c the request method with params.
func (c Capabilities) Allows(method string, params []byte) bool {
	need, known := asks[method]
	if method == "elicitation/create" {
		need = ElicitationForm
		if mode, _ := mcpparse.Text(mcpparse.Member(params, "mode")); mode == "url" {
			need = ElicitationURL
		}
	}
	return known && c.Has(need)
}
