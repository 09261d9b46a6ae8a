package authz

// CanaryHeader carries the nonce of a canary, and back its echo: see [Canary].
const CanaryHeader = "sallyport-canary"

// Canary answers the requests that the service sends through its own Envoy to see whether it is asked about them. It
// returns the echo of a nonce that is outstanding. Nobody else knows one, so no agent's message is taken for a canary, and
// what it gets is a refusal in any case.
type Canary interface {
	Echo(nonce string) (echo string, ok bool)
}

// canary refuses a request of our own. It is no message: the audit is about agents.
func (g *Gate) canary(r Request) (Reply, bool) {
	nonce, ok := r.Header.Get(CanaryHeader)
	if !ok || g.cfg.Canary == nil {
		return Reply{}, false
	}
	echo, ok := g.cfg.Canary.Echo(nonce)
	if !ok {
		return Reply{}, false
	}
	return Reply{Status: 401, Header: append(jsonHeader("no-store"), [2]string{"www-authenticate", "Bearer"}, [2]string{CanaryHeader, echo})}, true
}
