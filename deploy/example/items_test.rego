package orchestrator_test

import data.orchestrator

call(tool, groups) := {
	"request": {"mcp": {"tool": {"params": {"name": tool, "arguments": {}}}}},
	"identity": {"subject": "ann", "claims": {"groups": groups}},
}

test_everybody_looks if {
	orchestrator.result.allowed with input as call("listItems", [])
	orchestrator.result.allowed with input as call("getItem", [])
}

test_buyers_order if {
	orchestrator.result.allowed with input as call("createItem", ["buyers"])
	not orchestrator.result.allowed with input as call("createItem", ["sellers"])
}

test_nobody_updates if not orchestrator.result.allowed with input as call("updateItem", ["buyers"])
