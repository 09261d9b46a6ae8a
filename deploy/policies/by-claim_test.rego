package orchestrator_test

import data.orchestrator

call(tool, groups, scopes) := {
	"request": {"mcp": {"tool": {"params": {"name": tool, "arguments": {}}}}},
	"identity": {"subject": "ann", "scopes": scopes, "claims": {"groups": groups}},
}

test_everybody_lists if orchestrator.result.allowed with input as call("listItems", [], [])

test_buyers_order if {
	orchestrator.result.allowed with input as call("createItem", ["buyers"], [])
	not orchestrator.result.allowed with input as call("createItem", ["sellers"], [])
}

test_a_group_is_an_element_of_a_list if {
	not orchestrator.result.allowed with input as call("createItem", "buyers", [])
}

test_deleting_takes_a_scope if {
	orchestrator.result.allowed with input as call("deleteItem", ["buyers"], ["item:Delete"])
	not orchestrator.result.allowed with input as call("deleteItem", ["buyers"], [])
}

test_only_buyers_are_told_which if {
	scopes := orchestrator.result.required_scopes with input as call("deleteItem", ["buyers"], [])
	scopes == ["item:Delete"]
	not orchestrator.result.required_scopes with input as call("deleteItem", ["sellers"], [])
}
