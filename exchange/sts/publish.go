package sts

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"
)

// maxCacheAge is how long what is published may be kept.
const maxCacheAge = 5 * time.Minute

func parseIssuer(text string) (*url.URL, error) {
	issuer, err := url.Parse(text)
	switch {
	case err != nil || issuer.Host == "" || issuer.Scheme != "http" && issuer.Scheme != "https":
		return nil, errors.New("the issuer must be an http or https URL")
	case text != issuer.Scheme+"://"+issuer.Host+issuer.Path || !plainPath.MatchString(issuer.Path):
		return nil, errors.New("the issuer must be scheme, host and a plain path, without a slash at the end")
	}
	return issuer, nil
}

// publish serves an issuer's metadata where clients may look for it, and its keys
// beside.
func publish(mux *http.ServeMux, path string, metadata, keys http.Handler) {
	for _, p := range metadataPaths(path) {
		mux.Handle("GET "+p, metadata)
	}
	mux.Handle("GET "+keysPath(path), keys)
}

// metadataPaths are those of RFC 8414 §3.1, of its OpenID Connect form, and the
// suffixed forms of some servers.
func metadataPaths(path string) []string {
	const oauth, openid = "/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"
	where := []string{oauth + path, openid + path, path + oauth, path + openid}
	slices.Sort(where)
	return slices.Compact(where)
}

func keysPath(path string) string { return path + "/jwks" }

// PublishedPaths are the paths of an issuer's host at which [Minter.Documents] are
// to be found; none if it is no issuer.
func PublishedPaths(issuer string) []string {
	u, err := parseIssuer(issuer)
	if err != nil {
		return nil
	}
	return append(metadataPaths(u.Path), keysPath(u.Path))
}

// Document is something that is published: its JSON as it is now, and for how long
// it may be kept.
type Document func() (body []byte, age time.Duration)

// Documents are what [Minter.Handler] serves, by path, for servers that are not
// made of handlers.
func (m *Minter) Documents() map[string]Document {
	out := map[string]Document{keysPath(m.path): m.cfg.Keys.document}
	for _, p := range metadataPaths(m.path) {
		out[p] = func() ([]byte, time.Duration) { return m.metadata, maxCacheAge }
	}
	return out
}

func document(body []byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { writeDocument(w, body, maxCacheAge) })
}

func writeDocument(w http.ResponseWriter, body []byte, age time.Duration) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", fmt.Sprintf("max-age=%d", int(age/time.Second)))
	_, _ = w.Write(body) // a reader that left needs no answer
}

// ServeHTTP publishes the public keys (RFC 7517 §5).
func (k *KeySet) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	body, age := k.document()
	writeDocument(w, body, age)
}

func (k *KeySet) document() ([]byte, time.Duration) {
	return k.now().jwks, min(k.cfg.Ahead/2, maxCacheAge)
}

// Handler publishes what those need who verify minted tokens: the issuer's
// metadata (RFC 8414 §2) at its well-known paths, and the keys at /jwks, both
// under the issuer's path. There is no endpoint that issues anything.
func (m *Minter) Handler() http.Handler {
	mux := http.NewServeMux()
	publish(mux, m.path, document(m.metadata), m.cfg.Keys)
	return mux
}

func mintMetadata(issuer string) ([]byte, error) {
	return json.Marshal(map[string]any{
		"issuer":   issuer,
		"jwks_uri": issuer + "/jwks",
		// Required by RFC 8414 or OpenID Connect Discovery, on which readers insist.
		"response_types_supported":              []string{"none"},
		"subject_types_supported":               []string{"public"},
		"id_token_signing_alg_values_supported": []string{ES256, EdDSA},
	})
}
