// Package authz is the gate: it judges one message of the Model Context Protocol.
//
// A Request goes in, a Verdict comes out: forwarded to exactly one place with exactly one credential, or answered
// on the spot. The package knows neither Envoy nor sockets, so that every host (ext_proc, ext_authz, a test) gets
// the same answer from the same code. Read gate.go first; it is the whole story of one message.
//
// Contract:
//   - fail closed: whatever is not understood, not verified, not decided or not recorded is refused;
//   - identity comes only from the verified token, never from a header or the body;
//   - the bytes that were judged are the bytes that are forwarded (spliced, never re-encoded);
//   - a Verdict that forwards has been recorded in the audit log before the caller sees it.
package authz
