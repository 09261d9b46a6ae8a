package token

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"sync"
	"sync/atomic"
	"time"
)

// Identity is whom a verified token speaks for. It is shared between requests: read it, never change it.
type Identity struct {
	Issuer   string
	Subject  string
	ClientID string // client_id (RFC 9068 §2.2), else azp; "" when the token names neither
	// ClientOnly is set when no user stands behind the token: sub is the client's own identifier, as RFC 9068 §2.2
	// wants it after the client credentials grant, or a claim says so (gty of Auth0, idtyp of Microsoft Entra). Servers
	// that mark such tokens in another way, as Keycloak does with the user names of its service accounts, leave it to
	// the policy, which has all claims.
	ClientOnly bool
	Actors     []string // sub of each act (RFC 8693 §4.1), outermost, the current actor, first
	Scopes     []string // scope, else scp
	Audience   []string
	JTI        string
	Issued     time.Time // iat; zero when the token does not say
	Expiry     time.Time
	// Binding is the key that the presenter has proven to hold; zero for a bearer token.
	Binding Binding
	Claims  map[string]any // the whole payload, or introspection answer; numbers are json.Number

	derive  sync.Mutex
	derived atomic.Pointer[any]
}

// Principal is a key of fixed length for the one who calls: issuer, subject and client. Two callers never share one.
func (id *Identity) Principal() string {
	var b []byte
	for _, field := range []string{id.Issuer, id.Subject, id.ClientID} {
		b = binary.BigEndian.AppendUint64(b, uint64(len(field)))
		b = append(b, field...)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// Derived returns one form of the identity that is costly to build, such as a policy engine's term. The first call
// builds it, the others get the same value; all callers must therefore pass the same build.
func (id *Identity) Derived(build func() any) any {
	if v := id.derived.Load(); v != nil {
		return *v
	}
	id.derive.Lock()
	defer id.derive.Unlock()
	if v := id.derived.Load(); v != nil {
		return *v
	}
	v := build()
	id.derived.Store(&v)
	return v
}
