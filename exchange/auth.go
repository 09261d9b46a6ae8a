package exchange

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
)

// The ways in which this client can authenticate at the token endpoint, by their
// registered names (RFC 8414 §2, token_endpoint_auth_methods_supported).
const (
	AuthBasic         = "client_secret_basic"         // RFC 6749 §2.3.1, in the Authorization header
	AuthPost          = "client_secret_post"          // RFC 6749 §2.3.1, in the form
	AuthPrivateKeyJWT = "private_key_jwt"             // RFC 7523 §2.2
	AuthTLS           = "tls_client_auth"             // RFC 8705 §2.1
	AuthSelfSignedTLS = "self_signed_tls_client_auth" // RFC 8705 §2.2
)

// completeAuth settles AuthMethod, but for which of the two ways to send a secret.
func (cfg *Config) completeAuth() error {
	if cfg.AuthMethod == "" && cfg.Key != nil {
		if cfg.ClientSecret != "" {
			return errors.New("a client secret and a client key: the authentication method must be named")
		}
		cfg.AuthMethod = AuthPrivateKeyJWT
	}
	switch cfg.AuthMethod {
	case "", AuthBasic, AuthPost:
		if cfg.ClientSecret == "" {
			return errors.New("a client secret is required")
		}
	case AuthPrivateKeyJWT:
		if cfg.Key == nil {
			return errors.New("a client key is required for " + AuthPrivateKeyJWT)
		}
		key, err := cfg.Key.complete()
		if err != nil {
			return fmt.Errorf("client key: %w", err)
		}
		cfg.Key = key
	case AuthTLS, AuthSelfSignedTLS:
		if cfg.TLS == nil || len(cfg.TLS.Certificates) == 0 && cfg.TLS.GetClientCertificate == nil {
			return errors.New("a client certificate is required for " + cfg.AuthMethod)
		}
	default:
		return fmt.Errorf("client authentication method %q: want one of %s, %s, %s, %s, %s", cfg.AuthMethod,
			AuthBasic, AuthPost, AuthPrivateKeyJWT, AuthTLS, AuthSelfSignedTLS)
	}
	return nil
}

func mutualTLS(method string) bool { return method == AuthTLS || method == AuthSelfSignedTLS }

// pickMethod prefers basic, which is also the default (RFC 8414 §2).
func pickMethod(offered []string) string {
	switch {
	case len(offered) == 0, slices.Contains(offered, AuthBasic):
		return AuthBasic
	case slices.Contains(offered, AuthPost):
		return AuthPost
	}
	return ""
}

// SetSecret has requests from now on carry another client secret, for one that was
// changed at the server. A request that is on its way keeps the one it has. It
// changes neither how the client authenticates nor what is kept for reuse.
func (c *Client) SetSecret(secret string) error {
	if secret == "" || c.cfg.ClientSecret == "" {
		return errors.New("exchange: a client secret can be changed, not taken away or brought in")
	}
	c.secret.Store(&secret)
	return nil
}

// authenticate puts the client's credentials into the form, or returns what is to
// be done to the request that carries it.
func (c *Client) authenticate(md *metadata, form url.Values, secret string) (func(*http.Request), error) {
	nothing := func(*http.Request) {}
	switch md.authMethod {
	case AuthBasic:
		return func(req *http.Request) {
			// RFC 6749 §2.3.1: both are form-urlencoded first.
			req.SetBasicAuth(url.QueryEscape(c.cfg.ClientID), url.QueryEscape(secret))
		}, nil
	case AuthPost:
		form.Set("client_secret", secret)
	case AuthPrivateKeyJWT:
		assertion, err := c.cfg.Key.assertion(c.cfg.ClientID, md, c.cfg.Now())
		if err != nil {
			return nil, err
		}
		form.Set("client_assertion_type", typeClientAssertion)
		form.Set("client_assertion", assertion)
	}
	// RFC 8705 §2 wants it, and RFC 7521 §4.2 permits it.
	form.Set("client_id", c.cfg.ClientID)
	return nothing, nil
}
