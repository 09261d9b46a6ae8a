package orchestrator_test

import data.orchestrator

call(agent, actors, ip) := {
	"request": {"mcp": {"tool": {"params": {"name": "listItems", "arguments": {}}}}},
	"identity": {"subject": "ann", "client_id": agent, "actors": actors},
	"source": {"ip": ip},
}

test_a_known_agent_from_our_network if {
	orchestrator.result.allowed with input as call("support-desk", [], "10.20.3.4")
	orchestrator.result.allowed with input as call("nightly-report", [], "fd00:20::7")
}

test_through_a_known_service if {
	orchestrator.result.allowed with input as call("support-desk", ["workflow-engine", "support-desk"], "10.20.3.4")
	not orchestrator.result.allowed with input as call("support-desk", ["stranger", "support-desk"], "10.20.3.4")
}

test_strangers if {
	not orchestrator.result.allowed with input as call("stranger", [], "10.20.3.4")
	not orchestrator.result.allowed with input as call("support-desk", [], "10.21.3.4")
}
