package orchestrator_test

import data.orchestrator

call(name, subject) := {
	"request": {"mcp": {"tool": {"params": {"name": name, "arguments": {}}}}},
	"identity": {"subject": subject},
}

test_the_older_dialect_reads_the_same_input {
	orchestrator.result.allowed with input as call("listItems", "")
	orchestrator.result.allowed with input as call("getItem", "ann")
	not orchestrator.result.allowed with input as call("getItem", "")
	not orchestrator.result.allowed with input as call("deleteItem", "ann")
}
