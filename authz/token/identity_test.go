package token

import "testing"

// Fields that run into each other must not make one principal of two.
func TestPrincipal(t *testing.T) {
	seen := map[string]bool{}
	for _, id := range []*Identity{{}, {Issuer: "a"}, {Subject: "a"}, {ClientID: "a"}, {Issuer: "a", Subject: "bc"}, {Issuer: "ab", Subject: "c"},
		{Issuer: "a", Subject: "b", ClientID: "c"}, {Issuer: "a", Subject: "b\x00c"}} {
		key := id.Principal()
		if seen[key] || len(key) != 64 {
			t.Errorf("%q %q %q: key %s", id.Issuer, id.Subject, id.ClientID, key)
		}
		seen[key] = true
	}
}
