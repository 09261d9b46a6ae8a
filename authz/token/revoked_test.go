package token

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

func TestDrop(t *testing.T) {
	bubble(t, func(t *testing.T, v *Verifier) {
		tokens := map[string]string{}
		before := map[string]*Identity{}
		for _, who := range []string{"alice", "bob", "carol"} {
			tokens[who] = tokenWith(nil, jsonObject{"sub": who, "client_id": "agent of " + who, "jti": "j-" + who})
			before[who] = accepted(t, v, tokens[who])
		}
		for name, match := range map[string]func(*Identity) bool{
			"alice": func(id *Identity) bool { return id.Subject == "alice" },
			"bob":   func(id *Identity) bool { return id.ClientID == "agent of bob" },
			"carol": func(id *Identity) bool { return id.JTI == "j-carol" },
		} {
			if n := v.Drop(match); n != 1 {
				t.Errorf("%s: %d dropped", name, n)
			}
			if n := v.Drop(match); n != 0 {
				t.Errorf("%s: %d dropped again", name, n)
			}
			for who := range tokens {
				again := accepted(t, v, tokens[who])
				if dropped := again != before[who]; dropped != (who == name) {
					t.Errorf("%s: %s verified anew: %v", name, who, dropped)
				}
				before[who] = again
			}
		}
	})
}

// What was verified before a Drop must not be remembered after it.
func TestDropWhileVerifying(t *testing.T) {
	v := still(remembering)
	e := &entry{identity: &Identity{}, issuer: v.issuers[0], set: v.issuers[0].keys.Load().set, stored: fuzzNow, until: fuzzNow.Add(1)}
	round := v.cache.round.Load()
	v.Drop(func(*Identity) bool { return false })
	v.cache.put(digest("x"), e, fuzzNow, round)
	if v.cache.len() != 0 {
		t.Error("remembered")
	}
	v.cache.put(digest("x"), e, fuzzNow, v.cache.round.Load())
	if v.cache.len() != 1 {
		t.Error("not remembered after it")
	}
}

func TestRevoked(t *testing.T) { // F-042
	synctest.Test(t, func(t *testing.T) {
		var revoked atomic.Pointer[string]
		none := ""
		revoked.Store(&none)
		cfg := configFor(newAuthority(issuerA, toJWK("k1", ecKey())))
		cfg.Revoked = func(id *Identity) bool { return id.JTI == *revoked.Load() }
		v := start(t, cfg)
		raw := tokenWith(nil, nil)
		first := accepted(t, v, raw)
		jti := "j-1"
		revoked.Store(&jti)
		refused(t, v, raw, ErrRevoked)
		refused(t, v, tokenWith(nil, jsonObject{"aud": "x"}), ErrAudience)
		accepted(t, v, tokenWith(nil, jsonObject{"jti": "j-2"}))
		v.Drop(func(*Identity) bool { return true })
		refused(t, v, raw, ErrRevoked)
		revoked.Store(&none)
		if accepted(t, v, raw) == first {
			t.Error("not dropped")
		}
	})
}

// Neither a proof nor a certificate helps a revoked token, and such a token uses no proof up.
func TestRevokedBeforePossession(t *testing.T) {
	revoked := true
	binding(t, BindingRequired, func(t *testing.T, v *Verifier) {
		p := byDPoP(tokenWith(nil, jsonObject{"cnf": jkt()}))
		expect(t, v, p, ErrRevoked)
		p.Look = LookHeld
		expect(t, v, p, ErrRevoked)
		p.Look = LookFirst
		revoked = false
		expect(t, v, p, nil)
	}, func(cfg *Config) { cfg.Revoked = func(*Identity) bool { return revoked } })
}

func TestDropConcurrently(t *testing.T) {
	bubble(t, func(t *testing.T, v *Verifier) {
		var tokens [4]string
		for i := range tokens {
			tokens[i] = tokenWith(nil, jsonObject{"sub": fmt.Sprint(i)})
		}
		var callers sync.WaitGroup
		for w := range 4 {
			callers.Go(func() {
				for i := range 50 {
					if id, err := v.Verify(t.Context(), tokens[(w+i)%4]); err != nil || id.Subject != fmt.Sprint((w+i)%4) {
						t.Errorf("%v, %v", id, err)
					}
					if i%10 == 0 {
						v.Drop(func(id *Identity) bool { return id.Subject == fmt.Sprint(w) })
					}
				}
			})
		}
		callers.Wait()
	})
}

func TestClients(t *testing.T) { // F-033
	synctest.Test(t, func(t *testing.T) {
		cfg := configFor(newAuthority(issuerA, toJWK("k1", ecKey())))
		cfg.Issuers[0].Clients = []string{"agent", "spa"}
		v := start(t, cfg)
		for name, tt := range map[string]struct {
			changes jsonObject
			want    error
		}{
			"client_id":              {nil, nil},
			"azp alone":              {jsonObject{"client_id": nil, "azp": "spa"}, nil},
			"both":                   {jsonObject{"azp": "spa"}, nil},
			"neither":                {jsonObject{"client_id": nil}, ErrClient},
			"another":                {jsonObject{"client_id": "other"}, ErrClient},
			"another azp":            {jsonObject{"azp": "other"}, ErrClient},
			"another azp alone":      {jsonObject{"client_id": nil, "azp": "other"}, ErrClient},
			"another, with good azp": {jsonObject{"client_id": "other", "azp": "spa"}, ErrClient},
			"in another case":        {jsonObject{"client_id": "Agent"}, ErrClient},
		} {
			raw := tokenWith(nil, tt.changes)
			if tt.want != nil {
				refused(t, v, raw, tt.want, name)
			} else {
				accepted(t, v, raw)
			}
		}
	})
}

func TestClientOnly(t *testing.T) {
	for name, tt := range map[string]struct {
		claims jsonObject
		want   bool
	}{
		"a user":                          {nil, false},
		"RFC 9068: sub is client_id":      {jsonObject{"sub": "agent"}, true},
		"sub is azp":                      {jsonObject{"client_id": nil, "azp": "spa", "sub": "spa"}, true},
		"sub is azp, but not client_id":   {jsonObject{"azp": "spa", "sub": "spa"}, false},
		"no client at all":                {jsonObject{"client_id": nil}, false},
		"sub in another case":             {jsonObject{"sub": "Agent"}, false},
		"Auth0":                           {jsonObject{"sub": "agent@clients", "gty": "client-credentials"}, true},
		"the grant by its own name":       {jsonObject{"sub": "x", "gty": "client_credentials"}, true},
		"Auth0, another grant":            {jsonObject{"gty": "password"}, false},
		"gty a list":                      {jsonObject{"gty": []string{"client-credentials"}}, false},
		"Entra":                           {jsonObject{"sub": "0a1b", "idtyp": "app"}, true},
		"Entra, a user":                   {jsonObject{"idtyp": "user"}, false},
		"Keycloak's name, any user's too": {jsonObject{"preferred_username": "service-account-agent"}, false},
		"a client with an actor":          {jsonObject{"sub": "agent", "act": jsonObject{"sub": "gateway"}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, v *Verifier) {
				if id := accepted(t, v, tokenWith(nil, tt.claims)); id.ClientOnly != tt.want {
					t.Errorf("got %v for %v", id.ClientOnly, id.Claims)
				}
			})
		})
	}
}
