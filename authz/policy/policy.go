// Package policy decides calls with Rego.
//
// A policy is one module of package orchestrator. It is asked for data.orchestrator.result, an object:
//
//	allowed           boolean: the call goes on if and only if it is exactly true
//	external_message  string: what the agent is told of a denial
//	required_scopes   array or set of strings: the scopes with which the call would be allowed (step-up)
//
// Contract:
//   - fail closed: undefined, conflicting, erring, late or ill-formed results deny, and errors of built-ins are
//     errors, not undefined values that a deny rule would silently miss;
//   - a policy computes and nothing else: built-ins that reach the network, the environment, the compiler or a
//     signing key do not exist for it;
//   - modules are read as Rego v1, else as v0 with the keywords if, in, contains and every; never as bare v0, which
//     reads "… := true if {…}" as an unconditional true;
//   - the caller has checked Tool.Arguments strictly (one JSON object, no duplicate names, bounded depth).
//
// A Policy is immutable and safe for concurrent use.
package policy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Deadline bounds one attempt at a decision, and there are two at most. Built-ins that loop honour it; a single linear one may
// run past it.
const Deadline = 50 * time.Millisecond

// Reasons of a Decision.
const (
	Allowed    = "allowed"
	Denied     = "denied"
	Undefined  = "undefined"   // no result, or a result without allowed
	NotBoolean = "not boolean" // the result is no object, or allowed is no boolean
	Conflict   = "conflict"    // rules gave different values to one name
	Failed     = "error"
	Late       = "deadline" // stopped after Deadline, or because the caller's context ended
)

// Decision is the answer to one call. The zero Decision denies.
type Decision struct {
	Allowed        bool
	Message        string   // external_message of a denial, for the agent; at most 4 KiB
	RequiredScopes []string // required_scopes of a denial, sorted; each an RFC 6749 §3.3 scope-token
	Reason         string   // one of the constants above, for the audit
	Err            error    // what went wrong: a code and a position, never a value of the input
}

// Explain says in a few words, for the audit, why the decision is what it is.
func (d Decision) Explain() string {
	if d.Err == nil {
		return "policy: " + d.Reason
	}
	return "policy: " + d.Reason + ": " + d.Err.Error()
}

// Policy is a compiled module.
type Policy struct {
	name, digest string
	reads        []ast.Ref
	sees         sight
	compiler     *ast.Compiler
	deadline     time.Duration
}

// Within returns the policy with another bound of a decision than Deadline: where many share a machine, a deadline of the
// clock also counts the time of others.
func (p *Policy) Within(deadline time.Duration) *Policy {
	q := *p
	q.deadline = deadline
	return &q
}

// Name is the policy's name in the audit.
func (p *Policy) Name() string { return p.name }

// Digest is the hex SHA-256 of the source.
func (p *Policy) Digest() string { return p.digest }

// Reads lists the input paths that the policy can read, sorted. "input" alone means all of it.
func (p *Policy) Reads() []string {
	paths := make([]string, len(p.reads))
	for i, ref := range p.reads {
		paths[i] = ref.String()
	}
	return paths
}

// ReadsHTTP reports whether decisions can depend on more than message, app and identity: on the HTTP request that carried
// the message, or on where it came from.
func (p *Policy) ReadsHTTP() bool {
	for _, ref := range p.reads {
		if overlap(ref, inputHTTP) || overlap(ref, inputSource) {
			return true
		}
	}
	return false
}

// Compile reads and checks one module. name is for the audit, file for positions. The error is an Errors when the
// source is at fault.
func Compile(name, file string, src []byte) (*Policy, error) {
	compiler, err := compile(file, src)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(src)
	reads := inputPaths(compiler)
	return &Policy{name, hex.EncodeToString(sum[:]), reads, seen(reads), compiler, Deadline}, nil
}

// Decide judges one call. It takes at most about twice Deadline.
func (p *Policy) Decide(ctx context.Context, in Input) (d Decision) {
	if err := p.evaluate(ctx, in, func(f facts) { d = f.decide(ctx) }); err != nil {
		return Decision{Reason: Failed, Err: err}
	}
	return d
}
