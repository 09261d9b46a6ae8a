// Package audit writes what was decided, and how it ended, as JSON lines in a hash chain.
//
// Every revocation has one record. Every message has one decision record, written before the decision takes effect, and one completion record, written
// when its exchange ends; both carry the call's id. Each record ends in seq, prev and hash: hash is the hex SHA-256 of
// the line's bytes before `,"hash"`, prev the hash of the record before, 64 zeros for the first. The chain goes on
// across restarts.
//
// Contract:
//   - a record is one line and one write; it is in the file when Decision returns nil. It is not synced to the disk:
//     what the operating system loses, a crash of the machine loses;
//   - strings are bounded and control characters escaped: no input can make two lines, or a line without end;
//   - a failed write is the caller's to act on. The log recovers by itself: the next record that can be written is
//     preceded by a gap record that says how many were lost, since when, and how many torn lines stand before it.
//     Nothing is ever truncated; a torn line that a crash left is kept, outside the chain, before such a gap record;
//   - Verify finds changed, inserted, reordered and missing lines. It cannot see that whole lines are missing at the
//     end, nor that somebody with write access computed a new chain: keep the last hash elsewhere to know that too.
//
// A Log is safe for concurrent use. One process writes a file; a second is refused.
package audit

import (
	"crypto/rand"
	"time"
)

// Outcome is what a decision came to.
type Outcome string

// The outcomes of decisions.
const (
	Allowed Outcome = "allowed"
	Denied  Outcome = "denied" // the caller may not
	Error   Outcome = "error"  // we could not
)

// Decision is what was decided of one message, and on what grounds. ID, Outcome and Method are always written, the
// others when they are not empty.
type Decision struct {
	Time            time.Time // zero: now
	ID              string    // joins the completion
	Outcome         Outcome
	Method          string // JSON-RPC method
	App             string
	Tool            string // without the app's prefix
	Prompt          string // likewise
	Resource        string // URI
	Subject         string
	ClientID        string
	Actors          []string
	Issuer          string
	JTI             string
	Binding         string // by which the agent proved that the token is its own: "dpop" or "mtls"; "" for a bearer token
	ArgumentsSHA256 string
	Policy          string
	PolicyDigest    string
	Message         string // why not
	Exchanged       *Exchanged
	SourceIP        string
	ProtocolVersion string
	Session         string

	Exchange string // the host's own id of the exchange, for Ledger; not written
}

// Exchanged describes the token that the upstream gets; its value never comes near the audit.
type Exchanged struct {
	Audience  []string
	Scopes    []string
	JTI       string
	ExpiresIn time.Duration // written in whole seconds
}

// CompletionOutcome is how an exchange ended.
type CompletionOutcome string

// The outcomes of exchanges.
const (
	OK            CompletionOutcome = "ok"
	Refused       CompletionOutcome = "refused"        // went no further than us
	UpstreamError CompletionOutcome = "upstream_error" // the upstream answered with an error
	Unreachable   CompletionOutcome = "unreachable"    // the upstream did not answer
	Aborted       CompletionOutcome = "aborted"        // the agent went away
	GatewayError  CompletionOutcome = "gateway_error"
)

// Completion is how the exchange of a decided message ended.
type Completion struct {
	Time     time.Time // zero: now
	ID       string
	Outcome  CompletionOutcome
	Status   int           // HTTP status that the agent got, 0 when none
	BytesIn  uint64        // body bytes from the agent
	BytesOut uint64        // body bytes to the agent
	Duration time.Duration // written in milliseconds, with microseconds as the fraction
}

// Revocation is one command that revoked something, or undid that. Action and one of Subject, ClientID, JTI and Session are
// always written, the others when they are not empty.
type Revocation struct {
	Time        time.Time // zero: now
	Action      RevocationAction
	Subject     string
	ClientID    string
	JTI         string
	Session     string // name of a session
	Issuer      string // "": of any
	IssuedUntil time.Time
	Until       time.Time
	Message     string // what went wrong
}

// RevocationAction is what a command did.
type RevocationAction string

// The actions.
const (
	Revoked RevocationAction = "revoked"
	Undone  RevocationAction = "undone"
)

// NewID returns a call id: 26 characters, 128 random bits.
func NewID() string { return rand.Text() }
