package orchestrator_test

import data.orchestrator

call(arguments) := {"request": {"mcp": {"tool": {"params": {"name": "createItem", "arguments": arguments}}}}}

test_within_the_limit if {
	orchestrator.result.allowed with input as call({"quantity": 1})
	orchestrator.result.allowed with input as call({"quantity": 10})
}

test_beyond_the_limit if {
	not orchestrator.result.allowed with input as call({"quantity": 11})
	message := orchestrator.result.external_message with input as call({"quantity": 11})
	message == "Orders of more than 10 need a human."
}

test_what_is_no_quantity if {
	every quantity in [0, -5, null, true, "5", [5], {"n": 5}] {
		not orchestrator.result.allowed with input as call({"quantity": quantity})
	}
	not orchestrator.result.allowed with input as call({})
}
