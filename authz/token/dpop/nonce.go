package dpop

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"time"

	"github.com/sallyport/sallyport/authz/token/internal/jose"
)

// nonces issues and recognises nonces (RFC 9449 §8 and §9) without remembering any: a nonce is its time of issue and a
// MAC of it. All clients may get the same one; what it proves is when a proof was made.
type nonces struct {
	key      []byte
	lifetime time.Duration
}

const (
	timeBytes = 8
	macBytes  = 16
)

func (n *nonces) issue(now time.Time) string {
	at := binary.BigEndian.AppendUint64(nil, uint64(now.Unix()))
	return base64.RawURLEncoding.EncodeToString(append(at, n.mac(at)...))
}

func (n *nonces) mac(at []byte) []byte {
	h := hmac.New(sha256.New, n.key)
	h.Write(at)
	return h.Sum(nil)[:macBytes]
}

// valid recognises a nonce that has been issued within the lifetime. A replica's clock may be ahead of ours.
func (n *nonces) valid(nonce string, now time.Time, ahead time.Duration) bool {
	b, err := jose.Segment(nonce)
	if err != nil || len(b) != timeBytes+macBytes || !hmac.Equal(b[timeBytes:], n.mac(b[:timeBytes])) {
		return false
	}
	age := now.Sub(time.Unix(int64(binary.BigEndian.Uint64(b)), 0))
	return age <= n.lifetime && age >= -ahead
}
