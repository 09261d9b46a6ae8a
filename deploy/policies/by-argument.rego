# Orders up to a limit are allowed; above it the agent is told what to do instead.
package orchestrator

default result["allowed"] := false

limit := 10

arguments := input.request.mcp.tool.params.arguments

order if input.request.mcp.tool.params.name == "createItem"

result["allowed"] := true if {
	order

	# Rego orders values of different types: null <= 10 and false <= 10 hold.
	is_number(arguments.quantity)
	arguments.quantity >= 1
	arguments.quantity <= limit
}

result["external_message"] := sprintf("Orders of more than %d need a human.", [limit]) if {
	order
	arguments.quantity > limit
}
