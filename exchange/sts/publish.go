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

// publish serves an issuer's metadata where clients may look for it (RFC 8414
// §3.1, its OpenID Connect form, and the suffixed forms of some servers), and its
// keys beside.
func publish(mux *http.ServeMux, path string, metadata, keys http.Handler) {
	const oauth, openid = "/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"
	where := []string{oauth + path, openid + path, path + oauth, path + openid}
	slices.Sort(where)
	for _, p := range slices.Compact(where) {
		mux.Handle("GET "+p, metadata)
	}
	mux.Handle("GET "+path+"/jwks", keys)
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
	writeDocument(w, k.now().jwks, min(k.cfg.Ahead/2, maxCacheAge))
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
