package config

import "time"

// AuthProvider is the embedded authorization server: for demonstrations, for
// tests, and to mint tokens without a network round trip. It asks nobody for a
// password: whoever reaches it can log in as each of its users.
type AuthProvider struct {
	// Enabled runs it. Default true when the section is present.
	Enabled bool `yaml:"enabled"`

	// Address is host:port to listen on. Required, and on loopback unless
	// AllowNonLoopback.
	Address string `yaml:"address"`

	// AllowNonLoopback permits an Address that other machines can reach, for a
	// container whose port is published on the host's loopback alone. Whoever
	// reaches it can log in as each of the users, so it is warned about. Issuer is
	// then required, and still on loopback; requests whose Host is not loopback
	// stay refused, which stops DNS rebinding but no program. Default false.
	AllowNonLoopback bool `yaml:"allowNonLoopback"`

	// Issuer is its issuer identifier, an address without a slash at the end.
	// Default http:// and Address.
	Issuer string `yaml:"issuer"`

	// KeyFile is the path of a PEM private key (P-256) that tokens are signed
	// with. Default: a new key at each start, which makes the tokens of an
	// earlier start worthless.
	KeyFile string `yaml:"keyFile" as:"path"`

	// AccessTokenLifetime bounds the life of a token, in whole seconds up to
	// 24h. Default 10m.
	AccessTokenLifetime time.Duration `yaml:"accessTokenLifetime"`

	// DefaultAudience is the `aud` of a token whose request names no resource.
	// Default: the gateway's first expected audience.
	DefaultAudience string `yaml:"defaultAudience"`

	// Resources are further audiences that a client may ask for by itself
	// (RFC 8707). What only an exchange may reach does not belong here.
	Resources []string `yaml:"resources"`

	// Scopes may be granted to clients that register themselves.
	Scopes []string `yaml:"scopes"`

	// AllowWiderScopes lets an exchanged token carry scopes that the agent's token
	// lacks, within those of the client that exchanges. Default false: a token
	// never gets wider on its way.
	AllowWiderScopes bool `yaml:"allowWiderScopes"`

	// Users can be logged in as; the first one is the default. At least one.
	Users []User `yaml:"users"`

	// Clients are known beforehand. Public clients may register themselves.
	Clients []Client `yaml:"clients"`
}

// User is somebody to log in as.
type User struct {
	// Subject is the user's `sub`. Required, unique.
	Subject string `yaml:"subject"`

	// Claims are added to the user's tokens.
	Claims map[string]any `yaml:"claims"`

	// Scopes are the most that a client is granted for the user. Default none.
	Scopes []string `yaml:"scopes"`
}

// Client is an OAuth client of the embedded server.
type Client struct {
	// ID is the client id. Required, unique.
	ID string `yaml:"id"`

	// Secret authenticates the client, best as a reference. Required unless
	// Public; there is no default.
	Secret Secret `yaml:"secret"`

	// Public clients have no secret and can only log users in. Default false.
	Public bool `yaml:"public"`

	// RedirectURIs are compared byte by byte; a loopback address may vary in
	// its port (RFC 8252 §7.3). Required to log users in.
	RedirectURIs []string `yaml:"redirectURIs"`

	// Grants are the grant types that the client may use. At least one.
	Grants []string `yaml:"grants" enum:"authorization_code,refresh_token,client_credentials,urn:ietf:params:oauth:grant-type:token-exchange"`

	// Scopes are the most that any of the client's tokens carries.
	Scopes []string `yaml:"scopes"`

	// Exchange bounds the client's token exchanges. Required for that grant.
	Exchange ClientExchange `yaml:"exchange"`
}

// ClientExchange bounds a client's token exchanges (RFC 8693).
type ClientExchange struct {
	// Audiences may be asked for. Required.
	Audiences []string `yaml:"audiences"`

	// SubjectAudiences are the audiences of tokens that the client may
	// exchange: its own address. Required.
	SubjectAudiences []string `yaml:"subjectAudiences"`

	// Impersonate leaves `act` out of the exchanged token. Default false.
	Impersonate bool `yaml:"impersonate"`

	// MaxLifetime bounds the life of an exchanged token, in whole seconds.
	// Default 5m.
	MaxLifetime time.Duration `yaml:"maxLifetime"`
}

func (a *AuthProvider) setDefaults() {
	a.Enabled = true
	a.AccessTokenLifetime = 10 * time.Minute
}

func (c *ClientExchange) setDefaults() { c.MaxLifetime = 5 * time.Minute }
