package orchestrator_test

import data.orchestrator

call(name) := {"request": {"mcp": {"tool": {"params": {"name": name, "arguments": {}}}}}}

test_reading_is_allowed if {
	every name in {"listItems", "getItem"} {
		orchestrator.result.allowed with input as call(name)
	}
}

test_anything_else_is_denied if {
	not orchestrator.result.allowed with input as call("deleteItem")
	not orchestrator.result.allowed with input as call("listitems")
	not orchestrator.result.allowed with input as {}
}
