package hub

import "context"

// Store is what is known of sessions beyond what their ids say: when each was last used, which have ended, and what was
// opened or asked for at upstreams on their behalf. Replicas that share a store share sessions.
//
// An owner is an agent's session, by its Session.ID, or a principal in the era without sessions. All of it is soft
// state: losing it costs handshakes and subscriptions. A store in memory, which a restart empties, takes sessions that it
// does not know for live; a shared one, which outlives restarts, takes them for ended.
//
// Implementations are safe for concurrent use and bound what they keep. An owner that was idle for longer than the
// store's timeout has ended; a principal never ends, it is only forgotten (authz.IsPrincipal). Errors mean that the store cannot be asked; the caller then refuses.
type Store interface {
	// Begin registers a new session. It reports false when principal has too many open.
	Begin(ctx context.Context, owner, principal string) (bool, error)
	// Touch marks an owner as used. It reports false when it has ended.
	Touch(ctx context.Context, owner string) (bool, error)
	// End ends an owner and returns the upstream sessions that are to be closed.
	End(ctx context.Context, owner string) ([]UpstreamSession, error)
	// Expire ends the owners that were idle for too long, and returns their upstream sessions: each to one caller only.
	Expire(ctx context.Context) ([]UpstreamSession, error)

	// Upstream returns owner's session at an app, and marks the owner as used.
	Upstream(ctx context.Context, owner, app string) (UpstreamSession, bool, error)
	// Upstreams returns all of owner's upstream sessions.
	Upstreams(ctx context.Context, owner string) ([]UpstreamSession, error)
	// PutUpstream keeps owner's session at s.App and returns what it displaces, which the caller closes.
	PutUpstream(ctx context.Context, owner string, s UpstreamSession) ([]UpstreamSession, error)
	// RemoveUpstream forgets owner's session at app if its id is still id.
	RemoveUpstream(ctx context.Context, owner, app, id string) error

	// Remember keeps a fact about an owner, "" forgets it. Facts returns all of them.
	Remember(ctx context.Context, owner, key, value string) error
	Facts(ctx context.Context, owner string) (map[string]string, error)
	// Once reports whether this is the first time that owner shows this mark.
	Once(ctx context.Context, owner, mark string) (bool, error)

	// Publish hands a message to every replica that is subscribed to topic, this one included. It may be lost.
	Publish(ctx context.Context, topic string, message []byte) error
	// Subscribe calls receive for each message published to topic, one at a time, until cancel is called.
	Subscribe(ctx context.Context, topic string, receive func(message []byte)) (cancel func(), err error)
}

// UpstreamSession is a session that an upstream opened for an owner.
type UpstreamSession struct {
	App     string `json:"app"`
	Route   string `json:"route"`             // where it was opened
	ID      string `json:"id,omitempty"`      // Mcp-Session-Id, "" when the upstream keeps no sessions
	Version string `json:"version"`           // negotiated with the upstream
	Logging bool   `json:"logging,omitempty"` // it has log levels to set
	Guarded bool   `json:"guarded,omitempty"` // it was opened with a token, and knows whose it is
}

// What one owner may have in a store.
const (
	maxFacts = 1000
	maxMarks = 1000
)
