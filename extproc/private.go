package extproc

import (
	"github.com/sallyport/sallyport/authz/session"
	"github.com/sallyport/sallyport/mcpparse"
)

// private marks what a modern upstream answers to resources/read as this caller's own (2026-07-28, caching): the policy let
// this caller read it, and a cache that others share must not hand it on, whatever the upstream thinks of it.
type private struct {
	events *mcpparse.EventParser // nil: the answer is one JSON text
	text   []byte
}

// maxPrivateBytes bounds an answer that has to be held in memory.
const maxPrivateBytes = 8 << 20

func newPrivate(isEvents bool) *private {
	if isEvents {
		return &private{events: mcpparse.NewEventParser(session.MaxEventBytes)}
	}
	return &private{}
}

// rewrite returns what the agent gets in place of a chunk.
func (p *private) rewrite(chunk []byte, end bool) ([]byte, error) {
	if p.events == nil {
		if p.text = append(p.text, chunk...); len(p.text) > maxPrivateBytes {
			return nil, errBroken
		}
		if !end {
			return []byte{}, nil
		}
		return makePrivate(p.text)
	}
	p.events.Feed(chunk)
	out := []byte{}
	for {
		ev, ok, err := p.events.Next()
		if err != nil || !ok {
			return out, err
		}
		if len(ev.Data) > 0 {
			if ev.Data, err = makePrivate(ev.Data); err != nil {
				return nil, err
			}
		}
		out = mcpparse.AppendEvent(out, ev)
	}
}

// makePrivate changes the cacheScope of a response; any other message stays as it is.
func makePrivate(message []byte) ([]byte, error) {
	m, err := mcpparse.ParseUpstream(message)
	if err != nil {
		return nil, errBroken
	}
	return mcpparse.Private(m), nil
}
