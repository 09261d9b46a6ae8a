# Who may call which tool. See docs/policy.md.
package orchestrator

default result["allowed"] := false

call := input.request.mcp.tool.params

# Everybody may look.
result["allowed"] := true if call.name in {"listItems", "getItem"}

# Buyers may order.
result["allowed"] := true if {
	call.name == "createItem"
	"buyers" in input.identity.claims.groups
}
