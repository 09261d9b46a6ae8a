// Package hub answers the messages that have many targets or none: initialize, server/discover, ping, the lists,
// notifications and the end of a session. It also keeps what is known of the upstreams: which protocol era each one
// speaks, its last good tool list, and the sessions it opened for us.
//
// Agents reach the hub through Envoy, and the hub reaches upstreams through Envoy's egress listener, so that there is
// one place for pooling, TLS and limits. Read hub.go for what agents send, upstream.go for what upstreams answer.
//
// Contract:
//   - every request is identified anew by the gate: no header is trusted to say who is calling, and the hub answers
//     alike however it was reached;
//   - nothing crosses between principals: upstream sessions are kept per owner and opened with tokens of that owner's,
//     lists are filtered per caller, and belong to one caller alone where they were read with its token;
//   - the gateway's own token goes out with what the hub asks on its own account, and with nothing of an agent's;
//   - upstream answers are hostile input: strictly parsed, bounded in bytes, items and time. A bad answer makes its
//     app unavailable and changes nothing for the others;
//   - what is remembered is soft state in bounded memory. Losing it costs a handshake, never an agent's session;
//   - the items of a list are passed on byte for byte, but for the name.
//
// All exported methods are safe for concurrent use.
package hub
