package config

// Connector is an OAuth authorization server or OpenID provider that the gateway
// is a client of.
type Connector struct {
	// Name is what `tokenExchange.idp` refers to. Required, unique.
	Name string `yaml:"name"`

	// Type must be oidc.
	Type string `yaml:"type"`

	// OIDCWellKnownURL is the address of the server's metadata, either OpenID
	// Connect Discovery or RFC 8414. Required. Plain http only on loopback,
	// unless AllowPlainHTTP: the client secret and tokens travel to the token
	// endpoint that this document names.
	OIDCWellKnownURL string `yaml:"oidcWellKnownURL"`

	// OAuthClientID is the gateway's client id there. Required. It becomes
	// `act.sub` of delegated tokens.
	OAuthClientID string `yaml:"oauthClientID"`

	// OAuthClientSecret authenticates the gateway, best as a reference:
	// <gateway.clientSecret>. Required of a connector that an app exchanges
	// tokens with.
	OAuthClientSecret Secret `yaml:"oauthClientSecret"`

	// TokenEndpointAuthMethod is client_secret_basic or client_secret_post.
	// Default: what the server's metadata offers, basic preferred.
	TokenEndpointAuthMethod string `yaml:"tokenEndpointAuthMethod" enum:"client_secret_basic,client_secret_post"`

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
