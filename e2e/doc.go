// Package e2e tests the product from outside: the built program, a real Envoy, an authorization server, MCP servers
// and agents, speaking over sockets. Of the program's packages it knows one, exchange/sts, as its authorization server.
//
// `make test` builds bin/sallyport and fetches bin/envoy first; the tests fail without them rather than skip.
package e2e
