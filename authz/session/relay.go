package session

import (
	"errors"
	"strings"
	"time"

	"github.com/sallyport/sallyport/mcpparse"
)

// MaxEventBytes bounds one event of an upstream.
const MaxEventBytes = 4 << 20

const maxRetry = time.Minute

// ErrLie is returned for what no MCP server sends. The stream that it came on is worth nothing any more.
var ErrLie = errors.New("session: the upstream sent what is no MCP message")

// Relay lets the event stream of one upstream through to one agent (2025-11-25, transports). Two upstreams name things
// alike: request ids and progress tokens count from 1 everywhere, and event ids say nothing of who gave them. So the
// names that come back are sealed: see Name. What an upstream may not say to this agent is dropped.
//
// A Relay holds no state: it may be used by several goroutines.
type Relay struct {
	Sealer  *Sealer
	Session Session
	App     string
	Leg     string // the id of the upstream's session
	Stream  Kind   // of the event ids: CallEvent or StreamEvent
	Wants   []byte // the raw id of the request that the stream answers; nil when it answers none
	Resumes Tag    // in its place, of a stream that is resumed: Name.Call of the event where that broke off
}

// Relayed is one event as the agent may see it.
type Relayed struct {
	Event   mcpparse.Event
	Message mcpparse.Message // what the upstream said; zero when the event carries no message
	Dropped string           // why the agent must not see it; "" when it may
}

// Answers reports whether the event was the response that the stream was opened for.
func (r Relayed) Answers() bool { return r.Dropped == "" && r.Message.Kind == mcpparse.Response }

// Event judges one event and rewrites the names in it. After an error the stream must end.
func (r *Relay) Event(ev mcpparse.Event) (Relayed, error) {
	out := Relayed{Event: r.frame(ev)}
	switch {
	case len(ev.Data) == 0: // a keep-alive, or the event that makes a stream resumable
		out.Event.Type = ""
		return out, nil
	case ev.Type != "" && ev.Type != "message":
		out.Dropped = "an event of a type that the transport does not have"
		return out, nil
	}
	m, err := mcpparse.ParseUpstream(ev.Data)
	if err != nil {
		return out, errors.Join(ErrLie, err)
	}
	out.Message = m
	edits, why := r.message(m)
	if out.Dropped = why; why == "" {
		out.Event.Data = m.Splice(edits...)
	}
	return out, nil
}

// frame is the event without its data: its id sealed, its retry bounded.
func (r *Relay) frame(ev mcpparse.Event) mcpparse.Event {
	ev.Retry = min(ev.Retry, maxRetry)
	if ev.HasID && ev.ID != "" {
		if len(ev.ID) > 4*MaxNameBytes {
			ev.HasID = false
			return ev
		}
		ev.ID = r.seal(r.Stream, []byte(ev.ID))
	}
	return ev
}

func (r *Relay) message(m mcpparse.Message) (edits []mcpparse.Edit, dropped string) {
	switch m.Kind {
	case mcpparse.Response:
		if r.Wants != nil && mcpparse.SameToken(m.ID, r.Wants) || m.ID != nil && callOf(m.ID) == r.Resumes {
			return nil, ""
		}
		return nil, "a response to what was not asked"
	case mcpparse.Request:
		if !r.Session.Capabilities.Allows(m.Method, m.Params()) {
			return nil, "a request that the client did not say it could answer"
		}
		if len(m.ID) > MaxNameBytes || len(m.ProgressToken) > MaxNameBytes {
			return nil, "a request with a very long id"
		}
		edits = append(edits, m.SetID(r.name(RequestID, m.ID)))
		if m.ProgressToken != nil {
			edits = append(edits, m.SetProgressToken(r.name(ProgressToken, m.ProgressToken)))
		}
		return edits, ""
	case mcpparse.Notification:
		if strings.HasPrefix(m.Method, "notifications/tasks") {
			return nil, "tasks are not served"
		}
		if m.Method == "notifications/cancelled" && len(m.RequestID) <= MaxNameBytes {
			edits = append(edits, m.SetRequestID(r.name(RequestID, m.RequestID)))
		}
		return edits, ""
	}
	return nil, "no message"
}

// name seals a raw JSON token and returns a JSON string: base64url needs no escaping.
func (r *Relay) name(k Kind, raw []byte) []byte { return []byte(`"` + r.seal(k, raw) + `"`) }

func (r *Relay) seal(k Kind, raw []byte) string {
	n := Name{Kind: k, App: TagOf(r.App), Leg: TagOf(r.Leg), Raw: raw}
	switch {
	case k != CallEvent:
	case r.Wants != nil:
		n.Call = callOf(r.Wants)
	default:
		n.Call = r.Resumes
	}
	return r.Sealer.SealName(r.Session.ID, n)
}

// callOf tells a call from the others of its session by its id, however that is spelt.
func callOf(id []byte) Tag {
	if text, ok := mcpparse.Text(id); ok {
		return TagOf(`"` + text)
	}
	return TagOf(string(id))
}
