package hub

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sallyport/sallyport/authz/token/dpop"
)

// Proofs remembers used DPoP proofs for all replicas (RFC 9449 §11.1). The server must not evict keys: a proof that it
// forgets early can be used again.
func (r *Redis) Proofs() dpop.Replays { return redisProofs{r.client, r.now} }

type redisProofs struct {
	client redis.Cmdable
	now    func() time.Time
}

// proofGrace is what a proof is remembered for beyond its time, as the clocks of replicas differ: what one no longer takes,
// another still may.
const proofGrace = time.Minute

// Use implements dpop.Replays. The time is sent as a duration, so that the server's own clock does not matter.
func (p redisProofs) Use(ctx context.Context, thumbprint, jti string, until time.Time) (first bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, redisTimeout)
	defer cancel()
	sum := sha256.Sum256([]byte(thumbprint + " " + jti)) // a thumbprint has no space
	life := max(until.Sub(p.now()), 0) + proofGrace
	first, err = p.client.SetNX(ctx, redisPrefix+"proof:"+hex.EncodeToString(sum[:]), 1, life).Result()
	return first, storeError(err)
}
