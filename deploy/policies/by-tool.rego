# Who has a valid token may read. Nothing else is for anybody.
package orchestrator

default result["allowed"] := false

result["allowed"] := true if input.request.mcp.tool.params.name in {"listItems", "getItem"}
