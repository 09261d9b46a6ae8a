// Package e2e tests the product from outside: the built program, a real Envoy, an authorization server, MCP servers
// and agents, speaking over sockets. It knows nothing of the program's packages but those of its peers
// (exchange/sts as authorization server, authz/audit to read what was recorded).
//
// `make test` builds bin/sallyport and fetches bin/envoy first; the tests fail without them rather than skip.
package e2e
