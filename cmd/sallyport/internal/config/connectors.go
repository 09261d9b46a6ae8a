package config

import "time"

// Connector is where tokens for MCP servers come from: an OAuth authorization
// server or OpenID provider that the gateway is a client of, or, with type sts,
// the gateway itself. [providers](providers/README.md) has those of many servers.
type Connector struct {
	// Name is what `tokenExchange.idp` refers to. Required, unique.
	Name string `yaml:"name"`

	// Type is oidc for a server, or sts: then the gateway mints the tokens by
	// itself, without a request to anybody. A minted token (RFC 9068) has the
	// agent's `sub`, exactly the scopes and the lifetime of the tool, and in `act`
	// the gateway and then the agent. MCP servers must be told to trust Issuer.
	Type string `yaml:"type"`

	// OIDCWellKnownURL is the address of the server's metadata, either OpenID
	// Connect Discovery or RFC 8414. Required with type oidc. Plain http only on loopback,
	// unless AllowPlainHTTP: the client secret and tokens travel to the token
	// endpoint that this document names.
	OIDCWellKnownURL string `yaml:"oidcWellKnownURL"`

	// OAuthClientID is the gateway's client id there. Required. It becomes
	// `act.sub` of delegated tokens. With type sts it is the name that the gateway
	// gives itself.
	OAuthClientID string `yaml:"oauthClientID"`

	// OAuthClientSecret authenticates the gateway, best as a reference:
	// <gateway.clientSecret>. Required of a connector that an app exchanges
	// tokens with, unless the gateway proves itself by a key or a certificate. One
	// that is changed is used from the next exchange on, without a restart.
	OAuthClientSecret Secret `yaml:"oauthClientSecret"`

	// TokenEndpointAuthMethod is how the gateway proves who it is: by its secret,
	// by a JWT that it signs with PrivateKeyFile or PrivateKey (private_key_jwt, RFC
	// 7523), or by the certificate of its `tls` profile (RFC 8705). Default:
	// private_key_jwt if there is a key, otherwise what the server's metadata
	// offers for a secret, basic preferred.
	TokenEndpointAuthMethod string `yaml:"tokenEndpointAuthMethod" enum:"client_secret_basic,client_secret_post,private_key_jwt,tls_client_auth,self_signed_tls_client_auth"`

	// PrivateKeyFile is the path of the PEM private key for private_key_jwt: RSA of
	// at least 2048 bits, ECDSA, or Ed25519. A certificate beside it is named in
	// the JWT by its SHA-256 (`x5t#S256`), as Microsoft Entra ID wants it.
	PrivateKeyFile string `yaml:"privateKeyFile" as:"path"`

	// PrivateKey is the key itself, best as a reference, in place of
	// PrivateKeyFile.
	PrivateKey Secret `yaml:"privateKey" as:"pem"`

	// KeyID is the `kid` by which the server knows the key. Default: none.
	KeyID string `yaml:"keyID"`

	// AssertionAudience is whom the JWT is addressed to. Microsoft Entra ID wants
	// tokenEndpoint.
	AssertionAudience string `yaml:"assertionAudience" enum:"issuer,tokenEndpoint"`

	// Grant is tokenExchange (RFC 8693), or onBehalfOf for Microsoft Entra ID, which
	// has no RFC 8693. With onBehalfOf there is no `act` and no ttl can be asked for,
	// so `tokenExchange.longerLifetimes` has to accept; a scope may be written
	// without its audience.
	Grant string `yaml:"grant" enum:"tokenExchange,onBehalfOf"`

	// AdditionalParameters are sent with every exchange, for servers that want more
	// than the grant has. At most 32; the values may be references to secrets.
	AdditionalParameters map[string]Secret `yaml:"additionalParameters"`

	// TokenIssuer is the `iss` of the server's tokens. Default: the issuer of its
	// metadata.
	TokenIssuer string `yaml:"tokenIssuer"`

	// MaxConcurrent bounds the requests that one app has at the server at once, from
	// 1 to 256. A call that gets no place within 100ms is answered 503.
	MaxConcurrent int `yaml:"maxConcurrent"`

	// Breaker leaves the server alone while it fails. Each app has its own.
	Breaker Breaker `yaml:"breaker"`

	// TLS is the name of a profile whose caFile is trusted for this server, and
	// whose certFile and keyFile are shown to it. Default: the system's trust.
	TLS string `yaml:"tls"`

	// AllowPlainHTTP permits http:// beyond loopback for this server. Anybody on
	// the path can then read the client secret and mint tokens: for closed
	// networks only. Default false.
	AllowPlainHTTP bool `yaml:"allowPlainHTTP"`

	// AllowNetworks are private networks, such as 10.20.0.0/16, in which the
	// server's token endpoint may be when it is on another host than
	// OIDCWellKnownURL. Default none: such an endpoint must be public, so that a
	// forged metadata document cannot send secrets into a private network.
	AllowNetworks []string `yaml:"allowNetworks"`

	// Issuer is the `iss` of minted tokens, by which MCP servers find the keys: an
	// address without query or slash at the end. Type sts only, required. Plain
	// http only on loopback, unless AllowPlainHTTP. It must not be that of
	// `authProvider`, whose keys are others. With the origin of http.address, of
	// oauth.resource or of an expected audience, or a host of http.allowedHosts, it
	// is at the gateway itself, which then serves metadata and keys where agents
	// connect, without a token; it needs a path that is not MCP's, such as /tokens.
	Issuer string `yaml:"issuer"`

	// Address is host:port on which the gateway serves, over plain HTTP, what those
	// need who verify minted tokens: the metadata (RFC 8414) and the keys
	// (`/jwks`), both under the path of Issuer. MCP servers must be able to fetch
	// them from Issuer, so that either leads here or is a proxy that does. Type sts
	// only. An address that other machines can reach is warned about: put TLS in
	// front of it. Default 127.0.0.1:9903; none where Issuer is an address of the
	// gateway's own, at which all of that is then served too.
	Address string `yaml:"address"`

	// KeyDir is the path of a directory of PEM private keys that tokens are signed
	// with. The gateway makes it, puts new keys into it and deletes old ones;
	// replicas share it. Keys of yours (P-256 or Ed25519, mode 0600 or 0640) are
	// used too, ten minutes after they appear, and never deleted. Type sts only.
	KeyDir string `yaml:"keyDir" as:"path"`

	// Keys are PEM private keys, best as a reference, in place of KeyDir. The first
	// one signs, the others are only published: add a new one at the end, and move
	// it to the front ten minutes later, when MCP servers know it. A changed secret
	// takes effect within a second; a key that is no longer there stays published
	// for 2h, while its tokens live. Type sts only. With neither Keys nor KeyDir the
	// key is in memory, which is warned about: every restart has another.
	Keys Secret `yaml:"keys" as:"pem"`

	// Algorithm is that of keys that the gateway makes: ES256, which every library
	// verifies, or EdDSA (Ed25519). Type sts only.
	Algorithm string `yaml:"algorithm" enum:"ES256,EdDSA"`

	// RotateEvery is how long a key signs before the gateway makes the next, at
	// least 2h. The old one stays published for 2h. With 0s none are made: you put
	// them into KeyDir. Type sts only.
	RotateEvery time.Duration `yaml:"rotateEvery"`

	// The keys below are for logging users in. They are accepted so that
	// published files load; a token exchange uses none of them.

	// OAuthLoginRedirect lists the addresses a login returns to.
	OAuthLoginRedirect Redirect `yaml:"oauthLoginRedirect"`
	// OAuthLogoutRedirect lists the addresses a logout returns to.
	OAuthLogoutRedirect Redirect `yaml:"oauthLogoutRedirect"`
	// OAuthRedirectURL is the older form of OAuthLoginRedirect.
	OAuthRedirectURL string `yaml:"oauthRedirectURL"`
	// Scopes are asked for at login, separated by spaces.
	Scopes string `yaml:"scopes"`
	// OAuthExtraParams are added to the authorization request.
	OAuthExtraParams map[string]string `yaml:"oauthExtraParams"`
	// DisablePKCE logs in without RFC 7636.
	DisablePKCE bool `yaml:"disablePKCE"`
	// OfflineAccess asks for a refresh token at login.
	OfflineAccess OfflineAccess `yaml:"offlineAccess"`
}

// Redirect is a list of addresses to return to.
type Redirect struct {
	// URLs are absolute addresses.
	URLs []string `yaml:"urls"`
}

// OfflineAccess is whether to ask for a refresh token.
type OfflineAccess struct {
	// Enabled asks for one. Default false.
	Enabled bool `yaml:"enabled"`
}

// Breaker says when an authorization server that fails is left alone: calls are
// then answered 503 at once, with the time after which it will be asked again.
type Breaker struct {
	// Failures is how many in a row open the circuit: no answer, 429, 5xx, a
	// redirect, a web page. A refusal is an answer. 0 turns the breaker off.
	Failures int `yaml:"failures"`

	// BackOff is how long the circuit stays open. Then one call tries the server
	// while the others still fail; its failure doubles the time.
	BackOff time.Duration `yaml:"backOff"`

	// MaxBackOff bounds that.
	MaxBackOff time.Duration `yaml:"maxBackOff"`
}

func (c *Connector) setDefaults() {
	c.AssertionAudience = "issuer"
	c.Grant = "tokenExchange"
	c.MaxConcurrent = 64
	c.Algorithm = "ES256"
	c.RotateEvery = 30 * 24 * time.Hour
}

func (b *Breaker) setDefaults() {
	b.Failures = 5
	b.BackOff = time.Second
	b.MaxBackOff = 4 * time.Second
}
