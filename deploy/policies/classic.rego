package orchestrator

default result["allowed"] := false

# The older dialect: a rule's body follows its head without "if".
result["allowed"] := true {
	input.request.mcp.tool.params.name == "listItems"
}

result["allowed"] := true {
	input.request.mcp.tool.params.name == "getItem"
	input.identity.subject != ""
}
