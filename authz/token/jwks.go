package token

import (
	"errors"
	"fmt"
	"maps"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/sallyport/sallyport/authz/token/internal/jose"
)

const maxKeys = 200

// keySet is the immutable key set of one issuer by kid. Its address is its generation: what was verified under a set
// holds as long as the issuer still has that very set.
type keySet struct {
	keys map[string]jose.Key
}

// parseKeySet reads a JWK Set (RFC 7517 §5). Keys that cannot be used are left out, for the reasons in skipped, and do
// not spoil the others; a kid that two usable keys share names neither. A set without a usable key is an error.
func parseKeySet(body []byte) (set *keySet, skipped []string, err error) {
	var doc struct {
		Keys []jsontext.Value `json:"keys"`
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		return nil, nil, fmt.Errorf("key set: %w", jose.PlainError(err))
	}
	if len(doc.Keys) > maxKeys {
		return nil, nil, fmt.Errorf("key set: %d keys, at most %d are read", len(doc.Keys), maxKeys)
	}
	set = &keySet{keys: make(map[string]jose.Key, len(doc.Keys))}
	ambiguous := map[string]bool{}
	for i, raw := range doc.Keys {
		kid, k, err := parseKey(raw)
		if err != nil {
			skipped = append(skipped, fmt.Sprintf("key %d: %v", i, err))
			continue
		}
		if _, ok := set.keys[kid]; ok {
			ambiguous[kid] = true
		}
		set.keys[kid] = k
	}
	for kid := range ambiguous {
		delete(set.keys, kid)
		skipped = append(skipped, fmt.Sprintf("kid %s: more than one key", jose.Clip(kid)))
	}
	if len(set.keys) == 0 {
		return nil, skipped, errors.New("key set: no usable key")
	}
	return set, skipped, nil
}

func parseKey(raw []byte) (kid string, k jose.Key, err error) {
	m, err := jose.Object(raw)
	if err != nil {
		return "", jose.Key{}, err
	}
	if kid, err = keyID(m); err != nil {
		return "", jose.Key{}, err
	}
	k, err = jose.ParseKey(m)
	return kid, k, err
}

func (s *keySet) equal(o *keySet) bool {
	return maps.EqualFunc(s.keys, o.keys, jose.Key.Equal)
}
