package token

import (
	"log/slog"
	"net/http"
	"time"

	"github.com/sallyport/sallyport/authz/token/dpop"
)

// DefaultClockSkew is the tolerance of an issuer that says none.
const DefaultClockSkew = defaultSkew

// IssuerConfig is one trusted authorization server.
type IssuerConfig struct {
	// WellKnown is the URL of its metadata: RFC 8414 or OpenID Connect Discovery. Required.
	WellKnown string
	// Audiences are the accepted values of aud, compared byte for byte; one match is enough. Required.
	Audiences []string
	// RefreshInterval is how often the metadata is read again, and the longest time between two reads of the keys
	// (which follow their Cache-Control, 5 minutes without one). Default 24 h, at least 1 s.
	RefreshInterval time.Duration
	// ClockSkew is the tolerance for exp, nbf and iat. Default 15 s.
	ClockSkew time.Duration
	// MaxStale is how long the last good key set is trusted while no newer one can be had. Default 24 h.
	MaxStale time.Duration
	// MaxLifetime refuses tokens with a longer time from iat to exp, or without iat. 0: no limit.
	MaxLifetime time.Duration
	// AllowPlainHTTP permits http:// for this issuer's documents, and for introspection, beyond the loopback interface.
	AllowPlainHTTP bool
	// Clients are the accepted values of client_id and azp. Empty: any client, and tokens that name none.
	Clients []string
	// Binding says what is made of tokens that are bound to a key. Default BindingNone: they are refused.
	Binding BindingMode
	// Introspection makes the issuer be asked about tokens. Nil: its JWTs are verified here, and it has no other tokens.
	Introspection *IntrospectionConfig
}

// Config is what a Verifier is made of.
type Config struct {
	Issuers []IssuerConfig
	// HTTP reaches the authorization servers. Its redirect policy is not used: redirects are never followed.
	HTTP *http.Client
	Log  *slog.Logger
	Now  func() time.Time
	// CacheSize bounds the verified tokens that are remembered, for at most 60 s. Default 10,000; negative: none.
	CacheSize int
	// DPoP says how proofs are judged. It counts only if an issuer's Binding is not BindingNone. Its Now is set from here.
	DPoP dpop.Config
	// Revoked refuses identities that are otherwise good. It is asked about every token that is presented, remembered
	// ones included, from many goroutines at once: it must be quick. Optional.
	Revoked func(*Identity) bool
}
