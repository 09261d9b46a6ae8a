package config_test

// problems are what each file in testdata must report, in order. A file that is
// not here must report nothing.
var problems = map[string][]string{
	"addresses.bad": {
		`38:12: admin.address: "127.0.0.1:8080" is already http.address; choose another port`,
		`40:12: service.address: "unix:relative.sock" is not absolute; write unix:/absolute/path`,
		`41:11: service.canary: "127.0.0.1:8080/mcp" is not an origin; write http://host:port, the agents' listener of this service's own Envoy, or off`,
	},
	"alias-bomb.bad": {
		`42:12: the file stands for more than 200000 values; remove aliases (*)`,
	},
	"alias-cycle.bad": {
		`41:15: nested deeper than 32 levels; remove levels or an alias (*) to its own parent`,
	},
	"alias-of-path.bad": {
		`10:7: warning: endpointPath is the older name of path; rename it`,
		`11:7: path and endpointPath (line 10) are the same; remove one`,
	},
	"alias-unknown.bad": {
		`32:21: not valid YAML: an alias (*) without its anchor (&); quote a value that begins with *`,
	},
	"app-bare.bad": {
		`15:5: an app's name is missing; name it`,
		`15:5: authorization.inbound.opa is missing; an app needs a policy, in rego or file`,
		`15:5: authorization.outbound.type is missing; write tokenExchange, or unprotected for a server that asks for no token`,
		`15:5: toolNamespace.name is missing; write a prefix such as my_server_, or disabled: true to leave the names bare`,
		`15:5: upstream.stream.url is missing; write the address of the MCP server`,
	},
	"app-name.bad": {
		`15:11: app name "my files" is not 1 to 64 characters of A-Z a-z 0-9 . _ -`,
	},
	"app-not-a-map.bad": {
		`37:5: an entry of apps is a map of keys, not a single value`,
		`38:5: app type "" is not supported; the only type is mcpProxy`,
		`38:5: authorization.inbound.opa is missing; an app needs a policy, in rego or file`,
		`38:5: authorization.outbound.type is missing; write tokenExchange, or unprotected for a server that asks for no token`,
		`38:5: name has no value; give it one or remove the key`,
		`38:5: toolNamespace.name is missing; write a prefix such as my_server_, or disabled: true to leave the names bare`,
		`38:5: upstream.stream.url is missing; write the address of the MCP server`,
	},
	"app-type.bad": {
		`16:11: app type "mcpBridge" is not supported; the only type is mcpProxy`,
	},
	"audience-empty.bad": {
		`13:13: expectedAudiences is missing or empty; list the audiences that tokens for this gateway carry`,
	},
	"audience-missing.bad": {
		`11:11: expectedAudiences is missing or empty; list the audiences that tokens for this gateway carry`,
	},
	"audience-wildcard.bad": {
		`13:33: expectedAudiences: there is no wildcard; list the audiences themselves`,
		`13:38: an entry of expectedAudiences is empty; remove it`,
		`13:45: "a" is twice in expectedAudiences; remove one`,
	},
	"auth-provider-no-audience.bad": {
		`27:1: authProvider.defaultAudience is missing; write the audience of the gateway`,
		`29:11: issuer: "http://127.0.0.1:9000/" has a query or a slash at its end; remove it`,
		`30:12: keyFile: "absent.pem" does not exist`,
		`33:7: a user's subject is missing; write the sub of the tokens`,
		`35:11: the name "gateway" is already on line 32; users and clients have different names`,
		`37:7: client "gateway" is public and can only log users in; give it a secret`,
		`38:22: redirectURIs: "callback" is not an absolute http or https URL`,
	},
	"auth-provider-open": {
		`38:12: warning: authProvider.address: whoever reaches "0.0.0.0:9000" can log in as each of the users; publish its port on loopback only`,
	},
	"auth-provider-open.bad": {
		`37:1: authProvider.issuer is missing; write the loopback address at which agents reach it, such as http://127.0.0.1:9000`,
		`38:12: warning: authProvider.address: whoever reaches "0.0.0.0:9000" can log in as each of the users; publish its port on loopback only`,
	},
	"auth-provider.bad": {
		`37:1: authProvider.users is missing or empty; add at least one subject`,
		`38:12: authProvider.address: other machines can reach "0.0.0.0:9000", and the embedded server asks for no password; use a loopback address`,
		`39:11: issuer: "https://auth.example.com/" is not on loopback, where the embedded server is; use its address`,
		`40:24: accessTokenLifetime must be from 1s to 24h`,
		`41:12: scope "a b" is not one OAuth scope; write one in each entry, without spaces`,
		`43:7: client "gateway" has no secret; add one as <namespace.key>, or public: true`,
		`44:65: an entry of grants: unknown value "password"; use one of authorization_code, client_credentials, refresh_token, urn:ietf:params:oauth:grant-type:token-exchange`,
		`45:7: exchange.audiences is missing or empty; list what the client may ask for`,
		`45:7: exchange.subjectAudiences is missing or empty; list the audiences of tokens that it may exchange`,
		`45:31: maxLifetime must be at least 1s`,
		`46:7: client "gateway" logs users in and has no redirectURIs; list them`,
		`46:11: the name "gateway" is already on line 43; users and clients have different names`,
		`48:15: client "gateway" is public and has a secret; remove one of them`,
		`50:7: a client's id is missing; write it`,
		`50:7: client "" has no grants; list its grant types`,
	},
	"connector-auth-method.bad": {
		`4:30: connector "idp" has no privateKeyFile, which private_key_jwt needs; name the PEM file, or write privateKey as <namespace.key>`,
	},
	"connector-key.bad": {
		`6:17: connector "idp" has a secret and a private key; say in tokenEndpointAuthMethod which one is used`,
		`6:17: privateKey: no private key in PEM`,
		`8:24: assertionAudience: unknown value "other"; use one of issuer, tokenEndpoint`,
		`10:5: additionalParameters: the additional parameter "Scope" is one that the exchange sets itself`,
		`12:20: maxConcurrent must be from 1 to 256`,
		`14:17: breaker.failures must be from 0, which turns the breaker off, to 1000`,
		`15:13: keyDir belongs to connectors of type sts; remove it`,
		`41:21: resource: "files" is not an absolute URI without a fragment`,
		`42:23: actorToken: the grant onBehalfOf of connector "idp" knows no actor; remove it`,
		`43:23: requireAct: the grant onBehalfOf of connector "idp" knows no actor; remove it`,
		`44:28: longerLifetimes: unknown value "maybe"; use one of accept, reject`,
		`45:18: reuse must be from 0s to 5m; a token that was taken back is used that long`,
	},
	"connector-mtls.bad": {
		`6:30: connector "idp" has no tls profile with a certFile, which tls_client_auth needs; add it`,
		`7:21: privateKeyFile: "absent.pem" does not exist`,
		`9:16: breaker.maxBackOff must be from backOff to 1h`,
	},
	"connector-sts-memory": {
		`2:5: warning: connector "idp" has its key in memory, so tokens are worthless after a restart until MCP servers have fetched the new one; write keyDir, or keys as <namespace.key>`,
		`31:25: warning: ttlParameter has no effect on tokens that the gateway mints; remove it`,
		`32:18: warning: reuse has no effect on tokens that the gateway mints; remove it`,
	},
	"connector-sts-own.bad": {
		`10:13: issuer: the path of "https://gateway.example.com/mcp" is already stream.path; choose another one, such as /tokens`,
		`15:13: issuer: "http://localhost:8443" is the gateway's own address, whose metadata agents take for where to log in; add a path such as /tokens`,
		`20:13: issuer: "https://mcp.example.com/health" is published at /health/jwks, which is already health.location; choose another path`,
		`30:13: issuer: "https://gateway.example.com/tokens" is published at /.well-known/oauth-authorization-server/tokens, which is already published for connector "first"; choose another path`,
	},
	"connector-sts.bad": {
		`5:13: issuer: "http://tokens.example.com/" has a query or a slash at its end; remove it`,
		`5:13: issuer: "http://tokens.example.com/" is plain http beyond loopback; use https, or allowPlainHTTP: true beside it on a closed network`,
		`6:14: warning: address: other machines can reach "0.0.0.0:8080" over plain HTTP, where keys can be replaced on their way; use a loopback address behind what terminates TLS`,
		`8:11: connector "idp" has both keyDir and keys; keep one`,
		`9:18: rotateEvery must be at least 2h, or 0s for no new keys`,
		`10:24: oauthClientSecret belongs to connectors of type oidc; remove it`,
		`14:13: issuer: "http://tokens.example.com/" has a query or a slash at its end; remove it`,
		`14:13: issuer: "http://tokens.example.com/" is already on line 5; let apps share that connector`,
		`14:13: issuer: "http://tokens.example.com/" is plain http beyond loopback; use https, or allowPlainHTTP: true beside it on a closed network`,
		`15:14: warning: address: other machines can reach "0.0.0.0:8080" over plain HTTP, where keys can be replaced on their way; use a loopback address behind what terminates TLS`,
		`15:14: connector "other" address: "0.0.0.0:8080" is already connector "idp" address; choose another port`,
		`16:11: keys: no PEM block`,
		`42:25: subjectClaim: a minted token has the agent's sub; remove it`,
	},
	"connector-networks.bad": {
		`4:33: allowNetworks: "10.20.0.1" is not a network; write it as 10.20.0.0/16`,
	},
	"connector-http.bad": {
		`4:23: oidcWellKnownURL: "http://idp.example.com/.well-known/openid-configuration" is plain http beyond loopback; use https, or allowPlainHTTP: true beside it on a closed network`,
	},
	"connector-incomplete.bad": {
		`2:5: connector "idp" has no oauthClientSecret, which exchanging tokens needs; add it as <namespace.key>`,
		`2:5: oauthClientID is missing; write the gateway's client id`,
		`2:5: oidcWellKnownURL is missing; write the address of the server's metadata`,
	},
	"connector-tls.bad": {
		`4:10: unknown tls profile "internal"; add it under the top-level key tls`,
	},
	"connector-type.bad": {
		`3:11: connector type "saml" is not supported; use oidc or sts`,
	},
	"control-character.bad": {
		`32:21: audience contains a control character or line break; write it on one line`,
	},
	"custom-tag.bad": {
		`32:21: audience: YAML tags are not supported; remove "!env"`,
	},
	"duplicate-app.bad": {
		`37:11: apps: the name "files" is already used on line 15; names are unique`,
	},
	"duplicate-connector.bad": {
		`7:11: connectors: the name "idp" is already used on line 2; names are unique`,
	},
	"duplicate-key.bad": {
		`17:5: key "type" is already on line 16; remove one`,
	},
	"duplicate-section.bad": {
		`40:1: section "http" is already on line 37; merge the two`,
	},
	"durations.bad": {
		`10:29: keepAlive.interval must be from 1s to 1h`,
		`12:26: session.timeout must be longer than zero; write a duration such as 30s`,
		`12:42: headerName: "Mcp Session" is not a header name; use Mcp-Session-Id`,
		`17:28: refreshInterval must be longer than zero; write a duration such as 30s`,
		`28:24: dialTimeout must be longer than zero; write a duration such as 30s`,
		`29:33: keepAlive.interval must be longer than zero; write a duration such as 30s`,
		`30:32: maxIdleConns must be at least 1`,
		`30:56: maxIdleConnsPerHost must be at least 1`,
		`41:20: timeout must be at most 1m; a call waits that long`,
	},
	"empty.bad": {
		` the file is empty; it needs mcpProvider and apps`,
	},
	"enum.bad": {
		`17:15: toolList: unknown value "some"; use one of all, policy`,
		`32:17: type: unknown value "delegaton"; did you mean "delegation"?`,
		`40:10: level: unknown value "warning"; did you mean "warn"?`,
	},
	"env-braces.bad": {
		`32:21: "{{ AUDIENCE }}": only {{ env.NAME }} is replaced; correct the braces`,
	},
	"env-missing.bad": {
		`32:21: environment variable ALSO_NOT_SET is not set or empty; set it`,
		`32:21: environment variable NOT_SET is not set or empty; set it`,
		`35:20: environment variable NOT_SET is not set or empty; set it`,
	},
	"exchange-discovery.bad": {
		`34:19: discovery.type: tokenExchange gives each caller lists of its own, which cannot say for all whose a bare name is; write a toolNamespace.name in place of disabled: true, or type: clientCredentials`,
		`35:18: ttl must be whole seconds from 1s to 1h`,
		`36:22: scope "file:List file:Read" is not one OAuth scope; write one in each entry, without spaces`,
		`60:19: type: unknown value "clientCredential"; did you mean "clientCredentials"?`,
	},
	"exchange-incomplete.bad": {
		`30:9: tokenExchange.audience is missing; write the audience of the MCP server`,
		`30:9: tokenExchange.idp is missing; name a connector`,
		`31:25: ttlParameter: "a b" is not a parameter name`,
	},
	"exchange-names.bad": {
		`37:21: tool "read**" and "read*x" (line 34) match the same names, and have as much before their first *; write more before one of them, or merge the two`,
		`40:21: tool "read*" and "read*x" (line 34) match the same names, and have as much before their first *; write more before one of them, or merge the two`,
		`43:21: tool "read*" is already on line 40; merge the two`,
		`50:15: prompt "read" has no ttl; write how long its token lives, such as ttl: 5s`,
		`50:21: prompt "read" is already on line 47; merge the two`,
		`52:15: a prompt's name is missing; write the name that the MCP server uses, without the namespace`,
		`52:15: warning: prompt "" has no scopes, so its token may carry none; list those that the MCP server demands`,
		`55:20: ttl must be whole seconds from 1s to 1h`,
		`57:20: resource "file:///a" is already on line 54; merge the two`,
		`59:24: scope "a b" is not one OAuth scope; write one in each entry, without spaces`,
		`59:31: scope "item:${args.id}" is a template; arguments do not choose scopes: write each scope out, and let the policy judge the arguments`,
		`59:50: "<id>" is not a secret reference; write <namespace.key>`,
		`59:50: scope "<id>" is a template; arguments do not choose scopes: write each scope out, and let the policy judge the arguments`,
		`59:58: "{{ id }}": only {{ env.NAME }} is replaced; correct the braces`,
		`59:58: scope "{{ id }}" is a template; arguments do not choose scopes: write each scope out, and let the policy judge the arguments`,
		`59:70: scope "item:<id>" is a template; arguments do not choose scopes: write each scope out, and let the policy judge the arguments`,
		`60:15: warning: resource "file:///a*/b" has no scopes, so its token may carry none; list those that the MCP server demands`,
		`62:20: resource "file:///a*b" and "file:///a*/b" (line 60) match the same uris, and have as much before their first *; write more before one of them, or merge the two`,
		`65:15: a resource's uri is missing; write the uri that the MCP server uses`,
		`67:11: tokenExchange.session has no ttl; write how long its token lives, such as ttl: 5s`,
		`68:13: warning: tokenExchange.session has no scopes, so its token may carry none; list those that the MCP server demands`,
	},
	"exchange-oauth-off.bad": {
		`30:15: outbound.type: tokenExchange needs an agent's token, but authorization.oauth.enabled is false; enable it or use unprotected`,
	},
	"http-profile.bad": {
		`38:8: tls profile "client" has no certFile and keyFile, which a listener needs; add them`,
	},
	"http.bad": {
		`38:12: http.address: ":99999" is not host:port; write an address such as 127.0.0.1:8080`,
		`39:8: unknown tls profile "server"; add it under the top-level key tls`,
		`40:20: maxRequestBytes must be from 1024 to 67108864`,
		`41:18: allowedHosts: "https://a.example.com" is not a host or host:port; write the value of the Host header`,
		`42:20: allowedOrigins: "*" is not an origin; write scheme://host[:port] without a path or wildcard`,
		`42:25: allowedOrigins: "https://a.example.com/" is not an origin; write scheme://host[:port] without a path or wildcard`,
	},
	"issuer-http.bad": {
		`11:30: wellKnownEndpoint: "http://idp.example.com/.well-known/oauth-authorization-server" is plain http beyond loopback; use https, or allowPlainHTTP: true beside it on a closed network`,
	},
	"issuer-relative.bad": {
		`11:30: wellKnownEndpoint: "idp.example.com/.well-known/oauth-authorization-server" is not an absolute http or https URL`,
	},
	"issuer-twice.bad": {
		`14:30: wellKnownEndpoint: "https://idp.example.com/.well-known/oauth-authorization-server" is already on line 11; remove one`,
	},
	"key-not-text.bad": {
		`17:5: a key of an entry of apps is not plain text`,
	},
	"list-not-list.bad": {
		`38:1: section "apps" is not a list here or on line 14; write a list in both`,
	},
	"list.bad": {
		`1:1: a configuration is a map of sections such as mcpProvider and apps, not a list`,
	},
	"long-value.bad": {
		`16:11: app type "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"… is not supported; the only type is mcpProxy`,
	},
	"merge-cycle.bad": {
		`20:15: nested deeper than 32 levels; remove levels or an alias (*) to its own parent`,
	},
	"merge-wrong.bad": {
		`18:11: << is a map of keys, not a single value`,
		`22:14: << is a map of keys, not a single value`,
	},
	"method-introspection.bad": {
		`13:21: introspection.clientID is missing; write the gateway's client id`,
		`13:21: introspection.clientSecret is missing; add it as <namespace.key>`,
	},
	"method-unknown.bad": {
		`13:21: method: "paseto" is not supported; use jwt or introspection`,
		`14:30: clockSkew must be from 0s to 5m; expired tokens are accepted that long`,
	},
	"introspection.bad": {
		`15:25: endpoint: "http://idp.example.com/introspect" is plain http beyond loopback; use https, or allowPlainHTTP: true beside it on a closed network`,
		`16:25: introspection.clientID is missing; write the gateway's client id`,
		`18:27: authMethod: unknown value "private_key_jwt"; use one of client_secret_basic, client_secret_post`,
		`19:23: tokens: unknown value "both"; use one of all, jwt, opaque`,
		`20:25: cacheTTL must be from 0s to 30s; revoked tokens are accepted that long`,
		`21:24: timeout must be longer than zero and at most 10s`,
		`26:13: introspection belongs to method introspection; write method: introspection, or remove it`,
	},
	"introspection-twice.bad": {
		`22:23: opaque tokens do not say whose they are, and those of the server on line 11 are introspected already; write tokens: jwt for one of the two`,
	},
	"binding.bad": {
		`13:23: an entry of clients is empty; remove it`,
		`13:32: "cli" is twice in clients; remove one`,
		`14:26: maxLifetime must be at least 1s; remove it for no limit`,
		`15:22: binding: unknown value "dpop"; use one of none, optional, required`,
		`18:19: dpop.proofAge must be from 1s to 10m; each used proof is remembered that long`,
		`19:24: dpop.nonceLifetime must be from 1s to 1h`,
	},
	"dpop-unused": {
		`14:7: warning: dpop has no effect while binding is none for every server; write binding: optional or required`,
	},
	"namespace-characters.bad": {
		`18:13: toolNamespace.name: "files/" is not 1 to 64 characters of A-Z a-z 0-9 _ . -`,
	},
	"namespace-missing.bad": {
		`15:5: toolNamespace.name is missing; write a prefix such as my_server_, or disabled: true to leave the names bare`,
	},
	"namespace-prefix.bad": {
		`40:13: toolNamespace.name: one of "files_more_" and "files_" (line 18) is the beginning of the other, so a call could mean two apps; change one`,
	},
	"no-apps.bad": {
		`14:1: apps is missing or empty; add the MCP servers to protect`,
	},
	"no-connectors.bad": {
		`25:16: unknown idp "idp": no connector has this name; add it under the top-level key connectors`,
	},
	"no-provider.bad": {
		` mcpProvider is missing; add the section that agents connect to`,
	},
	"no-servers.bad": {
		`10:7: authorization.oauth.servers is missing; name the authorization servers whose tokens are accepted, or write enabled: false`,
	},
	"no-transport.bad": {
		`8:3: no transport is enabled; enable transports.stream`,
	},
	"outbound-missing.bad": {
		`22:5: authorization.outbound.type is missing; write tokenExchange, or unprotected for a server that asks for no token`,
	},
	"outbound-no-exchange.bad": {
		`29:15: outbound.tokenExchange is missing; add idp, audience and tools`,
	},
	"outbound-type.bad": {
		`29:15: outbound.type: unknown value "tokenexchange"; did you mean "tokenExchange"?`,
	},
	"paths.bad": {
		`11:13: sse.path: "mcp/sse" is not a path; begin with /, without query, escapes, // or ..`,
		`12:20: sse.messagePath: "/mcp" is already stream.path; choose another path`,
		`17:21: metadataPath: "/a//b" is not a path; begin with /, without query, escapes, // or ..`,
		`46:13: health.location: "/mcp?x" is not a path; begin with /, without query, escapes, // or ..`,
	},
	"policy-both.bad": {
		`28:17: opa has both rego and file; keep one`,
	},
	"policy-file-faulty.bad": {
		`testdata/faulty.rego:5:1: policy "files": rego_parse_error: unexpected } token`,
	},
	"policy-file-missing.bad": {
		`25:17: policy file: "absent.rego" does not exist`,
	},
	"policy-http-send.bad": {
		`27:34: policy "files": rego_type_error: undefined function http.send`,
	},
	"policy-missing.bad": {
		`22:5: authorization.inbound.opa is missing; an app needs a policy, in rego or file`,
	},
	"policy-neither.bad": {
		`24:9: opa has neither rego nor file; add one`,
	},
	"policy-package.bad": {
		`26:13: policy "files": package must be orchestrator, not other`,
	},
	"policy-quoted.bad": {
		`25:17: policy "files": package must be orchestrator, not other`,
	},
	"policy-secret.bad": {
		`27:22: policy "files" does not compile; its errors are not shown because it contains references to secrets or variables`,
	},
	"policy-syntax.bad": {
		`30:13: policy "files": rego_parse_error: unexpected } token`,
	},
	"provider-disabled.bad": {
		`8:12: mcpProvider.enabled is false; there is nothing else to run, write true`,
	},
	"replicas.bad": {
		"38:11: service.replicas: any of them may refuse the canary of another; write canary: off",
		"39:16: service.replicas: an Envoy that asks a service for its configuration belongs to that service; write envoyConfig: static",
		"40:3: service.replicas: each would know its own sessions only; set session.store",
		"40:3: service.replicas: one Envoy has no way to the upstreams for each; write upstreams: direct",
		"42:12: service.replicas: the hub of a unix socket is beside it; remove hub",
		`43:16: service.replicas: "127.0.0.1:9000" is not of the first one's kind; write unix sockets for all, or host:port for all`,
		`44:12: service.replicas: "127.0.0.1:9001" is given twice; remove one`,
		`45:16: service.replicas: "unix:two/service.sock" is not absolute; write unix:/absolute/path`,
		"46:7: service.replicas.address is missing; write unix:/absolute/path or host:port",
	},
	"requires.bad": {
		`10:32: scope "a b" is not one OAuth scope; write one in each entry, without spaces`,
		`10:39: "files" is twice in scopesSupported; remove one`,
		`10:46: scopesSupported: offline_access is for the client to ask of its authorization server; remove it`,
		`38:36: scope "a b" is not one OAuth scope; write one in each entry, without spaces`,
		`43:33: scope "${args.scope}" is a template; arguments do not choose scopes: write each scope out, and let the policy judge the arguments`,
		`48:26: scope "" is not one OAuth scope; write one in each entry, without spaces`,
	},
	"seed": {
		`72:14: warning: url: tokens for "http://mcp-server.example.com:8080/mcp" cross the network in the clear, where others can read and use them; use https, or keep that network closed`,
	},
	"secret-missing.bad": {
		`32:21: secret <files.hots> is not in the secret provider; add it there`,
	},
	"secret-never-shown.bad": {
		`29:15: outbound.type: unknown value "<gateway.clientSecret>"; use one of tokenExchange, unprotected`,
		`38:12: http.address: "<gateway.clientSecret>" is not host:port; write an address such as 127.0.0.1:8080`,
		`40:10: level: unknown value "<gateway.clientSecret>"; use one of debug, error, info, warn`,
	},
	"secret-shape.bad": {
		`6:24: "<gatewaySecret>" is not a secret reference; write <namespace.key>`,
	},
	"session-placeholder.bad": {
		`38:8: session.key repeats a few characters and can be guessed; make one with: openssl rand -base64 48`,
	},
	"revocation-file.bad": {
		`41:9: revocation.file is of no use with a session.store that replicas share, where revocations are kept; remove it`,
	},
	"session-store-address.bad": {
		`39:10: session.store is not redis://[user:password@]host:port[/db]; correct it, and percent-encode the special characters of a password`,
	},
	"session-store-braces.bad": {
		`39:10: session.store is not redis://[user:password@]host:port[/db]; correct it, and percent-encode the special characters of a password`,
		`39:10: store: only {{ env.NAME }} is replaced; correct the braces`,
	},
	"session-store-no-key.bad": {
		`38:10: session.store other than memory needs session.key, which the replicas share; make one with: openssl rand -base64 48`,
	},
	"session-store-no-port.bad": {
		`39:10: session.store is not redis://[user:password@]host:port[/db]; correct it, and percent-encode the special characters of a password`,
	},
	"session-store-plain": {
		`39:10: warning: session.store: redis:// beyond loopback shows the sessions' ids and the store's password on the path; use rediss://, or close the network`,
	},
	"session-store-scheme.bad": {
		`39:10: session.store is neither memory nor the address of a Redis; write redis://host:port or rediss://host:port`,
	},
	"session-store.bad": {
		`39:10: session.store has a query or fragment; remove it, and percent-encode the special characters of a password`,
		`39:10: session.store has a user without a password; write user:password@, or :password@ for the default user`,
		`39:10: session.store has something else than a database's number after host:port; write it as /0, or remove it`,
		`39:10: warning: session.store: redis:// beyond loopback shows the sessions' ids and the store's password on the path; use rediss://, or close the network`,
	},
	"session.bad": {
		`38:8: session.key is shorter than 32 bytes; make one with: openssl rand -base64 48`,
		`39:10: session.store is neither memory nor the address of a Redis; write redis://host:port or rediss://host:port`,
	},
	"syntax.bad": {
		`3:5: not valid YAML: did not find expected ',' or ']'`,
	},
	"tab.bad": {
		`2:1: not valid YAML: found character that cannot start any token; indent with spaces, not tabs, and quote values that begin with a special character`,
	},
	"limits.bad": {
		`2:19: maxConnections must be from 1 to 1000000`,
		`3:3: requestLimit.calls must be from 1 to 1073741824`,
		`27:24: maxRequests must be from 1 to 1000000`,
		`29:14: callLimit.calls must be from 1 to 1073741824`,
		`30:12: callLimit.per must be from 1s to 24h`,
	},
	"timeouts.bad": {
		`22:14: timeout must be from 1s to 24h`,
		`25:18: timeout must be from 1s to 24h`,
		`26:15: tool "read" is already on line 24; merge the two`,
		`30:15: tool "re*" and "re*d*" (line 28) match the same names, and have as much before their first *; write more before one of them, or merge the two`,
		`32:9: tool "write" has no timeout; write how long a call may take, such as timeout: 30s`,
		`33:9: a tool's name is missing; write the name that the MCP server uses, without the namespace`,
	},
	"service-envoytls-alone.bad": {
		`38:13: envoyTLS has no effect without service.tls; set that, or remove it`,
	},
	"service-tls.bad": {
		`38:12: no certificate names "0.0.0.0:9901"; write the address that Envoy connects to and the certificate names, or give profile "unshown" spiffeIDs`,
		`39:8: tls profile "optional" lets in who shows no certificate, and only Envoy may speak to the service; set its clientAuth to RequireAndVerifyClientCert`,
		`40:13: tls profile "unshown" has no certFile for Envoy to show or no caFile for it to trust; add them`,
	},
	"service-tls-socket.bad": {
		`39:8: tls has no effect on unix sockets; set service.address to host:port, or remove it`,
	},
	"tls-peers.bad": {
		`22:14: tls profile "unchecked" has spiffeIDs or a crlFile, which need the server's own authorities; add caFile`,
		`39:8: tls profile "unasked" has spiffeIDs or a crlFile, for which a listener has to ask for a certificate; set clientAuth and clientCAFiles`,
		`44:9: spiffeIDs: "https://example.org/items" is no SPIFFE id of a workload; write spiffe://trust-domain/path, the domain in lower case, without a port, an escape or an empty segment`,
		`45:9: spiffeIDs: "spiffe://Example.org/items" is no SPIFFE id of a workload; write spiffe://trust-domain/path, the domain in lower case, without a port, an escape or an empty segment`,
		`46:9: spiffeIDs: "spiffe://example.org" is no SPIFFE id of a workload; write spiffe://trust-domain/path, the domain in lower case, without a port, an escape or an empty segment`,
		`47:9: spiffeIDs: "spiffe://example.org/a/../b" is no SPIFFE id of a workload; write spiffe://trust-domain/path, the domain in lower case, without a port, an escape or an empty segment`,
		`49:9: "spiffe://example.org/items" is twice in spiffeIDs; remove one`,
		`58:14: crlFile: "{{ env.CERTS }}/ca.crt" holds no PEM certificate revocation list (X509 CRL)`,
		`61:14: crlFile: "absent.crl" does not exist`,
		`65:14: crlFile: "{{ env.CERTS }}/ca.crl" has no list of the authority "", so that all it has issued would be refused; add one`,
		`68:14: warning: crlFile: the list of the authority "CN=test CA" in "{{ env.CERTS }}/old.crl" is past its nextUpdate, so that all it has issued is refused; get a new one`,
	},
	"tls-profile-empty.bad": {
		`38:3: client has no value; give it one or remove the key`,
	},
	"tls.bad": {
		`39:15: certFile needs keyFile beside it`,
		`41:14: keyFile needs certFile beside it`,
		`43:15: certFile: "absent.crt" does not exist`,
		`46:15: certFile and keyFile: private key does not match public key`,
		`48:13: caFile: "{{ env.CERTS }}/server.key" holds no PEM certificate`,
		`50:17: clientAuth: "RequireAnyClientCert" proves nothing about a client or is unknown; did you mean "RequireAndVerifyClientCert"?`,
		`51:17: minVersion: unknown value "1.1"; did you mean "1.2"?`,
		`53:17: clientAuth: "RequireAndVerifyClientCert" needs clientCAFiles; name the certificates to verify against`,
	},
	"tool-duplicate.bad": {
		`37:21: tool "read" is already on line 34; merge the two`,
	},
	"tool-too-long.bad": {
		`34:21: tool "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"… has 131 characters with its namespace; at most 128 can be called`,
	},
	"tool-ttl.bad": {
		`35:20: ttl must be whole seconds from 1s to 1h`,
		`37:15: tool "write" has no ttl; write how long its token lives, such as ttl: 5s`,
		`38:24: scope "file:Write file:Read" is not one OAuth scope; write one in each entry, without spaces`,
		`39:15: a tool's name is missing; write the name that the MCP server uses, without the namespace`,
		`39:20: ttl must be whole seconds from 1s to 1h`,
		`40:31: scope "" is not one OAuth scope; write one in each entry, without spaces`,
	},
	"transport.bad": {
		`20:18: transport: unknown value "stdio"; use one of sse, stream`,
	},
	"unknown-idp.bad": {
		`31:16: unknown idp "ipd": no connector has this name; did you mean "idp"?`,
	},
	"unknown-key-far.bad": {
		"15:5: unknown key `colour`; use one of allowBigNumbers, authorization, callLimit, name, timeout, toolList, toolNamespace, toolTimeouts, type, upstream",
	},
	"unknown-key.bad": {
		`15:5: toolNamespace.name is missing; write a prefix such as my_server_, or disabled: true to leave the names bare`,
		"17:5: unknown key `toolNamspace`; did you mean `toolNamespace`?",
	},
	"unknown-section.bad": {
		"37:1: unknown key `mcpProviders`; did you mean `mcpProvider`?",
	},
	"unprotected-with-exchange": {
		`30:9: warning: outbound.tokenExchange has no effect with type unprotected; remove one of them`,
	},
	"upstream-blocks.bad": {
		`20:7: upstream.sse needs transport: sse; write that, or remove the block`,
		`45:7: upstream.stream needs transport: stream; write that, or remove the block`,
		`62:7: upstream.sse needs transport: sse; write that, or remove the block`,
		`75:5: upstream.sse.url is missing; write the address of the MCP server`,
	},
	"upstream-era.bad": {
		`20:12: era: modern is not spoken over transport sse; write legacy, or transport: stream`,
		`44:12: era: unknown value "legasy"; did you mean "legacy"?`,
	},
	"upstream-fragment.bad": {
		`21:14: url: "http://files.example.com/mcp#x" has a fragment; remove it and what follows`,
	},
	"upstream-port.bad": {
		`21:14: url: "http://files.example.com:99999/mcp" has no valid port`,
	},
	"upstream-query.bad": {
		`21:14: url: "http://files.example.com/mcp?key=1" has a query; remove it`,
	},
	"upstream-scheme.bad": {
		`21:14: url: "ftp://files.example.com/mcp" is not an absolute http or https URL`,
	},
	"upstream-sse.bad": {
		`22:14: url: "http://files.example.com/sse?key=1" has a query; remove it`,
		`23:14: tls has no effect on an http:// url; write https:// or remove tls`,
		`23:14: unknown tls profile "internal"; add it under the top-level key tls`,
		`24:35: dialTimeout must be longer than zero; write a duration such as 30s`,
	},
	"upstream-tls.bad": {
		`21:14: tls has no effect on an http:// url; write https:// or remove tls`,
		`21:14: unknown tls profile "internal"; did you mean "external"?`,
		`22:14: warning: url: tokens for "http://files.example.com:8080/mcp" cross the network in the clear, where others can read and use them; use https, or keep that network closed`,
	},
	"userinfo.bad": {
		`11:30: wellKnownEndpoint: the address carries a user name or password; remove it and use a secret in the key meant for it`,
		`21:14: url: the address carries a user name or password; remove it and use a secret in the key meant for it`,
	},
	"warnings": {
		`10:7: warning: baseURL has no effect here: addresses are built from the host that the agent used`,
		`11:7: warning: basePath has no effect here: use path and messagePath`,
		`13:7: warning: endpointPath is the older name of path; rename it`,
		`40:15: warning: tool "read" has no scopes, so its token may carry none; list those that the MCP server demands`,
		`42:21: warning: tool "a_tool_whose_name_is_far_longer_than_what_some_models_will_take" has 69 characters with its namespace; some models take at most 64`,
		`46:12: warning: http.address: other machines can reach ":8443" and agents' tokens travel in the clear; set http.tls, or terminate TLS in front`,
		`47:3: warning: hosts has no effect here: there is one listener: use http.address, http.tls and http.allowedHosts`,
		`49:12: warning: admin.address: other machines can reach "0.0.0.0:9902", which asks for no credential; use a loopback address or close the network`,
		`51:12: warning: service.address: other machines can reach "10.0.0.1:9000" and ask for exchanged tokens; set service.tls, or use unix:/absolute/path or a loopback address`,
		`53:3: warning: heartbeat has no effect here: probe health.location instead`,
		`56:3: warning: logSessionID has no effect here: audit records carry the session`,
		`57:3: warning: timeFormat has no effect here: times are RFC 3339 with nanoseconds`,
		`58:3: warning: fieldOrdering has no effect here: the order of log fields is fixed`,
		`59:1: warning: telemetry has no effect here: metrics are served at /metrics on admin.address`,
	},
	"wrong-bool.bad": {
		`8:12: enabled: "yes" is not true or false; write true or false without quotes`,
	},
	"wrong-types.bad": {
		`20:18: transport is text, not true or false; quote it if it is meant so`,
		`26:11: name is a single value, not a list`,
		`37:20: ttl: "5" is not a duration; write a number with its unit, such as 30s or 1h`,
		`40:20: maxRequestBytes: "4096" is not a whole number; write digits without quotes`,
		`41:17: allowedHosts is a list, not a single value; write each entry on its own line after a dash`,
		`42:9: health is a map of keys, not a single value`,
		`43:1: admin is a map of keys, not a list`,
		`46:3: level has no value; give it one or remove the key`,
		`48:3: store is a single value, not a map`,
	},
}
