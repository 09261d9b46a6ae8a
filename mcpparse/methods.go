package mcpparse

// Target is the sort of thing that a message is aimed at.
type Target uint8

// The targets. A completion/complete is aimed at a prompt or at a resource: see Message.Target.
const (
	NoTarget Target = iota
	Tool
	Prompt
	Resource
	Reference // a prompt or a resource, which params.ref tells; only in MethodInfo
)

// MethodInfo describes a method that clients call.
type MethodInfo struct {
	Name   string
	Kind   Kind // Request or Notification
	Target Target

	legacy, modern bool
}

// In reports whether the method exists in era.
func (i MethodInfo) In(era Era) bool {
	return era == EraLegacy && i.legacy || era == EraModern && i.modern
}

// LookupMethod finds a method in the closed table of what clients send, over HTTP, to servers: requests and
// notifications of all revisions, whether or not a gateway serves them. Names are compared byte by byte.
func LookupMethod(name string) (MethodInfo, bool) {
	i, ok := methods[name]
	return i, ok
}

// MirrorsName reports whether a 2026-07-28 request of this method carries its Message.Name in the Mcp-Name header
// (MCP 2026-07-28, streamable HTTP).
func MirrorsName(method string) bool {
	i := methods[method]
	return i.modern && (i.Target == Tool || i.Target == Prompt || i.Target == Resource)
}

var methods = func() map[string]MethodInfo {
	const legacy, modern = true, true
	table := []MethodInfo{
		{"initialize", Request, NoTarget, legacy, false},
		{"server/discover", Request, NoTarget, false, modern},
		{"ping", Request, NoTarget, legacy, false},
		{"tools/list", Request, NoTarget, legacy, modern},
		{"tools/call", Request, Tool, legacy, modern},
		{"prompts/list", Request, NoTarget, legacy, modern},
		{"prompts/get", Request, Prompt, legacy, modern},
		{"resources/list", Request, NoTarget, legacy, modern},
		{"resources/templates/list", Request, NoTarget, legacy, modern},
		{"resources/read", Request, Resource, legacy, modern},
		{"resources/subscribe", Request, Resource, legacy, false},
		{"resources/unsubscribe", Request, Resource, legacy, false},
		{"subscriptions/listen", Request, NoTarget, false, modern},
		{"completion/complete", Request, Reference, legacy, modern},
		{"logging/setLevel", Request, NoTarget, legacy, false},
		{"tasks/get", Request, NoTarget, legacy, modern},
		{"tasks/cancel", Request, NoTarget, legacy, modern},
		{"tasks/update", Request, NoTarget, false, modern},
		{"tasks/result", Request, NoTarget, legacy, false},
		{"tasks/list", Request, NoTarget, legacy, false},
		{"notifications/initialized", Notification, NoTarget, legacy, false},
		{"notifications/cancelled", Notification, NoTarget, legacy, false},
		{"notifications/progress", Notification, NoTarget, legacy, false},
		{"notifications/roots/list_changed", Notification, NoTarget, legacy, false},
	}
	byName := make(map[string]MethodInfo, len(table))
	for _, i := range table {
		byName[i.Name] = i
	}
	return byName
}()
