# Buyers may order. Deleting takes a scope, and the agent is told which, so that it can ask the user for it.
package orchestrator

default result["allowed"] := false

tool := input.request.mcp.tool.params.name

buyer if "buyers" in input.identity.claims.groups

result["allowed"] := true if tool == "listItems"

result["allowed"] := true if {
	tool == "createItem"
	buyer
}

result["allowed"] := true if {
	tool == "deleteItem"
	buyer
	"item:Delete" in input.identity.scopes
}

result["required_scopes"] := ["item:Delete"] if {
	tool == "deleteItem"
	buyer
	not "item:Delete" in input.identity.scopes
}
