package exchange

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
)

const (
	maxBody      = 1 << 20
	refreshEvery = time.Hour
	firstRetry   = 200 * time.Millisecond
	lastRetry    = 10 * time.Second
)

// metadata is what an exchange needs of the authorization server's (RFC 8414 §2).
type metadata struct {
	issuer        string
	tokenEndpoint string // the one for mutual TLS, where that is how we authenticate
	authMethod    string
	assertionAlg  string // of a client assertion
}

// Run fetches the metadata and refreshes it every hour, until ctx ends; then it
// returns nil. A failure is logged and tried again after 200 ms, doubling up to
// 10 s, while the last good metadata stays in use.
func (c *Client) Run(ctx context.Context) error {
	defer c.http.CloseIdleConnections()
	retry := firstRetry
	for {
		wait := refreshEvery
		if err := c.refresh(ctx); err == nil {
			retry = firstRetry
		} else if ctx.Err() == nil {
			c.cfg.Log.Warn("authorization server metadata not fetched", "url", c.cfg.WellKnown, "error", err, "retry_in", retry)
			wait, retry = retry, min(2*retry, lastRetry)
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

func (c *Client) refresh(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	body, err := c.fetch(ctx)
	if err != nil {
		return err
	}
	md, err := parseMetadata(body, c.cfg)
	if err != nil {
		return err
	}
	old := c.meta.Swap(md)
	if old != nil && *old == *md {
		return nil
	}
	c.cfg.Log.Info("authorization server metadata", "issuer", md.issuer, "token_endpoint", md.tokenEndpoint, "auth_method", md.authMethod)
	if !slices.Contains(wellKnownURLs(md.issuer), c.cfg.WellKnown) {
		// RFC 8414 §3.3 wants them to agree, but a server is often reached by
		// another host name than its issuer's, and this URL is the operator's.
		c.cfg.Log.Warn("the well-known URL is not the issuer's", "url", c.cfg.WellKnown, "issuer", md.issuer)
	}
	return nil
}

func (c *Client) fetch(ctx context.Context) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.cfg.WellKnown, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	res, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %d", res.StatusCode)
	}
	if t := mediaType(res.Header); t != "application/json" {
		return nil, fmt.Errorf("content type %.64q: want application/json", t)
	}
	return readAll(res.Body)
}

func parseMetadata(body []byte, cfg Config) (*metadata, error) {
	var doc struct {
		Issuer        string   `json:"issuer"`
		TokenEndpoint string   `json:"token_endpoint"`
		AuthMethods   []string `json:"token_endpoint_auth_methods_supported"`
		Algorithms    []string `json:"token_endpoint_auth_signing_alg_values_supported"`
		MutualTLS     struct {
			TokenEndpoint string `json:"token_endpoint"`
		} `json:"mtls_endpoint_aliases"` // RFC 8705 §5
	}
	if err := unmarshal(body, &doc); err != nil {
		return nil, err
	}
	if _, err := checkURL(doc.Issuer, true); err != nil {
		return nil, fmt.Errorf("issuer: %w", err)
	}
	md := &metadata{issuer: doc.Issuer, tokenEndpoint: doc.TokenEndpoint, authMethod: cfg.AuthMethod}
	if mutualTLS(cfg.AuthMethod) && doc.MutualTLS.TokenEndpoint != "" {
		md.tokenEndpoint = doc.MutualTLS.TokenEndpoint
	}
	endpoint, err := checkURL(md.tokenEndpoint, cfg.AllowPlainHTTP)
	switch {
	case err != nil:
		return nil, fmt.Errorf("token_endpoint: %w", err)
	case mutualTLS(cfg.AuthMethod) && endpoint.Scheme != "https":
		return nil, fmt.Errorf("token_endpoint: %s without TLS", cfg.AuthMethod)
	}
	if md.authMethod == "" {
		if md.authMethod = pickMethod(doc.AuthMethods); md.authMethod == "" {
			return nil, fmt.Errorf("the token endpoint offers neither %s nor %s", AuthBasic, AuthPost)
		}
	}
	if md.authMethod == AuthPrivateKeyJWT {
		if md.assertionAlg = cfg.Key.pickAlgorithm(doc.Algorithms); md.assertionAlg == "" {
			return nil, errors.New("the token endpoint takes no signature that the client key can make")
		}
	}
	return md, nil
}

// wellKnownURLs are the places where an issuer's metadata is published: RFC 8414
// §3.1, its OpenID Connect form, and the suffixed form of some servers.
func wellKnownURLs(issuer string) []string {
	const oauth, openid = "/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"
	u, err := url.Parse(issuer)
	if err != nil {
		return nil
	}
	base := u.Scheme + "://" + u.Host
	path := strings.TrimSuffix(u.EscapedPath(), "/")
	return []string{base + oauth + path, base + openid + path, base + path + openid, base + path + oauth}
}

// unmarshal decodes strictly: no duplicate names, no invalid UTF-8, names by
// exact case, nothing after the value.
func unmarshal(data []byte, into any) error {
	if err := json.Unmarshal(data, into); err != nil {
		return ErrMalformed // the decoder's error may quote what it read
	}
	return nil
}

func readAll(r io.Reader) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r, maxBody+1))
	if err == nil && len(body) > maxBody {
		err = ErrTooLarge
	}
	if err != nil {
		return nil, err
	}
	return body, nil
}

// mediaType is the lower-case media type of an answer, "" if it has none or
// more than one.
func mediaType(h http.Header) string {
	if len(h.Values("Content-Type")) != 1 {
		return ""
	}
	t, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil && !errors.Is(err, mime.ErrInvalidMediaParameter) {
		return ""
	}
	return t
}
