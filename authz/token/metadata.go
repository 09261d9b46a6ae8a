package token

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/sallyport/sallyport/authz/token/internal/jose"
)

// metadata is what an authorization server says about itself (RFC 8414 §2).
type metadata struct {
	issuer        string // compared with iss byte for byte
	jwksURI       string // "" when all its tokens are introspected
	introspection string // endpoint; "" when it is not to be taken from here
	read          time.Time
}

func (is *issuer) readMetadata(ctx context.Context) (*metadata, error) {
	read := is.now()
	body, _, err := is.docs.get(ctx, is.cfg.WellKnown)
	if err != nil {
		return nil, err
	}
	var doc struct {
		Issuer        string `json:"issuer"`
		JWKSURI       string `json:"jwks_uri"`
		Introspection string `json:"introspection_endpoint"`
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		return nil, fmt.Errorf("metadata: %w", jose.PlainError(err))
	}
	id, err := is.docs.check(doc.Issuer)
	if err != nil || id.RawQuery != "" {
		return nil, fmt.Errorf("metadata: issuer %s is not an https URL without query", jose.Clip(doc.Issuer))
	}
	m := &metadata{issuer: doc.Issuer, jwksURI: doc.JWKSURI, read: read}
	in := is.introspection
	if m.jwksURI != "" || in == nil || !in.cfg.Tokens.opaque() {
		if _, err := is.docs.check(m.jwksURI); err != nil {
			return nil, fmt.Errorf("metadata: jwks_uri: %w", err)
		}
	}
	if in != nil && in.cfg.Endpoint == "" {
		m.introspection = doc.Introspection
		if err := is.checkIntrospection(m.introspection); err != nil {
			return nil, fmt.Errorf("metadata: introspection_endpoint: %w", err)
		}
	}
	if err := is.checkPlace(id); err != nil {
		return nil, err
	}
	return m, nil
}

// checkIntrospection demands that a published endpoint is where the metadata is: it gets a secret of ours, and tokens.
func (is *issuer) checkIntrospection(endpoint string) error {
	u, err := is.docs.check(endpoint)
	if err != nil {
		return err
	}
	at, err := url.Parse(is.cfg.WellKnown)
	if err != nil {
		return err
	}
	if origin(u) != origin(at) {
		return fmt.Errorf("%s is not at the configured host and must be configured itself", jose.Clip(u.Host))
	}
	return nil
}

func origin(u *url.URL) string { return strings.ToLower(u.Scheme + "://" + u.Host) }

// checkPlace demands that the configured URL is where the issuer would publish its metadata (RFC 8414 §3.3). Another
// origin is only worth a warning: behind a proxy or in a lab a server is reached by a name that is not its own, and
// the operator has written down that name. Another path is another tenant.
func (is *issuer) checkPlace(id *url.URL) error {
	at, err := url.Parse(is.cfg.WellKnown)
	if err != nil {
		return err
	}
	if !slices.Contains(wellKnownPaths(id.EscapedPath()), at.EscapedPath()) {
		return fmt.Errorf("metadata: issuer %s does not publish at the configured URL", jose.Clip(id.String()))
	}
	if origin(id) != origin(at) {
		is.log.Warn("issuer is reached under another name", "issuer", id.String())
	}
	return nil
}

// wellKnownPaths returns where the metadata of an issuer with that path may be: inserted before the path (RFC 8414
// §3.1 and §5), or appended to it (OpenID Connect Discovery §4, and servers that treat both alike).
func wellKnownPaths(path string) []string {
	path = strings.TrimSuffix(path, "/")
	const oauth, openid = "/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"
	return []string{oauth + path, path + openid, openid + path, path + oauth}
}

// registry knows which issuer has which identifier. Reading takes no lock.
type registry struct {
	mu   sync.Mutex
	byID atomic.Pointer[map[string]*issuer]
}

func (r *registry) find(id string) *issuer {
	if m := r.byID.Load(); m != nil {
		return (*m)[id]
	}
	return nil
}

func (r *registry) count() int {
	if m := r.byID.Load(); m != nil {
		return len(*m)
	}
	return 0
}

// add makes id known. Two configured issuers with one identifier would make the accepted audiences a matter of
// chance, so the second to be discovered is refused.
func (r *registry) add(id string, is *issuer) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.find(id) != nil {
		return errors.New("another configured issuer has the same identifier " + jose.Clip(id))
	}
	next := map[string]*issuer{}
	if m := r.byID.Load(); m != nil {
		next = maps.Clone(*m)
	}
	next[id] = is
	r.byID.Store(&next)
	return nil
}
