# Only known agents, acting for themselves or through known services, from our own networks.
package orchestrator

default result["allowed"] := false

agents := {"support-desk", "nightly-report"}

services := {"workflow-engine"}

networks := {"10.20.0.0/16", "fd00:20::/32"}

result["allowed"] := true if {
	known_agent
	known_chain
	our_network
}

known_agent if input.identity.client_id in agents

# The actors of the agent's token, outermost first. No actors is a chain too.
known_chain if {
	every actor in input.identity.actors {
		actor in (agents | services)
	}
}

our_network if {
	some network in networks
	net.cidr_contains(network, input.source.ip)
}
