package extproc

import (
	"errors"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/authz/session"
	"github.com/sallyport/sallyport/mcpparse"
)

// relay rewrites the event stream that answers a legacy call, chunk by chunk as Envoy hands it over: the names in it are
// sealed (session.Relay), and what the upstream may not say to this agent is left out.
type relay struct {
	call   *authz.Call
	rules  *session.Relay
	events *mcpparse.EventParser

	answered  bool // the response has been passed on
	resumable bool // an event had an id: the upstream may end the stream and go on when it is resumed
	broken    bool
}

var errBroken = errors.New("the upstream's event stream broke the protocol")

func newRelay(call *authz.Call, rules *session.Relay) *relay {
	return &relay{call: call, rules: rules, events: mcpparse.NewEventParser(session.MaxEventBytes)}
}

// rewrite returns what the agent gets in place of a chunk. A stream that broke the protocol ends with an error response;
// what comes after it is an error.
func (r *relay) rewrite(chunk []byte, end bool) ([]byte, error) {
	if r.broken {
		return nil, errBroken
	}
	r.events.Feed(chunk)
	out := []byte{}
	for {
		ev, ok, err := r.events.Next()
		if err == nil && ok {
			out, err = r.event(out, ev)
		}
		if err != nil {
			r.broken = true
			return r.giveUp(out), nil
		}
		if !ok {
			break
		}
	}
	if end && !r.resumable {
		out = r.giveUp(out)
	}
	return out, nil
}

func (r *relay) event(out []byte, ev mcpparse.Event) ([]byte, error) {
	relayed, err := r.rules.Event(ev)
	if err != nil {
		return out, err
	}
	r.resumable = r.resumable || ev.HasID && ev.ID != ""
	if relayed.Dropped != "" || relayed.Answers() && r.answered {
		return out, nil
	}
	r.answered = r.answered || relayed.Answers()
	return mcpparse.AppendEvent(out, relayed.Event), nil
}

// giveUp tells the agent that no response will come, unless it has one.
func (r *relay) giveUp(out []byte) []byte {
	if r.answered {
		return out
	}
	r.answered = true
	return mcpparse.AppendEvent(out, r.call.BrokenStream())
}
