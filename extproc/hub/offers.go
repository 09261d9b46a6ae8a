package hub

import (
	"encoding/json"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/mcpparse"
)

// offers is what an upstream said that it can do, as far as a gateway can carry it.
type offers struct {
	tools, prompts, resources, subscribe, completions, logging bool
	changes                                                    bool // it tells when its lists change
}

// readOffers reads the capabilities of an initialize or server/discover result. A server that names none is taken to
// have tools: some name nothing and have them.
func readOffers(result []byte) offers {
	capabilities := mcpparse.Member(result, "capabilities")
	has := func(name string) bool { return mcpparse.Member(capabilities, name) != nil }
	is := func(name, flag string) bool {
		return string(mcpparse.Member(mcpparse.Member(capabilities, name), flag)) == "true"
	}
	o := offers{tools: has("tools"), prompts: has("prompts"), resources: has("resources"), completions: has("completions"),
		logging: has("logging"), subscribe: is("resources", "subscribe"),
		changes: is("tools", "listChanged") || is("prompts", "listChanged") || is("resources", "listChanged")}
	if !o.tools && !o.prompts && !o.resources {
		o.tools = true
	}
	return o
}

// offered is the union of what the apps behind this gateway offer to agents of one era. What cannot be carried to the
// agent's era is left out: log levels are a session's, so only a legacy agent has any, at legacy upstreams.
func (h *Hub) offered(apps []*authz.App, era mcpparse.Era, who *authz.Caller) offers {
	all := offers{tools: true} // an endpoint without any would be none
	for _, a := range apps {
		e, o := h.upstreamFor(a, who).offering()
		all.prompts = all.prompts || o.prompts
		all.resources = all.resources || o.resources
		all.completions = all.completions || o.completions
		all.subscribe = all.subscribe || o.subscribe && (era == mcpparse.EraLegacy || e.modern)
		all.logging = all.logging || o.logging && (era == mcpparse.EraLegacy && e.legacy || era == mcpparse.EraModern && e.modern)
	}
	return all
}

// Serves reports whether any upstream offers who what a method is for, in an era.
func (h *Hub) Serves(method string, era mcpparse.Era, who *authz.Caller) bool {
	needs, ok := needs[method]
	return !ok || needs(h.offered(h.cfg.Gate().Apps(), era, who))
}

// needs are the methods that not every server has.
var needs = map[string]func(offers) bool{
	"prompts/list":             func(o offers) bool { return o.prompts },
	"prompts/get":              func(o offers) bool { return o.prompts },
	"resources/list":           func(o offers) bool { return o.resources },
	"resources/templates/list": func(o offers) bool { return o.resources },
	"resources/read":           func(o offers) bool { return o.resources },
	"resources/subscribe":      func(o offers) bool { return o.subscribe },
	"resources/unsubscribe":    func(o offers) bool { return o.subscribe },
	"completion/complete":      func(o offers) bool { return o.completions },
	"logging/setLevel":         func(o offers) bool { return o.logging },
}

// capabilities is the object that says o to agents.
func (o offers) capabilities(streams bool) json.RawMessage {
	type list struct {
		ListChanged bool `json:"listChanged,omitempty"`
		Subscribe   bool `json:"subscribe,omitempty"`
	}
	out := struct {
		Tools       *list     `json:"tools,omitempty"`
		Prompts     *list     `json:"prompts,omitempty"`
		Resources   *list     `json:"resources,omitempty"`
		Completions *struct{} `json:"completions,omitempty"`
		Logging     *struct{} `json:"logging,omitempty"`
	}{}
	if o.tools {
		out.Tools = &list{ListChanged: streams}
	}
	if o.prompts {
		out.Prompts = &list{ListChanged: streams}
	}
	if o.resources {
		out.Resources = &list{ListChanged: streams, Subscribe: o.subscribe && streams}
	}
	if o.completions {
		out.Completions = &struct{}{}
	}
	if o.logging {
		out.Logging = &struct{}{}
	}
	return encode(out)
}
