package exchange

import "sync/atomic"

// Stats is what a client has done and how it is, for metrics.
type Stats struct {
	// Exchanged, Refused, Unavailable and Unacceptable count the calls of Exchange
	// that asked the server, or tried to, by their end. Calls that share an
	// exchange count as one.
	Exchanged, Refused, Unavailable, Unacceptable uint64
	// Own counts the tokens that ClientCredentials returned; its failures are among
	// those above.
	Own uint64
	// Reused counts the calls that got a token of an exchange before.
	Reused uint64
	// CircuitOpen and Busy count the requests, among those that were Unavailable,
	// that were not sent at all.
	CircuitOpen, Busy uint64
	// Opened counts how often the circuit has opened.
	Opened uint64

	Circuit  Circuit // as it is now
	InFlight int     // requests that are at the token endpoint now
	Cached   int     // tokens that are kept for reuse, expired ones included
}

type counters struct {
	exchanged, refused, unavailable, unacceptable atomic.Uint64
	own, reused, broken, shed                     atomic.Uint64
	inFlight                                      atomic.Int64
}

func (n *counters) end(err *Error) {
	switch {
	case err == nil:
		n.exchanged.Add(1)
	case err.Kind == Refused:
		n.refused.Add(1)
	case err.Kind == Unavailable:
		n.unavailable.Add(1)
	default:
		n.unacceptable.Add(1)
	}
}

// Stats returns the figures of now.
func (c *Client) Stats() Stats {
	n := &c.count
	s := Stats{
		Exchanged: n.exchanged.Load(), Refused: n.refused.Load(), Unavailable: n.unavailable.Load(), Unacceptable: n.unacceptable.Load(),
		Own: n.own.Load(), Reused: n.reused.Load(), CircuitOpen: n.broken.Load(), Busy: n.shed.Load(), InFlight: int(n.inFlight.Load()), Cached: c.cache.size(),
	}
	s.Circuit, s.Opened = c.circuit.stats(c.cfg.Now())
	return s
}
