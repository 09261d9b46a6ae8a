// Package extproc lets Envoy ask the gate (envoy.filters.http.ext_proc), and tells the audit how each exchange
// ended (Envoy's gRPC access log).
//
// stream.go is the state machine of one gRPC stream, free of protobuf; action.go translates between it and Envoy's
// messages (what ext_authz says alike is in authz/envoyhttp); server.go moves messages between the two.
//
// The one thing to know: Envoy takes a stream that ends with OK as "go on without asking", whatever
// failure_mode_allow says. So a handler returns nil in exactly one place, after its last answer, and every other way
// out is an error.
package extproc
