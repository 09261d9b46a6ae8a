package orchestrator

default result["allowed"] := false

call := input.request.mcp.tool.params

# Everybody may look.
result["allowed"] := true if call.name in {"listItems", "getItem"}

# Orders, within reason. Change the limit, save, and call again.
limit := 10

result["allowed"] := true if {
	call.name == "createItem"
	is_number(call.arguments.quantity) # Rego orders null and false before all numbers
	call.arguments.quantity <= limit
}

result["external_message"] := sprintf("Orders of more than %d need a human.", [limit]) if {
	call.name == "createItem"
	call.arguments.quantity > limit
}
